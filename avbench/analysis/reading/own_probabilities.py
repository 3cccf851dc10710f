"""Class probabilities in tables of somebody's own, some rows at a time, checked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avbench.analysis.measures.accuracy import Labels
from avbench.analysis.measures.class_scores import Values
from avbench.analysis.reading.class_labels import are_numbers, composed, stand_in_order
from avbench.analysis.reading.columns import Keys, numbers_of, shown
from avbench.analysis.reading.own_files import _LISTS, _NARROW, TEXT, OwnFile
from avbench.errors import RunError
from avbench.records import LOG_PROBABILITIES
from avbench.vocabulary import MODALITIES
from avbench.wording import counted

# More than any dataset has.
_MOST_CLASSES = 100_000

# Columns of avbench's own tables, which are no class probabilities.
_PREDICTIONS = tuple(f"{modality}_prediction" for modality in MODALITIES)
_OTHER = ("seed", "clip_id", "epoch", "uncertainty", "discrepancy", *MODALITIES, *_PREDICTIONS)

# How far from 1 class probabilities may add up: float32, or rounded to four digits.
_ROUNDED = 1e-3


def width_of(file: OwnFile) -> int:
    """How many class probabilities a row has in a column of lists; 0 where there is none."""
    name = next((name for name in _LISTS if name in file.names), None)
    if name is None:
        return 0
    _, part = next(file.parts(width=_MOST_CLASSES))
    first = part.column(name)[0].as_py()
    try:
        return len(json.loads(first) if isinstance(first, str) else first or ())
    except (ValueError, TypeError):
        return 0  # refused where they are read


@dataclass(frozen=True, slots=True)
class Share:
    """How many of a file's rows were read when something was found."""

    rows: int
    total: int

    def text(self, count: int) -> str:
        """So many clips of those that were read, for a message."""
        return f"{count} of {'' if self.rows == self.total else 'the first '}{self.rows} clips"


@dataclass(frozen=True, slots=True)
class GivenProbabilities:
    """Class probabilities of a file's rows, in the file's own precision.

    values: (N, classes), each row adds up to 1. ranks: what clips are ranked by: the same, or their logarithms where
    the file has these too. columns: which of the columns of lists they are from; () where there is one a class.
    """

    values: Values
    ranks: Values
    columns: tuple[str, ...]

    @property
    def rounded(self) -> bool:
        """Whether clips are ranked by float32 probabilities, of which confident ones are all 1."""
        return self.ranks is self.values and self.values.dtype == np.float32


def probabilities_in(
    file: OwnFile, keys: Keys, classes: Sequence[str], *, own: bool
) -> Iterator[tuple[slice, GivenProbabilities]]:
    """A file's class probabilities, some rows at a time, and which rows these are; none where it has none.

    keys: of its rows. Raises RunError as `probabilities_of` does, and where a column is empty in some parts alone.
    """
    first: tuple[str, ...] | None = None
    for number, (place, part) in enumerate(file.parts(width=len(classes))):
        read = Share(place.stop, len(keys))
        given = probabilities_of(part, keys[place], classes, file.path, own=own, read=read)
        columns = None if given is None else given.columns
        if number and columns != first:
            (odd, *_) = {*(columns or ())} ^ {*(first or ())}
            raise RunError(
                f"{file.path}: column {odd!r} is empty in some rows and not in others, such as near "
                f"{shown(keys[place][0])}; fill it in every row, or leave it out"
            )
        first = columns
        if given is not None:
            yield place, given


def probabilities_of(
    table: pa.Table, keys: Keys, classes: Sequence[str], path: Path, *, own: bool, read: Share
) -> GivenProbabilities | None:
    """From a column of lists, `probabilities` or `log_probabilities`, or from one column a class; None without any.

    own: whether it is a table that avbench wrote, whose lists are in the order of the classes whatever they are called.
    read: how many of the file's rows were read with these.
    Raises RunError unless each probability is in [0, 1] and a clip's add up to 1, and for lists where the classes have
    numbers for names that stand in another order.
    """
    table = _named_as_classes(table, classes)
    named = [name for name in classes if name in table.column_names and name not in TEXT]
    lists = [name for name in _LISTS if name in table.column_names and table.column(name).null_count < len(keys)]
    if lists and not own and are_numbers(classes) and not stand_in_order(classes):
        raise RunError(
            f"{path}: column {lists[0]!r} holds lists, and the classes are named by numbers that do not stand in their "
            f"order ({', '.join(classes[:5])}, ...), so a list's places could be meant in two ways; give one column a "
            f"class, named as the class"
        )
    if lists:
        values = {name: _lists(table, name, keys, len(classes), path) for name in lists}
    elif len(named) == len(classes):
        _check_no_other_class(table, classes, path)
        values = {"probabilities": _side_by_side(table, classes, path)}
    elif named:
        absent = [name for name in classes if name not in named]
        taken = [name for name in absent if name in _NARROW]
        hint = "; a column of that name is something else, so give a column 'probabilities' of lists" if taken else ""
        raise RunError(
            f"{path}: has columns for {len(named)} of {len(classes)} classes, but none for "
            f"{shown((taken or absent)[0])}{hint}"
        )
    else:
        return None
    logarithms = values.get(LOG_PROBABILITIES)
    if logarithms is not None:
        _check_logarithms(logarithms, keys, path)
    probabilities = values["probabilities"] if logarithms is None or "probabilities" in values else np.exp(logarithms)
    _check_finite(probabilities, keys, path)
    outside = (probabilities < -_ROUNDED).any(axis=1) | (probabilities > 1 + _ROUNDED).any(axis=1)
    sums = probabilities.sum(axis=1, dtype=np.float64)
    wrong = outside | (np.abs(sums - 1) > _ROUNDED)
    if wrong.any():
        raise RunError(
            f"{path}: {read.text(int(wrong.sum()))} have class probabilities outside [0, 1] or that do not "
            f"add up to 1, the first is {shown(keys[wrong][0])} (they add up to {sums[wrong][0]:.4g}); apply "
            f"a softmax first, or give a column 'prediction' in their place"
        )
    if logarithms is not None and probabilities is values.get("probabilities"):
        _check_same(probabilities, logarithms, keys, path, read=read)
    ranks = probabilities if logarithms is None else logarithms
    return GivenProbabilities(probabilities, ranks, columns=tuple(lists))


def _named_as_classes(table: pa.Table, classes: Sequence[str]) -> pa.Table:
    """The table, a column that differs from one class's name in how its accents are written named as that class."""
    of_form = Counter(map(composed, classes))
    wanted = {composed(name): name for name in classes if of_form[composed(name)] == 1}
    found = Counter(map(composed, table.column_names))
    names = [wanted.get(composed(name), name) if found[composed(name)] == 1 else name for name in table.column_names]
    return table if names == table.column_names else table.rename_columns(names)


def _check_logarithms(logarithms: Values, keys: Keys, path: Path) -> None:
    """As `_check_finite`, and says what minus infinity comes from."""
    of_zero = np.isneginf(logarithms).any(axis=1)
    if of_zero.any():
        raise RunError(
            f"{path}: log_probabilities of {counted(int(of_zero.sum()), 'clip')} are minus infinity, the first are "
            f"those of {shown(keys[of_zero][0])}: the logarithm of a probability that was rounded to 0; compute them "
            f"from the logits (log softmax), or give 'probabilities' alone"
        )
    _check_finite(logarithms, keys, path)


def _check_same(probabilities: Values, logarithms: Values, keys: Keys, path: Path, *, read: Share) -> None:
    """Raises RunError where the two are of different things: one would decide accuracy, the other average precision."""
    wrong = (np.abs(np.exp(logarithms) - probabilities) > _ROUNDED).any(axis=1)
    if wrong.any():
        raise RunError(
            f"{path}: in {read.text(int(wrong.sum()))} log_probabilities are not the logarithms of "
            f"probabilities, the first is {shown(keys[wrong][0])}; leave one of the two columns out"
        )


def _check_finite(values: Values, keys: Keys, path: Path) -> None:
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        raise RunError(
            f"{path}: a class probability of {counted(int(wrong.sum()), 'clip')} is missing or not finite, the first "
            f"is {shown(keys[wrong][0])}"
        )


def _side_by_side(table: pa.Table, classes: Sequence[str], path: Path) -> Values:
    """One column a class, in float32 where all of them are."""
    single = all(table.schema.field(name).type in (pa.float32(), pa.float16()) for name in classes)
    values = np.empty((table.num_rows, len(classes)), np.float32 if single else np.float64)
    for place, name in enumerate(classes):
        values[:, place] = numbers_of(table, name, path)
    return values


def _check_no_other_class(table: pa.Table, classes: Sequence[str], path: Path) -> None:
    for field in table.schema:
        known = field.name in (*classes, *TEXT, *_OTHER) or field.name.startswith("subset_")
        if not known and pa.types.is_floating(field.type):
            raise RunError(
                f"{path}: column {shown(field.name)} is no class, and it stands beside class probabilities; take it "
                f"away, or check that the classes are the dataset's"
            )


def _lists(table: pa.Table, name: str, keys: Keys, classes: int, path: Path) -> Values:
    """A column of lists, or of lists written as JSON, (N, classes)."""
    column = table.column(name).combine_chunks()
    if pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        values = column.flatten()
        single = values.type in (pa.float32(), pa.float16())
        if (lengths == classes).all():
            try:
                found = values.cast(pa.float32() if single else pa.float64()).to_numpy(zero_copy_only=False)
            except pa.ArrowException:
                raise RunError(f"{path}: column {name!r} holds other things than numbers") from None
            return found.reshape(-1, classes)
        _refuse_length(name, int(lengths[lengths != classes][0]), keys[lengths != classes][0], classes, path)
    lists = column.to_pylist()
    for row, numbers in enumerate(lists):
        try:
            lists[row] = list(json.loads(numbers) if isinstance(numbers, str) else numbers or ())
        except (ValueError, TypeError):
            raise RunError(
                f"{path}: {name} of {shown(keys[row])} are {shown(numbers)}, expected [0.1, 0.9, ...]"
            ) from None
        if len(lists[row]) != classes:
            _refuse_length(name, len(lists[row]), keys[row], classes, path)
    try:
        found = np.array(lists, np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != 2:  # 3 where each number is a list of one
        raise RunError(f"{path}: column {name!r} holds other things than numbers")
    return found


def _refuse_length(name: str, length: int, key: str, classes: int, path: Path) -> NoReturn:
    raise RunError(f"{path}: {shown(key)} has {length} {name.replace('_', ' ')}, expected {classes}, one a class")


def check_highest(predictions: Labels, probabilities: Values, keys: Keys, path: Path, *, read: Share) -> None:
    """Raises RunError where a prediction is not a most probable class; of equal ones each may be it."""
    said = np.take_along_axis(probabilities, predictions[:, None], axis=1)[:, 0]
    wrong = probabilities.max(axis=1) - said > 1e-6
    if wrong.any():
        raise RunError(
            f"{path}: in {read.text(int(wrong.sum()))} the prediction is not the most probable class, the "
            f"first is {shown(keys[wrong][0])}; leave out the column 'prediction' or the probabilities"
        )
