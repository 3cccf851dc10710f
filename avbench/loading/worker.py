"""A thread that works ahead; it knows nothing of clips."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_END = object()


class Worker(Generic[T]):
    """Goes through an iterator in a thread of its own, one item ahead of whoever iterates over the worker."""

    def __init__(self, work: Iterator[T]) -> None:
        self._items: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=_run, args=(work, self._items, self._stopping), name="avbench-loader", daemon=True
        )
        self._thread.start()
        # A thread inside DALI must not outlive the interpreter.
        self._finalizer = weakref.finalize(self, _stop, self._thread, self._items, self._stopping)

    def __iter__(self) -> Iterator[T]:
        """Items until the work is done or stopped; raises what the work raised."""
        while not self._stopping.is_set():
            item = self._items.get()
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def stop(self) -> None:
        """Have the work closed, and wait for it."""
        self._finalizer()


def _run(work: Iterator[T], items: queue.Queue[Any], stopping: threading.Event) -> None:
    last: object = _END
    try:
        with closing(work):  # type: ignore[type-var]
            for item in work:
                if stopping.is_set():
                    break
                items.put(item)
    except BaseException as error:  # whatever it is, it belongs to the consumer
        last = error
    if not stopping.is_set():
        items.put(last)


def _stop(thread: threading.Thread, items: queue.Queue[Any], stopping: threading.Event) -> None:
    stopping.set()
    # The garbage collector may close an abandoned epoch in any thread, in this one too.
    while thread.is_alive() and thread is not threading.current_thread():
        with suppress(queue.Empty):
            items.get(timeout=0.05)  # the thread may wait for a place in the queue
