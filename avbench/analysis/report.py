"""The report of an evaluation: tables, figures, one HTML page. Reads files, imports no torch.

`evaluate` reads, computes, renders everything in memory, and only then puts the report folder in place: an evaluation
that fails leaves the old report as it was. The same run folders give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from avbench.analysis.assessment import GIGABYTE, MEMORY_BYTES, Evaluation, checked_thresholds, evaluated
from avbench.analysis.presenting.files import table_files
from avbench.analysis.presenting.page import render_page
from avbench.analysis.presenting.registry import sheets
from avbench.analysis.presenting.report_folder import check_report_folder, replace_report
from avbench.analysis.reading.external import read_results
from avbench.analysis.reading.results import Results, parse_epochs
from avbench.errors import UsageError

# The share of resamples beyond an interval's end, 2.5 %, is then known to 0.05 % of all: more say no more.
MOST_RESAMPLES = 100_000

# Below this not even the libraries and the figures fit.
LEAST_MEMORY_GB = 0.5


def evaluate(
    runs: Sequence[Path],
    *,
    split: str = "test",
    thresholds: Sequence[float] = (0.0, 0.2, 0.4),
    confidence_epochs: str = "all",
    resamples: int = 1000,
    predictions: Sequence[Path] = (),
    confidence: Path | None = None,
    out: Path | None = None,
    memory_gb: float = MEMORY_BYTES / GIGABYTE,
) -> Evaluation:
    """Evaluate run folders and files of somebody's own together, and write the report; arguments as in `assess`.

    An old report is replaced, since it is derived; a folder that holds anything else is not. An error leaves everything
    as it was.
    """
    evaluation, results = assess(
        runs,
        split=split,
        thresholds=thresholds,
        confidence_epochs=confidence_epochs,
        resamples=resamples,
        predictions=predictions,
        confidence=confidence,
        out=out,
        memory_gb=memory_gb,
    )
    found = sheets(evaluation, results)
    files = {**table_files(evaluation, results, found), **render_page(evaluation, results, found)}
    replace_report(evaluation.folder, files)
    return evaluation


def assess(
    runs: Sequence[Path],
    *,
    split: str = "test",
    thresholds: Sequence[float] = (0.0, 0.2, 0.4),
    confidence_epochs: str = "all",
    resamples: int = 1000,
    predictions: Sequence[Path] = (),
    confidence: Path | None = None,
    out: Path | None = None,
    memory_gb: float = MEMORY_BYTES / GIGABYTE,
) -> tuple[Evaluation, Results]:
    """Every number of a report, and what it is made of; writes nothing.

    runs: folders of trainings on one dataset; their runs and seeds are put together.
    thresholds: where to cut subsets, each in [0, 1); sorted, one given twice counts once.
    confidence_epochs: which epochs the confidences are averaged over: "all", "FIRST:LAST" (inclusive, from 0), or
        "best", the one epoch that each unimodal network was chosen at by validation accuracy.
    resamples: of the bootstrap that gives class means their intervals, 20 to MOST_RESAMPLES.
    predictions, confidence: files as `external` describes them; the subsets are cut by `confidence` where it is given.
    out: the report folder; by default `report` in the first run folder, without one FILE-report beside the first file
        of predictions.
    memory_gb: how much memory to aim at, in 10^9 bytes; what does not fit lies in TMPDIR for a while. It changes no
        number.
    Raises UsageError and RunError, one line each.
    """
    cuts = checked_thresholds(thresholds)
    epochs = parse_epochs(confidence_epochs)
    if epochs != "all" and (confidence is not None or not runs):
        raise UsageError(f"--confidence-epochs {confidence_epochs}: a file has no epochs to choose from; leave it out")
    if not 20 <= resamples <= MOST_RESAMPLES:
        raise UsageError(
            f"--resamples {resamples}: expected 20 to {MOST_RESAMPLES}; 1000 are enough for an interval to be printed"
        )
    if not LEAST_MEMORY_GB <= memory_gb < math.inf:
        raise UsageError(f"--memory-gb {memory_gb:g}: expected a number of gigabytes from {LEAST_MEMORY_GB} on")
    results = read_results(
        [Path(run) for run in runs],
        predictions=[Path(file) for file in predictions],
        confidence=None if confidence is None else Path(confidence),
        split=split,
        epochs=epochs,
    )
    folder = Path(out) if out is not None else _default_folder(results, predictions)
    check_report_folder(folder)
    memory_bytes = int(memory_gb * GIGABYTE)
    return evaluated(
        results, cuts, folder=folder, epochs=epochs, resamples=resamples, memory_bytes=memory_bytes
    ), results


def _default_folder(results: Results, predictions: Sequence[Path]) -> Path:
    if results.folders:
        return results.folders[0].path / "report"
    file = Path(predictions[0])
    return file.with_name(f"{file.name}-report")
