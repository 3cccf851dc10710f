"""Accuracy of every run by subset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.accuracy import subset_name
from avbench.analysis.measures.metrics import ACCURACY
from avbench.analysis.measures.statistics import is_few
from avbench.analysis.notes import FEW_NOTE
from avbench.analysis.presenting.figures.plan import Drawing, Plan, title_of
from avbench.analysis.presenting.figures.style import (
    INK,
    PAGE,
    SIDE_COLOURS,
    SOFT,
    drawing,
    laid_out,
    new_figure,
    say_empty,
    shortened,
    titled,
)
from avbench.analysis.presenting.figures.words import clips_text
from avbench.vocabulary import MODALITIES


@dataclass(frozen=True, slots=True)
class Bar:
    """One run's accuracy on one subset, in [0, 1], with its interval; all None where the subset is empty.

    modality: of a unimodal network, which one it reads; None for every other run.
    """

    run: str
    modality: str | None
    accuracy: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class BarPanel:
    """One subset: its side ("overall", "audio", "visual"), its name, how many clips it has, a bar a run."""

    side: str
    name: str
    clips: int
    bars: tuple[Bar, ...]


def draw_bars(panels: Sequence[BarPanel], *, title: str) -> Figure:
    """Accuracy of every run, a panel a subset, a bar a run, with intervals.

    All panels hold the same runs in the same order, unimodal networks first. The dashed line of a panel is the better
    unimodal network there: what a multimodal method has to pass.
    """
    with drawing():
        runs = len(panels[0].bars)
        figure = new_figure(PAGE, 0.85 + 0.19 * runs)
        titled(figure, title)
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        tops = [bar.high for panel in panels for bar in panel.bars if bar.high is not None]
        right = 100 * min(1.0, max(tops, default=1.0))
        for axes, panel in zip(row, panels, strict=True):
            _draw_bar_panel(axes, panel)
            axes.set(xlim=(0, 1.24 * right), ylim=(runs - 0.4, -0.6), xlabel="accuracy (%)")
            # Ticks end where accuracies do; the room beyond is for numbers.
            axes.set_xticks([tick for tick in MaxNLocator(4).tick_values(0, right) if tick <= min(100, 1.05 * right)])
        row[0].set_yticks(range(runs), list(shortened((bar.run for bar in panels[0].bars), 24).values()))
        for axes in row:
            axes.tick_params(axis="y", length=0)
        return laid_out(figure)


def _draw_bar_panel(axes: Axes, panel: BarPanel) -> None:
    few = " †" if panel.clips and is_few(panel.clips) else ""
    axes.set_title(f"{panel.name}\n{clips_text(panel.clips)}{few}", color=INK)
    axes.grid(axis="x")
    known = [
        (place, bar, bar.accuracy, bar.low, bar.high)
        for place, bar in enumerate(panel.bars)
        if bar.accuracy is not None and bar.low is not None and bar.high is not None
    ]
    if not known:
        say_empty(axes, "no clips")
    for place, bar, accuracy, low, high in known:
        unimodal = bar.modality is not None
        axes.barh(
            place,
            100 * accuracy,
            height=0.68,
            facecolor="white" if unimodal else SIDE_COLOURS[panel.side],
            edgecolor=SOFT if unimodal else SIDE_COLOURS[panel.side],
            hatch="//////" if unimodal else "",
            linewidth=0.6,
        )
        axes.plot([100 * low, 100 * high], [place, place], color=INK, linewidth=1.0, solid_capstyle="butt")
        # A column of numbers at the right edge, where no bar, interval or line runs through them.
        axes.text(
            1, place, f"{100 * accuracy:.1f}", transform=axes.get_yaxis_transform(), va="center", ha="right", fontsize=7
        )
    best = [accuracy for _, bar, accuracy, _, _ in known if bar.modality is not None]
    if best:
        axes.axvline(100 * max(best), color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=3)


def plans_of_accuracy(evaluation: Evaluation) -> Iterator[Plan]:
    """A figure a threshold."""
    to_pass = (
        " Hatched: unimodal networks. The dashed line is the better of the two; a method answers the question with yes "
        "where its bars pass the line on both sides."
    )
    for threshold in evaluation.table.thresholds:
        panels = _bar_panels(evaluation, threshold)
        yield Plan(
            f"methods-{threshold:g}",
            partial(
                draw_bars,
                panels,
                title=f"{title_of(evaluation)}: accuracy by subset, T = {threshold:g}",
            ),
            alt=f"Bar chart of accuracy by subset, T = {threshold:g}",
            caption=f"Accuracy at T = {threshold:g}, the mean over seeds, with its 95 % interval over clips."
            + (to_pass if evaluation.table.unimodal else "")
            + (f" {FEW_NOTE}" if any(is_few(panel.clips) for panel in panels) else ""),
        )


def _bar_panels(evaluation: Evaluation, threshold: float) -> list[BarPanel]:
    table, panels = evaluation.table, []
    for side in ("overall", *MODALITIES):
        bars = []
        for run in (*table.unimodal, *table.multimodal):
            cell = evaluation.metrics.cell(run, ACCURACY, side, threshold)
            bars.append(Bar(run, table.modality_of.get(run), cell.value, cell.low, cell.high))
        panels.append(BarPanel(side, subset_name(side, threshold), table.clips(side, threshold), bars=tuple(bars)))
    return panels


BARS = Drawing("accuracy", lambda evaluation, results: plans_of_accuracy(evaluation))
