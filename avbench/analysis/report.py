"""The report of an evaluation: tables, figures, one HTML page. Reads files, imports no torch.

`evaluate` reads, computes, renders everything in memory, and only then puts the report folder in place: an evaluation
that fails leaves the old report as it was. The same run folders give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from avbench.analysis.audit import Audit, read_audit
from avbench.analysis.classes import ClassSides, class_sides
from avbench.analysis.evaluation import AccuracyTable, Verdict, accuracy_table, rank_correlation, verdict
from avbench.analysis.external import read_results
from avbench.analysis.folder import check_report_folder, replace_report
from avbench.analysis.learning import Learning, read_learning, training_names, untold
from avbench.analysis.metrics import GIGABYTE, MEMORY_BYTES, MetricTable, metric_table
from avbench.analysis.notes import notes, warnings
from avbench.analysis.origin import Fact, differences, read_origin
from avbench.analysis.page import render_page
from avbench.analysis.performance import Speed, speeds
from avbench.analysis.progress import progress
from avbench.analysis.published import Published, published_rows
from avbench.analysis.ranking_notes import ranking_notes
from avbench.analysis.runs import Coverage, Epochs, Results, parse_epochs
from avbench.analysis.seeds import SeedTable, cross_seed_table, parts_table, seed_table
from avbench.analysis.significance import Comparison, Conclusion, compare, conclude
from avbench.analysis.tables import sheets, table_files
from avbench.analysis.utilization import Utilization, utilization
from avbench.errors import UsageError

# The share of resamples beyond an interval's end, 2.5 %, is then known to 0.05 % of all: more say no more.
MOST_RESAMPLES = 100_000
# Below this not even the libraries and the figures fit.
LEAST_MEMORY_GB = 0.5


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and where its report is.

    table: accuracies of every run and seed on subsets cut by the networks' confidences, the mean over seeds. planted:
    the same, cut by planted qualities, where the dataset has them. spearman: rank correlation of estimated and planted
    discrepancy; None without planted qualities or where one of the two is the same for all clips.
    metrics: accuracy and class means of every run (over its seeds), with intervals. seeds: accuracies over seeds.
    cross_seed: the same on subsets cut by the other seeds; None with a single seed. parts: the unimodal parts of joint
    networks, may be without rows. utilization: what joint networks make of each modality; may be empty.
    comparisons: every method against every unimodal network. verdicts: the paper's question, one answer a threshold;
    conclusion: over all thresholds. published: the paper's rows where the dataset is one of its own, else ().
    speeds: how fast each run folder's training ran; empty where none logged two intervals or more.
    learning: how each run and seed learnt, those that diverged too. untold: of which runs nothing is known of that, in
    words. audit: whether each network counted each clip of its part once an epoch. origin: data, code and machines of
    every launch. classes: every class and the sides of its clips.
    networks: per run what its network is, "" where nobody said. warnings: what may spoil every number of the report, a
    sentence each. notes: what a reader must know, a sentence or two each.
    folder: holds the report.
    """

    folder: Path
    dataset: str
    split: str
    confidence_epochs: str
    coverage: Coverage
    table: AccuracyTable
    planted: AccuracyTable | None
    spearman: float | None
    metrics: MetricTable
    seeds: SeedTable
    cross_seed: SeedTable | None
    parts: SeedTable
    utilization: tuple[Utilization, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    conclusion: Conclusion
    published: tuple[Published, ...]
    speeds: tuple[Speed, ...]
    learning: tuple[Learning, ...]
    untold: str
    audit: Audit
    origin: tuple[Fact, ...]
    classes: tuple[ClassSides, ...]
    networks: Mapping[str, str]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The paper's question, does any method beat both unimodal networks on every subset, in one sentence."""
        return self.conclusion.sentence


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
    return _evaluated(
        results, cuts, folder=folder, epochs=epochs, resamples=resamples, memory_bytes=memory_bytes
    ), results


def _default_folder(results: Results, predictions: Sequence[Path]) -> Path:
    if results.folders:
        return results.folders[0].path / "report"
    file = Path(predictions[0])
    return file.with_name(f"{file.name}-report")


def _evaluated(
    results: Results, cuts: Sequence[float], *, folder: Path, epochs: Epochs, resamples: int, memory_bytes: int
) -> Evaluation:
    """Every number of the report."""
    scores, labels, discrepancies = results.scores, results.labels, results.discrepancies
    table = accuracy_table(scores, discrepancies, cuts)
    verdicts = tuple(verdict(table, threshold) for threshold in cuts)
    comparisons = compare(scores, discrepancies, cuts)
    with progress("bootstrap of class means") as tick:
        metrics = metric_table(
            scores,
            labels,
            discrepancies,
            thresholds=cuts,
            resamples=resamples,
            tick=tick,
            memory_bytes=memory_bytes,
        )
    learning, audit = read_learning(results.folders), read_audit(results.folders)
    origin = _origin(results)
    recipe = results.folders[0].dataset.get("recipe", {}) if results.folders else {}
    return Evaluation(
        folder=folder,
        dataset=results.dataset,
        split=results.split,
        confidence_epochs=epochs if isinstance(epochs, str) else f"{epochs[0]}:{epochs[1]}",
        coverage=results.coverage,
        table=table,
        planted=_planted_table(results, cuts),
        spearman=_spearman(results),
        metrics=metrics,
        seeds=seed_table(scores, discrepancies, cuts),
        cross_seed=cross_seed_table(scores, results.confidence_by_seed, cuts),
        parts=parts_table(scores, labels, discrepancies, cuts),
        utilization=utilization(scores, labels, discrepancies, cuts, classes=len(results.classes)),
        comparisons=comparisons,
        verdicts=verdicts,
        conclusion=conclude(results.dataset, table, verdicts, comparisons),
        published=published_rows(results.dataset, str(recipe.get("name", ""))),
        speeds=speeds(results.performance),
        learning=learning,
        untold=untold(table.methods, learning),
        audit=audit,
        origin=origin,
        classes=class_sides(labels, results.confidence["audio"], results.confidence["visual"], classes=results.classes),
        networks=results.networks,
        warnings=(*([audit.warning] if audit.warning else []), *warnings(results)),
        notes=(
            *notes(results, epochs=epochs, resamples=resamples),
            *ranking_notes(results, metrics),
            *differences(origin),
        ),
    )


def checked_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Thresholds, ascending, each once. Raises UsageError where there is none or one is not in [0, 1)."""
    if not thresholds:
        raise UsageError("--thresholds: none given; expected numbers in [0, 1), such as 0 0.2 0.4")
    for threshold in thresholds:
        if not (math.isfinite(threshold) and 0 <= threshold < 1):
            raise UsageError(f"--thresholds {threshold}: expected a number in [0, 1), as discrepancies are in [-1, 1]")
    cuts = tuple(sorted({abs(float(threshold)) for threshold in thresholds}))  # abs: -0.0 is 0.0
    for one, other in pairwise(cuts):
        if f"{one:g}" == f"{other:g}":  # tables, figures and columns are named so
            raise UsageError(f"--thresholds: {one!r} and {other!r} would both be called {one:g}; leave one out")
    return cuts


# What is computed


def _origin(results: Results) -> tuple[Fact, ...]:
    names = training_names([folder.path for folder in results.folders])
    return read_origin(results.folders, [names[folder.path] for folder in results.folders])


def _planted_table(results: Results, thresholds: Sequence[float]) -> AccuracyTable | None:
    """Accuracies on subsets cut by planted quality, over the clips that have one."""
    if results.planted is None:
        return None
    known = ~np.isnan(results.planted)
    scores = [score.rows(known) for score in results.scores]
    return accuracy_table(scores, results.planted[known], thresholds)


def _spearman(results: Results) -> float | None:
    if results.planted is None:
        return None
    known = ~np.isnan(results.planted)
    return rank_correlation(results.discrepancies[known], results.planted[known])
