"""The dataset folder while it is packed: what may lie there, who may write, and what a pack was begun with."""

from __future__ import annotations

import errno
import json
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from avbench.dataset import DESCRIPTION_FILE, INDEX_FILE, QUALITY_FILE, QUARANTINE_FILE, REJECTS_FILE
from avbench.description import read_any_description
from avbench.errors import DatasetError
from avbench.packing.fates import CLIPS_FILE
from avbench.packing.locks import Locks, holder_text
from avbench.packing.recipes.files import WORK_FOLDER
from avbench.records import write_json

_PLAN_FILE = "plan.json"


def is_finished(out: Path) -> bool:
    """Whether the folder holds a whole dataset: its description is written last."""
    return (out / DESCRIPTION_FILE).exists()


def check_ours(out: Path, *, overwrite: bool, may_be_finished: bool = False) -> None:
    """Raise DatasetError for a folder that is not ours to write."""
    if out.exists() and not out.is_dir():
        raise DatasetError(f"{out}: is a file; --out names the dataset's folder")
    if is_finished(out):
        if not overwrite and not may_be_finished:
            raise _already(out)
    elif out.exists() and not (out / WORK_FOLDER).exists() and any(out.iterdir()) and not is_finished(out):
        raise DatasetError(f"{out}: holds other files; --out names a new or empty folder")


def _already(out: Path) -> DatasetError:
    return DatasetError(f"{out}: already holds a packed dataset; choose another --out, or replace it with --overwrite")


@contextmanager
def joined(out: Path, plan: Mapping[str, Any], *, overwrite: bool) -> Iterator[Locks]:
    """Make the folder, or join those that pack the same plan into it; yields the locks that are held meanwhile.

    plan: the recipe and the fingerprint of the clips. With `overwrite` the dataset in it is removed first. Raises
    DatasetError where it cannot be written, was begun with another plan, or is to be overwritten while others write it.
    """
    work = out / WORK_FOLDER
    with Locks() as locks:
        try:
            with _planning(work, locks):
                if overwrite:
                    _check_nobody_writes(work, locks)
                    _remove_dataset(out)
                if is_finished(out):
                    _check_same(out, plan)
                else:
                    _check_kind(out, plan)
                    for name, value in plan.items():
                        claim(out, name, value)
                # In the way of nobody but those who would overwrite.
                with suppress(FileNotFoundError):  # completed just now
                    locks.take(work / f"{_WRITER}{secrets.token_hex(8)}.lock")
            yield locks
        finally:
            if is_finished(out):
                _remove_work(out)


@contextmanager
def alone(out: Path, plan: Mapping[str, Any], *, overwrite: bool) -> Iterator[None]:
    """Make the folder as the only one that writes it. Raises DatasetError as `joined`, and where another writes it."""
    with joined(out, plan, overwrite=overwrite) as locks:
        lock = out / WORK_FOLDER / "alone.lock"
        if not locks.take(lock):
            raise DatasetError(
                f"{out}: another `avbench pack` is writing it ({holder_text(lock)}); wait for it, or choose "
                f"another --out"
            )
        yield


_WRITER = "pack-"
_WAIT_SECONDS = 0.2


@contextmanager
def _planning(work: Path, locks: Locks) -> Iterator[None]:
    """Make the working folder, and hold what only one may do there at once: look at the plan, or write it."""
    lock, is_held = work / "plan.lock", False
    while not is_held:
        _make(work)
        with suppress(FileNotFoundError):  # whoever has completed the dataset has removed the folder again
            is_held = locks.take(lock)
        if not is_held:
            time.sleep(_WAIT_SECONDS)
    try:
        yield
    finally:
        locks.release(lock)


def _make(work: Path) -> None:
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise DatasetError(f"{work.parent}: cannot be written: {error.strerror}") from None


def _check_nobody_writes(work: Path, locks: Locks) -> None:
    for path in sorted(work.glob(f"{_WRITER}*.lock")):
        if not locks.is_left_behind(path):
            raise DatasetError(
                f"{work.parent}: another `avbench pack` is writing it ({holder_text(path)}), so it is not overwritten; "
                f"wait for it, or choose another --out; if that one is dead, remove {path}"
            )


def _check_same(out: Path, plan: Mapping[str, Any]) -> None:
    """Raise DatasetError where the dataset, which is whole, is none of this plan."""
    told = read_any_description(out)
    if "recipe" not in plan or (told.get("recipe"), told.get("plan_sha256")) != (plan["recipe"], plan["clips"]):
        raise _already(out)


@contextmanager
def completing(out: Path, locks: Locks) -> Iterator[None]:
    """Hold what only one may do: look whether all shards are there, and make a dataset of them."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.held(out / WORK_FOLDER / "finish.lock"))
        except FileNotFoundError:
            # Another pack has completed the dataset, and removed what it was made with.
            if not is_finished(out):
                raise
        yield


def remove_half_written(out: Path) -> None:
    """Remove what killed packs have left under names of their own. Of a folder whose shards are all made."""
    for leftover in out.glob(".*.partial"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _remove_work(out: Path) -> None:
    """Remove what only a pack needs. Under another name first, so that nothing is put into it meanwhile."""
    aside = out / f"{WORK_FOLDER}.{secrets.token_hex(4)}.partial"
    with suppress(OSError):  # another has done so, or a file system keeps a file that is open
        (out / WORK_FOLDER).rename(aside)
        shutil.rmtree(aside)


def _remove_dataset(out: Path) -> None:
    """Unlinks, never truncates: a reader that has a shard mapped keeps it."""
    names = [
        DESCRIPTION_FILE,
        INDEX_FILE,
        REJECTS_FILE,
        QUALITY_FILE,
        QUARANTINE_FILE,
        CLIPS_FILE,
    ]  # the description first: it makes it a dataset
    kept_aside = sorted(out.glob("*.before"))  # by `avbench verify --reindex`
    shards = sorted(out.glob("shard-*.tar")) + sorted(out.glob("shard-*.idx"))
    for path in [out / name for name in names] + shards + kept_aside:
        path.unlink(missing_ok=True)
    remove_half_written(out)
    for path in (out / WORK_FOLDER).iterdir():
        if path.name != "plan.lock":
            path.unlink()


def _check_kind(out: Path, plan: Mapping[str, Any]) -> None:
    """Raise DatasetError where the folder holds an unfinished pack of another kind: of videos, or of a view."""
    begun = _begun(out)
    if set(begun) - set(plan):
        of, now = ("a view", "videos") if "view" in begun else ("videos", "a view")
        raise DatasetError(
            f"{out}: holds an unfinished pack of {of}, not of {now}; finish that one, choose another --out, or begin "
            f"anew with --overwrite"
        )


def _begun(out: Path) -> dict[str, Any]:
    path = out / WORK_FOLDER / _PLAN_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def claim(out: Path, name: str, value: Any) -> None:
    """Note what is packed here. Raises DatasetError where the pack was begun with something else."""
    path, plan = out / WORK_FOLDER / _PLAN_FILE, _begun(out)
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
