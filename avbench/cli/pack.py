"""avbench pack."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import tyro

from avbench.arguments import explain, named
from avbench.cli.output import console, json_errors, print_json
from avbench.cli.parsing import check_not_empty, one_line, parse_known
from avbench.errors import UsageError
from avbench.machine import usable_cores

if TYPE_CHECKING:
    from avbench.dataset import Dataset
    from avbench.packing.part import Part, Unfinished
    from avbench.packing.recipes.recipe import Recipe


@dataclass(frozen=True)
class PackArgs:
    """Cut labelled videos into a dataset of tar shards. Started again after an interruption, it goes on."""

    recipe: Annotated[tyro.conf.Positional[str], named("RECIPE")]
    """A recipe by name (folder, planted, vggsound, ...) or a TOML file of your own."""
    out: Path
    """The dataset folder to make."""
    media: Annotated[Path | None, named("VIDEOS", default="the recipe's, else required")] = None
    """The folder that holds the videos. Planted clips are rendered into it."""
    list: Annotated[tuple[Path, ...], named("FILE", default="the recipe's")] = ()
    """The lists of a recipe of kind list, as they were published."""
    split_by: Annotated[str, named("COLUMN", default="the published splits")] = ""
    """Cut all splits anew, and keep clips with one value of this column of the lists in one split."""
    workers: Annotated[int, named("INT", default="one a core")] = 0
    """Processes that decode and write at once."""
    part: Annotated[str, named("K/N", default="the whole")] = ""
    """Make only the shards of part K, from 0 to N-1. All parts have one DATASET, and run at once or one after the
    other, on one machine or on many; the one that makes the last shard completes it."""
    clip_seconds_limit: Annotated[float, named("SECONDS")] = 600.0
    """A clip that takes longer to read is rejected. So is one that crashes the process that reads it."""
    dry_run: bool = False
    """Pack nothing, but say what would be packed, what is missing, and about how long and how large it would be, from a
    sample of clips that are decoded and encoded."""
    overwrite: bool = False
    """Replace a finished dataset."""
    json: bool = False
    """Say the result as one JSON object on stdout; progress goes to stderr as ever."""


def run(argv: Sequence[str]) -> None:
    """Pack videos, and say what was packed and what was not."""
    if any(word == "--from-view" or word.startswith("--from-view=") for word in argv):
        from avbench.cli.pack_view import run as run_from_view

        run_from_view(argv)
        return
    check_not_empty(argv, "--out", "--media", "--part")
    if any(word in ("-h", "--help") for word in argv):
        _pack_help(argv)
    args, rest = parse_known(PackArgs, argv, "avbench pack")
    with json_errors(asked=args.json):
        from avbench.packing.recipes.reading import load_recipe
        from avbench.packing.recipes.recipe import source_of

        part = _part(args)
        # Before PyAV and NumPy are loaded, so that a typo is answered at once.
        recipe = load_recipe(args.recipe, {**overrides(rest), **_of_lists(args)})
        media = args.media or source_of(recipe).default_media(args.out)
        if media is None:
            raise UsageError("--media is missing: the folder that holds the videos")
        if args.dry_run:
            _say_what_would_be(recipe, media, args)
            return
        packed = _packed(recipe, media, args, part)
        from avbench.packing.summary import as_json, lines
    if args.json:
        print_json(as_json(packed))
        return
    for line in lines(packed):
        console().print(line, soft_wrap=True)


def _packed(recipe: Recipe, media: Path, args: PackArgs, part: Part | None) -> Dataset | Unfinished:
    from avbench.packing.pack import pack, pack_part

    workers, limit = args.workers or usable_cores(), args.clip_seconds_limit
    if part is None:
        overwrite = args.overwrite
        return pack(recipe, media, out=args.out, workers=workers, overwrite=overwrite, clip_seconds_limit=limit)
    return pack_part(recipe, media, out=args.out, part=part, workers=workers, clip_seconds_limit=limit)


def _say_what_would_be(recipe: Recipe, media: Path, args: PackArgs) -> None:
    from avbench.packing.dry_run import dry_run, dry_run_lines

    workers, limit, out = args.workers or usable_cores(), args.clip_seconds_limit, args.out
    found = dry_run(recipe, media, out=out, workers=workers, clip_seconds_limit=limit, overwrite=args.overwrite)
    if args.json:
        print_json(found)
        return
    for line in dry_run_lines(found):
        console().print(line, soft_wrap=True)


def _part(args: PackArgs) -> Part | None:
    """The part that is asked for, if one is. Raises UsageError."""
    from avbench.packing.part import part_named

    if not args.part:
        return None
    if args.dry_run:
        raise UsageError("--dry-run is about the whole dataset; leave out --part")
    if args.overwrite:
        raise UsageError("--overwrite and --part exclude each other: each part would remove what the others have made")
    return part_named(args.part)


def _of_lists(args: PackArgs) -> dict[str, object]:
    """--list and --split-by as fields of the recipe."""
    given: dict[str, object] = {}
    if args.list:
        given["list.lists"] = [str(path) for path in args.list]
    if args.split_by:
        given["list.split_by"] = args.split_by
    return given


def _pack_help(argv: Sequence[str]) -> NoReturn:
    """Print the options of pack; where a recipe is named, its fields with their types and defaults too."""
    # The first word that is neither an option nor behind one, where it would be a value.
    alone = ("-h", "--help", "--overwrite", "--no-overwrite", "--dry-run", "--no-dry-run", "--json", "--no-json")
    name = ""
    for before, word in pairwise(["-h", *argv]):
        if not word.startswith("-") and (before in alone or not before.startswith("-")):
            name = word
            break
    more = (
        "Every field of a recipe is an option too: `avbench pack planted --help` lists those of planted, say. "
        "`avbench pack --from-view VIEW --out DATASET` writes a view out as shards of its own."
    )
    explain(PackArgs)
    options: Any = PackArgs
    default: Any = None
    if name:
        from avbench.packing.recipes.help import about, with_fields
        from avbench.packing.recipes.reading import load_recipe

        recipe = load_recipe(name)
        more = f"{name}: {about(recipe)}"
        default = with_fields(PackArgs(tyro.MISSING, tyro.MISSING), recipe)
        options = type(default)
    with one_line("avbench pack", lambda: more):
        tyro.cli(
            options,
            prog=f"avbench pack {name}".strip(),
            args=["--help"],
            description=PackArgs.__doc__,
            default=default,
            config=(tyro.conf.AvoidSubcommands,),
        )
    sys.exit(0)


def overrides(words: Sequence[str]) -> dict[str, object]:
    """`--window-seconds 2` or `--window-seconds=2` as {"window_seconds": 2}: fields of the recipe to change."""
    overrides: dict[str, object] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (equals or rest):
            raise UsageError(f"{word!r} is no option with a value; `avbench pack --help` lists the options")
        overrides[name.replace("-", "_")] = _toml_value(value if equals else rest.pop(0))
    return overrides


def _toml_value(text: str) -> object:
    """A value as a recipe file would have it: a number, a list, true or false; anything else is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
