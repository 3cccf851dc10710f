"""What a kind of table says of itself: sheets, files, its place on the page. `registry` has all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from avbench.analysis.assessment import Evaluation
from avbench.analysis.presenting.sheet import Sheet
from avbench.analysis.reading.results import Results

Record = dict[str, Any]  # column -> value, the same columns in every record of a file


@dataclass(frozen=True, slots=True)
class File:
    """A CSV file of numbers in full precision.

    says: what is in it, as the documentation's table of files has it. records: its rows, which may be none; then there
    is no file. A column `few_clips` is put after `clips`.
    """

    name: str
    says: str
    records: Callable[[Evaluation, Results], Sequence[Record]]


@dataclass(frozen=True, slots=True)
class Table:
    """A kind of table; whatever shows, writes, lists or explains tables takes it from here.

    sheets: as a reader sees it, often one a threshold; those without rows are left out. Each has this kind.
    heading: over its section of the page. place: of the section among the others, ascending; without one it is the
    last. all_shown: whether every sheet is shown at once, not only the first. apart: whether the page's template has a
    place of its own for it, and it gets no section.
    """

    kind: str
    sheets: Callable[[Evaluation, Results], Iterable[Sheet]] = lambda evaluation, results: ()
    files: tuple[File, ...] = ()
    heading: str = ""
    place: int = 1000
    all_shown: bool = False
    apart: bool = False


def as_records(rows: Sequence[Any]) -> list[Record]:
    """Dataclasses as records; what they call a run is a method to a reader."""
    return [{"method" if name == "run" else name: value for name, value in asdict(row).items()} for row in rows]
