"""The DALI graphs: encoded bytes in, spectrograms or pictures out. One definition each, for the GPU and for the CPU.

With a GPU, pictures are decoded in DALI's mixed mode and spectrograms computed on the GPU (audio is always decoded on
the CPU: DALI has no other way); with device_id None all runs on the CPU. There DALI decodes and crops pictures, and
torch resizes them: DALI's horizontal resampling of 8-bit pixels on a CPU has no vector code and takes three times as
long. Inputs are handed over without a copy, so whoever feeds a pipeline keeps the arrays alive until the batch is
taken.
"""

from __future__ import annotations

import io
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import simplejpeg
import soundfile
import torch
from nvidia.dali import Pipeline
from torch import Tensor

from avbench.loading.features import AudioPreset, VisualPreset

_RESAMPLING_LOBES = 16  # of the sinc, each side; also those of DALI's quality 50, its default
_RESAMPLING_MARGIN_SECONDS = 0.05  # kept beyond the wanted end before resampling, so that the filters see what follows
_STOCK_SIDE = 16
_KEPT_BUFFERS = 4  # one being filled, one waiting, one just taken by the consumer, one that it is about to let go


@dataclass(frozen=True, slots=True)
class AudioFeed:
    """What the audio graph wants for B clips: encoded bytes (uint8 each), their sample rates [B], the wanted rate."""

    encoded: Sequence[np.ndarray]
    sample_rates_hz: np.ndarray
    wanted_rate_hz: int

    def inputs(self) -> dict[str, Any]:
        """By the names of the graph's inputs."""
        return {
            "encoded": list(self.encoded),
            "sample_rate": np.asarray(self.sample_rates_hz, np.float32),
            "low_pass": [low_pass(rate, self.wanted_rate_hz) for rate in self.sample_rates_hz.tolist()],
        }

    def of_clip(self, row: int, *, clips: int) -> AudioFeed:
        """The feed of one of the batch's clips alone."""
        assert clips == len(self.encoded)
        return AudioFeed(self.encoded[row : row + 1], self.sample_rates_hz[row : row + 1], self.wanted_rate_hz)


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


class FeaturePipeline:
    """A DALI pipeline that is fed batch by batch and works on up to `depth` of them at a time.

    Batches may have any size from 1 to `max_batch_size`. `take` raises RuntimeError where DALI could not decode; the
    pipeline is of no use afterwards.

    graph: given a torch.device, defines the graph and returns its one output. stock: a batch that is sure to decode.
    inputs: names of the graph's inputs; DALI refuses data for one that the graph does not use.
    finish: makes the batch's tensor of DALI's output and the feed's `inputs()`; None where the output is that tensor.
        DALI takes its output back when `finish` returns.
    """

    def __init__(
        self,
        graph: Any,
        stock: Feed,
        *,
        inputs: Sequence[str],
        max_batch_size: int,
        threads: int,
        device: torch.device,
        depth: int,
        finish: Callable[[Any, Mapping[str, Any]], Tensor] | None = None,
    ) -> None:
        self.depth = depth
        self.device = device
        self._inputs = inputs
        self._finish = finish
        self._pipeline = Pipeline(
            batch_size=max_batch_size,
            num_threads=threads,
            device_id=(device.index or 0) if device.type == "cuda" else None,
            prefetch_queue_depth=depth,
            exec_dynamic=True,  # so that outputs may be kept: the older executor overwrites them
            seed=0,  # nothing in the graphs is random
        )
        with self._pipeline:
            self._pipeline.set_outputs(graph(device))
        self._pipeline.build()
        self._fed: deque[dict[str, Any]] = deque()  # keeps the arrays alive that DALI reads
        self._warm_up(stock)

    def _warm_up(self, stock: Feed) -> None:
        """Run the first `depth` batches, which DALI starts all at once; from here on one call starts one batch."""
        for _ in range(self.depth):
            self._put_inputs(stock)
        self._pipeline.schedule_run()
        for _ in range(self.depth):
            self.take()

    @property
    def in_flight(self) -> int:
        """Batches fed and not yet taken."""
        return len(self._fed)

    def feed(self, feed: Feed) -> None:
        """Start work on a batch; returns at once."""
        self._put_inputs(feed)
        self._pipeline.schedule_run()

    def take(self) -> Tensor:
        """Wait for the oldest batch; a tensor of [N, ...] that is the caller's own, on the pipeline's device."""
        (output,) = self._pipeline.share_outputs()
        try:
            if self._finish is not None:
                return self._finish(output, self._fed[0])
            tensor = torch.from_dlpack(output.as_tensor())
            if self.device.type == "cuda":
                # DALI takes its memory back when the last reference goes, not when torch's kernels are done with it:
                # one copy into torch's own memory, finished before DALI's goes, costs little on a GPU.
                tensor = tensor.clone()
                torch.cuda.current_stream(self.device).synchronize()
            return tensor
        finally:
            self._pipeline.release_outputs()
            self._fed.popleft()

    def drain(self) -> None:
        """Wait for all that was fed and throw it away."""
        while self._fed:
            self.take()

    def _put_inputs(self, feed: Feed) -> None:
        inputs = feed.inputs()
        for name in self._inputs:
            self._pipeline.feed_input(name, inputs[name])
        self._fed.append(inputs)


def audio_pipeline(preset: AudioPreset, *, resample: bool, **options: Any) -> FeaturePipeline:
    """Encoded audio -> powers |X|^2 or mel powers, time first: float32 [B, T, F] (`finish_audio` does the rest).

    resample: whether clips may have another sample rate than the preset's.
    """

    def graph(device: torch.device) -> Any:
        encoded = _input("encoded", types.UINT8, 1)
        waveform, _ = fn.decoders.audio(encoded, dtype=types.FLOAT, downmix=True)
        if resample:
            waveform = _resampled(waveform, preset)
        waveform = _fit(waveform, [preset.samples])
        return _spectrogram(waveform.gpu() if device.type == "cuda" else waveform, preset)

    stock = AudioFeed([stock_audio(preset)], np.array([preset.sample_rate_hz]), preset.sample_rate_hz)
    inputs = ("encoded", "sample_rate", "low_pass") if resample else ("encoded",)
    return FeaturePipeline(graph, stock, inputs=inputs, **options)


def _fit(waveform: Any, samples: Any) -> Any:
    """The first samples of a waveform, zero-padded where it is shorter."""
    return fn.slice(waveform, start=[0], shape=samples, axes=[0], out_of_bounds_policy="pad", fill_values=[0.0])


def _resampled(waveform: Any, preset: AudioPreset) -> Any:
    """A waveform of any rate at the preset's, a little longer than the preset wants."""
    sample_rate = _input("sample_rate", types.FLOAT, 0)
    kept = fn.cast(sample_rate * (preset.seconds + _RESAMPLING_MARGIN_SECONDS), dtype=types.INT32)
    waveform = _fit(waveform, fn.reshape(kept, shape=[1]))
    # DALI's resampling interpolates only: what lies above the lower of the two Nyquist rates would fold back.
    row = fn.reshape(waveform, shape=[1, -1], layout="HW")
    row = fn.filter(row, _input("low_pass", types.FLOAT, 2), np.float32(0), border="constant")
    waveform = fn.reshape(row, shape=[-1], layout="t")
    return fn.audio_resample(waveform, in_rate=sample_rate, out_rate=float(preset.sample_rate_hz))


@cache
def low_pass(rate_hz: int, wanted_rate_hz: int) -> np.ndarray:
    """The filter to apply at one rate before resampling to a lower one: float32 [1, taps]; the identity if not lower.

    A sinc of 16 zero crossings a side under a Hann window, cut off at 0.99 of the lower Nyquist rate: torchaudio's
    `resample` with lowpass_filter_width 16.
    """
    if wanted_rate_hz >= rate_hz:
        return np.ones((1, 1), np.float32)
    cutoff = 0.99 * wanted_rate_hz / rate_hz  # as a share of the rate's own Nyquist rate
    half = int(_RESAMPLING_LOBES / cutoff)
    tap = np.arange(-half, half + 1)
    taps = np.sinc(cutoff * tap) * np.cos(np.pi * cutoff * tap / (2 * _RESAMPLING_LOBES)) ** 2
    return (taps / taps.sum()).astype(np.float32)[None]


def _spectrogram(waveform: Any, preset: AudioPreset) -> Any:
    spectrogram = fn.spectrogram(
        waveform,
        nfft=preset.n_fft,
        window_length=preset.n_fft,
        window_step=preset.hop_length,
        # DALI's own Hann window is half a sample off torch's periodic one, 0.4 % of the maximum.
        window_fn=torch.hann_window(preset.n_fft).tolist(),
        power=2,  # the root is cheaper in torch
        layout="tf",  # about twice as fast as "ft"
    )
    if not preset.mel_bins:
        return spectrogram
    return fn.mel_filter_bank(
        spectrogram,
        sample_rate=float(preset.sample_rate_hz),
        nfilter=preset.mel_bins,
        freq_low=0.0,
        freq_high=preset.mel_high_hz,
        mel_formula="htk",
        normalize=False,
    )


def finish_audio(powers: Tensor, preset: AudioPreset, *, buffers: Buffers) -> Tensor:
    """The log-spectrogram [B, 1, F, T] of the audio graph's powers [B, T, F], a transposed view.

    On the CPU it is in one of `buffers`, so that DALI has its memory back at once; on a GPU it is in place.
    """
    if powers.device.type == "cpu":
        # In NumPy: torch would start a team of OpenMP threads for the loader's thread, against the one that trains.
        values = buffers.take(len(powers))
        if preset.mel_bins:
            np.add(powers.numpy(), np.float32(preset.log_offset), out=values)
        else:
            np.sqrt(powers.numpy(), out=values)
            np.add(values, np.float32(preset.log_offset), out=values)
        np.log(values, out=values)
        powers = torch.from_numpy(values)
    else:
        if not preset.mel_bins:
            powers.sqrt_()
        powers.add_(preset.log_offset).log_()
    return powers.transpose(1, 2).unsqueeze(1)


def visual_pipeline(preset: VisualPreset, **options: Any) -> FeaturePipeline:
    """JPEGs -> normalized crops, float32 [N, H, W, 3]; only the part of a picture that a box covers is decoded."""

    def graph(device: torch.device) -> Any:
        encoded = _input("encoded", types.UINT8, 1)
        start, shape = (_input(name, types.INT32, 1) for name in ("start", "shape"))
        crops = fn.decoders.image_slice(
            encoded,
            start=start,
            shape=shape,
            axes=[1, 0],
            device="mixed" if device.type == "cuda" else "cpu",
            jpeg_fancy_upsampling=True,  # the GPU's decoder then upsamples colour as the CPU's does
            output_type=types.RGB,
        )
        if device.type == "cpu":
            return crops
        flip = _input("flip", types.INT32, 0)
        resized = fn.resize(crops, size=[preset.height, preset.width], interp_type=types.INTERP_LINEAR, antialias=True)
        return fn.crop_mirror_normalize(
            resized,
            mirror=flip,
            dtype=types.FLOAT,
            output_layout="HWC",
            mean=[255 * value for value in preset.mean],
            std=[255 * value for value in preset.deviation],
        )

    box = stock_box()[None]
    stock = VisualFeed([stock_picture()], box, np.zeros(1, bool))
    on_gpu = options["device"].type == "cuda"
    inputs = ("encoded", "start", "shape", *(("flip",) if on_gpu else ()))
    finish = None if on_gpu else _Resizing(preset, options["max_batch_size"])
    return FeaturePipeline(graph, stock, inputs=inputs, finish=finish, **options)


class _Resizing:
    """Crops, uint8 [height, width, 3] each, to a batch as the network sees it, float32 [N, H, W, 3]; on the CPU."""

    def __init__(self, preset: VisualPreset, max_batch_size: int) -> None:
        self._size = (preset.height, preset.width)
        self._buffers = Buffers((max_batch_size, preset.height, preset.width * 3))
        deviation = np.array(preset.deviation)
        # For a whole row of pixels: NumPy is slow where the innermost axis is short.
        self._scale = np.tile(1 / (255 * deviation), preset.width).astype(np.float32)
        self._shift = np.tile(-np.array(preset.mean) / deviation, preset.width).astype(np.float32)

    def __call__(self, crops: Any, inputs: Mapping[str, Any]) -> Tensor:
        """crops: DALI's list of them; inputs: of the VisualFeed."""
        batch = self._buffers.take(len(crops))
        for crop, flip, rows in zip(crops, inputs["flip"].tolist(), batch, strict=True):
            rows[...] = self._resized(crop, flip).reshape(rows.shape)
            # In NumPy, as in finish_audio; picture by picture, while it is in the processor's cache.
            rows *= self._scale
            rows += self._shift
        return torch.from_numpy(batch).view(len(batch), *self._size, 3)

    def _resized(self, crop: Any, flip: bool) -> np.ndarray:
        """uint8 [H, W, 3]."""
        # First the batch's axis, then the permutation: so torch sees channels last, for which it has vector code.
        picture = torch.from_dlpack(crop).unsqueeze(0).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(picture, self._size, mode="bilinear", antialias=True)
        flipped = resized.flip(-1) if flip else resized
        return flipped[0].permute(1, 2, 0).contiguous().numpy()


class Buffers:
    """Float32 arrays of one shape, used again once nothing refers to them: new memory for a batch costs page faults.

    Used in turn, so that the memory they take is the same from the first epoch on, however the consumer keeps up. One
    that keeps more batches than usual gets more arrays, which are given up afterwards.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        # Memory that nobody has written to yet takes no room.
        arrays = [np.empty(shape, np.float32) for _ in range(_KEPT_BUFFERS)]
        self._free: deque[np.ndarray] = deque(arrays, maxlen=_KEPT_BUFFERS)

    def take(self, count: int) -> np.ndarray:
        """The first `count` rows of an array, uninitialized; the array is free again when this very view dies.

        A tensor made of the view by `torch.from_numpy` keeps it alive, as do all tensors that share its memory; another
        view made by NumPy does not.
        """
        whole = self._free.popleft() if self._free else np.empty(self._shape, np.float32)
        rows = whole[:count]
        weakref.finalize(rows, self._free.append, whole).atexit = False
        return rows


def finish_frames(pictures: Tensor, *, frames: int) -> Tensor:
    """The visual graph's [B * K, H, W, 3] as a view [B, K, 3, H, W], channels last in memory."""
    return pictures.unflatten(0, (-1, frames)).permute(0, 1, 4, 2, 3)


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


def _input(name: str, dtype: Any, ndim: int) -> Any:
    return fn.external_source(name=name, dtype=dtype, ndim=ndim, batch=True, no_copy=True)
