"""Tables as a reader sees them, and their files: CSV in full precision, Markdown, and one for the terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from rich.table import Table
from rich.text import Text

from avbench.analysis.classes import ClassSides
from avbench.analysis.discrepancy import MODALITIES
from avbench.analysis.evaluation import SUBSETS, Accuracy, AccuracyTable, subset_name
from avbench.analysis.latex import latex
from avbench.analysis.learning import CURVES, Learning, by_run
from avbench.analysis.metrics import METRICS, Measured, MetricTable
from avbench.analysis.origin_tables import audit_record, audit_sheet, origin_record, origin_sheet
from avbench.analysis.performance import QUANTITIES, Quantity, Speed
from avbench.analysis.published import SOURCE, WARNING, Published
from avbench.analysis.seeds import SeedCell, SeedTable
from avbench.analysis.sheet import NOTHING, Cell, Sheet, one_line
from avbench.analysis.significance import ALPHA, Comparison
from avbench.analysis.statistics import FEW_CLIPS, is_few
from avbench.analysis.utilization import OTHER, Utilization

if TYPE_CHECKING:
    from avbench.analysis.report import Evaluation
    from avbench.analysis.runs import Results

T = TypeVar("T")

ACCURACY_FILE, PERFORMANCE_FILE = "accuracy.csv", "performance.csv"
MOST_RANKS = 8  # that have rows of their own on the page
FEW = "†"  # beside the number of clips, or the name, of a subset of few
FEW_NOTE = f"{FEW}: fewer than {FEW_CLIPS} clips, too few to conclude from."
# What rounding may leave between means that are equal, far below the difference that one clip makes.
_EQUAL = 1e-9
_SMALLEST_P = 1e-6  # whatever is below it says no more; far above what rounding leaves of the transform

# Two sides and the ties, as a column of any threshold is called in a terminal.
_SHORT = {"overall": "overall", "audio": "audio side", "visual": "visual side", "tie": "tie"}


def sheets(evaluation: Evaluation, results: Results) -> tuple[Sheet, ...]:
    """Every table of an evaluation, in order; those that would have no rows are left out."""
    thresholds = evaluation.table.thresholds
    found = [
        _learning_sheet(evaluation),
        *(_accuracy_sheet(evaluation, threshold) for threshold in thresholds),
        _published_sheet(evaluation.published, evaluation.seeds, evaluation.table.methods),
        *(_significance_sheet(evaluation.comparisons, threshold) for threshold in thresholds),
        *(_metrics_sheet(evaluation.metrics, threshold) for threshold in thresholds),
    ]
    if evaluation.cross_seed is not None:
        found += [_cross_seed_sheet(evaluation.cross_seed, threshold) for threshold in thresholds]
    found += [_parts_sheet(evaluation.parts, threshold) for threshold in thresholds]
    found += [_utilization_sheet(evaluation.utilization), _branches_sheet(evaluation.utilization)]
    if evaluation.planted is not None:
        found += [_planted_sheet(evaluation, evaluation.planted, threshold) for threshold in thresholds]
    found += [_classes_sheet(evaluation.classes), _performance_sheet(evaluation.speeds)]
    found += [audit_sheet(evaluation.audit), origin_sheet(evaluation.origin)]
    return tuple(_explained(sheet) for sheet in found if sheet.rows)


def _explained(sheet: Sheet) -> Sheet:
    """The sheet, its caption saying what the mark of small subsets means where it has one."""
    texts = (*sheet.headings, *(cell.text for row in sheet.rows for cell in row))
    marked = any(text.endswith(f" {FEW}") for text in texts)
    return replace(sheet, caption=f"{sheet.caption} {FEW_NOTE}") if marked else sheet


def _marked(text: str, clips: float) -> str:
    """The name of a subset of so many clips, or a number about it, with the mark of few."""
    return f"{text} {FEW}" if is_few(clips) else text


# One sheet a kind


def _learning_sheet(evaluation: Evaluation) -> Sheet:
    """Of every run and seed that was trained here, those that diverged too, the epoch that was chosen."""
    several = len({one.training for one in evaluation.learning}) > 1
    diverged = any(one.ending == "diverged" for one in evaluation.learning)
    ordered = by_run(evaluation.learning, evaluation.table.methods)
    fewest = min((one.val_clips for one in evaluation.learning if one.val_clips), default=FEW_CLIPS)
    return Sheet(
        name="learning",
        kind="learning",
        title="Best epochs",
        caption="The epoch of each run with the highest validation accuracy, in %, counted from 0: its network is the "
        "one that every other table is of."
        + (" Networks that diverged are in no other table." if diverged else "")
        + (f" {evaluation.untold}" if evaluation.untold else ""),
        words=4 if several else 3,
        headings=(
            "method", "seed", *_if(several, "training"), "why it stopped", "best epoch",
            _marked("validation accuracy", fewest), "epochs trained",
        ),
        rows=tuple(
            (
                Cell(one.run),
                Cell(str(one.seed), value=float(one.seed)),
                *_if(several, Cell(one.training)),
                Cell(one.why),
                Cell(NOTHING) if one.best is None else Cell(str(one.best), value=float(one.best)),
                _percent(one.best_accuracy),
                Cell(f"{len(one.epochs):,}", value=float(len(one.epochs))),
            )
            for seeds in ordered.values()
            for one in seeds
        ),
    )  # fmt: skip


def _accuracy_sheet(evaluation: Evaluation, threshold: float) -> Sheet:
    counts = {subset: evaluation.table.clips(subset, threshold) for subset in SUBSETS}
    several = len(evaluation.table.seeds) > 1
    seeds = "; below each method's seeds their mean ± standard deviation" if several else ""
    return _by_subset(
        kind="accuracy",
        title=f"Accuracy, T = {threshold:g}",
        caption=f"Accuracy in % [95 % interval] on subsets cut by the unimodal networks' confidence{seeds}.",
        words=("method", *_if(_has_networks(evaluation.networks), "network"), *_if(several, "seed")),
        threshold=threshold,
        counts=counts,
        rows=_accuracy_rows(evaluation, evaluation.table, threshold, means=evaluation.seeds if several else None),
    )


def _planted_sheet(evaluation: Evaluation, table: AccuracyTable, threshold: float) -> Sheet:
    several = len(table.seeds) > 1
    return _by_subset(
        kind="planted",
        title=f"Accuracy by planted quality, T = {threshold:g}",
        caption="Accuracy in % [95 % interval] on subsets cut by the clips' planted quality, flattering no network.",
        words=("method", *_if(_has_networks(evaluation.networks), "network"), *_if(several, "seed")),
        threshold=threshold,
        counts={subset: table.clips(subset, threshold) for subset in SUBSETS},
        rows=_accuracy_rows(evaluation, table, threshold, means=None),
    )


def _accuracy_rows(
    evaluation: Evaluation, table: AccuracyTable, threshold: float, *, means: SeedTable | None
) -> list[tuple[Cell, ...]]:
    """Every run and seed; the highest of each column marked, among the means over seeds where they are given."""
    has_networks, several = _has_networks(evaluation.networks), len(table.seeds) > 1
    each = [[_accuracy_cell(table.cell(*row, subset, threshold)) for subset in SUBSETS] for row in table.rows]
    runs = dict.fromkeys(run for run, _ in table.rows)
    over = [[_seed_cell(means.cell(run, subset, threshold)) for subset in SUBSETS] for run in runs] if means else []
    if over:
        over = _mark_best(over)
    else:
        each = _mark_best(each)
    rows = []
    for place, run in enumerate(runs):
        first = [Cell(run), *_if(has_networks, Cell(evaluation.networks.get(run, "")))]
        rows += [
            (*first, *_if(several, Cell(str(seed), value=float(seed))), *cells)
            for (name, seed), cells in zip(table.rows, each, strict=True)
            if name == run
        ]
        if over:
            rows.append((*first, Cell("mean"), *over[place]))
    return rows


def _published_sheet(published: Sequence[Published], ours: SeedTable, methods: Mapping[str, str]) -> Sheet:
    subsets, rows = ("overall", *MODALITIES), []
    threshold = min(ours.thresholds)
    preferred = threshold == 0.0
    for row in published:
        for run, method in methods.items():
            if method == row.method and preferred:
                found = [ours.cell(run, subset, threshold) for subset in subsets]
                cells = (_of_few(_seed_cell(cell), cell.clips) for cell in found)
                rows.append((Cell(row.method), Cell("here" if run == method else f"here ({run})"), *cells))
        values = (row.overall, row.audio, row.visual)
        rows.append((Cell(row.method), Cell("published"), *(_percent(value) for value in values)))
    return Sheet(
        name="published",
        kind="published",
        title="Beside the published numbers",
        caption=f"Accuracy in %, here and as published for {published[0].dataset if published else ''} by {SOURCE}. "
        f"{WARNING}",
        words=2,
        headings=("method", "source", *(subset_name(subset, 0.0) for subset in subsets)),
        rows=tuple(rows),
    )


def _significance_sheet(comparisons: Sequence[Comparison], threshold: float) -> Sheet:
    here = [one for one in comparisons if one.threshold == threshold]
    by_place = {(one.run, one.unimodal, one.subset): one for one in here}
    rows = [
        (Cell(run), Cell(unimodal), *_difference_cells(by_place, run, unimodal))
        for run, unimodal in dict.fromkeys((one.run, one.unimodal) for one in here)
    ]
    clips = {one.subset: one.clips for one in here}
    names = {modality: subset_name(modality, threshold) for modality in MODALITIES}
    headings = [
        _marked(f"{name}: {what}" if what != "p" else what, clips.get(modality, 0))
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
        yield Cell(_signed(100 * one.difference), value=one.difference)
        yield Cell(f"{_p_text(one.p_holm)}{star}", value=one.p_holm)


def _metrics_sheet(metrics: MetricTable, threshold: float) -> Sheet:
    rows: list[tuple[Cell, ...]] = []
    classes = []
    for subset in SUBSETS:
        cells = [[metrics.cell(run, metric, subset, threshold) for metric in METRICS] for run in metrics.runs]
        name = subset_name(subset, threshold)
        if cells[0][0].clips:
            marked = _mark_best([[_measured_cell(cell) for cell in row] for row in cells])
            clips = Cell(_marked(name, cells[0][0].clips))
            rows += [(clips, Cell(run), *row) for run, row in zip(metrics.runs, marked, strict=True)]
            absent = f", {cells[0][0].absent} more without clips" if cells[0][0].absent else ""
            classes.append(f"{name} {cells[0][0].classes}{absent}")
    return Sheet(
        name=f"metrics-{threshold:g}",
        kind="metrics",
        title=f"Class means, T = {threshold:g}",
        caption=f"In % [95 % interval], the mean over seeds. Classes that the means are over: {'; '.join(classes)}.",
        words=2,
        headings=("clips", "method", *METRICS),
        rows=tuple(rows),
    )


def _cross_seed_sheet(table: SeedTable, threshold: float) -> Sheet:
    return _by_subset(
        kind="cross-seed",
        title=f"Accuracy, subsets cut by the other seeds, T = {threshold:g}",
        caption="Accuracy in %, mean ± standard deviation over seeds; each seed's subsets are cut by the mean "
        "confidence of the other seeds, so that no network is scored on clips that it chose. Clips are a mean too.",
        words=("method",),
        threshold=threshold,
        counts={subset: table.cell(table.rows[0][0], subset, threshold).clips for subset in SUBSETS},
        rows=_seed_rows(table, threshold, words=lambda run, part: (Cell(run),)),
    )


def _parts_sheet(table: SeedTable, threshold: float) -> Sheet:
    counts = {}
    if table.rows:
        run, part = table.rows[0]
        counts = {subset: table.cell(run, subset, threshold, part=part).clips for subset in SUBSETS}
    return _by_subset(
        kind="parts",
        title=f"Unimodal parts of joint networks, T = {threshold:g}",
        caption="Accuracy in % of what a joint network's own audio or visual part says, the mean over seeds. These are "
        "not the unimodal networks, which are trained alone.",
        words=("joint network", "part"),
        threshold=threshold,
        counts=counts,
        rows=_seed_rows(table, threshold, words=lambda run, part: (Cell(run), Cell(f"{part} part"))),
    )


def _in_sheets(found: Sequence[Utilization]) -> Iterator[tuple[str, Utilization]]:
    """Those that have a row on the page, with what their clips are called: no ties, and overall once a run."""
    seen = set()
    for one in found:
        is_overall = one.subset == "overall"
        if one.subset == "tie" or (is_overall and one.run in seen):
            continue
        seen.add(one.run)
        yield "overall" if is_overall else f"{subset_name(one.subset, one.threshold)}, T = {one.threshold:g}", one


def _utilization_sheet(found: Sequence[Utilization]) -> Sheet:
    rows = []
    for name, one in _in_sheets(found):
        shares = [one.conditional[modality] for modality in MODALITIES]
        rows.append(
            (
                Cell(one.run),
                Cell(_marked(name, one.clips)),
                *(_percent(value) for value in (one.both, *(one.replaced[modality] for modality in MODALITIES))),
                *(Cell(NOTHING) if share is None else Cell(_signed(share, 3), value=share) for share in shares),
                *(Cell(_signed(100 * one.shapley[name]), value=one.shapley[name]) for name in MODALITIES),
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


def _branches_sheet(found: Sequence[Utilization]) -> Sheet:
    rows = [
        (
            Cell(one.run),
            Cell(_marked(name, one.clips)),
            *(
                cell
                for modality in MODALITIES
                for use in [one.branches[modality]]
                for share in [use.utilization]
                for cell in (
                    _percent(use.both),
                    _percent(use.alone),
                    Cell(NOTHING) if share is None else Cell(_signed(share, 3), value=share),
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


def _classes_sheet(classes: Sequence[ClassSides]) -> Sheet:
    """Every class that has evaluated clips, in the dataset's order."""
    return Sheet(
        name="per-class",
        kind="classes",
        title="Classes",
        caption="Evaluated clips of each class by preferred modality, the mean confidence of each unimodal network in "
        "the true label, and the mean discrepancy, audio minus visual confidence.",
        words=1,
        headings=(
            "class", "clips", "audio-preferred", "tied", "visual-preferred", "audio confidence", "visual confidence",
            "discrepancy",
        ),
        rows=tuple(
            (
                Cell(_marked(row.name, row.clips)),
                *(Cell(f"{clips:,}", value=float(clips)) for clips in (row.clips, row.audio, row.tied, row.visual)),
                *(Cell(f"{mean:.3f}", value=mean) for mean in (row.audio_confidence, row.visual_confidence)),
                Cell(_signed(row.discrepancy, 3), value=row.discrepancy),
            )
            for row in classes
            if row.clips
        ),
    )  # fmt: skip


def _performance_sheet(speeds: Sequence[Speed]) -> Sheet:
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
            *_if(several, "ranks"),
            "intervals",
            *(quantity.heading for quantity in quantities),
            *_if(several, "slowest rank"),
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
        *_if(several, Cell(who)),
        Cell(f"{one.intervals:,}", value=float(one.intervals)),
        *(_quantity_cell(quantity, one.values.get(quantity.name)) for quantity in quantities),
        *_if(several, slowest),
    )


def _quantity_cell(quantity: Quantity, value: float | None) -> Cell:
    if value is None:
        return Cell(NOTHING)
    return Cell(f"{quantity.scale * value:,.{quantity.digits}f}", value=value)


# Parts of sheets


def _by_subset(
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
    names = (_marked(f"{subset_name(subset, threshold)} ({count:,.0f})", count) for subset, count in counts.items())
    headings = (*words, *names)
    return Sheet(f"{kind}-{threshold:g}", kind, title, caption, len(words), headings, tuple(rows))


def _seed_rows(
    table: SeedTable, threshold: float, *, words: Callable[[str, str], tuple[Cell, ...]]
) -> list[tuple[Cell, ...]]:
    cells = [
        [_seed_cell(table.cell(run, subset, threshold, part=part)) for subset in SUBSETS] for run, part in table.rows
    ]
    marked = _mark_best(cells)
    return [(*words(*row), *numbers) for row, numbers in zip(table.rows, marked, strict=True)]


def _mark_best(rows: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
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


def _accuracy_cell(cell: Accuracy) -> Cell:
    return _percent(cell.accuracy, interval=(cell.low, cell.high))


def _measured_cell(cell: Measured) -> Cell:
    return _percent(cell.value, interval=(cell.low, cell.high))


def _seed_cell(cell: SeedCell) -> Cell:
    shown = _percent(cell.mean)
    return shown if cell.deviation is None else replace(shown, detail=f"± {100 * cell.deviation:.1f}")


def _of_few(cell: Cell, clips: float) -> Cell:
    return cell if cell.value is None else replace(cell, text=_marked(cell.text, clips))


def _percent(value: float | None, *, interval: tuple[float | None, float | None] = (None, None)) -> Cell:
    if value is None:
        return Cell(NOTHING)
    low, high = interval
    detail = "" if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"
    return Cell(f"{100 * value:.1f}", detail, value)


def _signed(number: float, digits: int = 1) -> str:
    """With its sign, a true minus; what rounds to zero has none."""
    text = f"{number:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _p_text(p: float) -> str:
    if p < _SMALLEST_P:
        return f"< {_SMALLEST_P:.0e}"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def _if(condition: bool, value: T) -> tuple[T, ...]:
    return (value,) if condition else ()


def _has_networks(networks: Mapping[str, str]) -> bool:
    return any(networks.values())


# Files


def table_files(evaluation: Evaluation, results: Results, sheets: Sequence[Sheet]) -> dict[str, bytes]:
    """Every table as a file, by name: one CSV a kind of number, all in Markdown and all in LaTeX."""
    records = {
        "learning.csv": [record for one in evaluation.learning for record in _learning_records(one)],
        "best_epochs.csv": [_best_epoch_record(one) for one in evaluation.learning],
        ACCURACY_FILE: _accuracy_records(evaluation.table, evaluation.networks),
        "accuracy_planted.csv": _accuracy_records(evaluation.planted, evaluation.networks),
        "seeds.csv": _seed_records(evaluation.seeds),
        "cross_seed.csv": _seed_records(evaluation.cross_seed),
        "parts.csv": _seed_records(evaluation.parts),
        "metrics.csv": _records(evaluation.metrics.cells),
        "significance.csv": [
            {**record, "significant": int(one.significant)}
            for record, one in zip(_records(evaluation.comparisons), evaluation.comparisons, strict=True)
        ],
        "utilization.csv": [_utilization_record(one) for one in evaluation.utilization],
        "published.csv": [{**record, "source": SOURCE} for record in _records(evaluation.published)],
        PERFORMANCE_FILE: [_speed_record(one) for one in evaluation.speeds],
        "audit.csv": [audit_record(one) for one in evaluation.audit.runs],
        "origin.csv": [origin_record(fact) for fact in evaluation.origin],
    }
    texts = {name: _csv(_with_few(rows)) for name, rows in records.items() if rows}
    texts["tables.md"] = markdown(evaluation, sheets)
    texts["tables.tex"] = latex(sheets, about=f"{evaluation.dataset}, {evaluation.split} split")
    return {name: text.encode() for name, text in texts.items()}


Record = dict[str, Any]  # column -> value, the same columns in every record of a file


def _records(rows: Sequence[Any]) -> list[Record]:
    """Dataclasses as records; what they call a run is a method to a reader."""
    return [{"method" if name == "run" else name: value for name, value in asdict(row).items()} for row in rows]


def _with_few(records: Sequence[Record]) -> Sequence[Record]:
    """The records with `few_clips` after `clips`: 1 where these are so few that tables mark them."""
    if "clips" not in records[0]:
        return records
    place = list(records[0]).index("clips") + 1
    return [
        dict(
            [*list(record.items())[:place], ("few_clips", int(is_few(record["clips"]))), *list(record.items())[place:]]
        )
        for record in records
    ]


def _learning_records(one: Learning) -> list[Record]:
    return [
        {
            "method": one.run,
            "seed": one.seed,
            "training": one.training,
            "epoch": int(epoch),
            **{
                curve: float(value) if np.isfinite(value) else None for curve, value in zip(CURVES, values, strict=True)
            },
        }
        for epoch, *values in zip(one.epochs, *(one.curves[curve] for curve in CURVES), strict=True)
    ]


def _best_epoch_record(one: Learning) -> Record:
    return {
        "method": one.run,
        "seed": one.seed,
        "training": one.training,
        "best_epoch": one.best,
        "val_accuracy": one.best_accuracy,
        "val_clips": one.val_clips or None,
        "epochs": len(one.epochs),
        "ending": one.ending,
        "why": one.why,
    }


def _accuracy_records(table: AccuracyTable | None, networks: Mapping[str, str]) -> list[Record]:
    return [
        {
            "method": cell.run,
            "seed": cell.seed,
            "subset": cell.subset,
            "threshold": cell.threshold,
            "clips": cell.clips,
            "accuracy": cell.accuracy,
            "low": cell.low,
            "high": cell.high,
            "network": networks.get(cell.run, ""),
        }
        for cell in (table.cells if table else ())
    ]


def _seed_records(table: SeedTable | None) -> list[Record]:
    records = [{**record, "seeds": len(record["seeds"])} for record in _records(table.cells if table else ())]
    if not any(record["part"] for record in records):  # runs, not parts of runs
        records = [{name: value for name, value in record.items() if name != "part"} for record in records]
    return records


def _utilization_record(one: Utilization) -> Record:
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


def _speed_record(one: Speed) -> Record:
    return {
        "training": one.training,
        "ranks": one.ranks,
        "rank": "all" if one.rank is None else one.rank,
        "intervals": one.intervals,
        **{quantity.name: one.values.get(quantity.name) for quantity in QUANTITIES},
        "slowest_rank": one.slowest_rank,
        "slowest_over_fastest": one.slowest_over_fastest,
    }


def _csv(records: Sequence[Record]) -> str:
    """Fractions in full precision, nothing where there is no number."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)  # a float is written as repr does, None as nothing
    return buffer.getvalue()


def markdown(evaluation: Evaluation, sheets: Sequence[Sheet]) -> str:
    """All tables with the answer and the notes, as GitHub's Markdown."""
    lines = [f"# {_markdown_text(evaluation.dataset)}, {evaluation.split} split", ""]
    lines += [_markdown_text(evaluation.answer), ""]
    lines += [f"* {_markdown_text(verdict.sentence)}" for verdict in evaluation.verdicts]
    if evaluation.warnings:
        lines += ["", *(f"**{_markdown_text(warning)}**" for warning in evaluation.warnings)]
    if evaluation.untold and not evaluation.learning:
        lines += ["", _markdown_text(evaluation.untold)]
    for sheet in sheets:
        lines += ["", f"## {sheet.title}", "", _markdown_text(sheet.caption), ""]
        if sheet.kind == "audit":
            lines += [_markdown_text(evaluation.audit.sentence), ""]
        lines.append(_markdown_row([_markdown_text(heading) for heading in sheet.headings]))
        lines.append(f"|{'---|' * sheet.words}{'---:|' * (len(sheet.headings) - sheet.words)}")
        lines += [_markdown_row([_markdown_cell(cell) for cell in row]) for row in sheet.rows]
    if evaluation.planted is not None:
        lines += [
            "",
            f"Spearman correlation of estimated and planted discrepancy: {correlation_text(evaluation.spearman)}",
        ]
    lines += ["", "## Notes", "", *(f"* {_markdown_text(note)}" for note in evaluation.notes)]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = _markdown_text(cell.text)
    return " ".join(part for part in (f"**{text}**" if cell.best else text, cell.detail) if part)


def _markdown_text(text: str) -> str:
    """Words for Markdown, on one line: what it would take for markup, or for HTML, is escaped."""
    return re.sub(r"([\\`*_<>\[\]&|~$])", r"\\\1", one_line(text))


def correlation_text(value: float | None) -> str:
    """A rank correlation in words."""
    return "not defined (one of the two is the same for all clips)" if value is None else f"{value:.3f}"


# The terminal


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
        counts = [_marked(f"{clips:,}", clips) for clips in (table.clips(subset, threshold) for subset in SUBSETS)]
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
