"""Accuracies over seeds: of runs, on subsets cut by the other seeds, and of unimodal parts."""

from __future__ import annotations

from collections.abc import Iterator

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.accuracy import SUBSETS
from avbench.analysis.measures.seeds import SeedTable
from avbench.analysis.presenting.sheet import Cell, Sheet
from avbench.analysis.presenting.table import File, Record, Table, as_records
from avbench.analysis.presenting.tables.cells import by_subset, seed_rows


def cross_seed_sheet(table: SeedTable, threshold: float) -> Sheet:
    """Each seed on subsets that the other seeds cut."""
    return by_subset(
        kind="cross-seed",
        title=f"Accuracy, subsets cut by the other seeds, T = {threshold:g}",
        caption="Accuracy in %, mean ± standard deviation over seeds; each seed's subsets are cut by the mean "
        "confidence of the other seeds, so that no network is scored on clips that it chose. Clips are a mean too.",
        words=("method",),
        threshold=threshold,
        counts={subset: table.cell(table.rows[0][0], subset, threshold).clips for subset in SUBSETS},
        rows=seed_rows(table, threshold, words=lambda run, part: (Cell(run),)),
    )


def parts_sheet(table: SeedTable, threshold: float) -> Sheet:
    """The unimodal parts of joint networks."""
    counts = {}
    if table.rows:
        run, part = table.rows[0]
        counts = {subset: table.cell(run, subset, threshold, part=part).clips for subset in SUBSETS}
    return by_subset(
        kind="parts",
        title=f"Unimodal parts of joint networks, T = {threshold:g}",
        caption="Accuracy in % of what a joint network's own audio or visual part says, the mean over seeds. These are "
        "not the unimodal networks, which are trained alone.",
        words=("joint network", "part"),
        threshold=threshold,
        counts=counts,
        rows=seed_rows(table, threshold, words=lambda run, part: (Cell(run), Cell(f"{part} part"))),
    )


def seed_records(table: SeedTable | None) -> list[Record]:
    """Rows of seeds.csv, cross_seed.csv and parts.csv."""
    records = [{**record, "seeds": len(record["seeds"])} for record in as_records(table.cells if table else ())]
    if not any(record["part"] for record in records):  # runs, not parts of runs
        records = [{name: value for name, value in record.items() if name != "part"} for record in records]
    return records


def cross_seed_sheets(evaluation: Evaluation) -> Iterator[Sheet]:
    """A sheet a threshold, where there are several seeds."""
    if evaluation.cross_seed is not None:
        for threshold in evaluation.table.thresholds:
            yield cross_seed_sheet(evaluation.cross_seed, threshold)


# The means over seeds are rows of the table of accuracies.
SEEDS = Table(
    "seeds",
    files=(
        File(
            "seeds.csv",
            "mean and standard deviation over seeds, on subsets cut by all seeds",
            lambda evaluation, results: seed_records(evaluation.seeds),
        ),
    ),
)
CROSS_SEED = Table(
    "cross-seed",
    sheets=lambda evaluation, results: cross_seed_sheets(evaluation),
    files=(
        File(
            "cross_seed.csv",
            "the same on subsets cut by the other seeds",
            lambda evaluation, results: seed_records(evaluation.cross_seed),
        ),
    ),
    heading="Subsets cut by the other seeds",
    place=50,
)
PARTS = Table(
    "parts",
    sheets=lambda evaluation, results: [parts_sheet(evaluation.parts, T) for T in evaluation.table.thresholds],
    files=(
        File(
            "parts.csv",
            "unimodal parts of joint networks (these are not the unimodal networks)",
            lambda evaluation, results: seed_records(evaluation.parts),
        ),
    ),
    heading="Unimodal parts of joint networks",
    place=90,
)
