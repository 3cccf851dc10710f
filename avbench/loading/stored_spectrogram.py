"""A spectrogram that was computed while packing and is kept in bytes: how it is made, and how it is read.

Kept is the natural logarithm of magnitudes, time first, a byte for each: value = lowest + step * byte. `lowest` is the
logarithm of silence, and byte 255 that of the loudest sinusoid that 16 bits hold, so no value can lie outside, every
clip has the same two numbers, and no byte depends on which clips are packed beside it. A scale for each clip would be
finer by what its loudest and its softest value leave unused: 11 % on average over twenty real clips.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.fft
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from avbench.dataset import Dataset
from avbench.errors import DatasetError, UsageError
from avbench.loading.presets import PRESETS, AudioPreset, Preset, Stft

if TYPE_CHECKING:  # whoever packs needs no DALI
    from avbench.loading.pipeline import Buffers

_LARGEST_BYTE = 255


@dataclass(frozen=True)
class StoredSpectrogram:
    """How the sound of a dataset's clips is kept; its entry `spectrogram` in dataset.json.

    preset: the name of one whose audio it is. shape: time steps and frequencies. lowest, step: value = lowest + step *
    byte. The others are the preset's.
    """

    preset: str
    sample_rate_hz: int
    samples: int
    n_fft: int
    hop_length: int
    log_offset: float
    shape: tuple[int, int]
    lowest: float
    step: float

    def encode(self, waveform: np.ndarray) -> bytes:
        """The bytes [T, F] of a waveform, int16 [samples], at the preset's rate; silence follows a short one."""
        half = self.n_fft // 2
        fitted = np.zeros(self.samples)  # float64: a rounding must not depend on the machine's vector code
        fitted[: len(waveform)] = waveform[: self.samples] / 32768
        padded = np.pad(fitted, half, mode="reflect")
        windows = sliding_window_view(padded, self.n_fft)[:: self.hop_length]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.n_fft) / self.n_fft)
        values = np.log(np.abs(scipy.fft.rfft(windows * hann)) + self.log_offset)
        return np.rint((values - self.lowest) / self.step).astype(np.uint8).tobytes()

    def silence(self) -> np.ndarray:
        """What stands in for a clip whose bytes are bad, uint8."""
        return np.zeros(math.prod(self.shape), np.uint8)


def stored_spectrogram(preset: Preset) -> StoredSpectrogram:
    """How the preset's audio is kept. Raises UsageError for one whose audio cannot be."""
    audio = preset.audio
    if not _is_storable(audio):
        storable = ", ".join(name for name, one in PRESETS.items() if _is_storable(one.audio))
        raise UsageError(
            f"preset {preset.name}'s audio cannot be kept as a spectrogram: that takes the logarithm of STFT "
            f"magnitudes of a clip's first seconds; presets that have it: {storable}"
        )
    transform = audio.transform
    assert isinstance(transform, Stft)
    assert transform.log_offset is not None
    lowest = math.log(transform.log_offset)
    highest = math.log(transform.n_fft / 2 + transform.log_offset)  # the Hann window's sum, times a full-scale sample
    return StoredSpectrogram(
        preset=preset.name,
        sample_rate_hz=audio.sample_rate_hz,
        samples=audio.samples,
        n_fft=transform.n_fft,
        hop_length=transform.hop_length,
        log_offset=transform.log_offset,
        shape=(audio.steps, transform.bins),
        lowest=lowest,
        step=(highest - lowest) / _LARGEST_BYTE,
    )


def _is_storable(audio: AudioPreset) -> bool:
    transform = audio.transform
    plain = isinstance(transform, Stft) and not transform.mel_bins and transform.log_offset is not None
    return plain and audio.window == "first" and audio.short == "zeros"


def spectrogram_of(dataset: Dataset, preset: Preset) -> StoredSpectrogram | None:
    """How the dataset's sound is kept where that is a spectrogram; None where it is sound.

    Raises DatasetError where the preset's audio is another.
    """
    entry: Mapping[str, Any] | None = dataset.description.get("spectrogram")
    if entry is None:
        return None
    stored = StoredSpectrogram(**{**entry, "shape": tuple(entry["shape"])})
    if _is_storable(preset.audio) and replace(stored_spectrogram(preset), preset=stored.preset) == stored:
        return stored
    raise DatasetError(
        f"{dataset.path}: its sound is kept as preset {stored.preset}'s spectrogram, which preset {preset.name} cannot "
        f'use; train with `--preset {stored.preset}`, or pack with `audio_suffix = "flac"` in the recipe'
    )


@dataclass(frozen=True, slots=True)
class SpectrogramFeed:
    """The bytes of B clips, uint8 each."""

    encoded: Sequence[np.ndarray]

    def of_clip(self, row: int, *, clips: int) -> SpectrogramFeed:
        """The feed of one of the batch's clips alone."""
        assert clips == len(self.encoded)
        return SpectrogramFeed(self.encoded[row : row + 1])


class SpectrogramPipeline:
    """Stored spectrograms -> what the network sees; fed and taken from like a FeaturePipeline, without DALI.

    buffers: memory for batches [B, T, F] on the CPU.
    """

    def __init__(self, spectrogram: StoredSpectrogram, *, buffers: Buffers, device: torch.device) -> None:
        self._spectrogram = spectrogram
        self._buffers = buffers
        self._device = device
        self._fed: deque[SpectrogramFeed] = deque()

    def feed(self, feed: SpectrogramFeed) -> None:
        """Note a batch; the work, a twentieth of a millisecond a clip, is done when it is taken."""
        self._fed.append(feed)

    def take(self) -> Tensor:
        """The oldest batch, [B, 1, F, T], a transposed view on the pipeline's device.

        Raises RuntimeError where a clip has not as many bytes as its spectrogram.
        """
        encoded = self._fed.popleft().encoded
        for data in encoded:
            if data.size != math.prod(self._spectrogram.shape):
                raise RuntimeError(f"{data.size} bytes are no spectrogram of {self._spectrogram.shape}")
        values = self._on_cpu(encoded) if self._device.type == "cpu" else self._on_gpu(encoded)
        return values.transpose(1, 2).unsqueeze(1)

    def drain(self) -> None:
        """Throw away all that was fed."""
        self._fed.clear()

    def _on_cpu(self, encoded: Sequence[np.ndarray]) -> Tensor:
        values = self._buffers.take(len(encoded))
        # In NumPy: torch would start a team of OpenMP threads. Clip by clip, while it is in the processor's cache; a
        # table of 256 floats takes more than twice as long.
        for data, row in zip(encoded, values, strict=True):
            np.copyto(row, data.reshape(self._spectrogram.shape))
            row *= self._spectrogram.step
            row += self._spectrogram.lowest
        return torch.from_numpy(values)

    def _on_gpu(self, encoded: Sequence[np.ndarray]) -> Tensor:
        """A quarter of the numbers' bytes go over the bus; the arithmetic is the CPU's, rounding by rounding."""
        pinned = torch.empty((len(encoded), *self._spectrogram.shape), dtype=torch.uint8, pin_memory=True)
        for data, row in zip(encoded, pinned.numpy(), strict=True):
            row[...] = data.reshape(self._spectrogram.shape)
        values = pinned.to(self._device, non_blocking=True).float()
        return values.mul_(self._spectrogram.step).add_(self._spectrogram.lowest)
