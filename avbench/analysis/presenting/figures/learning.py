"""The figure of learning curves: loss and accuracy by epoch, a column a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.discrepancy import Counts, Floats
from avbench.analysis.measures.learning import Learning, by_run, mean_and_spread
from avbench.analysis.presenting.figures.plan import Drawing, Plan
from avbench.analysis.presenting.figures.style import (
    INK,
    PAGE,
    SOFT,
    drawing,
    laid_out,
    legend_below,
    new_figure,
    say_empty,
    short,
    shortened,
    titled,
)

# Runs in one figure, at most, in rows of so many: more are drawn in further figures.
RUNS_A_FIGURE, _ABREAST = 8, 4
_MOST_MARKED = 25  # epochs up to which each has a marker


@dataclass(frozen=True, slots=True)
class _Look:
    colour: str
    dashes: Any
    marker: str


# Neither modality's colour: these lines are of any network.
_TRAIN, _VAL = _Look(SOFT, (0, (5, 1.6)), ""), _Look("#009E73", "solid", "o")
_PANELS = (("loss", "loss", "val_loss", 1), ("accuracy (%)", "accuracy", "val_accuracy", 100))


def draw_learning(runs: Mapping[str, Sequence[Learning]], *, title: str) -> Figure:
    """Loss (above) and accuracy (below) by epoch, on train and validation, the mean over seeds with its deviation.

    runs: at most RUNS_A_FIGURE, each with its seeds; a column of two panels each. A dotted line and a diamond stand at
    the epoch that was chosen of each seed. Panels of accuracy share one axis, since methods are compared there; losses
    of different methods are sums of different terms.
    """
    abreast = min(_ABREAST, len(runs))
    blocks = -(-len(runs) // _ABREAST)
    names = shortened(runs, 20)
    with drawing():
        figure = new_figure(max(3.4, PAGE * abreast / _ABREAST), 0.75 + 2.45 * blocks)
        titled(figure, title)
        grid = figure.subplots(2 * blocks, abreast, squeeze=False, sharex=False)
        for place, (run, seeds) in enumerate(runs.items()):
            block, column = divmod(place, _ABREAST)
            above, below = grid[2 * block, column], grid[2 * block + 1, column]
            above.set_title(f"{names[run]}\n{_seeds_text(seeds)}")
            for axes, (words, train, val, scale) in zip((above, below), _PANELS, strict=True):
                _draw_panel(axes, seeds, train=train, val=val, scale=scale)
                if column == 0:
                    axes.set_ylabel(words)
            below.set_xlabel("epoch")
        for row in grid:
            for axes in row:
                axes.set_visible(axes.has_data() or bool(axes.texts))
        _share_accuracies([axes for row in grid[1::2] for axes in row if axes.lines])
        figure.align_ylabels(grid[:, 0])
        several = any(len(seeds) > 1 for seeds in runs.values())
        legend_below(figure, _keys(several=several), longest=24)
        return laid_out(figure)


def _seeds_text(seeds: Sequence[Learning]) -> str:
    diverged = sum(one.ending == "diverged" for one in seeds)
    if len(seeds) == 1:
        return f"seed {seeds[0].seed}" + (", diverged" if diverged else "")
    return f"{len(seeds)} seeds" + (f", {diverged} diverged" if diverged else "")


def _draw_panel(axes: Axes, seeds: Sequence[Learning], *, train: str, val: str, scale: float) -> None:
    axes.grid(axis="y")
    drawn = [
        _draw_line(axes, *mean_and_spread(seeds, curve), scale=scale, look=look)
        for curve, look in ((train, _TRAIN), (val, _VAL))
    ]
    values = np.concatenate(drawn)
    if not len(values):
        say_empty(axes, "no epoch was finished")
        axes.set(xticks=[], yticks=[])
        return
    last = max(int(one.epochs[-1]) for one in seeds if len(one.epochs))
    axes.set_xlim(*((-0.5, 0.5) if last == 0 else (-0.02 * last, 1.02 * last)))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    for one in seeds:
        if one.best is not None:
            axes.axvline(one.best, color=SOFT, linewidth=0.7, linestyle=(0, (1, 2)), zorder=1)
            place = int(np.searchsorted(one.epochs, one.best))
            axes.plot(
                one.best, scale * one.curves[val][place], linestyle="none", marker="D", markersize=3.6,
                markerfacecolor="white", markeredgecolor=INK, markeredgewidth=0.9, zorder=4, clip_on=False,
            )  # fmt: skip
    if scale == 1:
        _scale_losses(axes, values)


def _draw_line(axes: Axes, epochs: Counts, mean: Floats, spread: Floats, *, scale: float, look: _Look) -> Floats:
    """A line with its band; returns the finite values that it goes through."""
    known = np.isfinite(mean)
    if not known.any():
        return np.zeros(0)
    axes.fill_between(
        epochs, scale * (mean - spread), scale * (mean + spread), color=look.colour, alpha=0.22, linewidth=0, zorder=1
    )
    axes.plot(
        epochs, scale * mean, color=look.colour, linestyle=look.dashes, linewidth=1.1,
        marker=look.marker if len(epochs) > 1 or look.marker else "s", markersize=2.2,
        markevery=max(1, len(epochs) // _MOST_MARKED), zorder=3,
    )  # fmt: skip
    return scale * mean[known]


def _scale_losses(axes: Axes, values: Floats) -> None:
    """A logarithmic axis where one loss would press all others flat, as one that diverges does."""
    if values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if values.max() < 3000 * values.min() else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))


def _share_accuracies(panels: Sequence[Axes]) -> None:
    """One axis for all these panels of accuracy, from 0 to the highest that is drawn."""
    top = max((np.nanmax(line.get_ydata()) for axes in panels for line in axes.lines[:1] + axes.lines[1:2]), default=1)
    for axes in panels:
        axes.set_ylim(0, min(100.0, 1.12 * max(float(top), 1.0)))
        axes.yaxis.set_major_locator(MaxNLocator(4))


def _keys(*, several: bool) -> list[Artist]:
    keys: list[Artist] = [
        Line2D([], [], color=look.colour, linestyle=look.dashes, marker=look.marker, markersize=2.2, linewidth=1.1,
               label=label)
        for label, look in (("train", _TRAIN), ("validation", _VAL))
    ]  # fmt: skip
    if several:
        keys.append(Patch(facecolor=SOFT, alpha=0.3, linewidth=0, label="± deviation over seeds"))
    keys.append(
        Line2D([], [], linestyle="none", marker="D", markersize=3.6, markerfacecolor="white", markeredgecolor=INK,
               markeredgewidth=0.9, label="chosen epoch")
    )  # fmt: skip
    return keys


def plans_of_learning(evaluation: Evaluation) -> Iterator[Plan]:
    """As many figures as the runs need."""
    begun = [one for one in evaluation.learning if len(one.epochs)]  # what diverged before is in the table alone
    runs = by_run(begun, evaluation.table.methods)
    several = any(len(seeds) > 1 for seeds in runs.values())
    for first in range(0, len(runs), RUNS_A_FIGURE):
        some = dict(list(runs.items())[first : first + RUNS_A_FIGURE])
        number = first // RUNS_A_FIGURE + 1
        yield Plan(
            "learning" if number == 1 else f"learning-{number}",
            partial(draw_learning, some, title=f"{short(evaluation.dataset, 30)}: how each run learnt"),
            alt=f"Curves of loss and accuracy on train and validation by epoch, {number}",
            caption="Loss and accuracy of each epoch on train (as it was trained, dashed) and on validation"
            + (", the mean over the seeds that got so far ± their standard deviation" if several else "")
            + ". Diamonds and dotted lines: the epoch with the highest validation accuracy"
            + (" of each seed" if several else "")
            + ", whose network is the one that is evaluated. Epochs are counted from 0; losses of different methods "
            "are of different terms.",
        )


LEARNING = Drawing("learning", lambda evaluation, results: plans_of_learning(evaluation))
