"""What a pack says before it decodes anything, and what it says in the end, as lines or as one JSON object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from avbench.class_names import are_whole_numbers, order_text
from avbench.dataset import REJECTS_FILE, Dataset
from avbench.packing.fates import fate_lines
from avbench.packing.part import Unfinished
from avbench.packing.quality import quality_line
from avbench.packing.recipes.left_out import left_out_from_json
from avbench.packing.recipes.videos import Videos
from avbench.packing.splits import check_splits, empty_splits_text, untrained_classes

_SHOWN = 10  # names of classes


def plan_lines(videos: Videos, *, where: str) -> list[str]:
    """What is left out of the plan or missing in it, to be said before hours of decoding.

    where: names the dataset. Raises RecipeError where nothing could be done with it.
    """
    planned = videos.clips_per_class()
    labels = sorted({clip.label for clip in videos.clips})
    classes = set(videos.classes)
    none_left = f"no video has the label of a class: the labels are {_some([repr(label) for label in labels])}"
    check_splits(planned, videos.classes, where=where, none_left=none_left)
    said = list(videos.notes)
    strange = Counter(clip.label for clip in videos.clips if clip.label not in classes)
    if count := sum(strange.values()):
        names = _some([f"{label!r} {number}" for label, number in strange.most_common()])
        said.append(f"{count} {'video has' if count == 1 else 'videos have'} a label that is no class: {names}")
    return [*said, *missing_lines(planned, videos.classes), *map(str, videos.left_out)]


def as_json(packed: Dataset | Unfinished) -> dict[str, Any]:
    """Everything that `lines` says, by name."""
    if isinstance(packed, Unfinished):
        made = {"own_shards": packed.own, "shards": packed.shards, "shards_left": packed.left}
        return {"dataset": str(packed.out), "part": str(packed.part), "is_complete": False, **made}
    dataset, told = packed, packed.description
    return {
        "dataset": str(dataset.path),
        "clips": told["clips"],
        "classes": list(dataset.classes),
        "rejected": told["rejects"],
        "rejects_file": str(dataset.path / REJECTS_FILE),
        "classes_without_training_clips": untrained_classes(told["clips_per_class"], dataset.classes),
        "empty_splits": [split for split, count in told["clips"].items() if not count],
        "quality": told["quality"],
        "left_out": told["left_out"],
        "fates": told["fates"],
    }


def lines(packed: Dataset | Unfinished) -> list[str]:
    """The last lines of `avbench pack`: the counts, then what deserves a look."""
    if isinstance(packed, Unfinished):
        made = f"part {packed.part} is made, {packed.own} shards; of all {packed.shards}, {packed.left} are missing"
        return [f"{packed.out}: {made}; the part that makes the last one completes the dataset"]
    dataset = packed
    told, classes = dataset.description, dataset.classes
    clips = ", ".join(f"{count} {split}" for split, count in told["clips"].items())
    rejects = sum(told["rejects"].values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in told["rejects"].items())
    said = [
        f"{dataset.path}: {len(dataset)} clips ({clips}), {len(classes)} classes, {rejects} rejected"
        + (f" ({reasons}; {REJECTS_FILE} lists them)" if rejects else "")
    ]
    said += fate_lines(told)
    if are_whole_numbers(classes):
        said.append(f"classes are numbers, in this order: {order_text(classes)}")
    if quality := quality_line(told):
        said.append(quality)
    return [*said, *missing_lines(told["clips_per_class"], classes), *map(str, left_out_from_json(told["left_out"]))]


def missing_lines(clips_per_class: Mapping[str, Sequence[int]], classes: Sequence[str]) -> list[str]:
    """The classes and splits that training would miss."""
    said = []
    if untrained := untrained_classes(clips_per_class, classes):
        have = "has" if len(untrained) == 1 else "have"
        said.append(f"{len(untrained)} of {len(classes)} classes {have} no training clip: {_some(untrained)}")
    if missing := empty_splits_text({split: sum(counts) for split, counts in clips_per_class.items()}):
        said.append(missing)
    return said


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])
