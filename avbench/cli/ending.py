"""How a command ends: with 0, or with a status that says why and one line. The only place that exits the process."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from avbench.cli.parsing import value_of
from avbench.errors import (
    DIVERGED_STATUS,
    INTERRUPTED_STATUS,
    AllDiverged,
    AvbenchError,
    Interrupted,
    RankLost,
)

# A full or read-only disk, a folder that belongs to somebody else.
_NEARLY_FULL = 1 << 20  # bytes left


_NOT_OURS_TO_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def exit_as_it_ends(words: Sequence[str], command: Callable[[Sequence[str]], None]) -> None:
    """Run the command with these words; returns where it ends well, and exits where it does not."""
    try:
        command(words)
    except AvbenchError as error:
        print(f"avbench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _NOT_OURS_TO_MEND:
            raise
        place = error.filename or _written_to(words, is_full=error.errno == errno.ENOSPC)
        text = os.strerror(error.errno)  # libraries put their own words around it
        print(f"avbench: {place}: {text}; make room or give the right to write, then go on", file=sys.stderr)
        sys.exit(2)
    except Interrupted as interrupted:
        if _is_first_rank():
            print(f"avbench: {interrupted}", file=sys.stderr)
        sys.exit(INTERRUPTED_STATUS)
    except AllDiverged as diverged:
        if _is_first_rank():
            print(f"avbench: {diverged}", file=sys.stderr)
        sys.exit(int(os.environ.get("AVBENCH_DIVERGED_STATUS", DIVERGED_STATUS)))
    except RankLost as lost:
        print(f"avbench: {lost}", file=sys.stderr, flush=True)
        # Threads may be waiting for the rank that is gone, and so would the interpreter.
        os._exit(1)
    except KeyboardInterrupt:
        print("avbench: interrupted", file=sys.stderr)
        sys.exit(130)


def _is_first_rank() -> bool:
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def _written_to(argv: Sequence[str], *, is_full: bool) -> str:
    """The folder or file that a command writes to, for an error that names none; of several the one that is full."""
    named = [value_of(argv, flag) for flag in ("--out", "--export", "--json")]
    # Else it is a positional one, which is there already; a value of some option seldom is.
    there = [word for word in argv[1:] if not word.startswith("-") and Path(word).exists()]
    places = [place for place in named if place and not place.startswith("-")] or there or ["."]
    full = [place for place in (*places, tempfile.gettempdir()) if is_full and _free_bytes(Path(place)) < _NEARLY_FULL]
    return (full or places)[0]


def _free_bytes(path: Path) -> int:
    there = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), Path("/"))
    return shutil.disk_usage(there).free
