"""How fast trainings ran."""

from __future__ import annotations

from collections.abc import Sequence

from avbench.analysis.measures.performance import QUANTITIES, Quantity, Speed
from avbench.analysis.presenting.sheet import NOTHING, Cell, Sheet
from avbench.analysis.presenting.table import File, Record, Table
from avbench.analysis.presenting.tables.cells import only_if

PERFORMANCE_FILE = "performance.csv"
MOST_RANKS = 8  # that have rows of their own on the page


def performance_sheet(speeds: Sequence[Speed]) -> Sheet:
    """All ranks of every training, and each of a few; columns without a number are left out."""
    shown = [one for one in speeds if one.rank is None or one.ranks <= MOST_RANKS]
    quantities = [quantity for quantity in QUANTITIES if any(quantity.name in one.values for one in shown)]
    several = any(one.ranks > 1 for one in shown)
    hidden = len(shown) < len(speeds)
    together = (
        " All ranks: shares are means over ranks, memory is the highest of one rank, the rest are sums. Slowest: the "
        "rank whose step took longest most often, and how many times the fastest one's."
    )
    return Sheet(
        name="performance",
        kind="performance",
        title="How fast it ran",
        caption="Medians over logging intervals; each launch's first is left out."
        + (together if several else "")
        + (f" Each rank of more than {MOST_RANKS} is in {PERFORMANCE_FILE}." if hidden else ""),
        words=2 if several else 1,
        headings=(
            "training",
            *only_if(several, "ranks"),
            "intervals",
            *(quantity.heading for quantity in quantities),
            *only_if(several, "slowest rank"),
        ),
        rows=tuple(_performance_row(one, quantities, several=several) for one in shown),
    )


def _performance_row(one: Speed, quantities: Sequence[Quantity], *, several: bool) -> tuple[Cell, ...]:
    who = f"{one.ranks} together" if one.rank is None and one.ranks > 1 else str(one.rank or 0)
    slowest = Cell(NOTHING)
    if one.slowest_rank is not None:
        slowest = Cell(str(one.slowest_rank), f"({one.slowest_over_fastest:.2f}×)", one.slowest_over_fastest)
    return (
        Cell(one.training),
        *only_if(several, Cell(who)),
        Cell(f"{one.intervals:,}", value=float(one.intervals)),
        *(_quantity_cell(quantity, one.values.get(quantity.name)) for quantity in quantities),
        *only_if(several, slowest),
    )


def _quantity_cell(quantity: Quantity, value: float | None) -> Cell:
    if value is None:
        return Cell(NOTHING)
    return Cell(f"{quantity.scale * value:,.{quantity.digits}f}", value=value)


def speed_record(one: Speed) -> Record:
    """A row of performance.csv."""
    return {
        "training": one.training,
        "ranks": one.ranks,
        "rank": "all" if one.rank is None else one.rank,
        "intervals": one.intervals,
        **{quantity.name: one.values.get(quantity.name) for quantity in QUANTITIES},
        "slowest_rank": one.slowest_rank,
        "slowest_over_fastest": one.slowest_over_fastest,
    }


PERFORMANCE = Table(
    "performance",
    sheets=lambda evaluation, results: [performance_sheet(evaluation.speeds)],
    files=(
        File(
            PERFORMANCE_FILE,
            "of each training, for all ranks together and for each: clips/s, waiting for data, GPU, memory, power, "
            "joules a clip, CPU, bytes read",
            lambda evaluation, results: [speed_record(one) for one in evaluation.speeds],
        ),
    ),
    apart=True,
)
