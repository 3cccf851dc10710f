"""The fingerprint of a dataset's content, by which runs know their data again.

It says nothing of where bytes lie: a view and the shards that it is written out to have the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

_NAME = b"avbench content 1"
_TEXTS = ("key", "source")
_NUMBERS = ("label", "split", "audio_checksum")
_LISTS = ("frame_checksum",)


def content_fingerprint(table: pa.Table, classes: Sequence[str]) -> str:
    """SHA-256, in hexadecimal, over the class names and, of each clip in its order, key, source, label, split and the
    checksums of sound and pictures.

    table: the index's rows, in any number of record batches; how they are cut changes nothing. Column by column: of
    texts and lists first how long each is, then what they hold, all as little-endian numbers and UTF-8.
    """
    digest = hashlib.sha256(_NAME)
    digest.update(json.dumps(list(classes)).encode())
    digest.update(np.array([len(classes), table.num_rows], "<i8").tobytes())
    for name in (*_TEXTS, *_NUMBERS, *_LISTS):
        for part in _parts(table.column(name)):
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _parts(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    """The numbers of a column in its order; of texts and lists their lengths before them."""
    if not pa.types.is_string(column.type) and not pa.types.is_list(column.type):
        yield from (_little(chunk.to_numpy(zero_copy_only=False)) for chunk in column.chunks)
        return
    offsets = [
        np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        for chunk in column.chunks
        if len(chunk)
    ]
    yield from (_little(np.diff(each)) for each in offsets)
    for chunk, each in zip(filter(len, column.chunks), offsets, strict=True):
        if pa.types.is_list(column.type):
            yield _little(chunk.values.to_numpy(zero_copy_only=False)[each[0] : each[-1]])
        elif each[-1] > each[0]:
            yield np.frombuffer(chunk.buffers()[2], np.uint8)[each[0] : each[-1]]


def _little(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False)
