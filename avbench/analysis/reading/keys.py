"""Clips of somebody's own tables, however they are named: by key, by source, or by the video's path.

A key is a name fit for a tar member: the video's path in the media folder without its suffix, percent-encoded
(`Hund%2C%20bellt%2Fclip%201`). Nobody's own code has that, so `Hund, bellt/clip 1`, with or without `.mp4`, and longer
paths that end so, name the same clip.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from avbench.analysis.reading.class_labels import composed
from avbench.records import read_schema, read_table

Keys = NDArray[np.object_]

# A long name's key is cut, and ends with the start of the name's SHA-256.
_CUT = re.compile(r".*-([0-9a-f]{16})", re.DOTALL)
_LONG = 60  # keys are cut far beyond this; a short name may end like a cut one


class KnownKeys:
    """The keys of a dataset's clips, and what else these clips are called.

    keys: all of them. sources: called only where a key is not known: per key the name of its video, for those that
    have one; windows of one video share it.
    """

    def __init__(self, keys: Iterable[str], sources: Callable[[], Mapping[str, str]]) -> None:
        self._keys = frozenset(keys)
        self._sources = sources

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def resolved(self, keys: Keys) -> Keys:
        """Each key as the dataset has it; one that names no clip, or several, stays as it is."""
        if all(key in self._keys for key in keys):
            return keys
        return np.array([key if key in self._keys else self._find(key) for key in keys], object)

    def _find(self, key: str) -> str:
        for form in dict.fromkeys((key, unquote(key), key.replace("\\", "/"))):
            for name in _names(form):
                found = self._by_name.get(name)
                if found is None:
                    found = self._cut.get(hashlib.sha256(name.encode(errors="replace")).hexdigest()[:16])
                if found:
                    return found
        return key

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """The key of each name; "" where a name could be two clips."""
        found: dict[str, str] = {}
        sources = self._sources()
        for key in self._keys:
            for name in {key, composed(unquote(key)), composed(sources.get(key) or key)}:
                found[name] = key if name not in found else ""
        return {**found, **{key: key for key in self._keys}}

    @cached_property
    def _cut(self) -> dict[str, str]:
        return {match[1]: key for key in self._keys if (match := _CUT.fullmatch(key))}


def sources_in(paths: Sequence[Path]) -> Callable[[], Mapping[str, str]]:
    """Per key the source, of Parquet tables that have such a column; read when it is called."""

    def read() -> Mapping[str, str]:
        return {key: source for path in paths for key, source in _sources(path)}

    return read


def source_of(key: str) -> str:
    """What the video of a key is called, from the key alone; "" for a long name's key, which is cut."""
    return "" if len(key) > _LONG and _CUT.fullmatch(key) else unquote(key)


def _sources(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".parquet" and path.exists() and "source" in read_schema(path).names:
        table = read_table(path, columns=["key", "source"])
        for key, source in zip(table.column("key").to_pylist(), table.column("source").to_pylist(), strict=True):
            if source:
                yield key, source


def _names(path: str) -> Iterator[str]:
    """What a clip may be called that this path names: with ever fewer leading folders, each also without its suffix."""
    parts = composed(posixpath.normpath(path)).strip("/").split("/")
    for first in range(len(parts)):
        name = "/".join(parts[first:])
        yield name
        stem, suffix = posixpath.splitext(name)
        if suffix:
            yield stem
