"""The tar shards of a dataset: where each lies, and what it was packed with.

Format version 1 lists them as objects: they lie in the dataset's folder, are called by their numbers, and each holds
clips of one split. Version 2, of views, says where each lies, and a shard may hold clips of several splits; it lists
columns, since those are read three times as fast, and a view of a million clips has 16,000 shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from avbench.vocabulary import SPLITS

_PACKED = ("clips", "size_bytes", "sha256")
COLUMNS = ("place", *_PACKED)
"""What version 2 says of each shard, a list a name."""


def shard_name(number: int) -> str:
    """File name of a shard; its DALI index has the suffix .idx in place of .tar."""
    return f"shard-{number:06d}.tar"


class Shards:
    """All shards of a dataset, each by its number, from a dataset.json whose fields are of their kinds.

    Columns are made when they are asked for: there may be very many shards.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self._told = description["shards"]
        self._is_by_column = isinstance(self._told, Mapping)

    def __len__(self) -> int:
        return len(self._told["place"] if self._is_by_column else self._told)

    @cached_property
    def places(self) -> Sequence[str]:
        """Paths relative to the dataset's folder, with "/"; no two are alike."""
        return self._told["place"] if self._is_by_column else [shard_name(number) for number in range(len(self))]

    @property
    def names_told(self) -> Sequence[str]:
        """What version 1 calls the files, which should be the names of their numbers; none of version 2."""
        return () if self._is_by_column else self._column("name")

    @cached_property
    def splits(self) -> Sequence[str] | None:
        """Of each shard's clips; None where a shard may hold clips of several."""
        return None if self._is_by_column else self._column("split")

    @cached_property
    def clips(self) -> Sequence[int]:
        """How many clips the dataset has in each; the file may hold others too."""
        return self._column("clips")

    @cached_property
    def size_bytes(self) -> Sequence[int]:
        """Of the whole files."""
        return self._column("size_bytes")

    @cached_property
    def sha256(self) -> Sequence[str]:
        """Of the whole files, in hexadecimal."""
        return self._column("sha256")

    def _column(self, name: str) -> Sequence[Any]:
        return self._told[name] if self._is_by_column else [shard[name] for shard in self._told]


def folder_of(place: str) -> str:
    """The folder that a shard lies in, relative to the dataset's as the place is; "." for that folder itself."""
    return str(PurePosixPath(place).parent)


def are_shards(told: object) -> bool:
    """Whether this is what either version has in dataset.json."""
    if isinstance(told, Mapping):
        columns = [told.get(name) for name in COLUMNS]
        are_lists = all(isinstance(column, list) and len(column) == len(columns[0] or ()) for column in columns)
        return are_lists and _fit(*columns) and len(set(columns[0] or ())) == len(columns[0] or ())
    if not isinstance(told, list):
        return False
    try:
        names, splits, *packed = ([shard[name] for shard in told] for name in ("name", "split", *_PACKED))
    except (KeyError, TypeError, IndexError):
        return False
    return _fit(names, *packed) and all(isinstance(split, str) and split in SPLITS for split in splits)


def _fit(names: Any, clips: Any, sizes: Any, digests: Any) -> bool:
    """Whether these columns hold texts and counts. Column by column: there may be very many shards."""
    texts_fit = all(set(map(type, column)) <= {str} and "" not in column for column in (names, digests))
    counts_fit = all(set(map(type, column)) <= {int} for column in (clips, sizes))
    return (
        texts_fit
        and counts_fit
        and all(not column or 0 <= min(column) <= max(column) < 2**63 for column in (clips, sizes))
    )
