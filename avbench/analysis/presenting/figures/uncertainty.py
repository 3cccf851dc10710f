"""How uncertain networks were where they were right and where they were wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.accuracy import in_table_order
from avbench.analysis.measures.discrepancy import Floats, Mask
from avbench.analysis.presenting.figures.plan import Drawing, Plan, title_of
from avbench.analysis.presenting.figures.style import (
    COLUMN,
    PAGE,
    drawing,
    laid_out,
    legend_below,
    new_figure,
    shortened,
    titled,
)
from avbench.analysis.reading.results import Results

_RIGHT: Any = {"facecolor": "#8CCBF0", "edgecolor": "none"}
_WRONG = "#8A3000"


def draw_uncertainty(runs: Mapping[str, tuple[Floats, Mask]], *, title: str) -> Figure:
    """How uncertain each run was where it was right and where it was wrong: two histograms a panel.

    runs: per run (uncertainty (M,), correct (M,)). Each histogram is a share of its own clips, so that a rare kind is
    seen as well as a frequent one.
    """
    with drawing():
        columns = min(2, len(runs))
        rows = -(-len(runs) // columns)
        figure = new_figure(COLUMN if columns == 1 else PAGE, 0.85 + 1.5 * rows)
        titled(figure, title)
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for axes in grid.flat[len(runs) :]:
            axes.set_visible(False)
        every = np.concatenate([values[np.isfinite(values)] for values, _ in runs.values()])
        edges = np.linspace(0, max(1.0, float(every.max(initial=0))), 41)
        names = shortened(runs, 24)
        for place, (axes, (run, (values, correct))) in enumerate(zip(grid.flat, runs.items(), strict=False)):
            _draw_right_and_wrong(axes, names[run], values, correct, edges=edges)
            if place % columns == 0:
                axes.set_ylabel("share of clips (%)")
            if place + columns >= len(runs):
                axes.set_xlabel("uncertainty")
                axes.tick_params(labelbottom=True)
        keys = [Patch(**_RIGHT, label="right"), Line2D([], [], color=_WRONG, linewidth=1.1, label="wrong")]
        legend_below(figure, keys, longest=5)
        return laid_out(figure)


def _draw_right_and_wrong(axes: Axes, name_of_run: str, values: Floats, correct: Mask, *, edges: Floats) -> None:
    known = np.isfinite(values)
    kinds: dict[str, tuple[Mask, Any]] = {
        "right": (correct & known, {**_RIGHT, "fill": True}),
        "wrong": (~correct & known, {"color": _WRONG, "linewidth": 1.1}),
    }
    for name, (mask, look) in kinds.items():
        if mask.any():
            counts, _ = np.histogram(values[mask], edges)
            axes.stairs(100 * counts / mask.sum(), edges, label=name, **look)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, None))
    axes.set_title(f"{name_of_run}: {kinds['right'][0].sum():,} right, {kinds['wrong'][0].sum():,} wrong")


def _uncertainties(results: Results) -> dict[str, tuple[Floats, Any]]:
    """Per run that has them: uncertainties and correctness of all its seeds, one after the other."""
    found: dict[str, list[tuple[Floats, Any]]] = {}
    for score in in_table_order(results.scores):
        if score.uncertainty is not None:
            found.setdefault(score.run, []).append((score.uncertainty, score.correct))
    return {
        run: (np.concatenate([values for values, _ in seeds]), np.concatenate([correct for _, correct in seeds]))
        for run, seeds in found.items()
    }


def plans_of_uncertainty(evaluation: Evaluation, results: Results) -> Iterator[Plan]:
    """One figure, where some network says how uncertain it is."""
    uncertain = _uncertainties(results)
    if uncertain:
        yield Plan(
            "uncertainty",
            partial(draw_uncertainty, uncertain, title=title_of(evaluation)),
            alt="Histograms of the uncertainty of right and of wrong predictions",
            caption="How uncertain a network said it was, where it was right (filled) and where it was wrong (line), "
            "each as a share of its own clips, all seeds together. The further apart the two, the better it knows "
            "when it errs.",
        )


UNCERTAINTY = Drawing("training", plans_of_uncertainty)
