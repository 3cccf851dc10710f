"""Which clips a name means: the one with this key, or else all that were cut from the video of this name."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avbench.packing.clips import encoded_key
from avbench.wording import first_of

_MOST_NAMED = 5
_MOST_COMPARED = 2000  # names that begin alike


@dataclass(frozen=True)
class Named:
    """name_of: for each clip the number of the name that means it, -1 for none, int64 (N,). missing: names of no clip.

    videos: how many of the names are of videos.
    """

    name_of: np.ndarray
    missing: tuple[str, ...]
    videos: int

    @property
    def is_named(self) -> np.ndarray:
        """Which clips are named, bool (N,)."""
        return self.name_of >= 0


def clips_named(names: Sequence[str], keys: pa.ChunkedArray, sources: pa.ChunkedArray) -> Named:
    """Which clips these different names mean.

    A name is a key, as it is or in the form that keys have ("a b" for a%20b), or else a source, and then means all of
    its clips. Where one name is a clip's key and another its source, the key counts.
    """
    by_key = _numbers(keys, names, range(len(names)))
    others = np.flatnonzero(~_are_found(by_key, len(names))).tolist()
    by_form = _numbers(keys, [encoded_key(names[number]) for number in others], others)
    by_key = np.where(by_key >= 0, by_key, by_form)
    is_found = _are_found(by_key, len(names))
    others = np.flatnonzero(~is_found).tolist()
    by_source = _numbers(sources, [names[number] for number in others], others)
    videos = _are_found(by_source, len(names))
    missing = np.flatnonzero(~(is_found | videos)).tolist()
    return Named(
        np.where(by_key >= 0, by_key, by_source), tuple(names[number] for number in missing), int(videos.sum())
    )


def near_text(name: str, known: Iterable[str]) -> str:
    """As in "; the nearest is 'dog'": the one that looks most alike; "" where none does.

    Of very many names only those that begin as this one does are compared.
    """
    ordered = sorted(known)
    if len(ordered) > _MOST_COMPARED:
        place = bisect_left(ordered, name)
        ordered = ordered[max(0, place - _MOST_COMPARED // 2) : place + _MOST_COMPARED // 2]
    near = get_close_matches(name, ordered, n=1, cutoff=0.6)
    return f"; the nearest is {near[0]!r}" if near else ""


def few(names: Sequence[str]) -> str:
    """The first of some names, on a line."""
    return first_of([*map(repr, names)], _MOST_NAMED)


def _numbers(texts: pa.ChunkedArray, names: Sequence[str], numbers: Sequence[int]) -> np.ndarray:
    """The number of the name that each text is, -1 for one that is none, int64 (N,)."""
    if not names:
        return np.full(len(texts), -1, np.int64)
    found = pc.fill_null(pc.index_in(texts, value_set=pa.array(names, pa.string())), -1).to_numpy()
    return np.array([*numbers, -1], np.int64)[found]


def _are_found(numbers: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(numbers[numbers >= 0], minlength=count).astype(bool)
