"""The files that a view is made by: names of clips or classes, one a line or as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avbench.dataset import sha256_of
from avbench.errors import UsageError
from avbench.packing.recipes.list_config import split_of
from avbench.packing.recipes.rows import csv_rows

_KEY, _SPLIT = "key", "split"
_OF_MAP = ["old", "new"]


@dataclass(frozen=True)
class NamedClips:
    """Clips that a file names.

    splits: of each name its split, None where the file says none. twice: how many names stand in it more than once.
    unused: names of its other columns.
    """

    path: Path
    splits: Mapping[str, str | None]
    twice: int
    unused: tuple[str, ...]


def read_clips(path: Path, *, option: str, needs_split: bool = False) -> NamedClips:
    """A file with one key a line, or CSV with the columns key and split; a first line `key,...` names the columns.

    option: that names the file. Raises UsageError or RecipeError for a file that cannot be read or names nothing, a
    split that nobody knows, one key with two splits, and with needs_split for a key without one.
    """
    places: Mapping[str, int] = {_KEY: 0, _SPLIT: 1}
    unused: tuple[str, ...] = ()
    has_names = False
    splits: dict[str, str | None] = {}
    twice: set[str] = set()
    for number, (line, values) in enumerate(_rows(path, option)):
        where = f"{option} {path}, line {line}"
        values = [value.strip() for value in values]
        if number == 0 and _KEY in values:
            places = {name: values.index(name) for name in (_KEY, _SPLIT) if name in values}
            unused = tuple(name for name in values if name not in places)
            has_names = True
            continue
        if len(values) > 2 and not has_names:
            raise UsageError(
                f"{where}: has {len(values)} values; expected key or key,split, or a first line with names"
            )
        key, word = (_value(values, places.get(name)) for name in (_KEY, _SPLIT))
        if not key or (needs_split and not word):
            raise UsageError(f"{where}: has no {_SPLIT if key else _KEY}; expected key,split")
        split = split_of(word, where) if word else None
        if key in splits:
            if splits[key] != split:
                raise UsageError(
                    f"{where}: {key} has the split {split or 'none'} here and {splits[key] or 'none'} above"
                )
            twice.add(key)
        splits[key] = split
    if not splits:
        raise UsageError(f"{option} {path}: names no clip")
    return NamedClips(path, splits, len(twice), unused)


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one a line, in their order. Raises UsageError where there is none, or one stands twice."""
    names = [line.strip() for line in _text(path, "--classes").splitlines() if line.strip()]
    if not names:
        raise UsageError(f"--classes {path}: names no class; expected one a line")
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UsageError(f"--classes {path}: names {name!r} twice; leave one out")
    return tuple(names)


def read_map(path: Path) -> dict[str, str]:
    """New class names by old ones, from CSV old,new; "" drops a class. The first line may be `old,new`.

    Raises UsageError or RecipeError for another file, and for an old name with two new ones.
    """
    renamed: dict[str, str] = {}
    for number, (line, values) in enumerate(_rows(path, "--map")):
        values = [value.strip() for value in values]
        if number == 0 and values == _OF_MAP:
            continue
        if len(values) != 2 or not values[0]:
            raise UsageError(f"--map {path}, line {line}: expected old,new; quote a name that holds a comma")
        old, new = values
        if renamed.setdefault(old, new) != new:
            raise UsageError(f"--map {path}, line {line}: {old!r} is to be {new!r} here and {renamed[old]!r} above")
    if not renamed:
        raise UsageError(f"--map {path}: names no class; expected lines old,new")
    return renamed


def file_as_json(path: Path) -> dict[str, Any]:
    """What dataset.json keeps of a file that a view was made by."""
    return {"file": path.name, "sha256": sha256_of(path)}


def _value(values: list[str], place: int | None) -> str:
    return values[place] if place is not None and place < len(values) else ""


def _rows(path: Path, option: str) -> Iterator[tuple[int, list[str]]]:
    try:
        yield from csv_rows(path)
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read ({error.strerror})") from None


def _text(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{option} {path}: not UTF-8 ({error.reason} at byte {error.start})") from None
