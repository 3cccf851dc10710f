"""What is said where a training was asked to stop: how far it was, and what of it is done again."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avbench.training.checkpoint import Within


def resume_command(folder: Path) -> str:
    """What to type to go on."""
    return f"avbench train --out {shlex.quote(str(folder))} --resume"


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a pass was when it stopped, all that was trained saved.

    batch: done of the epoch's `batches`. within: of the passes before the epoch, where they were under way; is_kept:
    whether they go on from there. is_trained: all epochs are, and predictions were being made.
    """

    signal: str
    epoch: int
    batch: int
    batches: int
    within: Within | None = None
    is_kept: bool = True
    is_trained: bool = False

    def text(self, folder: Path) -> str:
        """One line for a person; says of what was not saved that it is done again."""
        where, lost = self.place()
        command = f"go on with `{resume_command(folder)}`"
        return f"interrupted by {self.signal} {where}; {lost}, {command}"

    def place(self) -> tuple[str, str]:
        """Where it was, and what is lost, each as part of a sentence."""
        where, again = self._where()
        return where, f"{again} again, nothing else is lost" if again else "nothing is lost"

    def marker(self) -> dict[str, Any]:
        """What interrupted.json says."""
        within = {} if self.within is None else {"within": asdict(self.within)}
        return {"signal": self.signal, "epoch": self.epoch, "batch": self.batch, **within}

    def _where(self) -> tuple[str, str]:
        """Where it was, and what is done again; the latter empty where nothing is."""
        if self.is_trained:
            return "after the last epoch, while predictions were made", "they are made"
        if self.within is not None:
            count = f"{self.within.passes} {'pass' if self.within.passes == 1 else 'passes'}"
            batches = f"{self.within.batches} {'batch' if self.within.batches == 1 else 'batches'}"
            where = f"before epoch {self.epoch}, in what {self.within.run} does there ({count} begun, {batches} done)"
            return (
                where,
                "" if self.is_kept else f"{self.within.run}'s method cannot go on from within, so they are made",
            )
        if self.batch == self.batches:
            return f"after all {self.batches} batches of epoch {self.epoch}, before it was judged", "that is done"
        return f"in epoch {self.epoch} after {self.batch} of {self.batches} batches", ""
