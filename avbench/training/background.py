"""Work that is done beside training, one piece after the other, in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable


class Background:
    """Does what it is given, in that order; after a failure nothing more, until the failure has been raised."""

    def __init__(self, name: str) -> None:
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._failure: BaseException | None = None
        self._worked, self._since = (
            0.0,
            0.0,
        )  # seconds of ended tasks; when the present one began, 0 where there is none
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

    def do(self, task: Callable[[], None]) -> None:
        """Have it done when what came before is."""
        self._tasks.put(task)

    def wait(self) -> None:
        """Until all is done; raises what went wrong, once."""
        self._tasks.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Take no more; the thread ends by itself when all is done."""
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            begun = self._since = time.perf_counter()
            try:
                if self._failure is None:
                    task()
            except BaseException as error:  # it belongs to whoever waits
                self._failure = error
            finally:
                self._since = 0.0
                self._worked += time.perf_counter() - begun
                self._tasks.task_done()
