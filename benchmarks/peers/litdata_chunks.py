"""LitData: `optimize` writes chunks, a StreamingDataset with a StreamingDataLoader reads them from the local disk.

Fair: encoded bytes are stored, not tensors, as all contenders do; chunks of its default 64 MB; for one modality they
hold only that. A sample is read whole, all ten pictures, since LitData has no part of one; one is decoded. Decoding as
in peers/tensors.py. One worker process, which StreamingDataLoader starts anew for every epoch unless persistent_workers
says otherwise, as here. `optimize` deletes its cache folders before it starts, by default `chunks` and `data` of the
temporary folder, whoever made them; so it gets two of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import litdata
from torch import Tensor

from peers import Epoch, Task
from peers.tensors import ClipTensors, samples_of


class Clips(litdata.StreamingDataset):
    """Samples as tensors."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, shuffle=True)
        self.tensors = ClipTensors()

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.tensors(super().__getitem__(index))


def _same(sample: dict[str, bytes]) -> dict[str, bytes]:
    return sample


def make(task: Task) -> Epoch:
    """Chunks of the dataset's own bytes, and a loader over them."""
    folder = str(task.folder / "dataset")
    for variable in ("DATA_OPTIMIZER_CACHE_FOLDER", "DATA_OPTIMIZER_DATA_CACHE_FOLDER"):
        os.environ[variable] = str(task.folder / variable)
    litdata.optimize(
        fn=_same, inputs=list(samples_of(task)), output_dir=folder, chunk_bytes="64MB", num_workers=1, verbose=False
    )
    loader = litdata.StreamingDataLoader(
        Clips(folder),
        batch_size=task.batch_size,
        **task.processes,
        drop_last=False,
    )

    def epoch() -> Iterator[tuple[Tensor | None, Tensor | None]]:
        for item in loader:
            yield item.get("audio"), item.get("frames")

    return epoch
