"""MosaicML Streaming: MDSWriter writes shards, a StreamingDataset in a torch DataLoader reads them from the local disk.

Fair: encoded bytes are stored, not tensors, uncompressed and without hashes; shards of its default 64 MB; for one
modality they hold only that. A sample is read whole, all ten pictures; one is decoded, as in peers/tensors.py. One
worker process that lives on. Clips of unequal numbers of pictures leave columns empty, since a shard's columns are
fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import streaming
from streaming.base.util import clean_stale_shared_memory
from torch import Tensor
from torch.utils.data import DataLoader

from peers import Epoch, Task
from peers.tensors import ClipTensors, samples_of


class Clips(streaming.StreamingDataset):
    """Samples as tensors."""

    def __init__(self, folder: str, batch_size: int) -> None:
        super().__init__(local=folder, shuffle=True, batch_size=batch_size)
        self.tensors = ClipTensors()

    def __getitem__(self, at: Any) -> dict[str, Tensor]:
        return self.tensors({name: data for name, data in super().__getitem__(at).items() if data})


def make(task: Task) -> Epoch:
    """Shards of the dataset's own bytes, and a loader over them."""
    clean_stale_shared_memory()  # of a process that was killed; its own advice
    folder = str(task.folder / "shards")
    samples = list(samples_of(task))
    columns = dict.fromkeys(sorted({name for sample in samples for name in sample}), "bytes")
    with streaming.MDSWriter(out=folder, columns=columns) as out:
        for sample in samples:
            out.write({name: sample.get(name, b"") for name in columns})
    loader = DataLoader(Clips(folder, task.batch_size), task.batch_size, **task.processes)

    def epoch() -> Iterator[tuple[Tensor | None, Tensor | None]]:
        for item in loader:
            yield item.get("audio"), item.get("frames")

    return epoch
