"""What a table is before it becomes a file or a part of a page: words, numbers and how they are told apart."""

from __future__ import annotations

from dataclasses import dataclass

NOTHING = "–"  # where there is no number


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: what it says, what stands smaller beside it ("[67.0, 75.0]", "± 0.4"), and a number to sort by.

    best: whether it is the highest of its column. value: None for words and for empty cells, which sort last.
    """

    text: str
    detail: str = ""
    value: float | None = None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table. Its first `words` columns are words, aligned left; the rest are numbers, aligned right.

    name: unique, fit for a file name or an anchor, such as "accuracy-0.2". kind: tables of a kind differ by the
    threshold only; see `registry`. title, caption: a heading of a few words, and what the numbers are, in a sentence or
    two.
    """

    name: str
    kind: str
    title: str
    caption: str
    words: int
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def one_line(text: str) -> str:
    """The words of a text with single spaces between them."""
    return " ".join(text.split())
