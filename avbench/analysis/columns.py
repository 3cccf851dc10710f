"""Tables of somebody's own, from Parquet or CSV, and their columns as checked arrays. Every mistake is one line."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

from avbench.analysis.discrepancy import MODALITIES, Floats
from avbench.analysis.evaluation import Labels
from avbench.errors import RunError, UsageError, unknown
from avbench.records import read_table

Keys = NDArray[np.object_]

# Read as text: a number would lose leading zeros of a key, and a class's name may be a number.
TEXT = ("key", "label", "prediction", "run", "split", "method", "probabilities", "replaced")
_NAMES = ("key", "run", "split", "method", "replaced")  # text in Parquet too, whatever they were written as
# Columns of avbench's own tables, which are no class probabilities.
_OTHER = ("seed", "clip_id", "epoch", "uncertainty", "audio_prediction", "visual_prediction", "audio", "visual",
          "discrepancy")  # fmt: skip

# How far from 1 class probabilities may add up: float32, or rounded to four digits.
_ROUNDED = 1e-3
_MOST_CLASSES = 100_000  # a larger class number is something else's number

_SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas"}


def shown(value: object) -> str:
    """A value of a file for a message: quoted, no unprintable letter, 60 letters or fewer."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def counted(count: int, noun: str) -> str:
    """A number of things for a message, with its noun: "1 clip", "2 clips"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed_names(names: Sequence[str]) -> str:
    """Column names for a message."""
    return ", ".join([*map(shown, names[:12]), *(["..."] if len(names) > 12 else [])])


# Files


def read_file(path: Path, option: str) -> pa.Table:
    """A Parquet or CSV file with a column `key`, without the rows of replaced modalities. option: which asked for it.

    Names are text. Raises UsageError for a file that is none, RunError for one that holds no such table.
    """
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; give a Parquet or CSV file")
    if not path.is_file():
        raise UsageError(f"{option} {path}: no such file")
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        with suppress(OSError, pa.ArrowException):  # a file that is no Parquet is told of below
            _check_distinct(pq.read_schema(path).names, path)
        table = read_table(path)
    elif suffix in (".csv", ".tsv"):
        table = _read_csv(path, "\t" if suffix == ".tsv" else ",")
    else:
        raise UsageError(f"{option} {path}: unknown kind of file {suffix!r}; give .parquet, .csv or .tsv")
    check_columns(table, ("key",), path)
    if table.num_rows == 0:
        raise RunError(f"{path}: holds no row")
    for name in (name for name in _NAMES if name in table.column_names):
        table = table.set_column(table.column_names.index(name), name, _texts(table, name, path))
    if "replaced" in table.column_names:  # predictions of avbench itself
        table = _unreplaced(table, path)
    return table.combine_chunks()


def _read_csv(path: Path, delimiter: str) -> pa.Table:
    _check_text(path)
    as_text = csv.ConvertOptions(column_types=dict.fromkeys(TEXT, pa.string()))
    try:
        table = csv.read_csv(path, convert_options=as_text, parse_options=csv.ParseOptions(delimiter=delimiter))
        names = table.column_names  # raises where they are not UTF-8
    except (ValueError, pa.ArrowException) as error:
        hint = _separator_hint(path, delimiter)
        raise RunError(f"{path}: not a readable CSV table ({shown(str(error))}){hint}") from None
    if "key" not in names and (hint := _separator_hint(path, delimiter)):
        raise RunError(f"{path}: has no column 'key', only {listed_names(names)}{hint}")
    return table


def _check_text(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(10_000)
    try:
        # Not final: the last letter may be cut.
        is_text = "\0" not in codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise RunError(f"{path}: not a CSV table: it is no text in UTF-8; save it as UTF-8, or as .parquet")


def _separator_hint(path: Path, delimiter: str) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline(10_000)
    others = [letter for letter in _SEPARATORS if letter in header]
    if delimiter in header or not others:
        return ""
    return f"; its columns are separated by {_SEPARATORS[others[0]]}, expected {_SEPARATORS[delimiter]}"


def check_columns(table: pa.Table, wanted: Iterable[str], path: Path) -> None:
    """Raises RunError where a table lacks one of these columns or has two of a name."""
    names = table.column_names
    missing = [name for name in wanted if name not in names]
    if missing:
        padded = [name for name in names if name not in missing and name.strip() in missing]
        hint = f"; take the spaces around {shown(padded[0])} away" if padded else ""
        raise RunError(f"{path}: has no column {' and no '.join(map(repr, missing))}, only {listed_names(names)}{hint}")
    _check_distinct(names, path)


def _check_distinct(names: Sequence[str], path: Path) -> None:
    again = [name for name, count in Counter(names).items() if count > 1]
    if again:
        raise RunError(f"{path}: has the column {shown(again[0])} more than once; rename one or take it away")


def _texts(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    try:
        return table.column(name).cast(pa.string()).fill_null("")
    except pa.ArrowException:
        raise RunError(f"{path}: column {name!r} holds {table.column(name).type}, expected text") from None


def _unreplaced(table: pa.Table, path: Path) -> pa.Table:
    known = ("none", *MODALITIES)
    strange = [value for value in table.column("replaced").unique().to_pylist() if value not in known]
    if strange:
        raise RunError(f"{path}: column 'replaced' holds {shown(strange[0])}, expected {', '.join(known)}")
    table = table.filter(pc.equal(table.column("replaced"), "none"))
    if table.num_rows == 0:
        raise RunError(f"{path}: holds only rows with a modality replaced; give those with 'none' replaced")
    return table


# Columns


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


# Classes


def class_names(labels: Iterable[object], *, width: int, path: Path) -> tuple[str, ...]:
    """Class names of labels that nobody listed: the labels where they are words, else the numbers from 0 on.

    width: how many numbers there are at least.
    """
    present = {label for label in labels if label is not None and label != "" and label == label}  # NaN is none
    numbers = [_number(label) for label in present]
    if any(number < 0 for number in numbers):
        return tuple(sorted(map(str, present)))
    highest = max(numbers, default=0)
    if highest >= _MOST_CLASSES:
        raise RunError(f"{path}: column 'label' holds {highest}, expected class numbers from 0 on, or names")
    return tuple(str(number) for number in range(max(width, 1 + highest)))


def class_numbers(column: pa.Array, keys: Keys, classes: Sequence[str], *, what: str) -> Labels:
    """Class numbers from names or numbers, (N,); in text, what is a class's name is that, and not its number."""
    of_name = {name: number for number, name in enumerate(classes)}
    values = column.to_pylist()
    numbers = np.empty(len(values), np.int64)
    for row, value in enumerate(values):
        if value is None or value == "":
            empty = sum(value is None or value == "" for value in values)
            raise RunError(f"{what} of {shown(keys[row])} is empty ({empty} such values)")
        number = of_name.get(value, -1) if isinstance(value, str) else -1
        number = _number(value) if number < 0 else number
        if not 0 <= number < len(classes):
            raise RunError(f"{what} of {shown(keys[row])}: {_no_class(str(value), classes)}")
        numbers[row] = number
    return numbers


def _number(value: object) -> int:
    """A whole number from 0 on, also written as 3.0; -1 for anything else."""
    if isinstance(value, bool):
        return -1
    if isinstance(value, int):
        return max(value, -1)
    if isinstance(value, float):
        return int(value) if value.is_integer() and value >= 0 else -1
    match = re.fullmatch(r"([0-9]{1,18})(\.0*)?", value) if isinstance(value, str) else None
    return int(match[1]) if match else -1


def _no_class(value: str, classes: Sequence[str]) -> str:
    if value.strip() in classes:
        return f"{shown(value)} is no class; take the spaces around it away"
    is_number = bool(re.fullmatch(r"-?[0-9.]+", value))
    if not is_number and all(name.isdecimal() for name in classes):
        return (
            f"{shown(value)} is no class number, and nothing here names the classes; give the run folder too, or class "
            f"numbers from 0 to {len(classes) - 1}"
        )
    if is_number or len(classes) > 20 or not value.isprintable():
        return (
            f"{shown(value)} is no class; expected a name such as {shown(classes[0])} or a number from 0 to "
            f"{len(classes) - 1}"
        )
    return unknown("class", value[:60], classes)


# Class probabilities


def width_of(table: pa.Table) -> int:
    """How many class probabilities a row has in a column of lists; 0 where there is none."""
    if "probabilities" not in table.column_names:
        return 0
    first = table.column("probabilities")[0].as_py()
    try:
        return len(json.loads(first) if isinstance(first, str) else first or ())
    except (ValueError, TypeError):
        return 0  # refused where they are read


def probabilities_of(table: pa.Table, keys: Keys, classes: Sequence[str], path: Path) -> NDArray[np.float32] | None:
    """(N, classes), from a column of lists or from one column a class; None where there are neither.

    Raises RunError unless each is in [0, 1] and a clip's add up to 1.
    """
    named = [name for name in classes if name in table.column_names and name not in TEXT]
    if "probabilities" in table.column_names:
        values = _lists(table, keys, len(classes), path)
    elif len(named) == len(classes):
        _check_no_other_class(table, classes, path)
        values = np.stack([numbers_of(table, name, path) for name in classes], axis=1)
    elif named:
        absent = [name for name in classes if name not in named]
        raise RunError(
            f"{path}: has columns for {len(named)} of {len(classes)} classes, but none for {shown(absent[0])}"
        )
    else:
        return None
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        raise RunError(
            f"{path}: a class probability of {counted(int(wrong.sum()), 'clip')} is missing or not finite, the first "
            f"is {shown(keys[wrong][0])}"
        )
    outside = (values < -_ROUNDED).any(axis=1) | (values > 1 + _ROUNDED).any(axis=1)
    wrong = outside | (np.abs(values.sum(axis=1) - 1) > _ROUNDED)
    if wrong.any():
        raise RunError(
            f"{path}: {int(wrong.sum())} of {len(wrong)} clips have class probabilities outside [0, 1] or that do not "
            f"add up to 1, the first is {shown(keys[wrong][0])} (they add up to {values[wrong][0].sum():.4g}); apply "
            f"a softmax first, or give a column 'prediction' in their place"
        )
    return values.astype(np.float32)


def _check_no_other_class(table: pa.Table, classes: Sequence[str], path: Path) -> None:
    for field in table.schema:
        known = field.name in (*classes, *TEXT, *_OTHER) or field.name.startswith("subset_")
        if not known and pa.types.is_floating(field.type):
            raise RunError(
                f"{path}: column {shown(field.name)} is no class, and it stands beside class probabilities; take it "
                f"away, or check that the classes are the dataset's"
            )


def _lists(table: pa.Table, keys: Keys, classes: int, path: Path) -> Floats:
    lists = table.column("probabilities").to_pylist()
    for row, numbers in enumerate(lists):
        try:
            lists[row] = list(json.loads(numbers) if isinstance(numbers, str) else numbers or ())
        except (ValueError, TypeError):
            raise RunError(
                f"{path}: probabilities of {shown(keys[row])} are {shown(numbers)}, expected [0.1, 0.9, ...]"
            ) from None
        if len(lists[row]) != classes:
            raise RunError(
                f"{path}: {shown(keys[row])} has {len(lists[row])} probabilities, expected {classes}, one a class"
            )
    try:
        return np.array(lists, np.float64)
    except (TypeError, ValueError):
        raise RunError(f"{path}: column 'probabilities' holds other things than numbers") from None


def check_highest(predictions: Labels, probabilities: NDArray[np.float32], keys: Keys, path: Path) -> None:
    """Raises RunError where a prediction is not a most probable class; of equal ones each may be it."""
    said = np.take_along_axis(probabilities, predictions[:, None], axis=1)[:, 0]
    wrong = probabilities.max(axis=1) - said > 1e-6
    if wrong.any():
        raise RunError(
            f"{path}: in {int(wrong.sum())} of {len(wrong)} clips the prediction is not the most probable class, the "
            f"first is {shown(keys[wrong][0])}; leave out the column 'prediction' or the probabilities"
        )
