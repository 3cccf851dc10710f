"""Tables of somebody's own, from Parquet or CSV. Every mistake is one line."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from avbench.analysis.measures.class_scores import batch_rows
from avbench.analysis.reading.columns import listed_names, shown
from avbench.errors import RunError, UsageError
from avbench.records import LOG_PROBABILITIES, opened_table, read_schema, read_table
from avbench.vocabulary import REPLACED

# Read as text: a number would lose leading zeros of a key, and a class's name may be a number.
_LISTS = ("probabilities", LOG_PROBABILITIES)
TEXT = ("key", "label", "prediction", "run", "split", "method", "replaced", *_LISTS)
_NAMES = ("key", "run", "split", "method", "replaced")  # text in Parquet too, whatever they were written as

# The columns of a file of predictions that are read whole. One of a class's name would be here in vain: those are text.
_NARROW = tuple(name for name in (*TEXT, "seed") if name not in _LISTS)
_SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas"}

# What is in every table of predictions that avbench wrote, and in no other: their class numbers are places.
_WRITTEN = frozenset({"clip_id", "key", "split", "label", "run", "method", "seed", "epoch", "replaced", "prediction"})


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
    strange = [value or "" for value in table.column("replaced").unique().to_pylist() if value not in REPLACED]
    if strange:
        raise RunError(f"{path}: column 'replaced' holds {shown(strange[0])}, expected {', '.join(REPLACED)}")
    table = table.filter(pc.equal(table.column("replaced"), "none"))
    if table.num_rows == 0:
        raise RunError(f"{path}: holds only rows with a modality replaced; give those with 'none' replaced")
    return table


def is_written_by_avbench(names: Iterable[str]) -> bool:
    """Whether a table of predictions is a run folder's, or such a one as CSV: then class numbers are places."""
    return {*names} >= _WRITTEN
