"""Every table as GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from avbench.analysis.assessment import Evaluation
from avbench.analysis.presenting.sheet import Cell, Sheet, one_line


def markdown(evaluation: Evaluation, sheets: Sequence[Sheet]) -> str:
    """All tables with the answer and the notes, as GitHub's Markdown."""
    lines = [f"# {_markdown_text(evaluation.dataset)}, {evaluation.split} split", ""]
    lines += [_markdown_text(evaluation.answer), ""]
    lines += [f"* {_markdown_text(verdict.sentence)}" for verdict in evaluation.verdicts]
    if evaluation.warnings:
        lines += ["", *(f"**{_markdown_text(warning)}**" for warning in evaluation.warnings)]
    if evaluation.untold and not evaluation.learning:
        lines += ["", _markdown_text(evaluation.untold)]
    for sheet in sheets:
        lines += ["", f"## {sheet.title}", "", _markdown_text(sheet.caption), ""]
        if sheet.kind == "audit":
            lines += [_markdown_text(evaluation.audit.sentence), ""]
        lines.append(_markdown_row([_markdown_text(heading) for heading in sheet.headings]))
        lines.append(f"|{'---|' * sheet.words}{'---:|' * (len(sheet.headings) - sheet.words)}")
        lines += [_markdown_row([_markdown_cell(cell) for cell in row]) for row in sheet.rows]
    if evaluation.planted is not None:
        lines += [
            "",
            f"Spearman correlation of estimated and planted discrepancy: {correlation_text(evaluation.spearman)}",
        ]
    lines += ["", "## Notes", "", *(f"* {_markdown_text(note)}" for note in evaluation.notes)]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = _markdown_text(cell.text)
    return " ".join(part for part in (f"**{text}**" if cell.best else text, cell.detail) if part)


def _markdown_text(text: str) -> str:
    """Words for Markdown, on one line: what it would take for markup, or for HTML, is escaped."""
    return re.sub(r"([\\`*_<>\[\]&|~$])", r"\\\1", one_line(text))


def correlation_text(value: float | None) -> str:
    """A rank correlation in words."""
    return "not defined (one of the two is the same for all clips)" if value is None else f"{value:.3f}"
