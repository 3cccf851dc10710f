"""Numbers by which a run ranks clips for each class, some rows at a time: they are the largest part of a run's files.

A clip's numbers are its class probabilities or their logarithms; only their order within a class counts. They are read
when they are wanted, and one run's at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avbench.errors import RunError
from avbench.records import opened_table

Rows = NDArray[np.int32] | NDArray[np.int64]
Values = NDArray[Any]  # float32 or float64

# Of one run at a time, in memory: a batch read from a file.
_BATCH_BYTES = 16 << 20
# Of each run of somebody's own file, in memory until it is measured.
_HELD_BYTES = 32 << 20


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


@dataclass(frozen=True, slots=True)
class StoredScores:
    """Numbers in a column of lists of a Parquet file, whose rows stand in any order.

    places: of each of the file's rows its place among the evaluated clips, -1 for rows that are not read (of a
    replaced modality, of clips that are not evaluated). `path` is named in what is wrong with it.
    """

    path: Path
    column: str
    classes: int
    places: Rows
    rounded: bool = False

    def batches(self) -> Iterator[tuple[Rows, Values]]:
        """As `ClassScores` says. Row groups without a wanted row are not read. Raises RunError for damage."""
        wanted = self.places >= 0
        last = int(np.flatnonzero(wanted)[-1]) if wanted.any() else -1
        with opened_table(self.path) as file:
            width = batch_rows(self.classes, 8)
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if wanted[first : first + rows].any():
                    # The rest of a group is not even decompressed once its last wanted row is there.
                    for batch in file.iter_batches(width, row_groups=[group], columns=[self.column], use_threads=False):
                        chosen = wanted[first : first + len(batch)]
                        if chosen.any():
                            yield self.places[first : first + len(batch)][chosen], self._values(batch.column(0), chosen)
                        first, rows = first + len(batch), rows - len(batch)
                        if first > last:
                            return
                first += rows

    def _values(self, column: pa.Array, chosen: NDArray[np.bool_]) -> Values:
        kept = column if chosen.all() else column.filter(pa.array(chosen))
        values = kept.flatten().to_numpy(zero_copy_only=False) if _is_lists(kept.type) else np.empty(0)
        if kept.null_count or len(values) != len(kept) * self.classes or values.dtype.kind != "f":
            raise RunError(
                f"{self.path}: column {self.column} holds {column.type}, expected {self.classes} numbers a clip"
            )
        if not np.isfinite(values).all():
            raise RunError(f"{self.path}: some class probabilities are not finite; that run diverged, train it again")
        return values.reshape(-1, self.classes)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the array that they are together."""
        return int((self.places >= 0).sum()), self.classes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Values:
        found = np.empty(self.shape, np.float64)
        for rows, values in self.batches():
            found[rows] = values
        return found if dtype is None else found.astype(dtype)


def is_filled(path: Path, column: str, *, row: int) -> bool:
    """Whether a row of a Parquet file has something in this column. Raises RunError where the file is broken."""
    with opened_table(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < first + rows:
                for batch in file.iter_batches(1024, row_groups=[group], columns=[column], use_threads=False):
                    if row < first + len(batch):
                        return batch.column(0)[row - first].is_valid
                    first += len(batch)
            first += rows
    return False


def scores_of(values: ClassScores | Values) -> ClassScores:
    """The same, whether it is an array or not."""
    return HeldScores(values) if isinstance(values, np.ndarray) else values


def _is_lists(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)


def batch_rows(classes: int, itemsize: int) -> int:
    """How many rows of so many numbers are worked on at a time."""
    return max(256, _BATCH_BYTES // (classes * itemsize))


# One class after the other


@dataclass(frozen=True, slots=True)
class Columns:
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
def by_class(scores: ClassScores, *, clips: int, memory_bytes: int) -> Iterator[Columns]:
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
        yield Columns(pieces, spilled, file, dtype, where)


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="avbench-")
    except OSError as error:
        raise RunError(f"no folder for temporary files can be written ({error}); set TMPDIR to one that can") from None


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
