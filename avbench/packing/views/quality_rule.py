"""`--drop quality:COLUMN>NUMBER`: clips left out by what quality.parquet says of them. Parsed, never evaluated."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avbench.errors import UsageError, unknown

_COMPARED: Mapping[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_RULE = re.compile(r"quality:\s*(?P<column>\w+)\s*(?:(?P<sign>>=|<=|==|!=|>|<)\s*(?P<value>\S+))?\s*", re.ASCII)
_BOOLEANS = {"true": True, "false": False}
_EXPECTED = "expected quality:COLUMN>NUMBER (or >=, <, <=, ==, !=), or quality:COLUMN for one that is true or false"


@dataclass(frozen=True)
class Drop:
    """Leave out the clips of which `column` compared with `value` holds. text: as it was asked for."""

    text: str
    column: str
    sign: str
    value: float | bool

    def matches(self, quality: pa.Table) -> np.ndarray:
        """Which rows are left out, bool (N,); an empty value or NaN matches nothing.

        Raises UsageError for a column that the table does not have, or whose values cannot be compared in this way.
        """
        column = self._column(quality)
        is_boolean = pa.types.is_boolean(column.type)
        if is_boolean != isinstance(self.value, bool):
            kind = "is true or false" if is_boolean else "holds numbers"
            raise UsageError(f"--drop {self.text}: {self.column} {kind}; {_EXPECTED}; quote it, since shells take >")
        if is_boolean and self.sign not in ("==", "!="):
            raise UsageError(f"--drop {self.text}: {self.column} is true or false, so it is compared by == or !=")
        is_there = column.is_valid().to_numpy()
        values = column.fill_null(False if is_boolean else 0).to_numpy()
        return is_there & (values == values) & _COMPARED[self.sign](values, self.value)  # NaN is not itself

    def unsaid(self, quality: pa.Table) -> int:
        """Of how many rows the column says nothing."""
        return pc.sum(pc.is_null(self._column(quality), nan_is_null=True)).as_py() or 0

    def _column(self, quality: pa.Table) -> pa.ChunkedArray:
        known = [field.name for field in quality.schema if _is_comparable(field)]
        if self.column not in known:
            raise UsageError(f"--drop {self.text}: {unknown('column of quality.parquet', self.column, known)}")
        return quality.column(self.column)


def parse_drop(text: str) -> Drop:
    """A rule as it was typed. Raises UsageError for anything else."""
    found = _RULE.fullmatch(text)
    if found is None:
        raise UsageError(f"--drop {text}: no rule; {_EXPECTED}")
    column, sign, word = found["column"], found["sign"], found["value"]
    if sign is None:
        return Drop(text, column, "==", True)
    if word.lower() in _BOOLEANS:
        return Drop(text, column, sign, _BOOLEANS[word.lower()])
    try:
        value = float(word)
    except ValueError:
        raise UsageError(f"--drop {text}: {word!r} is no number; {_EXPECTED}") from None
    if value != value:
        raise UsageError(f"--drop {text}: nothing compares with {word}; {_EXPECTED}")
    return Drop(text, column, sign, value)


def _is_comparable(field: pa.Field) -> bool:
    kinds = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating)
    return field.name != "clip_id" and any(is_kind(field.type) for is_kind in kinds)
