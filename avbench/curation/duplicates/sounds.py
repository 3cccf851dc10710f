"""What a clip sounds like, in 32 bits a step of 64 ms, which encoding, loudness and shifting leave mostly as they are.

The sound is mixed to 16 kHz and cut into windows of 256 ms. Each bit belongs to two neighbouring bands of 33 between
150 and 6,500 Hz, and says whether the difference of their log energies rises over a quarter of a second, both ends
averaged over a quarter of a second (after Haitsma and Kalker 2002, whose differences are over 12 ms: longer ones
survive low bit rates, and shifts by half a step). What stands still, such as a steady tone or a hum, cancels.

Unrelated sounds differ in half of the bits. Two sounds are alike if at most MOST_DIFFERENT of the bits differ at one
shift, and far fewer than at every other shift: sounds with one beat, such as two bells, are somewhat alike once a beat.
The limits come from these shares of bits that differ at the best shift (median; worst), of clips of ten seconds:

    one recording, cut 1.3 s later, encoded again           planted (160)       real (20)
        AAC at half the bit rate                            0.17; 0.27          0.08; 0.15
        Opus at 24 kbit/s                                   0.23; 0.30          0.11; 0.18
    two recordings of one class                             0.47; 0.30
    two recordings                                                              0.47; 0.45
    10,000 pieces of made-up music and noise, 6 s: of all pairs that the search gives the lowest is 0.33 (limit 0.28)

    by how much the best shift is below the others: one planted recording 0.08 or more; two of one class of which fewer
    than 0.36 differ 0.04 or less
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RATE_HZ = 16_000
STEP_SECONDS = 0.064
_STEP = round(STEP_SECONDS * RATE_HZ)
_WINDOW = 4 * _STEP
_BANDS = 33
_LOWEST_HZ, _HIGHEST_HZ = 150.0, 6500.0
_AVERAGED = 4  # windows, at each end of a difference
_SPAN = 2 * _AVERAGED  # windows that a bit depends on
_SILENT = 1e-3  # root mean square, of 1: -60 dB of full scale
_FLOOR = 1e-4  # white noise of this level is added to the energies; below, what encoders leave of nothing decides
_ALIVE = 10.0  # a band tells something if its energy is, at some time, this many times the floor's
WORD_STEPS = 8  # a word for the search has the bits of two steps that lie so far apart
# Shares of bits. The first holds for _ENOUGH_STEPS and more in which both clips have sound, and is lower for fewer.
MOST_DIFFERENT = 0.32
_ENOUGH_STEPS = 64
_SURELY_ALIKE = 0.15  # so few differ only in one recording, whatever other shifts say: it may be a loop
_LEAST_BELOW_OTHERS = 0.05
LEAST_STEPS = 16
_LEAST_BANDS = 8


@dataclass(frozen=True, slots=True)
class SoundPrint:
    """bits: uint32 [T]. active: bool [T], whether there is sound in the step. bands: which bits tell something."""

    bits: np.ndarray
    active: np.ndarray
    bands: int


def sound_print(waveform: np.ndarray) -> SoundPrint:
    """The fingerprint of a waveform, int16 [S] at RATE_HZ; no steps where it is shorter than a second or so."""
    if len(waveform) < _WINDOW + _SPAN * _STEP:
        return SoundPrint(np.zeros(0, np.uint32), np.zeros(0, bool), 0)
    samples = waveform.astype(np.float32) / 32768
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_STEP]
    shape = np.hanning(_WINDOW).astype(np.float32)
    filters = _filters()
    power = np.abs(np.fft.rfft(windows * shape, axis=1)[:, : len(filters)]) ** 2
    energy = power.astype(np.float32) @ filters
    floor = _FLOOR**2 * float(np.square(shape).sum()) * filters.sum(axis=0)
    rising = _rising(np.log(energy + floor))
    alive = (energy.max(axis=0) > _ALIVE * floor).astype(np.uint32)
    places = np.arange(_BANDS - 1, dtype=np.uint32)
    bits = ((rising[:, 1:] > rising[:, :-1]) * (np.uint32(1) << places)).sum(axis=1, dtype=np.uint32)
    loud = np.square(windows).mean(axis=1) > _SILENT**2
    active = np.any(np.lib.stride_tricks.sliding_window_view(loud, _SPAN), axis=1)
    return SoundPrint(bits, active[: len(bits)], int(((alive[1:] & alive[:-1]) << places).sum(dtype=np.uint32)))


def words_of(prints: SoundPrint) -> tuple[np.ndarray, np.ndarray]:
    """Words to search for, uint64 [W], and the step that each begins at; none where there is no sound."""
    bits = prints.bits & np.uint32(prints.bands)
    steps = np.flatnonzero(prints.active[:-WORD_STEPS] & prints.active[WORD_STEPS:])
    first, second = bits[steps].astype(np.uint64), bits[steps + WORD_STEPS].astype(np.uint64)
    is_some = bool(len(steps)) and int(prints.bands).bit_count() >= _LEAST_BANDS
    return (first << np.uint64(32) | second, steps) if is_some else (first[:0], steps[:0])


def alike_at(one: SoundPrint, other: SoundPrint) -> tuple[float, int] | None:
    """The share of bits that are equal and the shift in steps at which two sounds are alike; None where they are not.

    Step k of `one` is step k + shift of `other`. At least half of the shorter clip lies in both.
    """
    least = max(LEAST_STEPS, min(len(one.bits), len(other.bits)) // 2)
    shifts = np.arange(least - len(one.bits), len(other.bits) - least + 1)
    if not len(shifts):
        return None
    found = [different(one, other, shift) for shift in shifts.tolist()]
    shares = np.array([share for share, _ in found])
    best = int(shares.argmin())
    share, steps = found[best]
    if share > most_different(steps):
        return None
    others = shares[np.abs(shifts - shifts[best]) > _SPAN]  # neighbouring shifts have bits in common
    if share > _SURELY_ALIKE and len(others) and others.min() - share < _LEAST_BELOW_OTHERS:
        return None
    return 1 - share, int(shifts[best])


def most_different(steps: int) -> float:
    """The largest share of bits in which sounds may differ that have so many steps in common.

    It is as many standard deviations below a half as MOST_DIFFERENT is for _ENOUGH_STEPS.
    """
    return 0.5 - (0.5 - MOST_DIFFERENT) * max(1.0, (_ENOUGH_STEPS / max(1, steps)) ** 0.5)


def different(one: SoundPrint, other: SoundPrint, shift: int) -> tuple[float, int]:
    """The share of bits that differ, and in how many steps both have sound: step k of `one` is k + shift of `other`.

    The share is 1 where they have too little in common.
    """
    first, end = max(0, -shift), min(len(one.bits), len(other.bits) - shift)
    if end - first < LEAST_STEPS:
        return 1.0, 0
    both = one.active[first:end] & other.active[first + shift : end + shift]
    bands = one.bands & other.bands
    steps = int(both.sum())
    if steps < LEAST_STEPS or bands.bit_count() < _LEAST_BANDS:
        return 1.0, steps
    wrong = (one.bits[first:end] ^ other.bits[first + shift : end + shift])[both] & np.uint32(bands)
    return int(np.bitwise_count(wrong).sum()) / (steps * bands.bit_count()), steps


def _rising(levels: np.ndarray) -> np.ndarray:
    """By how much the mean of the next windows is above that of those before; levels: [T, bands]."""
    sums = np.concatenate([np.zeros((1, levels.shape[1])), np.cumsum(levels, axis=0, dtype=np.float64)])
    means = sums[_AVERAGED:] - sums[:-_AVERAGED]
    return means[_AVERAGED:] - means[:-_AVERAGED]


def _filters() -> np.ndarray:
    """Triangles over the frequencies of a window, float32 [frequencies, bands], up to the highest that one has."""
    middles = np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, _BANDS + 2)
    hz = np.arange(int(_HIGHEST_HZ * _WINDOW / RATE_HZ) + 1)[:, None] * (RATE_HZ / _WINDOW)
    rises = (hz - middles[:-2]) / np.diff(middles)[:-1]
    falls = (middles[2:] - hz) / np.diff(middles)[1:]
    return np.clip(np.minimum(rises, falls), 0, None).astype(np.float32)
