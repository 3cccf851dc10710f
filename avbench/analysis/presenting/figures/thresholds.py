"""Figure 2 of the paper: accuracy against the threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.accuracy import in_table_order
from avbench.analysis.measures.discrepancy import Counts, Floats
from avbench.analysis.measures.thresholds import FEWEST_CLIPS, ThresholdCurves, threshold_curves
from avbench.analysis.presenting.figures.plan import Drawing, Plan, title_of
from avbench.analysis.presenting.figures.style import (
    PAGE,
    SIDE_COLOURS,
    LineStyle,
    drawing,
    laid_out,
    legend_below,
    line_key,
    line_styles,
    new_figure,
    say_empty,
    shortened,
    titled,
)
from avbench.analysis.presenting.figures.words import count_text
from avbench.analysis.reading.results import Results

_TOO_FEW: Any = {"facecolor": "white", "edgecolor": "#CCCCCC", "hatch": "////", "linewidth": 0}


def draw_thresholds(curves: ThresholdCurves, *, modality_of: Mapping[str, str], title: str) -> Figure:
    """Accuracy against threshold T, audio-dominated clips on the left, visual-dominated on the right, a line a run.

    modality_of: the unimodal networks among the runs. Below each panel: how many clips lie beyond T.
    """
    runs, names = list(curves.accuracy), shortened(curves.accuracy)
    styles = line_styles(runs, unimodal=dict(modality_of))
    with drawing():
        few = any((count < FEWEST_CLIPS).any() and (count >= FEWEST_CLIPS).any() for count in curves.clips.values())
        keys: list[Artist] = [Patch(**_TOO_FEW, label=f"fewer than {FEWEST_CLIPS} clips")] if few else []
        keys += [line_key(names[run], styles[run], width=1.6 if run in modality_of else 1.1) for run in runs]
        figure = new_figure(PAGE, 3.7 + 0.13 * (len(runs) // 5))
        titled(figure, title)
        (left, right), (left_clips, right_clips) = figure.subplots(
            2, 2, sharex=True, sharey="row", height_ratios=(4.2, 1)
        )
        for side, axes, below in (("audio", left, left_clips), ("visual", right, right_clips)):
            _draw_threshold_lines(axes, curves, side, styles=styles, modality_of=modality_of)
            axes.set_title(f"{side}-dominated clips (at T = 0: {side}-preferred)")
            below.fill_between(curves.thresholds, curves.clips[side], color=SIDE_COLOURS[side], linewidth=0)
            below.set(xlabel="threshold T", ylim=(0, None))
            below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
            below.yaxis.set_major_formatter(FuncFormatter(count_text))
            _write_counts(below, curves.thresholds, curves.clips[side])
        largest = max(int(count.max()) for count in curves.clips.values())
        left_clips.set(ylabel="clips", ylim=(0, 1.45 * max(largest, 1)))
        left.set(ylabel="accuracy (%)", xlim=(0, float(curves.thresholds[-1])))
        if not any(np.isfinite(values).any() for sides in curves.accuracy.values() for values in sides.values()):
            left.set_ylim(0, 100)
        figure.align_ylabels([left, left_clips])
        legend_below(figure, keys, longest=max(18, *map(len, names.values())))
        return laid_out(figure)


def _draw_threshold_lines(
    axes: Axes, curves: ThresholdCurves, side: str, *, styles: Mapping[str, LineStyle], modality_of: Mapping[str, str]
) -> None:
    axes.grid()
    for place, (run, accuracy) in enumerate(curves.accuracy.items()):
        style = styles[run]
        axes.plot(
            curves.thresholds,
            100 * accuracy[side],
            color=style.colour,
            linestyle=style.dashes,
            marker=style.marker,
            markersize=3,
            markevery=(place % 3, 3),  # lines that lie on each other show their markers in turn
            linewidth=1.6 if run in modality_of else 1.1,
            zorder=3 if run in modality_of else 2,  # what is to be beaten is never hidden
            label=run,
        )
    few = curves.clips[side] < FEWEST_CLIPS
    if few.all():
        say_empty(axes, f"fewer than {FEWEST_CLIPS} clips at every T")
    elif few.any():
        axes.axvspan(float(curves.thresholds[few][0]), float(curves.thresholds[-1]), zorder=0, **_TOO_FEW)


def _write_counts(axes: Axes, thresholds: Floats, counts: Counts) -> None:
    """Every fourth count above its place; the first beside the axis, not across it."""
    for place in range(0, len(thresholds), 4):
        axes.annotate(
            count_text(counts[place]), (thresholds[place], counts[place]), xytext=(0 if place else 2, 2),
            textcoords="offset points", fontsize=7, ha="center" if place else "left", annotation_clip=False,
        )  # fmt: skip


def plans_of_thresholds(evaluation: Evaluation, results: Results) -> Iterator[Plan]:
    """One figure of all runs."""
    ordered = in_table_order(results.scores)
    runs = dict.fromkeys(score.run for score in ordered)
    shares = {run: np.mean([score.correct for score in ordered if score.run == run], axis=0) for run in runs}
    yield Plan(
        "thresholds",
        partial(
            draw_thresholds,
            threshold_curves(shares, results.discrepancies),
            modality_of=evaluation.table.modality_of,
            title=title_of(evaluation),
        ),
        alt="Accuracy of every method against the threshold T on audio-dominated and on visual-dominated clips",
        caption="Accuracy, the mean over seeds, on the clips whose discrepancy lies beyond T on the audio side (left) "
        "and on the visual side (right); below, how many clips these are. The further to the right, the more one-sided "
        f"the clips. Lines end where fewer than {FEWEST_CLIPS} clips are left.",
    )


THRESHOLDS = Drawing("thresholds", plans_of_thresholds)
