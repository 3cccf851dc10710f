"""Columns of avbench's own Parquet tables as checked arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avbench.analysis.measures.discrepancy import Floats
from avbench.errors import RunError

Ids = NDArray[np.int64]


def integers_of(table: pa.Table, name: str, path: Path) -> Ids:
    """A column of whole numbers, (N,). Raises RunError for an empty value or another type."""
    column = table.column(name)
    if column.null_count:
        raise RunError(f"{path}: column {name} has {column.null_count} empty values; the file is damaged")
    try:
        return column.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        raise RunError(f"{path}: column {name} holds {column.type}, not whole numbers") from None


def floats_of(table: pa.Table, name: str) -> Floats:
    """A column as float64, NaN for null, (N,)."""
    return table.column(name).cast(pa.float64()).fill_null(np.nan).to_numpy()


def check_ids_once(clip_ids: Ids, path: Path) -> None:
    """Sorted ids, each once. Raises RunError."""
    again = np.flatnonzero(np.diff(clip_ids) == 0)
    if len(again):
        raise RunError(f"{path}: lists clip {clip_ids[again[0]]} twice; the file is damaged")


def in_order(table: pa.Table, *names: str) -> pa.Table:
    """The table by ascending values of these columns; not copied where it is in that order already, as it is written.

    The columns hold whole numbers without nulls.
    """
    keys = np.stack([table.column(name).to_numpy() for name in names])
    steps = np.sign(np.diff(keys, axis=1))
    first = np.argmax(steps != 0, axis=0)  # the first column that differs decides
    if (np.take_along_axis(steps, first[None], axis=0) >= 0).all():
        return table
    return table.sort_by([(name, "ascending") for name in names])
