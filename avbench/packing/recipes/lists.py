"""The source `list`: a list as its authors publish it, whose columns and file names a recipe describes."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from avbench.errors import RecipeError, unknown
from avbench.packing.clips import Clip, encoded_key
from avbench.packing.recipes.base import Found, Source
from avbench.packing.recipes.patterns import Pattern, pattern
from avbench.packing.recipes.rows import csv_rows, one_each

if TYPE_CHECKING:
    from avbench.packing.recipes.matching import MediaFiles

# What published lists call the splits, in any case.
SPLIT_WORDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("train", "training"), "train"),
        **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
        **dict.fromkeys(("test", "testing"), "test"),
    }
)
_PATTERNS = ("path", "key", "source")
_COLUMNS = ("label", "split", "start", "end")
_SHOWN = 3  # names of videos in an error


@dataclass(frozen=True)
class ListConfig:
    """How a list is to be read."""

    path: str
    """The video of a row, relative to the media folder, from the row's columns: "{id}_{start:06d}.mp4", say."""
    files: tuple[str, ...] = ()
    """The lists, relative to the media folder or absolute."""
    columns: tuple[str, ...] = ()
    """The names of the columns in their order; empty: the first line of each list names them."""
    separator: str = ","
    """What stands between two columns."""
    label: str = "label"
    """The column of the class name."""
    split: str = ""
    """The column of the split; empty: no column says it."""
    file_splits: tuple[str, ...] = ()
    """The split of each of the lists, where no column says it."""
    key: str = ""
    """What a clip is called, from the row's columns; empty: its path without suffix."""
    source: str = ""
    """The video that a clip was cut from, from the row's columns; empty: its path without suffix. Where the list has
    no splits, all clips of one video come into one."""
    start: str = ""
    """The column of the second at which the clip begins in its file; empty: each file is one clip."""
    end: str = ""
    """The column of the second at which the clip ends in its file."""
    seconds: float = 0.0
    """How long a clip is, where start is given and end is not; 0: up to the end of its file."""

    def __post_init__(self) -> None:
        """Raises RecipeError for options that contradict each other or name no column."""
        checks = (
            ("path", bool(self.path), 'a pattern, such as "{id}.mp4"'),
            ("separator", len(self.separator) == 1 and self.separator not in '"\r\n', "one character"),
            ("label", bool(self.label), "the name of a column"),
            ("columns", len({*self.columns}) == len(self.columns), "names that differ"),
            ("end", not self.end or bool(self.start), "none where start is not given"),
            ("seconds", not self.seconds or 1.0 <= self.seconds < math.inf, "0, or 1 or more"),
            ("seconds", not self.seconds or bool(self.start and not self.end), "0 without start, or with end"),
            ("file_splits", not (self.file_splits and self.split), "none where split names a column"),
            ("file_splits", len(self.file_splits) in (0, len(self.files)), f"one for each of {len(self.files)} files"),
        )
        for name, holds, expected in checks:
            if not holds:
                raise RecipeError(f"[list] {name} is {getattr(self, name)!r}; expected {expected}")
        for word in self.file_splits:
            _split(word, "[list] file_splits")
        self.patterns()
        if self.columns:
            self.check_columns(self.columns, "[list]")

    def patterns(self) -> dict[str, Pattern]:
        """The patterns that are given, by the option's name. Raises RecipeError for one that cannot be read."""
        found = {}
        for name in _PATTERNS:
            if text := getattr(self, name):
                try:
                    found[name] = pattern(text)
                except ValueError as error:
                    raise RecipeError(f"[list] {name} is {text!r}: {error}") from None
        return found

    def check_columns(self, columns: Sequence[str], where: str, hint: str = "") -> None:
        """Raise RecipeError where an option names a column that is not among these. hint: what is said then, too."""
        named = [(name, column) for name, one in self.patterns().items() for column in one.columns]
        named += [(name, getattr(self, name)) for name in _COLUMNS if getattr(self, name)]
        for name, column in named:
            if column not in columns:
                raise RecipeError(f"{where}: of list.{name}: {unknown('column', column, columns)}{hint}")


class ListSource(Source):
    """The videos of a published list, whose columns and file names the recipe describes.

    Clips are in the order of the lists' rows. A row whose video is not there stays among them, to be rejected.
    """

    kind = "list"
    Config = ListConfig
    config: ListConfig

    def clips(self, media: Path) -> Found:
        """The clip of each row, and the videos that are in no row."""
        from avbench.packing.recipes.files import Tally
        from avbench.packing.recipes.matching import MediaFiles

        files = MediaFiles(media)
        clips: list[Clip] = []
        row_of: dict[object, str] = {}  # of each clip's name, and of each video or part of one
        first = ""
        for row in self._rows(media):
            first = first or row.path
            clip = _clip(row, files, media)
            again = "give list.key a pattern that tells them apart"
            if (before := row_of.setdefault(row.name, row.where)) != row.where:
                raise RecipeError(f"{row.where}: is called {row.name!r}, as is {before}; keep one, or {again}")
            part = (clip.path, row.start_seconds)
            if not clip.looked_for and (before := row_of.setdefault(part, row.where)) != row.where:
                raise RecipeError(f"{row.where}: {row.path!r} is the video of {before} again; keep one")
            clips.append(clip)
        if all(clip.looked_for for clip in clips):
            raise RecipeError(f"{media}: {self._none_fits(first, len(clips), files.videos)}")
        there = {clip.path for clip in clips}
        tally = Tally()
        tally.add("unreadable", files.unreadable)
        tally.add("not listed", (name for name in files.videos if media / name not in there))
        return Found(tuple(clips), tally.entries())

    def _rows(self, media: Path) -> Iterator[_Row]:
        """The rows of all lists. Raises RecipeError naming the line of one that is no clip."""
        config = self.config
        if not config.files:
            raise RecipeError(
                "list.files names no list; say which in the recipe's table [list], or as --list.files FILE"
            )
        patterns = config.patterns()
        for path, split in zip_longest((media / name for name in config.files), config.file_splits):
            if not path.is_file():
                raise RecipeError(f"{path}: no such list; list.files is relative to the media folder, or absolute")
            is_empty = True
            for line, values in self._values(path):
                is_empty = False
                yield _row(f"{path}: line {line}", values, config, patterns, split)
            if is_empty:
                raise RecipeError(f"{path}: lists no videos")

    def _values(self, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
        """(line number, value of each column) of each row of a list."""
        rows = csv_rows(path, self.config.separator)
        columns = list(self.config.columns)
        if not columns:
            columns = [name.strip() for name in next(rows, (0, []))[1]]
            hint = "; where the first line does not name the columns, list.columns does"
            self.config.check_columns(columns, str(path), hint)
        for line, values in rows:
            texts = one_each(values, columns, path, line)
            if texts != columns:  # some copies of a list have a first line of names, and some have none
                yield line, dict(zip(columns, texts, strict=True))

    def _none_fits(self, first: str, count: int, videos: Sequence[str]) -> str:
        names = ", ".join([*videos[:_SHOWN], *(["..."] if len(videos) > _SHOWN else [])])
        there = f"{len(videos)} {'video' if len(videos) == 1 else 'videos'}: {names}" if videos else "no video"
        return (
            f"holds none of the {count} listed videos; list.path {self.config.path!r} makes {first!r} of the first "
            f"row, and the folder holds {there}"
        )


@dataclass(frozen=True)
class _Row:
    """One row of a list: where it stands, and what it says. name: what the clip is called."""

    where: str
    path: str
    name: str
    source: str
    label: str
    split: str | None
    start_seconds: float
    seconds: float | None


def _row(
    where: str, values: Mapping[str, str], config: ListConfig, patterns: Mapping[str, Pattern], split: str | None
) -> _Row:
    """What a row's values say. split: of the whole list, where no column says it."""
    for column in filter(None, (config.label, config.split, config.start, config.end)):
        if not values[column]:
            raise RecipeError(f"{where} has no {column}; give one or remove the line")
    try:
        made = {name: one.fill(values) for name, one in patterns.items()}
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None
    if "\0" in made["path"]:
        raise RecipeError(f"{where}: {made['path']!r} holds a NUL character; save the list as UTF-8")
    word = values[config.split] if config.split else split
    start = _seconds(values, config.start, where) if config.start else 0.0
    seconds = _seconds(values, config.end, where) - start if config.end else config.seconds or None
    if seconds is not None and seconds <= 0:
        raise RecipeError(f"{where}: ends at {values[config.end]} s, and begins at {values[config.start]} s")
    stem = _without_suffix(made["path"])
    return _Row(
        where=where,
        path=made["path"],
        name=_without_suffix(made.get("key", stem)),
        source=_without_suffix(made.get("source", stem)),
        label=values[config.label],
        split=_split(word, where) if word else None,
        start_seconds=start,
        seconds=seconds,
    )


def _clip(row: _Row, files: MediaFiles, media: Path) -> Clip:
    from avbench.packing.recipes.files import with_pictures

    match = files.match(row.path)
    names = with_pictures(media, match.names) if len(match.names) > 1 else match.names
    if len(names) > 1:
        shown = " and ".join(sorted(map(posixpath.basename, names)))
        raise RecipeError(f"{row.where}: {row.path!r} could be {shown}; remove one")
    return Clip(
        key=encoded_key(row.name),
        label=row.label,
        split=row.split,
        path=media / (names[0] if names else match.stem),
        source=row.source,
        start_seconds=row.start_seconds,
        seconds=row.seconds,
        looked_for="" if names else files.looked_for(match),
        name=row.name,
    )


def _without_suffix(name: str) -> str:
    """Without the suffix of a video; a plain function of the list, whatever lies on the disk."""
    from avbench.packing.recipes.files import VIDEO_SUFFIXES, stem_of, suffix_of

    return stem_of(name) if suffix_of(name) in VIDEO_SUFFIXES else name


def _seconds(values: Mapping[str, str], column: str, where: str) -> float:
    try:
        seconds = float(values[column])
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise RecipeError(f"{where}: {column} is {values[column]!r}; expected seconds, 0 or more")
    return seconds


def _split(word: str, where: str) -> str:
    if word.lower() not in SPLIT_WORDS:
        raise RecipeError(f"{where}: {unknown('split', word, SPLIT_WORDS)}")
    return SPLIT_WORDS[word.lower()]
