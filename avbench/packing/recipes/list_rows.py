"""What each row of a published list says of its clip."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from avbench.errors import RecipeError
from avbench.packing.recipes.list_config import END, ListConfig, split_in, split_of
from avbench.packing.recipes.list_values import values_of
from avbench.packing.recipes.patterns import Pattern


@dataclass(frozen=True)
class Candidate:
    """A name that a row's video may have. is_whole: it is the whole video, and the clip is a part of it."""

    path: str
    is_whole: bool


@dataclass(frozen=True)
class Row:
    """One row of a list.

    where: it stands. candidates: the names that its video may have, in the order in which they are tried. name: what
    the clip is called. source: the video that it was cut from. group: what splits are cut by; empty: the source.
    label: empty where the row has none. start_seconds, seconds: of the clip in the whole video; seconds is None where
    nothing says it. sound: the name of the file that has the sound; empty: the video.
    """

    where: str
    candidates: tuple[Candidate, ...]
    name: str
    source: str
    group: str
    label: str
    split: str | None
    start_seconds: float
    seconds: float | None
    sound: str = ""


def rows_of(config: ListConfig, media: Path) -> Iterator[Row]:
    """The rows of all lists, in order. Raises RecipeError naming the line of one that is no clip."""
    if not config.given:
        raise RecipeError("list.files names no list; say which as --list FILE, or in the recipe as --list.files FILE")
    folder = Path() if config.lists else media
    for name, split in zip_longest(config.given, config.file_splits):
        path = folder / name
        if not path.is_file():
            known = "" if config.lists else "; list.files is relative to the media folder, or absolute"
            raise RecipeError(f"{path}: no such list{known}")
        yield from rows_in(path, config, split)


def rows_in(path: Path, config: ListConfig, split: str | None) -> Iterator[Row]:
    """The rows of one list. split: of all of them, where neither a column nor its name says it."""
    if split is None and config.split_in_name:
        split = split_in(path.name)
    rule = _Rule(config, config.patterns(), frozenset(config.groups))
    is_empty = True
    for where, values in values_of(path, config):
        is_empty = False
        yield _row(where, values, rule, split or config.default_split or None)
    if is_empty:
        raise RecipeError(f"{path}: lists no videos")


@dataclass(frozen=True)
class _Rule:
    """What is the same for all rows. groups: the columns that are parts of another, and may be empty in a row."""

    config: ListConfig
    patterns: Mapping[str, Sequence[Pattern]]
    groups: frozenset[str]


def _row(where: str, values: dict[str, str], rule: _Rule, split: str | None) -> Row:
    config, patterns = rule.config, rule.patterns
    _check_values(where, values, rule)
    start, seconds = _span(where, values, config)
    candidates = _candidates(where, values, config, patterns)
    first = without_suffix(candidates[0].path)
    word = values.get(config.split, "") if config.split else ""
    if config.split in values and not word:
        raise RecipeError(f"{where} has no {config.split}; give one or remove the line")
    word = word or split or ""
    return Row(
        where=where,
        candidates=candidates,
        name=without_suffix(_filled(patterns.get("key", []), values, where) or first),
        source=without_suffix(_filled(patterns.get("source", []), values, where) or first),
        group=values[config.split_by] if config.split_by else "",
        label=values.get(config.label, ""),
        split=split_of(word, where) if word and not config.split_by else None,
        start_seconds=start,
        seconds=seconds,
        sound=_filled(patterns.get("sound", []), values, where),
    )


def _check_values(where: str, values: Mapping[str, str], rule: _Rule) -> None:
    """Raise RecipeError where the row lacks what it must have."""
    config = rule.config
    end = "" if config.seconds else config.end
    needed = [] if config.labels_may_lack else [config.label]
    optional = rule.groups if config.parse in values else ()
    needed += [column for column in (config.start, end, config.split_by) if column not in optional]
    needed += [column for one in rule.patterns.get("source", []) for column in one.columns]
    for column in filter(None, needed):
        if not values.get(column):
            raise RecipeError(f"{where} has no {column}; give one or remove the line")


def _span(where: str, values: dict[str, str], config: ListConfig) -> tuple[float, float | None]:
    """Start and length of the clip in seconds. What is now known of its end goes into the values, for patterns."""
    if not config.start or not values.get(config.start):
        return 0.0, None
    for column in filter(None, (config.start, config.end)):
        if values.get(column):
            seconds = _seconds(values[column], column, where)
            if config.milliseconds:
                values[column] = _text(seconds / 1000)
    start = float(values[config.start])
    if config.end and values.get(config.end):
        seconds = float(values[config.end]) - start
        if seconds <= 0:
            raise RecipeError(f"{where}: ends at {values[config.end]} s, and begins at {values[config.start]} s")
        return start, seconds
    if config.seconds:
        values[config.end or END] = _text(start + config.seconds)
    return start, config.seconds or None


def _candidates(
    where: str, values: Mapping[str, str], config: ListConfig, patterns: Mapping[str, Sequence[Pattern]]
) -> tuple[Candidate, ...]:
    """The names of the row's video, by all patterns whose columns it has."""
    found: dict[str, Candidate] = {}
    wrong = ""
    every = [*patterns["path"], *patterns.get("whole", [])]
    for number, one in enumerate(every):
        is_whole = number >= len(patterns["path"]) if config.whole else bool(config.start)
        if len(every) > 1 and not all(values.get(column) for column in one.columns):
            continue
        try:
            path = one.fill(values)
        except ValueError as error:
            wrong = wrong or f"{where}: {error}"
            continue
        if "\0" in path:
            raise RecipeError(f"{where}: {path!r} holds a NUL character; save the list as UTF-8")
        found.setdefault(path, Candidate(path, is_whole))
    if not found:
        raise RecipeError(wrong or f"{where}: has the columns of no pattern of list.path")
    return tuple(found.values())


def _filled(patterns: Sequence[Pattern], values: Mapping[str, str], where: str) -> str:
    try:
        return patterns[0].fill(values) if patterns else ""
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None


def without_suffix(name: str) -> str:
    """Without the suffix of a video; a plain function of the list, whatever lies on the disk."""
    from avbench.packing.recipes.files import VIDEO_SUFFIXES, stem_of, suffix_of

    return stem_of(name) if suffix_of(name) in VIDEO_SUFFIXES else name


def _seconds(value: str, column: str, where: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise RecipeError(f"{where}: {column} is {value!r}; expected seconds, 0 or more")
    return seconds


def _text(seconds: float) -> str:
    return str(int(seconds)) if seconds.is_integer() else repr(seconds)
