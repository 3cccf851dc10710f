"""Each method against each unimodal network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from avbench.analysis.measures.accuracy import subset_name
from avbench.analysis.measures.significance import ALPHA, Comparison
from avbench.analysis.presenting.sheet import NOTHING, Cell, Sheet
from avbench.analysis.presenting.table import File, Record, Table, as_records
from avbench.analysis.presenting.tables.cells import signed, with_mark
from avbench.vocabulary import MODALITIES

_SMALLEST_P = 1e-6  # whatever is below it says no more; far above what rounding leaves of the transform


def significance_sheet(comparisons: Sequence[Comparison], threshold: float) -> Sheet:
    """Each method against each unimodal network on both sides."""
    here = [one for one in comparisons if one.threshold == threshold]
    by_place = {(one.run, one.unimodal, one.subset): one for one in here}
    rows = [
        (Cell(run), Cell(unimodal), *_difference_cells(by_place, run, unimodal))
        for run, unimodal in dict.fromkeys((one.run, one.unimodal) for one in here)
    ]
    clips = {one.subset: one.clips for one in here}
    names = {modality: subset_name(modality, threshold) for modality in MODALITIES}
    headings = [
        with_mark(f"{name}: {what}" if what != "p" else what, clips.get(modality, 0))
        for modality, name in names.items()
        for what in ("difference", "p")
    ]
    return Sheet(
        name=f"significance-{threshold:g}",
        kind="significance",
        title=f"Against the unimodal networks, T = {threshold:g}",
        caption="Accuracy of a method minus that of a unimodal network, in points, and the p value of the exact paired "
        f"sign-flip test over clips (correctness averaged over seeds), two-sided, Holm-corrected for all "
        f"{len(comparisons)} comparisons of method, unimodal network, audio and visual side, and threshold. "
        f"*: p < {ALPHA:g}.",
        words=2,
        headings=("method", "against", *headings),
        rows=tuple(rows),
    )


def _difference_cells(by_place: Mapping[tuple[str, str, str], Comparison], run: str, unimodal: str) -> Iterable[Cell]:
    for modality in MODALITIES:
        one = by_place.get((run, unimodal, modality))
        if one is None:  # the subset is empty
            yield from (Cell(NOTHING), Cell(NOTHING))
            continue
        star = " *" if one.significant else ""
        yield Cell(signed(100 * one.difference), value=one.difference)
        yield Cell(f"{_p_text(one.p_holm)}{star}", value=one.p_holm)


def _p_text(p: float) -> str:
    if p < _SMALLEST_P:
        return f"< {_SMALLEST_P:.0e}"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def significance_records(comparisons: Sequence[Comparison]) -> list[Record]:
    """Rows of significance.csv."""
    return [
        {**record, "significant": int(one.significant)}
        for record, one in zip(as_records(comparisons), comparisons, strict=True)
    ]


SIGNIFICANCE = Table(
    "significance",
    sheets=lambda evaluation, results: [
        significance_sheet(evaluation.comparisons, T) for T in evaluation.table.thresholds
    ],
    files=(
        File(
            "significance.csv",
            "each method against each unimodal network, on each side at each threshold: difference and p",
            lambda evaluation, results: significance_records(evaluation.comparisons),
        ),
    ),
    heading="Is it more than chance?",
    place=30,
)
