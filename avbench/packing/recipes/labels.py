"""The list labels.csv of a media folder: key,label and, where it has them, split, source, start and end of the clip.

Planted clips have their qualities there, too.
"""

from __future__ import annotations

import math
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from avbench.errors import RecipeError, unknown
from avbench.packing.clips import Clip, encoded_key
from avbench.packing.recipes.base import Found
from avbench.packing.recipes.files import Tally, with_pictures
from avbench.packing.recipes.matching import SUFFIXES_OUTSIDE_KEYS, Match, MediaFiles
from avbench.packing.recipes.rows import csv_rows, one_each
from avbench.vocabulary import SPLITS


def listed(media: Path, labels: str) -> Found:
    """The videos of a list, in its order, and what else lies in the folder. Raises RecipeError naming the line."""
    path = media / labels
    files = MediaFiles(media)
    rows = [(line, row, files.match(row["key"])) for line, row in _rows(path)]
    clashing = _check_names(path, rows)
    clips: list[Clip] = []
    line_of: dict[tuple[str, str], int] = {}
    for line, row, match in rows:
        found = match.names
        if match.stem in clashing and not match.is_exact:
            found = []  # with its sister listed, a.mp4 means a.mp4 and not a.mkv
        if len(found) > 1:
            found = with_pictures(files.path, found)
        if len(found) > 1:
            names = " and ".join(sorted(map(posixpath.basename, found)))
            raise RecipeError(
                f"{path}: line {line}: {row['key']!r} could be {names}; name one with its suffix, or remove one"
            )
        file = found[0] if found else ""
        part = (file, row["start"])
        if file and line_of.setdefault(part, line) != line:
            raise RecipeError(
                f"{path}: line {line}: {row['key']!r} is the video of line {line_of[part]} again, {file}; keep one"
            )
        is_in_key = match.stem in clashing or match.suffix.lower() not in SUFFIXES_OUTSIDE_KEYS
        name = match.stem + (match.suffix if is_in_key else "")
        source = row["source"] or name
        start, seconds = _span(path, line, row)
        name += f"_{row['start']}" if row["start"] else ""  # one video may have several rows
        clips.append(
            Clip(
                key=encoded_key(name),
                label=row["label"],
                split=row["split"] or None,
                path=files.path(file) if file else media / match.stem,
                source=source,
                start_seconds=start,
                seconds=seconds,
                planted_audio=_quality(path, line, "planted_audio", row),
                planted_visual=_quality(path, line, "planted_visual", row),
                looked_for="" if file else files.looked_for(match),
                name=name if name != source else "",
            )
        )
    files.check_compressed(clips)
    tally = Tally()
    files.tally(tally, {clip.path for clip in clips})
    return Found(tuple(clips), tally.entries())


def _check_names(path: Path, rows: Iterable[tuple[int, Mapping[str, str], Match]]) -> set[str]:
    """The stems that several rows have, each with a suffix of its own. RecipeError where a row comes again.

    Rows of one video that begin at different seconds are different rows.
    """
    lines: dict[tuple[str, str], dict[str, tuple[int, str]]] = defaultdict(dict)
    for line, row, match in rows:
        before = lines[match.stem, row["start"]]
        if before and (match.suffix in before or not match.suffix or "" in before):
            first, label = before.get(match.suffix) or min(before.values())
            other = f" with the label {row['label']!r} and there {label!r}" if label != row["label"] else ""
            raise RecipeError(f"{path}: line {line} has the key {row['key']!r} again, of line {first}{other}; keep one")
        before[match.suffix] = line, row["label"]
    suffixes: dict[str, set[str]] = defaultdict(set)
    for (stem, _), found in lines.items():
        suffixes[stem] |= found.keys() - {""}
    return {stem for stem, found in suffixes.items() if len(found) > 1}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a list; every row has a stripped text of each of the known columns."""
    known = ("key", "label", "split", "source", "start", "end", "planted_audio", "planted_visual")
    rows = csv_rows(path)
    _, header = next(rows, (0, []))
    header = [name.strip() for name in header]
    _check_header(path, header, known)
    empty = True
    split_given = False
    for line, values in rows:
        read = dict(zip(header, one_each(values, header, path, line), strict=True))
        row = {name: read.get(name, "") for name in known}
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


def _span(path: Path, line: int, row: Mapping[str, str]) -> tuple[float, float | None]:
    """Start and length of a row's clip in its video, seconds; the length is None where nothing says the end."""
    times = {}
    for name in ("start", "end"):
        try:
            times[name] = float(row[name] or 0)
        except ValueError:
            times[name] = math.nan
        if not 0.0 <= times[name] < math.inf:
            raise RecipeError(f"{path}: line {line}: {name} is {row[name]!r}; expected seconds, 0 or more")
    if not row["end"]:
        return times["start"], None
    if times["end"] <= times["start"]:
        raise RecipeError(f"{path}: line {line}: ends at {row['end']} s, and begins at {row['start'] or 0} s")
    return times["start"], times["end"] - times["start"]


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
