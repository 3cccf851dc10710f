"""Every number of a report: the record of an evaluation, and how it is computed from what was read."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from avbench.analysis.measures.accuracy import AccuracyTable, Verdict, accuracy_table, rank_correlation, verdict
from avbench.analysis.measures.audit import Audit
from avbench.analysis.measures.class_scores import Room
from avbench.analysis.measures.classes import ClassSides, class_sides
from avbench.analysis.measures.learning import Learning
from avbench.analysis.measures.metrics import MetricTable, metric_table
from avbench.analysis.measures.origin import Fact, differences
from avbench.analysis.measures.performance import Speed, speeds
from avbench.analysis.measures.published import Published, published_rows
from avbench.analysis.measures.seeds import SeedTable, cross_seed_table, parts_table, seed_table
from avbench.analysis.measures.significance import Comparison, Conclusion, compare, conclude
from avbench.analysis.measures.utilization import Utilization, utilization
from avbench.analysis.notes import notes, untold, warnings
from avbench.analysis.ranking_notes import ranking_notes
from avbench.analysis.reading.audit import read_audit
from avbench.analysis.reading.learning import read_learning
from avbench.analysis.reading.origin import read_origin
from avbench.analysis.reading.parked_scores import by_class
from avbench.analysis.reading.results import Coverage, Epochs, Results, training_names
from avbench.errors import UsageError
from avbench.machine import usable_cores
from avbench.progress import progress

GIGABYTE = 10**9
# What an evaluation takes in all, by default, and what drawing the figures and the page adds to what is held then.
MEMORY_BYTES = 2 * GIGABYTE
_REPORT_BYTES = 150_000_000
_LEAST_BYTES = 64_000_000  # below this, memory is not saved but time lost


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


def evaluated(
    results: Results, cuts: Sequence[float], *, folder: Path, epochs: Epochs, resamples: int, memory_bytes: int
) -> Evaluation:
    """Every number of the report."""
    scores, labels, discrepancies = results.scores, results.labels, results.discrepancies
    table = accuracy_table(scores, discrepancies, cuts)
    verdicts = tuple(verdict(table, threshold) for threshold in cuts)
    comparisons = compare(scores, discrepancies, cuts)
    with progress("bootstrap of class means", patience_seconds=3.0) as tick:
        metrics = metric_table(
            scores,
            labels,
            discrepancies,
            thresholds=cuts,
            resamples=resamples,
            tick=tick,
            room=Room(by_class, memory_bytes=_left_of(memory_bytes), threads=usable_cores()),
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


def _origin(results: Results) -> tuple[Fact, ...]:
    names = training_names([folder.path for folder in results.folders])
    return read_origin(results.folders, [names[folder.path] for folder in results.folders])


def _left_of(memory_bytes: int) -> int:
    """How much of the memory that a process is to take is left for measuring."""
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return max(memory_bytes - resident - _REPORT_BYTES, _LEAST_BYTES)


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
