"""What benchmarks/gpu.py asks, one module a group of questions; each has `rows(setting)`, in order of worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of an answer. seconds: what it takes on one H100 with the defaults, at most, by which it is skipped
    where less is left. find: measures, and returns what JSON can hold; what it raises is the row's answer then.
    """

    answer: str
    name: str
    seconds: float
    find: Callable[[], Any]
