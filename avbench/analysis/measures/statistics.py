"""Intervals and tests over clips, exact wherever the numbers lie on a lattice. Pure functions of arrays.

Nothing here draws a random number but `resamples_of`, whose seed is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import gcd

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from avbench.analysis.measures.discrepancy import Counts, Floats

LEVEL = 0.95
FEW_CLIPS = 30  # subsets of fewer are marked: with one clip more or less, an accuracy moves by three points and more

# What is left of a probability after Fourier transforms of float64: a p value below it is given as this number.
P_FLOOR = 1e-12
_NO_WIDTH = 1e-6  # an interval of fractions: what float32 leaves of the difference of equal numbers is less


def is_few(clips: float) -> bool:
    """Whether a subset has so few clips that its numbers are marked wherever they are shown."""
    return clips < FEW_CLIPS


def mean_share(right: Sequence[int], clips: Sequence[int]) -> float:
    """Mean over seeds of the share of clips that are right: the fraction nearest to it.

    right, clips: how many of how many clips, per seed, none of them 0 clips. Equal means are equal numbers, however
    their seeds differ; sums of floats are not, and then a method would beat its equal.
    """
    shares = [Fraction(int(some), int(all_of)) for some, all_of in zip(right, clips, strict=True)]
    return float(sum(shares, Fraction()) / len(shares))


def wilson_interval(shares: ArrayLike, clips: ArrayLike, *, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Wilson's score interval of shares in [0, 1] of so many clips, two arrays of their shape; NaN without clips.

    All accuracies from which the one that was found differs by no more than chance (Wilson, J. Am. Stat. Assoc. 22,
    1927). It has a width where all clips are right, or none: 0 of 1 is anything from 0 to 79 %.
    """
    share, count = np.broadcast_arrays(np.asarray(shares, np.float64), np.asarray(clips, np.float64))
    known = count > 0
    n = np.where(known, count, 1.0)
    p = np.where(known, share, 0.0)
    z2 = float(stats.norm.ppf((1 + level) / 2)) ** 2
    middle = p + z2 / (2 * n)
    half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2)))
    # Rounding must not leave a share out of its own interval: the ends at 0 and 1 are exact.
    low, high = np.clip((middle - half) / (1 + z2 / n), 0, p), np.clip((middle + half) / (1 + z2 / n), p, 1)
    return (
        np.where(known & (p > 0), low, np.where(known, 0.0, np.nan)),
        np.where(known & (p < 1), high, np.where(known, 1.0, np.nan)),
    )


def binomial_interval(correct: Counts, clips: Counts, *, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Interval of the accuracies of one seed, two arrays of fractions; NaN where there are no clips.

    correct, clips: how many of how many clips are right, (M,) each. It is Wilson's: exact counting, no random numbers.
    """
    return wilson_interval(correct / np.maximum(clips, 1), clips, level=level)


def mean_interval(right: Counts, *, seeds: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval over clips of an accuracy that is the mean over seeds, as fractions.

    right: (n,) with how many of `seeds` seeds each clip was right, n > 0.
    One seed gives `binomial_interval`. Of several, the seeds' answers to one clip are alike, so n clips times the seeds
    are not as many independent answers: percentiles of the bootstrap over clips. A resample's sum is a sum of n
    independent draws from the counts, so its distribution is their n-fold convolution, here by Fourier transform: as
    many resamples as there can be, no random numbers. (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapter 13.) Where that has no width, since every clip was right as often, see `with_width`.
    """
    clips = len(right)
    share = float(right.sum()) / (clips * seeds)
    if seeds == 1:
        low, high = wilson_interval(share, clips, level=level)
        return float(low), float(high)
    length = clips * seeds + 1
    once = np.bincount(right, minlength=seeds + 1) / clips
    sums = np.fft.irfft(np.fft.rfft(once, length) ** clips, length)
    cumulative = np.cumsum(sums)
    tail = (1 - level) / 2
    # The rounding of the transform must not move a quantile past a step that lies exactly on the tail.
    ends = (int(np.searchsorted(cumulative, q - P_FLOOR)) for q in (tail, 1 - tail))
    left, right_end = (min(end, length - 1) / (clips * seeds) for end in ends)
    return with_width(left, right_end, value=share, clips=clips, level=level)


def with_width(low: float, high: float, *, value: float, clips: int, level: float = LEVEL) -> tuple[float, float]:
    """A bootstrap interval, or Wilson's for `value` of `clips` clips where the bootstrap's has no width.

    Drawing from clips that are all alike gives the same again each time, which says nothing of other clips.
    """
    if high - low > _NO_WIDTH:
        return low, high
    of_wilson = wilson_interval(value, clips, level=level)
    return float(of_wilson[0]), float(of_wilson[1])


def sign_flip_p(differences: Counts) -> float:
    """Two-sided p value of the paired sign-flip permutation test that the differences have mean zero, exact.

    differences: (n,) whole numbers, one a clip: the difference of two mean correctnesses times any common factor.
    Under the null hypothesis each difference might as well have the other sign; p is the share of the 2^n ways to
    choose signs whose sum is at least as far from zero as the observed one. Values v that occur m times add a sum
    whose characteristic function is cos(v t)^m, so the distribution of the whole sum is the Fourier transform of
    a product, with all its 2^n ways counted. (Pitman, Suppl. J. R. Stat. Soc. 4, 1937; with differences of -1, 0 and
    1 it is McNemar's exact test.) Rounded to, and not below, P_FLOOR.
    """
    sizes = np.abs(differences[differences != 0])
    if len(sizes) == 0:
        return 1.0
    values, times = np.unique(sizes // gcd(*sizes.tolist()), return_counts=True)
    observed = abs(int(differences.sum())) // gcd(*sizes.tolist())
    farthest = int(values @ times)
    length = 2 * farthest + 1
    angles = 2 * np.pi * np.arange(farthest + 1) / length
    logarithm, sign = np.zeros(len(angles)), np.ones(len(angles))
    with np.errstate(divide="ignore"):  # cos = 0: its logarithm is -inf and the product 0, as it should be
        for value, count in zip(values, times, strict=True):
            # log|cos x| = log1p(-sin^2 x) / 2 loses no digits where cos is near 1 and the power is high.
            logarithm += count * np.log1p(-np.minimum(np.sin(value * angles) ** 2, 1.0)) / 2
            sign *= np.where(np.cos(value * angles) < 0, -1.0, 1.0) ** (count % 2)
    # The distribution is even: entry k is the chance of a sum of k, and of -k.
    chances = np.fft.irfft(sign * np.exp(logarithm), length)[: farthest + 1]
    tail = chances[observed:].sum() if observed else 0.5
    return float(np.clip(round(2 * tail, 12), P_FLOOR, 1.0))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p values, in the given order (Scand. J. Stat. 6, 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1.0)
    return tuple(adjusted.tolist())


def resamples_of(clips: int, *, resamples: int, seed: Sequence[int], together: int) -> Iterator[NDArray[np.uint8]]:
    """How often each clip is in each of the bootstrap's resamples, (R, clips) for R = `together` of them at a time.

    Each row adds up to `clips`. The draws are the same whatever `together` is. A count of 256 does not fit, and for as
    many clips as could have one its chance is below 1e-500.
    """
    random = np.random.default_rng(seed)
    for first in range(0, resamples, together):
        counts = np.empty((min(together, resamples - first), clips), np.uint8)
        for row in counts:
            row[:] = np.bincount(random.integers(0, clips, clips), minlength=clips)
        yield counts
