"""What must hold of clips, classes and runs whoever wrote the file: each rule once, for run folders and for own files.

Run folders name clips by number and own files by key, and the way out of a mistake differs, so the words are the
caller's: `text` makes the one line of the RunError that every check raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Protocol, TypeVar

import numpy as np

from avbench.analysis.measures.accuracy import Labels
from avbench.analysis.measures.discrepancy import Floats, Mask
from avbench.errors import RunError, UsageError, unknown
from avbench.vocabulary import SPLITS


class Named(Protocol):
    """One run under one seed, whatever else is known of it."""

    @property
    def run(self) -> str:
        """Its name."""

    @property
    def seed(self) -> int:
        """Its seed."""

    @property
    def method(self) -> str:
        """What it is an instance of."""


N = TypeVar("N", bound=Named)


def check_split(split: str) -> None:
    """Raises UsageError for a split that there is not."""
    if split not in SPLITS:
        raise UsageError(unknown("split", split, SPLITS))


def check_names(
    found: Iterable[N], *, twice: Callable[[N, N], str], unlike: Callable[[N, N], str], taken: Set[str] = frozenset()
) -> None:
    """No two are of one name and seed, and one name stands for one method: seeds of a name are averaged.

    taken: names that none may have. twice, unlike: what is said of the first that has the name, and of the other.
    """
    seen: dict[tuple[str, int], N] = {}
    methods: dict[str, N] = {}
    for one in found:
        same = seen.setdefault((one.run, one.seed), one)
        if one.run in taken or same is not one:
            raise RunError(twice(same, one))
        namesake = methods.setdefault(one.run, one)
        if namesake.method != one.method:
            raise RunError(unlike(namesake, one))


def check_confidences(values: Floats, recorded: Mask, *, text: Callable[[int, int], str]) -> None:
    """What was recorded lies in [0, 1]; a NaN does not. text: of the first wrong row, and of how many there are."""
    wrong = recorded & ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise RunError(text(int(np.argmax(wrong)), int(wrong.sum())))


def check_same_labels(labels: Labels, others: Labels, *, text: Callable[[int, int], str]) -> None:
    """Two say the same of the same clips. text: of the first row that differs, and of how many there are."""
    differ = labels != others
    if differ.any():
        raise RunError(text(int(np.argmax(differ)), int(differ.sum())))


def check_two_classes(labels: Labels, *, where: str, which: str, named: Callable[[int], str], way_out: str) -> None:
    """Clips are of two classes or more. which: clips these are; named: what a class is called."""
    present = np.unique(labels)
    if len(present) < 2:
        raise RunError(
            f"{where}: every {which} has the same class ({named(int(present[0]))}); accuracies mean nothing there: "
            f"{way_out}"
        )
