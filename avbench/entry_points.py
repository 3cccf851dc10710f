"""What other packages bring along: classes that they announce by entry points of a group of avbench's."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from avbench.errors import AvbenchError


def announced(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group, by name. None of them is imported yet."""
    return {point.name: point for point in entry_points(group=group)}


def where_of(point: EntryPoint, noun: str) -> str:
    """How a message calls such a class: "method 'mine' of the entry point my_package:Mine"."""
    return f"{noun} {point.name!r} of the entry point {point.value}"


def load(point: EntryPoint, noun: str, error: type[AvbenchError]) -> object:
    """What an entry point names. Raises `error`, in one line, where its module cannot be imported."""
    try:
        return point.load()
    except Exception as failure:  # whatever goes wrong in somebody else's file
        text = f"{where_of(point, noun)} cannot be imported: {type(failure).__name__}: {failure}"
        raise error(text) from failure
