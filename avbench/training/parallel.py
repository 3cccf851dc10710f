"""Runs side by side: on a CPU in one process each run's step in a thread of its own, on a GPU on CUDA streams.

A small network keeps one core busier than two (ResNet-18 on 64 x 64 pixels: 1.3 times as fast on two cores, two of them
side by side 1.9 times). Runs share nothing but the batch, which they only read, so the numbers are those of one after
the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from avbench.distributed import current_world
from avbench.machine import usable_cores
from avbench.training.run import Run

T = TypeVar("T")


class SideBySide:
    """Does something for each of several runs, as many at once as there are cores for. A context manager.

    threads: how many torch uses for each run, on a CPU; a number of its own, so that a run computes the same bits
    whatever runs beside it and however many cores there are. streams: that runs are spread over on a GPU. With one, and
    among several ranks (whose collectives must keep one order), runs take turns; also where steps are compiled while
    training goes on, which torch does for one at a time.
    """

    def __init__(self, *, threads: int, device: torch.device, streams: int = 1, compiles: bool = False) -> None:
        workers = 1
        self._device = device
        is_spread = device.type == "cuda" and streams > 1 and current_world().size == 1
        self._streams = [torch.cuda.Stream(device) for _ in range(streams)] if is_spread else []
        if device.type == "cpu":
            torch.set_num_threads(threads)
            if current_world().size == 1 and not compiles:
                workers = max(1, usable_cores() // threads)
        self._pool = ThreadPoolExecutor(workers, "run") if workers > 1 else None

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def each(self, items: Iterable[T], action: Callable[[T], None]) -> None:
        """`action(item)` for every one; returns when all are done, raises what one raises.

        They are begun in the order given: the longest should come first, so that it is not left alone at the end.
        """
        if self._streams:
            self._on_streams(items, action)
            return
        if self._pool is None:
            for item in items:
                action(item)
            return
        for _ in self._pool.map(action, items):
            pass

    def _on_streams(self, items: Iterable[T], action: Callable[[T], None]) -> None:
        """Begun after all that was launched on the current stream, which waits for all of them.

        So whatever is launched later, anywhere, comes after them, and memory needs no record of the streams it is used
        on: a stream's own is used again by the stream alone, and the current one's only once it has waited.
        """
        current = torch.cuda.current_stream(self._device)
        for number, item in enumerate(items):
            stream = self._streams[number % len(self._streams)]
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                action(item)
        for stream in self._streams:
            current.wait_stream(stream)


def longest_first(runs: Iterable[Run]) -> list[Run]:
    """Runs by how long a step of theirs takes, as far as the number of their parameters tells."""
    return sorted(runs, key=lambda run: len(run.engine.parameters), reverse=True)
