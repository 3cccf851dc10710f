"""Class scores that lie in a file without a name in TMPDIR for a while, where memory is too small for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from avbench.analysis.measures.class_scores import ClassScores, HeldScores, Rows, Values, batch_rows
from avbench.errors import RunError

# Of each run of somebody's own file, in memory until it is measured.
_HELD_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class ParkedScores:
    """The same in a file without a name, in which only the operating system knows it; it goes away with the process.

    places: (N,) of each of its rows the place among the evaluated clips.
    """

    file: IO[bytes]
    places: Rows
    classes: int
    dtype: np.dtype[Any]
    rounded: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Of the array that they are together."""
        return len(self.places), self.classes

    def batches(self) -> Iterator[tuple[Rows, Values]]:
        """As `ClassScores` says."""
        rows = batch_rows(self.classes, self.dtype.itemsize)
        self.file.seek(0)
        for first in range(0, self.shape[0], rows):
            part = np.empty((min(rows, self.shape[0] - first), self.classes), self.dtype)
            read_into(self.file, part)
            yield self.places[first : first + len(part)], part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Values:
        found = np.empty(self.shape, dtype or self.dtype)
        for rows, values in self.batches():
            found[rows] = values
        return found


class Park:
    """Keeps numbers for later as they come: in memory where they are few, else in a file in TMPDIR without a name."""

    def __init__(self, *, clips: int, classes: int) -> None:
        """clips: how many are evaluated, each of which is added once."""
        self._clips, self._classes = clips, classes
        self._places: list[Rows] = []
        self._held: list[Values] = []
        self._file: IO[bytes] | None = None
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def add(self, places: Rows, values: Values) -> None:
        """Numbers (B, classes) of the clips at these places; rows of no evaluated clip have place -1."""
        self._dtype = values.dtype
        kept = places >= 0
        self._places.append(places[kept])
        needed = self._clips * self._classes * values.dtype.itemsize
        if needed <= _HELD_BYTES:
            self._held.append(values[kept])
        else:
            self._file = self._file or _temporary_file()  # closed when nobody wants it any more
            _spill(self._file, values[kept], needed=needed)

    def scores(self, *, rounded: bool) -> HeldScores | ParkedScores:
        """All of them. Every clip must have been added."""
        places: Rows = np.concatenate(self._places).astype(np.int64)
        assert len(places) == self._clips
        if self._file is not None:
            return ParkedScores(self._file, places, self._classes, self._dtype, rounded)
        found = np.empty((self._clips, self._classes), self._dtype)
        found[places] = np.concatenate(self._held)
        return HeldScores(found, rounded)


@dataclass(frozen=True, slots=True)
class TurnedScores:
    """The numbers of one run, to be asked for class by class.

    pieces: of some clips each (classes, B), in memory; or, in `file`, where such a piece begins and how many clips it
    has. places: of each clip, in the order of the pieces, its place.
    """

    pieces: Sequence[Values]
    spilled: Sequence[tuple[int, int]]
    file: IO[bytes] | None
    dtype: np.dtype[Any]
    places: Rows

    def column(self, number: int) -> Values:
        """Of each evaluated clip, in order, its number for a class, (N,): the caller's own."""
        found = np.empty(len(self.places), self.dtype)
        if self.file is None:
            parts = [piece[number] for piece in self.pieces]
        else:
            parts = [self._read(start, clips, number) for start, clips in self.spilled]
        found[self.places] = np.concatenate(parts)
        return found

    def _read(self, start: int, clips: int, number: int) -> Values:
        assert self.file is not None
        values = np.empty(clips, self.dtype)
        self.file.seek(start + number * clips * self.dtype.itemsize)
        read_into(self.file, values)
        return values


@contextmanager
def by_class(scores: ClassScores, *, clips: int, memory_bytes: int) -> Iterator[TurnedScores]:
    """One run's numbers turned round, in memory where they fit into `memory_bytes`, else in a file in TMPDIR.

    The file has no name from the start, so it goes away with the process, however that ends. Raises RunError where it
    does not fit there.
    """
    pieces: list[Values] = []
    spilled: list[tuple[int, int]] = []
    places: list[Any] = []
    file: IO[bytes] | None = None
    dtype: np.dtype[Any] = np.dtype(np.float32)
    with ExitStack() as stack:
        for rows, values in scores.batches():
            dtype, turned = values.dtype, np.ascontiguousarray(values.T)
            needed = clips * scores.classes * dtype.itemsize
            places.append(rows)
            if needed <= memory_bytes:
                pieces.append(turned)
            else:
                file = file or stack.enter_context(_temporary_file())
                spilled.append((file.tell(), len(rows)))
                _spill(file, turned, needed=needed)
        where = np.concatenate(places) if places else np.empty(0, np.int64)
        if len(where) != clips:
            raise RunError(f"class probabilities of {len(where)} of {clips} evaluated clips are there; train again")
        yield TurnedScores(pieces, spilled, file, dtype, where)


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="avbench-")
    except OSError as error:
        raise RunError(f"no folder for temporary files can be written ({error}); set TMPDIR to one that can") from None


def read_into(file: IO[bytes], values: Values) -> None:
    """Fill a contiguous array from where a file stands. Raises RunError where the file ends too early."""
    buffer = values.reshape(-1).view(np.uint8).data
    while len(buffer):
        read = file.readinto(buffer)  # type: ignore[attr-defined]
        if not read:
            raise RunError(f"{tempfile.gettempdir()}: a temporary file with class probabilities ends too early")
        buffer = buffer[read:]


def _spill(file: IO[bytes], values: Values, *, needed: int) -> None:
    try:
        file.write(values.reshape(-1).view(np.uint8).data)
        file.flush()
    except OSError as error:
        raise RunError(
            f"{tempfile.gettempdir()}: cannot hold {needed / 1e9:.2g} GB of one run's class probabilities for a while "
            f"({error.strerror}); set TMPDIR to a folder with more room, or give more memory with --memory-gb"
        ) from None
