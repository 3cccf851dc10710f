"""Mend a packed dataset: make its damaged shards again from the videos, byte for byte as they were packed.

A shard depends on nothing but the recipe and its clips, which the index lists in their order. So it is made anew in a
folder of its own, and takes its place by renaming only where it has the checksum that it was packed with; whoever has
the old file open keeps it. What follows from the shards (DALI's indexes, index.arrow) is made again from them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from avbench.dataset import INDEX_FILE, Dataset, sha256_of, shard_name
from avbench.description import DESCRIPTION_FILE, VIEW_VERSION
from avbench.errors import DatasetError, UsageError
from avbench.packing.clips import Clip
from avbench.packing.locks import Locks
from avbench.packing.making import make_shards
from avbench.packing.out_folder import room
from avbench.packing.pack import make_shard, read_note
from avbench.packing.recipes.reading import stored_recipe
from avbench.packing.recipes.recipe import Recipe, source_of
from avbench.packing.recipes.videos import clips_of
from avbench.packing.reindex import mend_dali_index, reindex, trusted_description
from avbench.packing.shard_task import ShardTask
from avbench.packing.workers import Beat, run_tasks
from avbench.shards import Shards, folder_of
from avbench.wording import first_of

_MOST_NAMED = 10


@dataclass(frozen=True)
class Repaired:
    """What was done. shards: packed anew. files: the others that were made again from the shards."""

    shards: tuple[str, ...]
    files: tuple[str, ...]


def repair(path: Path, media: Path | None, *, workers: int) -> Repaired:
    """Give a dataset its packed bytes again: its shards from the videos in `media`, its indexes from the shards.

    media: None where no shard is damaged, or where the recipe has a folder of its own. Raises UsageError where the
    videos are wanted and not named, or for fewer than one worker; DatasetError where dataset.json is damaged, and where
    a shard does not come out as it was packed: those that do are in their places then, the others are as they were.
    Of a view, the dataset that its shards lie in is mended.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; expected 1 or more")
    told = trusted_description(path)
    if told is None:
        raise DatasetError(
            f"{path / DESCRIPTION_FILE}: missing or damaged, so nobody knows what the shards were; restore it, or make "
            f"it again from the shards with `avbench verify {path} --reindex`"
        )
    if told["version"] == VIEW_VERSION:
        return _repaired_where_shards_lie(path, media, told, workers)
    bad = _damaged_shards(path, told, workers)
    if bad:
        with room(path):
            _pack_anew(path, media, told, bad, workers)
    files = [
        f"{Path(shard_name(number)).stem}.idx" for number in range(len(told["shards"])) if mend_dali_index(path, number)
    ]
    if not _is_index_whole(path, told):
        files += _mended_index(path, told, workers)
    return Repaired(tuple(shard_name(number) for number in bad), tuple(files))


def _repaired_where_shards_lie(path: Path, media: Path | None, told: Mapping[str, Any], workers: int) -> Repaired:
    """Of a view: its shards are another dataset's, which knows all clips of theirs, so that one is mended."""
    if not _is_index_whole(path, told):
        raise DatasetError(
            f"{path / INDEX_FILE}: missing or damaged, and the index of a view follows from no shard; restore it, or "
            f"make the view again with `avbench view`"
        )
    places = Dataset(path, shards_may_be_damaged=True).packed_shards.places
    folders = sorted({folder_of(places[number]) for number in _damaged_shards(path, told, workers)})
    if len(folders) > 1:
        commands = " and ".join(f"`avbench verify {path / folder} --repair --media VIDEOS`" for folder in folders)
        raise DatasetError(
            f"{path}: shards of {len(folders)} datasets are damaged; mend each from its videos: {commands}"
        )
    done = [(folder, repair(path / folder, media, workers=workers)) for folder in folders]
    return Repaired(
        tuple(f"{folder}/{name}" for folder, mended in done for name in mended.shards),
        tuple(f"{folder}/{name}" for folder, mended in done for name in mended.files),
    )


def _mended_index(path: Path, told: Mapping[str, Any], workers: int) -> Sequence[str]:
    """Make the index again from the shards, which are whole."""
    written = reindex(path, workers=workers).written
    if not _is_index_whole(path, told):
        raise DatasetError(
            f"{path / INDEX_FILE}: was made again from the shards, and is not the one that was packed: runs that were "
            f"begun with it will not go on; the old one is {INDEX_FILE}.before"
        )
    return written


def _is_index_whole(path: Path, told: Mapping[str, Any]) -> bool:
    file = path / INDEX_FILE
    return file.is_file() and sha256_of(file) == told["index_sha256"]


def _damaged_shards(path: Path, told: Mapping[str, Any], workers: int) -> list[int]:
    """Numbers of the shards that are not, byte for byte, those that were packed."""
    shards = Shards(told)
    files = [path / place for place in shards.places]
    task = partial(_is_damaged, files, shards.sha256)
    units = [size >> 20 for size in shards.size_bytes]
    found = run_tasks(task, range(len(shards)), units=units, workers=workers, title="comparing", unit="MB")
    return sorted(number for number, is_damaged in found if is_damaged)


def _is_damaged(files: Sequence[Path], sha256: Sequence[str], number: int, beat: Beat) -> bool:
    beat()
    return not files[number].is_file() or sha256_of(files[number]) != sha256[number]


def _pack_anew(path: Path, media: Path | None, told: Mapping[str, Any], bad: Sequence[int], workers: int) -> None:
    """Make these shards and put those in their places that have come out as they were."""
    names = first_of([shard_name(number) for number in bad], _MOST_NAMED)
    if "recipe" not in told:
        raise DatasetError(f"{path}: {DESCRIPTION_FILE} has no recipe to pack {names} by; restore the shard")
    recipe = stored_recipe(told["recipe"], str(path / DESCRIPTION_FILE))
    media = media or source_of(recipe).default_media(path)
    if media is None:
        raise UsageError(f"{path}: damaged: {names}; name the folder that holds the videos: --repair --media VIDEOS")
    planned = {clip.key: clip for clip in clips_of(recipe, media, workers=workers)}
    keys = dict(_keys_of(path, told, bad))
    _remove_leftovers(path)
    with tempfile.TemporaryDirectory(prefix=f"{_WORK}{os.getpid()}-", dir=path) as folder:
        tasks = [
            _task(number, keys[number], planned, told=told, recipe=recipe, out=Path(folder), media=media)
            for number in bad
        ]
        _make(tasks, workers)
        refused = []
        for task in tasks:
            if _fits(task, told):
                # The index first: a shard that is in its place is never looked at again.
                for suffix in (".idx", ".tar"):
                    task.tar.with_suffix(suffix).replace((path / task.tar.name).with_suffix(suffix))
            else:
                refused.append(f"{task.tar.name} ({_difference(path, task, told)})")
        if refused:
            raise DatasetError(
                f"{path}: packed anew from {media}, {'; '.join(refused)} is not as it was packed, so the old file "
                f"stays; packed with {_versions(told)}; give the videos of then, or pack the dataset again"
            )


def _task(
    number: int,
    keys: Sequence[str],
    planned: Mapping[str, Clip],
    *,
    told: Mapping[str, Any],
    recipe: Recipe,
    out: Path,
    media: Path,
) -> ShardTask:
    if missing := [key for key in keys if key not in planned]:
        raise DatasetError(
            f"{media}: has no video for {first_of(missing, _MOST_NAMED)}, of which {shard_name(number)} is to be "
            f"packed anew; name the folder that the dataset was packed from"
        )
    split, classes = told["shards"][number]["split"], tuple(told["classes"])
    # By the index: what else has come to the media folder since may have moved the cut between splits.
    clips = tuple(replace(planned[key], split=split) for key in keys)
    return ShardTask(number, split, clips, classes, recipe, out)


def _make(tasks: Sequence[ShardTask], workers: int) -> None:
    """A clip that crashes the process that reads it is rejected, as in packing: its shard is then another one."""
    tasks[0].note.parent.mkdir()
    with Locks() as locks:
        make_shards(
            make_shard,
            tasks,
            is_made=lambda task: task.note.exists(),
            locks=locks,
            workers=workers,
            title="packing anew",
        )


def _fits(task: ShardTask, told: Mapping[str, Any]) -> bool:
    return task.tar.is_file() and sha256_of(task.tar) == told["shards"][task.number]["sha256"]


def _difference(path: Path, task: ShardTask, told: Mapping[str, Any]) -> str:
    """Which clips have not come out as they were, in words."""
    rows, facts = read_note(task)
    rejected = [f"{one['key']}: {' '.join([one['reason'], one['detail']]).strip()}" for one in facts["rejects"]]
    if rejected:
        return first_of(rejected, _MOST_NAMED)
    if not _is_index_whole(path, told):
        return f"which of its clips cannot be told without a whole {INDEX_FILE}"
    old = Dataset(path, shards_may_be_damaged=True).rows_of_shard(task.number)
    changed = [
        f"{one['key']}: {' and '.join(_changed(one, other))}"
        for one, other in zip(rows.to_pylist(), old.to_pylist(), strict=True)
        if any(_changed(one, other))
    ]
    return first_of(changed, _MOST_NAMED) or "sound and pictures are the same, what the clips' json says is not"


def _changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    if one["audio_checksum"] != other["audio_checksum"]:
        yield "other sound"
    if one["frame_checksum"] != other["frame_checksum"]:
        yield "other pictures"


def _keys_of(path: Path, told: Mapping[str, Any], shards: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
    """The keys of each of these shards' clips in their order: by the index, else by the shard's DALI index."""
    if _is_index_whole(path, told):
        dataset = Dataset(path, shards_may_be_damaged=True)
        for number in shards:
            yield number, dataset.rows_of_shard(number).column("key").to_pylist()
        return
    for number in shards:
        file = (path / shard_name(number)).with_suffix(".idx")
        try:
            lines = file.read_text(encoding="utf-8").splitlines()[1:]
            keys = [line.split()[3].partition(".")[0] for line in lines]
        except (OSError, ValueError, IndexError):
            keys = []
        if len(keys) != told["shards"][number]["clips"]:
            raise DatasetError(
                f"{path}: {shard_name(number)}, {INDEX_FILE} and {file.name} are all damaged, so nobody knows which "
                f"clips the shard held; restore one of them"
            )
        yield number, keys


_WORK = ".repair-"


def _remove_leftovers(path: Path) -> None:
    """What repairs that were killed have left, of processes that are gone."""
    for folder in path.glob(f"{_WORK}*"):
        process = folder.name.removeprefix(_WORK).partition("-")[0]
        if not (process.isdigit() and Path("/proc", process).exists()):
            shutil.rmtree(folder, ignore_errors=True)


def _versions(told: Mapping[str, Any]) -> str:
    versions = told.get("made_with") or {}
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "versions that nobody noted"
