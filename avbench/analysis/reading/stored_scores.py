"""Class scores in a run folder's files, which are read when they are wanted, and one run's at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avbench.analysis.measures.class_scores import Rows, Values, batch_rows
from avbench.errors import RunError
from avbench.records import opened_table


@dataclass(frozen=True, slots=True)
class StoredScores:
    """Numbers in a column of lists of a Parquet file, whose rows stand in any order.

    places: of each of the file's rows its place among the evaluated clips, -1 for rows that are not read (of a
    replaced modality, of clips that are not evaluated). `path` is named in what is wrong with it.
    """

    path: Path
    column: str
    classes: int
    places: Rows
    rounded: bool = False

    def batches(self) -> Iterator[tuple[Rows, Values]]:
        """As `ClassScores` says. Row groups without a wanted row are not read. Raises RunError for damage."""
        wanted = self.places >= 0
        last = int(np.flatnonzero(wanted)[-1]) if wanted.any() else -1
        with opened_table(self.path) as file:
            width = batch_rows(self.classes, 8)
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if wanted[first : first + rows].any():
                    # The rest of a group is not even decompressed once its last wanted row is there.
                    for batch in file.iter_batches(width, row_groups=[group], columns=[self.column], use_threads=False):
                        chosen = wanted[first : first + len(batch)]
                        if chosen.any():
                            yield self.places[first : first + len(batch)][chosen], self._values(batch.column(0), chosen)
                        first, rows = first + len(batch), rows - len(batch)
                        if first > last:
                            return
                first += rows

    def _values(self, column: pa.Array, chosen: NDArray[np.bool_]) -> Values:
        kept = column if chosen.all() else column.filter(pa.array(chosen))
        values = kept.flatten().to_numpy(zero_copy_only=False) if _is_lists(kept.type) else np.empty(0)
        if kept.null_count or len(values) != len(kept) * self.classes or values.dtype.kind != "f":
            raise RunError(
                f"{self.path}: column {self.column} holds {column.type}, expected {self.classes} numbers a clip"
            )
        if not np.isfinite(values).all():
            raise RunError(f"{self.path}: some class probabilities are not finite; that run diverged, train it again")
        return values.reshape(-1, self.classes)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the array that they are together."""
        return int((self.places >= 0).sum()), self.classes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Values:
        found = np.empty(self.shape, np.float64)
        for rows, values in self.batches():
            found[rows] = values
        return found if dtype is None else found.astype(dtype)


def is_filled(path: Path, column: str, *, row: int) -> bool:
    """Whether a row of a Parquet file has something in this column. Raises RunError where the file is broken."""
    with opened_table(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < first + rows:
                for batch in file.iter_batches(1024, row_groups=[group], columns=[column], use_threads=False):
                    if row < first + len(batch):
                        return batch.column(0)[row - first].is_valid
                    first += len(batch)
            first += rows
    return False


def _is_lists(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
