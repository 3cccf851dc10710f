"""The subsets as a file: which clip is on which side at every threshold."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from avbench.analysis.discrepancy import MODALITIES, PARTS, subsets
from avbench.analysis.evaluation import subset_name
from avbench.analysis.report import checked_thresholds
from avbench.analysis.runs import Results, parse_epochs, read_runs
from avbench.errors import UsageError
from avbench.records import write_table, write_text

FILE_NAME = "subsets.csv"


def export_subsets(
    runs: Sequence[Path],
    path: Path,
    *,
    split: str,
    thresholds: Sequence[float],
    confidence_epochs: str,
    overwrite: bool,
) -> tuple[Path, dict[float, dict[str, int]]]:
    """Write the subset of every evaluated clip; returns the file, and per threshold how many clips each subset has.

    path: .csv or .parquet, or a folder, which then gets subsets.csv.
    Raises UsageError for another suffix, a file that is there already, and all that `read_runs` raises.
    """
    cuts = checked_thresholds(thresholds)
    file = _file_of(path)
    if file.exists() and not overwrite:
        raise UsageError(f"{file}: is there already; name another file, or replace it with --overwrite")
    results = read_runs(runs, split=split, epochs=parse_epochs(confidence_epochs))
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


def subsets_table(results: Results, thresholds: Sequence[float]) -> pa.Table:
    """A row a clip: key, label (class name), discrepancy, audio, visual, and its subset at each threshold T."""
    columns = {
        "key": pa.array(results.keys, pa.string()),
        "label": pa.array([results.classes[number] for number in results.labels]),
        "discrepancy": results.discrepancies,
        **{modality: results.confidence[modality] for modality in MODALITIES},
    }
    for threshold in thresholds:
        names = [""] * len(results.keys)
        for part, mask in subsets(results.discrepancies, threshold).items():
            for row in mask.nonzero()[0]:
                names[row] = part
        columns[f"subset_{threshold:g}"] = pa.array(names)
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
