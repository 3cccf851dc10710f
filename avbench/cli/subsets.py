"""avbench subsets."""

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
class SubsetsArgs:
    """The keys of the clips of every subset, as a file."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], named("RUN")]
    """Run folders of one dataset."""
    export: Path
    """The file to write, .csv or .parquet, or a folder for subsets.csv."""
    split: str = "test"
    """The split that is cut into subsets."""
    thresholds: Annotated[tuple[float, ...], comma_list(float, "0,0.2,0.4")] = (0.0, 0.2, 0.4)
    """Discrepancies beyond which a clip is dominated by a modality."""
    confidence_epochs: str = "all"
    """Epochs to average confidence over: all, FIRST:LAST (both included), or best."""
    overwrite: bool = False
    """Replace a file of subsets that is there; no other."""
    json: bool = False
    """Print the counts as JSON."""


def run(argv: Sequence[str]) -> None:
    """Write the keys of the subsets, and print how many there are."""
    with json_errors(asked="--json" in argv):
        check_not_empty(argv, "--export")
        args = parse(SubsetsArgs, argv, "avbench subsets")
        from avbench.analysis.export import counts_text, export_subsets
        from avbench.analysis.presenting.answer import subsets_as_json

        file, counts = export_subsets(
            args.runs,
            args.export,
            split=args.split,
            thresholds=args.thresholds,
            confidence_epochs=args.confidence_epochs,
            overwrite=args.overwrite,
        )
    if args.json:
        print_json(subsets_as_json(file, args.split, counts))
        return
    console().print(counts_text(counts), soft_wrap=True)
    console().print(f"{file}: written", soft_wrap=True)
