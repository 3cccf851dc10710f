"""Prove that a packed dataset is whole; set aside the clips that are not.

The index says where every byte of every clip is and what it should be; the shards are read from the tar headers on, as
any other reader would, and the two must agree. Then every clip is decoded. A quick look does all but that: it reads the
headers of the shards and nothing between them. Whatever is damaged is a problem that is listed; only a folder that is
no dataset at all is an error.
"""

from __future__ import annotations

import io
import json
import math
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import soundfile

from avbench.dataset import REJECTS_FILE, Dataset, checksum, sha256_of
from avbench.description import DESCRIPTION_FILE, field_problems, read_any_description
from avbench.errors import DatasetError, UsageError
from avbench.integrity import content_problems, quarantine_problems, row_problems, stray_shards
from avbench.packing.fates import fate_problems
from avbench.packing.quality import quality_problems
from avbench.packing.tar import members_of
from avbench.packing.workers import Beat, WorkerDied, died_text, run_tasks
from avbench.quarantine import QUARANTINE_FILE, Aside, asides_of, read_asides, write_quarantine
from avbench.shards import Shards
from avbench.vocabulary import SPLITS

NOT_CHECKED_QUICKLY = (
    "SHA-256 of the shards",
    "checksums of sound and pictures",
    "whether sound and pictures decode",
    "what each clip's json says",
)
"""What a quick look leaves out, in words."""


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was packed: of one clip, of a shard, or of the dataset.

    blocks_training: no training starts with it, whatever is set aside: the index or the description is damaged.
    """

    clip_id: int | None
    key: str | None
    shard: str | None
    text: str
    blocks_training: bool = False

    def __str__(self) -> str:
        place = [part for part in (self.shard, self.key) if part is not None]
        return ": ".join([*place, self.text])


def verify(path: Path, *, workers: int, quarantine: bool = False, is_quick: bool = False) -> list[Problem]:
    """Everything that is wrong with a packed dataset, dataset first, then shard by shard; empty where it is whole.

    quarantine: note the clips that are not whole in quarantine.jsonl, and the shards that are missing or cut, so that
    no reader delivers the former or stops at the latter; an older note is replaced, and removed where nothing is set
    aside. Nothing is noted where a problem blocks training: a damaged index would have whole clips set aside.
    is_quick: compare sizes, tar headers and indexes, and read no sound, picture or json (NOT_CHECKED_QUICKLY).
    Raises UsageError for fewer than one worker, and for a quarantine after a quick look, which would take clips back
    whose bytes it has not seen; DatasetError where `path` is no dataset at all.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; expected 1 or more")
    if is_quick and quarantine:
        raise UsageError(
            "--quick does not look at sound and pictures, so it can set no clip aside; leave out one of them"
        )
    described = [f"{DESCRIPTION_FILE}: {text}" for text in field_problems(read_any_description(path))]
    if described:
        return [*map(_blocking, described)]
    try:
        dataset = Dataset(path, shards_may_be_damaged=True)
        dataset.check_index()
    except DatasetError as error:
        return [_blocking(str(error)), *_broken_shards(path)]
    problems = [*map(_blocking, content_problems(dataset))]
    problems += [
        Problem(clip_id, dataset.key(clip_id), None, text, blocks_training=True)
        for clip_id, text in row_problems(dataset)
    ]
    # A list that is about to be replaced may be whatever it is.
    beside = [*_problems_beside(dataset), *([] if quarantine else _list_problems(dataset))]
    problems += [Problem(None, None, None, text) for text in beside]
    problems += _verified_shards(dataset, workers, is_quick=is_quick)
    if quarantine and not any(problem.blocks_training for problem in problems):
        write_quarantine(path, _asides(dataset, problems))
    return problems


def add_to_quarantine(path: Path, file: Path) -> int:
    """Set the clips aside that a file in the form of quarantine.jsonl lists, beside those that are; returns how many
    are new.

    Nothing else is checked. Raises DatasetError for what is no dataset, UsageError for a file that cannot be read, is
    of another form, or names a clip that the dataset does not have.
    """
    dataset = Dataset(path, shards_may_be_damaged=True)
    try:
        added = [aside for aside in asides_of(file) if aside.clip_id is not None]
    except OSError as error:
        raise UsageError(f"--add {file}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise UsageError(f"--add {file}: is no list of clips; a run folder's is called {QUARANTINE_FILE}") from None
    for aside in added:
        number = -1 if aside.clip_id is None else aside.clip_id
        there = dataset.key(number) if 0 <= number < len(dataset) else None
        if there is None or aside.key != there:
            raise UsageError(
                f"--add {file}: clip {number} is {aside.key} there, and {there or 'none'} in {path}; the list is of "
                f"another dataset"
            )
    known = read_asides(path)
    fresh = {aside.clip_id: aside for aside in added if aside.clip_id not in {one.clip_id for one in known}}
    if fresh:
        clips = sorted([*fresh.values(), *known], key=lambda one: (one.clip_id is None, one.clip_id or 0))
        write_quarantine(path, clips)
    return len(fresh)


def as_json(path: Path, problems: list[Problem], *, set_aside: int, is_quick: bool = False) -> dict[str, Any]:
    """What `avbench verify --json` prints. set_aside: how many clips it has set aside."""
    return {
        "dataset": str(path),
        "whole": not problems,
        "problems": [asdict(problem) for problem in problems],
        "set_aside": set_aside,
        **({"not_checked": list(NOT_CHECKED_QUICKLY)} if is_quick else {}),
    }


def _verified_shards(dataset: Dataset, workers: int, *, is_quick: bool) -> list[Problem]:
    shards = range(len(dataset.packed_shards))
    found: dict[int, list[Problem]] = {}
    clips = dataset.packed_shards.clips
    call = secrets.token_hex(8)
    _opened[dataset.path, call] = _Opened(dataset)
    task = partial(_shard_problems, dataset.path, call, is_quick)
    try:
        for shard, those in run_tasks(task, shards, units=clips, workers=workers, title="verifying", unit="clips"):
            found[shard] = those
    except WorkerDied as death:
        at = list(map(dataset.shard_name, death.begun))
        raise DatasetError(f"{dataset.path}: {died_text('verifying', at)}") from None
    finally:
        del _opened[dataset.path, call]
    return [problem for shard in shards for problem in found[shard]]


def _blocking(text: str) -> Problem:
    return Problem(None, None, None, text, blocks_training=True)


def _broken_shards(path: Path) -> Iterator[Problem]:
    """Shards that are missing or of another size than they were packed with, where no index can be read."""
    shards = Shards(read_any_description(path))
    for place, packed in zip(shards.places, shards.size_bytes, strict=True):
        file = path / place
        text = _damage(file.stat().st_size if file.is_file() else None, packed)
        if text:
            yield Problem(None, None, place, text)


def _damage(size: int | None, packed: int) -> str:
    """What is wrong with a shard of this size (None: missing); empty where nothing is."""
    if size is None:
        return "is missing; restore it or pack the dataset again"
    if size != packed:
        return f"has {size} bytes, was packed with {packed}; restore it or pack the dataset again"
    return ""


def _problems_beside(dataset: Dataset) -> Iterator[str]:
    """Whether keys, rejects and what else lies in the folder are as they should be; no training needs them."""
    twice = dataset.twice()
    if twice is not None:
        yield f"two clips of the index have the key {twice}"
    try:
        # What was rejected when a view's clips were packed stays noted where its shards lie.
        lines = [] if dataset.is_view else (dataset.path / REJECTS_FILE).read_text(encoding="utf-8").splitlines()
        rejects = dict(sorted(Counter(str(json.loads(line)["reason"]) for line in lines).items()))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        yield f"{REJECTS_FILE} cannot be read: {error}"
    else:
        packed = dataset.description["rejects"]
        if rejects != packed:
            yield f"{REJECTS_FILE}: found {rejects}, {DESCRIPTION_FILE} says {packed}"
    yield from stray_shards(dataset)
    yield from quality_problems(dataset.path, dataset.description)
    yield from fate_problems(dataset.path, dataset.description)


def _list_problems(dataset: Dataset) -> Iterator[str]:
    try:
        yield from quarantine_problems(dataset)
    except DatasetError as error:
        yield str(error)


@dataclass(frozen=True)
class _Opened:
    """A dataset and which clips are in which shard, made once in each process."""

    dataset: Dataset

    @cached_property
    def _by_shard(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.dataset.shards, kind="stable")  # linear where they ascend, as they were packed
        return order, self.dataset.shards[order]

    def clips_of(self, shard: int) -> list[int]:
        """Ids of the clips that the index has in a shard, ascending."""
        order, shards = self._by_shard
        first, end = np.searchsorted(shards, [shard, shard + 1])
        return order[first:end].tolist()


# By path and call of `verify`, so that no later call has what an earlier one opened; a worker process has one call.
_opened: dict[tuple[Path, str], _Opened] = {}


def _shard_problems(path: Path, call: str, is_quick: bool, shard: int, beat: Beat) -> list[Problem]:
    """Everything wrong with one shard and its clips."""
    if (path, call) not in _opened:
        _opened[path, call] = _Opened(Dataset(path, shards_may_be_damaged=True))
    opened = _opened[path, call]
    dataset, name = opened.dataset, opened.dataset.shard_name(shard)
    size, packed = dataset.shard_size(shard), dataset.packed_shards
    damage = _damage(size, packed.size_bytes[shard])
    clips = opened.clips_of(shard)
    if not size:  # missing, or nothing of it is left: one line, not one for each of its clips
        return [Problem(None, None, name, f"{damage} ({len(clips)} clips are gone with it)")] if damage else []
    problems = [Problem(None, None, name, damage)] if damage else []
    tar = dataset.shard_path(shard)
    try:
        if not damage and not is_quick and sha256_of(tar) != packed.sha256[shard]:
            problems.append(Problem(None, None, name, "its SHA-256 is not the one it was packed with"))
        members, end = members_of(tar)
    except OSError as error:
        return [*problems, Problem(None, None, name, f"cannot be read: {error.strerror}")]
    if end:
        problems.append(Problem(None, None, name, end))
    expected: set[str] = set()
    lines = [f"v1.2 {len(clips)}"]
    for clip_id in clips:
        beat()
        key = dataset.key(clip_id)
        suffixes = _suffixes(dataset, clip_id)
        expected.update(f"{key}.{suffix}" for suffix in suffixes)
        places = [(suffix, *members.get(f"{key}.{suffix}", (0, 0))) for suffix in suffixes]
        lines.append(" ".join(f"{suffix} {offset} {size} {key}.{suffix}" for suffix, offset, size in places))
        if beyond := _beyond(dataset, clip_id):
            texts = [beyond]
        else:
            texts = [*_place_problems(dataset, clip_id, members)]
            texts += [] if is_quick else _byte_problems(dataset, clip_id, members)
        problems += [Problem(clip_id, key, name, text) for text in texts]
    # A shard of a view may hold clips that are not in it.
    for stray in [] if dataset.is_view else sorted(set(members) - expected):
        problems.append(Problem(None, None, name, f"holds {stray}, which the index does not list"))
    text = _dali_index_problem(
        tar.with_suffix(".idx"), lines, is_shard_damaged=bool(damage), lists_others=dataset.is_view
    )
    return [*problems, Problem(None, None, name, text)] if text else problems


def _dali_index_problem(index: Path, lines: list[str], *, is_shard_damaged: bool, lists_others: bool) -> str:
    """What is wrong with a shard's DALI index; of a damaged shard only whether it is there.

    lines: that it should have. lists_others: it may have more, of clips that a view does not have.
    """
    try:
        found = index.read_bytes()
    except OSError:
        return f"its DALI index {index.name} is missing"
    if is_shard_damaged:
        return ""
    whole = "".join(f"{line}\n" for line in lines).encode()
    is_as_expected = (
        {line.encode() for line in lines[1:]} <= set(found.splitlines()) if lists_others else found == whole
    )
    if not is_as_expected:
        return f"its DALI index {index.name} does not list what it holds"
    return ""


def _suffixes(dataset: Dataset, clip_id: int) -> list[str]:
    frames = int(dataset.frame_counts(np.array([clip_id]))[0])
    return ["json", dataset.audio_suffix, *(f"{number:03d}.jpg" for number in range(frames))]


def _place_problems(dataset: Dataset, clip_id: int, members: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """Where a clip's members do not lie as the index says."""
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


def _byte_problems(dataset: Dataset, clip_id: int, members: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """What is wrong with what a clip's members hold, and whether they decode."""
    _, _, *frames = _suffixes(dataset, clip_id)
    yield from json_problems(dataset, clip_id, members.get(f"{dataset.key(clip_id)}.json"))
    yield from _audio_problems(dataset, clip_id)
    for number, suffix in enumerate(frames):
        yield from _frame_problems(dataset, clip_id, number, suffix)


def _beyond(dataset: Dataset, clip_id: int) -> str:
    """What is said of a clip that its shard is too short for; empty of any other."""
    size = dataset.shard_size(int(dataset.shards[clip_id])) or 0
    return f"reaches beyond the {size} bytes that its shard has" if _end_of(dataset, clip_id) > size else ""


def _end_of(dataset: Dataset, clip_id: int) -> int:
    """The byte of its shard at which a clip's sound and pictures end."""
    frames = range(int(dataset.frames.first[clip_id]), int(dataset.frames.first[clip_id + 1]))
    ends = [int(dataset.frames.offset[row]) + int(dataset.frames.size[row]) for row in frames]
    return max([int(dataset.audio_offsets[clip_id]) + int(dataset.audio_sizes[clip_id]), *ends])


def json_problems(dataset: Dataset, clip_id: int, place: tuple[int, int] | None) -> Iterator[str]:
    """Where a clip's json, at this offset and of this size in its shard, does not say what the index does."""
    if place is None:
        return
    try:
        with dataset.shard_path(int(dataset.shards[clip_id])).open("rb") as file:
            file.seek(place[0])
            found = json.loads(file.read(max(0, place[1])))
        told = {name: found[name] for name in _TOLD}
        told.update({name: found.get(name) for name in _TOLD_OF_PLANTED})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError):
        yield "its json cannot be read"
        return
    listed: dict[str, Any] = {
        "label": _name_at(dataset.classes, dataset.labels[clip_id]),
        "split": _name_at(SPLITS, dataset.splits[clip_id]),
        "frames": int(dataset.frame_counts(np.array([clip_id]))[0]),
        "width": int(dataset.widths[clip_id]),
        "height": int(dataset.heights[clip_id]),
        "sample_rate_hz": int(dataset.sample_rates[clip_id]),
        **{name: dataset.value(name, clip_id) for name in ("source", "start_seconds", *_TOLD_OF_PLANTED)},
    }
    if dataset.is_view:  # whose rule may give a clip another class and split
        del listed["label"], listed["split"]
    for name, value in listed.items():
        if value is not _NO_NAME and told[name] != value:
            yield f"its json has {name} {told[name]!r}, the index {value!r}"


_TOLD = ("label", "split", "frames", "width", "height", "sample_rate_hz", "source", "start_seconds")
_TOLD_OF_PLANTED = ("planted_audio", "planted_visual")
_NO_NAME = object()


def _name_at(names: tuple[str, ...], number: int) -> object:
    """_NO_NAME where there is none of this number, which is a problem of the row."""
    return names[number] if 0 <= number < len(names) else _NO_NAME


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


def _asides(dataset: Dataset, problems: list[Problem]) -> Iterator[Aside]:
    """The clips that are not whole, each with the first thing that is wrong, and the shards that are missing or cut."""
    reasons: dict[int, Problem] = {}
    for problem in problems:
        if problem.clip_id is not None:
            reasons.setdefault(problem.clip_id, problem)
    shards = dataset.packed_shards
    sizes = [dataset.shard_size(number) for number in range(len(shards))]
    gone = [number for number, size in enumerate(sizes) if not size]
    for clip_id in np.flatnonzero(np.isin(dataset.shards, gone)).tolist():
        key, shard = dataset.key(clip_id), dataset.shard_name(int(dataset.shards[clip_id]))
        reasons.setdefault(clip_id, Problem(clip_id, key, shard, "its shard is gone"))
    for clip_id, problem in sorted(reasons.items()):
        yield Aside(problem.text, clip_id=clip_id, key=problem.key)
    for name, size, packed in zip(shards.places, sizes, shards.size_bytes, strict=True):
        if text := _damage(size, packed):
            yield Aside(text, shard=name, size_bytes=size)
