"""Make index.arrow, the DALI indexes and what can be told of dataset.json again, from the tar shards.

A shard says of each clip its key, label, split, source, start and where its members lie; sound and pictures give their
checksums, and sound its samples. What no shard says is taken from dataset.json where that is as it was packed, and is
named where it is not. A shard that is not as dataset.json says is refused: damage would become what is expected.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from avbench.class_names import in_order
from avbench.dataset import (
    CLASSES_METADATA,
    DESCRIPTION_FILE,
    FORMAT,
    FORMAT_VERSION,
    INDEX_FILE,
    INDEX_SCHEMA,
    QUALITY_FILE,
    REJECTS_FILE,
    checksum,
    sha256_of,
    shard_name,
)
from avbench.description import (
    DIGEST,
    STFT_SUFFIX,
    VIEW_VERSION,
    contents_digest,
    field_problems,
    read_any_description,
)
from avbench.errors import DatasetError, UsageError
from avbench.packing.index_file import frame_suffix, index_text, write_index
from avbench.packing.quality import FLAGS
from avbench.packing.splits import per_class
from avbench.packing.tar import members_of
from avbench.packing.workers import Beat, WorkerDied, died_text, run_tasks
from avbench.records import atomic_path, write_json, write_text
from avbench.vocabulary import SPLITS

Place = tuple[str, int, int]
"""A member of a clip: its suffix, the byte offset of its data, its size."""


@dataclass(frozen=True)
class Reindexed:
    """What was done. written: files that were not as they are now. not_told: what no shard says, in words."""

    clips: int
    written: tuple[str, ...]
    not_told: tuple[str, ...]


def reindex(path: Path, *, workers: int) -> Reindexed:
    """Make a dataset's indexes and description again from its tar shards; of a whole dataset they come out the same.

    A file that changes is kept as NAME.before, unless dataset.json proves that the new one is what was packed. Raises
    UsageError for fewer than one worker, and DatasetError where a shard is missing, damaged or none of ours, where a
    clip lacks something, and where kept spectrograms have lost what only dataset.json and the index know of them.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; expected 1 or more")
    told = trusted_description(path)
    if told is not None and told["version"] == VIEW_VERSION:
        raise DatasetError(f"{path}: a view's index follows from no shard; make the view again with `avbench view`")
    shards = _read_shards(path, told, workers)
    suffix = _audio_suffix(path, shards)
    if suffix == STFT_SUFFIX and told is None:
        raise DatasetError(
            f"{path}: keeps spectrograms, whose scale {DESCRIPTION_FILE} alone says; restore that file or pack the "
            f"dataset again"
        )
    old = _old_index(path)
    classes, missing = _classes(told, old, shards)
    tables = [_numbered(shard, classes, old) for shard in shards]
    before = {name: file.read_bytes() for name in _MADE if (file := path / name).is_file()}
    is_older = told is not None and DIGEST not in told  # whose packs wrote no names of classes into the index
    _write_index(path / INDEX_FILE, tables, None if is_older else classes)
    description = _description(path, shards, tables, classes, suffix, told, missing)
    if description != told:
        write_json(path / DESCRIPTION_FILE, description)
    changed = [name for name in _MADE if (path / name).is_file() and (path / name).read_bytes() != before.get(name)]
    for name in changed:
        if name in before and description != told:
            with atomic_path(path / f"{name}.before") as partial_file:
                partial_file.write_bytes(before[name])
    mended = [Path(shard_name(shard.number)).stem + ".idx" for shard in shards if shard.is_idx_new]
    return Reindexed(sum(map(len, tables)), (*changed, *mended), _not_told(told, description))


_MADE = (INDEX_FILE, DESCRIPTION_FILE, REJECTS_FILE)


def trusted_description(path: Path) -> dict[str, Any] | None:
    """dataset.json where it is as it was packed, as far as it can tell; None where it is missing or damaged."""
    if not path.is_dir():
        raise DatasetError(f"{path}: no such dataset folder; make one with `avbench pack`")
    try:
        told = read_any_description(path)
    except DatasetError:
        return None
    is_whole = not any(field_problems(told)) and told.get(DIGEST, "") in ("", contents_digest(told))
    return told if is_whole else None


def mend_dali_index(path: Path, number: int) -> bool:
    """Write a shard's DALI index where it is not what the shard's headers say; whether it was not."""
    clips = _clips(path, number)
    text = index_text(list(clips.values()), list(clips))
    file = (path / shard_name(number)).with_suffix(".idx")
    if file.is_file() and file.read_bytes() == text.encode():
        return False
    write_text(file, text)
    return True


# Reading shards.


@dataclass(frozen=True)
class _Shard:
    """What one shard says.

    table: its rows of the index; `label` is the number in `labels`, and `samples` is null of kept spectrograms, which
    do not say how long the sound was. is_idx_new: its DALI index was another, or missing, and was written.
    """

    number: int
    sha256: str
    size_bytes: int
    audio_suffix: str
    labels: tuple[str, ...]
    table: pa.Table
    is_idx_new: bool


def _read_shards(path: Path, told: Mapping[str, Any] | None, workers: int) -> list[_Shard]:
    """Every shard. Raises DatasetError where one is missing, none of the dataset's, or not as dataset.json says."""
    names = {file.name for file in path.glob("*.tar")}
    packed = None if told is None else [shard["sha256"] for shard in told["shards"]]
    numbers = range(len(names) if packed is None else len(packed))
    expected = {shard_name(number) for number in numbers}
    if not names:
        raise DatasetError(f"{path}: holds no shards, so there is nothing to index; make some with `avbench pack`")
    for name in sorted(expected - names):
        raise DatasetError(
            f"{path / name}: missing, so nobody knows which clips it held; restore it, or pack it anew with "
            f"`avbench verify {path} --repair --media VIDEOS`"
        )
    for name in sorted(names - expected):
        raise DatasetError(f"{path / name}: is no shard of this dataset; remove it")
    found: dict[int, _Shard] = {}
    task, units = partial(_read_shard, path, packed), [1] * len(numbers)
    try:
        for place, shard in run_tasks(task, numbers, units=units, workers=workers, title="reading", unit="shards"):
            found[place] = shard
    except WorkerDied as death:
        at = [shard_name(number) for number in death.begun]
        raise DatasetError(f"{path}: {died_text('reading', at)}") from None
    return [found[number] for number in numbers]


def _read_shard(path: Path, packed: Sequence[str] | None, number: int, beat: Beat) -> _Shard:
    """All that one shard says. packed: the SHA-256 of every shard, where they are known. Writes its DALI index."""
    beat()
    tar = path / shard_name(number)
    sha256 = sha256_of(tar)
    if packed is not None and sha256 != packed[number]:
        raise DatasetError(
            f"{tar}: is not as it was packed, and an index of it would take damage for what is expected; mend it "
            f"first: `avbench verify {path} --repair --media VIDEOS`, or restore it"
        )
    rows, clips = [], _clips(path, number)
    with tar.open("rb") as file:
        for key, places in clips.items():
            data = {}
            for suffix, offset, size in places:
                file.seek(offset)
                data[suffix] = file.read(size)
            rows.append(_row(f"{tar}: {key}", key, number, places, data))
    suffixes = sorted({places[1][0] for places in clips.values()})
    if len(suffixes) != 1:
        raise DatasetError(f"{tar}: holds {'sound of ' + ' and '.join(suffixes) if suffixes else 'no clips'}")
    labels = tuple(sorted({row["label"] for row in rows}))
    numbered = [{**row, "label": labels.index(row["label"])} for row in rows]
    table = pa.Table.from_pylist(numbered, INDEX_SCHEMA)
    return _Shard(number, sha256, tar.stat().st_size, suffixes[0], labels, table, mend_dali_index(path, number))


def _clips(path: Path, number: int) -> dict[str, list[Place]]:
    """Each clip's members by its key, as pack writes them: json, sound, pictures in order. Reads headers only."""
    tar = path / shard_name(number)
    try:
        members, problem = members_of(tar)
    except OSError as error:
        raise DatasetError(f"{tar}: cannot be read ({error.strerror}); restore it") from None
    if problem:
        raise DatasetError(f"{tar}: {problem}; restore it or mend it with --repair")
    clips: dict[str, list[Place]] = {}
    for name, (offset, size) in members.items():
        key, _, suffix = name.partition(".")
        clips.setdefault(key, []).append((suffix, offset, size))
    for key, places in clips.items():
        suffixes = [suffix for suffix, _, _ in places]
        pictures = [frame_suffix(frame) for frame in range(len(places) - 2)]
        if len(places) < 3 or suffixes[0] != "json" or suffixes[2:] != pictures:
            raise DatasetError(
                f"{tar}: {key} holds {', '.join(suffixes)}, expected json, sound, {frame_suffix(0)} and so on: it is "
                f"no shard of `avbench pack`, or damaged"
            )
    return clips


def _row(where: str, key: str, number: int, places: Sequence[Place], data: Mapping[str, bytes]) -> dict[str, Any]:
    """A clip's row of the index, with the name of its label."""
    (audio, audio_offset, audio_size), frames = places[1], places[2:]
    try:
        about = json.loads(data["json"])
        row = {
            "key": key,
            "label": about["label"],
            "split": SPLITS.index(about["split"]),
            "source": about["source"],
            "start_seconds": float(about["start_seconds"]),
            "sample_rate": int(about["sample_rate_hz"]),
            "width": int(about["width"]),
            "height": int(about["height"]),
            "planted_audio": about.get("planted_audio"),
            "planted_visual": about.get("planted_visual"),
        }
        is_whole = about["frames"] == len(frames) and isinstance(row["label"], str)
        samples = None if audio == STFT_SUFFIX else soundfile.info(io.BytesIO(data[audio])).frames
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise DatasetError(f"{where}: its json is not what pack writes; mend the shard with --repair") from None
    except soundfile.LibsndfileError as error:
        raise DatasetError(f"{where}: its {audio} cannot be read ({error}); mend the shard with --repair") from None
    if not is_whole:
        raise DatasetError(f"{where}: its json does not fit its members; mend the shard with --repair")
    return {
        **row,
        "shard": number,
        "samples": samples,
        "audio_offset": audio_offset,
        "audio_size": audio_size,
        "audio_checksum": checksum(data[audio]),
        "frame_offset": [offset for _, offset, _ in frames],
        "frame_size": [size for _, _, size in frames],
        "frame_checksum": [checksum(data[suffix]) for suffix, _, _ in frames],
    }


# What the old files still say.


def _old_index(path: Path) -> pa.Table | None:
    """The index that is there, whatever is damaged in it; None where it cannot be read at all."""
    try:
        table = pa.ipc.open_file(io.BytesIO((path / INDEX_FILE).read_bytes())).read_all()
        table.validate(full=True)
    except (OSError, pa.ArrowException, ValueError):
        return None
    return table if table.schema.equals(INDEX_SCHEMA) else None


def _classes(
    told: Mapping[str, Any] | None, old: pa.Table | None, shards: Sequence[_Shard]
) -> tuple[tuple[str, ...], str]:
    """The class names in order, and what of them cannot be told, in words."""
    found = {label for shard in shards for label in shard.labels}
    if told is not None:
        names = tuple(told["classes"])
        if stray := sorted(found - set(names)):
            raise DatasetError(f"{DESCRIPTION_FILE} does not name the class {stray[0]!r}, which a shard's clip has")
        return names, ""
    text = (old.schema.metadata or {}).get(CLASSES_METADATA) if old is not None else None
    try:
        names = tuple(json.loads(text)) if text is not None else ()
    except ValueError:
        names = ()
    if names and len(set(names)) == len(names) and found <= set(map(str, names)):
        return names, ""
    return in_order(found), "classes without any clip, and an order of the classes that is not that of their names"


def _audio_suffix(path: Path, shards: Sequence[_Shard]) -> str:
    suffixes = {shard.audio_suffix for shard in shards}
    if len(suffixes) > 1:
        raise DatasetError(f"{path}: its shards hold sound of several kinds: {', '.join(sorted(suffixes))}")
    return suffixes.pop()


def _numbered(shard: _Shard, classes: Sequence[str], old: pa.Table | None) -> pa.Table:
    """The shard's rows with the numbers of their classes, and with the old index's samples of kept spectrograms."""
    places = np.array([classes.index(label) for label in shard.labels], np.int32)
    table = _with(shard.table, "label", places[shard.table.column("label").to_numpy()])
    if not table.column("samples").null_count:
        return table
    names = ("key", "samples")
    known = {} if old is None else dict(zip(*(old.column(name).to_pylist() for name in names), strict=True))
    keys = table.column("key").to_pylist()
    for key in keys:
        if key not in known:
            raise DatasetError(
                f"{shard_name(shard.number)}: how long the sound of {key} was, a kept spectrogram does not say; "
                f"restore {INDEX_FILE} or pack the dataset again"
            )
    return _with(table, "samples", [known[key] for key in keys])


def _with(table: pa.Table, name: str, values: Any) -> pa.Table:
    schema_field = INDEX_SCHEMA.field(name)
    return table.set_column(table.schema.get_field_index(name), schema_field, pa.array(values, schema_field.type))


# Writing.


def _write_index(path: Path, tables: Sequence[pa.Table], classes: Sequence[str] | None) -> None:
    """classes: None where the index is to have none, as those of older packs."""
    if classes is not None:
        write_index(path, tables, classes)
        return
    with atomic_path(path) as partial_file, pa.ipc.new_file(str(partial_file), INDEX_SCHEMA) as writer:
        writer.write_table(pa.concat_tables(tables).combine_chunks())


def _description(
    path: Path,
    shards: Sequence[_Shard],
    tables: Sequence[pa.Table],
    classes: Sequence[str],
    suffix: str,
    told: Mapping[str, Any] | None,
    missing: str,
) -> dict[str, Any]:
    """dataset.json. Of one that can be trusted only the checksum of the index may change."""
    index_sha256 = sha256_of(path / INDEX_FILE)
    if told is not None:
        description = {**told, "index_sha256": index_sha256}
        if DIGEST in told:
            description[DIGEST] = contents_digest(description)
        return description
    of_class = _per_class(tables, classes)
    rejects = _rejects(path)
    quality = _quality(path, [key for table in tables for key in table.column("key").to_pylist()])
    lost = [
        "the name",
        "the recipe and its versions",
        "when in each second pictures were taken (0 s, as by default, is assumed)",
        *([missing] if missing else []),
        *([] if rejects is not None else ["which clips were rejected"]),
        *([] if quality else ["silent sound, still pictures and the like"]),
        "what has become of each clip that was listed",
        "whether the shards are as they were packed",
    ]
    if rejects is None:
        write_text(path / REJECTS_FILE, "")
    description = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": path.resolve().name,
        "classes": list(classes),
        "audio_suffix": suffix,
        "clips": {split: sum(of_class[split]) for split in SPLITS},
        "clips_per_class": of_class,
        "shards": [_shard_entry(path, shard) for shard in shards],
        "frame_phase_seconds": 0.0,
        "rejects": rejects or {},
        **quality,
        "index_sha256": index_sha256,
        "reindexed": {"not_told": lost},
    }
    description[DIGEST] = contents_digest(description)
    return description


def _per_class(tables: Sequence[pa.Table], classes: Sequence[str]) -> dict[str, list[int]]:
    """Numbers of clips by split and class."""
    counts: Counter[tuple[str, str]] = Counter()
    for table in tables:
        for split, label in zip(*(table.column(name).to_pylist() for name in ("split", "label")), strict=True):
            counts[SPLITS[split], classes[label]] += 1
    return per_class(counts, classes)


def _shard_entry(path: Path, shard: _Shard) -> dict[str, Any]:
    splits = shard.table.column("split").unique().to_pylist()
    if len(splits) > 1:
        raise DatasetError(f"{path / shard_name(shard.number)}: holds clips of several splits, which pack never writes")
    return {
        "name": shard_name(shard.number),
        "split": SPLITS[splits[0]],
        "clips": len(shard.table),
        "size_bytes": shard.size_bytes,
        "sha256": shard.sha256,
    }


def _rejects(path: Path) -> dict[str, int] | None:
    """Rejected clips by reason, as rejects.jsonl lists them; None where it cannot be read."""
    try:
        lines = (path / REJECTS_FILE).read_text(encoding="utf-8").splitlines()
        return dict(sorted(Counter(str(json.loads(line)["reason"]) for line in lines).items()))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _quality(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """What dataset.json says of quality.parquet, where that is of these clips."""
    file = path / QUALITY_FILE
    try:
        table = pq.read_table(file)
        if table.column("key").to_pylist() != list(keys):
            return {}
        counts = {flag: sum(map(bool, table.column(flag).to_pylist())) for flag in FLAGS}
    except (OSError, pa.ArrowException, KeyError):
        return {}
    return {"quality": counts, "quality_sha256": sha256_of(file)}


def _not_told(told: Mapping[str, Any] | None, description: Mapping[str, Any]) -> tuple[str, ...]:
    if told is None:
        return tuple(description["reindexed"]["not_told"])
    if description["index_sha256"] != told["index_sha256"]:
        return ("the bytes of the index as it was packed, so runs that were begun with it will not go on",)
    return ()
