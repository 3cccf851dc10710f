"""SPDL: a pipeline of threads in the training process, over one audio file and ten JPEG files a clip.

Fair: WAV goes through SPDL's own parser (spdl.io.load_wav), which copies nothing; FLAC through soundfile and JPEGs
through torchvision, which release the interpreter's lock as SPDL's threads want it, and need no FFmpeg. It opens the
one picture that it has chosen. One decoding thread beside the pipeline's own, two batches ahead, no worker process, so
no tensor is copied between processes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import spdl.io
import torch
from spdl.pipeline import PipelineBuilder
from torch import Tensor

from peers import Epoch, Task
from peers.tensors import ClipTensors, chosen, samples_of


def make(task: Task) -> Epoch:
    """Files of the dataset's own bytes, and a pipeline over them, built for every epoch, as SPDL's are."""
    clips = []
    for number, sample in enumerate(samples_of(task)):
        folder = task.folder / f"{number:06d}"
        folder.mkdir()
        for name, data in sample.items():
            (folder / name).write_bytes(data)
        clips.append(folder)
    tensors = ClipTensors()
    audio = partial(_wav, tensors) if task.dataset.audio_suffix == "wav" else tensors.audio

    def epoch() -> Iterator[tuple[Tensor | None, Tensor | None]]:
        builder = PipelineBuilder().add_source(random.sample(clips, len(clips)))
        builder = builder.pipe(partial(_load, tensors, audio)).aggregate(task.batch_size).pipe(_stacked).add_sink(2)
        pipeline = builder.build(num_threads=1)
        with pipeline.auto_stop():
            for batch in pipeline:
                yield batch.get("audio"), batch.get("frames")

    return epoch


def _wav(tensors: ClipTensors, encoded: bytes) -> Tensor:
    samples = np.asarray(spdl.io.load_wav(encoded))
    return tensors.spectrogram(samples[:, 0].astype(np.float32) / np.float32(32768))


def _load(tensors: ClipTensors, audio: Callable[[bytes], Tensor], folder: Path) -> dict[str, Tensor]:
    item = {}
    names = [path.name for path in folder.iterdir()]
    if "audio" in names:
        item["audio"] = audio((folder / "audio").read_bytes())
    pictures = sorted(name for name in names if name.endswith("jpg"))
    if pictures:
        item["frames"] = tensors.frame((folder / chosen(pictures)).read_bytes())
    return item


def _stacked(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}
