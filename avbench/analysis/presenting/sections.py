"""The tables of the page by kind: what is shown at once, and what behind a line to click on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from avbench.analysis.notes import FEW_NOTE
from avbench.analysis.presenting import registry
from avbench.analysis.presenting.sheet import Sheet

# Columns that are shown in another way, and the word for a row of means in the column of seeds.
_NETWORK, _SEED, _MEAN = "network", "seed", "mean"


@dataclass(frozen=True, slots=True)
class Section:
    """One kind of table under one heading: shown at once, and behind a line to click on."""

    kind: str
    heading: str
    shown: tuple[Sheet, ...]
    folded: tuple[Sheet, ...]

    @property
    def anchor(self) -> str:
        """What the table of contents refers to."""
        return f"tables-{self.kind}"


def sections(sheets: Sequence[Sheet]) -> list[Section]:
    """A section for each kind of table that has none of its own in the template and is there, in the page's order."""
    found = []
    for table in sorted((table for table in registry.TABLES if not table.apart), key=lambda table: table.place):
        of_kind = [sheet for sheet in sheets if sheet.kind == table.kind]
        at_once = len(of_kind) if table.all_shown else 1
        whole = [_under_names(sheet) for sheet in of_kind]
        short_ones = [_means_only(sheet) for sheet in whole]
        long_ones = [sheet for sheet, means in zip(whole, short_ones, strict=True) if means is not sheet]
        if of_kind:
            found.append(
                Section(
                    table.kind,
                    table.heading or table.kind.capitalize(),
                    shown=tuple(short_ones[:at_once]),
                    folded=(
                        *short_ones[at_once:],
                        *(replace(one, title=f"{one.title}, every seed") for one in long_ones),
                    ),
                )
            )
    return found


def apart(sheets: Sequence[Sheet]) -> dict[str, list[Sheet]]:
    """The tables that have places of their own in the template, by kind."""
    return {
        table.kind: [sheet for sheet in sheets if sheet.kind == table.kind] for table in registry.TABLES if table.apart
    }


def _under_names(sheet: Sheet) -> Sheet:
    """The sheet with each network in small letters under its method's name: a column of sentences is hard to read."""
    if _NETWORK not in sheet.headings[: sheet.words]:
        return sheet
    place = sheet.headings.index(_NETWORK)
    return replace(
        sheet,
        words=sheet.words - 1,
        headings=_without(sheet.headings, place),
        rows=tuple(_without((replace(row[0], detail=row[place].text), *row[1:]), place) for row in sheet.rows),
    )


def _means_only(sheet: Sheet) -> Sheet:
    """The sheet with the rows of means over seeds only; itself where it has none."""
    place = sheet.headings.index(_SEED) if _SEED in sheet.headings[: sheet.words] else None
    if place is None or not any(row[place].text == _MEAN for row in sheet.rows):
        return sheet
    return replace(
        sheet,
        name=f"{sheet.name}-means",
        caption="In %: mean over seeds ± standard deviation. Each seed with its interval is in a table further down."
        + (f" {FEW_NOTE}" if FEW_NOTE in sheet.caption else ""),
        words=sheet.words - 1,
        headings=_without(sheet.headings, place),
        rows=tuple(_without(row, place) for row in sheet.rows if row[place].text == _MEAN),
    )


def _without(cells: tuple[Any, ...], place: int) -> tuple[Any, ...]:
    return (*cells[:place], *cells[place + 1 :])
