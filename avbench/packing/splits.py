"""Which videos go to which split, and whether the splits can be trained and tested on.

Names and counts only: training cuts its held-out part here too, and needs no PyAV for it.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice

from avbench.errors import RecipeError
from avbench.vocabulary import SPLITS

_LEAST_OF_A_CLASS = 3  # one video for each split


def cut_parts(labels: Mapping[str, str], fractions: Mapping[str, float]) -> dict[str, str]:
    """Which videos go to which part, by a hash of their names: {name: part}; the rest is in no part.

    labels: the label of each video. fractions: the share of each part, e.g. {"test": 0.1, "val": 0.1}. A class with
    three videos or more gives each part its share, and at least one video; the videos of smaller classes are pooled and
    cut together. Whatever is cut, something is left. The order of `labels` does not matter.
    """
    by_class: dict[str | None, list[str]] = defaultdict(list)
    sizes: dict[str, int] = defaultdict(int)
    for label in labels.values():
        sizes[label] += 1
    for name, label in labels.items():
        by_class[label if sizes[label] >= _LEAST_OF_A_CLASS else None].append(name)
    parts: dict[str, str] = {}
    for names in by_class.values():
        ordered = iter(sorted(names, key=lambda name: (hashlib.sha256(name.encode()).digest(), name)))
        if len(names) <= len(fractions):
            continue
        for part, fraction in fractions.items():
            count = max(1, math.floor(len(names) * fraction + 0.5)) if fraction else 0
            parts.update((name, part) for name in islice(ordered, count))
    return parts


def per_class(counts: Mapping[tuple[str, str], int], classes: Sequence[str]) -> dict[str, list[int]]:
    """For each split the number of clips of each class, from the number of each (split, class)."""
    return {split: [counts.get((split, name), 0) for name in classes] for split in SPLITS}


def check_splits(
    clips_per_class: Mapping[str, Sequence[int]],
    classes: Sequence[str],
    *,
    where: str,
    none_left: str = "no clips are left; rejects.jsonl says why each was left out",
) -> None:
    """Raise RecipeError where there are no clips at all, or the test split holds clips of one class only.

    clips_per_class: for each split the number of clips of each class, as in dataset.json. where: names the dataset.
    none_left: what is said where there are no clips.
    """
    if not sum(sum(counts) for counts in clips_per_class.values()):
        raise RecipeError(f"{where}: {none_left}")
    present = [name for name, count in zip(classes, clips_per_class.get("test", ()), strict=False) if count]
    if len(present) == 1:
        raise RecipeError(
            f"{where}: the test split has clips of one class only, {present[0]!r}; accuracies need two or more: "
            f"give more videos, or a split column in the list, and pack with --overwrite"
        )


def empty_splits_text(clips: Mapping[str, int]) -> str:
    """What a dataset without clips in some split cannot be used for, in words; empty where every split has some.

    clips: the number of clips of each split. Packs of one split are wanted, to be predicted on, so this is no error.
    """
    empty = [split for split in SPLITS if not clips.get(split)]
    if not empty:
        return ""
    names = " and ".join([", ".join(empty[:-1]), empty[-1]] if empty[:-1] else empty)
    return f"no clips in the {names} split{'s' if empty[1:] else ''}: `avbench train` needs clips in all three"


def untrained_classes(clips_per_class: Mapping[str, Sequence[int]], classes: Sequence[str]) -> list[str]:
    """The classes that have no clip in train, in order; none where train has no clips at all."""
    counts = clips_per_class.get("train", ())
    return [name for name, count in zip(classes, counts, strict=True) if not count] if sum(counts) else []
