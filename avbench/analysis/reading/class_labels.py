"""Which class a value of somebody's own file means: a class's name, or its place where names are words.

Where class names are numbers, a number is a name: `3`, "3" and 3.0 mean the class named 3, and never the class at
place 3. Where some names are numbers and others words, a number could be either, so it is taken only where both say the
same.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avbench.analysis.measures.accuracy import Labels
from avbench.analysis.reading.columns import shown
from avbench.class_names import are_whole_numbers, in_order
from avbench.errors import RunError, unknown

_MOST_CLASSES = 100_000  # a larger class number is something else's number

# 3, 3. and 3.0, but no 03: a name with a leading zero is another name. Nor 3e0, which nobody writes for a class.
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.(0*|[0-9]+))?")
_LIKE_A_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?")
_EXACT = 2**53  # whole numbers beyond are not all told apart in a float
_MOST_DIGITS = 4000  # int() refuses texts of more than 4,300


def composed(name: str) -> str:
    """A name with letters and their accents in one form (NFC): file systems, editors and spreadsheets have either."""
    return unicodedata.normalize("NFC", name)


def are_numbers(classes: Sequence[str]) -> bool:
    """Whether all class names look like numbers."""
    return all(map(_LIKE_A_NUMBER.fullmatch, classes))


def stand_in_order(classes: Sequence[str]) -> bool:
    """Whether class names that are all numbers ascend; text order, 0, 1, 10, 2, does not."""
    values = [float(name) for name in classes]
    return all(one < other for one, other in pairwise(values))


def class_names(labels: Iterable[object], *, width: int, path: Path) -> tuple[str, ...]:
    """Class names of labels that nobody listed: the labels where they are words, else the numbers from 0 on.

    width: how many numbers there are at least.
    """
    present = {label for label in labels if label is not None and label != "" and label == label}  # NaN is none
    numbers = [_whole(label) for label in present]
    if any(number is None or number < 0 for number in numbers):
        names = in_order(_plain(label) for label in present)
        # Numbers with a fraction ascend too; the order of equal ones must not hang on that of a set.
        return tuple(sorted(names, key=float)) if are_numbers(names) and not are_whole_numbers(names) else names
    highest = max((number for number in numbers if number is not None), default=0)
    if highest >= _MOST_CLASSES:
        raise RunError(f"{path}: column 'label' holds {highest}, expected class numbers from 0 on, or names")
    return tuple(str(number) for number in range(max(width, 1 + highest)))


def class_numbers(
    column: pa.Array, keys: Sequence[str] | np.ndarray, classes: Sequence[str], *, what: str, by_place: bool = False
) -> Labels:
    """The place of each value's class among `classes`, (N,). keys: of the rows, to name one that is wrong.

    by_place: numbers are places whatever the names are, as in avbench's own tables. Raises RunError for a value that
    means no class, or that could mean two.
    """
    encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    values = encoded.dictionary.to_pylist()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    places = np.empty(len(values) + 1, np.int64)
    places[-1] = -1  # of code -1, an empty value
    found = _Meanings(classes, by_place=by_place)
    for code, value in enumerate(values):
        places[code] = -1 if value is None or value == "" else found.place(value)
    numbers = places[codes]
    wrong = np.flatnonzero(numbers < 0)
    if len(wrong):
        row = int(wrong[0])
        value = None if codes[row] < 0 else values[codes[row]]
        if value is None or value == "":
            empty = sum(1 for code in codes[wrong] if code < 0 or values[code] in (None, ""))
            raise RunError(f"{what} of {shown(keys[row])} is empty ({empty} such values)")
        raise RunError(f"{what} of {shown(keys[row])}: {found.complaint(value)}")
    return numbers


class _Meanings:
    """What values mean among some classes."""

    def __init__(self, classes: Sequence[str], *, by_place: bool) -> None:
        self._classes = classes
        self._of_name = {name: place for place, name in enumerate(classes)}
        self._of_form: dict[str, int] = {}
        for place, name in enumerate(classes):  # -1 where two names differ by their form alone
            self._of_form[composed(name)] = place if composed(name) not in self._of_form else -1
        numeric = [bool(_LIKE_A_NUMBER.fullmatch(name)) for name in classes]
        self._places = by_place or not any(numeric)
        self._mixed = not by_place and any(numeric) and not all(numeric)

    def place(self, value: object) -> int:
        """The place of the class that a value means; -1 where it means none."""
        if isinstance(value, str) and value in self._of_name and not self._are_places(value):
            return self._of_name[value]
        if isinstance(value, str) and self._of_form.get(composed(value), -1) >= 0 and not self._are_places(value):
            return self._of_form[composed(value)]
        if self._places:
            number = _whole(value)
            return number if number is not None and 0 <= number < len(self._classes) else -1
        named = self._named(value)
        if not self._mixed:
            return named
        return named if named >= 0 and named == _whole(value) else -1

    def complaint(self, value: object) -> str:
        """What is wrong with a value that means no class, and what would mean one."""
        text, classes = str(value), self._classes
        if text.strip() in classes and text != text.strip():
            return f"{shown(text)} is no class; take the spaces around it away"
        is_number = bool(_LIKE_A_NUMBER.fullmatch(text))
        if self._mixed and is_number:
            return f"{shown(text)} could be a class's name or its place, since some class names are numbers; give names"
        if not self._places and is_number:
            return (
                f"{shown(text)} is no class; the class names are numbers, so a number is a class's name and not its "
                f"place: expected one of {_some(classes)}"
            )
        if not is_number and not self._places and not self._mixed and classes == tuple(map(str, range(len(classes)))):
            return (
                f"{shown(text)} is no class; the classes here are the numbers from 0 to {len(classes) - 1} (if they "
                f"have names, a run folder says so: give it too)"
            )
        if self._places and (is_number or len(classes) > 20 or not text.isprintable()):
            return (
                f"{shown(text)} is no class; expected a name such as {shown(classes[0])} or a number from 0 to "
                f"{len(classes) - 1}"
            )
        if len(classes) > 20 or not text.isprintable():
            return f"{shown(text)} is no class; expected a name such as {shown(classes[0])}"
        return unknown("class", text[:60], classes)

    def _are_places(self, value: str) -> bool:
        return self._places and bool(_LIKE_A_NUMBER.fullmatch(value))

    def _named(self, value: object) -> int:
        """The place of the one class that is named as this number, written in any way; -1 where none or two are."""
        found = {self._of_name[name] for name in _spellings(value) if name in self._of_name}
        return found.pop() if len(found) == 1 else -1


def _whole(value: object) -> int | None:
    """A whole number, also written as 3.0; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float | Decimal):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < _EXACT else None
    match = _NUMBER.fullmatch(value) if isinstance(value, str) and len(value) <= _MOST_DIGITS else None
    return int(match[1]) if match and not (match[2] or "").strip("0") else None


def _spellings(value: object) -> set[str]:
    """How a class that is named as this number may be called; empty for what is no number."""
    whole = _whole(value)
    if whole is not None:
        return {str(whole), f"{whole}.0"}
    if isinstance(value, float) and math.isfinite(value):
        return {repr(value)}
    if isinstance(value, str) and (match := _NUMBER.fullmatch(value)) and match[2]:
        return {value, f"{match[1]}.{match[2].rstrip('0')}"}
    return set()


def _plain(label: object) -> str:
    """A label as a name: whole numbers without a point."""
    whole = None if isinstance(label, str) else _whole(label)
    return str(label) if whole is None else str(whole)


def _some(classes: Sequence[str]) -> str:
    return ", ".join([*classes[:12], *(["..."] if len(classes) > 12 else [])])
