"""The paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from avbench.analysis.measures.accuracy import subset_name
from avbench.analysis.measures.published import SOURCE, WARNING, Published
from avbench.analysis.measures.seeds import SeedTable
from avbench.analysis.presenting.sheet import Cell, Sheet
from avbench.analysis.presenting.table import File, Table, as_records
from avbench.analysis.presenting.tables.cells import percent, seed_cell, with_mark
from avbench.vocabulary import MODALITIES


def published_sheet(published: Sequence[Published], ours: SeedTable, methods: Mapping[str, str]) -> Sheet:
    """The paper's rows, each below ours of the same method, which are on the preferred clips, T = 0."""
    subsets, rows = ("overall", *MODALITIES), []
    threshold = min(ours.thresholds)
    preferred = threshold == 0.0
    for row in published:
        for run, method in methods.items():
            if method == row.method and preferred:
                found = [ours.cell(run, subset, threshold) for subset in subsets]
                cells = (_of_few(seed_cell(cell), cell.clips) for cell in found)
                rows.append((Cell(row.method), Cell("here" if run == method else f"here ({run})"), *cells))
        values = (row.overall, row.audio, row.visual)
        rows.append((Cell(row.method), Cell("published"), *(percent(value) for value in values)))
    return Sheet(
        name="published",
        kind="published",
        title="Beside the published numbers",
        caption=f"Accuracy in %, here and as published for {published[0].dataset if published else ''} by {SOURCE}. "
        f"{WARNING}",
        words=2,
        headings=("method", "source", *(subset_name(subset, 0.0) for subset in subsets)),
        rows=tuple(rows),
    )


def _of_few(cell: Cell, clips: float) -> Cell:
    return cell if cell.value is None else replace(cell, text=with_mark(cell.text, clips))


PUBLISHED = Table(
    "published",
    sheets=lambda evaluation, results: [
        published_sheet(evaluation.published, evaluation.seeds, evaluation.table.methods)
    ],
    files=(
        File(
            "published.csv",
            "the paper's numbers for orientation, where the dataset is one of its own",
            lambda evaluation, results: [{**record, "source": SOURCE} for record in as_records(evaluation.published)],
        ),
    ),
    heading="Beside the published numbers",
    place=20,
)
