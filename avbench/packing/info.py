"""What is in a packed dataset, from its index and its description alone: no shard is opened."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from avbench.dataset import Dataset
from avbench.description import DIGEST
from avbench.errors import DatasetError, UsageError
from avbench.integrity import row_problems
from avbench.packing.fates import CLIPS_FILE, fate_lines
from avbench.packing.text_table import bytes_text, text_table
from avbench.quarantine import read_asides
from avbench.records import atomic_path
from avbench.vocabulary import SPLITS
from avbench.wording import counted, first_of

_MOST_CLASSES = 60  # that a terminal is shown, of more the largest and the smallest
_SHOWN_OF_MANY = 10  # of each
_MOST_SIZES = 5
KEYS_COLUMNS = ("key", "split", "label", "source")
# Of a dataset that was not made by packing videos: where it comes from.
_OF_ORIGIN = ("origin", "rule", "reindexed")


def info(path: Path) -> dict[str, Any]:
    """Everything `avbench info` says of a dataset, as JSON would have it.

    Clips in quarantine are among the counts, and are counted apart too. Reads the index and the small files beside it;
    whether the shards are as the index says is for `avbench verify`. Raises DatasetError where `path` is no dataset or
    its index cannot be read.
    """
    dataset = _opened(path)
    told = dataset.description
    seconds = _seconds(dataset)
    return {
        "dataset": str(path),
        "name": dataset.name,
        "format_version": told["version"],
        "clips": len(dataset),
        "splits": {split: _of_split(dataset, number, seconds) for number, split in enumerate(SPLITS)},
        "classes": [
            {"name": name, **dict(zip(SPLITS, counts, strict=True))}
            for name, counts in zip(dataset.classes, _per_class(dataset).T.tolist(), strict=True)
        ],
        "videos": pc.count_distinct(dataset.table_column("source")).as_py(),
        "seconds": _spread(seconds),
        "sample_rates_hz": dataset.distinct_sample_rates.tolist(),
        "frames_a_clip": _spread(np.diff(dataset.frames.first)),
        "frame_phase_seconds": told["frame_phase_seconds"],
        "picture_sizes": _picture_sizes(dataset),
        "audio_suffix": dataset.audio_suffix,
        "spectrogram": told.get("spectrogram"),
        "bytes": {
            "shards": sum(dataset.packed_shards.size_bytes),
            "sound": int(np.asarray(dataset.audio_sizes).sum(dtype=np.int64)),
            "pictures": int(np.asarray(dataset.frames.size).sum(dtype=np.int64)),
        },
        "shards": len(dataset.packed_shards),
        "quality": told.get("quality"),
        "rejected": told["rejects"],
        "left_out": told.get("left_out", []),
        "fates": told.get("fates"),
        "quarantine": _quarantine(dataset),
        "recipe": told.get("recipe"),
        "made_with": told.get("made_with"),
        **{name: told[name] for name in _OF_ORIGIN if name in told},
        "fingerprint": dataset.fingerprint,
        "index_sha256": dataset.index_sha256,
        DIGEST: told.get(DIGEST),
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """The same for people: the classes first, so that what matters most stands last on a terminal."""
    sound, rates = found["audio_suffix"], ", ".join(map(str, found["sample_rates_hz"]))
    seconds, frames, size = found["seconds"], found["frames_a_clip"], found["bytes"]
    kept = found["spectrogram"]
    return [
        *_class_lines(found["classes"]),
        "",
        *text_table(
            ("split", "clips", "hours", "in quarantine"),
            [(name, *_split_row(of)) for name, of in found["splits"].items()],
        ),
        *(["", *told] if (told := fate_lines(found)) else []),
        "",
        *_pairs(
            {
                "dataset": f"{found['name']} (format version {found['format_version']})",
                "clips": f"{found['clips']} of {found['videos']} videos, {len(found['classes'])} classes",
                "seconds a clip": f"{_spread_text(seconds, '.2f')}; {seconds['sum'] / 3600:.2f} hours in all",
                "sound": f"{sound}, {rates} Hz" + (f", kept as the spectrogram of {kept['preset']}" if kept else ""),
                "pictures a clip": f"{_spread_text(frames, '.0f')}; {_sizes_text(found['picture_sizes'])}",
                "bytes": f"{bytes_text(size['shards'])} in {found['shards']} shards, of which sound "
                f"{bytes_text(size['sound'])} and pictures {bytes_text(size['pictures'])}",
                "quality": _counts_text(found["quality"], none="not looked at when it was packed"),
                "rejected": _counts_text(found["rejected"], none="not one clip"),
                "left out": _left_out_text(found["left_out"]),
                "listed": _listed_text(found["fates"]),
                "quarantine": _quarantine_text(found["quarantine"]),
                "recipe": _options_text(found["recipe"]),
                "made with": _options_text(found["made_with"]),
                **{name: _origin_text(found[name]) for name in _OF_ORIGIN if name in found},
                "fingerprint": found["fingerprint"],
                "index": found["index_sha256"],
                "digest": found[DIGEST] or "none: packed by an older avbench",
            }
        ),
    ]


def export_keys(path: Path, file: Path) -> tuple[int, int]:
    """Write which clips are used, as CSV with the columns key, split, label and source, in the order of the index.

    Clips in quarantine are left out. Returns how many clips were written, and how many were left out. Raises
    DatasetError for what is no dataset, UsageError where the file is there already.
    """
    dataset = _opened(path)
    if file.exists():
        raise UsageError(f"{file}: is there already; name another file with --export-keys, or remove it")
    used = np.setdiff1d(np.arange(len(dataset)), dataset.quarantined)
    with atomic_path(file) as partial, partial.open("w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(KEYS_COLUMNS)
        writer.writerows(_key_rows(dataset, used))
    return len(used), len(dataset) - len(used)


def _key_rows(dataset: Dataset, used: np.ndarray) -> Iterator[tuple[str, str, str, str]]:
    keys, sources = (dataset.column(name, used).to_pylist() for name in ("key", "source"))
    splits, labels = dataset.splits[used].tolist(), dataset.labels[used].tolist()
    for key, split, label, source in zip(keys, splits, labels, sources, strict=True):
        yield key, SPLITS[split], dataset.classes[label], source


def _opened(path: Path) -> Dataset:
    """The dataset, whatever its shards are. Raises DatasetError where a row of the index cannot be counted."""
    dataset = Dataset(path, shards_may_be_damaged=True)
    problem = next(row_problems(dataset), None)
    if problem is not None or dataset.distinct_sample_rates[0] <= 0:
        what = f"clip {problem[0]}: {problem[1]}" if problem else "a clip has no sample rate"
        raise DatasetError(f"{path}: the index is damaged ({what}); `avbench verify {path}` lists all that is wrong")
    return dataset


def _seconds(dataset: Dataset) -> np.ndarray:
    return np.asarray(dataset.samples) / np.asarray(dataset.sample_rates)


def _of_split(dataset: Dataset, number: int, seconds: np.ndarray) -> dict[str, Any]:
    is_here = dataset.splits == number
    aside = dataset.quarantined
    return {
        "clips": int(is_here.sum()),
        "seconds": float(seconds[is_here].sum()),
        "quarantined": int(is_here[aside].sum()),
    }


def _per_class(dataset: Dataset) -> np.ndarray:
    """Numbers of clips, [splits, classes]."""
    classes = len(dataset.classes)
    places = dataset.splits.astype(np.int64) * classes + dataset.labels
    return np.bincount(places, minlength=len(SPLITS) * classes).reshape(len(SPLITS), classes)


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        "sum": float(values.sum()),
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
    }


def _picture_sizes(dataset: Dataset) -> list[dict[str, int]]:
    """Clips by width and height of their pictures, the most first."""
    # One number a size: unique rows of two columns would be sorted ten times as slowly.
    joined = np.asarray(dataset.widths).astype(np.int64) << 32 | np.asarray(dataset.heights)
    values, counts = np.unique(joined, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        {"width": value >> 32, "height": value & 0xFFFFFFFF, "clips": count}
        for value, count in zip(values[order].tolist(), counts[order].tolist(), strict=True)
    ]


def _quarantine(dataset: Dataset) -> dict[str, Any]:
    asides = read_asides(dataset.path)
    clips = [aside for aside in asides if aside.clip_id is not None]
    return {
        "clips": len(clips),
        "shards": [aside.shard for aside in asides if aside.shard is not None],
        "reasons": dict(Counter(aside.reason for aside in clips).most_common()),
    }


# For people.


def _class_lines(classes: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [(one["name"], *(one[split] for split in SPLITS)) for one in classes]
    if len(rows) <= _MOST_CLASSES:
        return text_table(("class", *SPLITS), rows)
    by_size = sorted(rows, key=lambda row: -sum(row[1:]))
    left = len(rows) - 2 * _SHOWN_OF_MANY
    return [
        *text_table(("largest classes", *SPLITS), by_size[:_SHOWN_OF_MANY]),
        "",
        *text_table(("smallest classes", *SPLITS), by_size[-_SHOWN_OF_MANY:]),
        f"and {left} classes between them; --json lists all {len(rows)}",
    ]


def _pairs(said: Mapping[str, str]) -> list[str]:
    width = max(map(len, said))
    return [f"{name:<{width}}  {text}" for name, text in said.items()]


def _split_row(of_split: Mapping[str, Any]) -> tuple[str, ...]:
    return str(of_split["clips"]), f"{of_split['seconds'] / 3600:.2f}", str(of_split["quarantined"])


def _spread_text(spread: Mapping[str, float], form: str) -> str:
    return f"{spread['min']:{form}} to {spread['max']:{form}}, median {spread['median']:{form}}"


def _sizes_text(sizes: Sequence[Mapping[str, int]]) -> str:
    named = [f"{size['width']} x {size['height']} ({counted(size['clips'], 'clip')})" for size in sizes]
    return first_of(named, _MOST_SIZES, noun="size")


def _counts_text(counts: Mapping[str, int] | None, *, none: str) -> str:
    if counts is None:
        return none
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or none


def _left_out_text(left_out: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{one['why']} {one['count']}" for one in left_out) or "nothing of the media folder"


def _listed_text(fates: Mapping[str, Any] | None) -> str:
    if fates is None:
        return "not noted when it was packed"
    return f"{fates['clips']} clips; {CLIPS_FILE} says what has become of each"


def _quarantine_text(quarantine: Mapping[str, Any]) -> str:
    if not quarantine["clips"] and not quarantine["shards"]:
        return "empty"
    damaged = f"; damaged shards: {', '.join(quarantine['shards'])}" if quarantine["shards"] else ""
    reasons = [f"{reason} {count}" for reason, count in quarantine["reasons"].items()]
    named = first_of(reasons, _MOST_SIZES, separator="; ", noun="reason")
    return f"{counted(quarantine['clips'], 'clip')} ({named}){damaged}"


def _options_text(options: Any) -> str:
    """A recipe's fields on one line; a long list of names is only counted."""
    if not isinstance(options, Mapping):
        return "not known" if options is None else str(options)
    return ", ".join(f"{name} {_value_text(value)}" for name, value in options.items())


def _origin_text(told: Any) -> str:
    """Which datasets a view's clips are from, or by which rule; SHA-256 are left to --json."""
    if isinstance(told, list):
        return "; ".join(map(_origin_text, told))
    if not isinstance(told, Mapping):
        return _options_text(told)
    if "fingerprint" not in told:
        return _options_text(_without_digests(told)) or "every clip"
    start = str(told["fingerprint"])[:12]
    text = f"{told.get('name')}, {told.get('clips')} clips (fingerprint {start}) in {told.get('path')}"
    rule = f", by the rule: {_origin_text(told['rule'])}" if "rule" in told else ""
    return f"{text}{rule}" + (f", from {_origin_text(told['origin'])}" if "origin" in told else "")


def _without_digests(told: Any) -> Any:
    if not isinstance(told, Mapping):
        return told
    return {name: _without_digests(value) for name, value in told.items() if name != "sha256"}


def _value_text(value: Any) -> str:
    if isinstance(value, list) and len(value) > _MOST_SIZES:
        return f"({len(value)} of them)"
    return f"({_options_text(value)})" if isinstance(value, Mapping) else json.dumps(value, ensure_ascii=False)
