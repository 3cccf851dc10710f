"""quarantine.jsonl: the clips that `avbench verify --quarantine` set aside, and the damaged shards that it knows of.

A line a clip, {"clip_id", "key", "reason"}, and a line a shard that is missing or cut: {"shard", "size_bytes",
"reason"} with the size that it had then, null where it was missing. A dataset with such a shard opens as long as it has
that size, since the clips that are not whole in it are among those set aside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from avbench.errors import DatasetError
from avbench.records import write_text

QUARANTINE_FILE = "quarantine.jsonl"


@dataclass(frozen=True)
class Quarantine:
    """What is set aside. clips: keys by clip id, None where the list has none. shards: sizes in bytes by file name."""

    clips: Mapping[int, str | None] = field(default_factory=dict)
    shards: Mapping[str, int | None] = field(default_factory=dict)

    @cached_property
    def clip_ids(self) -> np.ndarray:
        """Ids of the clips, ascending, int64."""
        return np.array(sorted(self.clips), np.int64)

    def knows(self, shard: str, size_bytes: int | None) -> bool:
        """Whether this shard was of this size (None: missing) when its clips were set aside."""
        return shard in self.shards and self.shards[shard] == size_bytes


@dataclass(frozen=True)
class Aside:
    """A clip or a shard to be noted, and why."""

    reason: str
    clip_id: int | None = None
    key: str | None = None
    shard: str | None = None
    size_bytes: int | None = None


def read_quarantine(folder: Path) -> Quarantine:
    """What the folder's quarantine.jsonl sets aside, nothing where there is none. DatasetError for another file."""
    asides = read_asides(folder)
    return Quarantine(
        {aside.clip_id: aside.key for aside in asides if aside.clip_id is not None},
        {aside.shard: aside.size_bytes for aside in asides if aside.shard is not None},
    )


def read_asides(folder: Path) -> list[Aside]:
    """The lines of the folder's quarantine.jsonl, none where there is none. DatasetError for another file."""
    path = folder / QUARANTINE_FILE
    try:
        return asides_of(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        raise DatasetError(
            f"{path}: not a quarantine list; write it anew with `avbench verify {folder} --quarantine`"
        ) from None


def asides_of(path: Path) -> list[Aside]:
    """The lines of a file of this form, wherever it lies. OSError where it cannot be read, ValueError for another."""
    asides = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            reason = str(entry.get("reason", ""))
            if "shard" in entry:
                size = _checked(entry["size_bytes"], int, type(None))
                asides.append(Aside(reason, shard=_checked(entry["shard"], str), size_bytes=size))
            else:
                clip_id = _checked(entry["clip_id"], int)
                int(np.int64(clip_id))  # OverflowError: no id
                asides.append(Aside(reason, clip_id=clip_id, key=_checked(entry.get("key"), str, type(None))))
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return asides


def write_quarantine(folder: Path, asides: Iterable[Aside]) -> None:
    """Replace the folder's list by this one; remove it where nothing is set aside."""
    lines = []
    for aside in asides:
        entry: dict[str, object] = {"reason": aside.reason}
        if aside.clip_id is not None:
            entry = {"clip_id": aside.clip_id, "key": aside.key, **entry}
        else:
            entry = {"shard": aside.shard, "size_bytes": aside.size_bytes, **entry}
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    if lines:
        write_text(folder / QUARANTINE_FILE, "".join(lines))
    else:
        (folder / QUARANTINE_FILE).unlink(missing_ok=True)


def _checked(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise ValueError(f"{value!r} is none of {kinds}")
    return value
