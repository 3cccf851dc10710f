"""How far a long computation is: a bar on a terminal, elsewhere a plain line every ten seconds at most."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
Show = Callable[[int, int], None]

_LINE_SECONDS = 10.0


class NowAndThen:
    """Says when the next plain line is due: at once or after some seconds, and then ten seconds after each line."""

    def __init__(self, *, first_seconds: float = 0.0) -> None:
        self._due = time.monotonic() + first_seconds

    def is_due(self) -> bool:
        """Whether a line is due now; if so, the next one is due ten seconds later."""
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + _LINE_SECONDS
        return True


@contextmanager
def progress(title: str, unit: str = "", *, patience_seconds: float = 0.0) -> Iterator[Show]:
    """Gives a function to call with (done, total), as often as there is something to say; it shows them on stderr.

    unit: in the plural, such as "clips"; with it the rate is shown too. patience_seconds: a computation that ends
    sooner shows nothing, and the bar of one that takes longer is taken away when it ends.
    """
    is_terminal = sys.stderr.isatty()
    with _bar(title, unit, patience_seconds) if is_terminal else _lines(title, unit, patience_seconds) as show:
        yield show


def tracked(items: Collection[T], title: str) -> Iterator[T]:
    """The items, one after the other, while it is shown how many are done."""
    with progress(title) as show:
        for done, item in enumerate(items):
            show(done, len(items))
            yield item
        show(len(items), len(items))


def duration(seconds: float) -> str:
    """A time in words: "3 min 05 s" or, from an hour on, "2 h 10 min"."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left:02d} s"


@contextmanager
def _bar(title: str, unit: str, patience_seconds: float) -> Iterator[Show]:
    rate = (_Rate(unit),) if unit else ()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *rate, TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=patience_seconds > 0)
    task = bar.add_task(title, total=None)
    starts = time.monotonic() + patience_seconds
    is_started = False

    def show(done: int, total: int) -> None:
        nonlocal is_started
        if not is_started and time.monotonic() >= starts:
            bar.start()
            is_started = True
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        if is_started:
            bar.stop()


@contextmanager
def _lines(title: str, unit: str, patience_seconds: float) -> Iterator[Show]:
    began = time.monotonic()
    now_and_then = NowAndThen(first_seconds=patience_seconds or _LINE_SECONDS)

    def show(done: int, total: int) -> None:
        if done and now_and_then.is_due():
            rate = done / max(time.monotonic() - began, 1e-9)
            speed = f" {unit}, {rate:.1f} {unit}/s, {(total - done) / rate:.0f} s left" if unit else ""
            print(f"{title}: {done} of {total}{speed}", file=sys.stderr, flush=True)

    yield show


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self._unit}/s" if task.speed else "")
