"""What a run logged of itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from avbench.analysis.measures.discrepancy import Floats
from avbench.analysis.presenting.figures.curve import MOST_POINTS, draw_curve, thinned
from avbench.analysis.presenting.figures.plan import Drawing, Plan
from avbench.analysis.presenting.figures.style import (
    MARKERS,
    PAGE,
    SIDE_MARKERS,
    SOFT,
    LineStyle,
    drawing,
    laid_out,
    legend_below,
    line_key,
    line_styles,
    new_figure,
    say_empty,
    short,
    shortened,
    titled,
)
from avbench.analysis.reading.results import Results
from avbench.vocabulary import MODALITIES

_MOST_PANELS_ABREAST = 4


def draw_diagnostics(
    curves: Mapping[int, Mapping[str, Mapping[str, tuple[Floats, Floats]]]],
    *,
    title: str,
    explained: Mapping[str, str] = MappingProxyType({}),
) -> Figure:
    """What a method logged while it trained: a row of panels a group, a column a seed, a line a name.

    curves: per seed, group and name (epochs, values), (M,) each: the mean over each logging interval, and its end.
    At most four seeds are drawn, the lowest.
    In a group that is on and off (see `is_on_and_off`) each name has a lane of its own, filled as high as the share.
    A name that is the only one of its group is said beside the group's: there is nothing to tell it from.
    explained: what the legend says of a name, where that is more than the name.
    """
    seeds = shown_seeds(curves)
    groups = list(dict.fromkeys(group for seed in seeds for group in curves[seed]))
    of_group = {
        group: list(dict.fromkeys(name for seed in seeds for name in curves[seed].get(group, {}))) for group in groups
    }
    names = {**shortened(dict.fromkeys(name for group in of_group.values() for name in group)), **explained}
    in_legend = dict.fromkeys(name for group in of_group.values() if len(group) > 1 for name in group)
    styles = _styles_of_names(list(dict.fromkeys(name for group in of_group.values() for name in group)))
    with drawing():
        figure = new_figure(PAGE, 0.75 + 1.2 * len(groups))
        titled(figure, title)
        grid = figure.subplots(len(groups), len(seeds), sharex="col", sharey="row", squeeze=False)
        for row, (group, words) in zip(grid, shortened(groups, 18).items(), strict=True):
            _draw_group(row, [curves[seed].get(group, {}) for seed in seeds], styles=styles)
            alone = [name for name in of_group[group] if name not in in_legend]
            row[0].set_ylabel("\n".join([words, *(short(name, 18) for name in alone)]))
        for axes, seed in zip(grid[0], seeds, strict=True):
            if len(curves) > 1:
                axes.set_title(f"seed {seed}")
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=axes.get_xlim()[1] > 2))
        figure.align_ylabels(grid[:, 0])
        keys = [line_key(names[name], styles[name]) for name in in_legend]
        legend_below(figure, keys, longest=max((len(names[name]) for name in in_legend), default=0))
        return laid_out(figure)


def _styles_of_names(names: Sequence[str]) -> dict[str, LineStyle]:
    """The modalities' colours and markers for them and their branches; every other name has another marker."""
    modality_of = {name: name.removesuffix("_branch") for name in names}
    unimodal = {name: modality for name, modality in modality_of.items() if modality in MODALITIES}
    markers = [marker for marker in MARKERS if marker not in {SIDE_MARKERS[name] for name in MODALITIES}]
    styles = line_styles(names, unimodal=unimodal)
    others = [name for name in names if name not in unimodal]
    return {
        **{name: replace(styles[name], dashes="solid", marker=SIDE_MARKERS[side]) for name, side in unimodal.items()},
        **{name: replace(styles[name], marker=markers[place % len(markers)]) for place, name in enumerate(others)},
    }


def shown_seeds(seeds: Iterable[int]) -> list[int]:
    """The seeds that have a column in the figure of a run's diagnostics: the lowest four."""
    return sorted(seeds)[:_MOST_PANELS_ABREAST]


def is_on_and_off(values: Iterable[Mapping[str, tuple[Floats, Floats]]]) -> bool:
    """Whether a group's curves, of one or more seeds, say for which share of an interval something was on.

    They do if no value leaves [0, 1] and one in ten or more is exactly 0, but not all, and they are not the parts of
    a whole, which add up to 1 everywhere: weights of which one is 0 are still weights.
    """
    curves = [[y for _, y in by_name.values()] for by_name in values if by_name]
    together = np.concatenate([y for of_seed in curves for y in of_seed]) if curves else np.zeros(0)
    if not together.any() or not ((together >= 0) & (together <= 1)).all() or (together == 0).mean() < 0.1:
        return False
    return not all(len({len(y) for y in of_seed}) == 1 and np.allclose(sum(of_seed), 1) for of_seed in curves)


def _draw_group(
    row: Sequence[Axes], values: Sequence[Mapping[str, tuple[Floats, Floats]]], *, styles: Mapping[str, LineStyle]
) -> None:
    """One group's panels, an element a seed; they share their vertical axis."""
    every = [y for by_name in values for _, y in by_name.values()]
    together = np.concatenate(every) if every else np.zeros(0)
    finite = together[np.isfinite(together)]
    names = list(dict.fromkeys(name for by_name in values for name in by_name))
    shares, most = is_on_and_off(values), MOST_POINTS // len(row)
    for axes, by_name in zip(row, values, strict=True):
        for name, (x, y) in by_name.items():
            if shares:
                _draw_lane(axes, *thinned(x, y, most=most), lane=names.index(name), colour=styles[name].colour)
            else:
                draw_curve(axes, *thinned(x, y, most=most), style=styles[name])
        if not any(np.isfinite(y).any() for _, y in by_name.values()):
            say_empty(axes, "no finite value")
    if shares:
        row[0].set_yticks(np.arange(len(names)) + 0.45, list(shortened(names, 14).values()))
        row[0].set_ylim(0, len(names))
        return
    for axes in row:
        axes.grid(axis="y")
    if not len(finite):
        row[0].set_yticks([])
    elif finite.min() > 0 and finite.max() > max(1, 100 * finite.min()):  # weights in [0, 1] stay on a plain axis
        row[0].set_yscale("log")
        row[0].yaxis.set_major_locator(LogLocator(subs=(1, 3) if finite.max() < 3000 * finite.min() else (1,)))
        row[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        row[0].yaxis.set_minor_locator(NullLocator())
    else:
        row[0].yaxis.set_major_locator(MaxNLocator(4))


def _draw_lane(axes: Axes, x: Floats, values: Floats, *, lane: int, colour: str) -> None:
    # The first interval begins one interval before its end.
    start = x[0] - (x[1] - x[0] if len(x) > 1 else x[0])
    edges = np.concatenate([[start], x])
    axes.stairs(lane + 0.9 * values, edges, baseline=lane, fill=True, color=colour, linewidth=0)
    axes.axhline(lane, color=SOFT, linewidth=0.5)


def plans_of_diagnostics(results: Results) -> Iterator[Plan]:
    """A figure a run that logged something of itself."""
    described = {run: said for folder in results.folders for run, said in folder.runs.items()}
    by_run: dict[str, dict[int, Any]] = {}
    for (run, seed), groups in results.diagnostics.items():
        if groups:
            by_run.setdefault(run, {})[seed] = groups
    for name, run in _file_names(by_run):
        hidden = len(by_run[run]) - len(shown_seeds(by_run[run]))
        names = {group for groups in by_run[run].values() for group in groups}
        lanes = any(is_on_and_off(seed.get(group, {}) for seed in by_run[run].values()) for group in names)
        said = described.get(run, {})
        yield Plan(
            f"diagnostics-{name}",
            partial(draw_diagnostics, by_run[run], title=run, explained=said.get("legends", {})),
            alt=f"Curves of what {run} logged while it trained",
            caption=f"What {run} logged while it trained: means over logging intervals."
            + (f" {said['curves']}" if said.get("curves") else "")
            + (" Filled lanes show for which share of an interval something was switched on." if lanes else "")
            + (f" The {hidden} highest seeds are not drawn." if hidden else ""),
        )


def _file_names(runs: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """A file name for each run, letters that every file system takes, and the run; each once."""
    taken: set[str] = set()
    for run in runs:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", run)[:60].strip("-.") or "run"
        name, number = plain, 2
        while name.lower() in taken:
            name, number = f"{plain}-{number}", number + 1
        taken.add(name.lower())
        yield name, run


DIAGNOSTICS = Drawing("training", lambda evaluation, results: plans_of_diagnostics(results))
