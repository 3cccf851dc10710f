"""What the numbers come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avbench.analysis.measures.origin import Fact
from avbench.analysis.presenting.sheet import Cell, Sheet
from avbench.analysis.presenting.table import File, Table

DIFFERS = "≠"  # beside what is not the same everywhere
_DIGITS = 12  # of a digest, on the page; files have all


def origin_sheet(facts: Sequence[Fact]) -> Sheet:
    """One row a fact where all launches say the same, else one for each thing that is said, with who says it."""
    launches = dict.fromkeys((fact.training, fact.launch) for fact in facts)
    grouped: dict[str, dict[tuple[str, str], list[Fact]]] = {}
    for fact in facts:
        grouped.setdefault(fact.what, {}).setdefault((fact.value, fact.digest), []).append(fact)
    return Sheet(
        name="origin",
        kind="origin",
        title="What the numbers come from",
        caption="Of every launch of every training, a row for each thing that is said. In brackets the start of a "
        "SHA-256: of the clips (in older folders of the index), of dataset.json, of the names, of the clips' ids, of "
        f"avbench's sources. {DIFFERS}: not the same in all run folders, or in all launches of one.",
        words=3,
        headings=("what", "value", "training"),
        rows=tuple(
            (
                Cell(f"{what}\N{NO-BREAK SPACE}{DIFFERS}" if any(fact.differs for fact in said) else what),
                Cell(f"{value} ({digest[:_DIGITS]})" if digest else value),
                Cell("all" if len(said) == len(launches) else _where(said)),
            )
            for what, values in grouped.items()
            for (value, digest), said in values.items()
        ),
    )


def _where(facts: Sequence[Fact]) -> str:
    """Which trainings, and of those that were launched again which launches."""
    launches: dict[str, list[Fact]] = {}
    for fact in facts:
        launches.setdefault(fact.training, []).append(fact)
    words = []
    for training, of in launches.items():
        if len(of) == of[0].launches:
            words.append(training)
        else:
            numbers = ", ".join(str(fact.launch) for fact in of)
            words.append(f"{training} (launch{'es' if len(of) > 1 else ''} {numbers})")
    return ", ".join(words)


def origin_record(fact: Fact) -> dict[str, Any]:
    """A row of origin.csv."""
    return {
        "training": fact.training,
        "launch": fact.launch,
        "what": fact.what,
        "value": fact.value,
        "digest": fact.digest,
        "differs": int(fact.differs),
    }


ORIGIN = Table(
    "origin",
    sheets=lambda evaluation, results: [origin_sheet(evaluation.origin)],
    files=(
        File(
            "origin.csv",
            "data, code, libraries, machine and command of every launch",
            lambda evaluation, results: [origin_record(fact) for fact in evaluation.origin],
        ),
    ),
    apart=True,
)
