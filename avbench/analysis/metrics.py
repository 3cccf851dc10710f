"""Mean class accuracy, macro F1 and mean average precision of weighted clips, and their bootstrap intervals.

Every measure is computed for many weightings of the clips at once, weights (N, R): a column of ones is the estimate,
a column of bootstrap counts one resample. A class without weight in a column is left out of that column's mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from avbench.analysis.discrepancy import Floats, Mask
from avbench.analysis.evaluation import Labels, Scores, in_table_order, masks_of
from avbench.analysis.statistics import LEVEL, mean_interval, resample_counts, with_width

Weights = NDArray[np.float32]  # (N, R); float32 adds up counts exactly to 2^24

ACCURACY, CLASS_ACCURACY, MACRO_F1, AVERAGE_PRECISION = METRICS = (
    "accuracy",
    "mean class accuracy",
    "macro F1",
    "mean average precision",
)

# Weights that are worked on together: what fits a processor's cache, as 32 columns of 16,000 clips do.
_TOGETHER = 500_000

# Of the bootstrap's random numbers: the same report from the same files, always.
_SEED = 20230223


@dataclass(frozen=True, slots=True)
class Measured:
    """One number of one run on one subset, the mean over its seeds, and a 95 % bootstrap interval over clips.

    value, low, high: fractions in [0, 1]; None where the subset is empty, or for mean average precision where a seed
    has no class probabilities or all clips of the subset are of one class. classes: how many of the evaluated clips'
    classes the subset has; absent: how many of them it has not, which are left out of class means.
    """

    run: str
    metric: str
    subset: str
    threshold: float
    clips: int
    classes: int
    absent: int
    seeds: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class MetricTable:
    """Every number: threshold x subset x run x metric, in this nesting. resamples: how many the bootstrap drew.

    Accuracy needs no draws: its interval is what infinitely many give.
    """

    cells: tuple[Measured, ...]
    thresholds: tuple[float, ...]
    resamples: int

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str, float], Measured]:
        return {(cell.run, cell.metric, cell.subset, cell.threshold): cell for cell in self.cells}

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs, in order."""
        return tuple(dict.fromkeys(cell.run for cell in self.cells))

    def cell(self, run: str, metric: str, subset: str, threshold: float) -> Measured:
        """One number. Raises KeyError where there is none."""
        return self._by_place[run, metric, subset, threshold]


def metric_table(
    scores: Sequence[Scores],
    labels: Labels,
    discrepancies: Floats,
    *,
    thresholds: Sequence[float],
    resamples: int,
    tick: Callable[[int, int], None],
) -> MetricTable:
    """Every metric of every run on every subset, the subsets cut by these discrepancies.

    labels: class numbers (N,). resamples: of the bootstrap, 1 or more; the clips of a subset are drawn from that
    subset, the same ones for every run, from a fixed seed. tick: told after each step how many of how many are done.
    """
    ordered = in_table_order(scores)
    masks = masks_of(discrepancies, thresholds)
    # "overall" is the same at every threshold, and other subsets may be: each is measured once.
    distinct = {mask.tobytes(): mask for mask in masks.values() if mask.any()}
    counts = {
        key: resample_counts(int(mask.sum()), resamples=resamples, seed=[_SEED, place])
        for place, (key, mask) in enumerate(distinct.items())
    }
    found: dict[tuple[str, bytes], dict[str, _Estimate]] = {}
    runs = tuple(dict.fromkeys(score.run for score in ordered))
    with ThreadPoolExecutor(max_workers=_cores()) as pool:  # sums over sparse matrices leave other threads alone
        for run in runs:
            of_run = [score for score in ordered if score.run == run]
            orders = [None if score.probabilities is None else class_order(score.probabilities) for score in of_run]
            measure = partial(_measure, of_run, orders, labels)
            measured = pool.map(measure, distinct.values(), counts.values())
            for key, estimates in zip(distinct, measured, strict=True):
                found[run, key] = estimates
                tick(len(found), len(distinct) * len(runs))
    everywhere = len(np.unique(labels))
    cells = []
    for (threshold, subset), mask in masks.items():
        present = len(np.unique(labels[mask]))
        for run in runs:
            estimates = found.get((run, mask.tobytes()), {})
            cells += [
                Measured(
                    run=run,
                    metric=metric,
                    subset=subset,
                    threshold=threshold,
                    clips=int(mask.sum()),
                    classes=present,
                    absent=everywhere - present,
                    seeds=sum(score.run == run for score in ordered),
                    **asdict(estimates.get(metric, _Estimate())),
                )
                for metric in METRICS
            ]
    return MetricTable(tuple(cells), thresholds=tuple(thresholds), resamples=resamples)


@dataclass(frozen=True, slots=True)
class _Estimate:
    value: float | None = None
    low: float | None = None
    high: float | None = None


def _measure(
    scores: Sequence[Scores],
    orders: Sequence[Labels | None],
    labels: Labels,
    mask: Mask,
    counts: NDArray[np.uint8],
) -> dict[str, _Estimate]:
    """Every metric of one run's seeds on the clips of a mask that is not empty; counts: resamples of these clips."""
    labels = labels[mask]
    measures = _measures(scores, orders, labels, mask=mask)
    ones = np.ones((len(labels), 1), np.float32)
    right = np.sum([score.correct[mask] for score in scores], axis=0)
    low, high = mean_interval(right, seeds=len(scores))
    estimates = {ACCURACY: _Estimate(float(right.sum() / (len(right) * len(scores))), low, high)}
    resampled: dict[str, list[Floats]] = {metric: [] for metric in measures}
    columns = max(_TOGETHER // len(labels), 8)
    for first in range(0, counts.shape[1], columns):
        weights = np.ascontiguousarray(counts[:, first : first + columns], dtype=np.float32)
        for metric, of_seeds in measures.items():
            resampled[metric].append(np.mean([measure(weights) for measure in of_seeds], axis=0))
    for metric, of_seeds in measures.items():
        value = float(np.mean([measure(ones)[0] for measure in of_seeds]))
        low, high = centred_interval(value, np.concatenate(resampled[metric]))
        estimates[metric] = _Estimate(value, *with_width(low, high, value=value, clips=len(labels)))
    return estimates


def _measures(
    scores: Sequence[Scores], orders: Sequence[Labels | None], labels: Labels, *, mask: Mask
) -> dict[str, list[Callable[[Weights], Floats]]]:
    """Per metric that the scores and labels allow, a function of weights for each seed. labels: of the mask's clips.

    Average precision asks how a class's clips rank among the others', so it needs some: two classes or more.
    """
    measures: dict[str, list[Callable[[Weights], Floats]]] = {
        metric: [partial(function, labels, score.predictions[mask]) for score in scores]
        for metric, function in ((CLASS_ACCURACY, mean_class_accuracy), (MACRO_F1, macro_f1))
    }
    if len(np.unique(labels)) > 1 and all(order is not None for order in orders):
        place = np.cumsum(mask) - 1
        measures[AVERAGE_PRECISION] = [
            Ranking(
                labels, score.probabilities[mask], place[order[mask[order]]].reshape(len(order), -1)
            ).mean_average_precision
            for score, order in zip(scores, orders, strict=True)
            if score.probabilities is not None and order is not None
        ]
    return measures


def centred_interval(value: float, resampled: Floats, *, level: float = LEVEL) -> tuple[float, float]:
    """Interval of an estimate from its bootstrap resamples: their percentiles, moved so that their mean is `value`.

    Resamples hold clips twice or more, which pulls class means to one side: average precision up, F1 down, and with a
    few clips a class by more than the spread, so that plain percentiles may miss the estimate itself. Moved, they
    cover what the measure is on average over test sets of this size. Cut to [0, 1].
    """
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail]) + (value - resampled.mean())
    return float(np.clip(min(low, value), 0, 1)), float(np.clip(max(high, value), 0, 1))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def mean_class_accuracy(labels: Labels, predictions: Labels, weights: Weights) -> Floats:
    """Mean over classes of the share of the class's clips that are right (balanced accuracy), (R,).

    labels, predictions: class numbers (N,). NaN for a column without any weight.
    """
    support, right, _ = _class_sums(labels, predictions, weights)
    return _mean_over(np.divide(right, support, out=np.zeros_like(right), where=support > 0), support > 0)


def macro_f1(labels: Labels, predictions: Labels, weights: Weights) -> Floats:
    """Mean over the classes that have clips of F1, the harmonic mean of precision and recall, (R,).

    A class that has clips and is never predicted, or never rightly, has F1 = 0. Predicting a class that has no clips
    costs the recall of the clips' own classes. NaN for a column without any weight.
    """
    support, right, predicted = _class_sums(labels, predictions, weights)
    both = support + predicted
    return _mean_over(np.divide(2 * right, both, out=np.zeros_like(right), where=both > 0), support > 0)


def _class_sums(labels: Labels, predictions: Labels, weights: Weights) -> tuple[Weights, Weights, Weights]:
    """Weight of each class that has clips, of its clips that are right, and of all predicted as it, (classes, R)."""
    present, numbers = np.unique(labels, return_inverse=True)
    place = np.searchsorted(present, predictions).clip(max=len(present) - 1)
    known = present[place] == predictions
    rows = np.arange(len(labels))
    right = labels == predictions

    def sums(of: Mask, to: Labels) -> Weights:
        chosen = (np.ones(int(of.sum()), np.float32), (to[of], rows[of]))
        return sparse.csr_array(chosen, shape=(len(present), len(labels))) @ weights

    return sums(np.ones(len(labels), bool), numbers), sums(right, numbers), sums(known, place)


def _mean_over(values: Weights, counted: Mask) -> Floats:
    """Mean of each column over the counted rows; NaN where none is."""
    counts = counted.sum(axis=0)
    total = np.where(counted, values, 0).sum(axis=0, dtype=np.float64)
    return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


class Ranking:
    """Clips ranked by the probability of each class: all that average precision needs, for any weights.

    labels: class numbers (N,); probabilities: (N, classes), finite. order: (classes, N), of each class the clips from
    the most to the least probable, where it is known already.

    The average precision of a class is the sum over its clips, from the most probable down, of the precision among all
    clips at least as probable, over the number of its clips; equal probabilities come in together (scikit-learn's
    definition, without interpolation). So only sums of weights between the class's own clips matter: one row of a
    sparse matrix for each distinct probability at which the class has clips.
    """

    def __init__(self, labels: Labels, probabilities: NDArray[np.float32], order: Labels | None = None) -> None:
        order = class_order(probabilities) if order is None else order
        members, ends, own_members, own_ends = [], [], [], []
        self._starts = []
        groups = between = positives = 0
        for number in np.unique(labels):
            ranked = order[number]
            falling = -probabilities[ranked, number]
            own = ranked[labels[ranked] == number]
            # Up to where each of the class's clips is, clips of equal probability included.
            reach = np.searchsorted(falling, -probabilities[own, number], side="right")
            last = np.flatnonzero(np.diff(reach, append=len(labels) + 1))
            self._starts.append(groups)
            members.append(ranked[: reach[-1]])
            ends.append(between + reach[last])
            own_members.append(own)
            own_ends.append(positives + last + 1)
            groups, between, positives = groups + len(last), between + int(reach[-1]), positives + len(own)
        self._all = _row_sums(members, ends, clips=len(labels))
        self._own = _row_sums(own_members, own_ends, clips=len(labels))

    def mean_average_precision(self, weights: Weights) -> Floats:
        """Mean over the classes that have weight of their average precision, (R,); NaN for a column without any."""
        own = self._own @ weights
        right, all_clips = self._running(own), self._running(self._all @ weights)
        precision = np.divide(right, all_clips, out=np.zeros_like(right), where=all_clips > 0)
        total = np.add.reduceat(own, self._starts, axis=0)
        gained = np.add.reduceat(own * precision, self._starts, axis=0)
        return _mean_over(np.divide(gained, total, out=np.zeros_like(gained), where=total > 0), total > 0)

    def _running(self, sums: Weights) -> Floats:
        """Sums over the rows of each class up to each row; float64, since first they run through all classes."""
        running = np.cumsum(sums, axis=0, dtype=np.float64)
        before = np.zeros((len(self._starts), sums.shape[1]))
        before[1:] = running[np.array(self._starts[1:], np.int64) - 1]
        return running - np.repeat(before, np.diff(self._starts, append=len(sums)), axis=0)


def class_order(probabilities: NDArray[np.float32]) -> Labels:
    """Of each class the clips from the most to the least probable, (classes, N)."""
    return np.argsort(-probabilities.T, axis=1, kind="stable").astype(np.int32)


def _row_sums(members: Sequence[Labels], ends: Sequence[Labels], *, clips: int) -> sparse.csr_array:
    """The matrix whose product with weights (clips, R) is the sum over each row's clips."""
    columns = np.concatenate(members).astype(np.int32)
    pointers = np.concatenate([[0], *ends])
    return sparse.csr_array((np.ones(len(columns), np.float32), columns, pointers), shape=(len(pointers) - 1, clips))
