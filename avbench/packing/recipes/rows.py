"""The rows of a list that is a text file of separated values, each with the number of its line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from avbench.errors import RecipeError


def csv_rows(path: Path, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line number, values) of each row that is not blank. Raises RecipeError where the file is no such list."""
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets write a byte-order mark
            reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)
            for values in reader:
                line = reader.line_num
                if values:
                    yield line, values
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise RecipeError(f"{path}: line {line + 1} is no CSV: {error}") from None  # after the last row that was whole


def one_each(values: Sequence[str], columns: Sequence[str], path: Path, line: int) -> list[str]:
    """A row's values, stripped, one a column; those that the row lacks at its end are empty.

    Raises RecipeError where it has more.
    """
    if len(values) > len(columns):
        raise RecipeError(f"{path}: line {line} has more values than columns; quote what holds a comma")
    return [value.strip() for value in values] + [""] * (len(columns) - len(values))
