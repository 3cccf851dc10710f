"""Figure 1 of the paper: the clips by mean audio and mean visual confidence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.discrepancy import HEATMAP_BINS, Counts, heatmap
from avbench.analysis.presenting.figures.plan import Drawing, Plan, confidences, title_of
from avbench.analysis.presenting.figures.style import COLUMN, INK, SIDE_COLOURS, drawing, new_figure, titled
from avbench.analysis.presenting.figures.words import clips_text, count_text, share_text, whole_ticks
from avbench.analysis.reading.results import Results

# Viridis is perceptually even and safe for colour-blind readers; dark is many, so that it prints on white paper. Its
# palest fifth is left out: one clip in a cell must differ from none, which is white.
_HEATMAP_COLOURS = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.2, 1.0, 256)))

# A cell of the heatmap is as large as a full stop. Of as many cells as this each that holds clips is drawn as a circle
# instead, with a diameter in points between these, its area by the number of clips.
_MOST_CIRCLES = 1000
_SMALLEST_CIRCLE, _LARGEST_CIRCLE = (2.0, 4.2), 10.0


def draw_heatmap(counts: Counts, *, audio_clips: int, visual_clips: int, ties: int, title: str) -> Figure:
    """The clips of a split in the square of mean audio and mean visual confidence, with both marginal histograms.

    counts: int [100, 100], row u_visual, column u_audio, as discrepancy.heatmap counts them.
    audio_clips, visual_clips, ties: how many clips lie below, above and exactly on the diagonal (which a cell on the
    diagonal does not tell).
    Panels, in order: the square, the histogram of u_audio above it, that of u_visual beside it, the colour scale.
    """
    total = audio_clips + visual_clips + ties
    with drawing():
        # Places are given: the histograms must have the very width and height of a square that keeps its shape.
        height = 4.4
        figure = new_figure(COLUMN, height)
        figure.set_layout_engine("none")

        def place(left: float, bottom: float, width: float, tall: float) -> Axes:
            return figure.add_axes((left / COLUMN, bottom / height, width / COLUMN, tall / height))

        left, bottom, side, margin, gap = 0.56, 0.95, 2.29, 0.4, 0.05
        square = place(left, bottom, side, side)
        image = square.imshow(
            np.ma.masked_equal(counts, 0),
            origin="lower",
            extent=(0, 1, 0, 1),
            cmap=_HEATMAP_COLOURS,
            norm=LogNorm(vmin=1, vmax=max(int(counts.max()), 2)),
            interpolation="nearest",
        )
        _draw_circles(square, counts, norm=image.norm)
        # Two colours show on pale and on dark cells; a line of a third of a cell hides none.
        square.plot([0, 1], [0, 1], color=INK, gapcolor="white", linewidth=0.6, linestyle=(0, (4, 3)))
        square.set(xlim=(0, 1), ylim=(0, 1))
        square.set_xlabel("mean audio confidence  $u_\\mathrm{audio}$", parse_math=True)
        square.set_ylabel("mean visual confidence  $u_\\mathrm{visual}$", parse_math=True)
        square.spines[["top", "right"]].set_visible(True)
        above = place(left, bottom + side + gap, side, margin)
        beside = place(left + side + gap, bottom, margin, side)
        _draw_marginal(above, counts.sum(axis=0), "audio", upright=True)
        _draw_marginal(beside, counts.sum(axis=1), "visual", upright=False)
        above.set_title(share_text("▲ visual-preferred", visual_clips, total), loc="left", pad=6)
        above.set_title(share_text("▼ audio-preferred", audio_clips, total), loc="right", pad=6)
        beside.get_xticklabels()[0].set_horizontalalignment("right")  # a long number would leave the picture
        ends = f", {ties:,} exactly equal" if ties else ""
        titled(figure, title, below=f"{clips_text(total)}{ends}")
        bar = figure.colorbar(image, cax=place(left, 0.42, side, 0.08), orientation="horizontal")
        bar.set_label(f"clips in a cell of {1 / HEATMAP_BINS:g} × {1 / HEATMAP_BINS:g} (blank: none)")
        bar.minorticks_off()
        ticks = whole_ticks(max(int(counts.max()), 2))
        bar.set_ticks(ticks, labels=[count_text(tick) for tick in ticks])
    return figure


def _draw_circles(square: Axes, counts: Counts, *, norm: Any) -> None:
    """A circle in the middle of every cell that holds clips, where these cells are few; nothing where they are many."""
    rows, columns = np.nonzero(counts)
    if not 0 < len(rows) <= _MOST_CIRCLES:
        return
    clips = counts[rows, columns]
    smallest = float(np.clip(60 / np.sqrt(len(rows)), *_SMALLEST_CIRCLE))
    largest = min(_LARGEST_CIRCLE, smallest * np.sqrt(clips.max()))
    share = (clips - 1) / max(1, clips.max() - 1)
    areas = smallest**2 + share * (largest**2 - smallest**2)
    order = np.argsort(-clips, kind="stable")  # the small ones on top of the large ones
    square.scatter(
        (columns[order] + 0.5) / HEATMAP_BINS, (rows[order] + 0.5) / HEATMAP_BINS, s=areas[order], c=clips[order],
        cmap=_HEATMAP_COLOURS, norm=norm, edgecolors="white", linewidths=0.25, clip_on=False, zorder=2.5,
    )  # fmt: skip


def _draw_marginal(axes: Axes, counts: Counts, modality: str, *, upright: bool) -> None:
    edges = np.linspace(0, 1, HEATMAP_BINS + 1)
    axes.stairs(
        counts, edges, fill=True, color=SIDE_COLOURS[modality], orientation="vertical" if upright else "horizontal"
    )
    largest = int(counts.max())
    along, across = (axes.xaxis, axes.yaxis) if upright else (axes.yaxis, axes.xaxis)
    along.set_major_locator(FixedLocator([]))
    across.set_major_locator(FixedLocator([largest]))
    across.set_major_formatter(FuncFormatter(count_text))
    if upright:
        axes.set(xlim=(0, 1), ylim=(0, max(largest, 1)))
    else:
        axes.set(ylim=(0, 1), xlim=(0, max(largest, 1)))
    across.set_label_text("clips")


def plans_of_heatmap(evaluation: Evaluation, results: Results) -> Iterator[Plan]:
    """One figure of all evaluated clips."""
    discrepancies = results.discrepancies
    yield Plan(
        "heatmap",
        partial(
            draw_heatmap,
            heatmap(*confidences(results)),
            audio_clips=int((discrepancies > 0).sum()),
            visual_clips=int((discrepancies < 0).sum()),
            ties=int((discrepancies == 0).sum()),
            title=title_of(evaluation),
        ),
        alt="Heatmap of mean audio confidence against mean visual confidence of every evaluated clip, with histograms",
        caption="Each cell counts the clips with these mean confidences of the audio and of the visual network; the "
        "colour scale is logarithmic. Where few cells hold clips, each is a circle, the larger the more clips. Clips "
        "below the diagonal prefer audio, clips above it vision. The histograms add up columns and rows.",
    )


HEATMAP = Drawing("data", plans_of_heatmap)
