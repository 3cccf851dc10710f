"""Clips of a subset ranked for each class, and the mean average precision of many resamples of them, in linear time.

The average precision of a class is the sum over its clips, from the most probable down, of the precision among all
clips at least as probable, over the number of its clips; equal numbers come in together (scikit-learn's definition,
without interpolation). In a resample every clip counts as often as it was drawn.

All clips of all classes would make each resample cost classes x clips. So of the clips of other classes, those that
stand highest count as often as they were drawn, as many as the class has clips of its own and at least
`DEEP_ENOUGH / classes`; each one further down counts once, as often as it does on average. Far down the list a sum over
that many clips hardly moves: at 15 thousand clips and 309 classes both ends of the interval stay within 1 % of its
width (`benchmarks/evaluate.py --check`), while counting all others once would move them by up to a tenth. Where a
subset has no more clips of other classes than that, nothing is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avbench.analysis.measures.accuracy import Labels
from avbench.analysis.measures.class_scores import ByClass, ClassScores, Values
from avbench.analysis.measures.discrepancy import Floats, Mask

Places = NDArray[np.int32]
Counts = NDArray[np.uint8]

# Clips of other classes that are drawn, for all classes of a subset together.
DEEP_ENOUGH = 20_000


@dataclass(frozen=True, slots=True)
class Subsets:
    """Distinct subsets of the clips, each a slice of all clips in order of discrepancy.

    order: (N,) the clips by falling discrepancy. slices: per subset where it begins and ends in that order.
    numbers: per subset, for its clips in that order, which of the subset's clips each is, counted in clip order.
    """

    order: Labels
    slices: tuple[tuple[int, int], ...]
    numbers: tuple[Places, ...]

    @classmethod
    def of(cls, masks: Sequence[Mask], discrepancies: Floats) -> Subsets:
        """masks: bool (N,), none of them empty; each holds all clips with discrepancies from one value to another."""
        order = np.argsort(-discrepancies, kind="stable")
        slices, numbers = [], []
        for mask in masks:
            start, size = int(np.argmax(mask[order])), int(mask.sum())
            chosen = order[start : start + size]
            if not mask[chosen].all():
                raise ValueError("a subset is no range of discrepancies")
            slices.append((start, start + size))
            numbers.append((np.cumsum(mask, dtype=np.int32) - 1)[chosen])
        return cls(order, tuple(slices), tuple(numbers))


@dataclass(frozen=True, slots=True)
class Ranking:
    """One run's clips of one subset, n of them, ranked for every class that has some: what resampling needs.

    own: (n,) which clip, class after class, within a class from the most probable down. starts: (classes,) where each
    class begins. ends: (n,) where those of equal number end in `own`; None where all differ. above: the highest clips
    of other classes, class after class, from the most probable down; above_starts: (classes,) where each class begins.
    reach: (n,) how many of these, and of the classes before, are at least as probable as the clip. rest: (n,) how many
    more clips of other classes are; None where there are none. tied: clips whose number another clip has, too.
    """

    own: Places
    starts: Places
    ends: Places | None
    above: Places
    above_starts: Places
    reach: Places
    rest: NDArray[np.float32] | None
    tied: int

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays."""
        arrays = (self.own, self.starts, self.ends, self.above, self.above_starts, self.reach, self.rest)
        return sum(array.nbytes for array in arrays if array is not None)

    def mean_average_precision(self, counts: Counts, dtype: type = np.float32) -> Floats:
        """Mean over the classes that were drawn of their average precision, (R,); NaN for a resample without any.

        counts: (R, n), how often each clip of the subset was drawn. dtype: of the precision of a clip.
        """
        sizes = np.diff(self.starts, append=len(self.own))
        own = np.take(counts, self.own, axis=1, mode="clip")
        drawn = np.cumsum(own, axis=1, dtype=np.int32)
        before = drawn[:, self.starts] - own[:, self.starts]
        total = drawn[:, self.starts + sizes - 1] - before
        if self.ends is not None:
            drawn = np.take(drawn, self.ends, axis=1, mode="clip")
        right: NDArray[Any] = (drawn - np.repeat(before, sizes, axis=1)).astype(dtype)
        others = np.zeros((len(counts), len(self.above) + 1), np.int32)
        np.cumsum(np.take(counts, self.above, axis=1, mode="clip"), axis=1, dtype=np.int32, out=others[:, 1:])
        wrong = np.take(others, self.reach, axis=1, mode="clip") - np.repeat(
            others[:, self.above_starts], sizes, axis=1
        )
        everything = right + wrong.astype(dtype)
        if self.rest is not None:
            everything += self.rest
        # A sum of 0 is that of a clip that was not drawn, whose precision counts nothing: 0 / 1.
        np.maximum(everything, 1, out=everything)
        right /= everything
        right *= own
        gained = np.add.reduceat(right, self.starts, axis=1, dtype=np.float64)
        return mean_over(np.divide(gained, total, out=np.zeros_like(gained), where=total > 0), total > 0)


def mean_over(values: Floats, counted: Mask) -> Floats:
    """Mean of each row over the counted columns; NaN where none is."""
    counts = counted.sum(axis=1)
    total = np.where(counted, values, 0).sum(axis=1, dtype=np.float64)
    return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def rankings(
    scores: ClassScores,
    labels: Labels,
    subsets: Subsets,
    *,
    by_class: ByClass,
    memory_bytes: int,
    deep_enough: int = DEEP_ENOUGH,
) -> tuple[Ranking, ...]:
    """One run's ranking of each subset.

    labels: of all clips (N,). by_class, memory_bytes: what turns the numbers round, and within how much.
    Raises RunError where the numbers are damaged or not finite.
    """
    sorted_labels = labels[subsets.order]
    by_label = np.argsort(sorted_labels, kind="stable")
    present, first = np.unique(sorted_labels[by_label], return_index=True)
    members = np.split(by_label, first[1:])
    classes = [len(np.unique(sorted_labels[start:stop])) for start, stop in subsets.slices]
    depths = [-(-deep_enough // count) for count in classes]
    made: list[list[_OfClass]] = [[] for _ in subsets.slices]
    with by_class(scores, clips=len(labels), memory_bytes=memory_bytes) as columns:
        for number, own in zip(present, members, strict=True):
            column = columns.column(int(number))[subsets.order]
            for of_subset, found in zip(made, _of_class(column, own, subsets.slices, depths), strict=True):
                if found is not None:
                    of_subset.append(found)
    # One subset's parts are let go before the next ones are joined.
    return tuple(_joined(made.pop(0), numbers) for numbers in subsets.numbers)


@dataclass(frozen=True, slots=True)
class _OfClass:
    """A class's clips in a subset, from the most probable down; places are in the subset's slice.

    own, ends, reach, rest: (n,); above: the highest clips of other classes. See `Ranking`.
    """

    own: Places
    ends: Places
    above: Places
    reach: Places
    rest: Places
    tied: int


def _of_class(
    column: Values, own: Labels, slices: Sequence[tuple[int, int]], depths: Sequence[int]
) -> list[_OfClass | None]:
    """One class in each subset. column: its numbers in order of discrepancy; own: its clips' places there."""
    numbers = column[own]
    column[own] = -np.inf  # below every other: what is left are the clips of other classes
    edges = sorted({edge for place in slices for edge in place})
    # Between two edges, how many others are at least as probable as each clip; then summed from the first edge on.
    others = np.zeros((len(edges), len(own)), np.int32)
    for number, (start, stop) in enumerate(pairwise(edges)):
        ascending = np.sort(column[start:stop])
        others[number + 1] = others[number] + (stop - start) - np.searchsorted(ascending, numbers, side="left")
    found: list[_OfClass | None] = []
    for (start, stop), depth in zip(slices, depths, strict=True):
        low, high = np.searchsorted(own, [start, stop])
        if low == high:
            found.append(None)
            continue
        wrong = others[edges.index(stop), low:high] - others[edges.index(start), low:high]
        found.append(_ranked(column[start:stop], own[low:high] - start, numbers[low:high], wrong, depth))
    return found


def _ranked(column: Values, own: Labels, numbers: Values, wrong: Places, depth: int) -> _OfClass:
    """A class in one subset. column: of the subset's clips, the class's own below all others; wrong: (n,) others at
    least as probable as each."""
    falling = np.argsort(-numbers, kind="stable")
    own, numbers, wrong = own[falling], numbers[falling], wrong[falling]
    ends = np.searchsorted(-numbers, -numbers, side="right") - 1
    firsts = np.searchsorted(-numbers, -numbers, side="left")
    deep = min(max(depth, len(own)), int(wrong[-1]))
    above = _highest(column, deep)
    tied_with_other = np.zeros(len(own), bool)
    if deep:
        inside = np.minimum(wrong, deep) - 1
        tied_with_other = (inside >= 0) & (column[above][inside] == numbers)
    return _OfClass(
        own=own.astype(np.int32),
        ends=ends.astype(np.int32),
        above=above.astype(np.int32),
        reach=np.minimum(wrong, deep).astype(np.int32),
        rest=np.maximum(wrong - deep, 0).astype(np.int32),
        tied=int((tied_with_other | (ends > firsts)).sum()),
    )


def _highest(column: Values, count: int) -> Labels:
    """Places of the highest numbers, from the highest down."""
    if count == 0:
        return np.empty(0, np.int64)
    least = np.partition(column, len(column) - count)[len(column) - count]
    places = np.flatnonzero(column >= least)
    return places[np.argsort(-column[places], kind="stable")][:count]


def _joined(classes: list[_OfClass], numbers: Places) -> Ranking:
    """The classes of one subset one after the other; numbers: of each place, which of the subset's clips it is."""
    sizes = np.array([len(one.own) for one in classes])
    depths = np.array([len(one.above) for one in classes])
    starts, above_starts = np.cumsum(sizes) - sizes, np.cumsum(depths) - depths
    places = np.arange(sizes.sum())
    ends = np.concatenate([one.ends for one in classes]) + np.repeat(starts, sizes)
    rest = np.concatenate([one.rest for one in classes])
    return Ranking(
        own=numbers[np.concatenate([one.own for one in classes])],
        starts=starts.astype(np.int32),
        ends=None if np.array_equal(ends, places) else ends.astype(np.int32),
        above=numbers[np.concatenate([one.above for one in classes])],
        above_starts=above_starts.astype(np.int32),
        reach=(np.concatenate([one.reach for one in classes]) + np.repeat(above_starts, sizes)).astype(np.int32),
        rest=rest.astype(np.float32) if rest.any() else None,
        tied=sum(one.tied for one in classes),
    )
