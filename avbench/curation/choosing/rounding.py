"""Whole totals of classes, from those of a linear program.

A class of two clips cannot be within 0.15 of uniform: half a clip would have to lie in the first quarter. So a total is
whole, and there are whole cumulative counts C_j within the band of that total, where the steps from one to the next are
no larger than what the bins hold. Which C_j can be reached from the first bins is an interval, so that one pass over
the bins finds out, for many totals at a time.
"""

from __future__ import annotations

import numpy as np

from avbench.curation.choosing.program import Bands, Cells, Limits

_HALVINGS = 30  # of an interval of distances: to 1e-9


def fits(capacity: np.ndarray, totals: np.ndarray, distance: float) -> np.ndarray:
    """Which totals, int64 [T], a class alone can have within a distance; bool [T]. capacity: int64 [bins]."""
    bands = Bands.of(totals, np.full(len(totals), distance), len(capacity))
    lowest, highest = np.zeros(len(totals), np.int64), np.zeros(len(totals), np.int64)
    able = np.ones(len(totals), bool)
    for place, held in enumerate(capacity):
        lowest = np.maximum(lowest, bands.low[:, place])
        highest = np.minimum(highest + held, bands.high[:, place])
        able &= lowest <= highest
    return able


def least_distance(capacity: np.ndarray, least: int, most: int, asked: float) -> float:
    """The distance that was asked for, or the least one that a class alone can have with `least` to `most` clips.

    More clips than `least` only help as far as counts are whole, which a few more than one in `asked` make up for.
    """
    totals = np.arange(least, min(most, least + int(np.ceil(2 / asked))) + 1)
    if fits(capacity, totals, asked).any():
        return asked
    low, high = asked, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(capacity, totals, middle).any() else (middle, high)
    return high


def whole_totals(cells: Cells, limits: Limits, totals: np.ndarray) -> np.ndarray:
    """Totals near those of a linear program, float64 [classes], that each class alone can have; int64 [classes]."""
    whole = _rounded(totals)
    table = cells.histogram(cells.capacity)
    for number, (start, distance) in enumerate(zip(whole.tolist(), limits.of_class, strict=True)):
        reach = int(np.ceil(2 / distance))
        low, high = max(int(limits.least[number]), start - reach), min(int(limits.most[number]), start + reach)
        # The nearest below, else the nearest above.
        near = np.append(np.arange(start, low - 1, -1), np.arange(start + 1, high + 1))
        able = fits(table[number], near, distance)
        whole[number] = near[np.argmax(able)] if able.any() else start
    too_many = int(whole.sum()) - limits.size
    while too_many > 0:  # from the class with the most clips over its least
        number = int(np.argmax(whole - limits.least))
        fewer = min(too_many, int(whole[number] - limits.least[number]))
        whole[number] -= fewer
        too_many -= fewer
    return whole


def _rounded(totals: np.ndarray) -> np.ndarray:
    """Whole numbers whose sum is that of the totals, rounded down: the largest remainders are rounded up."""
    whole = np.floor(totals + 1e-6).astype(np.int64)
    missing = int(np.floor(totals.sum() + 1e-6)) - int(whole.sum())
    whole[np.argsort(whole - totals, kind="stable")[: max(missing, 0)]] += 1
    return whole
