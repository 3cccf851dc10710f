"""What `avbench view` says of a view that was made."""

from __future__ import annotations

from typing import Any

from avbench.packing.summary import missing_lines
from avbench.packing.views.view import View


def lines(view: View) -> list[str]:
    """How many clips there are of each split, then what training would miss."""
    dataset = view.dataset
    told = dataset.description
    clips = ", ".join(f"{count} {split}" for split, count in told["clips"].items())
    folders = " and ".join(dict.fromkeys(str(dataset.path / folder) for folder in dataset.shard_folders))
    return [
        f"{dataset.path}: a view of {len(dataset)} clips ({clips}), {len(dataset.classes)} classes, in "
        f"{len(dataset.packed_shards)} shards of {folders}",
        *missing_lines(told["clips_per_class"], dataset.classes),
        *_lone_class(told["clips_per_class"]["test"], dataset.classes),
    ]


def as_json(view: View) -> dict[str, Any]:
    """The same by name, with everything that was left out."""
    told = view.dataset.description
    return {
        "view": str(view.dataset.path),
        **{name: told[name] for name in ("clips", "clips_per_class", "classes", "left_out", "origin", "rule")},
        "fingerprint": view.dataset.fingerprint,
        "notes": list(view.notes),
    }


def _lone_class(clips: list[int], classes: tuple[str, ...]) -> list[str]:
    present = [name for name, count in zip(classes, clips, strict=True) if count]
    if len(present) != 1:
        return []
    return [f"the test split has clips of one class only, {present[0]!r}: `avbench train` needs two or more"]
