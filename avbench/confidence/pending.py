"""What was recorded and not yet sent to the rank that owns the clip."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

# What travels to the owner: columns of clip id, value and batch position, uint32 [3, n].
COLUMNS = 3
LAST_POSITION = 2**32 - 1


class Block:
    """Recorded values, up to a fixed number, so that growing copies nothing."""

    def __init__(self, capacity: int) -> None:
        self._clips_and_values = np.empty((2, capacity), np.uint32)
        # Runs of values of one batch position, and how many. 8 bytes a run, where a column would take 4 a value.
        self._positions, self._counts = array("I"), array("I")
        self._filled = 0

    def append(self, clip_id: np.ndarray, value: np.ndarray, position: int) -> int:
        """Take the first values, as many as there is room for; how many that are."""
        count = min(len(clip_id), self._clips_and_values.shape[1] - self._filled)
        if count:
            free = self._clips_and_values[:, self._filled : self._filled + count]
            free[0] = clip_id[:count]
            free[1] = value[:count]
            self._positions.append(position)
            self._counts.append(count)
            self._filled += count
        return count

    def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Clip id, value and batch position of each, in the order of recording."""
        clip, value = self._clips_and_values[:, : self._filled]
        positions, counts = (np.array(numbers, np.uint32) for numbers in (self._positions, self._counts))
        return clip, value, np.repeat(positions, counts)


class Pending:
    """What was recorded and not sent yet, in blocks."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: list[Block] = []

    def append(self, clip_id: np.ndarray, value: np.ndarray, position: int) -> None:
        """Keep values of one batch position."""
        start = self._blocks[-1].append(clip_id, value, position) if self._blocks else 0
        while start < len(clip_id):
            self._blocks.append(Block(self._capacity))
            start += self._blocks[-1].append(clip_id[start:], value[start:], position)

    def take(self) -> list[Block]:
        """All blocks, in the order of recording; none is left here."""
        blocks, self._blocks = self._blocks, []
        return blocks


def first_of_each_clip(clip: np.ndarray, value: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Columns by clip id, so that owners follow each other and each goes through its rows from one end to the other.

    Of a clip that is there twice, the value of the lower position, then the one that was recorded first.
    """
    # Sorting numbers that hold the place too is stable and ten times faster than a stable argsort.
    keys = clip.astype(np.uint64) << np.uint64(32)
    keys |= np.arange(len(clip), dtype=np.uint32)
    keys.sort()
    keys &= np.uint64(2**32 - 1)
    ordered = taken_at((clip, value, position), keys.view(np.intp))
    again = ordered[0, 1:] == ordered[0, :-1]
    if not again.any():
        return ordered
    ordered = taken_at((clip, value, position), np.lexsort((position, clip)))
    return ordered[:, np.concatenate([[True], ~again])]


def taken_at(columns: Sequence[np.ndarray], order: np.ndarray) -> np.ndarray:
    """Columns of clip id, value and batch position in this order, uint32 [3, n]."""
    taken = np.empty((len(columns), len(order)), np.uint32)
    for column, values in zip(taken, columns, strict=True):
        np.take(values, order, out=column, mode="clip")  # the default mode would take them into a buffer first
    return taken
