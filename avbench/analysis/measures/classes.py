"""Which classes lean on which modality: counts of each class, and a readable selection of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avbench.analysis.measures.discrepancy import Floats, discrepancy, subsets


@dataclass(frozen=True, slots=True)
class ClassSides:
    """The evaluated clips of one class: how many prefer which modality, and their mean confidences.

    label: its number; name: its name. audio, visual, tied: clips with u_audio above, below and equal to u_visual.
    audio_confidence, visual_confidence: means over the class's clips, in [0, 1]; NaN for a class without any.
    """

    label: int
    name: str
    audio: int
    visual: int
    tied: int
    audio_confidence: float
    visual_confidence: float

    @property
    def clips(self) -> int:
        """Evaluated clips of the class."""
        return self.audio + self.visual + self.tied

    @property
    def discrepancy(self) -> float:
        """Mean discrepancy of the class's clips, audio minus visual confidence; NaN for a class without any."""
        return self.audio_confidence - self.visual_confidence

    @property
    def lean(self) -> float:
        """Share of audio-preferred minus share of visual-preferred clips, in [-1, 1]. The class must have clips."""
        return (self.audio - self.visual) / self.clips


@dataclass(frozen=True, slots=True)
class Selection:
    """Classes to show, and in which capacity: (what the group is, its classes), the most audio-sided first.

    left_out: how many classes with clips are in no group.
    """

    groups: tuple[tuple[str, tuple[ClassSides, ...]], ...]
    left_out: int


def class_sides(
    labels: NDArray[np.int64], audio: Floats, visual: Floats, *, classes: Sequence[str]
) -> tuple[ClassSides, ...]:
    """Every class's clips by preferred modality, in the order of `classes`.

    labels: (N,) in [0, len(classes)); audio, visual: (N,) mean confidences in [0, 1].
    """
    masks = subsets(discrepancy(audio, visual), 0)
    sides = {name: np.bincount(labels[mask], minlength=len(classes)) for name, mask in masks.items()}
    clips = np.bincount(labels, minlength=len(classes))
    means = []
    for values in (audio, visual):
        sums = np.bincount(labels, weights=values, minlength=len(classes))
        means.append(np.divide(sums, clips, out=np.full(len(classes), np.nan), where=clips > 0))
    return tuple(
        ClassSides(
            label,
            name,
            audio=int(sides["audio"][label]),
            visual=int(sides["visual"][label]),
            tied=int(sides["tie"][label]),
            audio_confidence=float(means[0][label]),
            visual_confidence=float(means[1][label]),
        )
        for label, name in enumerate(classes)
    )


def select_classes(rows: Sequence[ClassSides], *, most: int) -> Selection:
    """At most `most` (3 or more) classes that show the whole range: all of them, or a third each of three kinds.

    The most audio-sided, the most visual-sided (by share of clips), and between the two some at even distances in that
    order. Classes without clips are never shown. Equal shares are ordered by mean discrepancy, then by number.
    """
    ordered = sorted(
        (row for row in rows if row.clips),
        key=lambda row: (-row.lean, row.visual_confidence - row.audio_confidence, row.label),
    )
    if len(ordered) <= most:
        return Selection((("all classes", tuple(ordered)),) if ordered else (), left_out=0)
    ends = most // 3
    between = ordered[ends:-ends]
    shown = most - 2 * ends
    # Rounded up, never to the nearest: where one more class is between than is shown, that would be one of them twice.
    places = [-(-step * (len(between) - 1) // (shown + 1)) for step in range(1, shown + 1)]
    groups = (
        ("most audio-sided", tuple(ordered[:ends])),
        ("in between", tuple(between[place] for place in places)),
        ("most visual-sided", tuple(ordered[-ends:])),
    )
    return Selection(groups, left_out=len(ordered) - sum(len(members) for _, members in groups))


def classes_without_training(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes that have no clip to train on, by a dataset.json; () where it does not say."""
    counts = dataset.get("clips_per_class", {}).get("train", ())
    return tuple(name for name, clips in zip(dataset.get("classes", ()), counts, strict=False) if clips == 0)
