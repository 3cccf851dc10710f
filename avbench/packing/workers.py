"""Tasks over worker processes, with a progress bar, and without hanging when a worker dies.

Packing and verifying give each process whole shards. Workers are forked from one fresh interpreter (forkserver): the
caller may have threads or a GPU, which a fork of its own would break. They end when their parent does, however it
ends. Each says in shared memory which unit of its task it is at before it begins it, so that of a worker that has died
without a word it is known where that was.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from avbench.progress import progress

T = TypeVar("T")
R = TypeVar("R")

CONTEXT = multiprocessing.get_context("forkserver")
TOO_LONG = "too long"
OUT_OF_MEMORY = "out of memory"
_OUT_OF_MEMORY_STATUS = 77  # of a worker whose memory ran out within a limit (ulimit -v)
# Until one that is asked to stop has come to its next beat.
_GRACE_SECONDS = 30.0
# What a unit's time is counted in at most, so that the time in which this process itself was stopped does not count.
_LONGEST_COUNTED_SECONDS = 1.0


class Stopped(Exception):  # noqa: N818
    """Raised in a task at its next beat when another has failed or the user has interrupted."""


class WorkerDied(Exception):  # noqa: N818
    """A worker process ended without a word: killed, out of memory, or crashed in a decoder.

    begun: for the task that was under way, by number, how many units it had begun.
    """

    def __init__(self, begun: dict[int, int]) -> None:
        super().__init__(begun)
        self.begun = begun


def died_text(doing: str, at: Sequence[str]) -> str:
    """What all commands say of a worker that died. doing: as in "packing". at: what it was at."""
    return f"a {doing} process was killed or crashed (out of memory?) at {' or '.join(at) or 'its start'}"


class Beat:
    """Given to a task, to be called as each unit of its work begins.

    state: [units begun, what the worker is at (of _STARTING, _BETWEEN, _AT_A_UNIT)]. stop: not 0 where it is to stop.
    """

    def __init__(self, state: Any, stop: Any) -> None:
        self._state, self._stop = state, stop

    def __call__(self) -> None:
        """Begin one unit. Raises Stopped where the rest is not wanted any more."""
        if self._stop.value:
            raise Stopped
        self._state[0] += 1
        self._state[1] = _AT_A_UNIT

    def rest(self) -> None:
        """What follows is the work of no unit: whatever happens there is no fault of one."""
        self._state[1] = _BETWEEN


_STARTING, _BETWEEN, _AT_A_UNIT = range(3)


@dataclass(frozen=True)
class Death:
    """How a worker ended without a word.

    begun: how many units of its task it had begun. unit: which one it was at, from 0; None where it was at none. cause:
    a signal's name, such as SIGSEGV, TOO_LONG, OUT_OF_MEMORY, or a status in words. is_at_start: it never came to work.
    """

    begun: int
    unit: int | None
    cause: str
    is_at_start: bool = False


@dataclass(frozen=True)
class Ended(Generic[R]):
    """A task that has ended: with a result, an error, or the death of its worker."""

    number: int
    result: R | None = None
    error: BaseException | None = None
    death: Death | None = None


class Pool(Generic[T, R]):
    """Worker processes that call `function(task, beat)`, one task at a time each; to be used in a `with`.

    One that dies costs its own task only, and another comes in its place. unit_seconds: a worker that is longer at one
    unit is killed.
    """

    def __init__(self, function: Callable[[T, Beat], R], *, workers: int, unit_seconds: float = math.inf) -> None:
        self._stop = CONTEXT.RawValue("b", 0)
        self._places = [_Place(function, self._stop) for _ in range(workers)]
        self._unit_seconds = unit_seconds
        self._looked = time.monotonic()

    def __enter__(self) -> Pool[T, R]:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.value = 1
        deadline = time.monotonic() + _GRACE_SECONDS
        for place in self._places:
            place.close(deadline)

    @property
    def is_free(self) -> bool:
        """Whether a worker waits for a task."""
        return any(place.task is None for place in self._places)

    @property
    def under_way(self) -> list[int]:
        """The numbers of the tasks that workers are at."""
        return [place.task for place in self._places if place.task is not None]

    @property
    def begun(self) -> int:
        """How many units of the tasks under way have begun."""
        return sum(place.state[0] for place in self._places if place.task is not None)

    def start(self, number: int, task: T) -> None:
        """Hand a task to a worker that waits."""
        next(place for place in self._places if place.task is None).start(number, task)

    def ended(self, seconds: float = 0.2) -> list[Ended[R]]:
        """The tasks that have ended; waits so long for the first."""
        busy = {place.connection: place for place in self._places if place.task is not None and place.connection}
        ready = wait(list(busy), timeout=seconds)
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _LONGEST_COUNTED_SECONDS), now
        for connection, place in busy.items():
            if connection not in ready:
                place.look(passed, self._unit_seconds)
        return [place.end() for connection, place in busy.items() if connection in ready]


class _Place:
    """One worker and its task; one that has died is replaced when the next task comes."""

    def __init__(self, function: Callable[..., Any], stop: Any) -> None:
        self._function, self._stop = function, stop
        self.state = CONTEXT.RawArray("q", 2)
        self.task: int | None = None
        self.connection: Connection | None = None
        self._process: BaseProcess | None = None
        self._unit, self._unit_seconds, self._is_too_long = 0, 0.0, False

    def start(self, number: int, task: Any) -> None:
        if self._process is not None:
            try:
                self._hand(number, task)
            except OSError:  # it was killed while it waited
                self._bury()
            else:
                return
        self._begin()
        # One that dies as it starts shows when its answer is awaited.
        with suppress(OSError):
            self._hand(number, task)

    def _hand(self, number: int, task: Any) -> None:
        assert self.connection is not None
        self.task, self.state[0] = number, 0
        self._unit, self._unit_seconds, self._is_too_long = 0, 0.0, False
        self.connection.send(task)

    def _begin(self) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        self.state[0], self.state[1] = 0, _STARTING
        arguments = (theirs, self._function, self.state, self._stop)
        process = CONTEXT.Process(target=_serve, args=arguments)
        process.start()
        self._process = process
        theirs.close()

    def look(self, passed: float, longest: float) -> None:
        """Count the time that the worker is at its unit; kill it where that is too long."""
        unit, is_at_one = self.state[0], self.state[1] == _AT_A_UNIT
        self._unit_seconds = self._unit_seconds + passed if is_at_one and unit == self._unit else 0.0
        self._unit = unit
        if self._unit_seconds > longest and self._process is not None and not self._is_too_long:
            self._is_too_long = True
            self._process.kill()

    def end(self) -> Ended[Any]:
        """What has become of the task, which has ended or whose worker is dead."""
        assert self.task is not None
        assert self.connection is not None
        number, self.task = self.task, None
        try:
            result, error = self.connection.recv()
        except (EOFError, OSError):
            return Ended(number, death=self._death())
        if self._is_too_long:  # killed in the moment in which it had done its work
            self._bury()
        return Ended(number, result, error)

    def _death(self) -> Death:
        begun, is_at_one, is_at_start = self.state[0], self.state[1] == _AT_A_UNIT, self.state[1] == _STARTING
        status = self._bury()
        cause = TOO_LONG if self._is_too_long and is_at_one else cause_of(status)
        return Death(begun, begun - 1 if is_at_one and begun else None, cause, is_at_start)

    def _bury(self) -> int | None:
        """The exit status of a worker that is gone, or is to be."""
        assert self._process is not None
        assert self.connection is not None
        self.connection.close()
        self._process.join(_GRACE_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        status = self._process.exitcode
        self._process.close()
        self._process = self.connection = None
        return status

    def close(self, deadline: float) -> None:
        """End the worker: at once where it waits, else at its next beat, and by force where that does not come."""
        if self._process is None or self.connection is None:
            return
        if self.task is not None and not self.connection.poll(max(0.0, deadline - time.monotonic())):
            self._process.kill()
        self.task = None
        self._bury()  # a worker that waits ends with its connection


def is_importing_main() -> bool:
    """Whether this is a child process that runs its parent's script anew, to know what that defines.

    Whatever starts processes must not do so there: the script lacks `if __name__ == "__main__":`.
    """
    return bool(getattr(multiprocessing.current_process(), "_inheriting", False))


def cause_of(status: int | None) -> str:
    """Why a process ended without a word, by its exit status as `multiprocessing` gives it."""
    if status == _OUT_OF_MEMORY_STATUS:
        return OUT_OF_MEMORY
    if status is not None and status < 0:
        with suppress(ValueError):
            return signal.Signals(-status).name
    return f"status {status}"


def end_without_memory() -> None:
    """End this process in the way that its parent takes for the lack of memory."""
    os._exit(_OUT_OF_MEMORY_STATUS)


def run_tasks(
    function: Callable[[T, Beat], R], tasks: Sequence[T], *, units: Sequence[int], workers: int, title: str, unit: str
) -> Iterator[tuple[int, R]]:
    """Call `function(task, beat)` for every task in so many processes; yields (task number, result) as they end.

    units: how many units of work each task has, for the progress bar. One worker is this process itself. An error of a
    task is raised here, after the others have stopped; WorkerDied where a process is gone.
    """
    total = sum(units)
    with progress(title, unit) as show:
        if workers == 1:
            yield from _run_here(function, tasks, lambda done: show(done, total))
        else:
            count = min(workers, max(1, len(tasks)))
            yield from _run_in_processes(function, tasks, units, count, lambda done: show(done, total))


def _run_here(
    function: Callable[[T, Beat], R], tasks: Sequence[T], show: Callable[[int], None]
) -> Iterator[tuple[int, R]]:
    class State(list):
        def __setitem__(self, index: Any, value: Any) -> None:
            super().__setitem__(index, value)
            show(self[0])

    beat = Beat(State([0, _BETWEEN]), CONTEXT.RawValue("b", 0))
    for number, task in enumerate(tasks):
        yield number, function(task, beat)


def _run_in_processes(
    function: Callable[[T, Beat], R],
    tasks: Sequence[T],
    units: Sequence[int],
    workers: int,
    show: Callable[[int], None],
) -> Iterator[tuple[int, R]]:
    waiting = iter(enumerate(tasks))
    left, done = len(tasks), 0
    with Pool(function, workers=workers) as pool:
        while left:
            while pool.is_free and (following := next(waiting, None)) is not None:
                pool.start(*following)
            for ended in pool.ended():
                left, done = left - 1, done + units[ended.number]
                yield ended.number, _result(ended)
            show(done + pool.begun)


def _result(ended: Ended[R]) -> R:
    if ended.death is not None:
        raise WorkerDied({ended.number: ended.death.begun} if ended.death.begun else {})
    if ended.error is not None:
        raise ended.error
    return ended.result  # type: ignore[return-value]


# In a worker.


def begin_child() -> None:
    """First thing in a process that works for another: it hears no Ctrl-C, and ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and stops the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _serve(connection: Connection, function: Callable[[Any, Beat], Any], state: Any, stop: Any) -> None:
    """Body of a worker: tasks come until the connection is closed."""
    begin_child()
    state[1] = _BETWEEN
    with suppress(EOFError, OSError):  # the parent has closed its end
        while True:
            outcome = _outcome(function, connection.recv(), Beat(state, stop))
            state[1] = _BETWEEN
            try:
                connection.send(outcome)
            except (TypeError, ValueError, AttributeError):
                connection.send((None, RuntimeError(f"cannot be sent to another process: {outcome!r}")))


def _outcome(function: Callable[[Any, Beat], Any], task: Any, beat: Beat) -> tuple[Any, Any]:
    try:
        return function(task, beat), None
    except MemoryError:
        end_without_memory()
        raise
    except Exception as error:
        return None, ExceptionWithTraceback(error, error.__traceback__)
