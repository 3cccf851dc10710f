"""Accuracy by subset, cut by the networks' confidence or by planted quality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.accuracy import SUBSETS, AccuracyTable
from avbench.analysis.measures.seeds import SeedTable
from avbench.analysis.presenting.sheet import Cell, Sheet
from avbench.analysis.presenting.table import File, Record, Table
from avbench.analysis.presenting.tables.cells import (
    accuracy_cell,
    any_networks,
    by_subset,
    mark_best,
    only_if,
    seed_cell,
)


def accuracy_sheet(evaluation: Evaluation, threshold: float) -> Sheet:
    """Every run and seed, on subsets cut by the networks' confidence."""
    counts = {subset: evaluation.table.clips(subset, threshold) for subset in SUBSETS}
    several = len(evaluation.table.seeds) > 1
    seeds = "; below each method's seeds their mean ± standard deviation" if several else ""
    return by_subset(
        kind="accuracy",
        title=f"Accuracy, T = {threshold:g}",
        caption=f"Accuracy in % [95 % interval] on subsets cut by the unimodal networks' confidence{seeds}.",
        words=("method", *only_if(any_networks(evaluation.networks), "network"), *only_if(several, "seed")),
        threshold=threshold,
        counts=counts,
        rows=_accuracy_rows(evaluation, evaluation.table, threshold, means=evaluation.seeds if several else None),
    )


def planted_sheet(evaluation: Evaluation, table: AccuracyTable, threshold: float) -> Sheet:
    """The same on subsets cut by planted quality."""
    several = len(table.seeds) > 1
    return by_subset(
        kind="planted",
        title=f"Accuracy by planted quality, T = {threshold:g}",
        caption="Accuracy in % [95 % interval] on subsets cut by the clips' planted quality, flattering no network.",
        words=("method", *only_if(any_networks(evaluation.networks), "network"), *only_if(several, "seed")),
        threshold=threshold,
        counts={subset: table.clips(subset, threshold) for subset in SUBSETS},
        rows=_accuracy_rows(evaluation, table, threshold, means=None),
    )


def _accuracy_rows(
    evaluation: Evaluation, table: AccuracyTable, threshold: float, *, means: SeedTable | None
) -> list[tuple[Cell, ...]]:
    """Every run and seed; the highest of each column marked, among the means over seeds where they are given."""
    has_networks, several = any_networks(evaluation.networks), len(table.seeds) > 1
    each = [[accuracy_cell(table.cell(*row, subset, threshold)) for subset in SUBSETS] for row in table.rows]
    runs = dict.fromkeys(run for run, _ in table.rows)
    over = [[seed_cell(means.cell(run, subset, threshold)) for subset in SUBSETS] for run in runs] if means else []
    if over:
        over = mark_best(over)
    else:
        each = mark_best(each)
    rows = []
    for place, run in enumerate(runs):
        first = [Cell(run), *only_if(has_networks, Cell(evaluation.networks.get(run, "")))]
        rows += [
            (*first, *only_if(several, Cell(str(seed), value=float(seed))), *cells)
            for (name, seed), cells in zip(table.rows, each, strict=True)
            if name == run
        ]
        if over:
            rows.append((*first, Cell("mean"), *over[place]))
    return rows


def accuracy_records(table: AccuracyTable | None, networks: Mapping[str, str]) -> list[Record]:
    """Rows of accuracy.csv, and of accuracy_planted.csv."""
    return [
        {
            "method": cell.run,
            "seed": cell.seed,
            "subset": cell.subset,
            "threshold": cell.threshold,
            "clips": cell.clips,
            "accuracy": cell.accuracy,
            "low": cell.low,
            "high": cell.high,
            "network": networks.get(cell.run, ""),
        }
        for cell in (table.cells if table else ())
    ]


ACCURACY = Table(
    "accuracy",
    sheets=lambda evaluation, results: [accuracy_sheet(evaluation, T) for T in evaluation.table.thresholds],
    files=(
        File(
            "accuracy.csv",
            "method, seed, subset, threshold, clips, accuracy, its 95 % interval, network",
            lambda evaluation, results: accuracy_records(evaluation.table, evaluation.networks),
        ),
    ),
    heading="Accuracy by subset",
    place=10,
    all_shown=True,
)


def planted_sheets(evaluation: Evaluation) -> Iterator[Sheet]:
    """A sheet a threshold, where the dataset's clips have planted qualities."""
    if evaluation.planted is not None:
        for threshold in evaluation.table.thresholds:
            yield planted_sheet(evaluation, evaluation.planted, threshold)


PLANTED = Table(
    "planted",
    sheets=lambda evaluation, results: planted_sheets(evaluation),
    files=(
        File(
            "accuracy_planted.csv",
            "planted clips only: subsets cut by their true quality",
            lambda evaluation, results: accuracy_records(evaluation.planted, evaluation.networks),
        ),
    ),
    heading="Subsets cut by planted quality",
    place=40,
)
