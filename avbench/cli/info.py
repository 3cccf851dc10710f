"""avbench info."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avbench.arguments import named
from avbench.cli.output import console, json_errors, print_json
from avbench.cli.parsing import check_not_empty, parse


@dataclass(frozen=True)
class InfoArgs:
    """What is in a packed dataset: classes, hours, bytes, sizes, rejects, quarantine, recipe. Opens no shard."""

    dataset: Annotated[tyro.conf.Positional[Path], named("DATASET")]
    """A packed dataset."""
    export_keys: Annotated[Path | None, named("FILE")] = None
    """Write which clips are used as CSV (key,split,label,source), to be published with a paper's numbers. Clips in
    quarantine are left out."""
    json: bool = False
    """Answer as one JSON object on stdout."""


def run(argv: Sequence[str]) -> None:
    """Print what is in a dataset, and write the keys of its clips where that is asked for."""
    with json_errors(asked="--json" in argv):
        check_not_empty(argv, "--export-keys")
        args = parse(InfoArgs, argv, "avbench info")
        from avbench.packing.info import export_keys, info, lines

        found = info(args.dataset)
        if args.export_keys is not None:
            written, left_out = export_keys(args.dataset, args.export_keys)
            found["exported_keys"] = {"file": str(args.export_keys), "clips": written, "left_out": left_out}
    if args.json:
        print_json(found)
        return
    for line in lines(found):
        console().print(line, soft_wrap=True)
    if args.export_keys is not None:
        aside = f", without {left_out} in quarantine" if left_out else ""
        console().print(f"{args.export_keys}: the keys of {written} clips{aside}", soft_wrap=True)
