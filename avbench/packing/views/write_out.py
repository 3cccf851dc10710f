"""Write a view out as shards of its own: its clips' members are copied, in its order, and nothing is decoded.

What comes out is a dataset of format version 1 with the view's fingerprint, so runs that were begun on one go on with
the other. Only a clip's json changes, where the view gives it another class or split. A shard depends on nothing but
its part of the view; what is done is noted under .packing/, so a killed command goes on when it is started again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from avbench import installed_version
from avbench.dataset import INDEX_FILE, INDEX_SCHEMA, QUALITY_FILE, REJECTS_FILE, Dataset, checksum, sha256_of
from avbench.description import DESCRIPTION_FILE, DIGEST, FORMAT, FORMAT_VERSION, contents_digest
from avbench.errors import DatasetError, UsageError
from avbench.integrity import check_contents
from avbench.packing.index_file import frame_suffix, index_text, write_index
from avbench.packing.out_folder import alone, check_ours, remove_half_written, room
from avbench.packing.recipes.files import WORK_FOLDER
from avbench.packing.tar import TarShard, members_of
from avbench.packing.verify import json_problems
from avbench.packing.workers import Beat, WorkerDied, died_text, run_tasks
from avbench.records import atomic_path, write_json, write_text
from avbench.shards import shard_name
from avbench.vocabulary import SPLITS

_CLIPS_PER_SHARD = 64
_KEPT = ("name", "classes", "audio_suffix", "spectrogram", "clips", "clips_per_class")
_KEPT_TOO = ("recipe", "made_with", "frame_phase_seconds", "rejects", "left_out", "quality", "quality_sha256")
_OF_VIEW = ("view_made_with", "origin", "rule")
_FACTS = b"facts"
_MOST_NAMED = 5


@dataclass(frozen=True)
class CopyTask:
    """One shard to be written: rows `first` to `end` of the view, which has this index and gives them one split."""

    view: Path
    index_sha256: str
    out: Path
    number: int
    first: int
    end: int

    @property
    def tar(self) -> Path:
        """Where the shard goes."""
        return self.out / shard_name(self.number)

    @property
    def note(self) -> Path:
        """Written when the shard is whole: its rows of the index; its size and hash in the metadata."""
        return self.out / WORK_FOLDER / f"{self.tar.stem}.arrow"


def write_out(view: Path, *, out: Path, workers: int, clips_per_shard: int = 0, overwrite: bool = False) -> Dataset:
    """Write the clips of a view, or of any dataset, to the dataset folder `out`, and open it.

    clips_per_shard: 0 for as many as the view's recipe says. Raises UsageError for numbers below 1; DatasetError where
    the view or its shards are not whole, clips are in quarantine, a clip's bytes are not as packed, `out` holds
    something else, another pack is writing it, the disk is full or a worker dies.
    """
    if workers < 1 or clips_per_shard < 0:
        raise UsageError(f"workers is {workers} and clips_per_shard {clips_per_shard}; expected 1 or more")
    with room(out):
        check_ours(out, overwrite=overwrite)
        dataset = Dataset(view)
        _check_elsewhere(dataset, out)
        dataset.check_shards()
        check_contents(dataset)
        _check_none_aside(dataset)
        told = dataset.description.get("recipe", {}).get("clips_per_shard")
        tasks = _plan(dataset, out, clips_per_shard or (told if type(told) is int and told > 0 else _CLIPS_PER_SHARD))
        plan = {"view": dataset.fingerprint, "shards": [task.end for task in tasks]}
        with alone(out, plan, overwrite=overwrite):
            _copy_missing(tasks, workers)
            _finish(dataset, tasks, out)
    return Dataset(out)


def _check_elsewhere(dataset: Dataset, out: Path) -> None:
    """Raises DatasetError where `overwrite` would remove what is to be copied."""
    if out.resolve() in [(dataset.path / folder).resolve() for folder in (".", *dataset.shard_folders)]:
        raise DatasetError(f"{out}: is what is to be written out, or holds its shards; name another folder with --out")


def _check_none_aside(dataset: Dataset) -> None:
    """Shards hold whole clips only, and leaving some out would make other clip ids and another fingerprint."""
    aside = dataset.quarantined
    if len(aside):
        keys = ", ".join(dataset.key(clip_id) for clip_id in aside[:_MOST_NAMED].tolist())
        more = ", ..." if len(aside) > _MOST_NAMED else ""
        raise DatasetError(
            f"{dataset.path}: {len(aside)} clips are in quarantine ({keys}{more}); make a view without them, "
            f"`avbench view {dataset.path} --out NEW-VIEW`, and write that out"
        )


def _plan(dataset: Dataset, out: Path, clips_per_shard: int) -> list[CopyTask]:
    ends = np.flatnonzero(np.diff(dataset.splits)) + 1  # of the runs of rows of one split
    tasks: list[CopyTask] = []
    for first, end in zip([0, *ends.tolist()], [*ends.tolist(), len(dataset)], strict=True):
        for start in range(first, end, clips_per_shard):
            stop = min(start + clips_per_shard, end)
            tasks.append(CopyTask(dataset.path, dataset.index_sha256, out, len(tasks), start, stop))
    return tasks


# One shard.


def _copy_missing(tasks: Sequence[CopyTask], workers: int) -> None:
    missing = [task for task in tasks if not _is_made(task)]
    units = [task.end - task.first for task in missing]
    try:
        for _ in run_tasks(copy_shard, missing, units=units, workers=workers, title="copying", unit="clips"):
            pass
    except WorkerDied as death:
        at = [missing[number].tar.name for number in death.begun]
        raise DatasetError(f"{tasks[0].out}: {died_text('copying', at)}; run again to go on") from None


def _is_made(task: CopyTask) -> bool:
    if not task.note.exists():
        return False
    size = _read_note(task)[1]["size_bytes"]
    return task.tar.is_file() and task.tar.stat().st_size == size and task.tar.with_suffix(".idx").exists()


def copy_shard(task: CopyTask, beat: Beat) -> None:
    """Write one shard, its DALI index and, last, its note; each appears whole or not at all."""
    dataset = _opened(task.view, task.index_sha256)
    rows, members = [], []
    with atomic_path(task.tar) as partial:
        with partial.open("wb") as file:
            tar = TarShard(file)
            for clip_id in range(task.first, task.end):
                beat()
                key, contents = dataset.key(clip_id), _contents(dataset, clip_id)
                written = [(suffix, tar.add(f"{key}.{suffix}", data), len(data)) for suffix, data in contents.items()]
                members.append(written)
                rows.append(_row(dataset, clip_id, task.number, written))
            sha256 = tar.close()
        facts = {"size_bytes": partial.stat().st_size, "sha256": sha256}
    write_text(task.tar.with_suffix(".idx"), index_text(members, [row["key"] for row in rows]))
    table = pa.Table.from_pylist(rows, INDEX_SCHEMA.with_metadata({_FACTS: json.dumps(facts)}))
    with atomic_path(task.note) as partial, pa.ipc.new_file(str(partial), table.schema) as writer:
        writer.write_table(table)


# Both by what their files hold, since a path may get another file while the process lives.


@lru_cache(maxsize=1)
def _opened(view: Path, index_sha256: str) -> Dataset:
    return Dataset(view)


@lru_cache(maxsize=4)
def _members(shard: Path, sha256: str) -> Mapping[str, tuple[int, int]]:
    """Where the members of a shard lie. Rows of one shard stand together, so few are asked for again."""
    return members_of(shard)[0]


def _contents(dataset: Dataset, clip_id: int) -> dict[str, bytes]:
    """A clip's members by their suffixes, in their order. Raises DatasetError where one is not as it was packed."""
    sound = dataset.audio_bytes(clip_id).tobytes()
    frames = range(int(dataset.frame_counts(np.array([clip_id]))[0]))
    pictures = [dataset.frame_bytes(clip_id, frame).tobytes() for frame in frames]
    expected = [int(dataset.audio_checksums[clip_id]), *(dataset.frame_checksum(clip_id, frame) for frame in frames)]
    if [checksum(data) for data in (sound, *pictures)] != expected:
        raise _not_whole(dataset, clip_id)
    named = {frame_suffix(frame): picture for frame, picture in zip(frames, pictures, strict=True)}
    return {"json": _json(dataset, clip_id), dataset.audio_suffix: sound, **named}


def _json(dataset: Dataset, clip_id: int) -> bytes:
    """What the clip's json says, with its class and split in the view."""
    number = int(dataset.shards[clip_id])
    shard = dataset.shard_path(number)
    place = _members(shard, dataset.packed_shards.sha256[number]).get(f"{dataset.key(clip_id)}.json")
    if place is None or any(json_problems(dataset, clip_id, place)):
        raise _not_whole(dataset, clip_id)
    with shard.open("rb") as file:
        file.seek(place[0])
        data = file.read(place[1])
    told = json.loads(data)
    now = {**told, "label": dataset.classes[dataset.labels[clip_id]], "split": SPLITS[dataset.splits[clip_id]]}
    return data if told == now else json.dumps(now, ensure_ascii=False).encode()


def _not_whole(dataset: Dataset, clip_id: int) -> DatasetError:
    return DatasetError(
        f"{dataset.shard_path(int(dataset.shards[clip_id]))}: {dataset.key(clip_id)} is not as it was packed; mend it "
        f"with `avbench verify {dataset.path} --repair --media VIDEOS`, or set it aside with `avbench verify "
        f"{dataset.path} --quarantine` and make a view without it"
    )


def _row(dataset: Dataset, clip_id: int, shard: int, written: Sequence[tuple[str, int, int]]) -> dict[str, Any]:
    """The clip's row of the new index."""
    (row,) = dataset.table.slice(clip_id, 1).to_pylist()
    (_, audio_offset, _), frames = written[1], written[2:]
    return {**row, "shard": shard, "audio_offset": audio_offset, "frame_offset": [offset for _, offset, _ in frames]}


def _read_note(task: CopyTask) -> tuple[pa.Table, dict[str, Any]]:
    table = pa.ipc.open_file(pa.py_buffer(task.note.read_bytes())).read_all()
    return table, json.loads(table.schema.metadata[_FACTS])


# From shards to a dataset.


def _finish(dataset: Dataset, tasks: Sequence[CopyTask], out: Path) -> None:
    """Write index.arrow, quality.parquet, an empty rejects.jsonl and, last, dataset.json."""
    notes = [_read_note(task) for task in tasks]
    write_index(out / INDEX_FILE, [rows for rows, _ in notes], dataset.classes)
    told = dataset.description
    if "quality_sha256" in told:
        with atomic_path(out / QUALITY_FILE) as partial:
            partial.write_bytes((dataset.path / QUALITY_FILE).read_bytes())
    write_text(out / REJECTS_FILE, "")
    description = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        **{name: told[name] for name in _KEPT if name in told},
        "shards": list(_shard_entries(dataset, tasks, notes)),
        **{name: told[name] for name in _KEPT_TOO if name in told},
        "rejects": {},
        **{name: told[name] for name in _OF_VIEW if name in told},
        "written_out_with": {"avbench": installed_version()},
        "fingerprint": dataset.fingerprint,
        "index_sha256": sha256_of(out / INDEX_FILE),
    }
    description[DIGEST] = contents_digest(description)
    remove_half_written(out)
    write_json(out / DESCRIPTION_FILE, description)


def _shard_entries(
    dataset: Dataset, tasks: Sequence[CopyTask], notes: Sequence[tuple[pa.Table, dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    for task, (rows, facts) in zip(tasks, notes, strict=True):
        split = SPLITS[dataset.splits[task.first]]
        yield {"name": task.tar.name, "split": split, "clips": rows.num_rows, **facts}
