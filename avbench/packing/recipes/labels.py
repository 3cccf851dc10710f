"""A list of labelled videos, labels.csv, and the file that each of its rows means.

A row's key is the video's name as its author writes it: with or without suffix, with "./" before it, as an absolute
path, with "\\" between folders, in another Unicode normal form than the disk has. What is on the disk decides.
"""

from __future__ import annotations

import csv
import math
import os
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unicodedata import normalize

from avbench.errors import RecipeError, unknown
from avbench.packing.clips import Clip, encoded_key
from avbench.packing.recipes.files import (
    VIDEO_SUFFIXES,
    LeftOut,
    Tally,
    stem_of,
    suffix_of,
    suffixes,
    walk,
    with_pictures,
)
from avbench.records import SPLITS

# A row's key loses these suffixes, and no other: datasets packed before more were known keep their keys.
_SUFFIXES_OUTSIDE_KEYS = suffixes("3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg ogv ts webm")


def listed(media: Path, labels: str) -> tuple[list[Clip], tuple[LeftOut, ...]]:
    """The videos of a list, in its order, and what else lies in the folder. Raises RecipeError naming the line."""
    path = media / labels
    files = _Files(media)
    rows = [(line, row, files.match(row["key"])) for line, row in _rows(path)]
    clashing = _check_names(path, rows)
    clips: list[Clip] = []
    line_of: dict[str, int] = {}
    for line, row, match in rows:
        found = match.names
        if match.stem in clashing and not match.is_exact:
            found = []  # with its sister listed, a.mp4 means a.mp4 and not a.mkv
        if len(found) > 1:
            found = with_pictures(media, found)
        if len(found) > 1:
            names = " and ".join(sorted(map(posixpath.basename, found)))
            raise RecipeError(
                f"{path}: line {line}: {row['key']!r} could be {names}; name one with its suffix, or remove one"
            )
        file = found[0] if found else ""
        if file and line_of.setdefault(file, line) != line:
            raise RecipeError(
                f"{path}: line {line}: {row['key']!r} is the video of line {line_of[file]} again, {file}; keep one"
            )
        is_in_key = match.stem in clashing or match.suffix.lower() not in _SUFFIXES_OUTSIDE_KEYS
        source = match.stem + (match.suffix if is_in_key else "")
        clips.append(
            Clip(
                key=encoded_key(source),
                label=row["label"],
                split=row["split"] or None,
                path=media / (file or match.stem),
                source=source,
                planted_audio=_quality(path, line, "planted_audio", row),
                planted_visual=_quality(path, line, "planted_visual", row),
                looked_for="" if file else files.looked_for(match),
            )
        )
    tally = Tally()
    tally.add("unreadable", files.unreadable)
    tally.add("not listed", (name for name in files.videos if name not in line_of))
    return clips, tally.entries()


@dataclass(frozen=True)
class _Match:
    """What a row's key may mean.

    stem, suffix: of the key, as far as its end is a suffix. names: the files that it fits, relative to the folder.
    is_exact: it is the whole name of the one that it fits.
    """

    stem: str
    suffix: str
    names: list[str]
    is_exact: bool


class _Files:
    """The files below a media folder, to be found by whatever a list calls them."""

    def __init__(self, media: Path) -> None:
        self._media = media
        walked = walk(media)
        self.videos = walked.videos
        self.unreadable = walked.left_out["unreadable"]
        self._names = set(walked.videos)
        self._stems = walked.by_stem()
        self._beside = defaultdict(list)  # files that are no videos, by their names without suffix
        for name in walked.left_out["suffix"]:
            self._beside[stem_of(name)].append(name)
        here = {os.path.abspath(media): "", os.path.realpath(media): ""}  # noqa: PTH100  keeps links
        self._roots = list({**walked.links, **here}.items())
        self._folders: dict[str, dict[str, list[str]]] = {}
        self._real_folders: dict[str, str] = {}

    def match(self, text: str) -> _Match:
        """The files that a row's key may mean, by the first form of it that there is a file for."""
        is_plain = text in self._names or _by_stem(self._stems, text)  # as in nearly every list
        forms = [text] if is_plain else list(dict.fromkeys(self._forms(text)))
        for form in forms:
            if form in self._names:
                return _match(form, [form], is_exact=True)
        for form in forms:
            if names := _by_stem(self._stems, form):
                return _match(form, names)
        for form in forms:
            if names := self._normal_names.get(_normal(form), []):
                return _match(form, names, is_exact=True)
            if names := _by_stem(self._normal_stems, _normal(form)):
                return _match(form, names)
        for form in forms:
            if os.path.isfile(self._media / form):  # behind a link that was not followed, or outside  # noqa: PTH113
                return _match(form, [form], is_exact=True)
            if names := self._beside_it(form):
                return _match(form, names)
        return _match(next((form for form in forms[1:] if not form.startswith("/")), text), [])

    def looked_for(self, match: _Match) -> str:
        """In words, for a row that no file was found for."""
        what = repr(match.stem + match.suffix)
        what += "" if match.suffix else ", as it is or with the suffix of a video"
        others = [*self._stems.get(match.stem, ()), *self._beside.get(match.stem, ())]
        others = others or self._folded_stems.get(match.stem.casefold(), [])  # to Windows, the same name
        return f"looked for {what}" + (f"; there is {' and '.join(sorted(others))}" if others else "")

    def _forms(self, text: str) -> Iterator[str]:
        """The names, relative to the media folder, that a key may be meant as; absolute where it lies elsewhere."""
        yield text
        for written in (text, text.replace("\\", "/")):
            climbs = ".." in written.split("/")
            if climbs or written.startswith("/"):
                real = self._real(written)
                for there in (real,) if climbs else (posixpath.normpath(written), real):
                    for root, name in self._roots:
                        if there.startswith(f"{root}/"):
                            yield posixpath.join(name, there[len(root) + 1 :])
                yield written if climbs else posixpath.normpath(written)
            else:
                yield posixpath.normpath(written)  # without "./", "//" and "/./"

    def _real(self, path: str) -> str:
        """The absolute path, no link in its folders; a link at its end stays, being the file's name here."""
        folder, name = posixpath.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(self._media / folder)
        return posixpath.join(self._real_folders[folder], name)

    def _beside_it(self, form: str) -> list[str]:
        """Videos that differ from `form` by a suffix only, in a folder that the walk did not see."""
        folder, name = posixpath.split(form)
        if folder not in self._folders:
            stems = self._folders[folder] = defaultdict(list)
            there = self._media / folder
            for other in sorted(os.listdir(there)) if os.path.isdir(there) else ():  # noqa: PTH112, PTH208
                if suffix_of(other) in VIDEO_SUFFIXES:
                    stems[stem_of(other)].append(other)
        return [posixpath.join(folder, other) for other in _by_stem(self._folders[folder], name)]

    @cached_property
    def _folded_stems(self) -> dict[str, list[str]]:
        return _grouped((stem_of(name).casefold() for name in self.videos), self.videos)

    @cached_property
    def _normal_names(self) -> dict[str, list[str]]:
        return _grouped(self.videos, self.videos)

    @cached_property
    def _normal_stems(self) -> dict[str, list[str]]:
        return _grouped(map(stem_of, self.videos), self.videos)


def _match(form: str, names: list[str], *, is_exact: bool = False) -> _Match:
    """The match of a form of a key: its end is a suffix, unless a file has another one behind it."""
    is_stem = any(_normal(stem_of(name)) == _normal(form) for name in names)
    stem = form if is_stem or suffix_of(form) not in VIDEO_SUFFIXES else stem_of(form)
    return _Match(stem, form.removeprefix(stem), names, is_exact)


def _by_stem(stems: Mapping[str, list[str]], form: str) -> list[str]:
    """Files whose name without suffix is `form` without its own, or all of `form`."""
    stripped = stem_of(form) if suffix_of(form) in _SUFFIXES_OUTSIDE_KEYS else form
    return stems.get(stripped) or stems.get(form) or []


def _normal(name: str) -> str:
    """One form of a name for all that look the same: macOS writes é as two characters, everybody else as one."""
    return normalize("NFC", name)


def _grouped(keys: Iterable[str], names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in zip(keys, names, strict=True):
        groups[_normal(key)].append(name)
    return groups


def _check_names(path: Path, rows: Iterable[tuple[int, Mapping[str, str], _Match]]) -> set[str]:
    """The stems that several rows have, each with a suffix of its own. RecipeError where a row comes again."""
    lines: dict[str, dict[str, int]] = defaultdict(dict)
    for line, row, match in rows:
        before = lines[match.stem]
        if before and (match.suffix in before or not match.suffix or "" in before):
            first = before.get(match.suffix) or min(before.values())
            raise RecipeError(f"{path}: line {line} has the key {row['key']!r} again, of line {first}; keep one")
        before[match.suffix] = line
    return {stem for stem, found in lines.items() if len(found) > 1}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a list; every row has key, label, split, planted_audio and planted_visual, stripped."""
    known = ("key", "label", "split", "planted_audio", "planted_visual")
    empty = True
    split_given = False
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets write a byte-order mark
            reader = csv.DictReader(file, restkey="", restval="", strict=True, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            _check_header(path, header, known)
            reader.fieldnames = header
            for read in reader:
                line = reader.line_num
                if "" in read:
                    raise RecipeError(f"{path}: line {line} has more values than columns; quote what holds a comma")
                row = {name: (read.get(name) or "").strip() for name in known}
                for name in ("key", "label"):
                    if not row[name]:
                        raise RecipeError(f"{path}: line {line} has no {name}; give one or remove the line")
                if "\0" in row["key"]:
                    raise RecipeError(f"{path}: line {line}: the key holds a NUL character; save it as UTF-8")
                if row["split"] and row["split"] not in SPLITS:
                    raise RecipeError(f"{path}: line {line}: {unknown('split', row['split'], SPLITS)}")
                if not empty and bool(row["split"]) != split_given:
                    raise RecipeError(f"{path}: line {line}: give every line a split, or none")
                empty, split_given = False, bool(row["split"])
                yield line, row
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        # The reader counts the lines of whole rows; the broken one begins after them.
        raise RecipeError(f"{path}: line {reader.line_num + 1} is no CSV: {error}") from None
    if empty:
        raise RecipeError(f"{path}: lists no videos")


def _check_header(path: Path, header: Sequence[str], known: Iterable[str]) -> None:
    """Raise RecipeError where the first line does not name the columns, each of them once."""
    if any("\0" in name for name in header):
        raise RecipeError(f"{path}: not UTF-8 (a NUL in its first line); save it as UTF-8")
    for name in known:
        if header.count(name) > 1:
            raise RecipeError(f"{path}: {header.count(name)} columns {name!r}; keep one")
    for name in ("key", "label"):
        if name not in header:
            columns = ", ".join(header) or "none"
            for separator, word in ((";", "semicolons"), ("\t", "tabs")):
                if len(header) == 1 and {"key", "label"} <= {part.strip(' "') for part in columns.split(separator)}:
                    raise RecipeError(f"{path}: its columns are separated by {word}; separate them by commas")
            raise RecipeError(f"{path}: no column {name!r} (columns: {columns}); the first line must be key,label")


def _quality(path: Path, line: int, name: str, row: Mapping[str, str]) -> float | None:
    if not row[name]:
        return None
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise RecipeError(f"{path}: line {line}: {name} is {row[name]!r}; expected a number from 0 to 1")
    return value
