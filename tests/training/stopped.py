"""`python -m tests.training.stopped BEATS -- train ...`: avbench, sent SIGTERM after so many batches of any kind.

Under torchrun, rank 0 is.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from avbench.cli import main
from avbench.training.watchdog import Watchdog


@contextmanager
def stopped_after(beats: int, number: int = signal.SIGTERM) -> Iterator[list[str]]:
    """Meanwhile this process sends itself the signal before the batch that comes then; yields where it was by then."""
    original, places = Watchdog.beat, []

    def beat(self: Watchdog, where: str) -> None:
        places.append(where)
        if len(places) == beats + 1:
            os.kill(os.getpid(), number)
        original(self, where)

    Watchdog.beat = beat  # type: ignore[method-assign]
    try:
        yield places
    finally:
        Watchdog.beat = original  # type: ignore[method-assign]


if __name__ == "__main__":
    beats = int(sys.argv[1])
    with stopped_after(beats if os.environ.get("RANK", "0") == "0" else sys.maxsize):
        main(sys.argv[3:])
