"""The clips that may be chosen: which of them can be used, in which cell each lies, and which of a cell are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from avbench.curation.choosing.constraints import Constraints
from avbench.curation.choosing.evenness import bins_of
from avbench.curation.choosing.program import Cells
from avbench.errors import DatasetError
from avbench.wording import counted, first_of


@dataclass(frozen=True)
class Candidates:
    """Clips of one or more pools; a clip is known by its pool and its key.

    keys: N strings. pool_of, class_of: places in `pools` and `classes`, int [N]. audio, visual: mean confidences of the
    true label, float [N] in [0, 1]; NaN where a clip has none.
    """

    keys: Sequence[str]
    pool_of: np.ndarray
    class_of: np.ndarray
    audio: np.ndarray
    visual: np.ndarray
    pools: tuple[str, ...]
    classes: tuple[str, ...]

    def check(self) -> None:
        """Raise DatasetError where a clip is there twice, a confidence is none, or a class has no clip at all."""
        lengths = {len(each) for each in (self.keys, self.pool_of, self.class_of, self.audio, self.visual)}
        assert len(lengths) == 1, lengths
        counts = np.bincount(self.class_of, minlength=len(self.classes))
        empty = [name for name, count in zip(self.classes, counts, strict=True) if not count]
        if empty:
            raise DatasetError(f"no candidates of {first_of(empty, 5, noun='classes')}: leave it out, or add a pool")
        for name, values in (("audio", self.audio), ("visual", self.visual)):
            wrong = np.flatnonzero((values < 0) | (values > 1))
            if len(wrong):
                clip = self.keys[wrong[0]]
                raise DatasetError(f"{name} confidence {values[wrong[0]]:g} of clip {clip!r}: expected one in [0, 1]")
        self._check_keys()

    def _check_keys(self) -> None:
        hashes = hashes_of(self.keys, seed=0)
        ordered = np.lexsort((self.pool_of, hashes))
        alike = hashes[ordered[1:]] == hashes[ordered[:-1]]
        alike &= self.pool_of[ordered[1:]] == self.pool_of[ordered[:-1]]
        for place in np.flatnonzero(alike):
            one, other = ordered[place], ordered[place + 1]
            if self.keys[one] == self.keys[other]:
                raise DatasetError(f"clip {self.keys[one]!r} is twice in pool {self.pools[self.pool_of[one]]!r}")


@dataclass(frozen=True)
class Dropped:
    """Clips that cannot be chosen, counted by the first reason that holds.

    unknown: without a confidence. noise: both confidences are below the bound. outside: of the range.
    """

    unknown: int
    noise: int
    outside: int

    def text(self) -> str:
        """One line."""
        return (
            f"{counted(self.unknown, 'clip')} without confidence, {self.noise:,} as noise and {self.outside:,} "
            "outside of the range are dropped"
        )


@dataclass(frozen=True)
class Usable:
    """Candidates that may be chosen.

    rows: of the candidates, ascending, int64 [U]. discrepancies: float64 [U]. cell_of: int64 [U].
    """

    rows: np.ndarray
    discrepancies: np.ndarray
    cell_of: np.ndarray
    cells: Cells
    dropped: Dropped


def usable(candidates: Candidates, constraints: Constraints) -> Usable:
    """Which candidates may be chosen, and in which cells they lie.

    Pools make cells of their own only where their shares are bounded.
    """
    audio, visual = np.asarray(candidates.audio, np.float64), np.asarray(candidates.visual, np.float64)
    discrepancy = audio - visual
    known = np.isfinite(discrepancy)
    noise = known & (audio < constraints.noise) & (visual < constraints.noise)
    outside = known & ~noise & ~((discrepancy >= constraints.low) & (discrepancy <= constraints.high))
    rows = np.flatnonzero(known & ~noise & ~outside)
    cells, cell_of = _cells(candidates, rows, discrepancy[rows], constraints)
    dropped = Dropped(int((~known).sum()), int(noise.sum()), int(outside.sum()))
    return Usable(rows, discrepancy[rows], cell_of, cells, dropped)


def _cells(
    candidates: Candidates, rows: np.ndarray, discrepancy: np.ndarray, constraints: Constraints
) -> tuple[Cells, np.ndarray]:
    bins, pools = constraints.bins, len(candidates.pools)
    pool = candidates.pool_of[rows] if constraints.shares else np.int64(0)
    code = (candidates.class_of[rows].astype(np.int64) * bins + bins_of(discrepancy, constraints.edges)) * pools + pool
    found, cell_of, capacity = np.unique(code, return_inverse=True, return_counts=True)
    class_of, bin_of, pool_of = found // (bins * pools), found // pools % bins, found % pools
    cells = Cells(class_of, bin_of, pool_of, capacity, len(candidates.classes), bins, pools)
    return cells, cell_of


def hashes_of(keys: Sequence[str], *, seed: int) -> np.ndarray:
    """XXH3 of each key, uint64 [N]."""
    each = (xxhash.xxh3_64_intdigest(key.encode(), seed) for key in keys)
    return np.fromiter(each, np.uint64, len(keys))


def taken(candidates: Candidates, found: Usable, counts: np.ndarray, *, seed: int) -> np.ndarray:
    """Rows of the clips that are kept, ascending, int64: of each cell those whose keys' hashes are the smallest.

    counts: of each cell, int64 [M]. What is taken hangs on seed, keys and names of pools, and not on the order of rows.
    """
    keys = [candidates.keys[row] for row in found.rows.tolist()]
    names = np.argsort(np.argsort(np.array(candidates.pools)))  # the place of each name in their order
    # Equal hashes: two keys of one hash are as good as impossible; the same key in two pools goes by the pool's name.
    order = np.lexsort((names[candidates.pool_of[found.rows]], hashes_of(keys, seed=seed), found.cell_of))
    starts = np.concatenate([[0], np.cumsum(found.cells.capacity)])[:-1]
    place = np.arange(len(order)) - starts[found.cell_of[order]]
    return np.sort(found.rows[order[place < counts[found.cell_of[order]]]])
