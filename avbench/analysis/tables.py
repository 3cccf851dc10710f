"""Tables as a reader sees them, and their files: CSV, Markdown, LaTeX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avbench.analysis.report import Evaluation


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: what it says, what stands smaller beside it (an interval, a deviation), and a number to sort by.

    best: whether it is the highest of its column. value: None for words and for empty cells, which sort last.
    """

    text: str
    detail: str = ""
    value: float | None = None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table. Its first `words` columns are words, aligned left; the rest are numbers, aligned right.

    name: of its kind and unique, fit for a file name or an anchor, such as "accuracy-0.2". kind: tables of a kind
    differ by the threshold only: "accuracy", "seeds", "cross-seed", "metrics", "significance", "published", "parts",
    "utilization", "planted". title, caption: a heading of a few words, and what the numbers are in a sentence.
    """

    name: str
    kind: str
    title: str
    caption: str
    words: int
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def sheets(evaluation: Evaluation) -> tuple[Sheet, ...]:
    """Every table of an evaluation, in order."""
    return ()
