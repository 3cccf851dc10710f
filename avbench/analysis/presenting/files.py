"""Every table as a file: CSV in full precision, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.published import SOURCE
from avbench.analysis.measures.statistics import is_few
from avbench.analysis.presenting.folder import ACCURACY_FILE, PERFORMANCE_FILE
from avbench.analysis.presenting.latex import latex
from avbench.analysis.presenting.markdown import markdown
from avbench.analysis.presenting.records import Record, as_records
from avbench.analysis.presenting.sheet import Sheet
from avbench.analysis.presenting.tables.accuracy import accuracy_records
from avbench.analysis.presenting.tables.audit import audit_record
from avbench.analysis.presenting.tables.learning import best_epoch_record, learning_records
from avbench.analysis.presenting.tables.origin import origin_record
from avbench.analysis.presenting.tables.performance import speed_record
from avbench.analysis.presenting.tables.seeds import seed_records
from avbench.analysis.presenting.tables.utilization import utilization_record
from avbench.analysis.reading.results import Results


def table_files(evaluation: Evaluation, results: Results, sheets: Sequence[Sheet]) -> dict[str, bytes]:
    """Every table as a file, by name: one CSV a kind of number, all in Markdown and all in LaTeX."""
    records = {
        "learning.csv": [record for one in evaluation.learning for record in learning_records(one)],
        "best_epochs.csv": [best_epoch_record(one) for one in evaluation.learning],
        ACCURACY_FILE: accuracy_records(evaluation.table, evaluation.networks),
        "accuracy_planted.csv": accuracy_records(evaluation.planted, evaluation.networks),
        "seeds.csv": seed_records(evaluation.seeds),
        "cross_seed.csv": seed_records(evaluation.cross_seed),
        "parts.csv": seed_records(evaluation.parts),
        "metrics.csv": as_records(evaluation.metrics.cells),
        "significance.csv": [
            {**record, "significant": int(one.significant)}
            for record, one in zip(as_records(evaluation.comparisons), evaluation.comparisons, strict=True)
        ],
        "utilization.csv": [utilization_record(one) for one in evaluation.utilization],
        "published.csv": [{**record, "source": SOURCE} for record in as_records(evaluation.published)],
        PERFORMANCE_FILE: [speed_record(one) for one in evaluation.speeds],
        "audit.csv": [audit_record(one) for one in evaluation.audit.runs],
        "origin.csv": [origin_record(fact) for fact in evaluation.origin],
    }
    texts = {name: _csv(_with_few(rows)) for name, rows in records.items() if rows}
    texts["tables.md"] = markdown(evaluation, sheets)
    texts["tables.tex"] = latex(sheets, about=f"{evaluation.dataset}, {evaluation.split} split")
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


def _csv(records: Sequence[Record]) -> str:
    """Fractions in full precision, nothing where there is no number."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)  # a float is written as repr does, None as nothing
    return buffer.getvalue()
