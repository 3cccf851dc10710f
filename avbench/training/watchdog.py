"""The watchdog of a pass: one beat a batch, on every rank alike; so ranks stop together and one that hangs is found.

A signal reaches ranks at different moments, and some not at all; a beat tells all of them, and each leaves before the
same batch. Between beats a thread pins up where this rank is, so that when nothing moves any more, every rank can say
which one the others wait for.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from avbench.distributed import Board, Flags, current_world
from avbench.errors import STOP_SIGNALS, Interrupted

# A terminal and a launcher may both pass on one Ctrl-C.
_ONE_CTRL_C_SECONDS = 1.0
HANGS_STATUS = 70
"""EX_SOFTWARE of sysexits.h: how a rank exits that waits for one that hangs, or hangs itself."""


class Signals:
    """Remembers which signal asked this process to stop, while the context lasts; a second Ctrl-C stops it at once."""

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1

    def __enter__(self) -> Signals:
        # Python takes handlers in its main thread only; elsewhere the program around us decides.
        if threading.current_thread() is threading.main_thread():
            # A handler runs when the main thread is back in Python, which one that hangs never is; so a thread counts.
            self._read_end, self._write_end = socket.socketpair()
            self._write_end.setblocking(False)
            threading.Thread(target=self._count, args=(self._read_end,), name="avbench-signals", daemon=True).start()
            self._wakeup_before = signal.set_wakeup_fd(self._write_end.fileno(), warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._take) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._wakeup_before)
            self._write_end.close()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.asked or number

    def _count(self, read_end: socket.socket) -> None:
        """Take in the numbers of signals as they come, until the context ends."""
        first_at = None
        with read_end:
            while number := read_end.recv(1):
                if number[0] != signal.SIGINT:
                    continue
                if first_at is not None and time.monotonic() - first_at > _ONE_CTRL_C_SECONDS:
                    _stop_now()
                first_at = first_at or time.monotonic()


def _stop_now() -> None:
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a live display hides it
    text = "avbench: stopped at once; what was trained since the last checkpoint is lost, go on with --resume"
    print(f"{cursor}\n{text}", file=sys.stderr, flush=True)
    os._exit(130)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank is. beats: how many it has had. since: when it came there, on its own monotonic clock."""

    beats: int
    where: str
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a rank last pinned up.

    beats, where: its place. seconds: how long it had been there. stack: of training's thread, innermost last. at: when
    it was pinned up, seconds of the Unix clock.
    """

    beats: int
    where: str
    seconds: float
    machine: str
    stack: tuple[str, ...]
    at: float


class Watchdog:
    """Beats of this rank; a context manager, which every rank enters and leaves together.

    hang_seconds: after so long without a beat this rank says on stderr which ranks hang and where, and exits with
    HANGS_STATUS. failed: says whether something that runs beside training has failed here (a checkpoint's writing);
    then `on_failure` is called, on all ranks before the same batch, to raise what went wrong. has_news: says whether
    this rank has found something that all must know; then `on_news`, which may be a collective, is called in the same
    way.
    """

    def __init__(
        self,
        *,
        hang_seconds: float,
        failed: Callable[[], bool],
        on_failure: Callable[[], None],
        has_news: Callable[[], bool] = lambda: False,
        on_news: Callable[[], None] = lambda: None,
    ) -> None:
        self._world = current_world()
        self._hang_seconds = hang_seconds
        self._failed, self._on_failure = failed, on_failure
        self._has_news, self._on_news = has_news, on_news
        self._machine = f"{socket.gethostname()}, process {os.getpid()}"
        self._flags = Flags()
        self._signals = Signals()
        self._place = Place(0, "starting")
        self._thread_id = threading.get_ident()
        self._left = threading.Event()
        self._watch = threading.Thread(target=self._watched, name="avbench-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._signals.__enter__()
        self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._left.set()
        self._watch.join(timeout=1.0)  # it may be waiting for a store that is gone
        self._signals.__exit__()
        if kind is None or issubclass(kind, Interrupted):  # else the other ranks may not have had this rank's last beat
            self._flags.wait()

    def at(self, where: str) -> None:
        """Note where this rank is, between beats."""
        self._place = Place(self._place.beats, where)

    def beat(self, where: str) -> None:
        """A batch is about to be worked on. A collective, one late: it waits for nobody.

        Raises Interrupted on every rank, before the same batch, once any was asked to stop.
        """
        self._place = Place(self._place.beats + 1, where)
        asked, failed, news = self._flags.swap([self._signals.asked, int(self._failed()), int(self._has_news())])
        if failed:
            self._on_failure()
        if news:
            self._on_news()
        if asked:
            raise Interrupted(signal.Signals(asked).name)

    def _watched(self) -> None:
        """Pin up where this rank is, time and again; give up when it has been there for too long."""
        board: Board | None = None
        pause = min(5.0, self._hang_seconds / 8)
        last, still = self._place, 0
        while True:
            # Pauses are counted, not seconds: a process that was stopped and goes on, or a laptop that slept, is well.
            place = self._place
            still = still + 1 if place is last else 0
            last, hangs = place, still * pause >= self._hang_seconds
            try:
                if self._world.size > 1:
                    board = board or Board()
                    board.pin(self._world.rank, json.dumps(asdict(self._pinned(place))))
                if hangs:
                    self._give_up(self._report(board, pause))
            except (RuntimeError, OSError) as error:
                if hangs:
                    self._give_up(f"rank 0, which keeps what ranks pin up, does not answer ({_first_line(error)})")
            if self._left.wait(pause):
                return

    def _pinned(self, place: Place) -> Pinned:
        stack = tuple(_stack(self._thread_id))
        return Pinned(place.beats, place.where, time.monotonic() - place.since, self._machine, stack, time.time())

    def _report(self, board: Board | None, pause: float) -> str:
        if board is None:
            return _described(self._world.rank, self._pinned(self._place), now=time.time())
        pinned = {rank: _unpinned(board.read(rank)) for rank in range(self._world.size)}
        return report(pinned, silent_seconds=4 * pause + 1.0, now=time.time())

    def _give_up(self, text: str) -> None:
        """Say so and exit; training's thread is stuck, in a collective most likely, and answers nobody."""
        seconds = f"{self._hang_seconds:g} s"
        print(f"avbench: rank {self._world.rank}: no progress for {seconds}: {text}", file=sys.stderr, flush=True)
        os._exit(HANGS_STATUS)


def report(pinned: dict[int, Pinned | None], *, silent_seconds: float, now: float) -> str:
    """Which ranks hang and where, from what all have pinned up (None: never anything).

    A rank that has not pinned for silent_seconds is stopped or gone; else those with the fewest beats are the ones that
    the others wait for, and among these the ones outside of collectives.
    """
    silent = {rank: pin for rank, pin in pinned.items() if pin is None or now - pin.at > silent_seconds}
    heard = {rank: pin for rank, pin in pinned.items() if pin is not None and rank not in silent}
    if silent:
        described = [_described(rank, silent[rank], now=now, is_silent=True) for rank in sorted(silent)]
        return "; ".join(described[:_MOST_DESCRIBED])
    fewest = min(pin.beats for pin in heard.values())
    behind = {rank: pin for rank, pin in heard.items() if pin.beats == fewest}
    waited_for = {rank: pin for rank, pin in behind.items() if not _waits(pin)} or behind
    return "; ".join(_described(rank, waited_for[rank], now=now) for rank in sorted(waited_for)[:_MOST_DESCRIBED])


_MOST_DESCRIBED = 4
# The innermost frame of a rank that is in a collective, or in a backward pass, in which DDP averages.
_WAITING_IN = ("torch/distributed/", "avbench/distributed.py", "torch/autograd/graph.py")


def _waits(pin: Pinned) -> bool:
    return bool(pin.stack) and any(part in pin.stack[-1] for part in _WAITING_IN)


def _described(rank: int, pin: Pinned | None, *, now: float, is_silent: bool = False) -> str:
    if pin is None:
        return f"rank {rank} was never heard of"
    silence = f"not heard of for {now - pin.at:.0f} s (stopped, or its machine is gone), last " if is_silent else ""
    stack = " > ".join(pin.stack[-4:])
    return f"rank {rank} ({pin.machine}): {silence}at {pin.where} for {pin.seconds:.0f} s, in {stack}"


def _unpinned(text: str) -> Pinned | None:
    if not text:
        return None
    values = json.loads(text)
    return Pinned(**{**values, "stack": tuple(values["stack"])})


def _stack(thread_id: int) -> Iterator[str]:
    """Frames of a thread, outermost first: file:line function."""
    frame = sys._current_frames().get(thread_id)
    for entry in traceback.extract_stack(frame) if frame is not None else ():
        parts = Path(entry.filename).parts
        yield f"{'/'.join(parts[-3:])}:{entry.lineno} {entry.name}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
