"""The dataset folder while it is packed: what may lie there, who may write, and what a pack was begun with."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avbench.dataset import DESCRIPTION_FILE, INDEX_FILE, QUALITY_FILE, QUARANTINE_FILE, REJECTS_FILE
from avbench.errors import DatasetError
from avbench.packing.recipes.files import WORK_FOLDER
from avbench.records import write_json

_PLAN_FILE = "plan.json"


def check_ours(out: Path, *, overwrite: bool) -> None:
    """Raise DatasetError for a folder that is not ours to write."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out}: is a file; --out names the dataset's folder")
    work, description = out / WORK_FOLDER, out / DESCRIPTION_FILE
    if description.exists() and not overwrite:
        raise DatasetError(
            f"{out}: already holds a packed dataset; choose another --out, or replace it with --overwrite"
        )
    if out.exists() and not work.exists() and not description.exists() and any(out.iterdir()):
        raise DatasetError(f"{out}: holds other files; --out names a new or empty folder")


def make_way(out: Path, *, overwrite: bool) -> None:
    """Make the folder; with `overwrite` remove the dataset in it. Raises DatasetError where it cannot be written."""
    work = out / WORK_FOLDER
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise DatasetError(f"{out}: cannot be written: {error.strerror}") from None
    if overwrite:
        with locked(out):
            _remove_dataset(out)


def _remove_dataset(out: Path) -> None:
    """Unlinks, never truncates: a reader that has a shard mapped keeps it."""
    names = [
        DESCRIPTION_FILE,
        INDEX_FILE,
        REJECTS_FILE,
        QUALITY_FILE,
        QUARANTINE_FILE,
    ]  # the description first: it makes it a dataset
    kept_aside = sorted(out.glob("*.before"))  # by `avbench verify --reindex`
    shards = sorted(out.glob("shard-*.tar")) + sorted(out.glob("shard-*.idx"))
    for path in [out / name for name in names] + shards + kept_aside:
        path.unlink(missing_ok=True)
    for path in (out / WORK_FOLDER).iterdir():
        if path.name != "lock":
            path.unlink()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder against a second pack, and remove what a killed one left half-written.

    Raises DatasetError where another pack holds it.
    """
    with (out / WORK_FOLDER / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(
                f"{out}: another `avbench pack` is writing it; wait for it, or choose another --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        for leftover in (*out.glob(".*.partial"), *(out / WORK_FOLDER).glob(".*.partial")):
            leftover.unlink(missing_ok=True)
        yield


def claim(out: Path, name: str, value: Any) -> None:
    """Note what is packed here. Raises DatasetError where the pack was begun with something else."""
    path = out / WORK_FOLDER / _PLAN_FILE
    plan = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if name not in plan:
        write_json(path, {**plan, name: value})
    elif plan[name] != value:
        what = "with other videos or labels than there are now"
        if isinstance(value, dict):
            changed = [key for key in {**value, **plan[name]} if plan[name].get(key) != value.get(key)]
            what = f"with {changed[0]} {plan[name].get(changed[0])!r}, not {value.get(changed[0])!r}"
        raise DatasetError(
            f"{out}: holds an unfinished pack that was begun {what}; finish that one, choose another --out, "
            f"or begin anew with --overwrite"
        )


_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Within, where files are made in this folder, a full disk is a DatasetError of one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        there = next(place for place in (folder, *folder.resolve().parents) if place.exists())
        free = shutil.disk_usage(there).free
        raise DatasetError(
            f"{folder}: the disk is full ({free / 1e6:.1f} MB free); make room and run the same command again: it goes "
            f"on where it stopped"
        ) from None
