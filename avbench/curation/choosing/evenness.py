"""How far discrepancies are from uniform over a range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Evenness:
    """Distances of clips from uniform.

    kolmogorov_smirnov: in [0, 1]; wasserstein: of discrepancy; both of the values themselves, as SciPy's `kstest` and
    `wasserstein_distance` have them. binned_kolmogorov_smirnov: at the edges of bins only, which is what bounds are
    about; the other is at most the width of a bin, as a share of the range, larger. entropy: of the shares of bins, as
    a part of the most that it can be; 1 is even. All are NaN where there are no clips.
    """

    clips: int
    kolmogorov_smirnov: float
    binned_kolmogorov_smirnov: float
    wasserstein: float
    entropy: float


def evenness(discrepancies: np.ndarray, edges: np.ndarray) -> Evenness:
    """Of discrepancies within the range, float64 [N]. edges: of the bins, ascending, float64 [bins + 1]."""
    number, low, width = len(discrepancies), edges[0], edges[-1] - edges[0]
    if not number:
        return Evenness(0, *[float("nan")] * 4)
    uniform = (np.sort(discrepancies) - low) / width  # on [0, 1]
    before, after = np.arange(number) / number, np.arange(1, number + 1) / number
    counts = np.bincount(bins_of(discrepancies, edges), minlength=len(edges) - 1)
    binned = np.abs(np.cumsum(counts) / number - np.arange(1, len(edges)) / (len(edges) - 1)).max()
    return Evenness(
        number,
        float(max((after - uniform).max(), (uniform - before).max())),
        float(binned),
        float(_area(uniform, before, after).sum() * width),
        _entropy(counts),
    )


def bins_of(discrepancies: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each discrepancy within the range, int64 [N]; the upper end of the range is in the last bin."""
    return np.minimum(np.searchsorted(edges, discrepancies, side="right") - 1, len(edges) - 2)


def _area(values: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Between each value and the part of the uniform quantile function, `before` to `after`, that it stands for."""
    inside = ((values - before) ** 2 + (after - values) ** 2) / 2
    outside = np.abs(values - (before + after) / 2) * (after - before)
    return np.where((before <= values) & (values <= after), inside, outside)


def _entropy(counts: np.ndarray) -> float:
    if len(counts) == 1:
        return 1.0
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts)))
