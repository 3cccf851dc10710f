"""avbench evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avbench.arguments import comma_list, named
from avbench.cli.output import console, json_errors, print_json
from avbench.cli.parsing import check_not_empty, parse


@dataclass(frozen=True)
class EvaluateArgs:
    """Tables, figures and an HTML page from what training left behind, or from predictions of your own."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], named("RUN", default="none")] = ()
    """Run folders of one dataset; the report goes into the first."""
    predictions: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Predictions of your own, Parquet or CSV: key and prediction, or class probabilities. May be given again."""
    confidence: Annotated[Path | None, named("FILE", default="the run folders'")] = None
    """Confidences that cut the subsets, Parquet or CSV: key, label, audio, visual."""
    split: str = "test"
    """The split that is cut into subsets."""
    thresholds: Annotated[tuple[float, ...], comma_list(float, "0,0.2,0.4")] = (0.0, 0.2, 0.4)
    """Discrepancies beyond which a clip is dominated by a modality."""
    confidence_epochs: str = "all"
    """Epochs to average confidence over: all, FIRST:LAST (both included), or best."""
    resamples: int = 1000
    """Bootstrap resamples behind the intervals of class means."""
    out: Annotated[Path | None, named("REPORT", default="RUN/report, or FILE-report beside the predictions")] = None
    """The report folder."""
    memory_gb: float = 2.0
    """Memory to aim at, in GB; class probabilities that do not fit go to TMPDIR for a while. Changes no number."""
    json: bool = False
    """Print every number as JSON instead of tables."""


def run(argv: Sequence[str]) -> None:
    """Write a report, and print its first tables."""
    with json_errors(asked="--json" in argv):
        check_not_empty(argv, "--out", "--confidence", "--predictions")
        args = parse(EvaluateArgs, argv, "avbench evaluate")
        from avbench.analysis.presenting.answer import evaluation_as_json
        from avbench.analysis.presenting.report_folder import PAGE_FILE
        from avbench.analysis.presenting.terminal import terminal_table
        from avbench.analysis.report import evaluate

        evaluation = evaluate(
            args.runs,
            split=args.split,
            thresholds=args.thresholds,
            confidence_epochs=args.confidence_epochs,
            resamples=args.resamples,
            predictions=args.predictions,
            confidence=args.confidence,
            out=args.out,
            memory_gb=args.memory_gb,
        )
    if args.json:
        print_json(evaluation_as_json(evaluation))
        return
    console().print(terminal_table(evaluation))
    console().print(evaluation.answer)
    for warning in evaluation.warnings:
        console().print(warning)
    if evaluation.spearman is not None:
        console().print(f"rank correlation of estimated and planted discrepancy (Spearman): {evaluation.spearman:.2f}")
    console().print(f"report: {evaluation.folder / PAGE_FILE}", soft_wrap=True)
