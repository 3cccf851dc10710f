"""What a picture looks like, in 64 bits: the signs of its coarse waves, which scaling and encoding leave as they are.

A picture is reduced to 32 x 32 grey levels by the mean of each area, and its discrete cosine transform is taken. Each
bit says whether one of the 64 lowest waves, without the mean, is above their median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg

SIDE = 32
_WAVES = (8, 9)  # rows and columns of coefficients; the first, which is the mean, is left out, and 64 follow
# The standard deviation of the grey levels (of 255) below which a picture is one plain colour, whose waves are noise.
_PLAIN = 4.0
ALIKE_BITS = 10
"""Bits by which two pictures of one look may differ at most."""
# Of the pictures that two clips show at the same time, so many must be alike, and so many must differ from each other:
# one picture, or a scene in which nothing moves, proves nothing.
LEAST_ALIKE = 0.6
LEAST_LOOKS = 3


@dataclass(frozen=True, slots=True)
class LookPrint:
    """looks: uint64 [K], of a picture a second. shows: bool [K], whether each is more than one plain colour."""

    looks: np.ndarray
    shows: np.ndarray


def look_print(jpegs: Sequence[bytes]) -> LookPrint:
    """The look of each picture. Raises ValueError where one is no JPEG."""
    grey = np.stack([_grey(jpeg) for jpeg in jpegs]) if jpegs else np.zeros((0, SIDE, SIDE))
    rows, columns = _WAVES
    cosines = _cosines()
    waves = cosines[:rows] @ grey @ cosines[:columns].T
    flat = waves.reshape(len(grey), rows * columns)[:, 1:65]
    above = flat > np.median(flat, axis=1, keepdims=True)
    bits = np.packbits(above, axis=1, bitorder="little").view("<u8").reshape(-1)
    return LookPrint(bits.astype(np.uint64), grey.std(axis=(1, 2)) > _PLAIN)


def words_of(pictures: LookPrint) -> tuple[np.ndarray, np.ndarray]:
    """Looks to search for, uint64 [W], and their seconds; none where nothing moves."""
    seconds = np.flatnonzero(pictures.shows)
    looks = pictures.looks[seconds]
    moves = distinct_looks(looks, enough=LEAST_LOOKS) == LEAST_LOOKS
    return (looks, seconds) if moves else (looks[:0], seconds[:0])


def alike_at(one: LookPrint, other: LookPrint) -> tuple[float, int] | None:
    """The share of pictures that are alike and the shift in seconds at which most are; None where they prove nothing.

    Picture k of `one` is picture k + shift of `other`. At least half of the shorter clip lies in both.
    """
    least = max(LEAST_LOOKS, (min(len(one.looks), len(other.looks)) + 1) // 2)
    shifts = range(least - len(one.looks), len(other.looks) - least + 1)
    # Of equal shares the one with the fewest bits that differ.
    found = [(*_alike(one, other, shift), shift) for shift in shifts]
    share, _, shift = max(found, default=(0.0, 0.0, 0))
    return (share, shift) if share else None


def distinct_looks(looks: np.ndarray, *, enough: int) -> int:
    """How many of these pictures differ from each other by more than one look may; counts no further than `enough`."""
    chosen = np.zeros(0, np.uint64)
    for look in looks:
        if len(chosen) < enough and (np.bitwise_count(chosen ^ look) > ALIKE_BITS).all():
            chosen = np.append(chosen, look)
    return len(chosen)


def _alike(one: LookPrint, other: LookPrint, shift: int) -> tuple[float, float]:
    """The share of pictures that are alike at a shift, 0 where that proves nothing, and minus the mean of the bits that
    differ.
    """
    first, end = max(0, -shift), min(len(one.looks), len(other.looks) - shift)
    shown = one.shows[first:end] & other.shows[first + shift : end + shift]
    looks, others = one.looks[first:end][shown], other.looks[first + shift : end + shift][shown]
    bits = np.bitwise_count(looks ^ others)
    same = bits <= ALIKE_BITS
    share = float(same.mean()) if len(same) >= LEAST_LOOKS else 0.0
    if share < LEAST_ALIKE or distinct_looks(looks[same], enough=LEAST_LOOKS) < LEAST_LOOKS:
        return 0.0, 0.0
    return share, -float(bits.mean())


def _grey(jpeg: bytes) -> np.ndarray:
    """Float [SIDE, SIDE]: the mean grey level of each area. The decoder itself scales large pictures down."""
    image = simplejpeg.decode_jpeg(jpeg, colorspace="GRAY", min_height=2 * SIDE, min_width=2 * SIDE)
    return _area_means(_area_means(image[:, :, 0].astype(np.float64)).T).T


def _area_means(values: np.ndarray) -> np.ndarray:
    """The first axis reduced (or stretched) to SIDE equal parts, the mean of each."""
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    edges = np.linspace(0, len(values), SIDE + 1)
    below = np.minimum(edges.astype(np.int64), len(values) - 1)
    at_edges = sums[below] + (edges - below)[:, None] * values[below]
    return np.diff(at_edges, axis=0) * (SIDE / len(values))


def _cosines() -> np.ndarray:
    """Rows of the discrete cosine transform, [SIDE, SIDE]."""
    places = np.arange(SIDE) + 0.5
    return np.cos(np.pi / SIDE * np.arange(SIDE)[:, None] * places)
