"""The order of class names, which decides a class's number.

Names are text and stay text. Where all of them are whole numbers, their order is that of the numbers, so that the class
named 3 stands where whoever counts from 0 expects it, and not behind 29.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# 3.0 is what pandas writes of a column of numbers that has a hole. ASCII's digits only, which everybody reads as such.
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+(\.0*)?")


def are_whole_numbers(names: Iterable[str]) -> bool:
    """Whether every name is a whole number, as "0", "-1", "01" or "3.0" are; False where there are no names."""
    names = list(names)
    return bool(names) and all(_WHOLE_NUMBER.fullmatch(name) for name in names)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Different names in the order that their classes are numbered in.

    Where all are whole numbers by their value, names of one value ("1" and "01") by their text; else by their text.
    """
    distinct = sorted(set(names))
    if are_whole_numbers(distinct):
        distinct.sort(key=_value)
    return tuple(distinct)


def order_text(names: Iterable[str]) -> str:
    """The order of classes whose names are numbers, in words: "0, 1, 2, ..., 11"."""
    names = list(names)
    return ", ".join(names if len(names) <= _SHOWN else [*names[: _SHOWN - 1], "...", names[-1]])


_SHOWN = 20


def _value(name: str) -> tuple[bool, int, str]:
    """Sorts as the number does, whatever its length: int() refuses texts of more than 4,300 digits."""
    digits = name.lstrip("+-").partition(".")[0].lstrip("0")
    negative = name.startswith("-") and bool(digits)
    if negative:  # the longer, the lower; and of one length the greater digits are the lower
        return (False, -len(digits), "".join(str(9 - int(digit)) for digit in digits))
    return (True, len(digits), digits)
