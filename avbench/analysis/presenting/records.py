"""Rows of the CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

Record = dict[str, Any]  # column -> value, the same columns in every record of a file


def as_records(rows: Sequence[Any]) -> list[Record]:
    """Dataclasses as records; what they call a run is a method to a reader."""
    return [{"method" if name == "run" else name: value for name, value in asdict(row).items()} for row in rows]
