"""What a pack would make, and how large it would be: nothing is packed, but a sample of the clips is, elsewhere.

The sample is drawn by a keyed hash of the clips' names, so everybody draws the same. Its clips are decoded, encoded and
written by packing's own code into a folder that is removed again; hours and bytes are those of the sample, scaled.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avbench.packing.clips import Clip
from avbench.packing.locks import Locks
from avbench.packing.making import make_shards
from avbench.packing.media import Reason, Reject
from avbench.packing.out_folder import check_ours, room
from avbench.packing.pack import check_clip, check_options, make_shard, planned, read_note
from avbench.packing.recipes.base import Source
from avbench.packing.recipes.recipe import Recipe, source_of
from avbench.packing.shard_task import ShardTask
from avbench.packing.text_table import bytes_text, text_table
from avbench.vocabulary import SPLITS

SAMPLE = 32
_BLOCK = 512  # a member's header in a tar file, and what its data are filled up to
_NORMAL_95 = 1.96  # standard errors on each side of a mean
_SHOWN = 10  # keys


def dry_run(
    recipe: Recipe, media: Path, *, out: Path, workers: int, clip_seconds_limit: float, overwrite: bool = False
) -> dict[str, Any]:
    """What `pack` would make of these videos in `out`, as JSON would have it; nothing is left behind.

    bytes and hours are estimates, bytes_error and hours_error half the width of their intervals of 95 %, zero where the
    sample is all that there is. Raises as `pack` does.
    """
    check_options(workers, clip_seconds_limit)
    check_ours(out, overwrite=overwrite)
    with _media_of(recipe, media) as folder:
        videos, clips = planned(recipe, folder, out=out, workers=workers)
        refused = {clip.key: reason for clip in clips if (reason := _refusal(clip, videos.classes))}
        left = [clip for clip in clips if clip.key not in refused]
        sample = _sample(left, recipe.seed)
        found, rejected = _measured(sample, recipe, videos.classes, workers, clip_seconds_limit)
    counts = Counter(clip.split for clip in left)
    seconds, size = (_scaled([one[place] for one in found], len(left)) for place in (0, 1))
    share = {split: counts[split] / max(1, len(left)) for split in SPLITS}
    return {
        "dataset": str(out),
        "is_dry_run": True,
        "classes": list(videos.classes),
        "splits": {
            split: {
                **_counts_of([clip for clip in clips if clip.split == split], refused),
                "hours": seconds[0] * share[split] / 3600,
                "bytes": round(size[0] * share[split]),
            }
            for split in SPLITS
        },
        "missing": [key for key, reason in refused.items() if reason == Reason.MISSING],
        "hours": seconds[0] / 3600,
        "hours_error": seconds[1] / 3600,
        "bytes": round(size[0]),
        "bytes_error": round(size[1]),
        "shards": sum(-(-count // recipe.clips_per_shard) for count in Counter(clip.split for clip in clips).values()),
        "sample": {"clips": len(sample), "seed": recipe.seed, "rejected": rejected},
        "left_out": [one.as_json() for one in videos.left_out],
    }


def dry_run_lines(found: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    splits, sample = found["splits"], found["sample"]
    reasons = list(dict.fromkeys(reason for of in splits.values() for reason in of["refused"]))
    header = ["split", "listed", "to pack", "missing", *reasons, "hours", "size"]
    rows = [
        [
            split,
            of["listed"],
            of["to_pack"],
            of["missing"],
            *(of["refused"].get(reason, 0) for reason in reasons),
            f"{of['hours']:.2f}",
            bytes_text(of["bytes"]),
        ]
        for split, of in splits.items()
    ]
    rejected = ", ".join(f"{reason} {count}" for reason, count in sample["rejected"].items())
    missing = found["missing"]
    return [
        *text_table(header, rows),
        *([f"missing: {', '.join([*missing[:_SHOWN], *(['...'] if missing[_SHOWN:] else [])])}"] if missing else []),
        f"{found['dataset']}: nothing was packed; a pack would make {found['shards']} shards, "
        f"{bytes_text(found['bytes'])} (+- {bytes_text(found['bytes_error'])}) and {found['hours']:.2f} hours "
        f"(+- {found['hours_error']:.2f})",
        f"estimated from {sample['clips']} clips that were decoded and encoded (drawn by seed {sample['seed']}), "
        f"{f'of which were rejected: {rejected}' if rejected else 'all of which can be packed'}",
    ]


@contextmanager
def _media_of(recipe: Recipe, media: Path) -> Iterator[Path]:
    """The media folder; another one, for the time being, where the source makes its videos itself."""
    if type(source_of(recipe)).prepare is Source.prepare:
        yield media
        return
    with tempfile.TemporaryDirectory(prefix="avbench-dry-run-") as folder, room(Path(folder)):
        yield Path(folder) / "media"


def _refusal(clip: Clip, classes: Sequence[str]) -> str:
    """Why a clip would be rejected unseen; empty where it would be decoded."""
    try:
        check_clip(clip, classes)
    except Reject as reject:
        return reject.reason
    return ""


def _counts_of(clips: Sequence[Clip], refused: Mapping[str, str]) -> dict[str, Any]:
    reasons = Counter(refused.get(clip.key, "") for clip in clips)
    return {
        "listed": len(clips),
        "to_pack": reasons.pop("", 0),
        "missing": reasons.pop(Reason.MISSING, 0),
        "refused": {str(reason): count for reason, count in sorted(reasons.items())},
    }


def _sample(clips: Sequence[Clip], seed: int) -> list[Clip]:
    return heapq.nsmallest(
        SAMPLE, clips, key=lambda clip: hashlib.sha256(f"sample/{seed}/{clip.key}".encode()).digest()
    )


def _measured(
    clips: Sequence[Clip], recipe: Recipe, classes: tuple[str, ...], workers: int, clip_seconds_limit: float
) -> tuple[list[tuple[float, float]], dict[str, int]]:
    """Seconds and bytes of each clip, zero of one that is rejected; and how many are, by reason."""
    with tempfile.TemporaryDirectory(prefix="avbench-dry-run-") as folder, room(Path(folder)), Locks() as locks:
        tasks = [
            ShardTask(number, clip.split or "train", (clip,), classes, recipe, Path(folder), clip_seconds_limit)
            for number, clip in enumerate(clips)
        ]
        (Path(folder) / tasks[0].note.parent.name).mkdir()
        make_shards(make_shard, tasks, is_made=_is_noted, locks=locks, workers=workers, title="sampling")
        measured = [_seconds_and_bytes(task) for task in tasks]
        reasons = Counter(reject["reason"] for task in tasks for reject in read_note(task)[1]["rejects"])
    return measured, dict(sorted(reasons.items()))


def _is_noted(task: ShardTask) -> bool:
    return task.note.exists()


def _seconds_and_bytes(task: ShardTask) -> tuple[float, float]:
    """Of one clip alone in its shard: how long its sound is, and what it takes of a shard and of the indexes."""
    rows, _ = read_note(task)
    if not rows.num_rows:
        return 0.0, 0.0
    (row,) = rows.to_pylist()
    index = task.tar.with_suffix(".idx").read_text(encoding="utf-8").splitlines()[1]
    sizes = [int(size) for size in index.split()[2::4]]
    in_shard = sum(_BLOCK + math.ceil(size / _BLOCK) * _BLOCK for size in sizes)
    return row["samples"] / row["sample_rate"], float(in_shard + len(index) + 1 + rows.nbytes)


def _scaled(values: Sequence[float], clips: int) -> tuple[float, float]:
    """The sum over so many clips of which these are a sample, and half the width of its interval of 95 %."""
    if not values:
        return 0.0, 0.0
    spread = statistics.stdev(values) if len(values) > 1 and len(values) < clips else 0.0
    error = _NORMAL_95 * spread * math.sqrt((1 - len(values) / clips) / len(values))
    return statistics.fmean(values) * clips, error * clips
