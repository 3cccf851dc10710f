"""Numbers by which a run ranks clips for each class, some rows at a time: they are the largest part of a run's files.

A clip's numbers are its class probabilities or their logarithms; only their order within a class counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int32] | NDArray[np.int64]
Values = NDArray[Any]  # float32 or float64

# Of one run at a time, in memory: a batch read from a file.
_BATCH_BYTES = 16 << 20


class ClassScores(Protocol):
    """What ranks the evaluated clips for each class.

    classes: how many there are. rounded: whether they are float32 probabilities, of which confident ones are all 1.
    """

    @property
    def classes(self) -> int:
        """How many classes there are."""

    @property
    def rounded(self) -> bool:
        """Whether they are float32 probabilities, of which all confident ones are exactly 1."""

    def batches(self) -> Iterator[tuple[Rows, Values]]:
        """Places (B,) among the evaluated clips, and their numbers (B, classes), finite; each clip once."""


@dataclass(frozen=True, slots=True)
class HeldScores:
    """Numbers that are in memory: (N, classes), of all evaluated clips in order."""

    values: Values
    rounded: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Of the array."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.values.shape[1]

    def batches(self) -> Iterator[tuple[Rows, Values]]:
        """As `ClassScores` says."""
        rows = batch_rows(self.classes, self.values.dtype.itemsize)
        for first in range(0, len(self.values), rows):
            part = np.asarray(self.values[first : first + rows])
            yield np.arange(first, first + len(part)), part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Values:
        return np.asarray(self.values, dtype)


class Columns(Protocol):
    """The numbers of one run, to be asked for class by class."""

    def column(self, number: int) -> Values:
        """Of each evaluated clip, in order, its number for a class, (N,): the caller's own."""


class ByClass(Protocol):
    """Turns one run's numbers round, within so much memory: what does not fit lies elsewhere for a while."""

    def __call__(self, scores: ClassScores, *, clips: int, memory_bytes: int) -> AbstractContextManager[Columns]:
        """clips: how many are evaluated. The columns are there until the context ends."""


@dataclass(frozen=True, slots=True)
class Room:
    """What measuring may take, none of which changes a number.

    by_class: what turns a run's numbers round. memory_bytes: for them and all that is made of them; runs are measured
    some at a time where it is little. threads: at most so many.
    """

    by_class: ByClass
    memory_bytes: int
    threads: int


def scores_of(values: ClassScores | Values) -> ClassScores:
    """The same, whether it is an array or not."""
    return HeldScores(values) if isinstance(values, np.ndarray) else values


def batch_rows(classes: int, itemsize: int) -> int:
    """How many rows of so many numbers are worked on at a time."""
    return max(256, _BATCH_BYTES // (classes * itemsize))
