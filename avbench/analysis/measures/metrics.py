"""Mean class accuracy, macro F1 and mean average precision of weighted clips, and their bootstrap intervals.

Every measure is computed for some resamples of a subset's clips at once, from counts (R, n): how often each clip was
drawn. A row of ones is the estimate. A class that was not drawn is left out of that resample's mean. All runs are
measured on the same resamples, which are drawn when they are needed and never held together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from threading import Lock

import numpy as np

from avbench.analysis.measures.accuracy import Labels, Scores, in_table_order, masks_of
from avbench.analysis.measures.class_scores import Room, scores_of
from avbench.analysis.measures.discrepancy import Floats
from avbench.analysis.measures.ranking import Counts, Places, Ranking, Subsets, mean_over, rankings
from avbench.analysis.measures.statistics import LEVEL, mean_interval, resamples_of, with_width

ACCURACY, CLASS_ACCURACY, MACRO_F1, AVERAGE_PRECISION = METRICS = (
    "accuracy",
    "mean class accuracy",
    "macro F1",
    "mean average precision",
)

# Counts that are worked on together: what fits a processor's cache with all that is made of it.
_TOGETHER = 250_000

# What working on one count takes, in bytes: the arrays of `Ranking.mean_average_precision` at their most.
_WORKING_BYTES = 60
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

    Accuracy needs no draws: its interval is what infinitely many give. tied: per run with class probabilities, the
    share of all clips whose number for their own class another clip has too, the mean over seeds. partly: whether clips
    far down a class's ranking were counted once in each resample, see `ranking`.
    """

    cells: tuple[Measured, ...]
    thresholds: tuple[float, ...]
    resamples: int
    tied: Mapping[str, float] = field(default_factory=dict)
    partly: bool = False

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
    room: Room,
) -> MetricTable:
    """Every metric of every run on every subset, the subsets cut by these discrepancies.

    labels: class numbers (N,). resamples: of the bootstrap, 1 or more; the clips of a subset are drawn from that
    subset, the same ones for every run, from a fixed seed. tick: told now and then how many per cent are done.
    Raises RunError for probabilities that are damaged.
    """
    ordered = in_table_order(scores)
    masks = masks_of(discrepancies, thresholds)
    # "overall" is the same at every threshold, and other subsets may be: each is measured once.
    distinct = {mask.tobytes(): mask for mask in masks.values() if mask.any()}
    subsets = Subsets.of(list(distinct.values()), discrepancies)
    bootstrap = _Bootstrap(ordered, labels, subsets, resamples=resamples, tick=tick, room=room)
    bootstrap.run()
    found = {
        (run, key): bootstrap.estimates(run, number) for run in bootstrap.runs for number, key in enumerate(distinct)
    }
    everywhere = len(np.unique(labels))
    cells = []
    for (threshold, subset), mask in masks.items():
        present = len(np.unique(labels[mask]))
        for run in bootstrap.runs:
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
                    seeds=len(bootstrap.runs[run]),
                    **asdict(estimates.get(metric, _Estimate())),
                )
                for metric in METRICS
            ]
    return MetricTable(
        tuple(cells),
        thresholds=tuple(thresholds),
        resamples=resamples,
        tied=bootstrap.tied,
        partly=bootstrap.partly,
    )


@dataclass(frozen=True, slots=True)
class _Estimate:
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class _Member:
    """One run with one seed, ready to be measured: per subset its predictions' sums and, where it has any, rankings."""

    score: Scores
    sums: tuple[ClassSums, ...]
    rankings: tuple[Ranking | None, ...]

    @property
    def size_bytes(self) -> int:
        """Memory of all of it."""
        return sum(each.size_bytes for each in (*self.sums, *self.rankings) if each is not None)


class _Bootstrap:
    """Measures runs on all subsets, as many runs at a time as memory allows."""

    def __init__(
        self,
        ordered: Sequence[Scores],
        labels: Labels,
        subsets: Subsets,
        *,
        resamples: int,
        tick: Callable[[int, int], None],
        room: Room,
    ) -> None:
        self._labels = labels
        self._subsets = subsets
        self._resamples = resamples
        self._room = room
        self.runs: dict[str, list[Scores]] = defaultdict(list)
        for score in ordered:
            self.runs[score.run].append(score)
        self.partly = False
        self._tied: dict[str, list[float]] = defaultdict(list)
        # By run, subset and metric: sums over seeds of the estimates and of each resample.
        self._values: dict[tuple[str, int, str], float] = defaultdict(float)
        self._resampled: dict[tuple[str, int, str], Floats] = {}
        self._in_subset = [_clips_of(subsets, number) for number in range(len(subsets.slices))]
        self._of_labels = [labels[clips].astype(np.int32) for clips in self._in_subset]
        work = len(ordered) * resamples * sum(map(len, self._in_subset))
        self._told = _Told(tick, max(work, 1))

    @property
    def tied(self) -> dict[str, float]:
        """Per run with class probabilities, the share of clips whose number for their class another has, too."""
        return {run: float(np.mean(shares)) for run, shares in self._tied.items()}

    def run(self) -> None:
        """Measure everything."""
        group: list[_Member] = []
        for score in (score for of_run in self.runs.values() for score in of_run):
            group.append(self._member(score))
            if sum(member.size_bytes for member in group) > self._room.memory_bytes // 3:
                self._measure(group)
                group = []
        if group:
            self._measure(group)

    def estimates(self, run: str, subset: int) -> dict[str, _Estimate]:
        """Every metric of a run on a subset that could be measured, over its seeds."""
        of_run, clips = self.runs[run], self._in_subset[subset]
        right = np.sum([score.correct[clips] for score in of_run], axis=0)
        low, high = mean_interval(right, seeds=len(of_run))
        found = {ACCURACY: _Estimate(float(right.sum() / (len(right) * len(of_run))), low, high)}
        for metric in METRICS:
            if (resampled := self._resampled.get((run, subset, metric))) is not None:
                value = self._values[run, subset, metric] / len(of_run)
                low, high = centred_interval(value, resampled / len(of_run))
                found[metric] = _Estimate(value, *with_width(low, high, value=value, clips=len(clips)))
        return found

    def _member(self, score: Scores) -> _Member:
        ranked: tuple[Ranking | None, ...] = (None,) * len(self._in_subset)
        # Average precision is the mean over seeds, so all of them must have probabilities.
        if score.probabilities is not None and all(one.probabilities is not None for one in self.runs[score.run]):
            whole = rankings(
                scores_of(score.probabilities),
                self._labels,
                self._subsets,
                by_class=self._room.by_class,
                memory_bytes=self._room.memory_bytes // 3,
            )
            self.partly |= any(one.rest is not None for one in whole)
            overall = max(whole, key=lambda one: len(one.own))
            self._tied[score.run].append(overall.tied / len(overall.own))
            # It asks how a class's clips rank among the others', so it needs some: two classes or more.
            ranked = tuple(one if len(one.starts) > 1 else None for one in whole)
        sums = tuple(
            ClassSums.of(labels, score.predictions[clips])
            for labels, clips in zip(self._of_labels, self._in_subset, strict=True)
        )
        return _Member(score, sums, ranked)

    def _measure(self, group: Sequence[_Member]) -> None:
        at_once = max(len(clips) for clips in self._in_subset)
        threads = self._room.memory_bytes // 3 // (_WORKING_BYTES * max(_TOGETHER, at_once))
        with ThreadPoolExecutor(max_workers=max(1, min(self._room.threads, threads))) as pool:
            for results in pool.map(partial(self._on_subset, group), range(len(self._in_subset))):
                for place, value, resampled in results:
                    self._values[place] += value
                    before = self._resampled.get(place)
                    self._resampled[place] = resampled if before is None else before + resampled

    def _on_subset(self, group: Sequence[_Member], number: int) -> list[tuple[tuple[str, int, str], float, Floats]]:
        """Of each member the estimates and resampled values of each metric on one subset."""
        clips = len(self._in_subset[number])
        support = Support.of(self._of_labels[number])
        ones = np.ones((1, clips), np.uint8)
        found = [
            [((member.score.run, number, metric), float(value[0]), np.empty(self._resamples))
             for metric, value in _measured(member, number, support.sums(ones), ones, dtype=np.float64).items()]
            for member in group
        ]  # fmt: skip
        done = 0
        for counts in resamples_of(
            clips, resamples=self._resamples, seed=[_SEED, number], together=max(_TOGETHER // clips, 1)
        ):
            drawn = support.sums(counts)
            for member, results in zip(group, found, strict=True):
                measured = _measured(member, number, drawn, counts)
                for place, _, resampled in results:
                    resampled[done : done + len(counts)] = measured[place[2]]
            done += len(counts)
            self._told.add(len(counts) * len(group) * clips)
        return [result for results in found for result in results]


class _Told:
    """How much work is done, told in per cent whenever that changes; from any thread."""

    def __init__(self, tick: Callable[[int, int], None], total: int) -> None:
        self._tick, self._total, self._done, self._lock = tick, total, 0, Lock()

    def add(self, work: int) -> None:
        with self._lock:
            before = 100 * self._done // self._total
            self._done += work
            if (now := 100 * self._done // self._total) > before:
                self._tick(now, 100)


def _clips_of(subsets: Subsets, number: int) -> Places:
    """The clips of a subset, ascending."""
    start, stop = subsets.slices[number]
    return np.sort(subsets.order[start:stop].astype(np.int32))


def _measured(
    member: _Member, subset: int, drawn: Floats, counts: Counts, *, dtype: type = np.float32
) -> dict[str, Floats]:
    """The class means of one run and seed on some resamples of a subset, (R,) each.

    counts: (R, n), how often each clip was drawn; drawn: (R, classes), each class's clips. dtype: of average precision.
    """
    right, guessed = member.sums[subset].sums(counts)
    found = {CLASS_ACCURACY: mean_class_accuracy(drawn, right), MACRO_F1: macro_f1(drawn, right, guessed)}
    ranking = member.rankings[subset]
    if ranking is not None:
        found[AVERAGE_PRECISION] = ranking.mean_average_precision(counts, dtype)
    return found


def centred_interval(value: float, resampled: Floats, *, level: float = LEVEL) -> tuple[float, float]:
    """Interval of an estimate from its bootstrap resamples: their percentiles, moved so that their mean is `value`.

    Resamples hold clips twice or more, which pulls class means to one side: average precision up, F1 down, and with a
    few clips a class by more than the spread, so that plain percentiles may miss the estimate itself. Moved, they
    cover what the measure is on average over test sets of this size. Cut to [0, 1].
    """
    tail = (1 - level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail]) + (value - resampled.mean())
    return float(np.clip(min(low, value), 0, 1)), float(np.clip(max(high, value), 0, 1))


@dataclass(frozen=True, slots=True)
class _Groups:
    """Clips in groups: of group k those in clips[starts[k] : starts[k + 1]], none of them empty; it is class to[k]."""

    clips: Places
    starts: Places
    to: Places

    @classmethod
    def of(cls, classes: Labels, clips: Labels) -> _Groups:
        """classes: of each of these clips the class's place."""
        order = np.argsort(classes, kind="stable")
        to, starts = np.unique(classes[order], return_index=True)
        return cls(clips[order].astype(np.int32), starts.astype(np.int32), to.astype(np.int32))

    def sums(self, counts: Counts, classes: int) -> Floats:
        """How often each class's clips were drawn, (R, classes)."""
        found = np.zeros((len(counts), classes))
        if len(self.clips):
            taken = np.take(counts, self.clips, axis=1, mode="clip")
            found[:, self.to] = np.add.reduceat(taken, self.starts, axis=1, dtype=np.int32)
        return found


@dataclass(frozen=True, slots=True)
class Support:
    """The clips of a subset by their own class: of how many classes, and how often each was drawn."""

    classes: int
    by_class: _Groups

    @classmethod
    def of(cls, labels: Labels | Places) -> Support:
        """labels: class numbers (n,)."""
        present, numbers = np.unique(labels, return_inverse=True)
        return cls(len(present), _Groups.of(numbers, np.arange(len(labels))))

    def sums(self, counts: Counts) -> Floats:
        """How often the clips of each class that has some were drawn, (R, classes). counts: (R, n)."""
        return self.by_class.sums(counts, self.classes)


@dataclass(frozen=True, slots=True)
class ClassSums:
    """The clips of a subset by what one run says of them."""

    classes: int
    right: _Groups
    guessed: _Groups

    @classmethod
    def of(cls, labels: Labels | Places, predictions: Labels) -> ClassSums:
        """labels, predictions: class numbers (n,). Predictions of a class that has no clip are in no group."""
        present = np.unique(labels)
        place = np.searchsorted(present, predictions).clip(max=len(present) - 1)
        known = np.flatnonzero(present[place] == predictions)
        right = np.flatnonzero(labels == predictions)
        return cls(len(present), _Groups.of(place[right], right), _Groups.of(place[known], known))

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays."""
        return sum(group.clips.nbytes for group in (self.right, self.guessed))

    def sums(self, counts: Counts) -> tuple[Floats, Floats]:
        """How often each class's right clips, and those predicted as it, were drawn: (R, classes) each."""
        return self.right.sums(counts, self.classes), self.guessed.sums(counts, self.classes)


def mean_class_accuracy(support: Floats, right: Floats) -> Floats:
    """Mean over classes of the share of the class's clips that are right (balanced accuracy), (R,).

    support, right: how often each class's clips, and its right ones, count, (R, classes). NaN where nothing counts.
    """
    return mean_over(np.divide(right, support, out=np.zeros_like(right), where=support > 0), support > 0)


def macro_f1(support: Floats, right: Floats, guessed: Floats) -> Floats:
    """Mean over the classes that have clips of F1, the harmonic mean of precision and recall, (R,).

    guessed: how often clips that are predicted as each class count, (R, classes); the others as above. A class that has
    clips and is never predicted, or never rightly, has F1 = 0. Predicting a class that has no clips costs the recall of
    the clips' own classes. NaN where nothing counts.
    """
    both = support + guessed
    return mean_over(np.divide(2 * right, both, out=np.zeros_like(right), where=both > 0), support > 0)
