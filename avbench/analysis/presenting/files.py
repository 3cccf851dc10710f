"""Every table as a file: CSV in full precision, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.statistics import is_few
from avbench.analysis.presenting import registry
from avbench.analysis.presenting.latex import latex
from avbench.analysis.presenting.markdown import markdown
from avbench.analysis.presenting.report_folder import LATEX_FILE, MARKDOWN_FILE
from avbench.analysis.presenting.sheet import Sheet
from avbench.analysis.presenting.table import Record
from avbench.analysis.reading.results import Results


def table_files(evaluation: Evaluation, results: Results, sheets: Sequence[Sheet]) -> dict[str, bytes]:
    """Every table as a file, by name: one CSV a kind of number, all in Markdown and all in LaTeX."""
    records = {file.name: file.records(evaluation, results) for table in registry.TABLES for file in table.files}
    texts = {name: csv_text(rows) for name, rows in records.items() if rows}
    texts[MARKDOWN_FILE] = markdown(evaluation, sheets)
    texts[LATEX_FILE] = latex(sheets, about=f"{evaluation.dataset}, {evaluation.split} split")
    return {name: text.encode() for name, text in texts.items()}


def _with_few(records: Sequence[Record]) -> Sequence[Record]:
    """The records with `few_clips` after `clips`: 1 where these are so few that tables mark them."""
    if "clips" not in records[0]:
        return records
    place = list(records[0]).index("clips") + 1
    return [
        dict(
            [*list(record.items())[:place], ("few_clips", int(is_few(record["clips"]))), *list(record.items())[place:]]
        )
        for record in records
    ]


def csv_text(records: Sequence[Record]) -> str:
    """Records, at least one, as CSV: fractions in full precision, nothing where there is no number."""
    records = _with_few(records)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)  # a float is written as repr does, None as nothing
    return buffer.getvalue()
