"""The errors a user can meet and mend. Each message names the thing, the value, what was expected and the way out.

`cli.main` prints the message as one line and exits with status 2; any other exception is a defect of avbench and keeps
its traceback.
"""

import signal
from collections.abc import Iterable
from difflib import get_close_matches


class AvbenchError(Exception):
    """Base of everything that a user can mend."""


class UsageError(AvbenchError):
    """A command, option or value that cannot be used as given."""


class RecipeError(AvbenchError):
    """A recipe, annotation list or media folder that cannot become clips."""


class DatasetError(AvbenchError):
    """A packed dataset that is missing, of another format version, or not whole."""


class RunError(AvbenchError):
    """A run folder that is missing, already there, locked, or does not fit what is asked of it."""


class Interrupted(Exception):  # noqa: N818  nothing went wrong
    """A training was asked to stop, and stopped where it can go on; `cli.main` exits with INTERRUPTED_STATUS.

    signal: the name of what asked for it, SIGTERM say.
    """

    def __init__(self, signal: str, text: str = "") -> None:
        super().__init__(text or f"interrupted by {signal}")
        self.signal = signal


class AllDiverged(Exception):  # noqa: N818  what was asked for was done, and came to nothing
    """Every run of a training has diverged; `cli.main` exits with DIVERGED_STATUS, and nothing is to start it again."""


class RankLost(Exception):  # noqa: N818  not the fault of whoever reads it
    """Another rank is gone, so this one cannot go on; `cli.main` exits with status 1, and the launcher may restart."""


STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What asks a training to stop. SIGUSR1 is what Slurm sends ahead of a preemption where the job script asks for it."""

INTERRUPTED_STATUS = 75
"""EX_TEMPFAIL of sysexits.h, "try again later": what a job script turns into a requeue."""

DIVERGED_STATUS = 3
"""No run is left: neither success, nor a mistake in what was typed, nor worth another start."""


def unknown(kind: str, value: str, known: Iterable[str]) -> str:
    """The text for an unknown name: says what it was, the near ones, and all that there are."""
    names = sorted(known)
    near = get_close_matches(value, names, n=2, cutoff=0.6)
    hint = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    return f"unknown {kind} {value!r}{hint or ';'} known: {', '.join(names)}"
