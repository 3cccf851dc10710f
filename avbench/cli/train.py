"""avbench train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from avbench.cli.parsing import parse, value_of
from avbench.errors import UsageError
from avbench.help import methods_text

if TYPE_CHECKING:
    from avbench.config import TrainConfig


def run(argv: Sequence[str]) -> None:
    """Train, and print what is said at the end."""
    from avbench.config import TrainArgs, load_config

    saved = _saved_config(argv, load_config)
    default = TrainArgs(saved) if saved else tyro.MISSING_NONPROP
    args = parse(TrainArgs, argv, "avbench train", default=default, more_help=methods_text)
    from avbench.distributed import world_from_environment
    from avbench.start import start

    said = start(args.run, resume=args.resume, auto_resume=args.auto_resume, overwrite=args.overwrite, tune=args.tune)
    if world_from_environment().is_main:
        print(said, flush=True)


def _saved_config(argv: Sequence[str], load: Callable[..., TrainConfig]) -> TrainConfig | None:
    """What the flags override: the run's own configuration when it is resumed, else the file of --config."""
    out, file = (value_of(argv, flag) for flag in ("--out", "--config"))
    if "--resume" not in argv:
        return load(Path(file)) if file is not None else None
    if file is not None:
        raise UsageError("--resume goes on with the run's own configuration; leave out --config")
    if out is None:
        raise UsageError("--resume wants the run folder: --out RUN")
    from avbench.training.held_folder import HeldFolder

    HeldFolder(Path(out)).check_resumable()
    return load(HeldFolder(Path(out)).config, out=out)
