"""Work that is done beside training, one piece after the other, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from avbench.distributed import open_group, over


class Background:
    """Does what it is given, in that order; after a failure nothing more, until the failure has been raised.

    Every rank makes one and gives it the same tasks in the same order, so a task may be a collective: it goes over a
    process group of their own, and training's collectives go on meanwhile. Close it.
    """

    def __init__(self, name: str) -> None:
        self._group = open_group()
        self._changed = threading.Condition()
        self._tasks: deque[Callable[[], None]] = deque()
        self._is_closed = False
        self._given = self._ended = 0  # tasks
        self._failure: BaseException | None = None
        self._failed_at = 0  # the task that failed
        self._worked = 0.0  # seconds of ended tasks
        self._since = 0.0  # when the present one began; 0 where there is none
        # A daemon: where another rank is gone it waits for that rank for ever, and the process is to end all the same.
        threading.Thread(target=self._work, name=name, daemon=True).start()

    @property
    def failed(self) -> bool:
        """Whether something failed; what follows was not done."""
        return self._failure is not None

    @property
    def worked_seconds(self) -> float:
        """Time spent working so far."""
        since = self._since
        return self._worked + (time.perf_counter() - since if since else 0.0)

    def do(self, task: Callable[[], None]) -> int:
        """Have it done when what came before is; returns its number, from 1, for `wait`."""
        with self._changed:
            self._tasks.append(task)
            self._given += 1
            self._changed.notify_all()
            return self._given

    def wait(self, number: int | None = None) -> None:
        """Until all is done, or all up to this task; raises what went wrong among it, once.

        What failed later is left to a later call: ranks may not have come as far, and all are to raise it together.
        """
        with self._changed:
            number = self._given if number is None else number
            self._changed.wait_for(lambda: self._ended >= number)
            if self._failure is None or self._failed_at > number:
                return
            failure, self._failure = self._failure, None
            # What was to follow it: nobody will do that now.
            self._ended += len(self._tasks)
            self._tasks.clear()
        raise failure

    def close(self) -> None:
        """Take no more; the thread ends by itself when all is done."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        with over(self._group):
            while (task := self._next()) is not None:
                failure: BaseException | None = None
                try:
                    task()
                except BaseException as error:  # it belongs to whoever waits
                    failure = error
                task = None  # it may hold what an epoch left
                with self._changed:
                    self._ended += 1
                    if failure is not None:
                        self._failure, self._failed_at = failure, self._ended
                    self._worked += time.perf_counter() - self._since
                    self._since = 0.0
                    self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        """The next task to do, None where none is going to come; what follows a failure is passed over."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: bool(self._tasks) or self._is_closed)
                if not self._tasks:
                    return None
                task = self._tasks.popleft()
                if self._failure is None:
                    self._since = time.perf_counter()
                    return task
                self._ended += 1
                self._changed.notify_all()
