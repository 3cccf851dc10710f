"""A packed dataset: dataset.json, index.arrow and the tar shards; where every byte of every clip is.

A clip's id is its row in index.arrow. Rows are in shard order, and a shard holds clips of one split only (train first,
then val, then test), so the ids of a split are one range and a WebDataset reader can be pointed at the shards of one
split. Nothing of a shard is read before somebody asks for a clip: shards are memory-mapped, and the index's columns are
views of the mapped file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from avbench.errors import DatasetError
from avbench.records import SPLITS

FORMAT = "avbench-dataset"
FORMAT_VERSION = 1
DESCRIPTION_FILE = "dataset.json"
INDEX_FILE = "index.arrow"
REJECTS_FILE = "rejects.jsonl"
QUARANTINE_FILE = "quarantine.jsonl"
QUALITY_FILE = "quality.parquet"  # see packing/quality.py

# One row a clip. Offsets are absolute bytes in the clip's shard, of the member's data (not its tar header).
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("split", pa.int8()),  # number in records.SPLITS
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


def shard_name(number: int) -> str:
    """File name of a shard; its DALI index has the suffix .idx in place of .tar."""
    return f"shard-{number:06d}.tar"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class FrameTable:
    """Every frame of every clip, flat: clip i owns rows first[i] to first[i + 1] of the other arrays."""

    first: np.ndarray  # int64 [N + 1]
    offset: np.ndarray  # int64
    size: np.ndarray  # int32
    checksum: np.ndarray  # uint64


class Dataset:
    """A packed dataset, opened for reading.

    Columns, one value a clip, numpy views of the memory-mapped index: `labels` (int32), `splits` (int8, number in
    records.SPLITS), `shards`, `audio_offsets`, `audio_sizes`, `audio_checksums`, `samples`, `sample_rates`, `widths`,
    `heights`; `frames` is a FrameTable.

    Raises DatasetError where the folder is missing, empty, of another format version, or a shard is missing or has not
    the size it was packed with. Contents are not read here: `avbench verify` does that.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.description = _read_description(self.path)
        self.name: str = self.description["name"]
        self.classes: tuple[str, ...] = tuple(self.description["classes"])
        self.audio_suffix: str = self.description["audio_suffix"]
        self._check_shards()
        self._table = self._open_index()
        column = self._column
        self.labels = column("label")
        self.splits = column("split")
        self.shards = column("shard")
        self.audio_offsets = column("audio_offset")
        self.audio_sizes = column("audio_size")
        self.audio_checksums = column("audio_checksum")
        self.samples = column("samples")
        self.sample_rates = column("sample_rate")
        self.widths = column("width")
        self.heights = column("height")
        lists = {name: self._table.column(f"frame_{name}").chunk(0) for name in ("offset", "size", "checksum")}
        self.frames = FrameTable(
            first=lists["offset"].offsets.to_numpy(zero_copy_only=True).astype(np.int64),
            **{name: array.values.to_numpy(zero_copy_only=True) for name, array in lists.items()},
        )
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """Identifies the dataset's contents: the SHA-256 of its index, checksums of every component included."""
        return self.description["index_sha256"]

    @cached_property
    def quarantined(self) -> np.ndarray:
        """Sorted ids of the clips that `avbench verify --quarantine` set aside, int64."""
        path = self.path / QUARANTINE_FILE
        if not path.exists():
            return np.empty(0, np.int64)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            return np.unique(np.array([json.loads(line)["clip_id"] for line in lines], np.int64))
        except (ValueError, KeyError):
            raise DatasetError(
                f"{path}: not a quarantine list; run `avbench verify {self.path} --quarantine`"
            ) from None

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
        return self._table.column("key")[int(clip_id)].as_py()

    def column(self, name: str, clip_ids: Sequence[int] | np.ndarray) -> pa.ChunkedArray:
        """A column of the index for these clips, as Arrow; for the columns that are no attribute (key, source, ...)."""
        return self._table.column(name).take(pa.array(np.asarray(clip_ids, np.int64)))

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
        return {**kept, "path": str(self.path.resolve()), "quarantined": len(self.quarantined)}

    def _column(self, name: str) -> np.ndarray:
        return self._table.column(name).chunk(0).to_numpy(zero_copy_only=True)

    def _shard_bytes(self, clip_id: int) -> np.ndarray:
        number = int(self.shards[clip_id])
        mapped = self._maps.get(number)
        if mapped is None:
            mapped = self._maps[number] = np.memmap(self.path / shard_name(number), np.uint8, mode="r")
        return mapped

    def _open_index(self) -> pa.Table:
        path = self.path / INDEX_FILE
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except FileNotFoundError:
            raise DatasetError(f"{path}: missing; pack the dataset again") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{path}: not a readable index ({error}); pack the dataset again") from None
        if not table.schema.equals(INDEX_SCHEMA):
            raise DatasetError(
                f"{path}: has not the columns of format version {FORMAT_VERSION}; pack the dataset again"
            )
        counted = sum(shard["clips"] for shard in self.description["shards"])
        if table.num_rows != counted:
            raise DatasetError(
                f"{path}: lists {table.num_rows} clips, the shards hold {counted}; run `avbench verify {self.path}`"
            )
        if table.num_rows == 0:
            raise DatasetError(f"{self.path}: holds no clips; see {self.path / REJECTS_FILE}")
        # Writers make one record batch; a second would make every column a copy.
        return table if table.column("key").num_chunks == 1 else table.combine_chunks()

    def _check_shards(self) -> None:
        for number, shard in enumerate(self.description["shards"]):
            path = self.path / shard_name(number)
            if not path.exists():
                raise DatasetError(f"{path}: missing; restore it or pack the dataset again")
            size = path.stat().st_size
            if size != shard["size_bytes"]:
                raise DatasetError(
                    f"{path}: has {size} bytes, was packed with {shard['size_bytes']} (truncated?); "
                    f"restore it or pack the dataset again"
                )


def _read_description(path: Path) -> dict[str, Any]:
    file = path / DESCRIPTION_FILE
    if not path.exists():
        raise DatasetError(f"{path}: no such dataset folder; make one with `avbench pack`")
    if not file.exists():
        what = "is empty" if path.is_dir() and not any(path.iterdir()) else f"has no {DESCRIPTION_FILE}"
        raise DatasetError(f"{path}: {what}, so it is no packed dataset; make one with `avbench pack` or let it finish")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        format_name, version = description["format"], description["version"]
    except (ValueError, KeyError, TypeError):
        raise DatasetError(f"{file}: not the description of a packed dataset") from None
    if format_name != FORMAT or version != FORMAT_VERSION:
        raise DatasetError(
            f"{file}: is {format_name} version {version}; this avbench reads {FORMAT} version {FORMAT_VERSION}: "
            f"pack the dataset again or install the avbench that wrote it"
        )
    return description
