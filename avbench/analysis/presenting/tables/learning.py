"""How each run learnt: the chosen epochs, and every epoch."""

from __future__ import annotations

import numpy as np

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.learning import CURVES, Learning, by_run
from avbench.analysis.measures.statistics import FEW_CLIPS
from avbench.analysis.presenting.sheet import NOTHING, Cell, Sheet
from avbench.analysis.presenting.table import File, Record, Table
from avbench.analysis.presenting.tables.cells import only_if, percent, with_mark


def learning_sheet(evaluation: Evaluation) -> Sheet:
    """Of every run and seed that was trained here, those that diverged too, the epoch that was chosen."""
    several = len({one.training for one in evaluation.learning}) > 1
    diverged = any(one.ending == "diverged" for one in evaluation.learning)
    ordered = by_run(evaluation.learning, evaluation.table.methods)
    fewest = min((one.val_clips for one in evaluation.learning if one.val_clips), default=FEW_CLIPS)
    return Sheet(
        name="learning",
        kind="learning",
        title="Best epochs",
        caption="The epoch of each run with the highest validation accuracy, in %, counted from 0: its network is the "
        "one that every other table is of."
        + (" Networks that diverged are in no other table." if diverged else "")
        + (f" {evaluation.untold}" if evaluation.untold else ""),
        words=4 if several else 3,
        headings=(
            "method", "seed", *only_if(several, "training"), "why it stopped", "best epoch",
            with_mark("validation accuracy", fewest), "epochs trained",
        ),
        rows=tuple(
            (
                Cell(one.run),
                Cell(str(one.seed), value=float(one.seed)),
                *only_if(several, Cell(one.training)),
                Cell(one.why),
                Cell(NOTHING) if one.best is None else Cell(str(one.best), value=float(one.best)),
                percent(one.best_accuracy),
                Cell(f"{len(one.epochs):,}", value=float(len(one.epochs))),
            )
            for seeds in ordered.values()
            for one in seeds
        ),
    )  # fmt: skip


def learning_records(one: Learning) -> list[Record]:
    """Rows of learning.csv: every epoch."""
    return [
        {
            "method": one.run,
            "seed": one.seed,
            "training": one.training,
            "epoch": int(epoch),
            **{
                curve: float(value) if np.isfinite(value) else None for curve, value in zip(CURVES, values, strict=True)
            },
        }
        for epoch, *values in zip(one.epochs, *(one.curves[curve] for curve in CURVES), strict=True)
    ]


def best_epoch_record(one: Learning) -> Record:
    """A row of best_epochs.csv."""
    return {
        "method": one.run,
        "seed": one.seed,
        "training": one.training,
        "best_epoch": one.best,
        "val_accuracy": one.best_accuracy,
        "val_clips": one.val_clips or None,
        "epochs": len(one.epochs),
        "ending": one.ending,
        "why": one.why,
    }


LEARNING = Table(
    "learning",
    sheets=lambda evaluation, results: [learning_sheet(evaluation)],
    files=(
        File(
            "best_epochs.csv",
            "for each run and seed the epoch that was chosen and why the run stopped",
            lambda evaluation, results: [best_epoch_record(one) for one in evaluation.learning],
        ),
        File(
            "learning.csv",
            "loss and accuracy of every epoch, on train and validation",
            lambda evaluation, results: [record for one in evaluation.learning for record in learning_records(one)],
        ),
    ),
    apart=True,
)
