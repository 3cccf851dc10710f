"""What a finished pack says: how many clips of what, and all that was left out; as lines or as one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avbench.class_names import are_whole_numbers, order_text
from avbench.dataset import REJECTS_FILE, Dataset
from avbench.packing.folders import left_out_from_json
from avbench.packing.splits import empty_splits_text, untrained_classes

_SHOWN = 10  # names of classes


def as_json(dataset: Dataset) -> dict[str, Any]:
    """Everything that `lines` says, by name."""
    told = dataset.description
    return {
        "dataset": str(dataset.path),
        "clips": told["clips"],
        "classes": list(dataset.classes),
        "rejected": told["rejects"],
        "rejects_file": str(dataset.path / REJECTS_FILE),
        "classes_without_training_clips": untrained_classes(told["clips_per_class"], dataset.classes),
        "empty_splits": [split for split, count in told["clips"].items() if not count],
        "left_out": told["left_out"],
    }


def lines(dataset: Dataset) -> list[str]:
    """The last lines of `avbench pack`: the counts, then what deserves a look."""
    told, classes = dataset.description, dataset.classes
    clips = ", ".join(f"{count} {split}" for split, count in told["clips"].items())
    rejects = sum(told["rejects"].values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in told["rejects"].items())
    said = [
        f"{dataset.path}: {len(dataset)} clips ({clips}), {len(classes)} classes, {rejects} rejected"
        + (f" ({reasons}; {REJECTS_FILE} lists them)" if rejects else "")
    ]
    if are_whole_numbers(classes):
        said.append(f"classes are numbers, in this order: {order_text(classes)}")
    if untrained := untrained_classes(told["clips_per_class"], classes):
        have = "has" if len(untrained) == 1 else "have"
        said.append(f"{len(untrained)} of {len(classes)} classes {have} no training clip: {_some(untrained)}")
    if missing := empty_splits_text(told["clips"]):
        said.append(missing)
    return [*said, *map(str, left_out_from_json(told["left_out"]))]


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])
