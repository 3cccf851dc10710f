"""Patterns that make a name from a row's columns, such as "{id}_{start:06d}.mp4"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from string import Formatter

_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)(\.0*)?")  # 30.0 is what pandas writes of a column that has holes
_SPEC = re.compile(r"0?[0-9]*d|\.[0-9]+|ms")


@dataclass(frozen=True)
class Pattern:
    """A text with columns in braces.

    {id} is the column's text, {start:06d} its whole number in six digits, {start:ms} its seconds as whole
    milliseconds, {key:.11} the first eleven characters.
    parts: (text before it, column or None at the end, how it is written).
    """

    text: str
    parts: tuple[tuple[str, str | None, str], ...]

    @cached_property
    def columns(self) -> list[str]:
        """The columns that it names."""
        return [column for _, column, _ in self.parts if column is not None]

    def fill(self, row: Mapping[str, str]) -> str:
        """The name that a row gives. Raises ValueError where a column's value is no number and is to be one."""
        made = ""
        for before, column, spec in self.parts:
            made += before
            if column is not None:
                made += _written(column, row[column], spec)
        return made


def pattern(text: str) -> Pattern:
    """A pattern from its text. Raises ValueError, which says what is wrong with it."""
    parts: list[tuple[str, str | None, str]] = []
    for before, column, spec, conversion in Formatter().parse(text):
        if column == "" or conversion:
            raise ValueError("between braces stands the name of a column, as in {id}")
        if spec and not _SPEC.fullmatch(spec):
            raise ValueError(f"{{{column}:{spec}}} is unknown; {{{column}:06d}} and {{{column}:.11}} can be written")
        parts.append((before, column, spec or ""))
    return Pattern(text, tuple(parts))


def _written(column: str, value: str, spec: str) -> str:
    if spec == "ms":
        return str(_milliseconds(column, value))
    if not spec.endswith("d"):
        return format(value, spec)
    number = _WHOLE_NUMBER.fullmatch(value)
    if not number:
        raise ValueError(f"{column} is {value!r}; {{{column}:{spec}}} takes a whole number")
    return format(int(number[1]), spec)


def _milliseconds(column: str, value: str) -> int:
    try:
        return round(Decimal(value) * 1000)
    except (ArithmeticError, ValueError):  # no number, or an infinite one
        raise ValueError(f"{column} is {value!r}; {{{column}:ms}} takes seconds") from None
