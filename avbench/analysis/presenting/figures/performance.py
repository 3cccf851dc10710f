"""How fast trainings ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.discrepancy import Floats
from avbench.analysis.measures.performance import DRAWN, QUANTITIES, Course, course
from avbench.analysis.presenting.figures.curve import MOST_POINTS, draw_curve, thinned
from avbench.analysis.presenting.figures.plan import Drawing, Plan
from avbench.analysis.presenting.figures.style import (
    PAGE,
    LineStyle,
    drawing,
    laid_out,
    legend_below,
    line_key,
    line_styles,
    new_figure,
    short,
    shortened,
    titled,
)
from avbench.analysis.presenting.figures.words import on_two_lines
from avbench.analysis.reading.results import Results


def draw_performance(trainings: Mapping[str, Course], *, title: str) -> Figure:
    """How fast trainings ran over their epochs: a panel a quantity, a line a training, broken between launches.

    trainings: per run folder its course. Where a quantity was never measured, it has no panel.
    """
    measured = [one for one in QUANTITIES if one.name in DRAWN and any(one.name in each for each in trainings.values())]
    names = shortened(trainings)
    styles = line_styles(list(names), unimodal={})
    with drawing():
        figure = new_figure(PAGE, 0.75 + 1.2 * len(measured))
        titled(figure, title)
        (panels,) = figure.subplots(len(measured), 1, sharex=True, squeeze=False).T
        for axes, quantity in zip(panels, measured, strict=True):
            for training, lines in trainings.items():
                _draw_course(axes, lines.get(quantity.name, ()), style=styles[training])
            axes.grid(axis="y")
            axes.set_ylabel(on_two_lines(quantity.heading, 12))
            axes.set_ylim(0, 100 if quantity.heading.endswith("(%)") else None)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        panels[-1].set_xlabel("epoch")
        panels[-1].set_xlim(0, None)
        panels[-1].xaxis.set_major_locator(MaxNLocator(5, integer=panels[-1].get_xlim()[1] > 2))
        figure.align_ylabels(panels)
        keys = [line_key(names[training], styles[training]) for training in trainings if len(trainings) > 1]
        legend_below(figure, keys, longest=max(map(len, names.values()), default=0))
        return laid_out(figure)


def _draw_course(axes: Axes, launches: Sequence[tuple[Floats, Floats]], *, style: LineStyle) -> None:
    """A line a launch, all as coarse, and a dotted line where each but the first begins."""
    points = sum(len(x) for x, _ in launches)
    for number, (x, values) in enumerate(launches):
        draw_curve(axes, *thinned(x, values, most=max(1, MOST_POINTS * len(x) // points)), style=style)
        if number:
            axes.axvline(x[0], color=style.colour, linestyle=(0, (1, 2)), linewidth=0.8)


def plans_of_performance(evaluation: Evaluation, results: Results) -> Iterator[Plan]:
    """One figure, where any training logged how fast it ran."""
    if evaluation.speeds:
        yield Plan(
            "performance",
            partial(
                draw_performance,
                {name: course(records) for name, records in results.performance.items()},
                title=f"{short(evaluation.dataset, 30)}: how fast it trained",
            ),
            alt="Clips a second and shares of time over the epochs of training",
            caption="All ranks together, logging interval by logging interval. At a dotted line the training was "
            "launched again; the first interval of each launch is left out.",
        )


PERFORMANCE = Drawing("performance", plans_of_performance)
