"""What a report shows of what `assess` returns."""

from __future__ import annotations

from avbench.analysis.page import render_page
from avbench.analysis.report import Evaluation
from avbench.analysis.runs import Results
from avbench.analysis.sheet import Sheet
from avbench.analysis.tables import markdown, sheets, table_files

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
