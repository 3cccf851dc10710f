"""What has become of each clip that was listed: clips.csv, its counts in dataset.json, and how they are said.

clips.csv has a row a clip, sorted by key, and behind them a row for each row of a published list that was not used:

    key      of the clip
    source   the video that it was cut from
    start    in that video, seconds
    label    as it was listed
    split    empty where the list says none of a row that was not used
    fate     packed, missing, rejected or "not used"
    reason   empty where it is packed
    file     the video, relative to the media folder; empty where none was found

Everybody's copy of a dataset of YouTube videos differs, so this is what tells two of them apart. Datasets that were
packed before this file existed have none.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avbench.dataset import sha256_of
from avbench.description import DESCRIPTION_FILE
from avbench.integrity import file_problem
from avbench.packing.clips import Clip
from avbench.packing.recipes.base import NotUsed
from avbench.packing.recipes.list_config import expected_counts
from avbench.packing.recipes.recipe import Recipe
from avbench.packing.streams import Reason
from avbench.packing.text_table import text_table
from avbench.records import atomic_path
from avbench.vocabulary import SPLITS

CLIPS_FILE = "clips.csv"
COLUMNS = ("key", "source", "start", "label", "split", "fate", "reason", "file")
PACKED, MISSING, REJECTED, NOT_USED = "packed", "missing", "rejected", "not used"
_FURTHEST = 10  # classes that lack the most of their clips


def write_fates(
    out: Path,
    clips: Iterable[Clip],
    rejects: Mapping[str, str],
    *,
    media: Path,
    not_used: Sequence[NotUsed] = (),
    published: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Write clips.csv; returns what dataset.json says of it.

    rejects: the reason of each clip that was rejected, by its key. published: how many clips the list's authors count
    in each split, where a recipe says so.
    """
    ordered = sorted(clips, key=lambda clip: clip.key)
    with atomic_path(out / CLIPS_FILE) as partial, partial.open("w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for clip in ordered:
            reason = rejects.get(clip.key, "")
            writer.writerow(_row(clip, _fate(reason), reason, _file(clip, media)))
        for one in not_used:
            writer.writerow(_row(one.clip, NOT_USED, one.why, ""))
    return {
        "fates": {
            "clips": len(ordered) + len(not_used),
            "splits": _by_split(ordered, rejects, published or {}),
            "not_used": dict(sorted(Counter(one.why for one in not_used).items())),
            "furthest_classes": _furthest(ordered, rejects),
        },
        "clips_sha256": sha256_of(out / CLIPS_FILE),
    }


def published_counts(recipe: Recipe) -> dict[str, int]:
    """How many clips the authors of the list count in each split, where the recipe says so."""
    is_cut_anew = recipe.window_seconds > 0 or bool(getattr(recipe.source, "split_by", ""))
    return {} if is_cut_anew else expected_counts(getattr(recipe.source, "expected", ()))


def _row(clip: Clip, fate: str, reason: str, file: str) -> tuple[str, ...]:
    start = f"{clip.file_start_seconds + clip.start_seconds:.15g}"
    return clip.key, clip.source, start, clip.label, clip.split or "", fate, reason, file


def _fate(reason: str) -> str:
    if not reason:
        return PACKED
    return MISSING if reason == Reason.MISSING else REJECTED


def _file(clip: Clip, media: Path) -> str:
    if clip.looked_for:
        return ""
    return clip.path.relative_to(media).as_posix() if clip.path.is_relative_to(media) else clip.path.name


def _by_split(
    clips: Sequence[Clip], rejects: Mapping[str, str], published: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    reasons = {split: Counter(rejects.get(clip.key, "") for clip in clips if clip.split == split) for split in SPLITS}
    return {
        split: {
            "listed": found.total(),
            **({"published": published[split]} if split in published else {}),
            PACKED: found.pop("", 0),
            MISSING: found.pop(Reason.MISSING, 0),
            REJECTED: {str(reason): count for reason, count in sorted(found.items())},
        }
        for split, found in reasons.items()
    }


def _furthest(clips: Sequence[Clip], rejects: Mapping[str, str]) -> list[dict[str, Any]]:
    """The classes that lack the largest share of their listed clips, the worst first."""
    listed = Counter(clip.label for clip in clips)
    packed = Counter(clip.label for clip in clips if clip.key not in rejects)
    lacking = [name for name in listed if packed[name] < listed[name]]
    lacking.sort(key=lambda name: (packed[name] / listed[name], name))
    return [{"name": name, "listed": listed[name], "packed": packed[name]} for name in lacking[:_FURTHEST]]


def fate_lines(description: Mapping[str, Any]) -> list[str]:
    """The table of what has become of the clips of each split; none of a dataset that was packed without one."""
    told = description.get("fates")
    if told is None:
        return []
    splits = told["splits"]
    has_published = any("published" in of for of in splits.values())
    reasons = list(dict.fromkeys(reason for of in splits.values() for reason in of[REJECTED]))
    header = ["split", "listed", *(["published"] if has_published else []), PACKED, MISSING, *reasons]
    rows = [
        [
            split,
            of["listed"],
            *([of.get("published", "")] if has_published else []),
            of[PACKED],
            of[MISSING],
            *(of[REJECTED].get(reason, 0) for reason in reasons),
        ]
        for split, of in splits.items()
    ]
    said = text_table(header, rows)
    if told["not_used"]:
        counts = ", ".join(f"{why} {count}" for why, count in told["not_used"].items())
        said.append(f"rows of the list that are not used: {counts}")
    if told["furthest_classes"]:
        classes = [f"{one['name']} {one['packed']} of {one['listed']}" for one in told["furthest_classes"]]
        said.append(f"classes furthest from their list: {', '.join(classes)}")
    return said


def fate_problems(path: Path, description: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a dataset's clips.csv; nothing for a dataset that was packed without one."""
    packed = description.get("clips_sha256")
    if packed is None:
        return
    file = path / CLIPS_FILE
    if problem := file_problem(file, packed):
        yield problem
        return
    with file.open(encoding="utf-8", newline="") as text:
        fates = Counter(row["fate"] for row in csv.DictReader(text))
    clips = sum(description["clips"].values())
    if fates[PACKED] != clips:
        yield f"{CLIPS_FILE} has {fates[PACKED]} packed clips, {DESCRIPTION_FILE} says {clips}"
