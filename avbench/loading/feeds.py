"""What the graphs are fed for a batch of clips: encoded bytes, and what to make of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import simplejpeg
import soundfile

from avbench.loading.presets import AudioPreset

RESAMPLING_LOBES = 16  # of the sinc, each side; also those of DALI's quality 50, its default
_RESAMPLING_MARGIN_SECONDS = 0.05  # kept around the wanted part before resampling, so that the filters see beyond it
_STOCK_SIDE = 16


@dataclass(frozen=True, slots=True)
class AudioFeed:
    """What the audio graph wants for B clips, and what it makes of them.

    encoded: bytes, uint8 each. sample_rates_hz, samples: of the files, int64 [B]. starts: the first sample to use,
    int64 [B].
    """

    encoded: Sequence[np.ndarray]
    sample_rates_hz: np.ndarray
    samples: np.ndarray
    starts: np.ndarray
    preset: AudioPreset

    @property
    def fitted(self) -> np.ndarray:
        """Samples at the preset's rate that are the clip's own, int64 [B]: the preset's, less where a clip is short."""
        resampled = -(-(self.samples - self.starts) * self.preset.sample_rate_hz // self.sample_rates_hz)
        return np.clip(resampled, 1, self.preset.samples)

    @property
    def steps(self) -> np.ndarray:
        """Time steps before each clip's end, int64 [B]."""
        return np.array([self.preset.transform.steps(count) for count in self.fitted.tolist()], np.int64)

    def inputs(self) -> dict[str, Any]:
        """By the names of the graph's inputs."""
        wanted_hz, fitted = self.preset.sample_rate_hz, self.fitted
        return {
            "encoded": list(self.encoded),
            "start": _column(self.starts),
            "length": _column(fitted),
            "copies": [np.zeros((count, 1), np.float32) for count in (-(-self.preset.samples // fitted)).tolist()],
            "sample_rate": np.asarray(self.sample_rates_hz, np.float32),
            "low_pass": [low_pass(rate, wanted_hz) for rate in self.sample_rates_hz.tolist()],
            **self._margins(),
        }

    def of_clip(self, row: int, *, clips: int) -> AudioFeed:
        """The feed of one of the batch's clips alone."""
        assert clips == len(self.encoded)
        rows = slice(row, row + 1)
        return AudioFeed(
            self.encoded[rows], self.sample_rates_hz[rows], self.samples[rows], self.starts[rows], self.preset
        )

    def _margins(self) -> dict[str, Any]:
        """What to resample: file samples `read_from` to `read_from` + `read`, of which the first `skip` are dropped.

        `skip` counts samples at the preset's rate, so the margin before the start is a whole number at both rates.
        `rows`: what is read as a matrix, of each row of which decimation keeps the first sample.
        """
        rates, wanted_hz = self.sample_rates_hz, self.preset.sample_rate_hz
        margin = np.ceil(rates * _RESAMPLING_MARGIN_SECONDS).astype(np.int64)
        unit = rates // np.gcd(rates, wanted_hz)
        before = np.where(self.starts > 0, -(-margin // unit) * unit, 0)
        read = before + window_samples(self.preset, rates) + margin
        if self.preset.short == "repeat":
            # Silence after a short clip's end would be repeated with it.
            read = np.where(self.fitted < self.preset.samples, self.samples, read)
        skip = before * wanted_hz // rates
        factor = np.maximum(rates // wanted_hz, 1)
        rows = -(-read // factor)
        return {
            "read_from": _column(self.starts - before),
            "read": _column(read),
            "read_whole": _column(rows * factor),
            "rows": np.stack([rows, factor], axis=1).astype(np.int32),
            "skip": _column(skip),
        }


def window_samples(preset: AudioPreset, sample_rates_hz: np.ndarray) -> np.ndarray:
    """Samples of files of these rates that the preset's seconds are, int64 [B]."""
    return np.rint(preset.seconds * sample_rates_hz).astype(np.int64)


def _column(numbers: np.ndarray) -> np.ndarray:
    return np.asarray(numbers, np.int32)[:, None]


@dataclass(frozen=True, slots=True)
class VisualFeed:
    """What the visual graph wants for N pictures: JPEG bytes, boxes (left, top, width, height) [N, 4], flips [N]."""

    encoded: Sequence[np.ndarray]
    boxes: np.ndarray
    flips: np.ndarray

    def inputs(self) -> dict[str, Any]:
        """By the names of the graph's inputs."""
        boxes = np.asarray(self.boxes, np.int32)
        return {
            "encoded": list(self.encoded),
            "start": np.ascontiguousarray(boxes[:, :2]),
            "shape": np.ascontiguousarray(boxes[:, 2:]),
            "flip": np.asarray(self.flips, np.int32),
        }

    def of_clip(self, row: int, *, clips: int) -> VisualFeed:
        """The feed of one of the batch's clips alone, with all its pictures."""
        count = len(self.encoded) // clips
        rows = slice(row * count, (row + 1) * count)
        return VisualFeed(self.encoded[rows], self.boxes[rows], self.flips[rows])


Feed = AudioFeed | VisualFeed


@cache
def stock_audio(preset: AudioPreset) -> np.ndarray:
    """A silent clip at the preset's rate, encoded, uint8: what stands in for one whose bytes are bad."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(preset.samples, np.int16), preset.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return np.frombuffer(file.getvalue(), np.uint8)


@cache
def stock_picture() -> np.ndarray:
    """A small grey JPEG, uint8: what stands in for a picture whose bytes are bad."""
    grey = np.full((_STOCK_SIDE, _STOCK_SIDE, 3), 128, np.uint8)
    return np.frombuffer(simplejpeg.encode_jpeg(grey, colorspace="RGB"), np.uint8)


def stock_box() -> np.ndarray:
    """The box of the whole stock picture: left, top, width, height."""
    return np.array([0, 0, _STOCK_SIDE, _STOCK_SIDE])


@cache
def low_pass(rate_hz: int, wanted_rate_hz: int) -> np.ndarray:
    """The filter to apply at one rate before resampling to a lower one: float32 [1, taps]; the identity if not lower.

    A sinc of 16 zero crossings a side under a Hann window, cut off at 0.99 of the lower Nyquist rate: torchaudio's
    `resample` with lowpass_filter_width 16.
    """
    if wanted_rate_hz >= rate_hz:
        return np.ones((1, 1), np.float32)
    cutoff = 0.99 * wanted_rate_hz / rate_hz  # as a share of the rate's own Nyquist rate
    half = int(RESAMPLING_LOBES / cutoff)
    tap = np.arange(-half, half + 1)
    taps = np.sinc(cutoff * tap) * np.cos(np.pi * cutoff * tap / (2 * RESAMPLING_LOBES)) ** 2
    return (taps / taps.sum()).astype(np.float32)[None]
