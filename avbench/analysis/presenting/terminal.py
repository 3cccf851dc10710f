"""The accuracies in a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.accuracy import SUBSETS
from avbench.analysis.measures.statistics import is_few
from avbench.analysis.notes import FEW_NOTE
from avbench.analysis.presenting.sheet import NOTHING
from avbench.analysis.presenting.tables.cells import with_mark

# Two sides and the ties, as a column of any threshold is called in a terminal.
_SHORT = {"overall": "overall", "audio": "audio side", "visual": "visual side", "tie": "tie"}


def terminal_table(evaluation: Evaluation) -> Table:
    """The accuracies for a terminal of 80 columns or more, in per cent.

    One seed: with the interval in whole per cents. Several: mean and standard deviation over them.
    """
    table = evaluation.table
    several = len(table.seeds) > 1
    coverage = evaluation.coverage
    left_out = coverage.listed - coverage.evaluated
    how = f"± deviation, {len(table.seeds)} seeds" if several else "[95 % interval]"
    captions = [f"{coverage.evaluated:,} clips" + (f"; {left_out:,} more left out: no confidence" if left_out else "")]
    if any(is_few(table.clips(subset, threshold)) for subset in SUBSETS for threshold in table.thresholds):
        captions.append(FEW_NOTE)
    shown = Table(
        title=f"{evaluation.dataset}, {evaluation.split} split: accuracy in % {how}",
        caption="\n".join(captions),
        title_style="bold",
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    shown.add_column("", overflow="fold")
    for subset in SUBSETS:
        shown.add_column(_SHORT[subset], justify="right")
    for threshold in table.thresholds:
        counts = [with_mark(f"{clips:,}", clips) for clips in (table.clips(subset, threshold) for subset in SUBSETS)]
        shown.add_row(Text(f"T = {threshold:g}, clips", style="bold"), *(Text(count, style="dim") for count in counts))
        for run in table.methods:
            shown.add_row(run, *(_terminal_cell(evaluation, run, subset, threshold) for subset in SUBSETS))
        if threshold != table.thresholds[-1]:
            shown.add_row()
    return shown


def _terminal_cell(evaluation: Evaluation, run: str, subset: str, threshold: float) -> Text:
    seeds = evaluation.seeds.cell(run, subset, threshold)
    if seeds.mean is None:
        return Text(NOTHING, style="dim")
    detail = ""
    if seeds.deviation is not None:
        detail = f" ± {100 * seeds.deviation:.1f}"
    elif len(evaluation.table.seeds) == 1:
        cell = evaluation.table.cell(run, seeds.seeds[0], subset, threshold)
        detail = f" [{100 * (cell.low or 0):.0f}–{100 * (cell.high or 0):.0f}]"
    value = "100" if seeds.mean == 1 else f"{100 * seeds.mean:.1f}"  # four columns of 100.0 [100–100] are too wide
    return Text.assemble(value, (detail, "dim"))
