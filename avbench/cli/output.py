"""What commands print: for people on a terminal, or one JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from avbench.errors import AvbenchError


def print_json(value: object) -> None:
    """The answer of a command under --json: the only thing that it writes to stdout. Keys keep their order.

    Escaped to ASCII, so that it can be written whatever the terminal's encoding.
    """
    print(json.dumps(value, indent=2, allow_nan=False))


@contextmanager
def json_errors(*, asked: bool) -> Iterator[None]:
    """Under --json a user's mistake, too, is an object on stdout, {"error": ...}; it still ends as it would without."""
    try:
        yield
    except (AvbenchError, OSError) as error:
        if asked:
            print_json({"error": " ".join(str(error).split())})
        raise


def console() -> Console:
    """Of stdout, as it is now: tests put another in its place."""
    return Console(highlight=False, markup=False, emoji=False)
