"""The figures, drawn from arrays: PNG for reading, SVG for papers. The same input gives the same bytes."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from avbench.analysis.discrepancy import HEATMAP_BINS, Counts

# Viridis is perceptually even and safe for colour-blind readers; dark is many, so that it prints on white paper. Its
# palest fifth is left out: one clip in a cell must differ from none, which is white.
_COLOURS = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.2, 1.0, 256)))
# Places in the figure as fractions: left, bottom, width, height. A layout that is computed draws everything twice.
_SIZE_INCHES = (5.8, 5.2)
_SQUARE = (0.105, 0.1, 0.68, 0.68 * _SIZE_INCHES[0] / _SIZE_INCHES[1])
_SCALE = (0.815, 0.16, 0.03, 0.67)
_STYLE: Any = {"font.size": 9.0, "font.family": "DejaVu Sans", "axes.linewidth": 0.6, "svg.hashsalt": "avbench"}


def draw_heatmap(counts: Counts, *, audio_clips: int, visual_clips: int, ties: int, title: str) -> Figure:
    """The clips of a split in the square of mean audio and mean visual confidence.

    counts: int [100, 100], row u_visual, column u_audio, as discrepancy.heatmap counts them.
    audio_clips, visual_clips, ties: how many clips lie below, above and exactly on the diagonal (which a cell on the
    diagonal does not tell).
    """
    total = audio_clips + visual_clips + ties
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_INCHES)
        FigureCanvasAgg(figure)
        axes = figure.add_axes(_SQUARE)
        image = axes.imshow(
            np.ma.masked_equal(counts, 0),
            origin="lower",
            extent=(0, 1, 0, 1),
            cmap=_COLOURS,
            norm=LogNorm(vmin=1, vmax=max(int(counts.max()), 2)),
            interpolation="nearest",
        )
        axes.plot([0, 1], [0, 1], color="white", linewidth=1.4)  # a margin, so that the diagonal shows on dark cells
        axes.plot([0, 1], [0, 1], color="0.2", linewidth=0.7, linestyle=(0, (4, 3)))
        axes.set(
            xlim=(0, 1),
            ylim=(0, 1),
            xlabel="audio confidence  $u_\\mathrm{audio}$  (mean probability of the true label)",
            ylabel="visual confidence  $u_\\mathrm{visual}$  (mean probability of the true label)",
        )
        axes.set_title(_share("▲ visual-preferred", visual_clips, total), loc="left", fontsize=8.5)
        axes.set_title(_share("▼ audio-preferred", audio_clips, total), loc="right", fontsize=8.5)
        ends = f", {ties:,} exactly equal" if ties else ""
        figure.suptitle(f"{title}: {total:,} clips{ends}", fontsize=10.5, y=0.985)
        bar = figure.colorbar(image, cax=figure.add_axes(_SCALE))
        bar.set_label(f"clips in a cell of {1 / HEATMAP_BINS:g} × {1 / HEATMAP_BINS:g} (white: none)")
        bar.minorticks_off()
        ticks = _whole_ticks(max(int(counts.max()), 2))
        bar.set_ticks(ticks, labels=[f"{tick:,}" for tick in ticks])
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as PNG, 200 dots an inch."""
    return _saved(figure, "png", {"Software": None})


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, its letters as outlines, so that it looks the same everywhere."""
    return _saved(figure, "svg", {"Date": None, "Creator": None})


def _saved(figure: Figure, suffix: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format=suffix, dpi=200, metadata=metadata)
    return buffer.getvalue()


def _share(name: str, clips: int, total: int) -> str:
    return f"{name}\n{100 * clips / total:.1f} % ({clips:,})"


def _whole_ticks(largest: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to the largest count."""
    steps = [digit * 10**power for power in range(len(str(largest))) for digit in (1, 2, 5)]
    return [step for step in steps if step <= largest]
