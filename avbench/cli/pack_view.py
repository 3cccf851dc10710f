"""avbench pack --from-view: a view is written out as shards of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from avbench.arguments import named
from avbench.cli.output import console, json_errors, print_json
from avbench.cli.parsing import check_not_empty, parse
from avbench.machine import usable_cores


@dataclass(frozen=True)
class PackViewArgs:
    """Write the clips of a view to shards of their own: copied, in its order. Started again, it goes on."""

    from_view: Annotated[Path, named("VIEW")]
    """The view; any packed dataset will do."""
    out: Annotated[Path, named("DATASET")]
    """The dataset folder to make."""
    clips_per_shard: Annotated[int, named("INT", default="as it was packed")] = 0
    """Clips in one tar file."""
    workers: Annotated[int, named("INT", default="one a core")] = 0
    """Processes that copy at once."""
    overwrite: bool = False
    """Replace a finished dataset."""
    json: bool = False
    """Say the result as one JSON object on stdout."""


def run(argv: Sequence[str]) -> None:
    """Write a view out, and say what is in the dataset."""
    with json_errors(asked="--json" in argv):
        check_not_empty(argv, "--from-view", "--out")
        args = parse(PackViewArgs, argv, "avbench pack --from-view")
        from avbench.packing.views.write_out import write_out

        dataset = write_out(
            args.from_view,
            out=args.out,
            workers=args.workers or usable_cores(),
            clips_per_shard=args.clips_per_shard,
            overwrite=args.overwrite,
        )
    counts, shards = dataset.description["clips"], len(dataset.packed_shards)
    if args.json:
        print_json({"dataset": str(args.out), "clips": counts, "shards": shards, "fingerprint": dataset.fingerprint})
        return
    clips = ", ".join(f"{count} {split}" for split, count in counts.items())
    text = f"{args.out}: {len(dataset)} clips ({clips}) of {args.from_view}, in {shards} shards"
    console().print(text, soft_wrap=True)
