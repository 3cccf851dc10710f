"""Audit and origin as tables of the page, as records of CSV files and as values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avbench.analysis.audit import Audit, Audited
from avbench.analysis.origin import Fact
from avbench.analysis.sheet import NOTHING, Cell, Sheet

DIFFERS = "≠"  # beside what is not the same everywhere
_DIGITS = 12  # of a digest, on the page; files have all
_MOST_PROBLEMS = 3  # of one run, in its cell
_SAID = {"each once": "each clip once", "not recorded": "not recorded", "wrong": "wrong"}


def audit_sheet(audit: Audit) -> Sheet:
    """Of every run and seed, whether each clip of its part was counted once in every epoch."""
    several = len({one.training for one in audit.runs}) > 1
    parts = len({one.part for one in audit.runs}) > 1
    return Sheet(
        name="audit",
        kind="audit",
        title="Clips counted",
        caption="Over all ranks, the ids of the clips that a network counted in an epoch against those of its part of "
        "train, without clips left out for bad bytes: how many, and a hash that changes when a clip is counted twice "
        "or not at all.",
        words=3 + several + parts,
        headings=(
            "method", "seed", *(("training",) * several), *(("part of train",) * parts), "found",
            "epochs checked", "epochs trained", "clips an epoch", "left out",
        ),
        rows=tuple(_audit_row(one, several=several, parts=parts) for one in audit.runs),
    )  # fmt: skip


def _audit_row(one: Audited, *, several: bool, parts: bool) -> tuple[Cell, ...]:
    more = len(one.problems) - _MOST_PROBLEMS
    problems = "; ".join([*one.problems[:_MOST_PROBLEMS], *([f"{more} more"] if more > 0 else [])])
    return (
        Cell(one.run),
        Cell(str(one.seed), value=float(one.seed)),
        *((Cell(one.training),) * several),
        *((Cell(one.part),) * parts),
        Cell(f"wrong: {problems}" if one.problems else _SAID[one.verdict]),
        *(_count(number) for number in (one.checked, one.epochs, one.clips, one.left_out)),
    )


def _count(number: int | None) -> Cell:
    return Cell(NOTHING) if number is None else Cell(f"{number:,}", value=float(number))


def audit_record(one: Audited) -> dict[str, Any]:
    """A row of audit.csv."""
    return {
        "method": one.run,
        "seed": one.seed,
        "training": one.training,
        "part": one.part,
        "verdict": one.verdict,
        "epochs": one.epochs,
        "checked": one.checked,
        "clips_an_epoch": one.clips,
        "left_out_clips": one.left_out,
        "problems": "; ".join(one.problems),
    }


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
        "SHA-256: of the index, of dataset.json, of the names, of the clips' ids, of avbench's sources. "
        f"{DIFFERS}: not the same in all run folders, or in all launches of one.",
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
