"""A DALI graph as its documentation builds one: fn.readers.webdataset, decoders, DALIGenericIterator.

Fair, and to its advantage: its tar holds one picture a clip, chosen when it is written, since the reader can neither
choose among ten nor skip bytes; random_crop is fused into the JPEG decoder. One thread, the default prefetch of two.
Not tuned: DALI's default spectrogram layout, its resizing, the logarithm in the graph. `tuned` changes three settings,
as our pipeline has them and any user of DALI could: time before frequency, powers in place of magnitudes, and the root
and the logarithm in torch, in place.
What it does not do: an order that is the same on any number of ranks, exact resume, checksums. It pads the last batch
by repeating clips, which LastBatchPolicy.PARTIAL drops again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nvidia.dali.fn as fn
import nvidia.dali.math as dali_math
import nvidia.dali.types as types
import torch
import webdataset
from nvidia.dali import pipeline_def
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator
from torch import Tensor

from peers import Epoch, Task
from peers.tensors import LOG_OFFSET, PRESET, SHUFFLE_BUFFER, STFT, chosen, samples_of

_NAMES = {"audio": "audio", "visual": "frames"}


def make(task: Task, *, threads: int = 1, device_id: int | None = None, tuned: bool = False) -> Epoch:
    """A tar of the dataset's own bytes with one picture a clip, and an iterator over a graph that reads it.

    device_id: of the GPU that decodes pictures and computes spectrograms; None: the CPU does.
    """
    path = str(task.folder / "clips.tar")
    with webdataset.TarWriter(path) as tar:
        for number, sample in enumerate(samples_of(task)):
            tar.write({"__key__": f"{number:06d}", **_with_one_picture(sample)})
    pipeline = _graph(
        path,
        task,
        device_id is not None,
        tuned,
        batch_size=task.batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=2,
        seed=0,
    )
    names = [_NAMES[modality] for modality in task.modalities]
    batches = DALIGenericIterator(
        [pipeline], names, reader_name="reader", last_batch_policy=LastBatchPolicy.PARTIAL, auto_reset=True
    )

    def epoch() -> Iterator[tuple[Tensor | None, Tensor | None]]:
        for (batch,) in batches:
            audio = batch.get("audio")
            yield _finished(audio) if tuned and audio is not None else audio, batch.get("frames")

    return epoch


def _with_one_picture(sample: dict[str, bytes]) -> dict[str, bytes]:
    pictures = [name for name in sample if name.endswith("jpg")]
    kept = {name: data for name, data in sample.items() if name == "audio"}
    return {**kept, "jpg": sample[chosen(pictures)]} if pictures else kept


def _finished(powers: Tensor) -> Tensor:
    """What the network sees, [B, 1, F, T], of powers [B, T, F]; a view."""
    return powers.sqrt_().add_(LOG_OFFSET).log_().transpose(1, 2).unsqueeze(1)


@pipeline_def
def _graph(path: str, task: Task, on_gpu: bool, tuned: bool) -> Any:
    suffixes = [{"audio": "audio", "visual": "jpg"}[modality] for modality in task.modalities]
    read = fn.readers.webdataset(
        paths=[path],
        ext=suffixes,
        random_shuffle=True,
        initial_fill=SHUFFLE_BUFFER,
        missing_component_behavior="error",
        name="reader",
    )
    encoded = dict(zip(suffixes, read if isinstance(read, list | tuple) else [read], strict=True))
    outputs = []
    if "audio" in encoded:
        outputs.append(_spectrogram(encoded["audio"], on_gpu=on_gpu, tuned=tuned))
    if "jpg" in encoded:
        outputs.append(_picture(encoded["jpg"], on_gpu=on_gpu))
    return tuple(outputs)


def _spectrogram(encoded: Any, *, on_gpu: bool, tuned: bool) -> Any:
    waveform, _ = fn.decoders.audio(encoded, dtype=types.FLOAT, downmix=True)
    waveform = fn.slice(
        waveform, start=[0], shape=[PRESET.audio.samples], axes=[0], out_of_bounds_policy="pad", fill_values=[0.0]
    )
    spectrogram = fn.spectrogram(
        waveform.gpu() if on_gpu else waveform,
        nfft=STFT.n_fft,
        window_length=STFT.n_fft,
        window_step=STFT.hop_length,
        window_fn=torch.hann_window(STFT.n_fft).tolist(),
        power=2 if tuned else 1,
        layout="tf" if tuned else "ft",
    )
    return spectrogram if tuned else fn.expand_dims(dali_math.log(spectrogram + LOG_OFFSET), axes=[0])


def _picture(encoded: Any, *, on_gpu: bool) -> Any:
    visual = PRESET.visual
    crop = fn.decoders.image_random_crop(
        encoded,
        device="mixed" if on_gpu else "cpu",
        output_type=types.RGB,
        random_area=list(visual.scale),
        random_aspect_ratio=list(visual.ratio),
    )
    resized = fn.resize(crop, size=[visual.height, visual.width], interp_type=types.INTERP_LINEAR, antialias=True)
    return fn.crop_mirror_normalize(
        resized,
        mirror=fn.random.coin_flip(),
        dtype=types.FLOAT,
        output_layout="CHW",
        mean=[255 * value for value in visual.mean],
        std=[255 * value for value in visual.deviation],
    )
