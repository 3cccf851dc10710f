"""Classes by the sides of their clips."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.classes import Selection, select_classes
from avbench.analysis.measures.discrepancy import Floats
from avbench.analysis.presenting.figures.plan import Drawing, Plan, title_of
from avbench.analysis.presenting.figures.style import (
    COLUMN,
    SIDE_COLOURS,
    SIDE_HATCHES,
    SOFT,
    drawing,
    laid_out,
    new_figure,
    shortened,
    titled,
)
from avbench.analysis.presenting.figures.words import count_text, which_classes

_MOST_BARS = 24  # as many names as can be read one below the other


def plans_of_class_counts(evaluation: Evaluation) -> Iterator[Plan]:
    """One figure of as many classes as can be read."""
    bars = select_classes(evaluation.classes, most=_MOST_BARS)
    yield Plan(
        "classes",
        partial(draw_class_counts, bars, title=title_of(evaluation)),
        alt="Stacked bars of audio-preferred and visual-preferred clips of each class",
        caption=f"Clips by preferred modality, {which_classes(bars)}.",
    )


def draw_class_counts(selection: Selection, *, title: str) -> Figure:
    """Audio-preferred, tied and visual-preferred clips of each selected class, stacked; most audio-sided first."""
    rows = [row for _, members in selection.groups for row in members]
    with drawing():
        figure = new_figure(COLUMN, 0.95 + 0.155 * len(rows) + 0.2 * len(selection.groups))
        titled(figure, title)
        places = _grouped_places(selection)
        axes = figure.subplots()
        starts = np.zeros(len(rows))
        for side in ("audio", "tie", "visual"):
            counts = np.array([{"audio": row.audio, "tie": row.tied, "visual": row.visual}[side] for row in rows])
            axes.barh(
                places, counts, left=starts, height=0.74, facecolor=SIDE_COLOURS[side], edgecolor="white",
                hatch=SIDE_HATCHES[side], linewidth=0,
            )  # fmt: skip
            starts += counts
        axes.set_yticks(places, list(shortened((row.name for row in rows), 26).values()))
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel="clips", ylim=(places[-1] + 0.6, -0.6 - (len(selection.groups) > 1)))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(count_text))
        axes.grid(axis="x")
        if len(selection.groups) > 1:
            start = 0
            for name, members in selection.groups:
                axes.annotate(
                    name, (0, places[start] - 0.55), xytext=(3, 0), textcoords="offset points", fontsize=7, color=SOFT,
                    va="bottom", style="italic",
                )  # fmt: skip
                start += len(members)
        _side_legend(figure, ties=any(row.tied for row in rows))
        return laid_out(figure)


def _grouped_places(selection: Selection) -> Floats:
    """Where each class's bar is: 1 apart, one more between groups for the next group's name."""
    sizes = [len(members) for _, members in selection.groups]
    gaps = np.repeat(np.arange(len(sizes)) * 1.0, sizes)
    return np.arange(sum(sizes), dtype=np.float64) + gaps


def _side_legend(figure: Figure, *, ties: bool) -> None:
    names = {"audio": "audio-preferred", "tie": "tied", "visual": "visual-preferred"}
    handles = [
        Patch(facecolor=SIDE_COLOURS[side], hatch=SIDE_HATCHES[side], edgecolor="white", linewidth=0, label=name)
        for side, name in names.items()
        if ties or side != "tie"
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.6, columnspacing=1.2)


CLASS_COUNTS = Drawing("classes", lambda evaluation, results: plans_of_class_counts(evaluation))
