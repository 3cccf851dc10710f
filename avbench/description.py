"""dataset.json: what a packed dataset says of itself, and whether it can be believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from avbench.errors import DatasetError
from avbench.shards import COLUMNS, are_shards
from avbench.vocabulary import SPLITS

FORMAT = "avbench-dataset"
FORMAT_VERSION = 1
VIEW_VERSION = 2
"""Of datasets whose shards say where they lie, and may hold clips of several splits; see avbench/shards.py."""
DESCRIPTION_FILE = "dataset.json"
DIGEST = "contents_sha256"
STFT_SUFFIX = "stft"


def read_description(path: Path) -> dict[str, Any]:
    """dataset.json of a dataset folder, every field that is read later there and of its kind.

    Raises DatasetError where the folder or the file is missing, is no dataset's, has another format version, or where a
    field is missing or of another kind.
    """
    description = read_any_description(path)
    for problem in field_problems(description):
        raise DatasetError(
            f"{path / DESCRIPTION_FILE}: not the description of a packed dataset: {problem}; "
            f"restore it or pack the dataset again"
        )
    return description


def read_any_description(path: Path) -> dict[str, Any]:
    """The same, of a format version that is known, with nothing else looked at."""
    file = path / DESCRIPTION_FILE
    if not path.exists():
        raise DatasetError(f"{path}: no such dataset folder; make one with `avbench pack`")
    if not file.exists():
        what = "is empty" if path.is_dir() and not any(path.iterdir()) else f"has no {DESCRIPTION_FILE}"
        raise DatasetError(f"{path}: {what}, so it is no packed dataset; make one with `avbench pack` or let it finish")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        format_name, version = description["format"], description["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DatasetError(
            f"{file}: not the description of a packed dataset; restore it or pack the dataset again"
        ) from None
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror})") from None
    if format_name != FORMAT or type(version) is not int or version not in (FORMAT_VERSION, VIEW_VERSION):
        raise DatasetError(
            f"{file}: is {format_name} version {version}; this avbench reads {FORMAT} version {FORMAT_VERSION} and "
            f"{VIEW_VERSION}: pack the dataset again or install the avbench that wrote it"
        )
    return description


def field_problems(description: Mapping[str, Any]) -> Iterator[str]:
    """Every field that is missing or of another kind than a packed dataset's."""
    for name, (expected, fits) in _FIELDS.items():
        if name not in description:
            if name not in _OPTIONAL:
                yield f"{name!r} is missing"
        elif not fits(description[name]):
            yield f"{name!r} is {_short(description[name])}, expected {expected}"
    yield from _disagreements(description)


def contents_digest(description: Mapping[str, Any]) -> str:
    """SHA-256 of all fields but the digest itself: class names, splits, the index's checksum, how bytes are read.

    Whoever changes a field of a packed dataset on purpose writes it anew.
    """
    held = {name: value for name, value in description.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def _disagreements(description: Mapping[str, Any]) -> Iterator[str]:
    """Fields that are each of their kind but do not fit each other."""
    if (description.get("audio_suffix") == STFT_SUFFIX) != ("spectrogram" in description):
        yield f"'audio_suffix' is {_short(description.get('audio_suffix'))}, and 'spectrogram' does not fit it"
    if isinstance(description.get("shards"), dict) != (description.get("version") == VIEW_VERSION):
        yield f"'shards' are not listed as those of version {description.get('version')}"
    classes, per_class = description.get("classes"), description.get("clips_per_class")
    if isinstance(classes, list) and isinstance(per_class, dict):
        for split, counts in per_class.items():
            if isinstance(counts, list) and len(counts) != len(classes):
                yield f"'clips_per_class' counts {len(counts)} classes of {split}, 'classes' names {len(classes)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: object) -> bool:
    # Compared, not asked whether it is finite: JSON's whole numbers may be larger than any float.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_phase(value: object) -> bool:
    return isinstance(value, int | float) and _is_number(value) and 0 <= value < 1


def _is_list_of(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _is_classes(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_by_split(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and set(value) == set(SPLITS) and all(map(fits, value.values()))


_OF_SPECTROGRAM: Mapping[str, Callable[[object], bool]] = {
    "preset": _is_text,
    "sample_rate_hz": _is_count,
    "samples": _is_count,
    "n_fft": _is_count,
    "hop_length": _is_count,
    "log_offset": _is_number,
    "shape": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)),
    "lowest": _is_number,
    "step": _is_number,
}


def _is_spectrogram(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == set(_OF_SPECTROGRAM)
        and all(fits(value[name]) for name, fits in _OF_SPECTROGRAM.items())
    )


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


# What each field is, in words and as a claim.
_FIELDS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "name": ("a name", _is_text),
    "classes": ("a list of names that differ", _is_classes),
    "audio_suffix": ("a suffix such as 'flac'", _is_text),
    "spectrogram": ("how sound is kept as a spectrogram", _is_spectrogram),
    "clips": (f"a number of clips for each of {', '.join(SPLITS)}", _is_by_split(_is_count)),
    "clips_per_class": (
        f"a list of numbers of clips for each of {', '.join(SPLITS)}",
        _is_by_split(_is_list_of(_is_count)),
    ),
    "shards": (f"shards: name, split, clips, size_bytes, sha256, or the columns {', '.join(COLUMNS)}", are_shards),
    "recipe": ("the recipe's fields", _is_object),
    "made_with": ("versions by name", _is_object),
    "frame_phase_seconds": ("seconds from 0 to below 1", _is_phase),
    "rejects": (
        "a number of clips for each reason",
        lambda value: isinstance(value, dict) and all(map(_is_count, value.values())),
    ),
    "index_sha256": ("a SHA-256 in hexadecimal", _is_text),
    "fingerprint": ("a SHA-256 in hexadecimal", _is_text),
    "origin": ("a list of the datasets that the clips are from", _is_list_of(_is_object)),
    "rule": ("what was asked of a view", _is_object),
    DIGEST: ("a SHA-256 in hexadecimal", _is_text),
}
# Of sound that is no spectrogram there is none; the others are not in every dataset that was ever packed.
_OPTIONAL = ("spectrogram", "recipe", "made_with", "fingerprint", "origin", "rule", DIGEST)
