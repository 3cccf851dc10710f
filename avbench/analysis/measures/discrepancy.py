"""Averages, heatmap and subsets: pure functions of arrays, numpy only.

Xia et al., "Balanced Audiovisual Dataset for Imbalance Analysis", CVPR workshop 2023 (arXiv 2302.10912), section 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from avbench.vocabulary import MODALITIES

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]

# The three parts that a threshold cuts a split into; every clip is in exactly one.
PARTS = (*MODALITIES, "tie")

# 0.01 bins: the paper's heatmap, section 2.1.
HEATMAP_BINS = 100

# By how much of itself a mean over some epochs and seeds is rounded, at most.
_ROUNDED = 16 * np.finfo(np.float64).eps


def average_over_epochs(epochs: Iterable[Floats]) -> Floats:
    """Mean confidence of each clip over the epochs that recorded it, (N,); NaN for a clip that none recorded.

    epochs: one array (N,) an epoch, NaN where the epoch did not record the clip (never counted as zero).
    Read one at a time, so memory does not grow with the number of epochs. Raises ValueError where there is none.
    """
    total: Floats | None = None
    count: Counts | None = None
    for values in epochs:
        if total is None or count is None:
            total, count = np.zeros(len(values)), np.zeros(len(values), np.int64)
        recorded = ~np.isnan(values)
        total[recorded] += values[recorded]
        count += recorded
    if total is None or count is None:
        raise ValueError("an average over epochs needs at least one epoch")
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def average_over_seeds(seeds: Mapping[int, Floats]) -> Floats:
    """Mean confidence of each clip over seeds, (N,); NaN for a clip that any seed lacks.

    An average over fewer seeds than its neighbours' would make a clip's side depend on which seeds it has.
    Raises ValueError where there is no seed.
    """
    if not seeds:
        raise ValueError("an average over seeds needs at least one seed")
    return np.mean(np.stack([seeds[seed] for seed in sorted(seeds)]), axis=0)


def discrepancy(audio: Floats, visual: Floats) -> Floats:
    """Signed modality discrepancy of each clip, u_audio - u_visual, in [-1, 1].

    audio, visual: mean true-label confidence over epochs, (N,) float64 in [0, 1].
    Positive: audio-preferred; negative: visual-preferred; zero belongs to neither (Xia et al. 2023, section 2.2,
    strict >). Without what rounding leaves, see `difference`.
    Raises ValueError on unequal lengths, NaN (a clip that no epoch visited) or a value outside of [0, 1].
    """
    return difference(_checked(audio, visual, "audio"), _checked(visual, audio, "visual"))


def difference(audio: Floats, visual: Floats) -> Floats:
    """audio - visual, (N,), in [-1, 1]; each that is a number of nine decimals up to rounding is that number.

    In binary 0.9 - 0.7 lies above 0.2 and 0.7 - 0.5 below it, and a mean of 0.1 and 0.2 above one of 0.15 and 0.15, so
    a clip at a threshold would be on one side of it by chance. What is further away than the two can be rounded by
    stays, however near to 0 it is: 1e-20 and 1e-21 differ. NaN where one is NaN.
    """
    values = audio - visual
    decimal = np.round(values, 9)
    return np.where(np.abs(values - decimal) <= _ROUNDED * np.maximum(audio, visual), decimal, values)


def heatmap(audio: Floats, visual: Floats) -> Counts:
    """How many clips lie in each cell of the (u_audio, u_visual) square, int64 [100, 100].

    Row: u_visual, column: u_audio, both upwards, as the figure is drawn (origin at the lower left). Bin k holds
    k/100 <= u < (k + 1)/100; the last one holds u = 1 too. Raises ValueError as `discrepancy` does.
    """
    # Compared with the edges themselves: int(u * 100) puts 0.29 into bin 28.
    edges = np.arange(1, HEATMAP_BINS) / HEATMAP_BINS
    column = np.searchsorted(edges, _checked(audio, visual, "audio"), side="right")
    row = np.searchsorted(edges, _checked(visual, audio, "visual"), side="right")
    cells = np.bincount(row * HEATMAP_BINS + column, minlength=HEATMAP_BINS**2)
    return cells.reshape(HEATMAP_BINS, HEATMAP_BINS).astype(np.int64)


def subsets(discrepancies: Floats, threshold: float) -> dict[str, Mask]:
    """Which clips are in each part at threshold T, bool (N,) for "audio", "visual" and "tie".

    audio: discrepancy > T; visual: -discrepancy > T; tie: the rest, |discrepancy| <= T. At T = 0 these are the audio-
    and visual-preferred clips and the exact ties, above it the audio- and visual-dominated clips and those between.
    Raises ValueError on NaN or a threshold outside of [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"a threshold must be in [0, 1), not {threshold}")
    if np.isnan(discrepancies).any():
        raise ValueError("a discrepancy is NaN: a clip without confidence belongs to no subset")
    audio, visual = discrepancies > threshold, -discrepancies > threshold
    return {"audio": audio, "visual": visual, "tie": ~(audio | visual)}


def _checked(values: Floats, other: Floats, name: str) -> Floats:
    if values.shape != other.shape or values.ndim != 1:
        raise ValueError(f"audio and visual confidences must be two (N,) arrays, got {values.shape} and {other.shape}")
    outside = ~((values >= 0) & (values <= 1))  # true for NaN too
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(
            f"{int(outside.sum())} {name} confidences are not in [0, 1], the first is {values[first]} in row {first}"
        )
    return values.astype(np.float64, copy=False)
