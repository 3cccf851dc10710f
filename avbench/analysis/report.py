"""The report of an evaluation: tables (CSV, Markdown), heatmap, one HTML page. Reads files, imports no torch.

`evaluate` reads, computes, renders everything in memory, and only then puts the report folder in place: an evaluation
that fails leaves the old report as it was. The same run folders give the same bytes.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from rich.table import Table
from rich.text import Text

from avbench.analysis import figures
from avbench.analysis.discrepancy import MODALITIES, heatmap
from avbench.analysis.evaluation import (
    SUBSETS,
    Accuracy,
    AccuracyTable,
    Verdict,
    accuracy_table,
    rank_correlation,
    subset_name,
    verdict,
)
from avbench.analysis.metrics import MetricTable, metric_table
from avbench.analysis.published import Published, published_rows
from avbench.analysis.runs import Coverage, Epochs, Results, RunFolder, parse_epochs, read_runs
from avbench.analysis.seeds import SeedTable, cross_seed_table, parts_table, seed_table
from avbench.analysis.significance import Comparison, Conclusion, compare, conclude
from avbench.analysis.tables import Sheet, sheets
from avbench.analysis.utilization import Utilization, utilization
from avbench.errors import UsageError
from avbench.records import SPLITS

ACCURACY_COLUMNS = ("method", "seed", "subset", "threshold", "clips", "accuracy", "low", "high")
TABLE_FILE = "accuracy.csv"
PAGE_FILE = "index.html"
_TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, and where its report is.

    table: accuracies of every run and seed on subsets cut by the networks' confidences, the mean over seeds. planted:
    the same, cut by planted qualities, where the dataset has them. spearman: rank correlation of estimated and planted
    discrepancy; None without planted qualities or where one of the two is the same for all clips.
    metrics: accuracy and class means of every run (over its seeds), with intervals. seeds: accuracies over seeds.
    cross_seed: the same on subsets cut by the other seeds; None with a single seed. parts: the unimodal parts of joint
    networks, may be without rows. utilization: what joint networks make of each modality; may be empty.
    comparisons: every method against every unimodal network. verdicts: the paper's question, one answer a threshold;
    conclusion: over all thresholds. published: the paper's rows where the dataset is one of its own, else ().
    networks: per run what its network is, "" where nobody said. notes: what a reader must know, a sentence or two each.
    page: the HTML page; it and everything else is in `folder`.
    """

    folder: Path
    dataset: str
    split: str
    confidence_epochs: str
    coverage: Coverage
    table: AccuracyTable
    planted: AccuracyTable | None
    spearman: float | None
    metrics: MetricTable
    seeds: SeedTable
    cross_seed: SeedTable | None
    parts: SeedTable
    utilization: tuple[Utilization, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    conclusion: Conclusion
    published: tuple[Published, ...]
    networks: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The paper's question, does any method beat both unimodal networks on every subset, in one sentence."""
        return self.conclusion.sentence

    @cached_property
    def sheets(self) -> tuple[Sheet, ...]:
        """Every table as a reader sees it, in order."""
        return sheets(self)

    @property
    def page(self) -> Path:
        """The report as one HTML page."""
        return self.folder / PAGE_FILE


def evaluate(
    runs: Sequence[Path],
    *,
    split: str = "test",
    thresholds: Sequence[float] = (0.0, 0.2, 0.4),
    confidence_epochs: str = "all",
    resamples: int = 1000,
    out: Path | None = None,
) -> Evaluation:
    """Evaluate run folders together and write the report.

    runs: folders of trainings on one dataset; their runs and seeds are put together.
    thresholds: where to cut subsets, each in [0, 1); sorted, one given twice counts once.
    confidence_epochs: which epochs the confidences are averaged over: "all", "FIRST:LAST" (inclusive, from 0), or
        "best", the one epoch that each unimodal network was chosen at by validation accuracy.
    resamples: of the bootstrap that gives class means their intervals, 1 or more.
    out: the report folder, by default `report` in the first run folder. It is derived, so an old report is replaced.
    Raises UsageError and RunError, one line each, before anything is written.
    """
    cuts = checked_thresholds(thresholds)
    epochs = parse_epochs(confidence_epochs)
    results = read_runs([Path(run) for run in runs], split=split, epochs=epochs)
    folder = results.folders[0].path / "report" if out is None else Path(out)
    _check_replaceable(folder)
    evaluation = _evaluated(
        results,
        cuts,
        folder=folder,
        epochs=epochs,
        confidence_epochs=confidence_epochs,
        resamples=resamples,
    )
    _replace_folder(folder, _render(evaluation, results))
    return evaluation


def _evaluated(
    results: Results,
    cuts: Sequence[float],
    *,
    folder: Path,
    epochs: Epochs,
    confidence_epochs: str,
    resamples: int,
) -> Evaluation:
    discrepancies = results.discrepancies
    table = accuracy_table(results.scores, discrepancies, cuts)
    verdicts = tuple(verdict(table, threshold) for threshold in cuts)
    comparisons = compare(results.scores, discrepancies, cuts)
    metrics = metric_table(
        results.scores,
        results.labels,
        discrepancies,
        thresholds=cuts,
        resamples=resamples,
        tick=lambda done, total: None,
    )
    recipe = results.folders[0].dataset.get("recipe", {}) if results.folders else {}
    return Evaluation(
        folder=folder,
        dataset=results.dataset,
        split=results.split,
        confidence_epochs=confidence_epochs,
        coverage=results.coverage,
        table=table,
        planted=_planted_table(results, cuts),
        spearman=_spearman(results),
        metrics=metrics,
        seeds=seed_table(results.scores, discrepancies, cuts),
        cross_seed=cross_seed_table(results.scores, results.confidence_by_seed, cuts),
        parts=parts_table(results.scores, results.labels, discrepancies, cuts),
        utilization=utilization(results.scores, results.labels, discrepancies, cuts),
        comparisons=comparisons,
        verdicts=verdicts,
        conclusion=conclude(results.dataset, table, verdicts, comparisons),
        published=published_rows(results.dataset, str(recipe.get("name", ""))),
        networks=results.networks,
        notes=tuple(_notes(results, epochs, confidence_epochs)),
    )


def checked_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Thresholds, ascending, each once. Raises UsageError where there is none or one is not in [0, 1)."""
    if not thresholds:
        raise UsageError("--thresholds: none given; expected numbers in [0, 1), such as 0 0.2 0.4")
    for threshold in thresholds:
        if not (math.isfinite(threshold) and 0 <= threshold < 1):
            raise UsageError(f"--thresholds {threshold}: expected a number in [0, 1), as discrepancies are in [-1, 1]")
    return tuple(sorted({abs(float(threshold)) for threshold in thresholds}))  # abs: -0.0 is 0.0


def terminal_table(evaluation: Evaluation) -> Table:
    """The accuracy table for a terminal of 80 columns or more: per cent, with the interval in whole per cents."""
    table = evaluation.table
    several = len(table.seeds) > 1
    coverage = evaluation.coverage
    left_out = coverage.listed - coverage.evaluated
    shown = Table(
        title=f"{evaluation.dataset}, {evaluation.split} split: accuracy in % [95 % interval]",
        caption=f"{coverage.evaluated:,} clips" + (f"; {left_out:,} more left out: no confidence" if left_out else ""),
        title_style="bold",
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    shown.add_column("", overflow="fold")
    if several:
        shown.add_column("seed", justify="right")
    for subset in SUBSETS:
        shown.add_column({"audio": "audio side", "visual": "visual side"}.get(subset, subset), justify="right")
    for threshold in table.thresholds:
        counts = [f"{table.clips(subset, threshold):,}" for subset in SUBSETS]
        first = Text(f"T = {threshold:g}, clips", style="bold")
        shown.add_row(first, *([""] if several else []), *(Text(count, style="dim") for count in counts))
        for position, (run, seed) in enumerate(table.rows):
            cells = [_terminal_cell(table.cell(run, seed, subset, threshold)) for subset in SUBSETS]
            last = position == len(table.rows) - 1 and threshold != table.thresholds[-1]
            shown.add_row(run, *([str(seed)] if several else []), *cells)
            if last:
                shown.add_row()
    return shown


def _terminal_cell(cell: Accuracy) -> Text:
    if cell.accuracy is None or cell.low is None or cell.high is None:
        return Text("–", style="dim")
    return Text.assemble(
        f"{100 * cell.accuracy:.1f}",
        (f" [{100 * cell.low:.0f}–{100 * cell.high:.0f}]", "dim"),
    )


# What is computed


def _planted_table(results: Results, thresholds: Sequence[float]) -> AccuracyTable | None:
    """Accuracies on subsets cut by planted quality, over the clips that have one."""
    if results.planted is None:
        return None
    known = ~np.isnan(results.planted)
    scores = [score.rows(known) for score in results.scores]
    return accuracy_table(scores, results.planted[known], thresholds)


def _spearman(results: Results) -> float | None:
    if results.planted is None:
        return None
    known = ~np.isnan(results.planted)
    return rank_correlation(results.discrepancies[known], results.planted[known])


# What is written


def _render(evaluation: Evaluation, results: Results) -> dict[str, bytes]:
    """Every file of the report folder, by name."""
    drawing = _heatmap(evaluation, results)
    png = figures.to_png(drawing)
    files = {
        TABLE_FILE: accuracy_csv(evaluation.table).encode(),
        "heatmap.png": png,
        "heatmap.svg": figures.to_svg(drawing),
        "tables.md": _markdown(evaluation, results).encode(),
        PAGE_FILE: _page(evaluation, results, png).encode(),
    }
    if evaluation.planted is not None:
        files["accuracy_planted.csv"] = accuracy_csv(evaluation.planted).encode()
    return files


def accuracy_csv(table: AccuracyTable) -> str:
    """The table as CSV: fractions in full precision, nothing where a subset is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(ACCURACY_COLUMNS)
    for cell in table.cells:
        numbers = ["" if number is None else repr(number) for number in (cell.accuracy, cell.low, cell.high)]
        writer.writerow([cell.run, cell.seed, cell.subset, repr(cell.threshold), cell.clips, *numbers])
    return buffer.getvalue()


def _heatmap(evaluation: Evaluation, results: Results) -> figures.Figure:
    discrepancies = results.discrepancies
    return figures.draw_heatmap(
        heatmap(results.confidence["audio"], results.confidence["visual"]),
        audio_clips=int((discrepancies > 0).sum()),
        visual_clips=int((discrepancies < 0).sum()),
        ties=int((discrepancies == 0).sum()),
        title=f"{evaluation.dataset}, {evaluation.split} split",
    )


def _notes(results: Results, epochs: Epochs, confidence_epochs: str) -> list[str]:
    """What a reader must know of these numbers, one sentence or two each."""
    coverage = results.coverage
    averaged = {
        "all": "all epochs that the network was trained",
        "best": "the one epoch with the network's highest validation accuracy",
    }.get(str(epochs), f"epochs {confidence_epochs.replace(':', ' to ')}, counted from 0")
    seeds = " and ".join(
        f"{modality} over {'seed' if len(results.seeds[modality]) == 1 else 'seeds'} "
        f"{', '.join(map(str, results.seeds[modality]))}"
        for modality in MODALITIES
    )
    notes = [
        "A clip's confidence is the probability that a unimodal network gives to its true label, here the mean over "
        f"{averaged} ({seeds}). Its discrepancy is audio minus visual confidence.",
        "Audio-preferred clips have a discrepancy above 0, visual-preferred ones below 0; at a threshold T above 0, "
        "dominated clips are those beyond T and −T. The rest is tied, so overall is their mean, weighted by clips.",
        "Read with care: these subsets are cut by the confidence of the same unimodal networks that are then scored on "
        "them, which flatters each of the two on its own subset.",
        "Intervals are 95 % percentile bootstrap intervals over clips. They hold for these trained networks and say "
        "nothing of how another seed would fare. The highest accuracy of each column is in bold.",
        f"{coverage.evaluated:,} of the split's {coverage.listed:,} clips are evaluated. Left out and counted "
        f"nowhere: {coverage.unrecorded:,} of which a network recorded no confidence, {coverage.unpredicted:,} that "
        "no network predicted (bad bytes or quarantine).",
    ]
    if results.planted is not None:
        without = int(np.isnan(results.planted).sum())
        note = "On planted clips the true discrepancy is known; tables cut by it flatter no network."
        notes.append(note + (f" {without:,} clips have no planted quality and are not in them." if without else ""))
    return notes


def _markdown(evaluation: Evaluation, results: Results) -> str:
    lines = [f"# {evaluation.dataset}, {evaluation.split} split", "", evaluation.answer, ""]
    lines += [f"* {verdict.sentence}" for verdict in evaluation.verdicts]
    lines += ["", "Accuracy in %, [95 % interval], (clips)."]
    lines += _markdown_tables(evaluation.table, "Subsets cut by the unimodal networks' confidence")
    if evaluation.planted is not None:
        lines += _markdown_tables(evaluation.planted, "Subsets cut by planted quality")
        lines += ["", f"Spearman correlation of estimated and planted discrepancy: {_number(evaluation.spearman)}"]
    lines += ["", "## Notes", "", *(f"* {note}" for note in evaluation.notes)]
    return "\n".join(lines) + "\n"


def _markdown_tables(table: AccuracyTable, title: str) -> list[str]:
    lines = []
    for threshold in table.thresholds:
        names = [subset_name(subset, threshold) for subset in SUBSETS]
        lines += ["", f"## {title}, T = {threshold:g}", "", f"| method | seed | {' | '.join(names)} |"]
        lines.append(f"|---|---:|{'---:|' * len(SUBSETS)}")
        highest = _highest(table, threshold)
        for run, seed in table.rows:
            cells = [_markdown_cell(table.cell(run, seed, subset, threshold), highest[subset]) for subset in SUBSETS]
            lines.append(f"| {run} | {seed} | {' | '.join(cells)} |")
    return lines


def _markdown_cell(cell: Accuracy, highest: float | None) -> str:
    if cell.accuracy is None or cell.low is None or cell.high is None:
        return "– (0)"
    value = f"{100 * cell.accuracy:.1f}"
    value = f"**{value}**" if cell.accuracy == highest else value
    return f"{value} [{100 * cell.low:.1f}, {100 * cell.high:.1f}] ({cell.clips:,})"


def _highest(table: AccuracyTable, threshold: float) -> dict[str, float | None]:
    """The highest accuracy of each column."""
    columns = {subset: [table.cell(*row, subset, threshold).accuracy for row in table.rows] for subset in SUBSETS}
    return {
        subset: max((value for value in values if value is not None), default=None)
        for subset, values in columns.items()
    }


def _number(value: float | None) -> str:
    return "not defined (one of the two is the same for all clips)" if value is None else f"{value:.3f}"


# The page


@dataclass(frozen=True, slots=True)
class _Block:
    """One table of the page: a threshold."""

    threshold: float
    headings: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Accuracy, ...]], ...]
    highest: tuple[float | None, ...]


def _blocks(table: AccuracyTable) -> list[_Block]:
    return [
        _Block(
            threshold,
            headings=tuple(subset_name(subset, threshold) for subset in SUBSETS),
            rows=tuple(
                (run, seed, tuple(table.cell(run, seed, subset, threshold) for subset in SUBSETS))
                for run, seed in table.rows
            ),
            highest=tuple(_highest(table, threshold).values()),
        )
        for threshold in table.thresholds
    ]


def _page(evaluation: Evaluation, results: Results, heatmap_png: bytes) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    dataset = results.folders[0].dataset
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        evaluation=evaluation,
        blocks=_blocks(evaluation.table),
        planted_blocks=[] if evaluation.planted is None else _blocks(evaluation.planted),
        spearman=_number(evaluation.spearman),
        notes=evaluation.notes,
        heatmap=base64.b64encode(heatmap_png).decode(),
        several_seeds=len(evaluation.table.seeds) > 1,
        dataset=dataset,
        splits=SPLITS,
        class_counts=_class_counts(dataset),
        folders=[(folder, _environment_rows(folder)) for folder in results.folders],
    )


def _class_counts(dataset: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """Clips of each class in train, val and test; empty where dataset.json does not say."""
    per_split = dataset.get("clips_per_class", {})
    return [
        (name, [int(per_split[split][label]) if split in per_split else 0 for split in SPLITS])
        for label, name in enumerate(dataset["classes"])
        if per_split
    ]


def _environment_rows(folder: RunFolder) -> list[tuple[str, str]]:
    return [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in folder.environment.items()
    ]


# The folder


def _check_replaceable(folder: Path) -> None:
    """A report folder is derived and replaced whole, so it must not be somebody's folder of other things."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give a folder for the report")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / TABLE_FILE).exists():
        raise UsageError(
            f"{folder}: holds other things than a report (no {TABLE_FILE}); choose another folder with --out"
        )


def _replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder with these files in place of the old one; on an error the old one stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        fresh = partial / "new"
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        if folder.exists():
            folder.rename(partial / "old")
        fresh.rename(folder)
    finally:
        if (partial / "old").exists() and not folder.exists():
            (partial / "old").rename(folder)
        shutil.rmtree(partial)
