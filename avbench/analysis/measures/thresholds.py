"""Accuracy against the threshold T, on the clips beyond it on either side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from avbench.analysis.measures.discrepancy import Counts, Floats, Mask, subsets
from avbench.vocabulary import MODALITIES

# An accuracy over fewer clips moves by 5 points and more with a single clip: no line is drawn through it.
FEWEST_CLIPS = 20
THRESHOLD_GRID: Floats = np.linspace(0, 0.8, 17)


@dataclass(frozen=True, slots=True)
class ThresholdCurves:
    """Accuracy of each run on the clips beyond a threshold, on both sides.

    thresholds: (G,). clips: per side (G,), how many clips lie beyond each. accuracy: per run and side (G,) in [0, 1],
    NaN where there are fewer than FEWEST_CLIPS clips.
    """

    thresholds: Floats
    clips: Mapping[str, Counts]
    accuracy: Mapping[str, Mapping[str, Floats]]


def threshold_curves(
    correct: Mapping[str, Floats], discrepancies: Floats, *, thresholds: Floats = THRESHOLD_GRID
) -> ThresholdCurves:
    """Accuracy of every run on the audio- and the visual-dominated clips at every threshold.

    correct: per run (N,), the share of its seeds that are right of each clip. discrepancies: (N,) in [-1, 1].
    """
    masks: dict[str, Mask] = {
        side: np.stack([subsets(discrepancies, float(threshold))[side] for threshold in thresholds])
        for side in MODALITIES
    }
    clips = {side: mask.sum(axis=1) for side, mask in masks.items()}
    enough = {side: count >= FEWEST_CLIPS for side, count in clips.items()}
    accuracy = {
        run: {
            side: np.divide(mask @ right, clips[side], out=np.full(len(thresholds), np.nan), where=enough[side])
            for side, mask in masks.items()
        }
        for run, right in correct.items()
    }
    return ThresholdCurves(thresholds, clips, accuracy)
