"""Tables of somebody's own, from Parquet or CSV, and their columns as checked arrays. Every mistake is one line."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from avbench.analysis.class_labels import are_numbers, composed, stand_in_order
from avbench.analysis.discrepancy import MODALITIES, Floats
from avbench.analysis.evaluation import Labels
from avbench.analysis.probabilities import Values, batch_rows
from avbench.errors import RunError, UsageError
from avbench.records import LOG_PROBABILITIES, opened_table, read_schema, read_table

Keys = NDArray[np.object_]

# Read as text: a number would lose leading zeros of a key, and a class's name may be a number.
_LISTS = ("probabilities", LOG_PROBABILITIES)
TEXT = ("key", "label", "prediction", "run", "split", "method", "replaced", *_LISTS)
_NAMES = ("key", "run", "split", "method", "replaced")  # text in Parquet too, whatever they were written as
# What is in every table of predictions that avbench wrote, and in no other: their class numbers are places.
_WRITTEN = frozenset({"clip_id", "key", "split", "label", "run", "method", "seed", "epoch", "replaced", "prediction"})
# More than any dataset has.
_MOST_CLASSES = 100_000
# Columns of avbench's own tables, which are no class probabilities.
_OTHER = ("seed", "clip_id", "epoch", "uncertainty", "audio_prediction", "visual_prediction", "audio", "visual",
          "discrepancy")  # fmt: skip

# The columns of a file of predictions that are read whole. One of a class's name would be here in vain: those are text.
_NARROW = tuple(name for name in (*TEXT, "seed") if name not in _LISTS)

# How far from 1 class probabilities may add up: float32, or rounded to four digits.
_ROUNDED = 1e-3

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


def read_file(path: Path, option: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet or CSV file with a column `key`, without the rows of replaced modalities. option: which asked for it.

    columns: only these, of those that there are (all). Names are text. Raises UsageError for a file that is none,
    RunError for one that holds no such table.
    """
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; give a Parquet or CSV file")
    if not path.is_file():
        raise UsageError(f"{option} {path}: no such file")
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        table = _read_parquet(path, columns)
    elif suffix in (".csv", ".tsv"):
        table = _read_csv(path, "\t" if suffix == ".tsv" else ",")
    else:
        raise UsageError(f"{option} {path}: unknown kind of file {suffix!r}; give .parquet, .csv or .tsv")
    check_columns(table.column_names, ("key",), path)
    if table.num_rows == 0:
        raise RunError(f"{path}: holds no row")
    for name in (name for name in _NAMES if name in table.column_names):
        table = table.set_column(table.column_names.index(name), name, _texts(table, name, path))
    if "replaced" in table.column_names:  # predictions of avbench itself
        table = _unreplaced(table, path)
    return table.combine_chunks()


@dataclass(frozen=True, slots=True)
class OwnFile:
    """Somebody's own predictions: a row a clip, run and seed.

    narrow: the columns that are no class probabilities. names: of all columns. rows: (N,) which row of the file each
    is, ascending. wide: the other columns of a CSV, all of whose rows are in memory; None of a Parquet file, which is
    read some rows at a time.
    """

    path: Path
    narrow: pa.Table
    names: tuple[str, ...]
    rows: NDArray[np.int64]
    wide: pa.Table | None

    def only(self, chosen: NDArray[np.bool_]) -> OwnFile:
        """These of its rows, bool (N,)."""
        return replace(self, narrow=self.narrow.filter(pa.array(chosen)), rows=self.rows[chosen])

    def parts(self, *, width: int) -> Iterator[tuple[slice, pa.Table]]:
        """The wide columns of some of its rows at a time, and which these are. width: class probabilities a row."""
        names = [name for name in self.names if name not in self.narrow.column_names]
        step = batch_rows(width, 8)
        if self.wide is not None:
            for first in range(0, len(self.rows), step):
                place = slice(first, min(first + step, len(self.rows)))
                yield place, self.wide.take(pa.array(self.rows[place])).combine_chunks()
        elif names:
            first = done = 0
            with opened_table(self.path) as file:
                for batch in file.iter_batches(step, columns=names, use_threads=False):
                    inside = self.rows[done : done + int(np.searchsorted(self.rows[done:], first + len(batch)))]
                    if len(inside):
                        part = batch if len(inside) == len(batch) else batch.take(pa.array(inside - first))
                        yield slice(done, done + len(inside)), pa.Table.from_batches([part])
                    first, done = first + len(batch), done + len(inside)


def read_predictions_file(path: Path) -> OwnFile:
    """A file of --predictions; raises what `read_file` raises."""
    if path.suffix.lower() not in (".parquet", ".pq") or not path.is_file():
        table = read_file(path, "--predictions")
        narrow = [name for name in table.column_names if name in _NARROW]
        rows = np.arange(table.num_rows)
        return OwnFile(path, table.select(narrow), tuple(table.column_names), rows, table.drop_columns(narrow))
    names = tuple(read_schema(path).names)
    check_columns(names, ("key",), path)
    narrow = read_file(path, "--predictions", columns=_NARROW)
    rows = np.arange(narrow.num_rows)
    if "replaced" in names:
        replaced = read_table(path, columns=["replaced"]).column("replaced").cast(pa.string())
        rows = np.flatnonzero(pc.fill_null(pc.equal(replaced, "none"), False).to_numpy())
    return OwnFile(path, narrow, names, rows, None)


def _read_parquet(path: Path, columns: Sequence[str] | None) -> pa.Table:
    """The table; where it says in text which modality is replaced, without the rows where one is."""
    schema = read_schema(path)
    _check_distinct(schema.names, path)
    wanted = schema.names if columns is None else [name for name in schema.names if name in columns]
    if "replaced" not in schema.names or schema.field("replaced").type not in (pa.string(), pa.large_string()):
        return read_table(path, columns=wanted)
    _unreplaced(read_table(path, columns=["replaced"]), path)
    return read_table(path, columns=wanted, filters=[("replaced", "==", "none")])


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


def check_columns(names: Sequence[str], wanted: Iterable[str], path: Path) -> None:
    """Raises RunError where a table of these columns lacks one that is wanted or has two of a name."""
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
    strange = [value or "" for value in table.column("replaced").unique().to_pylist() if value not in known]
    if strange:
        raise RunError(f"{path}: column 'replaced' holds {shown(strange[0])}, expected {', '.join(known)}")
    table = table.filter(pc.equal(table.column("replaced"), "none"))
    if table.num_rows == 0:
        raise RunError(f"{path}: holds only rows with a modality replaced; give those with 'none' replaced")
    return table


def is_written_by_avbench(names: Iterable[str]) -> bool:
    """Whether a table of predictions is a run folder's, or such a one as CSV: then class numbers are places."""
    return {*names} >= _WRITTEN


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


# Class probabilities


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
