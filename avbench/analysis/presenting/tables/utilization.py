"""What joint networks, and branches of them, take from each modality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from avbench.analysis.measures.accuracy import subset_name
from avbench.analysis.measures.utilization import OTHER, Utilization
from avbench.analysis.presenting.sheet import NOTHING, Cell, Sheet
from avbench.analysis.presenting.table import File, Record, Table
from avbench.analysis.presenting.tables.cells import percent, signed, with_mark
from avbench.vocabulary import MODALITIES


def _in_sheets(found: Sequence[Utilization]) -> Iterator[tuple[str, Utilization]]:
    """Those that have a row on the page, with what their clips are called: no ties, and overall once a run."""
    seen = set()
    for one in found:
        is_overall = one.subset == "overall"
        if one.subset == "tie" or (is_overall and one.run in seen):
            continue
        seen.add(one.run)
        yield "overall" if is_overall else f"{subset_name(one.subset, one.threshold)}, T = {one.threshold:g}", one


def utilization_sheet(found: Sequence[Utilization]) -> Sheet:
    """What a joint network loses without each modality."""
    rows = []
    for name, one in _in_sheets(found):
        shares = [one.conditional[modality] for modality in MODALITIES]
        rows.append(
            (
                Cell(one.run),
                Cell(with_mark(name, one.clips)),
                *(percent(value) for value in (one.both, *(one.replaced[modality] for modality in MODALITIES))),
                *(Cell(NOTHING) if share is None else Cell(signed(share, 3), value=share) for share in shares),
                *(Cell(signed(100 * one.shapley[name]), value=one.shapley[name]) for name in MODALITIES),
            )
        )
    return Sheet(
        name="utilization",
        kind="utilization",
        title="Use of each modality by joint networks",
        caption="Accuracy in % with both modalities and with one's features replaced by their mean over train; u, the "
        "share of the network's accuracy that is lost without a modality; and each modality's Shapley value in points. "
        "The two values add up to the accuracy with both minus chance, "
        f"{100 * found[0].chance if found else 0:.1f} %: one over the number of classes, which a network that always "
        "names the same, unknown class has. Wu et al.'s conditional utilization rate has the form of u, but is of one "
        "branch's own prediction; networks whose branches see each other have it in a table of its own.",
        words=2,
        headings=(
            "method", "clips", "both", "audio replaced", "visual replaced", "u(audio | visual)", "u(visual | audio)",
            "Shapley audio", "Shapley visual",
        ),
        rows=tuple(rows),
    )  # fmt: skip


def branches_sheet(found: Sequence[Utilization]) -> Sheet:
    """What each branch loses without the other modality."""
    rows = [
        (
            Cell(one.run),
            Cell(with_mark(name, one.clips)),
            *(
                cell
                for modality in MODALITIES
                for use in [one.branches[modality]]
                for share in [use.utilization]
                for cell in (
                    percent(use.both),
                    percent(use.alone),
                    Cell(NOTHING) if share is None else Cell(signed(share, 3), value=share),
                )
            ),
        )
        for name, one in _in_sheets(found)
        if one.branches
    ]
    return Sheet(
        name="branches",
        kind="branches",
        title="Use of the other modality by each branch",
        caption="For networks whose branches see each other: accuracy in % of each branch's own prediction, as trained "
        "and with the other modality's features replaced by their mean over train, and the share of it that is lost, "
        "u. That is the conditional utilization rate of Wu et al. (ICML 2022) as a public re-implementation defines "
        "it; the paper's text was not at hand.",
        words=2,
        headings=(
            "method", "clips",
            *(
                heading
                for modality in MODALITIES
                for heading in (
                    f"{modality} branch", f"without {OTHER[modality]}", f"branch's u({OTHER[modality]} | {modality})",
                )
            ),
        ),
        rows=tuple(rows),
    )  # fmt: skip


def utilization_record(one: Utilization) -> Record:
    """A row of utilization.csv."""
    return {
        "method": one.run,
        "subset": one.subset,
        "threshold": one.threshold,
        "clips": one.clips,
        "both": one.both,
        **{f"{modality}_replaced": one.replaced[modality] for modality in MODALITIES},
        "chance": one.chance,
        **{f"{modality}_utilization": one.conditional[modality] for modality in MODALITIES},
        **{f"{modality}_shapley": one.shapley[modality] for modality in MODALITIES},
        **{name: value for modality in MODALITIES for name, value in _branch_record(one, modality).items()},
    }


def _branch_record(one: Utilization, modality: str) -> Record:
    """What a modality's branch makes of the other; empty where branches do not see each other."""
    use = one.branches.get(modality)
    return {
        f"{modality}_branch": use and use.both,
        f"{modality}_branch_without_{OTHER[modality]}": use and use.alone,
        f"{modality}_branch_{OTHER[modality]}_utilization": use and use.utilization,
    }


UTILIZATION = Table(
    "utilization",
    sheets=lambda evaluation, results: [utilization_sheet(evaluation.utilization)],
    files=(
        File(
            "utilization.csv",
            "accuracy with a modality replaced by its mean, the share that is lost, Shapley values; for Greedy's "
            "branches, which see each other, the paper's conditional utilization rate",
            lambda evaluation, results: [utilization_record(one) for one in evaluation.utilization],
        ),
    ),
    heading="What each modality contributes",
    place=70,
)
BRANCHES = Table(
    "branches",
    sheets=lambda evaluation, results: [branches_sheet(evaluation.utilization)],
    heading="What each branch takes from the other modality",
    place=80,
)
