"""Standard output and error that may break: their reader may be gone, their terminal closed, their disk full.

What a command says is worth less than what it does, so nothing that cannot be said ends it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

# Room may come back; of anything else (a closed pipe, a lost terminal) nothing more is to be hoped for.
_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EAGAIN)


class Forgiving:
    """A text stream whose writes never fail. `problem`: what the system last refused, None where all was written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.problem: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of every text stream; what cannot be written is left out."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._take(error)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """The same for several."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As of every text stream."""
        try:
            self._stream.flush()
        except OSError as error:
            self._take(error)

    def end(self) -> None:
        """Let go of what could not be written, or the interpreter would try once more and end with status 120."""
        self.flush()
        if self.problem is not None:
            self._give_up()
            with suppress(OSError):
                self._stream.flush()

    def _take(self, error: OSError) -> None:
        self.problem = error
        if error.errno not in _MAY_PASS:
            self._give_up()

    def _give_up(self) -> None:
        """Let all that follows go nowhere, that of libraries too, which write to the descriptor."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Meanwhile nothing that is printed can fail.

    At the end it is said on one stream where the other one's disk was full; a reader that has gone wants no more.
    """
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    out, err = (Forgiving(stream or _nowhere()) for stream in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
    finally:
        out.flush()
        err.flush()
        for stream, name, other in ((out, "standard output", err), (err, "standard error", out)):
            if stream.problem is not None and stream.problem.errno in _MAY_PASS and other.problem is None:
                other.write(f"avbench: {name} could not be written whole ({stream.problem.strerror})\n")
        out.end()
        err.end()
        sys.stdout, sys.stderr = before


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _open_closed_descriptors() -> None:
    """Where a shell has closed one (`2>&-`), the next file would get its number, and libraries write to that."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
