"""Cells and columns that several tables have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from avbench.analysis.measures.accuracy import SUBSETS, Accuracy, subset_name
from avbench.analysis.measures.seeds import SeedCell, SeedTable
from avbench.analysis.measures.statistics import is_few
from avbench.analysis.notes import FEW
from avbench.analysis.presenting.sheet import NOTHING, Cell, Sheet

T = TypeVar("T")

# What rounding may leave between means that are equal, far below the difference that one clip makes.
_EQUAL = 1e-9


def with_mark(text: str, clips: float) -> str:
    """The name of a subset of so many clips, or a number about it, with the mark of few."""
    return f"{text} {FEW}" if is_few(clips) else text


def by_subset(
    *,
    kind: str,
    title: str,
    caption: str,
    words: Sequence[str],
    threshold: float,
    counts: Mapping[str, float],
    rows: Sequence[tuple[Cell, ...]],
) -> Sheet:
    """A sheet whose numbers are one column a subset; its heading has the subset's number of clips."""
    names = (with_mark(f"{subset_name(subset, threshold)} ({count:,.0f})", count) for subset, count in counts.items())
    headings = (*words, *names)
    return Sheet(f"{kind}-{threshold:g}", kind, title, caption, len(words), headings, tuple(rows))


def seed_rows(
    table: SeedTable, threshold: float, *, words: Callable[[str, str], tuple[Cell, ...]]
) -> list[tuple[Cell, ...]]:
    """A row a run, or a part of one: its accuracies over seeds. words: what the row begins with."""
    cells = [
        [seed_cell(table.cell(run, subset, threshold, part=part)) for subset in SUBSETS] for run, part in table.rows
    ]
    marked = mark_best(cells)
    return [(*words(*row), *numbers) for row, numbers in zip(table.rows, marked, strict=True)]


def mark_best(rows: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
    """The same cells, the highest of each column marked."""
    highest = [
        max((cell.value for cell in column if cell.value is not None), default=None)
        for column in zip(*rows, strict=True)
    ]
    return [
        [
            replace(cell, best=best is not None and cell.value is not None and cell.value >= best - _EQUAL)
            for cell, best in zip(row, highest, strict=True)
        ]
        for row in rows
    ]


def accuracy_cell(cell: Accuracy) -> Cell:
    """The accuracy of one run and seed with its interval."""
    return percent(cell.accuracy, interval=(cell.low, cell.high))


def seed_cell(cell: SeedCell) -> Cell:
    """A mean over seeds with its deviation."""
    shown = percent(cell.mean)
    return shown if cell.deviation is None else replace(shown, detail=f"± {100 * cell.deviation:.1f}")


def percent(value: float | None, *, interval: tuple[float | None, float | None] = (None, None)) -> Cell:
    """A fraction in per cent, with an interval where there is one."""
    if value is None:
        return Cell(NOTHING)
    low, high = interval
    detail = "" if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"
    return Cell(f"{100 * value:.1f}", detail, value)


def signed(number: float, digits: int = 1) -> str:
    """With its sign, a true minus; what rounds to zero has none."""
    text = f"{number:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def only_if(condition: bool, value: T) -> tuple[T, ...]:
    """The value alone where the condition holds, else nothing: a column that only some tables have."""
    return (value,) if condition else ()


def any_networks(networks: Mapping[str, str]) -> bool:
    """Whether somebody said what a network is."""
    return any(networks.values())
