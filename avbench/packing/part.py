"""A part of a pack, of which several are made at once, on one machine or on many."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from avbench.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Part `number` of so many, from 0."""

    number: int = 0
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def its(self, shards: Sequence[T]) -> Sequence[T]:
        """The shards that are this part's: every `of`-th, so that each part has some of every split."""
        return shards[self.number :: self.of]


WHOLE = Part()


@dataclass(frozen=True)
class Unfinished:
    """A part that has made its own shards, of a dataset that lacks others. left: how many of `shards` are missing."""

    out: Path
    part: Part
    own: int
    left: int
    shards: int


def part_named(text: str) -> Part:
    """A part by its name, such as 0/16. Raises UsageError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text, flags=re.ASCII)
    if match is None:
        raise UsageError(f"--part is {text!r}; expected K/N, such as 0/16 for the first of sixteen parts")
    number, of = int(match[1]), int(match[2])
    if number >= of:
        last = f"the last of {of} is {of - 1}/{of}" if of else "there is at least one"
        raise UsageError(f"--part is {text}; parts are counted from 0, so {last}")
    return Part(number, of)
