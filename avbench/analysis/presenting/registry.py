"""Every kind of table and of figure that a report has; a new one is registered by a line here and nowhere else.

From these come the page's sections and figures, tables.md and tables.tex, the CSV files with the manifest that lists
them, and the documentation's table of files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from avbench.analysis.assessment import Evaluation
from avbench.analysis.notes import FEW, FEW_NOTE
from avbench.analysis.presenting.figures.bars import BARS
from avbench.analysis.presenting.figures.class_counts import CLASS_COUNTS
from avbench.analysis.presenting.figures.class_scatters import CLASS_SCATTERS
from avbench.analysis.presenting.figures.diagnostics import DIAGNOSTICS
from avbench.analysis.presenting.figures.distribution import DISTRIBUTION
from avbench.analysis.presenting.figures.heatmap import HEATMAP
from avbench.analysis.presenting.figures.learning import LEARNING as LEARNING_CURVES
from avbench.analysis.presenting.figures.performance import PERFORMANCE as PERFORMANCE_CURVES
from avbench.analysis.presenting.figures.plan import Drawing
from avbench.analysis.presenting.figures.thresholds import THRESHOLDS
from avbench.analysis.presenting.figures.uncertainty import UNCERTAINTY
from avbench.analysis.presenting.report_folder import LATEX_FILE, MARKDOWN_FILE, PAGE_FILE
from avbench.analysis.presenting.sheet import Sheet
from avbench.analysis.presenting.table import Table
from avbench.analysis.presenting.tables.accuracy import ACCURACY, PLANTED
from avbench.analysis.presenting.tables.audit import AUDIT
from avbench.analysis.presenting.tables.classes import CLASSES
from avbench.analysis.presenting.tables.learning import LEARNING
from avbench.analysis.presenting.tables.metrics import CLASS_MEANS
from avbench.analysis.presenting.tables.origin import ORIGIN
from avbench.analysis.presenting.tables.performance import PERFORMANCE
from avbench.analysis.presenting.tables.published import PUBLISHED
from avbench.analysis.presenting.tables.seeds import CROSS_SEED, PARTS, SEEDS
from avbench.analysis.presenting.tables.significance import SIGNIFICANCE
from avbench.analysis.presenting.tables.utilization import BRANCHES, UTILIZATION
from avbench.analysis.reading.results import Results

# In the order of tables.md, tables.tex and the documentation; the page has places of its own.
TABLES: tuple[Table, ...] = (
    LEARNING,
    ACCURACY,
    PUBLISHED,
    SIGNIFICANCE,
    CLASS_MEANS,
    SEEDS,
    CROSS_SEED,
    PARTS,
    UTILIZATION,
    BRANCHES,
    PLANTED,
    CLASSES,
    PERFORMANCE,
    AUDIT,
    ORIGIN,
)

# In the order that they are drawn and, within a place of the page, shown in.
FIGURES: tuple[Drawing, ...] = (
    LEARNING_CURVES,
    HEATMAP,
    DISTRIBUTION,
    BARS,
    THRESHOLDS,
    CLASS_COUNTS,
    CLASS_SCATTERS,
    DIAGNOSTICS,
    UNCERTAINTY,
    PERFORMANCE_CURVES,
)


def sheets(evaluation: Evaluation, results: Results) -> tuple[Sheet, ...]:
    """Every table as a reader sees it, in order; those that would have no rows are left out."""
    found = [sheet for table in TABLES for sheet in table.sheets(evaluation, results)]
    return tuple(_explained(sheet) for sheet in found if sheet.rows)


def files_text() -> str:
    """The documentation's table of files, as Markdown."""
    rows = (f"| {', '.join(f'`{name}`' for name in names)} | {says} |" for names, says in _files())
    return "\n".join(("| file | what |", "|---|---|", *rows)) + "\n"


def _files() -> Iterator[tuple[tuple[str, ...], str]]:
    """Which files a report has, but for figures, and what is in them."""
    yield (PAGE_FILE,), "one page with everything; it needs no network"
    texts = "every table, as Markdown and as LaTeX floats (`booktabs`), none wider than 17 cm"
    yield (MARKDOWN_FILE, LATEX_FILE), texts
    for file in (file for table in TABLES for file in table.files):
        yield (file.name,), file.says


def _explained(sheet: Sheet) -> Sheet:
    """The sheet, its caption saying what the mark of small subsets means where it has one."""
    texts = (*sheet.headings, *(cell.text for row in sheet.rows for cell in row))
    marked = any(text.endswith(f" {FEW}") for text in texts)
    return replace(sheet, caption=f"{sheet.caption} {FEW_NOTE}") if marked else sheet
