"""The subsets as a file: which clip is on which side at every threshold."""

from __future__ import annotations

import csv
import errno
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avbench.analysis.assessment import checked_thresholds
from avbench.analysis.measures.accuracy import subset_name
from avbench.analysis.measures.discrepancy import PARTS, subsets
from avbench.analysis.reading.checks import check_split
from avbench.analysis.reading.keys import source_of, sources_in
from avbench.analysis.reading.results import Results, parse_epochs
from avbench.analysis.reading.runs import is_predicted, read_confidences, read_runs
from avbench.errors import UsageError
from avbench.records import write_table, write_text
from avbench.vocabulary import MODALITIES, SPLITS

FILE_NAME = "subsets.csv"
_COLUMNS = ("key", "source", "label", "discrepancy", *MODALITIES)  # then one a threshold
_OLD_COLUMNS = tuple(name for name in _COLUMNS if name != "source")  # of earlier versions
_SUBSET = "subset_"


def export_subsets(
    runs: Sequence[Path],
    path: Path,
    *,
    split: str,
    thresholds: Sequence[float],
    confidence_epochs: str,
    overwrite: bool,
) -> tuple[Path, dict[float, dict[str, int]]]:
    """Write the subset of every clip with confidences; returns the file, and per threshold the clips of each subset.

    path: .csv or .parquet, or a folder, which then gets subsets.csv.
    overwrite: replace a file that is there already, if it is such a table of subsets.
    Raises UsageError for another suffix, any other file that is there already, a place where no file can be made, and
    all that `read_runs` raises.
    """
    if not runs:
        raise UsageError("no run folder given: `avbench subsets RUN --export FILE`")
    check_split(split)
    cuts = checked_thresholds(thresholds)
    file = _file_of(path)
    _check_place(file, overwrite=overwrite)
    # A finished training predicts no clip of train; its confidences cut that split as well.
    finished = any(is_predicted(runs, name) for name in SPLITS)
    read = read_confidences if finished and not is_predicted(runs, split) else read_runs
    results = read(runs, split=split, epochs=parse_epochs(confidence_epochs))
    table = subsets_table(results, cuts)
    if file.suffix.lower() == ".parquet":
        write_table(file, table)
    else:
        write_text(file, _csv(table))
    discrepancies = results.discrepancies
    counts = {
        threshold: {name: int(mask.sum()) for name, mask in subsets(discrepancies, threshold).items()}
        for threshold in cuts
    }
    return file, counts


def _file_of(path: Path) -> Path:
    if path.suffix.lower() in (".csv", ".parquet"):
        return path
    if path.suffix and not path.is_dir():
        raise UsageError(f"--export {path}: unknown kind of file {path.suffix!r}; give .csv, .parquet or a folder")
    return path / FILE_NAME


def _check_place(file: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, a file that cannot be made or that must not be replaced."""
    try:
        if file.is_dir():
            raise UsageError(f"--export {file}: is a folder; name a file in it, such as {file / FILE_NAME}")
        if file.exists() and not overwrite:
            raise UsageError(f"{file}: is there already; name another file, or replace it with --overwrite")
        if file.exists() and not _is_export(file):
            raise UsageError(
                f"{file}: is no table of subsets, and --overwrite replaces no other file; name another with --export"
            )
        place = file.resolve().parent
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{place} is a file")
        tempfile.NamedTemporaryFile(prefix=f".{file.name}.", suffix=".partial", dir=place).close()
    except OSError as error:
        raise UsageError(f"--export {file}: cannot be written ({error.strerror}); name another file") from None


def _is_export(file: Path) -> bool:
    """Whether a file has the columns of a table of subsets and no other."""
    try:
        if file.suffix.lower() == ".parquet":
            names = pq.read_schema(file).names
        else:
            with file.open(encoding="utf-8", newline="") as text:
                names = next(csv.reader(text), [])
    except (ValueError, csv.Error, pa.ArrowException):
        return False
    return any(
        tuple(names[: len(own)]) == own and len(names) > len(own) and all(map(_is_threshold, names[len(own) :]))
        for own in (_COLUMNS, _OLD_COLUMNS)
    )


def _is_threshold(name: str) -> bool:
    return name.startswith(_SUBSET)


def subsets_table(results: Results, thresholds: Sequence[float]) -> pa.Table:
    """A row a clip: key, source, label (class name), discrepancy, audio, visual, and its subset at each threshold T.

    source: the video's path in the media folder, without suffix unless two videos differ by it alone; empty where an
    earlier version, whose run folders do not have it, cut a long key.
    """
    keys = results.keys
    sources = sources_in([folder.files.confidence for folder in results.folders])()
    columns: dict[str, Any] = {
        "key": results.key_column,
        "source": pa.array([sources.get(key) or source_of(key) for key in keys], pa.string()),
        "label": pa.array([results.classes[number] for number in results.labels]),
        "discrepancy": results.discrepancies,
        **{modality: results.confidence[modality] for modality in MODALITIES},
    }
    for threshold in thresholds:
        names = [""] * len(keys)
        for part, mask in subsets(results.discrepancies, threshold).items():
            for row in mask.nonzero()[0]:
                names[row] = part
        columns[f"{_SUBSET}{threshold:g}"] = pa.array(names)
    return pa.table(columns)


def counts_text(counts: dict[float, dict[str, int]]) -> str:
    """How many clips each subset has, a line a threshold."""
    return "\n".join(
        f"T = {threshold:g}: " + ", ".join(f"{by_part[part]:,} {subset_name(part, threshold)}" for part in PARTS)
        for threshold, by_part in counts.items()
    )


def _csv(table: pa.Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return buffer.getvalue()
