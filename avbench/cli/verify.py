"""avbench verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avbench.arguments import named
from avbench.cli.output import console, json_errors, number, print_json
from avbench.cli.parsing import parse
from avbench.errors import UsageError
from avbench.machine import usable_cores


@dataclass(frozen=True)
class VerifyArgs:
    """Prove that a packed dataset is whole: sizes, checksums, counts, and that every clip decodes."""

    dataset: Annotated[tyro.conf.Positional[Path], named("DATASET")]
    """A packed dataset."""
    quarantine: bool = False
    """Set bad clips aside, so that training leaves them out."""
    workers: Annotated[int, named("INT", default="one a core")] = 0
    """Processes that decode and write at once."""
    json: bool = False
    """Answer as one JSON object on stdout; the exit status is the same."""


def run(argv: Sequence[str]) -> None:
    """Check a dataset, and print every problem."""
    args = parse(VerifyArgs, argv, "avbench verify")
    from avbench.packing.verify import as_json, verify
    from avbench.quarantine import Quarantine, read_quarantine

    with json_errors(asked=args.json):
        problems = verify(args.dataset, workers=args.workers or usable_cores(), quarantine=args.quarantine)
    is_blocked = any(problem.blocks_training for problem in problems)
    aside = read_quarantine(args.dataset) if args.quarantine and not is_blocked else Quarantine()
    if args.json:
        print_json(as_json(args.dataset, problems, set_aside=len(aside.clips)))
    else:
        for problem in problems:
            console().print(str(problem), soft_wrap=True)
    if not problems:
        done = "whole"
    else:
        count = number(problems, "problem")
        if is_blocked:
            raise UsageError(
                f"{args.dataset}: {count}, listed above; the index or the description is damaged, which no quarantine "
                f"mends; restore it or pack the dataset again"
            )
        if not args.quarantine:
            raise UsageError(f"{args.dataset}: {count}, listed above; --quarantine sets clips aside that are not whole")
        if not aside.clips and not aside.shards:
            raise UsageError(
                f"{args.dataset}: {count}, none of a clip, so nothing was set aside; pack the dataset again"
            )
        shards = f", of damaged shards: {len(aside.shards)}" if aside.shards else ""
        done = f"{count}; set aside: {number(aside.clips, 'clip')}{shards}"
    if not args.json:
        console().print(f"{args.dataset}: {done}", soft_wrap=True)
