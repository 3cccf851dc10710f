"""The distribution of the discrepancy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.discrepancy import Floats, subsets
from avbench.analysis.presenting.figures.plan import Drawing, Plan, title_of
from avbench.analysis.presenting.figures.style import (
    COLUMN,
    INK,
    SIDE_COLOURS,
    SIDE_HATCHES,
    drawing,
    laid_out,
    new_figure,
    titled,
)
from avbench.analysis.presenting.figures.words import count_text, share_text
from avbench.analysis.reading.results import Results


def draw_distribution(distributions: Mapping[str, Floats], *, thresholds: Sequence[float], title: str) -> Figure:
    """Histograms of the modality discrepancy, one below the other on the same axis, with lines at each +-T.

    distributions: by what it is called ("estimated", "planted"), (M,) in [-1, 1].
    """
    edges = np.linspace(-1, 1, 81)
    with drawing():
        figure = new_figure(COLUMN, 0.7 + 1.35 * len(distributions))
        titled(figure, title)
        column = figure.subplots(len(distributions), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(column, distributions.items(), strict=True):
            for side, mask in subsets(values, 0.0).items():
                # An exact zero opens a bin of the audio half; it is drawn apart, on top.
                counts, _ = np.histogram(values[mask], edges)
                below = np.histogram(values[values > 0], edges)[0] if side == "tie" else np.zeros(len(counts))
                axes.stairs(
                    counts + below, edges, baseline=below, fill=True, facecolor=SIDE_COLOURS[side], edgecolor="white",
                    hatch=SIDE_HATCHES[side], linewidth=0, label=side,
                )  # fmt: skip
            _draw_threshold_marks(axes, thresholds)
            axes.set(xlim=(-1, 1), xticks=np.linspace(-1, 1, 5), ylabel="clips")
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_formatter(FuncFormatter(count_text))
            shares = subsets(values, 0.0)
            axes.set_title(share_text("visual-preferred", int(shares["visual"].sum()), len(values)), loc="left")
            axes.set_title(share_text("audio-preferred", int(shares["audio"].sum()), len(values)), loc="right")
            if len(distributions) > 1:
                axes.set_title(name, loc="center")
        column[-1].set_xlabel("modality discrepancy  $u_\\mathrm{audio} - u_\\mathrm{visual}$", parse_math=True)
        return laid_out(figure)


def _draw_threshold_marks(axes: Axes, thresholds: Sequence[float]) -> None:
    top = axes.get_ylim()[1]
    axes.set_ylim(0, 1.12 * top if top > 0 else 1)
    for threshold in thresholds:
        for place in {threshold, -threshold}:
            axes.axvline(place, color=INK, linewidth=0.7, linestyle="solid" if place == 0 else (0, (3, 2)))
        axes.text(
            threshold, 1.11 * top, f" {threshold:g}", ha="left", va="top", fontsize=7,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.8},
        )  # fmt: skip


def plans_of_distribution(evaluation: Evaluation, results: Results) -> Iterator[Plan]:
    """One figure, of planted discrepancies too where there are any."""
    planted = {} if results.planted is None else {"planted": results.planted[~np.isnan(results.planted)]}
    yield Plan(
        "discrepancy",
        partial(
            draw_distribution,
            {"estimated": results.discrepancies, **planted},
            thresholds=evaluation.table.thresholds,
            title=title_of(evaluation),
        ),
        alt="Histogram of the modality discrepancy",
        caption="How many clips have which discrepancy, audio minus visual confidence. Dashed lines stand at plus and "
        "minus each threshold T (numbered): clips beyond them are dominated by one modality."
        + (" Below, the true discrepancy of the planted clips." if planted else ""),
    )


DISTRIBUTION = Drawing("data", plans_of_distribution)
