"""Preset `paper`'s tensors of a clip by the fastest way that torch's own packages have; several peers call it.

soundfile (libsndfile) decodes audio, torchaudio makes the spectrogram, torchvision decodes JPEGs (libjpeg-turbo) and
transforms them as uint8 tensors. On the CPU no other way of these packages was faster.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from avbench.dataset import Dataset
from avbench.loading.presets import PRESETS, Stft
from peers import Task

PRESET = PRESETS["paper"]
STFT = cast(Stft, PRESET.audio.transform)
LOG_OFFSET = cast(float, STFT.log_offset)
AUDIO_SHAPE = (1, *PRESET.audio.shape)
FRAME_SHAPE = (3, PRESET.visual.height, PRESET.visual.width)
SHUFFLE_BUFFER = 100  # clips, of peers that shuffle in a buffer


def fitted(samples: np.ndarray) -> np.ndarray:
    """Cut or zero-padded to the preset's length."""
    return np.pad(samples[: PRESET.audio.samples], (0, max(0, PRESET.audio.samples - len(samples))))


class ClipTensors:
    """Encoded bytes to tensors."""

    def __init__(self) -> None:
        visual = PRESET.visual
        self._powers = torchaudio.transforms.Spectrogram(STFT.n_fft, hop_length=STFT.hop_length, power=1.0)
        self._transform = v2.Compose(
            [
                v2.RandomResizedCrop((visual.height, visual.width), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(visual.mean, visual.deviation, inplace=True),
            ]
        )

    def spectrogram(self, samples: np.ndarray) -> Tensor:
        """[1, F, T] of float32 samples of any length."""
        return self._powers(torch.from_numpy(fitted(samples))).add_(LOG_OFFSET).log_()[None]

    def audio(self, encoded: bytes) -> Tensor:
        """[1, F, T] of a file's bytes."""
        samples, _ = soundfile.read(io.BytesIO(encoded), dtype="float32")
        return self.spectrogram(samples)

    def picture(self, picture: Tensor) -> Tensor:
        """[3, H, W] of a whole one, uint8 [3, H, W]: a random resized crop, flipped or not, normalized."""
        return self._transform(picture)

    def frame(self, encoded: bytes) -> Tensor:
        """[3, H, W] of a JPEG."""
        return self.picture(decode_jpeg(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), ImageReadMode.RGB))

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """Of a sample with `audio`, with pictures by names that end in `jpg`, or with both: what it holds is wanted."""
        item = {}
        if "audio" in sample:
            item["audio"] = self.audio(sample["audio"])
        pictures = sorted(name for name in sample if name.endswith("jpg"))
        if pictures:
            item["frames"] = self.frame(sample[chosen(pictures)])
        return item


def chosen(pictures: list[str]) -> str:
    """One of them at random."""
    return pictures[int(torch.randint(len(pictures), ()))]


def samples_of(task: Task) -> Iterable[dict[str, bytes]]:
    """The clips' encoded bytes of the wanted modalities: `audio`, and `000jpg`, `001jpg`, ..."""
    for clip_id in task.clip_ids.tolist():
        sample = {}
        if "audio" in task.modalities:
            sample["audio"] = task.dataset.audio_bytes(clip_id).tobytes()
        if "visual" in task.modalities:
            for frame in range(frame_count(task.dataset, clip_id)):
                sample[f"{frame:03d}jpg"] = task.dataset.frame_bytes(clip_id, frame).tobytes()
        yield sample


def frame_count(dataset: Dataset, clip_id: int) -> int:
    """Pictures that a clip has."""
    return int(dataset.frame_counts(np.array([clip_id]))[0])
