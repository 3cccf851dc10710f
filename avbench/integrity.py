"""Whether a dataset's index and description are those that were packed: what a training asks once, before it starts.

Sound and pictures are checked against the index at every read; labels, splits and class names come from the index and
the description alone, so nothing but this sees a flipped bit in them.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from avbench.dataset import INDEX_FILE, Dataset, sha256_of, shard_name
from avbench.description import DESCRIPTION_FILE, DIGEST, contents_digest
from avbench.errors import DatasetError
from avbench.fingerprint import content_fingerprint
from avbench.quarantine import QUARANTINE_FILE, read_quarantine
from avbench.vocabulary import SPLITS

_TAR_BLOCK = 512
_BLOCKS_OF_JSON = 64  # a clip's json has some hundred bytes
_OF_RECIPE = ("audio_suffix", "frame_phase_seconds")
_CLIPS_ASKED = 5  # of a class, for one whose json can be read


def check_contents(dataset: Dataset) -> None:
    """Raises DatasetError for the first thing in which index or description are not as they were packed.

    Reads the index once, in blocks, and some kilobytes of a clip of each class where the dataset is an older one.
    """
    try:
        problem = next(_all_problems(dataset), None)
    except OSError as error:
        raise DatasetError(f"{dataset.path}: cannot be read ({error.strerror})") from None
    if problem is not None:
        raise DatasetError(
            f"{dataset.path}: {problem}; restore the file or pack the dataset again "
            f"(`avbench verify {dataset.path}` lists everything that is wrong)"
        )


def leftovers(dataset: Dataset) -> list[str]:
    """What lies in the folder that is not the dataset's: it harms no training, but somebody should know."""
    return [*stray_shards(dataset), *quarantine_problems(dataset)]


def content_problems(dataset: Dataset) -> Iterator[str]:
    """What the index and the description as a whole are not, as they were packed. Expects a structure that is whole."""
    problems = list(_disagreements(dataset))
    yield from problems
    digest, packed = dataset.description.get(DIGEST), dataset.packed_classes
    if digest is None and packed is not None:
        yield f"{DESCRIPTION_FILE} has no {DIGEST}, and was packed with one"
    # Of a field that something else has named above this would be a second line.
    if digest is not None and digest != contents_digest(dataset.description) and not problems:
        yield f"{DESCRIPTION_FILE} is not as it was packed: a field has changed since, its {DIGEST} does not fit"
    if digest is None:
        yield from _problems_told_by_shards(dataset)


def _disagreements(dataset: Dataset) -> Iterator[str]:
    """Where the index, the description and the names of files say different things."""
    description = dataset.description
    yield from _differ(f"SHA-256 of {INDEX_FILE}", sha256_of(dataset.path / INDEX_FILE), description["index_sha256"])
    packed = dataset.packed_classes
    if packed is not None and packed != dataset.classes:
        here, there = _few(dataset.classes), _few(packed)
        yield f"{DESCRIPTION_FILE} names the classes {here}, and {INDEX_FILE} was packed with {there}"
    for name, asked in description.get("recipe", {}).items():
        if name in _OF_RECIPE and description[name] != asked:
            yield f"{DESCRIPTION_FILE} has {name} {description[name]!r}, and its recipe {asked!r}"
    per_class = _clips_per_class(dataset)
    yield from _differ("clips per class", per_class, description["clips_per_class"])
    yield from _differ("clips", {split: sum(counts) for split, counts in per_class.items()}, description["clips"])
    shards = dataset.packed_shards
    in_shards = np.bincount(dataset.shards[_is_in(dataset.shards, len(shards))], minlength=len(shards)).tolist()
    yield from _differ("clips per shard", in_shards, list(shards.clips))
    for number, name in enumerate(shards.names_told):
        if name != shard_name(number):
            yield f"{DESCRIPTION_FILE} calls shard {number} {name}, which is {shard_name(number)}"
    if "fingerprint" in description:
        found = content_fingerprint(dataset.table, dataset.classes)
        yield from _differ("fingerprint of the content", found, description["fingerprint"])


def row_problems(dataset: Dataset) -> Iterator[tuple[int, str]]:
    """Every clip whose label, split, shard or number of frames cannot be, as (clip id, text)."""
    shards = dataset.packed_shards
    is_shard, is_split = _is_in(dataset.shards, len(shards)), _is_in(dataset.splits, len(SPLITS))
    for clip_id in np.flatnonzero(~_is_in(dataset.labels, len(dataset.classes))).tolist():
        yield clip_id, f"its label {dataset.labels[clip_id]} is none of {len(dataset.classes)} classes"
    for clip_id in np.flatnonzero(~is_split).tolist():
        yield clip_id, f"its split {dataset.splits[clip_id]} is none of {len(SPLITS)}"
    for clip_id in np.flatnonzero(~is_shard).tolist():
        yield clip_id, f"its shard {dataset.shards[clip_id]} is none of {len(shards)}"
    if shards.splits is not None:
        splits = np.array([SPLITS.index(split) for split in shards.splits])
        known = np.flatnonzero(is_shard & is_split)
        for clip_id in known[dataset.splits[known] != splits[dataset.shards[known]]].tolist():
            split, shard = SPLITS[dataset.splits[clip_id]], dataset.shards[clip_id]
            yield clip_id, f"its split is {split}, and {shard_name(shard)} holds {SPLITS[splits[shard]]}"
    for clip_id in np.flatnonzero(np.diff(dataset.frames.first) < 1).tolist():
        yield clip_id, "it has no frames"


def file_problem(file: Path, packed: str) -> str:
    """What is wrong with a file beside the index that was packed with this SHA-256; empty where nothing is."""
    if not file.is_file():
        return f"{file.name} is missing; restore it or pack the dataset again"
    found = sha256_of(file)
    return "" if found == packed else f"SHA-256 of {file.name}: found {found}, {DESCRIPTION_FILE} says {packed}"


def stray_shards(dataset: Dataset) -> Iterator[str]:
    """Shards and their DALI indexes in the folder that the dataset does not list."""
    listed = {place.removesuffix(".tar") for place in dataset.packed_shards.places}
    for suffix in ("tar", "idx"):
        for path in sorted(dataset.path.glob(f"*.{suffix}")):
            if path.stem not in listed:
                yield f"{path.name} is no shard of this dataset, and other readers would deliver it too; remove it"


def quarantine_problems(dataset: Dataset) -> Iterator[str]:
    """Clips and shards that the quarantine list names and the dataset does not have."""
    again = f"write it anew with `avbench verify {dataset.path} --quarantine`"
    listed = set(dataset.packed_shards.places)
    own = read_quarantine(dataset.path)
    for clip_id, key in own.clips.items():
        if not 0 <= clip_id < len(dataset):
            yield f"{QUARANTINE_FILE} sets clip {clip_id} aside, which is none of {len(dataset)}; {again}"
        elif key is not None and key != dataset.key(clip_id):
            yield f"{QUARANTINE_FILE} sets clip {clip_id} aside as {key}, which is {dataset.key(clip_id)} here; {again}"
    for shard in own.shards:
        if shard not in listed:
            yield f"{QUARANTINE_FILE} knows of {shard}, which is no shard of this dataset; {again}"


def _all_problems(dataset: Dataset) -> Iterator[str]:
    yield from content_problems(dataset)
    for clip_id, text in row_problems(dataset):
        yield f"clip {clip_id}: {text}"


def _problems_told_by_shards(dataset: Dataset) -> Iterator[str]:
    """Class names and audio_suffix of an older dataset beside those that a clip of each class was packed with."""
    for label, name in enumerate(dataset.classes):
        for clip_id in np.flatnonzero(dataset.labels == label)[:_CLIPS_ASKED].tolist():
            told = _told_by_shard(dataset, clip_id)
            if told is not None:
                found, member = told
                expected = f"{dataset.key(clip_id)}.{dataset.audio_suffix}"
                if found not in (name, label):  # another writer may have put the number there
                    yield f"{dataset.key(clip_id)} was packed as {found!r}, {DESCRIPTION_FILE} calls its class {name!r}"
                if member != expected:
                    yield f"sound of {dataset.key(clip_id)}: found {member}, {DESCRIPTION_FILE} says {expected}"
                break


def _told_by_shard(dataset: Dataset, clip_id: int) -> tuple[Any, str] | None:
    """The label in a clip's json and the name of its sound's member; None where the bytes before its sound are damaged.

    The json is the member before the sound, so its header is looked for from there backwards.
    """
    end = int(dataset.audio_offsets[clip_id]) - _TAR_BLOCK
    start = max(0, end - _BLOCKS_OF_JSON * _TAR_BLOCK)
    number = int(dataset.shards[clip_id])
    if end < 0 or not 0 <= number < len(dataset.packed_shards):
        return None
    try:
        with dataset.shard_path(number).open("rb") as file:
            file.seek(start)
            blocks = file.read(end + _TAR_BLOCK - start)
        sound = _header(blocks[-_TAR_BLOCK:])
        for place in range(len(blocks) - 2 * _TAR_BLOCK, -1, -_TAR_BLOCK):
            member = _header(blocks[place : place + _TAR_BLOCK])
            if sound is not None and member is not None and member.name == f"{dataset.key(clip_id)}.json":
                data = blocks[place + _TAR_BLOCK :][: member.size]
                return json.loads(data)["label"], sound.name
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        pass
    return None


def _header(block: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def _clips_per_class(dataset: Dataset) -> dict[str, list[int]]:
    """Numbers of clips by split and class; of clips whose label and split can be."""
    classes = len(dataset.classes)
    known = _is_in(dataset.labels, classes) & _is_in(dataset.splits, len(SPLITS))
    places = dataset.splits[known].astype(np.int64) * classes + dataset.labels[known]
    counts = np.bincount(places, minlength=len(SPLITS) * classes).reshape(len(SPLITS), classes)
    return {split: counts[number].tolist() for number, split in enumerate(SPLITS)}


def _is_in(numbers: np.ndarray, count: int) -> np.ndarray:
    return (numbers >= 0) & (numbers < count)


def _differ(what: str, found: object, packed: object) -> Iterator[str]:
    if found != packed:
        yield f"{what}: found {_few(found)}, {DESCRIPTION_FILE} says {_few(packed)}"


def _seen(name: str) -> str:
    return name if name and name == name.strip() else repr(name)


def _few(value: object) -> str:
    """A value on one line; of hundreds of classes the first, those in quotes whose spaces would not be seen."""
    text = ", ".join(map(_seen, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 400 else f"{text[:397]}..."
