"""A packed dataset: dataset.json, index.arrow and the tar shards; where every byte of every clip is.

A clip's id is its row in index.arrow. Rows are in shard order, and a shard holds clips of one split only (train first,
then val, then test), so the ids of a split are one range and a WebDataset reader can be pointed at the shards of one
split. Of a view, whose shards lie in other folders, a shard may hold clips of several splits; its rows are in the order
of splits, and within a split in that of shards. Nothing of a shard is looked at before somebody asks for a clip: shards
are memory-mapped, and the index's columns are views of the mapped file.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from avbench.description import DESCRIPTION_FILE as DESCRIPTION_FILE
from avbench.description import FORMAT as FORMAT
from avbench.description import FORMAT_VERSION as FORMAT_VERSION
from avbench.description import VIEW_VERSION, read_description
from avbench.errors import DatasetError
from avbench.fingerprint import content_fingerprint
from avbench.quarantine import QUARANTINE_FILE as QUARANTINE_FILE
from avbench.quarantine import Quarantine, read_quarantine
from avbench.shards import Shards, folder_of
from avbench.shards import shard_name as shard_name
from avbench.vocabulary import SPLITS

INDEX_FILE = "index.arrow"
REJECTS_FILE = "rejects.jsonl"
QUALITY_FILE = "quality.parquet"  # see packing/quality.py
CLASSES_METADATA = b"classes"  # of the index's schema: the class names in order, as JSON

# One row a clip. Offsets are absolute bytes in the clip's shard, of the member's data (not its tar header). Keys,
# sources and frames have 32-bit offsets, so a record batch holds less than 2^31 bytes or frames of each: a dataset that
# has more has several batches.
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("split", pa.int8()),  # number in SPLITS
        ("source", pa.string()),  # name of the video it was cut from; windows of one video share it
        ("start_seconds", pa.float64()),
        ("shard", pa.int32()),
        ("audio_offset", pa.int64()),
        ("audio_size", pa.int64()),
        ("audio_checksum", pa.uint64()),
        ("samples", pa.int64()),
        ("sample_rate", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frame_offset", pa.list_(pa.int64())),
        ("frame_size", pa.list_(pa.int32())),
        ("frame_checksum", pa.list_(pa.uint64())),
        ("planted_audio", pa.float64()),  # true quality of a planted clip; null for every other
        ("planted_visual", pa.float64()),
    ]
)


def checksum(data: bytes | memoryview | np.ndarray) -> int:
    """XXH3-64 of some bytes: the checksum of each component of a clip."""
    return xxhash.xxh3_64_intdigest(data)  # type: ignore[arg-type]  # its stub knows no numpy


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Pieces:
    """Arrays one after the other, read by place as if they were one; nothing is copied.

    What a column is whose index has several record batches. Asked for one place it gives a scalar, for an array of
    places an array.
    """

    def __init__(self, pieces: Sequence[np.ndarray]) -> None:
        self._pieces = pieces
        self._first = np.cumsum([0, *map(len, pieces)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, places: Any) -> Any:
        wanted = np.asarray(places, np.int64)
        if wanted.size and not -len(self) <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"{places} is outside of {len(self)} values")
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        piece = np.searchsorted(self._first, wanted, side="right") - 1
        found = np.empty(wanted.shape, self._pieces[0].dtype)
        for number in np.unique(piece):
            chosen = piece == number
            found[chosen] = self._pieces[number][wanted[chosen] - self._first[number]]
        return found[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self._pieces).astype(dtype or self._pieces[0].dtype, copy=False)


Column = np.ndarray | Pieces


@dataclass(frozen=True, slots=True)
class FrameTable:
    """Every frame of every clip, flat: clip i owns rows first[i] to first[i + 1] of the other arrays."""

    first: np.ndarray  # int64 [N + 1]
    offset: Column  # int64
    size: Column  # int32
    checksum: Column  # uint64


class Dataset:
    """A packed dataset, opened for reading.

    Columns, one value a clip, views of the memory-mapped index: `labels` (int32), `splits` (int8, number in
    SPLITS), `shards`, `audio_offsets`, `audio_sizes`, `audio_checksums`, `samples`, `sample_rates`, `widths`,
    `heights`; `frames` is a FrameTable. Where the index has several record batches, `labels`, `splits`, `shards` and
    `frames.first` are copies and the others Pieces.

    `packed_shards` says what the shards were packed with, and where they lie.

    Raises DatasetError where the folder is missing, empty, of another format version, or its description or its index
    cannot be read. No shard is looked at here: `check_shards` looks whether all are there, `avbench verify` reads them,
    and integrity.check_contents reads the index.

    shards_may_be_damaged: open it also where the index lists more or fewer clips than the shards hold, for whoever is
    to say so.
    """

    def __init__(self, path: Path | str, *, shards_may_be_damaged: bool = False) -> None:
        self.path = Path(path)
        self.description = read_description(self.path)
        self.name: str = self.description["name"]
        self.classes: tuple[str, ...] = tuple(self.description["classes"])
        self.audio_suffix: str = self.description["audio_suffix"]
        self.packed_shards = Shards(self.description)
        self._table = self._open_index()
        if not shards_may_be_damaged:
            self._check_counts()
        column = self._column
        self.labels = np.asarray(column("label"))
        self.splits = np.asarray(column("split"))
        self.shards = np.asarray(column("shard"))
        self.audio_offsets = column("audio_offset")
        self.audio_sizes = column("audio_size")
        self.audio_checksums = column("audio_checksum")
        self.samples = column("samples")
        self.sample_rates = column("sample_rate")
        self.widths = column("width")
        self.heights = column("height")
        self.frames = self._frame_table()
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_view(self) -> bool:
        """Whether it is of format version 2: its shards lie in other folders, or hold clips of several splits."""
        return self.description["version"] == VIEW_VERSION

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the dataset's content, wherever its bytes lie; a view and what it is written out to have the same.

        Reads some columns of the index where the description does not say it.
        """
        told = self.description.get("fingerprint")
        return told or content_fingerprint(self._table, self.classes)

    @property
    def index_sha256(self) -> str:
        """The SHA-256 that the index was packed with."""
        return self.description["index_sha256"]

    @cached_property
    def quarantine(self) -> Quarantine:
        """What `avbench verify --quarantine` noted here, and of a view where its shards lie.

        DatasetError where the file is another.
        """
        own = read_quarantine(self.path)
        theirs = [(folder, read_quarantine(self.path / folder)) for folder in self.shard_folders if folder != "."]
        clips, shards = dict(own.clips), dict(own.shards)
        for folder, quarantine in theirs:
            clips.update(self._set_aside_there(folder, quarantine))
            shards = {**{f"{folder}/{name}": size for name, size in quarantine.shards.items()}, **shards}
        return Quarantine(clips, shards)

    @cached_property
    def shard_folders(self) -> tuple[str, ...]:
        """The folders that shards lie in, relative to the dataset's, in the order of the shards; "." for its own."""
        return tuple(dict.fromkeys(map(folder_of, self.packed_shards.places)))

    @cached_property
    def quarantined(self) -> np.ndarray:
        """Sorted ids of the dataset's clips that `avbench verify --quarantine` set aside, int64."""
        ids = self.quarantine.clip_ids
        return ids[(ids >= 0) & (ids < len(self))]

    @cached_property
    def packed_classes(self) -> tuple[str, ...] | None:
        """The class names that the index was packed with, () where they are damaged; None in older datasets."""
        text = (self._table.schema.metadata or {}).get(CLASSES_METADATA)
        try:
            return None if text is None else tuple(map(str, json.loads(text)))
        except (ValueError, TypeError, RecursionError):
            return ()

    @cached_property
    def distinct_sample_rates(self) -> np.ndarray:
        """The values that `sample_rates` has, ascending, int32."""
        return np.sort(self._table.column("sample_rate").unique().to_numpy())

    def clip_ids(self, split: str) -> np.ndarray:
        """Ids of the clips of a split that are not quarantined, ascending, int64."""
        ids = np.flatnonzero(self.splits == SPLITS.index(split))
        return ids[~np.isin(ids, self.quarantined)] if len(self.quarantined) else ids

    def key(self, clip_id: int) -> str:
        """The key of one clip."""
        return self.value("key", clip_id)

    def value(self, name: str, clip_id: int) -> Any:
        """What a column of the index has for one clip."""
        return self._table.column(name)[int(clip_id)].as_py()

    def column(self, name: str, clip_ids: Sequence[int] | np.ndarray) -> pa.ChunkedArray:
        """A column of the index for these clips, as Arrow; for the columns that are no attribute (key, source, ...)."""
        return self._table.column(name).take(pa.array(np.asarray(clip_ids, np.int64)))

    @property
    def table(self) -> pa.Table:
        """The whole index, columns of the mapped file."""
        return self._table

    def table_column(self, name: str) -> pa.ChunkedArray:
        """A whole column of the index, as Arrow."""
        return self._table.column(name)

    def rows_of_shard(self, number: int) -> pa.Table:
        """The index's rows of one shard's clips, in their order."""
        return self._table.take(pa.array(np.flatnonzero(self.shards == number)))

    def shard_name(self, number: int) -> str:
        """What a shard is called: its place relative to the dataset's folder."""
        return self.packed_shards.places[number]

    def shard_path(self, number: int) -> Path:
        """Where a shard lies."""
        return self.path / self.packed_shards.places[number]

    def check_shards(self) -> None:
        """Raises DatasetError for the first shard that is missing or has not the size that it was packed with.

        Those that `avbench verify --quarantine` knows of are passed over. Looks at every file, in threads.
        """
        numbers = range(len(self.packed_shards))
        with ThreadPoolExecutor(_LOOKING_THREADS) as pool:
            sizes = pool.map(self.shard_size, numbers, chunksize=_LOOKED_AT_ONCE)
            for number, size, packed in zip(numbers, sizes, self.packed_shards.size_bytes, strict=True):
                if size != packed and not self.quarantine.knows(self.shard_name(number), size):
                    pool.shutdown(cancel_futures=True)
                    raise self._bad_shard(number, size)

    def frame_counts(self, clip_ids: np.ndarray) -> np.ndarray:
        """How many frames each of these clips has, int64."""
        return self.frames.first[clip_ids + 1] - self.frames.first[clip_ids]

    def audio_bytes(self, clip_id: int) -> np.ndarray:
        """The encoded audio of a clip, a uint8 view of the memory-mapped shard; nothing is copied or checked."""
        start = int(self.audio_offsets[clip_id])
        return self._shard_bytes(clip_id)[start : start + int(self.audio_sizes[clip_id])]

    def frame_bytes(self, clip_id: int, frame: int) -> np.ndarray:
        """The JPEG of one frame of a clip, a uint8 view of the memory-mapped shard; nothing is copied or checked."""
        row = int(self.frames.first[clip_id]) + frame
        start = int(self.frames.offset[row])
        return self._shard_bytes(clip_id)[start : start + int(self.frames.size[row])]

    def frame_checksum(self, clip_id: int, frame: int) -> int:
        """The checksum that one frame of a clip was packed with."""
        return int(self.frames.checksum[int(self.frames.first[clip_id]) + frame])

    def summary(self) -> dict[str, Any]:
        """What a run folder keeps of the dataset, so that a report needs none: dataset.json without the shards."""
        kept = {name: value for name, value in self.description.items() if name != "shards"}
        return {
            **kept,
            "fingerprint": self.fingerprint,
            "path": str(self.path.resolve()),
            "quarantined": len(self.quarantined),
        }

    def check_index(self) -> None:
        """Raises DatasetError where the index's own structure is damaged: offsets that do not ascend, keys that are no
        text. Reads all of it.
        """
        try:
            self._table.validate(full=True)
        except pa.ArrowException as error:
            raise self._damaged(_first_line(error)) from None
        for batch in self._table.select([f"frame_{name}" for name in _OF_FRAMES]).to_batches():
            first, *others = (column.offsets for column in batch.columns)
            if not all(first.equals(other) for other in others):
                raise self._damaged("its lists of frames differ in length")

    def twice(self) -> str | None:
        """A key that two clips have; None where all differ."""
        counts = self._table.column("key").value_counts()
        often = np.flatnonzero(counts.field("counts").to_numpy() > 1)
        return counts.field("values")[int(often[0])].as_py() if len(often) else None

    def shard_size(self, number: int) -> int | None:
        """Bytes that a shard has now; None where it is missing or no file."""
        try:
            found = self.shard_path(number).stat()
        except OSError:
            return None
        return found.st_size if not stat.S_ISDIR(found.st_mode) else None

    def _column(self, name: str) -> Column:
        chunks = self._table.column(name).chunks
        try:
            pieces = [chunk.to_numpy(zero_copy_only=True) for chunk in chunks]
        except pa.ArrowException:
            raise self._damaged(f"column {name!r} has empty values") from None
        return pieces[0] if len(pieces) == 1 else Pieces(pieces)

    def _frame_table(self) -> FrameTable:
        columns: dict[str, list[np.ndarray]] = {}
        for name in _OF_FRAMES:
            chunks = self._table.column(f"frame_{name}").chunks
            try:
                columns[name] = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
            except pa.ArrowException:
                raise self._damaged(f"column 'frame_{name}' has empty values") from None
        lists = self._table.column("frame_offset").chunks
        firsts = [each.offsets.to_numpy().astype(np.int64) for each in lists]
        if len(firsts) > 1:
            before = np.cumsum([0, *map(len, columns["offset"])])
            ends = [first[:-1] + start for first, start in zip(firsts, before, strict=False)]
            firsts = [np.concatenate([*ends, firsts[-1][-1:] + before[len(firsts) - 1]])]
        joined = {name: each[0] if len(each) == 1 else Pieces(each) for name, each in columns.items()}
        return FrameTable(first=firsts[0], **joined)

    def _damaged(self, what: str) -> DatasetError:
        return DatasetError(f"{self.path / INDEX_FILE}: damaged ({what}); restore it or pack the dataset again")

    def _shard_bytes(self, clip_id: int) -> np.ndarray:
        number = int(self.shards[clip_id])
        mapped = self._maps.get(number)
        if mapped is None:
            try:
                mapped = self._maps[number] = np.memmap(self.shard_path(number), np.uint8, mode="r")
            except (OSError, ValueError):  # of a file of no bytes
                raise self._bad_shard(number, self.shard_size(number)) from None
        return mapped

    def _open_index(self) -> pa.Table:
        path = self.path / INDEX_FILE
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except FileNotFoundError:
            raise DatasetError(f"{path}: missing; pack the dataset again") from None
        except (OSError, pa.ArrowException, ValueError) as error:
            raise DatasetError(
                f"{path}: not a readable index ({_first_line(error)}); restore it or pack the dataset again"
            ) from None
        if not table.schema.equals(INDEX_SCHEMA):
            raise DatasetError(
                f"{path}: has not the columns of format version {self.description['version']}; pack the dataset again"
            )
        try:
            table.validate()  # that no buffer is shorter than it says; reads none of them
        except pa.ArrowException as error:
            raise self._damaged(_first_line(error)) from None
        if table.num_rows == 0:
            raise DatasetError(f"{self.path}: holds no clips; see {self.path / REJECTS_FILE}")
        return table

    def _check_counts(self) -> None:
        counted = sum(self.packed_shards.clips)
        if self._table.num_rows != counted:
            raise DatasetError(
                f"{self.path / INDEX_FILE}: lists {self._table.num_rows} clips, the shards hold {counted}; "
                f"run `avbench verify {self.path}`"
            )

    def _bad_shard(self, number: int, size: int | None) -> DatasetError:
        """What is said of a shard that has this size now (None: missing)."""
        folder = folder_of(self.shard_name(number))
        if folder != "." and not (self.path / folder).is_dir():
            return DatasetError(
                f"{self.path}: a view of shards in {self.path / folder}, and there is no such folder; move them back, "
                f"or say where they are now: `avbench view {self.path} --shards FOLDER --out NEW-VIEW`"
            )
        packed = self.packed_shards.size_bytes[number]
        what = "missing" if size is None else f"has {size} bytes, was packed with {packed} (truncated?)"
        return DatasetError(
            f"{self.shard_path(number)}: {what}; restore it or pack the dataset again, or go on without its "
            f"clips: `avbench verify {self.path} --quarantine`"
        )

    def _set_aside_there(self, folder: str, quarantine: Quarantine) -> Iterator[tuple[int, str]]:
        """Which clips of this view have been set aside in a folder that shards lie in, as (clip id, key)."""
        keys = pa.array([key for key in quarantine.clips.values() if key is not None], pa.string())
        if not len(keys):
            return
        there = np.array([folder_of(place) == folder for place in self.packed_shards.places])
        rows = np.flatnonzero(pc.is_in(self._table.column("key"), value_set=keys).to_numpy())
        for row in rows[there[self.shards[rows]]].tolist():
            yield row, self.key(row)


_LOOKING_THREADS, _LOOKED_AT_ONCE = 16, 64
_OF_FRAMES = ("offset", "size", "checksum")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
