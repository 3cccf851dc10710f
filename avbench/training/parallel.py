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

from avbench.distributed import current_world, ranks_on_this_node
from avbench.training.run import Run


class SideBySide:
    """Does something for each of several runs, as many at once as fit. A context manager.

    runs: how many there are; it decides, once, how many threads torch uses in each, so that a resumed pass computes
    with as many. OMP_NUM_THREADS, where set, is what each uses. On a GPU, and among several ranks (whose collectives
    must keep one order), runs take turns.
    """

    def __init__(self, *, runs: int, device: torch.device) -> None:
        cores = max(1, len(os.sched_getaffinity(0)) // ranks_on_this_node())
        together = device.type == "cpu" and current_world().size == 1
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        if wanted.isdigit():
            threads = max(1, int(wanted))
        else:
            threads = max(1, cores // runs) if together else cores
            torch.set_num_threads(threads)
        workers = min(runs, max(1, cores // threads)) if together else 1
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
