"""Accuracy and class means with their intervals."""

from __future__ import annotations

from avbench.analysis.measures.accuracy import SUBSETS, subset_name
from avbench.analysis.measures.metrics import METRICS, Measured, MetricTable
from avbench.analysis.presenting.sheet import Cell, Sheet
from avbench.analysis.presenting.table import File, Table, as_records
from avbench.analysis.presenting.tables.cells import mark_best, percent, with_mark


def metrics_sheet(metrics: MetricTable, threshold: float) -> Sheet:
    """Every run on every subset that has clips."""
    rows: list[tuple[Cell, ...]] = []
    classes = []
    for subset in SUBSETS:
        cells = [[metrics.cell(run, metric, subset, threshold) for metric in METRICS] for run in metrics.runs]
        name = subset_name(subset, threshold)
        if cells[0][0].clips:
            marked = mark_best([[_measured_cell(cell) for cell in row] for row in cells])
            clips = Cell(with_mark(name, cells[0][0].clips))
            rows += [(clips, Cell(run), *row) for run, row in zip(metrics.runs, marked, strict=True)]
            absent = f", {cells[0][0].absent} more without clips" if cells[0][0].absent else ""
            classes.append(f"{name} {cells[0][0].classes}{absent}")
    return Sheet(
        name=f"metrics-{threshold:g}",
        kind="metrics",
        title=f"Class means, T = {threshold:g}",
        caption=f"In % [95 % interval], the mean over seeds. Classes that the means are over: {'; '.join(classes)}.",
        words=2,
        headings=("clips", "method", *METRICS),
        rows=tuple(rows),
    )


def _measured_cell(cell: Measured) -> Cell:
    return percent(cell.value, interval=(cell.low, cell.high))


CLASS_MEANS = Table(
    "metrics",
    sheets=lambda evaluation, results: [metrics_sheet(evaluation.metrics, T) for T in evaluation.table.thresholds],
    files=(
        File(
            "metrics.csv",
            "accuracy, mean class accuracy, macro F1, mean average precision, with 95 % intervals",
            lambda evaluation, results: as_records(evaluation.metrics.cells),
        ),
    ),
    heading="Class accuracy, F1 and average precision",
    place=60,
)
