"""Every table of an evaluation as a reader sees it, in order."""

from __future__ import annotations

from dataclasses import replace

from avbench.analysis.assessment import Evaluation
from avbench.analysis.notes import FEW, FEW_NOTE
from avbench.analysis.presenting.sheet import Sheet
from avbench.analysis.presenting.tables.accuracy import accuracy_sheet, planted_sheet
from avbench.analysis.presenting.tables.audit import audit_sheet
from avbench.analysis.presenting.tables.classes import classes_sheet
from avbench.analysis.presenting.tables.learning import learning_sheet
from avbench.analysis.presenting.tables.metrics import metrics_sheet
from avbench.analysis.presenting.tables.origin import origin_sheet
from avbench.analysis.presenting.tables.performance import performance_sheet
from avbench.analysis.presenting.tables.published import published_sheet
from avbench.analysis.presenting.tables.seeds import cross_seed_sheet, parts_sheet
from avbench.analysis.presenting.tables.significance import significance_sheet
from avbench.analysis.presenting.tables.utilization import branches_sheet, utilization_sheet
from avbench.analysis.reading.results import Results


def sheets(evaluation: Evaluation, results: Results) -> tuple[Sheet, ...]:
    """Every table of an evaluation, in order; those that would have no rows are left out."""
    thresholds = evaluation.table.thresholds
    found = [
        learning_sheet(evaluation),
        *(accuracy_sheet(evaluation, threshold) for threshold in thresholds),
        published_sheet(evaluation.published, evaluation.seeds, evaluation.table.methods),
        *(significance_sheet(evaluation.comparisons, threshold) for threshold in thresholds),
        *(metrics_sheet(evaluation.metrics, threshold) for threshold in thresholds),
    ]
    if evaluation.cross_seed is not None:
        found += [cross_seed_sheet(evaluation.cross_seed, threshold) for threshold in thresholds]
    found += [parts_sheet(evaluation.parts, threshold) for threshold in thresholds]
    found += [utilization_sheet(evaluation.utilization), branches_sheet(evaluation.utilization)]
    if evaluation.planted is not None:
        found += [planted_sheet(evaluation, evaluation.planted, threshold) for threshold in thresholds]
    found += [classes_sheet(evaluation.classes), performance_sheet(evaluation.speeds)]
    found += [audit_sheet(evaluation.audit), origin_sheet(evaluation.origin)]
    return tuple(_explained(sheet) for sheet in found if sheet.rows)


def _explained(sheet: Sheet) -> Sheet:
    """The sheet, its caption saying what the mark of small subsets means where it has one."""
    texts = (*sheet.headings, *(cell.text for row in sheet.rows for cell in row))
    marked = any(text.endswith(f" {FEW}") for text in texts)
    return replace(sheet, caption=f"{sheet.caption} {FEW_NOTE}") if marked else sheet
