"""What a training says and leaves when it has ended: a table of its runs, what diverged, what is to be kept."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from avbench.errors import RunError
from avbench.progress import duration
from avbench.records import described_divergence, write_json
from avbench.training.checkpoint import keep_only_best
from avbench.training.held_folder import HeldFolder
from avbench.training.run import DIVERGED, Run
from avbench.wording import counted


def divergence(run: Run) -> str:
    """Where a run was when it was seen to diverge, which is when numbers are next taken from the device."""
    said = run.progress.diverged
    if said is None:  # by an avbench that did not note it
        return ""
    return f"in epoch {said['epoch']:.0f}, by step {said['step']:.0f}, at learning rate {said['learning_rate']:g}"


def divergences(runs: Sequence[Run]) -> dict[str, Any]:
    """What diverged.json says: each run, its epoch, its number of steps and the learning rate of the last."""
    return {
        "runs": [
            {
                "run": run.name,
                "method": run.spec.method.name,
                "seed": run.seed,
                **(run.progress.diverged or {"epoch": None, "step": None, "learning_rate": None}),
            }
            for run in runs
        ]
    }


def all_diverged(folder: HeldFolder) -> str:
    """What is said of a folder all of whose runs diverged; empty of any other."""
    said = described_divergence(folder.path)
    if not said:
        return ""
    return (
        f"{folder.path}: {said}, so there is nothing to train on or to predict from; start again with a lower "
        f"--learning-rate, in another folder or with --overwrite"
    )


def closing_table(runs: Sequence[Run], *, epochs: int) -> str:
    """A row a run: its best epoch (from 0), that epoch's validation accuracy, why it stopped, after how long."""
    rows = [("run", "best epoch", "val. accuracy", "time", "stopped")]
    for run in runs:
        progress = run.progress
        has_best = progress.best_epoch >= 0 and progress.finished != DIVERGED
        rows.append(
            (
                run.name,
                str(progress.best_epoch) if has_best else "-",
                f"{100 * progress.best_accuracy:.1f} %" if has_best else "-",
                duration(round(progress.seconds)),
                f"diverged {divergence(run)}".rstrip() if progress.finished == DIVERGED else _why(run, epochs),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:]), row[-1]]) for row in rows
    )


def _why(run: Run, epochs: int) -> str:
    return run.progress.finished or ("after its epoch" if epochs == 1 else f"after all {epochs} epochs")


def what_is_kept(folder: HeldFolder) -> str:
    """How much checkpoints take, and what to do where that is too much."""
    best = size_bytes(folder.best)
    others = size_bytes(folder.checkpoints) - best
    if not others:
        return f"{folder.checkpoints}: the best networks, {_megabytes(best)}"
    command = f"avbench train --out {shlex.quote(str(folder.path))} --resume --keep-checkpoints 0"
    return (
        f"{folder.checkpoints}: {_megabytes(best + others)}; `{command}` keeps only the best networks, "
        f"{_megabytes(best)} (with --keep-checkpoints 0 from the start they alone are left at the end)"
    )


def next_command(folder: HeldFolder) -> str:
    """What to type now."""
    return f"next: avbench evaluate {shlex.quote(str(folder.path))}"


def end(folder: HeldFolder, *, epochs: int, keep_checkpoints: int) -> None:
    """Write finished.json; where no checkpoint is to be kept, remove all but the best networks. On rank 0."""
    is_removed = keep_checkpoints == 0
    # First the word that they are gone: a training that is killed in between would else begin anew when resumed.
    write_json(folder.finished, {"epochs": epochs, **({"checkpoints": "removed"} if is_removed else {})})
    if is_removed:
        keep_only_best(folder.checkpoints)


def is_without_checkpoints(folder: HeldFolder, *, epochs: int, keep_checkpoints: int) -> bool:
    """Whether a run that is to be gone on with has ended after so many epochs, and its checkpoints are gone or to go.

    Raises RunError where they are gone and more is asked for.
    """
    try:
        finished = json.loads(folder.finished.read_text("utf-8"))
    except FileNotFoundError:
        return False
    is_removed = finished.get("checkpoints") == "removed"
    if is_removed and finished["epochs"] != epochs:
        raise RunError(
            f"{folder.path}: ended after {counted(finished['epochs'], 'epoch')}, and its checkpoints were then removed "
            f"(--keep-checkpoints 0), so it cannot be gone on with to {epochs}; train anew, in another folder or with "
            f"--overwrite"
        )
    return is_removed or (finished["epochs"] == epochs and keep_checkpoints == 0)


def tidied(folder: HeldFolder, *, epochs: int, save_config: Callable[[Path], None]) -> str:
    """Remove the checkpoints of a finished run but its best networks; what is said of it. On rank 0."""
    before = size_bytes(folder.checkpoints)
    with folder.locked():
        save_config(folder.config)
        end(folder, epochs=epochs, keep_checkpoints=0)
    freed = before - size_bytes(folder.checkpoints)
    return f"{folder.path}: finished already; {_megabytes(freed)} of checkpoints removed\n{what_is_kept(folder)}"


def size_bytes(path: Path) -> int:
    """Of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
