"""`python -m tests.training.killed POINT RANK COUNT GUARD -- train ...`: avbench, a rank of which is killed at a point.

The COUNT-th time that rank RANK comes to POINT it kills itself with SIGKILL, once: the file GUARD.done says that it has
been done. With RANK -1 it is whoever is first, and the launcher is killed too, whose process GUARD holds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import avbench.confidence.store
import avbench.engine.plain
import avbench.loading.loader
import avbench.training.checkpoint
from avbench.cli import main

POINTS = ("decoding", "backward", "all-to-all", "checkpoint-tensors", "checkpoint-manifest", "checkpoint-rename")


class Killer:
    """Kills this process the count-th time it is asked to, unless it has been done."""

    def __init__(self, rank: int, count: int, guard: Path) -> None:
        self._mine = os.environ.get("RANK", "0") == str(rank) or rank < 0
        self._left = count
        self._everybody = rank < 0
        self._guard = guard

    def __call__(self) -> None:
        self._left -= 1
        done = self._guard.with_suffix(".done")
        if self._left == 0 and self._mine and not done.exists():
            done.touch()
            if self._everybody:
                os.killpg(int(self._guard.read_text()), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, kill: Callable[[], None]) -> None:
    """Have `kill` called each time before owner.name is."""
    original = getattr(owner, name)

    def patched(*arguments: Any, **named: Any) -> Any:
        kill()
        return original(*arguments, **named)

    setattr(owner, name, patched)


def in_backward(kill: Callable[[], None]) -> None:
    """Have `kill` called amid each backward pass."""
    original = avbench.engine.plain.Engine.backward

    def backward(self: Any, loss: torch.Tensor) -> None:
        middle = self.parameters[len(self.parameters) // 2]
        hook = middle.register_hook(lambda gradient: kill())
        try:
            original(self, loss)
        finally:
            hook.remove()

    avbench.engine.plain.Engine.backward = backward


def arrange(point: str, kill: Callable[[], None]) -> None:
    """Put the point into avbench."""
    checkpoints = avbench.training.checkpoint.Checkpoints
    places = {
        "decoding": (avbench.loading.loader.Loader, "_take"),
        "all-to-all": (avbench.confidence.store, "all_to_all"),
        "checkpoint-tensors": (checkpoints, "_write_tensors"),
        "checkpoint-manifest": (checkpoints, "_write_manifest"),
        "checkpoint-rename": (checkpoints, "_prune"),  # what comes right after it
    }
    if point == "backward":
        in_backward(kill)
    else:
        before(*places[point], kill)


if __name__ == "__main__":
    point, rank, count, guard = sys.argv[1:5]
    arrange(point, Killer(int(rank), int(count), Path(guard)))
    main(sys.argv[6:])
