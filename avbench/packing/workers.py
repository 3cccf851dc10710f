"""Tasks over worker processes, with a progress bar, and without hanging when a worker dies.

Packing and verifying give each process whole shards. Workers are fresh interpreters (spawn): the caller may have
threads or a GPU, which a fork would break. They end when their parent does, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from avbench.progress import progress

T = TypeVar("T")
R = TypeVar("R")


class Stopped(Exception):  # noqa: N818
    """Raised in a task at its next beat when another has failed or the user has interrupted."""


class WorkerDied(Exception):  # noqa: N818
    """A worker process ended without a word: killed, out of memory, or crashed in a decoder.

    begun: for each task that was under way, by number, how many units it had begun.
    """

    def __init__(self, begun: dict[int, int]) -> None:
        super().__init__(begun)
        self.begun = begun


class Beat:
    """Given to a task, to be called as each unit of its work begins."""

    def __init__(self, counts: Any, stop: Any, task: int) -> None:
        self._counts, self._stop, self._task = counts, stop, task

    def __call__(self) -> None:
        """Count one unit. Raises Stopped where the rest is not wanted any more."""
        if self._stop.value:
            raise Stopped
        self._counts[self._task] += (
            1  # each task has its own count, so no lock is needed (or left locked by a dead worker)
        )


def run_tasks(
    function: Callable[[T, Beat], R], tasks: Sequence[T], *, units: Sequence[int], workers: int, title: str, unit: str
) -> Iterator[tuple[int, R]]:
    """Call `function(task, beat)` for every task in so many processes; yields (task number, result) as they end.

    units: how many units of work each task has, for the progress bar. One worker is this process itself. An error of a
    task is raised here, after the others have stopped; WorkerDied where a process is gone.
    """
    total = sum(units)
    with progress(title, unit) as show:
        run = _run_here if workers == 1 else _run_in_processes
        yield from run(function, tasks, min(workers, max(1, len(tasks))), lambda done: show(done, total))


def _run_here(
    function: Callable[[T, Beat], R], tasks: Sequence[T], workers: int, show: Callable[[int], None]
) -> Iterator[tuple[int, R]]:
    class Counts(list):
        def __setitem__(self, index: Any, value: Any) -> None:
            super().__setitem__(index, value)
            show(sum(self))

    counts = Counts([0] * len(tasks))
    running = multiprocessing.get_context("spawn").RawValue("b", 0)
    for number, task in enumerate(tasks):
        yield number, function(task, Beat(counts, running, number))


def _run_in_processes(
    function: Callable[[T, Beat], R], tasks: Sequence[T], workers: int, show: Callable[[int], None]
) -> Iterator[tuple[int, R]]:
    context = multiprocessing.get_context("spawn")
    counts, stop = context.RawArray("q", max(1, len(tasks))), context.RawValue("b", 0)
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(counts, stop))
    try:
        pending = {executor.submit(_work, function, task, number): number for number, task in enumerate(tasks)}
        waiting = set(pending)
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            show(sum(counts))
            for future in done:
                yield pending[future], future.result()
    except BrokenProcessPool:
        under_way = {pending[future] for future in pending if not future.done() or future.exception() is not None}
        raise WorkerDied({number: counts[number] for number in sorted(under_way) if counts[number]}) from None
    finally:
        stop.value = 1
        executor.shutdown(wait=True, cancel_futures=True)


_counts: Any = None
_stop: Any = None


def _begin(counts: Any, stop: Any) -> None:
    """First thing in each worker."""
    global _counts, _stop
    _counts, _stop = counts, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and stops the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(function: Callable[[T, Beat], R], task: T, number: int) -> R:
    return function(task, Beat(_counts, _stop, number))
