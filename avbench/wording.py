"""How a message counts things and names the first few of many."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """A number of things with its noun: "1 clip", "2 clips", "15,446 clips"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_of(names: Sequence[str], most: int, *, separator: str = ", ", noun: str = "") -> str:
    """The first names, and how many more there are: "a, b and 3 more".

    noun: said of those that are not named: "a, b and 3 more sizes".
    """
    if len(names) <= most:
        return separator.join(names)
    left = len(names) - most
    more = counted(left, f"more {noun}") if noun else f"{left:,} more"
    return f"{separator.join(names[:most])} and {more}"
