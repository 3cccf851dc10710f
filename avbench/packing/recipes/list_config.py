"""What a recipe of kind `list` says: which column is what, and how a row's video is called."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from avbench.errors import RecipeError, unknown
from avbench.packing.recipes.patterns import Pattern, pattern
from avbench.vocabulary import SPLITS

# What published lists call the splits, in any case.
SPLIT_WORDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("train", "training"), "train"),
        **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
        **dict.fromkeys(("test", "testing"), "test"),
    }
)
END = "end"  # a name that patterns may use where the list has no such column and `seconds` says how long a clip is
COUNTED = ("rows", "videos", "classes", *SPLITS)  # what `expected` may count
_COLUMNS = ("label", "split", "start", "end", "parse", "split_by")
# Of these, the options that older versions had; the others are stored only where they say something.
_ALWAYS_STORED = (
    *("path", "files", "columns", "separator", "label", "split", "file_splits", "key", "source", "start", "end"),
    "seconds",
)


@dataclass(frozen=True)
class ListConfig:
    """How a list is to be read."""

    path: tuple[str, ...]
    """The video of a row, relative to the media folder, from the row's columns: "{id}_{start:06d}.mp4", say. Where
    there are several such patterns, they are tried in order."""
    files: tuple[str, ...] = ()
    """The lists, relative to the media folder or absolute."""
    lists: tuple[str, ...] = ()
    """The lists, relative to the working folder, in the place of files. The option --list of `avbench pack` sets it."""
    json: str = ""
    """Where the rows are in a list that is JSON: "videos.{label}.[id]", say; empty: the list is a table of text."""
    columns: tuple[str, ...] = ()
    """The names of the columns in their order; empty: the first line of each list names them. Where the published
    lists differ, several orders: "id,start,label,split", "name,label"."""
    separator: str = ","
    """What stands between two columns."""
    label: str = "label"
    """The column of the class name."""
    labels_may_lack: bool = False
    """Leave rows without a label out, and count them; else they are an error."""
    keep: tuple[str, ...] = ()
    """The classes of the list that are wanted, in their order; rows of others are left out, and counted."""
    names: str = ""
    """A file with the names of the classes that the list only numbers, one a line, that of class 0 first."""
    split: str = ""
    """The column of the split; empty: no column says it."""
    file_splits: tuple[str, ...] = ()
    """The split of each of the lists, where no column says it."""
    split_in_name: bool = False
    """Take the split from the list's own name, such as my_train.txt, where no column says it."""
    default_split: str = ""
    """The split of a list whose rows and name do not say one."""
    split_by: str = ""
    """Cut all splits anew in the place of the published ones, and keep clips with one value of this column together."""
    parse: str = ""
    """The column that is taken apart by parts."""
    parts: tuple[str, ...] = ()
    """Regular expressions, tried in order; their named groups, as in "(?P<id>.{11})_(?P<start>[0-9]+)", become
    columns."""
    key: str = ""
    """What a clip is called, from the row's columns; empty: its path without suffix."""
    source: str = ""
    """The video that a clip was cut from, from the row's columns; empty: its path without suffix. Where the list has
    no splits, all clips of one video come into one."""
    start: str = ""
    """The column of the second at which the clip begins in its file; empty: each file is one clip."""
    end: str = ""
    """The column of the second at which the clip ends in its file."""
    milliseconds: bool = False
    """The columns start and end are in milliseconds."""
    seconds: float = 0.0
    """How long a clip is, where start is given and a row has no end; 0: up to the end of its file."""
    whole: tuple[str, ...] = ()
    """Patterns of whole videos, which are tried after path and of which start and end are cut out. Where there are
    some, those of path are clips that are cut already."""
    sound: str = ""
    """The file beside the video that has the sound of a row: "AudioWAV/{name}.wav", say; empty: the video itself. Where
    not one such file is there, the sound is the videos' own, which is said."""
    anywhere: bool = False
    """The videos may lie in any folder of the media folder: only the last part of a path counts."""
    prefer: tuple[str, ...] = ()
    """Parts of paths, such as "replacement/": of several files of one clip, those whose path has the first of them."""
    repeats: bool = False
    """Several rows may be one part of one video, each with a label of its own."""
    published: str = ""
    """Where the list was published."""
    licence: str = ""
    """The licence of the list, as published."""
    expected: tuple[str, ...] = ()
    """The published counts, such as "test 2597"; a list that has others is said."""
    particular: str = ""
    """What is to be known of the dataset, in a sentence."""

    def __post_init__(self) -> None:
        """Raises RecipeError for options that contradict each other or name no column."""
        checks = (
            ("path", bool(self.path) and all(self.path), 'a pattern, such as "{id}.mp4"'),
            ("separator", len(self.separator) == 1 and self.separator not in '"\r\n', "one character"),
            ("label", bool(self.label), "the name of a column"),
            ("columns", not (self.columns and self.json), "none where json is given"),
            ("columns", all(len({*order}) == len(order) for order in self.orders), "names that differ"),
            ("end", not self.end or bool(self.start), "none where start is not given"),
            ("whole", not self.whole or bool(self.start), "none where start is not given"),
            ("seconds", not self.seconds or 1.0 <= self.seconds < math.inf, "0, or 1 or more"),
            ("seconds", not self.seconds or bool(self.start), "0 without start"),
            ("file_splits", not (self.file_splits and self.split), "none where split names a column"),
            ("file_splits", len(self.file_splits) in (0, len(self.given)), f"one for each of {len(self.given)} files"),
            ("parts", bool(self.parts) == bool(self.parse), "some where parse names a column, and only there"),
            ("expected", all(map(_is_count, self.expected)), f"a count each of {', '.join(COUNTED)}, as 'test 2597'"),
        )
        for name, holds, expected in checks:
            if not holds:
                value = getattr(self, name)
                shown = value[0] if name == "path" and len(value) == 1 else value
                raise RecipeError(f"[list] {name} is {shown!r}; expected {expected}")
        for word in self.file_splits:
            split_of(word, "[list] file_splits")
        if self.default_split:
            split_of(self.default_split, "[list] default_split")
        self.patterns()
        for order in self.orders:
            self.check_columns(order, "[list]")

    @property
    def given(self) -> tuple[str, ...]:
        """The lists as they are given: relative to the working folder where `lists` names them."""
        return self.lists or self.files

    @property
    def orders(self) -> list[list[str]]:
        """The orders of columns that a list may have; none where its first line says it."""
        if any("," in one for one in self.columns):
            return [[name.strip() for name in one.split(",")] for one in self.columns]
        return [list(self.columns)] if self.columns else []

    @property
    def is_one_order(self) -> bool:
        """Whether every list has the same columns, by their names in the recipe."""
        return len(self.orders) == 1

    @property
    def groups(self) -> list[str]:
        """The columns that the parts of another column make; in a row, some may be empty."""
        found = [name for one in self.regular_expressions() for name in one.groupindex]
        return list(dict.fromkeys(found))

    def regular_expressions(self) -> list[re.Pattern[str]]:
        """Those of `parts`. Raises RecipeError for one that cannot be read."""
        found = []
        for text in self.parts:
            try:
                found.append(re.compile(text))
            except re.error as error:
                raise RecipeError(f"[list] parts has {text!r}, which is no regular expression: {error}") from None
        return found

    def patterns(self) -> dict[str, list[Pattern]]:
        """The patterns that are given, by the option's name. Raises RecipeError for one that cannot be read."""
        found: dict[str, list[Pattern]] = {}
        single = {name: (getattr(self, name),) for name in ("key", "source", "sound")}
        texts = {"path": self.path, "whole": self.whole, **single}
        for name, given in texts.items():
            for text in filter(None, given):
                try:
                    found.setdefault(name, []).append(pattern(text))
                except ValueError as error:
                    raise RecipeError(f"[list] {name} is {text!r}: {error}") from None
        return found

    def check_columns(self, columns: Sequence[str], where: str, hint: str = "") -> None:
        """Raise RecipeError where an option names a column that is not among these. hint: what is said then, too."""
        known = [*columns, *self.groups]
        also = [END] if self.seconds else []
        named = [(name, one) for name, made in self.patterns().items() for each in made for one in each.columns]
        named = [(name, column) for name, column in named if column not in also]
        may_lack = {"label"} if self.labels_may_lack else set()
        if len(self.orders) > 1:  # what one order has, another says otherwise or not at all
            may_lack |= {"parse", "split"}
        if self.split_in_name or self.default_split:
            may_lack.add("split")
        named += [(name, column) for name in _COLUMNS if name not in may_lack and (column := getattr(self, name))]
        for name, column in named:
            if column not in known:
                raise RecipeError(f"{where}: of list.{name}: {unknown('column', column, known)}{hint}")

    def stored(self) -> dict[str, Any]:
        """As dataset.json has it: lists that were given by their place have only their names, wherever they lay."""
        defaults = {one.name: one.default for one in fields(self)}
        values = asdict(self)
        kept = {name: values[name] for name in _ALWAYS_STORED}
        kept |= {name: value for name, value in values.items() if value != defaults[name] and name not in kept}
        if lists := kept.pop("lists", ()):
            kept["files"] = [Path(name).name for name in lists]
        if self.names:
            kept["names"] = Path(self.names).name
        return {**kept, "path": self.path[0] if len(self.path) == 1 else list(self.path)}


def split_of(word: str, where: str) -> str:
    """The split that a word of a list means. Raises RecipeError for a word that nobody knows. where: it stands."""
    if word.lower() not in SPLIT_WORDS:
        raise RecipeError(f"{where}: {unknown('split', word, SPLIT_WORDS)}")
    return SPLIT_WORDS[word.lower()]


def split_in(name: str) -> str | None:
    """The split that a file's name says as one of its words, as my_train.txt and trainSet.txt do; else None."""
    words = re.findall("[A-Z]?[a-z]+|[A-Z]+", Path(name).stem)
    found = {SPLIT_WORDS[word.lower()] for word in words if word.lower() in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def expected_counts(expected: Iterable[str]) -> dict[str, int]:
    """Published counts by what they count."""
    return {what: int(count) for what, _, count in (one.partition(" ") for one in expected)}


def _is_count(text: str) -> bool:
    what, _, count = text.partition(" ")
    return what in COUNTED and count.isascii() and count.isdigit()
