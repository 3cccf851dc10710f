"""avbench view."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avbench.arguments import named
from avbench.cli.output import console, json_errors, print_json
from avbench.cli.parsing import check_not_empty, parse


@dataclass(frozen=True)
class ViewArgs:
    """Make a dataset of some clips of another, or of several, without copying a byte of a shard. What takes a dataset
    takes a view. The order of what is asked: --map, --classes, --keys, --without-keys, --drop, --splits."""

    datasets: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="DATASET [DATASET ...]", help_behavior_hint="(required)"),
    ]
    """Packed datasets or views, all packed in one way."""
    out: Annotated[Path, named("VIEW")]
    """The folder to make."""
    classes: Annotated[Path | None, named("FILE", default="all")] = None
    """Take only these classes: names, one a line, as they are after --map."""
    keys: Annotated[Path | None, named("FILE", default="all")] = None
    """Take only these clips: keys, one a line, or CSV key,split, which also says their splits. A name that is no key is
    taken for that of a video, and means all its clips."""
    without_keys: Annotated[Path | None, named("FILE", default="none")] = None
    """Leave these clips out, named as for --keys."""
    map: Annotated[Path | None, named("FILE", default="none")] = None
    """Rename classes: CSV old,new. Several may become one, and an empty new name drops the class."""
    drop: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], named("RULE", default="none")] = ()
    """Leave out clips by a column of quality.parquet, such as 'quality:peak_dbfs<-50' or quality:frozen. Quote it. May
    be given several times."""
    splits: Annotated[Path | None, named("FILE", default="as they are")] = None
    """Give clips other splits: CSV key,split. Clips that it does not name keep theirs."""
    shards: Annotated[tuple[Path, ...], named("FOLDER", default="where they were")] = ()
    """Where the shards of a view are now, if they were moved."""
    json: bool = False
    """Say the result as one JSON object on stdout."""


def run(argv: Sequence[str]) -> None:
    """Make a view, and say what is in it and what was left out."""
    with json_errors(asked="--json" in argv):
        check_not_empty(argv, "--out", "--classes", "--keys", "--without-keys", "--map", "--splits", "--shards")
        args = parse(ViewArgs, argv, "avbench view")
        from avbench.packing.views.rule import RuleFiles
        from avbench.packing.views.summary import as_json, lines
        from avbench.packing.views.view import make_view

        files = RuleFiles(
            classes=args.classes,
            keys=args.keys,
            without_keys=args.without_keys,
            map=args.map,
            splits=args.splits,
            drop=args.drop,
        )
        view = make_view(args.datasets, out=args.out, files=files, shard_folders=args.shards)
    for text in view.notes:
        print(f"avbench: {args.out}: {text}", file=sys.stderr)
    if args.json:
        print_json(as_json(view))
        return
    for line in lines(view):
        console().print(line, soft_wrap=True)
