"""Clips -> tar shards, their DALI indexes, index.arrow and dataset.json.

The plan comes first: every clip, sorted into splits, in a seeded random order, cut into shards. Each shard then depends
on nothing but its part of the plan, so shards are made in any order by any number of processes, and a clip that is
rejected only makes its shard shorter. What is done is noted under .packing/, one file a shard, written last; a pack
that was killed, started again, makes the shards that have none.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pyarrow as pa

from avbench import installed_version
from avbench.dataset import (
    DESCRIPTION_FILE,
    FORMAT,
    FORMAT_VERSION,
    INDEX_FILE,
    INDEX_SCHEMA,
    REJECTS_FILE,
    Dataset,
    checksum,
    sha256_of,
    shard_name,
)
from avbench.description import DIGEST, contents_digest
from avbench.errors import DatasetError, UsageError
from avbench.packing.apart import BLAMED, done_apart
from avbench.packing.clips import Clip
from avbench.packing.fates import published_counts, write_fates
from avbench.packing.index_file import counts_of, frame_suffix, index_text, write_index
from avbench.packing.making import make_shards
from avbench.packing.media import ClipMedia, PictureSettings, Reason, Reject, encode_audio, read_clip
from avbench.packing.out_folder import check_ours, completing, is_finished, joined, remove_half_written, room
from avbench.packing.part import WHOLE, Part, Unfinished
from avbench.packing.quality import is_complete, quality_of, write_quality
from avbench.packing.recipes.base import NotUsed
from avbench.packing.recipes.files import NO_VIDEO_SUFFIXES, suffix_of
from avbench.packing.recipes.left_out import LeftOut
from avbench.packing.recipes.recipe import STFT_SUFFIX, Recipe, stored
from avbench.packing.recipes.videos import Videos, cut_clips, videos_of
from avbench.packing.shard_task import CLIP_SECONDS_LIMIT, ShardTask
from avbench.packing.splits import check_splits
from avbench.packing.splits import per_class as _per_class
from avbench.packing.summary import plan_lines
from avbench.packing.tar import TarShard
from avbench.packing.workers import Beat, is_importing_main
from avbench.records import atomic_path, write_json, write_text
from avbench.vocabulary import SPLITS

if TYPE_CHECKING:  # torch, 500 MB in every packing process, which only those that keep spectrograms need
    from avbench.loading.stored_spectrogram import StoredSpectrogram


def pack(
    recipe: Recipe,
    media: Path,
    *,
    out: Path,
    workers: int,
    overwrite: bool = False,
    clip_seconds_limit: float = CLIP_SECONDS_LIMIT,
) -> Dataset:
    """Pack the recipe's clips of a media folder into the dataset folder `out`, and open it.

    A pack that was interrupted is continued, with any number of workers, to the same bytes; others that are begun
    meanwhile share its shards. workers: processes beside this one. clip_seconds_limit: a clip that takes longer to read
    is rejected, as is one that crashes the process that reads it. Raises UsageError for fewer than one worker;
    RecipeError where the recipe, the list or the media cannot become a dataset; DatasetError where `out` holds
    something else, the disk is full or workers die at no clip.
    """
    check_options(workers, clip_seconds_limit)
    check_ours(out, overwrite=overwrite)
    packed = _pack(recipe, media, out, WHOLE, workers, overwrite, clip_seconds_limit)
    assert isinstance(packed, Dataset), "the whole waits for all of its shards"
    return packed


def pack_part(
    recipe: Recipe,
    media: Path,
    *,
    out: Path,
    part: Part,
    workers: int,
    clip_seconds_limit: float = CLIP_SECONDS_LIMIT,
) -> Dataset | Unfinished:
    """Make the shards of one part of the same pack, in the same folder; whoever makes the last one ends the dataset.

    Parts may run at once, on one machine or on many, and again where they were killed; a part of a finished dataset has
    nothing to do. Raises as `pack` does, and DatasetError where the folder holds another plan.
    """
    check_options(workers, clip_seconds_limit)
    check_ours(out, overwrite=False, may_be_finished=True)
    return _pack(recipe, media, out, part, workers, False, clip_seconds_limit)


def _pack(
    recipe: Recipe, media: Path, out: Path, part: Part, workers: int, overwrite: bool, clip_seconds_limit: float
) -> Dataset | Unfinished:
    with room(out):
        # Before anything is made or removed: a recipe that cannot become clips leaves everything as it was.
        videos, clips = planned(recipe, media, out=out, workers=workers)
        classes = videos.classes
        plan_sha256 = _fingerprint(clips, classes)
        with joined(out, {"recipe": stored(recipe), "clips": plan_sha256}, overwrite=overwrite) as locks:
            tasks = _plan(recipe, clips, classes, out, clip_seconds_limit)
            make_shards(make_shard, part.its(tasks), is_made=_is_made, locks=locks, workers=workers)
            with completing(out, locks):
                if left := _left(tasks):
                    return Unfinished(out, part, len(part.its(tasks)), left, len(tasks))
                if not is_finished(out):
                    listed = Listed(media, videos.left_out, videos.not_used, plan_sha256)
                    _finish(recipe, classes, tasks, out, listed)
    return Dataset(out)


def check_options(workers: int, clip_seconds_limit: float) -> None:
    """Raise UsageError for numbers that make no sense, and where a script's guard is missing."""
    if is_importing_main():
        raise UsageError(
            "a script that calls pack, which starts processes, needs `if __name__ == '__main__':` around it"
        )
    if workers < 1:
        raise UsageError(f"workers is {workers}; expected 1 or more")
    if not clip_seconds_limit > 0:
        raise UsageError(f"clip-seconds-limit is {clip_seconds_limit:g}; expected more than 0")


# The plan.


def planned(recipe: Recipe, media: Path, *, out: Path, workers: int) -> tuple[Videos, list[Clip]]:
    """The videos of a recipe, and the clips that they are cut into; says what is missing or left out.

    out: the dataset, for what is said. Raises RecipeError where they cannot become a dataset.
    """
    with room(media):  # planted clips are rendered there
        videos = videos_of(recipe, media, workers=workers)
    for line in plan_lines(videos, where=str(out)):
        print(f"avbench: {out}: {line}", file=sys.stderr, flush=True)
    return videos, cut_clips(videos, recipe, media)


def _plan(
    recipe: Recipe, clips: Sequence[Clip], classes: tuple[str, ...], out: Path, clip_seconds_limit: float
) -> list[ShardTask]:
    tasks: list[ShardTask] = []
    for split in SPLITS:
        # Sorting by a keyed hash is a random order that no library's version changes.
        ordered = sorted(
            (clip for clip in clips if clip.split == split),
            key=lambda clip: hashlib.sha256(f"{recipe.seed}/{clip.key}".encode()).digest(),
        )
        for first in range(0, len(ordered), recipe.clips_per_shard):
            part = tuple(ordered[first : first + recipe.clips_per_shard])
            tasks.append(ShardTask(len(tasks), split, part, classes, recipe, out, clip_seconds_limit))
    return tasks


def _fingerprint(clips: Sequence[Clip], classes: Sequence[str]) -> str:
    """Identifies what is to be packed, wherever the media folder lies."""
    listed = [
        [value for name, value in asdict(clip).items() if name not in _NOT_IN_THE_PLAN] + ["sound"] * bool(clip.sound)
        for clip in clips
    ]
    return hashlib.sha256(json.dumps([listed, list(classes)]).encode()).hexdigest()


# Key and split say it, or it says nothing of the clip's bytes.
_NOT_IN_THE_PLAN = ("path", "looked_for", "name", "group", "file_start_seconds", "sound")


# One shard.


def _left(tasks: Sequence[ShardTask]) -> int:
    """How many shards are not made; none of a dataset that another pack has completed."""
    if is_finished(tasks[0].out):
        return 0
    noted = {path.name for path in tasks[0].note.parent.glob("*.arrow")}
    return sum(task.note.name not in noted or not _is_made(task) for task in tasks)


def _is_made(task: ShardTask) -> bool:
    if not task.note.exists():
        return False
    table, facts = read_note(task)
    if table.num_rows == 0 or _moved(task).exists():
        return True
    index = task.tar.with_suffix(".idx")
    return task.tar.exists() and task.tar.stat().st_size == facts["size_bytes"] and index.exists()


def make_shard(task: ShardTask, beat: Beat) -> None:
    """Decode the task's clips and write its shard, its DALI index and, last, its note.

    Each appears whole or not at all. A shard whose clips are all rejected is only noted: DALI reads no empty ones.
    """
    rows: list[dict[str, Any]] = []
    members: list[list[tuple[str, int, int]]] = []
    rejects: list[dict[str, str]] = []
    quality: list[dict[str, Any]] = []
    verdicts = _noted_verdicts(task)
    with atomic_path(task.tar) as partial:
        with partial.open("wb") as file:
            tar = TarShard(file)
            for clip in task.clips:
                beat()
                try:
                    made = _made(clip, task, beat, verdicts)
                except Reject as reject:
                    rejects.append(
                        {"key": clip.key, "source": clip.source, "reason": reject.reason, "detail": reject.detail}
                    )
                    continue
                row, written = _write_clip(tar, clip, made, task)
                rows.append(row)
                quality.append(made.quality)
                members.append(written)
            beat.rest()
            sha256 = tar.close()
        facts = {
            "size_bytes": partial.stat().st_size,
            "sha256": sha256,
            "rejects": rejects,
            "quality": quality,
        }
    if rows:
        write_text(task.tar.with_suffix(".idx"), index_text(members, [row["key"] for row in rows]))
    else:
        task.tar.unlink()
    table = pa.Table.from_pylist(rows, INDEX_SCHEMA.with_metadata({"facts": json.dumps(facts)}))
    _write_arrow(task.note, table)


@dataclass(frozen=True)
class MadeClip:
    """All that is kept of a clip: its media, the bytes of its sound, and its row of quality.parquet."""

    media: ClipMedia
    audio: bytes
    quality: dict[str, Any]


def _made(clip: Clip, task: ShardTask, beat: Beat, verdicts: dict[str, list[str]]) -> MadeClip:
    """The clip, made here or, where a process has ended at it before, by one of its own. Raises Reject.

    verdicts: (reason, detail) of the shard's clips that end processes, by their keys; what is new is noted.
    """
    if clip.key in verdicts:
        reason, detail = verdicts[clip.key]
        raise Reject(Reason(reason), detail)
    if clip.key not in task.apart:
        return make_clip(clip, task)
    beat.rest()  # what happens to this process now is no fault of the clip's
    try:
        return done_apart(make_clip, clip, replace(task, clips=()), seconds=task.clip_seconds_limit)
    except Reject as reject:
        if reject.reason in BLAMED:
            verdicts[clip.key] = [reject.reason, reject.detail]
            write_json(task.verdicts, verdicts)
        raise


def _noted_verdicts(task: ShardTask) -> dict[str, list[str]]:
    return json.loads(task.verdicts.read_text(encoding="utf-8")) if task.verdicts.exists() else {}


def make_clip(clip: Clip, task: ShardTask) -> MadeClip:
    """Decode one clip and encode its sound. Raises Reject where it cannot become part of a dataset."""
    media = _read(clip, task)
    return MadeClip(
        media, _encode_audio(media.waveform, task.recipe), quality_of(media, sample_rate_hz=task.recipe.sample_rate_hz)
    )


def check_clip(clip: Clip, classes: Sequence[str]) -> None:
    """Raise Reject for a clip that need not be decoded to know that it cannot be packed."""
    if clip.label not in classes:
        raise Reject(Reason.UNKNOWN_LABEL, repr(clip.label))
    if clip.looked_for:
        raise Reject(Reason.MISSING, clip.looked_for)
    if os.path.islink(clip.path) and not os.path.exists(clip.path):  # noqa: PTH110, PTH114  no error without the right
        raise Reject(Reason.MISSING, f"{clip.path.name} is a link that leads nowhere")
    if (suffix := suffix_of(clip.path.name)) in NO_VIDEO_SUFFIXES:
        raise Reject(Reason.NOT_A_VIDEO, f"files with the suffix {suffix} are not opened")


def _read(clip: Clip, task: ShardTask) -> ClipMedia:
    check_clip(clip, task.classes)
    recipe = task.recipe
    return read_clip(
        clip.path,
        sound_path=clip.sound,
        start_seconds=clip.start_seconds,
        seconds=clip.seconds,
        sample_rate_hz=recipe.sample_rate_hz,
        pictures=PictureSettings(recipe.short_side, recipe.jpeg_quality, recipe.frame_phase_seconds),
    )


def _write_clip(
    tar: TarShard, clip: Clip, made: MadeClip, task: ShardTask
) -> tuple[dict[str, Any], list[tuple[str, int, int]]]:
    """Write a clip's members; returns its row of the index, and its members as (suffix, offset, size)."""
    recipe, media, audio = task.recipe, made.media, made.audio
    contents = {
        "json": json.dumps(_description(clip, media, recipe), ensure_ascii=False).encode(),
        recipe.audio_suffix: audio,
        **{frame_suffix(number): frame for number, frame in enumerate(media.frames)},
    }
    written = [(suffix, tar.add(f"{clip.key}.{suffix}", data), len(data)) for suffix, data in contents.items()]
    (_, audio_offset, audio_size), frames = written[1], written[2:]
    row = {
        "key": clip.key,
        "label": task.classes.index(clip.label),
        "split": SPLITS.index(task.split),
        "source": clip.source,
        "start_seconds": clip.start_seconds,
        "shard": task.number,
        "audio_offset": audio_offset,
        "audio_size": audio_size,
        "audio_checksum": checksum(audio),
        "samples": len(media.waveform),
        "sample_rate": recipe.sample_rate_hz,
        "width": media.width,
        "height": media.height,
        "frame_offset": [offset for _, offset, _ in frames],
        "frame_size": [size for _, _, size in frames],
        "frame_checksum": [checksum(frame) for frame in media.frames],
        "planted_audio": clip.planted_audio,
        "planted_visual": clip.planted_visual,
    }
    return row, written


def _encode_audio(waveform: np.ndarray, recipe: Recipe) -> bytes:
    spectrogram = _spectrogram(recipe)
    if spectrogram is not None:
        return spectrogram.encode(waveform)
    return encode_audio(waveform, recipe.sample_rate_hz, suffix=recipe.audio_suffix)


def _spectrogram(recipe: Recipe) -> StoredSpectrogram | None:
    """How sound is kept where that is a spectrogram."""
    if recipe.audio_suffix != STFT_SUFFIX:
        return None
    from avbench.loading.presets import preset
    from avbench.loading.stored_spectrogram import stored_spectrogram

    return stored_spectrogram(preset(recipe.stft_preset))


def _description(clip: Clip, media: ClipMedia, recipe: Recipe) -> dict[str, Any]:
    """What a reader of the shard alone learns of a clip: its member .json."""
    planted = {"planted_audio": clip.planted_audio, "planted_visual": clip.planted_visual}
    return {
        "label": clip.label,
        "split": clip.split,
        "source": clip.source,
        "start_seconds": clip.start_seconds,
        "duration_seconds": round(media.seconds, 6),
        "frames": len(media.frames),
        "width": media.width,
        "height": media.height,
        "sample_rate_hz": recipe.sample_rate_hz,
        **{name: value for name, value in planted.items() if value is not None},
    }


# From shards to a dataset.


@dataclass(frozen=True)
class Listed:
    """What a dataset's description says beside its clips. plan_sha256: of what was to be packed."""

    media: Path
    left_out: tuple[LeftOut, ...] = ()
    not_used: tuple[NotUsed, ...] = ()
    plan_sha256: str = ""


def _finish(recipe: Recipe, classes: tuple[str, ...], tasks: Sequence[ShardTask], out: Path, listed: Listed) -> None:
    """Write index.arrow, rejects.jsonl, quality.parquet, clips.csv and, last, dataset.json."""
    notes = [read_note(task) for task in tasks]
    rejects = [reject for _, facts in notes for reject in facts["rejects"]]
    write_text(out / REJECTS_FILE, "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects))
    filled = [(task, *note) for task, note in zip(tasks, notes, strict=True) if note[0].num_rows]
    tables = []
    for number, (task, rows, _) in enumerate(filled):
        _move(task, number)
        shard = pa.array(np.full(rows.num_rows, number, np.int32))
        tables.append(rows.set_column(INDEX_SCHEMA.get_field_index("shard"), INDEX_SCHEMA.field("shard"), shard))
    per_class = _per_class(counts_of(tables, classes), classes)
    where = f"{out} ({len(rejects)} clips were rejected, see {REJECTS_FILE})" if rejects else str(out)
    check_splits(per_class, classes, where=where)
    write_index(out / INDEX_FILE, tables, classes)
    spectrogram = _spectrogram(recipe)
    description = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": recipe.name,
        "classes": list(classes),
        "audio_suffix": recipe.audio_suffix,
        **({} if spectrogram is None else {"spectrogram": asdict(spectrogram)}),
        "clips": {split: sum(per_class[split]) for split in SPLITS},
        "clips_per_class": per_class,
        "shards": [
            {
                "name": shard_name(number),
                "split": task.split,
                "clips": rows.num_rows,
                "size_bytes": facts["size_bytes"],
                "sha256": facts["sha256"],
            }
            for number, (task, rows, facts) in enumerate(filled)
        ],
        "recipe": stored(recipe),
        "made_with": {
            "avbench": installed_version(),
            "av": av.__version__,
            "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        },
        "frame_phase_seconds": recipe.frame_phase_seconds,
        "rejects": dict(sorted(Counter(reject["reason"] for reject in rejects).items())),
        "left_out": [one.as_json() for one in listed.left_out],
        "plan_sha256": listed.plan_sha256,
        **write_fates(
            out,
            [clip for task in tasks for clip in task.clips],
            {reject["key"]: reject["reason"] for reject in rejects},
            media=listed.media,
            not_used=listed.not_used,
            published=published_counts(recipe),
        ),
        **write_quality(out, [(rows.column("key"), facts["quality"]) for _, rows, facts in filled]),
        "index_sha256": sha256_of(out / INDEX_FILE),
    }
    description[DIGEST] = contents_digest(description)
    remove_half_written(out)
    write_json(out / DESCRIPTION_FILE, description)


def _moved(task: ShardTask) -> Path:
    return task.note.with_suffix(".moved")


def _move(task: ShardTask, number: int) -> None:
    """Give a shard its final number, lower than the planned one where shards before it stayed empty.

    In ascending order each final name is free; the mark says that what now has the planned name is another shard.
    """
    if number == task.number or _moved(task).exists():
        return
    final = task.out / shard_name(number)
    for suffix in (".idx", ".tar"):
        if task.tar.with_suffix(suffix).exists():
            task.tar.with_suffix(suffix).replace(final.with_suffix(suffix))
    _moved(task).touch()


def _write_arrow(path: Path, table: pa.Table) -> None:
    """One record batch."""
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def read_note(task: ShardTask) -> tuple[pa.Table, dict[str, Any]]:
    """What a made shard's note says: its rows of the index, and its size, hash, rejects and quality by name."""
    table = pa.ipc.open_file(io.BytesIO(task.note.read_bytes())).read_all()
    facts = json.loads(table.schema.metadata[b"facts"])
    if "quality" not in facts or not is_complete(facts["quality"]):
        raise DatasetError(
            f"{task.out}: holds an unfinished pack that an older avbench began, which looks at less of each video; "
            f"choose another --out, or begin anew with --overwrite"
        )
    return table, facts
