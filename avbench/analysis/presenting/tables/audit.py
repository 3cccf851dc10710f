"""Whether each network counted every clip of its part once an epoch."""

from __future__ import annotations

from typing import Any

from avbench.analysis.measures.audit import Audit, Audited
from avbench.analysis.presenting.sheet import NOTHING, Cell, Sheet
from avbench.analysis.presenting.table import File, Table

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


AUDIT = Table(
    "audit",
    sheets=lambda evaluation, results: [audit_sheet(evaluation.audit)],
    files=(
        File(
            "audit.csv",
            "whether each network counted every clip of its part once an epoch",
            lambda evaluation, results: [audit_record(one) for one in evaluation.audit.runs],
        ),
    ),
    apart=True,
)
