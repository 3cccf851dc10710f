"""What a report shows of what `assess` returns."""

from __future__ import annotations

from avbench.analysis.assessment import Evaluation
from avbench.analysis.presenting.files import table_files
from avbench.analysis.presenting.markdown import markdown
from avbench.analysis.presenting.page import render_page
from avbench.analysis.presenting.registry import sheets
from avbench.analysis.presenting.sheet import Sheet
from avbench.analysis.reading.results import Results

Assessed = tuple[Evaluation, Results]


def sheets_of(assessed: Assessed) -> tuple[Sheet, ...]:
    """Every table as a reader sees it."""
    return sheets(*assessed)


def table_files_of(assessed: Assessed) -> dict[str, bytes]:
    """Every table as a file."""
    return table_files(*assessed, sheets_of(assessed))


def page_files_of(assessed: Assessed) -> dict[str, bytes]:
    """The page, its figures and what else lies beside it."""
    return render_page(*assessed, sheets_of(assessed))


def markdown_of(assessed: Assessed) -> str:
    """Every table as Markdown."""
    return markdown(assessed[0], sheets_of(assessed))
