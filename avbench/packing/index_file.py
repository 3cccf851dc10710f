"""The indexes of a dataset: index.arrow of all clips, and a list of each shard's members for DALI."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from avbench.dataset import CLASSES_METADATA, INDEX_SCHEMA
from avbench.records import atomic_path
from avbench.vocabulary import SPLITS

_LARGEST_OFFSET = 2**31 - 1  # of an Arrow column's texts and lists


def index_text(members: Sequence[Sequence[tuple[str, int, int]]], keys: Sequence[str]) -> str:
    """A shard's index for DALI's fn.readers.webdataset, as its tool wds2idx writes it.

    members: for each clip its members as (suffix, byte offset of the data, size in bytes).
    """
    lines = [f"v1.2 {len(keys)}"]
    for key, clip in zip(keys, members, strict=True):
        lines.append(" ".join(f"{suffix} {offset} {size} {key}.{suffix}" for suffix, offset, size in clip))
    return "\n".join(lines) + "\n"


def frame_suffix(number: int) -> str:
    """Suffix of a frame's member in a shard."""
    return f"{number:03d}.jpg"


def write_index(
    path: Path, tables: Sequence[pa.Table], classes: Sequence[str], *, largest_offset: int = _LARGEST_OFFSET
) -> None:
    """Write shards' rows as one index: one record batch, so that a reader's columns are views of the mapped file.

    Where keys, sources or frames of all shards are too many for 32-bit offsets, as many batches as it takes.
    """
    schema = INDEX_SCHEMA.with_metadata({CLASSES_METADATA: json.dumps(list(classes))})
    with atomic_path(path) as partial, partial.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        for group in _groups(tables, largest_offset):
            joined = pa.concat_tables([table.replace_schema_metadata(None) for table in group])
            writer.write_table(joined.combine_chunks())


def _groups(tables: Sequence[pa.Table], largest_offset: int) -> Iterator[list[pa.Table]]:
    """The tables in order, as many together as 32-bit offsets can tell apart."""
    group: list[pa.Table] = []
    reached = np.zeros(3, np.int64)
    for table in tables:
        sizes = np.array([_values_of(table.column(name)) for name in ("key", "source", "frame_offset")])
        if group and (reached + sizes > largest_offset).any():
            yield group
            group, reached = [], np.zeros(3, np.int64)
        group.append(table)
        reached += sizes
    if group:
        yield group


def _values_of(column: pa.ChunkedArray) -> int:
    """How far a column's offsets go: bytes of texts, items of lists."""
    return sum(int(np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset + len(chunk)]) for chunk in column.chunks)


def counts_of(tables: Sequence[pa.Table], classes: Sequence[str]) -> Counter[tuple[str, str]]:
    """How many clips of each split and class."""
    counts: Counter[tuple[str, str]] = Counter()
    for table in tables:
        places = table.column("split").to_numpy().astype(np.int64) * len(classes) + table.column("label").to_numpy()
        for place, count in zip(*map(np.ndarray.tolist, np.unique(places, return_counts=True)), strict=True):
            counts[SPLITS[place // len(classes)], classes[place % len(classes)]] += count
    return counts
