"""The audio transforms that DALI does not have: SciPy's spectrogram and Kaldi's filter bank.

Each equation is written once, for two libraries. On a GPU it works on torch tensors of a whole batch. On the CPU it
works on NumPy arrays, one clip at a time, which stays in the processor's cache; torch would start a team of OpenMP
threads for the loader's thread there, against the one that trains, so would a large product of NumPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import scipy.fft
import scipy.sparse
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from avbench.loading.presets import FilterBank, PowerSpectrogram

Array = Any  # a NumPy array or a torch tensor, float32


def power_spectrogram(waveforms: Array, transform: PowerSpectrogram, sample_rate_hz: int) -> Array:
    """The standardized logarithm of power densities, [..., T, F], of waveforms [..., samples]."""
    windows = _windows(waveforms, transform.n_fft, transform.hop_length)
    centred = windows - _mean(windows)
    centred *= _constant(waveforms, _tukey, transform.n_fft, transform.taper)
    powers = _powers(centred, transform.n_fft)
    powers *= _constant(waveforms, _density_scale, transform, sample_rate_hz)
    # log(density / offset + 1) is log(density + offset) but for a constant, which the mean takes off again; of silence
    # it is exactly 0, where the rounded mean of another constant would be divided by a deviation of 0.
    powers += 1
    values = _log(powers)
    values -= values.mean((-2, -1))[..., None, None]
    values /= (values**2).mean((-2, -1))[..., None, None] ** 0.5 + transform.deviation_offset
    return values


def filter_bank(waveforms: Array, steps: np.ndarray, transform: FilterBank, sample_rate_hz: int) -> Array:
    """The normalized logarithm of mel energies, [..., T, F], of waveforms [..., samples].

    steps: int64 [...], time steps before each clip's end; later ones are padding.
    """
    size, hop, share = transform.window_length, transform.hop_length, transform.preemphasis
    # Nothing precedes a window's first sample, whose weight is 0 in any case; so the whole waveform is emphasized at
    # once, and a window's mean is taken off as pre-emphasis leaves it.
    emphasized = _windows(waveforms[..., 1:] - share * waveforms[..., :-1], size - 1, hop)
    emphasized = emphasized - (1 - share) * _mean(_windows(waveforms, size, hop))
    emphasized *= _constant(waveforms, _hann, size)
    powers = _powers(emphasized, transform.n_fft)
    values = _log(_mel_energies(powers, transform, sample_rate_hz).clip(min=transform.floor))
    values *= _like((np.arange(values.shape[-2]) < np.asarray(steps)[..., None])[..., None], waveforms)
    values -= transform.mean
    values /= 2 * transform.deviation
    return values


@cache
def mel_filters(transform: FilterBank, sample_rate_hz: int) -> np.ndarray:
    """Weights of each frequency in each of Kaldi's triangular filters, float32 [n_fft / 2 + 1, mel_bins].

    The triangles are so on the mel scale, 1127 ln(1 + f / 700), with a peak of 1; the highest frequency is in none.
    """
    low, high = _mel(transform.mel_low_hz), _mel(transform.mel_high_hz)
    width = (high - low) / (transform.mel_bins + 1)
    peaks = low + width * np.arange(1, transform.mel_bins + 1)
    frequencies = _mel(np.arange(transform.n_fft // 2 + 1) * sample_rate_hz / transform.n_fft)[:, None]
    filters = np.maximum(0, 1 - np.abs(frequencies - peaks) / width)
    filters[-1] = 0
    return filters.astype(np.float32)


def _mel(hertz: Any) -> Any:
    return 1127 * np.log(1 + hertz / 700)


def _mel_energies(powers: Array, transform: FilterBank, sample_rate_hz: int) -> Array:
    # Two filters hold a frequency: the sparse product is three times as fast, and in one thread.
    filters = mel_filters if isinstance(powers, Tensor) else _sparse
    return powers @ _constant(powers, filters, transform, sample_rate_hz)


@cache
def _sparse(transform: FilterBank, sample_rate_hz: int) -> Any:
    return scipy.sparse.csr_array(mel_filters(transform, sample_rate_hz))


@cache
def _hann(size: int) -> np.ndarray:
    """A symmetric Hann window without its first weight, which is 0; float32 [size - 1]."""
    return np.hanning(size).astype(np.float32)[1:]


@cache
def _tukey(size: int, taper: float) -> np.ndarray:
    """A periodic Tukey window: a Hann window cut in two, each `taper` / 2 of the whole, and ones between; float32."""
    place = np.minimum(np.arange(size), size - np.arange(size)) * 2 / (taper * size)
    return (0.5 - 0.5 * np.cos(np.pi * np.minimum(place, 1))).astype(np.float32)


@cache
def _density_scale(transform: PowerSpectrogram, sample_rate_hz: int) -> np.ndarray:
    """What makes each frequency's |X|^2 a density of the positive frequencies, over the log's offset: float32 [F]."""
    weights = _tukey(transform.n_fft, transform.taper).astype(np.float64)
    scale = np.full(transform.bins, 2 / (sample_rate_hz * (weights**2).sum() * transform.log_offset))
    scale[[0, -1]] /= 2  # these two have no negative twin
    return scale.astype(np.float32)


def _windows(waveforms: Array, size: int, hop: int) -> Array:
    """Windows that lie inside the waveforms, a view [..., T, size]."""
    if isinstance(waveforms, Tensor):
        return waveforms.unfold(-1, size, hop)
    return sliding_window_view(waveforms, size, axis=-1)[..., ::hop, :]


def _mean(values: Array) -> Array:
    """Of the last axis, which is kept."""
    return values.mean(-1)[..., None]


def _powers(windows: Array, n_fft: int) -> Array:
    """|X|^2 of each window, zero-padded to n_fft: [..., n_fft / 2 + 1]."""
    rfft = torch.fft.rfft if isinstance(windows, Tensor) else scipy.fft.rfft
    spectrum = rfft(windows, n_fft)
    return spectrum.real**2 + spectrum.imag**2


def _log(values: Array) -> Array:
    """Of values that are needed no more."""
    return values.log_() if isinstance(values, Tensor) else np.log(values, out=values)


def _like(array: np.ndarray, values: Array) -> Array:
    """The array in the library, and on the device, of the values."""
    return on_device(array, values.device) if isinstance(values, Tensor) else array


def _constant(values: Array, make: Callable[..., Any], *arguments: Any) -> Array:
    """What `make` gives of the arguments, in the library, and on the device, of the values."""
    return _placed(values.device, make, *arguments) if isinstance(values, Tensor) else make(*arguments)


@cache
def _placed(device: torch.device, make: Callable[..., Any], *arguments: Any) -> Tensor:
    """Made once for each device. It is there when this returns: other loaders use it on streams of their own."""
    tensor = on_device(make(*arguments), device)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return tensor


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor; on a GPU copied there on the current stream, for which nobody waits."""
    tensor = torch.from_numpy(array)
    # Memory that is not pinned is copied while the processor waits.
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
