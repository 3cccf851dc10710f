"""The programs behind a choice: how many clips of each cell are kept.

The clips of a cell are alike, so that the unknowns are counts, and their number hangs on classes, bins and pools, and
not on the number of candidates. With C_j the number of kept clips in the first j of B bins, N all of them and
F_j = j / B, a Kolmogorov-Smirnov distance of at most e is |C_j - F_j N| <= e N for all j. That is linear for a fixed
e, overall and in each class, although N is itself unknown. Two programs are made of it:

* `Banded`: the totals N of the classes are unknown. What is wanted is the largest choice or, where there is none, the
  one of which the fewest clips stand out of the bounds. As a linear program (counts need not be whole) it is solved
  within seconds; as an integer program it may take minutes, so that this is for small pools only.
* `evened`: the totals are known. Of all choices with these totals, the one is wanted whose bins are most even: the sum
  of |C_j - F_j N| over the bins, overall and in each class, is the least. The bounds are whole numbers here. The first
  bins of the classes are nested sets, and so are those of all clips; with two such families every corner of the linear
  program is whole, so that the integer program is solved as quickly as a linear one. (Shares of pools are a third
  family. With them it may have to branch.)

HiGHS is deterministic, and it is stopped by gap and number of nodes only: a time limit would make the choice hang on
the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp
from scipy.sparse import csr_array, vstack

ORDER = ("overall", "shares", "of_class")
"""Kinds of bounds of a program that may be loosened, the most important first."""

ROOM = 1e-6
"""Of a distance or share: HiGHS is exact to a millionth only, and what it reached is to be a bound that can be kept."""

_SAME = 1e-8  # of a distance: less is rounding
FAR = 1000.0  # what a clip out of the band costs, where one beside the target costs 1
_NODES = 500
_OPTIMAL, _INFEASIBLE = 0, 2  # SciPy's words for how a program ended
_TOLERANCE = 1e-6  # of a clip: HiGHS keeps bounds to that


@dataclass(frozen=True)
class Cells:
    """Where the clips are: cell i holds `capacity[i]` clips of one class, bin and pool.

    class_of, bin_of, pool_of, capacity: int64 [M], ordered by class, bin and pool, with no cell twice.
    """

    class_of: np.ndarray
    bin_of: np.ndarray
    pool_of: np.ndarray
    capacity: np.ndarray
    classes: int
    bins: int
    pools: int

    def histogram(self, counts: np.ndarray) -> np.ndarray:
        """int64 [classes, bins]: the counts [M] of cells, added up over pools."""
        table = np.zeros((self.classes, self.bins), np.int64)
        np.add.at(table, (self.class_of, self.bin_of), counts)
        return table

    def by_pool(self, counts: np.ndarray) -> np.ndarray:
        """int64 [pools]: the counts [M] of cells, added up over classes and bins."""
        return np.bincount(self.pool_of, weights=counts, minlength=self.pools).astype(np.int64)


@dataclass(frozen=True)
class Limits:
    """What counts of cells have to keep to.

    size: most clips in all. least, most: clips of each class, int64 [classes]. overall: Kolmogorov-Smirnov distance of
    all. of_class: that of each class, float64 [classes]. shares: least and most share of each pool, float64 [pools, 2],
    or None where pools do not matter.
    """

    size: int
    least: np.ndarray
    most: np.ndarray
    overall: float
    of_class: np.ndarray
    shares: np.ndarray | None


@dataclass(frozen=True)
class _Columns:
    """Where the unknowns of `Banded` lie: counts, cumulative counts by class, of all, and what stands out."""

    cells: int
    classes: int
    bins: int
    pools: int

    @cached_property
    def of_class(self) -> np.ndarray:
        """[classes, bins]; the last bin's is the class's total."""
        return self.cells + np.arange(self.classes * self.bins).reshape(self.classes, self.bins)

    @cached_property
    def of_all(self) -> np.ndarray:
        """[bins]; the last bin's is the number of kept clips."""
        return self.cells + self.classes * self.bins + np.arange(self.bins)

    @cached_property
    def excess(self) -> dict[str, np.ndarray]:
        """By kind of bound, in clips: one overall, one a pool, one a class."""
        start = int(self.of_all[-1]) + 1
        return {
            "overall": np.array([start]),
            "shares": start + 1 + np.arange(self.pools),
            "of_class": start + 1 + self.pools + np.arange(self.classes),
        }

    @property
    def count(self) -> int:
        return int(self.of_all[-1]) + 2 + self.pools + self.classes


_Entry = tuple[ArrayLike, ArrayLike, ArrayLike]
"""Rows, columns and coefficients."""


class _Rows:
    """Rows of a sparse matrix, some at a time, with their bounds."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.blocks: list[csr_array] = []
        self.lower: list[np.ndarray] = []
        self.upper: list[np.ndarray] = []

    def add(self, count: int, *entries: _Entry, lower: ArrayLike, upper: ArrayLike) -> None:
        """entries: (row within the block, column, coefficient), arrays that fit each other."""
        arrays = [np.broadcast_arrays(*entry) for entry in entries]
        rows, columns, values = (np.concatenate([np.ravel(entry[part]) for entry in arrays]) for part in range(3))
        self.blocks.append(csr_array((values.astype(float), (rows, columns)), shape=(count, self.columns)))
        self.lower.append(np.broadcast_to(np.asarray(lower, float), count))
        self.upper.append(np.broadcast_to(np.asarray(upper, float), count))

    def constraint(self) -> LinearConstraint:
        return LinearConstraint(vstack(self.blocks).tocsc(), np.concatenate(self.lower), np.concatenate(self.upper))


class Banded:
    """The program whose totals are unknown. gap: how far a solution may be from the best, as a share of it."""

    def __init__(self, cells: Cells, limits: Limits, *, gap: float) -> None:
        self.cells, self.limits, self.gap = cells, limits, gap
        pools = 0 if limits.shares is None else cells.pools
        self.columns = _Columns(len(cells.capacity), cells.classes, cells.bins, pools)
        self.constraints = [self._rows().constraint()]

    def largest(self, *, margin: float = 0.0, whole: bool = False) -> np.ndarray | None:
        """Totals of the classes of the largest choice, float64 [classes], or None: there is none, or none was found.

        margin: clips by which the overall bound is to be kept with room to spare. whole: counts are whole numbers.
        """
        cost = np.zeros(self.columns.count)
        cost[self.columns.of_all[-1]] = -1
        lower, upper = self._bounds()
        lower[self.columns.excess["overall"]] = upper[self.columns.excess["overall"]] = -margin
        values = self._solve(cost, lower, upper, whole=whole)
        return None if values is None else values[self.columns.of_class[:, -1]]

    def loosened(self, *, whole: bool) -> Limits:
        """The bounds within which there is a choice, by order of importance; as they are, where there is one already.

        One kind of bound after the other, the most important first, is exceeded by as few clips as possible (added up
        over classes or pools), while those before it are exceeded by no more than they had to be. whole: counts are
        whole numbers.
        """
        # Most often it is enough to loosen the least important kind, which one program says.
        for kinds in (ORDER[-1:], ORDER):
            values = self._least_excess([kind for kind in kinds if len(self.columns.excess[kind])], whole=whole)
            if values is not None:
                return self._measured(values)
        raise AssertionError("with every bound loosened there is a choice")

    def _least_excess(self, kinds: list[str], *, whole: bool) -> np.ndarray | None:
        lower, upper = self._bounds()
        for kind in kinds:
            upper[self.columns.excess[kind]] = np.inf
        constraints, values = list(self.constraints), None
        for kind in kinds:
            cost = np.zeros(self.columns.count)
            cost[self.columns.excess[kind]] = 1
            values = self._solve(cost, lower, upper, whole=whole, constraints=constraints)
            if values is None:
                return None
            most = float(cost @ values) + _TOLERANCE
            constraints.append(LinearConstraint(csr_array(cost[None]), -np.inf, most))
        return values

    def _measured(self, values: np.ndarray) -> Limits:
        """The limits, as far as a solution keeps them; else what the solution has."""
        limits, shares = self.limits, self.limits.shares
        of_class = distances(values[self.columns.of_class])
        overall = float(distances(values[self.columns.of_all][None])[0])
        if shares is not None:
            kept = np.bincount(self.cells.pool_of, values[: self.columns.cells], self.cells.pools)
            shares = widened(shares, kept / values[self.columns.of_all[-1]])
        return replace(
            limits,
            overall=overall + ROOM if overall > limits.overall + _SAME else limits.overall,
            of_class=np.where(of_class > limits.of_class + _SAME, of_class + ROOM, limits.of_class),
            shares=shares,
        )

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = np.zeros(self.columns.count), np.full(self.columns.count, np.inf)
        upper[: self.columns.cells] = self.cells.capacity
        lower[self.columns.of_class[:, -1]] = self.limits.least
        upper[self.columns.of_class[:, -1]] = self.limits.most
        lower[self.columns.of_all[-1]] = 1
        upper[self.columns.of_all[-1]] = self.limits.size
        for columns in self.columns.excess.values():
            upper[columns] = 0
        return lower, upper

    def _solve(
        self,
        cost: np.ndarray,
        lower: np.ndarray,
        upper: np.ndarray,
        *,
        whole: bool,
        constraints: list[LinearConstraint] | None = None,
    ) -> np.ndarray | None:
        integrality = np.zeros(self.columns.count)
        integrality[: self.columns.cells] = whole
        return _solved(cost, integrality, Bounds(lower, upper), constraints or self.constraints, gap=self.gap)

    def _rows(self) -> _Rows:
        cells, columns, rows = self.cells, self.columns, _Rows(self.columns.count)
        table = np.arange(cells.classes * cells.bins).reshape(cells.classes, cells.bins)
        rows.add(
            table.size,
            (table, columns.of_class, 1.0),
            (table[:, 1:], columns.of_class[:, :-1], -1.0),
            (table[cells.class_of, cells.bin_of], np.arange(columns.cells), -1.0),
            lower=0, upper=0,
        )  # fmt: skip
        place = np.arange(cells.bins)
        rows.add(cells.bins, (place, columns.of_all, 1.0), (place, columns.of_class, -1.0), lower=0, upper=0)
        self._add_band(rows, columns.of_all[None], np.array([self.limits.overall]), columns.excess["overall"])
        self._add_band(rows, columns.of_class, self.limits.of_class, columns.excess["of_class"])
        if self.limits.shares is not None:
            self._add_shares(rows, self.limits.shares)
        return rows

    def _add_band(self, rows: _Rows, cumulative: np.ndarray, distance: np.ndarray, excess: np.ndarray) -> None:
        """|C_j - F_j N| <= e N + excess, for each row of cumulative counts."""
        groups, bins = len(cumulative), self.cells.bins
        place = np.arange(groups * (bins - 1)).reshape(groups, bins - 1)
        uniform = np.arange(1, bins) / bins
        for sign, lower, upper in ((1.0, -np.inf, 0.0), (-1.0, 0.0, np.inf)):
            rows.add(
                place.size,
                (place, cumulative[:, :-1], 1.0),
                (place, cumulative[:, -1:], -(uniform + sign * distance[:, None])),
                (place, excess[:, None], -sign),
                lower=lower, upper=upper,
            )  # fmt: skip

    def _add_shares(self, rows: _Rows, shares: np.ndarray) -> None:
        place, every = np.arange(self.cells.pools), np.arange(self.columns.cells)
        for sign, share, lower, upper in ((1.0, shares[:, 1], -np.inf, 0.0), (-1.0, shares[:, 0], 0.0, np.inf)):
            rows.add(
                len(place),
                (self.cells.pool_of, every, 1.0),
                (place, self.columns.of_all[-1], -share),
                (place, self.columns.excess["shares"], -sign),
                lower=lower, upper=upper,
            )  # fmt: skip


def distances(cumulative: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov distance from uniform of each row of cumulative counts [groups, bins]; 0 where it is empty."""
    bins = cumulative.shape[1]
    totals = cumulative[:, -1]
    away = np.abs(cumulative - totals[:, None] * np.arange(1, bins + 1) / bins).max(axis=1)
    return np.where(totals > _TOLERANCE, away / np.maximum(totals, _TOLERANCE), 0.0)


def widened(shares: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Least and most shares [pools, 2] between which those that were reached [pools] lie, too."""
    low, high = np.minimum(shares[:, 0], reached - ROOM), np.maximum(shares[:, 1], reached + ROOM)
    inside = (reached >= shares[:, 0]) & (reached <= shares[:, 1])
    return np.where(inside[:, None], shares, np.stack([low, high], axis=1))


def evened(cells: Cells, limits: Limits, totals: np.ndarray, *, elastic: bool = False) -> np.ndarray | None:
    """The most even counts with these totals of classes, int64 [M], or None: there are none within the limits.

    totals: int64 [classes]. elastic: the limits may be exceeded, by as few clips as possible, added up over the bins.
    """
    bands = Bands.of(np.append(totals, totals.sum()), np.append(limits.of_class, limits.overall), cells.bins)
    if not elastic and (bands.low > bands.high).any():
        return None
    columns = _EvenedColumns(len(cells.capacity), bands.low.shape, 0 if limits.shares is None else cells.pools)
    upper, cost = columns.bounds_and_cost(cells, bands, elastic=elastic)
    rows = columns.rows(cells, bands, limits.shares, int(totals.sum()))
    integrality = np.arange(len(cost)) < len(cells.capacity)
    values = _solved(cost, integrality, Bounds(0, upper), [rows.constraint()], gap=0.0)
    return None if values is None else np.rint(values[: len(cells.capacity)]).astype(np.int64)


@dataclass(frozen=True)
class Bands:
    """Whole numbers between which cumulative counts lie, and those around the target; int64 [groups, bins]."""

    low: np.ndarray
    high: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray

    @classmethod
    def of(cls, totals: np.ndarray, distance: np.ndarray, bins: int) -> Bands:
        """totals: int64 [groups]. distance: the bound of each group, float64 [groups]. Where low > high, none fits."""
        target = totals[:, None] * np.arange(1, bins + 1) / bins
        leeway = (distance * totals)[:, None] + _TOLERANCE
        low, high = np.maximum(np.ceil(target - leeway), 0), np.minimum(np.floor(target + leeway), totals[:, None])
        low[:, -1] = high[:, -1] = totals
        floor, ceiling = np.floor(target + _TOLERANCE), np.ceil(target - _TOLERANCE)
        fits = low <= high
        inside = (np.where(fits, np.clip(edge, low, high), edge) for edge in (floor, ceiling))
        return cls(*(edge.astype(np.int64) for edge in (low, high, *inside)))


@dataclass(frozen=True)
class _EvenedColumns:
    """Where the unknowns of `evened` lie.

    Behind the counts come six of each bin of a group. What lies in the first bins is the floor, and what is free up to
    the ceiling, and what is over, or far over (out of the band), less what is under, or far under. At the end are clips
    of each pool beyond its least and most share.
    """

    cells: int
    shape: tuple[int, int]
    pools: int

    def part(self, number: int) -> np.ndarray:
        """[groups, bins] columns: free, over, far over, under, far under."""
        size = self.shape[0] * self.shape[1]
        return self.cells + number * size + np.arange(size).reshape(self.shape)

    def bounds_and_cost(self, cells: Cells, bands: Bands, *, elastic: bool) -> tuple[np.ndarray, np.ndarray]:
        far = np.where(elastic, np.inf, 0.0)
        fixed = np.arange(self.shape[1]) == self.shape[1] - 1  # the totals
        wide = np.broadcast_to(np.where(fixed, 0.0, far), self.shape)
        over, under = np.maximum(bands.high - bands.ceiling, 0), np.maximum(bands.floor - bands.low, 0)
        parts = (bands.ceiling - bands.floor, over, wide, under, wide)
        # All clips count as much as all classes together, so that neither is given up for the other.
        weight = np.ones(self.shape)
        weight[-1] = self.shape[0] - 1
        costs = (0.0, 1.0, FAR, 1.0, FAR)
        upper = np.concatenate([cells.capacity, *(part.ravel() for part in parts), np.full(2 * self.pools, far)])
        cost = [np.zeros(self.cells), *((each * weight).ravel() for each in costs)]
        return upper, np.concatenate([*cost, np.full(2 * self.pools, FAR * self.shape[0])])

    def rows(self, cells: Cells, bands: Bands, shares: np.ndarray | None, kept: int) -> _Rows:
        groups, bins = self.shape
        table, own = np.arange(groups * bins).reshape(self.shape), np.arange(self.cells)
        rows = _Rows(self.cells + 5 * table.size + 2 * self.pools)
        entries: list[_Entry] = []
        for number, sign in enumerate((1.0, 1.0, 1.0, -1.0, -1.0)):
            part = self.part(number)
            entries += [(table, part, sign), (table[:, 1:], part[:, :-1], -sign)]
        # A bin's own count is the difference of two cumulative ones.
        entries += [(table[cells.class_of, cells.bin_of], own, -1.0), (table[-1][cells.bin_of], own, -1.0)]
        steps = -np.diff(bands.floor, axis=1, prepend=0).ravel()
        rows.add(table.size, *entries, lower=steps, upper=steps)
        if shares is not None:
            place = np.arange(self.pools)
            beyond = self.cells + 5 * table.size + place
            rows.add(
                self.pools, (cells.pool_of, own, 1.0), (place, beyond, 1.0), (place, beyond + self.pools, -1.0),
                lower=np.ceil(shares[:, 0] * kept - _TOLERANCE), upper=np.floor(shares[:, 1] * kept + _TOLERANCE),
            )  # fmt: skip
        return rows


def _solved(
    cost: np.ndarray, integrality: np.ndarray, bounds: Bounds, constraints: list[LinearConstraint], *, gap: float
) -> np.ndarray | None:
    """The unknowns, or None where there are none, or none were found within the nodes."""
    relaxed = _by_interior_points(cost, bounds, constraints)
    if relaxed.status == _INFEASIBLE:
        return None
    if relaxed.status == _OPTIMAL:
        whole = relaxed.x[integrality > 0]
        if (np.abs(whole - np.rint(whole)) < _TOLERANCE).all():
            return relaxed.x
    options = {"mip_rel_gap": gap, "node_limit": _NODES}
    return milp(cost, integrality=integrality, bounds=bounds, constraints=constraints, options=options).x


def _by_interior_points(cost: np.ndarray, bounds: Bounds, constraints: list[LinearConstraint]) -> OptimizeResult:
    """The result of the program whose unknowns need not be whole.

    It ends at a corner, as the simplex does. With 200 classes it takes seconds where the simplex takes minutes.
    """
    matrix = vstack([each.A for each in constraints]).tocsr()
    low, high = (np.concatenate([np.broadcast_to(getattr(each, end), each.A.shape[0]) for each in constraints])
                 for end in ("lb", "ub"))  # fmt: skip
    equal = low == high
    above, below = ~equal & np.isfinite(low), ~equal & np.isfinite(high)
    return linprog(
        cost,
        A_ub=vstack([matrix[below], -matrix[above]]),
        b_ub=np.concatenate([high[below], -low[above]]),
        A_eq=matrix[equal],
        b_eq=low[equal],
        bounds=np.stack([bounds.lb, bounds.ub], axis=1),
        method="highs-ipm",
    )
