"""Columns of somebody's own tables as checked arrays, and how a message names what is in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avbench.analysis.measures.discrepancy import Floats
from avbench.errors import RunError
from avbench.wording import counted

Keys = NDArray[np.object_]


def shown(value: object) -> str:
    """A value of a file for a message: quoted, no unprintable letter, 60 letters or fewer."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def listed_names(names: Sequence[str]) -> str:
    """Column names for a message."""
    return ", ".join([*map(shown, names[:12]), *(["..."] if len(names) > 12 else [])])


def keys_of(table: pa.Table) -> Keys:
    """The column `key`, (N,)."""
    return table.column("key").to_numpy()


def check_once(keys: Keys, path: Path) -> None:
    """Raises RunError where a key stands twice."""
    again = [key for key, count in Counter(keys).items() if count > 1]
    if again:
        stand = "stands" if len(again) == 1 else "stand"
        raise RunError(
            f"{path}: {counted(len(again), 'key')} {stand} more than once, the first is {shown(again[0])}; a clip has "
            f"one row, or one a run and seed, which columns of these names tell apart"
        )


def names_of(table: pa.Table, name: str, path: Path, *, default: str) -> Keys:
    """A column of names that may not be empty, (N,); `default` in every row where it is absent."""
    if name not in table.column_names:
        return np.full(table.num_rows, default, object)
    values = table.column(name).to_numpy()
    empty = np.array([not value.strip() for value in values], bool)
    if empty.any():
        raise RunError(
            f"{path}: column {name!r} is empty in {int(empty.sum())} of {len(empty)} rows, the first is that of "
            f"{shown(keys_of(table)[empty][0])}; name it in every row, or leave the column out"
        )
    return values


def seeds_of(table: pa.Table, path: Path) -> NDArray[np.int64]:
    """The column `seed`, (N,), from 0 on; zeros where it is absent."""
    if "seed" not in table.column_names:
        return np.zeros(table.num_rows, np.int64)
    column = table.column("seed")
    try:
        values = None if column.null_count else column.cast(pa.int64()).to_numpy()
    except pa.ArrowException:
        values = None
    if values is None:
        raise RunError(
            f"{path}: column 'seed' holds empty values or {column.type}, expected a whole number in every row"
        )
    if (values < 0).any():
        raise RunError(f"{path}: column 'seed' holds {values.min()}, expected whole numbers from 0 on")
    return values


def numbers_of(table: pa.Table, name: str, path: Path) -> Floats:
    """A column as float64, NaN for null, (N,)."""
    try:
        return table.column(name).cast(pa.float64()).fill_null(np.nan).to_numpy()
    except pa.ArrowException:
        raise RunError(f"{path}: column {shown(name)} holds {table.column(name).type}, not numbers") from None
