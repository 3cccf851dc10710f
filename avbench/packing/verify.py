"""Prove that a packed dataset is whole; set aside the clips that are not.

The index says where every byte of every clip is and what it should be; the shards are read from the tar headers on, as
any other reader would, and the two must agree. Then every clip is decoded.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import soundfile

from avbench.dataset import (
    DESCRIPTION_FILE,
    INDEX_FILE,
    QUARANTINE_FILE,
    REJECTS_FILE,
    Dataset,
    checksum,
    sha256_of,
    shard_name,
)
from avbench.errors import DatasetError, UsageError
from avbench.packing.quality import quality_problems
from avbench.packing.workers import Beat, WorkerDied, run_tasks
from avbench.records import SPLITS, write_text


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was packed: of one clip, of a shard, or of the dataset."""

    clip_id: int | None
    key: str | None
    shard: str | None
    text: str

    def __str__(self) -> str:
        place = [part for part in (self.shard, self.key) if part is not None]
        return ": ".join([*place, self.text])


def verify(path: Path, *, workers: int, quarantine: bool = False) -> list[Problem]:
    """Everything that is wrong with a packed dataset, dataset first, then shard by shard; empty where it is whole.

    quarantine: note the clips that are not whole in quarantine.jsonl, so that no reader delivers them; an older note is
    replaced, and removed where no clip is bad. Raises UsageError for fewer than one worker and DatasetError where
    `path` is no dataset at all.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; expected 1 or more")
    try:
        dataset = Dataset(path)
    except DatasetError:
        problems = list(_broken_shards(path))
        if not problems:
            raise
        return problems
    problems = list(_dataset_problems(dataset))
    shards = range(len(dataset.description["shards"]))
    found: dict[int, list[Problem]] = {}
    try:
        clips = [shard["clips"] for shard in dataset.description["shards"]]
        for shard, those in run_tasks(
            partial(_shard_problems, path), shards, units=clips, workers=workers, title="verifying", unit="clips"
        ):
            found[shard] = those
    except WorkerDied as death:
        names = ", ".join(shard_name(number) for number in death.begun)
        raise DatasetError(f"{path}: a verifying process was killed or crashed (out of memory?) at {names}") from None
    problems += [problem for shard in shards for problem in found[shard]]
    if quarantine:
        _write_quarantine(path, problems)
    return problems


def _broken_shards(path: Path) -> Iterator[Problem]:
    """Shards that are missing or have another size than they were packed with."""
    try:
        shards = json.loads((path / DESCRIPTION_FILE).read_text(encoding="utf-8"))["shards"]
        sizes = [int(shard["size_bytes"]) for shard in shards]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for number, size in enumerate(sizes):
        shard = path / shard_name(number)
        if not shard.exists():
            yield Problem(None, None, shard.name, "is missing; restore it or pack the dataset again")
        elif shard.stat().st_size != size:
            text = f"has {shard.stat().st_size} bytes, was packed with {size}; restore it or pack the dataset again"
            yield Problem(None, None, shard.name, text)


def _dataset_problems(dataset: Dataset) -> Iterator[Problem]:
    """Whether index, description and rejects agree with each other."""
    description = dataset.description

    def differ(what: str, found: object, packed: object) -> Iterator[Problem]:
        if found != packed:
            yield Problem(None, None, None, f"{what}: found {found}, dataset.json says {packed}")

    yield from differ(f"SHA-256 of {INDEX_FILE}", sha256_of(dataset.path / INDEX_FILE), description["index_sha256"])
    per_class = {
        split: np.bincount(dataset.labels[dataset.splits == number], minlength=len(dataset.classes)).tolist()
        for number, split in enumerate(SPLITS)
    }
    yield from differ("clips per class", per_class, description["clips_per_class"])
    yield from differ("clips", {split: sum(counts) for split, counts in per_class.items()}, description["clips"])
    in_shards = np.bincount(dataset.shards, minlength=len(description["shards"])).tolist()
    yield from differ("clips per shard", in_shards, [shard["clips"] for shard in description["shards"]])
    if len(set(dataset.column("key", np.arange(len(dataset))).to_pylist())) != len(dataset):
        yield Problem(None, None, None, f"{INDEX_FILE} has a key twice")
    try:
        lines = (dataset.path / REJECTS_FILE).read_text(encoding="utf-8").splitlines()
        rejects = dict(sorted(Counter(json.loads(line)["reason"] for line in lines).items()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Problem(None, None, None, f"{REJECTS_FILE} cannot be read: {error}")
    else:
        yield from differ(REJECTS_FILE, rejects, description["rejects"])
    for text in quality_problems(dataset.path, description):
        yield Problem(None, None, None, text)


def _shard_problems(path: Path, shard: int, beat: Beat) -> list[Problem]:
    """Everything wrong with one shard and its clips."""
    dataset = Dataset(path)
    name = shard_name(shard)
    tar = path / name
    packed = dataset.description["shards"][shard]
    problems = []
    if sha256_of(tar) != packed["sha256"]:
        problems.append(Problem(None, None, name, "its SHA-256 is not the one it was packed with"))
    members, end = _members(tar)
    if end:
        problems.append(Problem(None, None, name, end))
    clips = np.flatnonzero(dataset.shards == shard)
    if (dataset.splits[clips] != SPLITS.index(packed["split"])).any():
        problems.append(Problem(None, None, name, f"has clips of another split than {packed['split']}"))
    expected: set[str] = set()
    lines = [f"v1.2 {len(clips)}"]
    for clip_id in clips.tolist():
        beat()
        key = dataset.key(clip_id)
        suffixes = _suffixes(dataset, clip_id)
        expected.update(f"{key}.{suffix}" for suffix in suffixes)
        places = [(suffix, *members.get(f"{key}.{suffix}", (0, 0))) for suffix in suffixes]
        lines.append(" ".join(f"{suffix} {offset} {size} {key}.{suffix}" for suffix, offset, size in places))
        problems += [Problem(clip_id, key, name, text) for text in _clip_problems(dataset, clip_id, members)]
    for stray in sorted(set(members) - expected):
        problems.append(Problem(None, None, name, f"holds {stray}, which {INDEX_FILE} does not list"))
    index = tar.with_suffix(".idx")
    if not index.exists():
        problems.append(Problem(None, None, name, f"its DALI index {index.name} is missing"))
    elif index.read_text(encoding="utf-8").splitlines() != lines:
        problems.append(Problem(None, None, name, f"its DALI index {index.name} does not list what it holds"))
    return problems


def _members(tar: Path) -> tuple[dict[str, tuple[int, int]], str]:
    """Byte offset and size of each member's data by its name, and what is wrong with the tar file, if anything."""
    members: dict[str, tuple[int, int]] = {}
    with tar.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as reader:
                for member in reader:
                    members[member.name] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            return members, f"is no whole tar file: {error}"
    return members, ""


def _suffixes(dataset: Dataset, clip_id: int) -> list[str]:
    frames = int(dataset.frame_counts(np.array([clip_id]))[0])
    return ["json", dataset.audio_suffix, *(f"{number:03d}.jpg" for number in range(frames))]


def _clip_problems(dataset: Dataset, clip_id: int, members: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """What is wrong with one clip: where its members lie, what they hold, whether they decode."""
    key = dataset.key(clip_id)
    _, audio, *frames = _suffixes(dataset, clip_id)
    row = int(dataset.frames.first[clip_id])
    listed = {audio: (int(dataset.audio_offsets[clip_id]), int(dataset.audio_sizes[clip_id]))}
    for number, suffix in enumerate(frames):
        listed[suffix] = (int(dataset.frames.offset[row + number]), int(dataset.frames.size[row + number]))
    for suffix in ("json", *listed):
        found = members.get(f"{key}.{suffix}")
        if found is None:
            yield f"the shard holds no {key}.{suffix}"
        elif suffix in listed and found != listed[suffix]:
            yield f"{suffix} lies at byte {found[0]} with size {found[1]}, the index says {listed[suffix]}"
    yield from _json_problems(dataset, clip_id, members.get(f"{key}.json"))
    yield from _audio_problems(dataset, clip_id)
    for number, suffix in enumerate(frames):
        yield from _frame_problems(dataset, clip_id, number, suffix)


def _json_problems(dataset: Dataset, clip_id: int, place: tuple[int, int] | None) -> Iterator[str]:
    if place is None:
        return
    with (dataset.path / shard_name(int(dataset.shards[clip_id]))).open("rb") as file:
        file.seek(place[0])
        data = file.read(place[1])
    try:
        found = json.loads(data)
        told = {
            name: found[name] for name in ("label", "split", "frames", "width", "height", "sample_rate_hz", "source")
        }
    except (ValueError, KeyError, TypeError):
        yield "its json cannot be read"
        return
    listed: dict[str, Any] = {
        "label": dataset.classes[dataset.labels[clip_id]],
        "split": SPLITS[dataset.splits[clip_id]],
        "frames": int(dataset.frame_counts(np.array([clip_id]))[0]),
        "width": int(dataset.widths[clip_id]),
        "height": int(dataset.heights[clip_id]),
        "sample_rate_hz": int(dataset.sample_rates[clip_id]),
        "source": dataset.column("source", [clip_id])[0].as_py(),
    }
    for name, value in listed.items():
        if told[name] != value:
            yield f"its json has {name} {told[name]!r}, the index {value!r}"


def _audio_problems(dataset: Dataset, clip_id: int) -> Iterator[str]:
    data = dataset.audio_bytes(clip_id)
    if checksum(data) != dataset.audio_checksums[clip_id]:
        yield f"the checksum of its {dataset.audio_suffix} is not the packed one"
        return
    spectrogram = dataset.description.get("spectrogram")
    if spectrogram is not None:  # any bytes are one, if they are as many
        if data.size != math.prod(spectrogram["shape"]):
            yield f"its {dataset.audio_suffix} has {data.size} bytes, not those of {spectrogram['shape']}"
        return
    try:
        waveform, rate = soundfile.read(io.BytesIO(data.tobytes()), dtype="int16", always_2d=True)
    except soundfile.LibsndfileError as error:
        yield f"its {dataset.audio_suffix} does not decode: {error}"
        return
    found = (*waveform.shape, rate)
    listed = (int(dataset.samples[clip_id]), 1, int(dataset.sample_rates[clip_id]))
    if found != listed:
        yield f"its {dataset.audio_suffix} has (samples, channels, rate) {found}, the index says {listed}"


def _frame_problems(dataset: Dataset, clip_id: int, frame: int, suffix: str) -> Iterator[str]:
    data = dataset.frame_bytes(clip_id, frame)
    if checksum(data) != dataset.frame_checksum(clip_id, frame):
        yield f"the checksum of its {suffix} is not the packed one"
        return
    try:
        height, width, _ = simplejpeg.decode_jpeg(data.tobytes()).shape
    except ValueError as error:
        yield f"its {suffix} does not decode: {error}"
        return
    listed = (int(dataset.widths[clip_id]), int(dataset.heights[clip_id]))
    if (width, height) != listed:
        yield f"its {suffix} has (width, height) {(width, height)}, the index says {listed}"


def _write_quarantine(path: Path, problems: list[Problem]) -> None:
    reasons: dict[int, Problem] = {}
    for problem in problems:
        if problem.clip_id is not None:
            reasons.setdefault(problem.clip_id, problem)
    lines = [
        json.dumps({"clip_id": clip_id, "key": problem.key, "reason": problem.text}, ensure_ascii=False) + "\n"
        for clip_id, problem in sorted(reasons.items())
    ]
    if lines:
        write_text(path / QUARANTINE_FILE, "".join(lines))
    else:
        (path / QUARANTINE_FILE).unlink(missing_ok=True)
