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
from avbench.analysis.presenting.figures.class_scatters import ClassCloud, draw_class_scatters
from avbench.analysis.presenting.figures.plan import Plan, confidences, title_of
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
from avbench.analysis.presenting.figures.words import count_text
from avbench.analysis.presenting.folder import CLASSES_FILE
from avbench.analysis.reading.results import Results

# As many names as can be read one below the other, and small squares in two rows.
_CLASS_BARS, _CLASS_SQUARES = 24, 12


def plans_of_classes(evaluation: Evaluation, results: Results) -> Iterator[Plan]:
    """The figures of classes: their counts, and the clips of some of them."""
    bars, squares = (select_classes(evaluation.classes, most=most) for most in (_CLASS_BARS, _CLASS_SQUARES))
    yield Plan(
        "classes",
        partial(draw_class_counts, bars, title=title_of(evaluation)),
        alt="Stacked bars of audio-preferred and visual-preferred clips of each class",
        caption=f"Clips by preferred modality, {_which_classes(bars)}.",
    )
    audio, visual = confidences(results)
    clouds = [
        ClassCloud(row.name, audio[results.labels == row.label], visual[results.labels == row.label])
        for _, members in squares.groups
        for row in members
    ]
    yield Plan(
        "class-confidences",
        partial(draw_class_scatters, clouds, title=title_of(evaluation)),
        alt="Small scatter plots of audio against visual confidence, one a class",
        caption="Each point is a clip: mean audio confidence to the right, mean visual confidence upwards; below the "
        f"diagonal it prefers audio (circles), above it vision (triangles). Shown: {_which_classes(squares)}.",
    )


def _which_classes(selection: Selection) -> str:
    if not selection.left_out:
        return "every class with clips, the most audio-sided first"
    counts = [len(members) for _, members in selection.groups]
    return (
        f"the {counts[0]} most audio-sided classes by share of clips, {counts[1]} at even distances in the order "
        f"between, and the {counts[2]} most visual-sided; {selection.left_out} more are in {CLASSES_FILE}"
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
