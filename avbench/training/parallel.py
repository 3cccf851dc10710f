"""Runs side by side: on a CPU in one process, each run's step in a thread of its own.

A small network keeps one core busier than two (ResNet-18 on 64 x 64 pixels: 1.3 times as fast on two cores, two of them
side by side 1.9 times). Runs share nothing but the batch, which they only read, so the numbers are those of one after
the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from avbench.distributed import current_world
from avbench.training.run import Run


class SideBySide:
    """Does something for each of several runs, as many at once as there are cores for. A context manager.

    threads: how many torch uses for each run, on a CPU; a number of its own, so that a run computes the same bits
    whatever runs beside it and however many cores there are. On a GPU, and among several ranks (whose collectives must
    keep one order), runs take turns.
    """

    def __init__(self, *, runs: int, threads: int, device: torch.device) -> None:
        workers = 1
        if device.type == "cpu":
            torch.set_num_threads(threads)
            if current_world().size == 1:
                workers = min(runs, max(1, len(os.sched_getaffinity(0)) // threads))
        self._pool = ThreadPoolExecutor(workers, "run") if workers > 1 else None

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def each(self, runs: Sequence[Run], action: Callable[[Run], None]) -> None:
        """`action(run)` for every run; returns when all are done, raises what one raises."""
        if self._pool is None:
            for run in runs:
                action(run)
            return
        # The longest first, so that it does not start alone when the others are done.
        longest_first = sorted(runs, key=lambda run: len(run.engine.parameters), reverse=True)
        for _ in self._pool.map(action, longest_first):
            pass
