"""avbench verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avbench.arguments import named
from avbench.cli.output import console, json_errors, print_json
from avbench.cli.parsing import check_not_empty, parse
from avbench.errors import UsageError
from avbench.machine import usable_cores
from avbench.wording import counted


@dataclass(frozen=True)
class VerifyArgs:
    """Prove that a packed dataset is whole: sizes, checksums, counts, and that every clip decodes; or mend it."""

    dataset: Annotated[tyro.conf.Positional[Path], named("DATASET")]
    """A packed dataset."""
    quick: bool = False
    """Compare only sizes, tar headers and indexes. No sound, picture or json is read, and no checksum of a shard."""
    quarantine: bool = False
    """Set bad clips aside, so that training leaves them out."""
    add: Annotated[Path | None, named("FILE")] = None
    """With --quarantine: set the clips of this list aside too, which a training has found (RUN/quarantine.jsonl). What
    was set aside before stays, and nothing else is checked."""
    repair: bool = False
    """Pack damaged shards again from the videos, byte for byte as before, and make indexes again from the shards."""
    media: Annotated[Path | None, named("VIDEOS", default="the recipe's, else required")] = None
    """With --repair: the folder that holds the videos."""
    reindex: bool = False
    """Make index.arrow, the .idx files and dataset.json again from the shards alone, as far as those can tell."""
    workers: Annotated[int, named("INT", default="one a core")] = 0
    """Processes that decode and write at once."""
    json: bool = False
    """Answer as one JSON object on stdout; the exit status is the same."""


def run(argv: Sequence[str]) -> None:
    """Check a dataset and print every problem, or mend it and print what was done."""
    check_not_empty(argv, "--add", "--media")
    args = parse(VerifyArgs, argv, "avbench verify")
    with json_errors(asked=args.json):
        _check_together(args)
    if args.add is not None:
        _add(args, args.add)
    elif args.repair:
        _repair(args)
    elif args.reindex:
        _reindex(args)
    else:
        _verify(args)


def _check_together(args: VerifyArgs) -> None:
    """Raises UsageError for options that exclude each other, or want another."""
    asked = [f"--{name}" for name in ("quick", "quarantine", "repair", "reindex") if getattr(args, name)]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} exclude each other; call avbench verify once for each")
    if args.add is not None and not args.quarantine:
        raise UsageError("--add names clips to set aside; it goes with --quarantine")
    if args.media is not None and not args.repair:
        raise UsageError("--media names the videos for --repair; add that or leave it out")


def _verify(args: VerifyArgs) -> None:
    from avbench.packing.verify import NOT_CHECKED_QUICKLY, as_json, verify
    from avbench.quarantine import Quarantine, read_quarantine

    with json_errors(asked=args.json):
        problems = verify(
            args.dataset, workers=args.workers or usable_cores(), quarantine=args.quarantine, is_quick=args.quick
        )
    is_blocked = any(problem.blocks_training for problem in problems)
    aside = read_quarantine(args.dataset) if args.quarantine and not is_blocked else Quarantine()
    if args.json:
        print_json(as_json(args.dataset, problems, set_aside=len(aside.clips), is_quick=args.quick))
    else:
        for problem in problems:
            console().print(str(problem), soft_wrap=True)
    if not problems:
        done = f"nothing is wrong; not checked: {', '.join(NOT_CHECKED_QUICKLY)}" if args.quick else "whole"
    else:
        count = counted(len(problems), "problem")
        if is_blocked:
            raise UsageError(
                f"{args.dataset}: {count}, listed above; the index or the description is damaged, which no quarantine "
                f"mends; restore it, mend it with --repair or --reindex, or pack the dataset again"
            )
        if not args.quarantine:
            are_of_shards = any(problem.shard is not None or problem.key is not None for problem in problems)
            way_out = (
                "--repair --media VIDEOS mends shards, --quarantine sets clips aside that are not whole"
                if are_of_shards
                else "no clip and no shard is damaged, so training may go on; restore the files that are named, or "
                "move away what is not of the dataset, or pack it again"
            )
            raise UsageError(f"{args.dataset}: {count}, listed above; {way_out}")
        if not aside.clips and not aside.shards:
            raise UsageError(
                f"{args.dataset}: {count}, none of a clip, so nothing was set aside; mend it with --repair or pack the "
                f"dataset again"
            )
        shards = f", of damaged shards: {len(aside.shards)}" if aside.shards else ""
        done = f"{count}; set aside: {counted(len(aside.clips), 'clip')}{shards}"
    if not args.json:
        console().print(f"{args.dataset}: {done}", soft_wrap=True)


def _add(args: VerifyArgs, file: Path) -> None:
    from avbench.packing.verify import add_to_quarantine
    from avbench.quarantine import read_quarantine

    with json_errors(asked=args.json):
        added = add_to_quarantine(args.dataset, file)
    clips = len(read_quarantine(args.dataset).clips)
    if args.json:
        print_json({"dataset": str(args.dataset), "added": added, "set_aside": clips})
        return
    console().print(f"{args.dataset}: {added} more set aside from {file}, {clips} in all", soft_wrap=True)


def _repair(args: VerifyArgs) -> None:
    from avbench.dataset import QUARANTINE_FILE
    from avbench.packing.repair import repair
    from avbench.packing.verify import as_json, verify

    workers = args.workers or usable_cores()
    with json_errors(asked=args.json):
        done = repair(args.dataset, args.media, workers=workers)
        # Every shard has the checksum that it was packed with, so nothing in them needs another look.
        problems = verify(args.dataset, workers=workers, is_quick=True)
    if args.json:
        mended = {"packed_anew": list(done.shards), "made_again": list(done.files)}
        print_json({**as_json(args.dataset, problems, set_aside=0), **mended})
    else:
        for problem in problems:
            console().print(str(problem), soft_wrap=True)
    if problems:
        files, left = counted(len(done.shards) + len(done.files), "file"), counted(len(problems), "problem")
        raise UsageError(
            f"{args.dataset}: mended {files}; {left} left "
            f"(listed above), which neither videos nor shards mend; restore those files"
        )
    if args.json:
        return
    parts = [
        f"packed anew: {', '.join(done.shards) or 'no shard'}",
        f"made again: {', '.join(done.files) or 'no index'}",
    ]
    console().print(f"{args.dataset}: whole; {'; '.join(parts)}", soft_wrap=True)
    if (args.dataset / QUARANTINE_FILE).exists():
        text = "clips are still set aside; `avbench verify --quarantine` takes those back that are whole"
        console().print(f"{args.dataset}: {text}", soft_wrap=True)


def _reindex(args: VerifyArgs) -> None:
    from avbench.packing.reindex import reindex

    with json_errors(asked=args.json):
        done = reindex(args.dataset, workers=args.workers or usable_cores())
    if args.json:
        written, not_told = list(done.written), list(done.not_told)
        print_json({"dataset": str(args.dataset), "clips": done.clips, "written": written, "not_told": not_told})
        return
    written_text = f"written: {', '.join(done.written)}" if done.written else "every file is as it was"
    console().print(f"{args.dataset}: {done.clips} clips in the shards; {written_text}", soft_wrap=True)
    for text in done.not_told:
        console().print(f"{args.dataset}: the shards do not say {text}", soft_wrap=True)
