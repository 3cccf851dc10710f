"""avbench duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avbench.arguments import named
from avbench.cli.output import console, json_errors, print_json
from avbench.cli.parsing import check_not_empty, parse
from avbench.machine import usable_cores


@dataclass(frozen=True)
class DuplicatesArgs:
    """Find clips that come twice, under other names too, above all in train and in val or test."""

    datasets: Annotated[tyro.conf.Positional[tuple[Path, ...]], named("DATASET...")]
    """Packed datasets; their clips are also compared from one dataset to another."""
    exact: bool = False
    """Compare checksums only: sound or pictures whose bytes are equal. Takes seconds, but misses what was encoded
    again, scaled or shifted."""
    out: Annotated[Path | None, named("FILE")] = None
    """Write every pair to a CSV file, with the evidence."""
    fingerprints: Annotated[Path | None, named("FOLDER")] = None
    """Keep the fingerprints of the clips in this folder, and take those that are there. Without it none are kept."""
    workers: Annotated[int, named("INT", default="one a core")] = 0
    """Processes that make fingerprints at once."""
    json: bool = False
    """Answer as one JSON object on stdout, with every pair."""


def run(argv: Sequence[str]) -> None:
    """Print which clips come twice, and write them where that is asked for."""
    with json_errors(asked="--json" in argv):
        check_not_empty(argv, "--out", "--fingerprints")
        args = parse(DuplicatesArgs, argv, "avbench duplicates")
        from avbench.curation.duplicates.finding import find_duplicates
        from avbench.curation.duplicates.listing import as_json, lines, write_csv

        found = find_duplicates(
            args.datasets, workers=args.workers or usable_cores(), exact=args.exact, kept_in=args.fingerprints
        )
        if args.out is not None:
            write_csv(found, args.out)
    if args.json:
        print_json(as_json(found))
        return
    for line in lines(found):
        console().print(line, soft_wrap=True)
    if args.out is not None:
        console().print(f"{args.out}: {len(found.pairs)} pairs", soft_wrap=True)
