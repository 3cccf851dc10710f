"""How far a long computation is: a bar in a terminal, a line now and then elsewhere, nothing for a short one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

# A computation that ends sooner shows nothing; where there is no terminal, lines are this far apart.
_PATIENCE_SECONDS = 3.0
_LINE_SECONDS = 10.0


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to be told (done, total); it shows them on standard error."""
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(what)
    shown = time.monotonic() + _PATIENCE_SECONDS
    started = False

    def tick(done: int, total: int) -> None:
        nonlocal shown, started
        if time.monotonic() < shown:
            return
        if bar.console.is_terminal:
            if not started:
                bar.start()
                started = True
            bar.update(task, completed=done, total=total)
        else:
            shown = time.monotonic() + _LINE_SECONDS
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    try:
        yield tick
    finally:
        if started:
            bar.stop()
