"""From cells and limits to how many clips of each cell are kept.

Largest first, then most even. The linear program says how many clips are possible at most, and how many of each class.
The totals are made whole, and the most even counts with these totals are the choice, if they keep all limits and are
within the gap of what is possible at most. Where whole numbers do not fit, the linear program is asked to keep the
overall bound by some clips more; and in small pools the integer program is solved as well, which is exact.

Where no counts at all keep the limits, they are loosened, the least important first:

1. the distance of a class (`of_class`), first of a class that could not keep it even alone,
2. the shares of pools (`shares`),
3. the distance of all clips (`overall`),
4. the least number of clips of a class (`least`), which is loosened to what the class has, and only then.

Size, the most clips of a class and what there is are never exceeded. The largest choice within the loosened limits is
then the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from avbench.curation.choosing.program import ROOM, Banded, Cells, Limits, distances, evened, widened
from avbench.curation.choosing.rounding import least_distance, whole_totals

GAP = 0.01
"""How many clips fewer than possible a choice may have, as a share."""

_MARGINS = (1.0, 4.0, 16.0, 64.0)  # clips
_SMALL = 200  # cells of pools for which the integer program is solved: within seconds


@dataclass(frozen=True)
class Counted:
    """The answer.

    counts: kept clips of each cell, int64 [M]. limits: what they keep. possible: clips that can be kept within these
    limits at most, by the linear program; more than any whole counts have.
    """

    counts: np.ndarray
    limits: Limits
    possible: float


def count(cells: Cells, asked: Limits) -> Counted:
    """How many clips of each cell are kept. What was loosened is the difference of `asked` and the answer's limits."""
    limits = _each_class_alone(cells, asked)
    found = _largest(cells, limits)
    if found is None:
        whole = len(cells.capacity) <= _SMALL
        limits = Banded(cells, limits, gap=GAP).loosened(whole=whole)
        found = _largest_with_room(cells, limits)
    return found


def _largest_with_room(cells: Cells, limits: Limits) -> Counted:
    """The largest choice within limits that a solution of the program just kept, but for its rounding."""
    of_class = replace(limits, of_class=limits.of_class + ROOM)
    roomy = replace(of_class, overall=of_class.overall + ROOM)
    for each in (limits, of_class, roomy):
        if (found := _largest(cells, each)) is not None:
            return found
    return _nearest(cells, roomy)


def _largest(cells: Cells, limits: Limits) -> Counted | None:
    """The largest choice that keeps the limits, or None: none was found."""
    program = Banded(cells, limits, gap=GAP)
    totals = program.largest()
    if totals is None:
        return None
    possible = float(totals.sum())
    best = max(_choices(cells, limits, program, totals), key=lambda counts: counts.sum(), default=None)
    return None if best is None else Counted(best, limits, possible)


def _nearest(cells: Cells, limits: Limits) -> Counted:
    """The whole counts that are nearest to the largest choice of the linear program, with limits that they keep."""
    totals = Banded(cells, limits, gap=GAP).largest()
    assert totals is not None, "the loosened limits were measured on a choice"
    counts = evened(cells, limits, whole_totals(cells, limits, totals), elastic=True)
    assert counts is not None, "without bounds there is a choice"
    return Counted(counts, _exceeded(cells, limits, counts), max(float(totals.sum()), float(counts.sum())))


def _choices(cells: Cells, limits: Limits, program: Banded, largest: np.ndarray) -> Iterator[np.ndarray]:
    """Counts that keep the limits, until some are within the gap. largest: totals of the linear program."""
    tried: set[bytes] = set()
    for totals in _totals(cells, program, largest):
        whole = whole_totals(cells, limits, totals)
        if whole.tobytes() not in tried and whole.sum() > 0:
            tried.add(whole.tobytes())
            counts = evened(cells, limits, whole)
            if counts is not None:
                yield counts
                if counts.sum() >= (1 - GAP) * largest.sum():
                    return


def _totals(cells: Cells, program: Banded, largest: np.ndarray) -> Iterator[np.ndarray]:
    """Totals of classes that may be tried, float64 [classes]."""
    yield largest
    for margin in _MARGINS:
        totals = program.largest(margin=margin)
        if totals is None:
            break
        yield totals
    if len(cells.capacity) <= _SMALL and (totals := program.largest(whole=True)) is not None:
        yield totals


def _each_class_alone(cells: Cells, asked: Limits) -> Limits:
    """The limits, loosened for classes that cannot keep theirs even alone."""
    table = cells.histogram(cells.capacity)
    held = table.sum(axis=1)
    least, most = np.minimum(asked.least, held), np.minimum(asked.most, held)
    of_class = [
        least_distance(*each) for each in zip(table, least.tolist(), most.tolist(), asked.of_class, strict=True)
    ]
    return replace(asked, least=least, most=most, of_class=np.array(of_class))


def _exceeded(cells: Cells, limits: Limits, counts: np.ndarray) -> Limits:
    """The limits, as far as counts keep them; else what the counts have."""
    table = cells.histogram(counts).cumsum(axis=1)
    shares = limits.shares
    if shares is not None:
        shares = widened(shares, cells.by_pool(counts) / counts.sum())
    return replace(
        limits,
        overall=max(limits.overall, float(distances(table.sum(axis=0)[None])[0])),
        of_class=np.maximum(limits.of_class, distances(table)),
        shares=shares,
    )
