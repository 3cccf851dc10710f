"""avbench demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avbench.cli.parsing import parse


@dataclass(frozen=True)
class DemoArgs:
    """Planted clips, pack, train, evaluate: the whole job in minutes on a CPU."""

    out: Path = Path("demo")
    """A folder for everything; must not exist."""
    overwrite: bool = False
    """Replace an earlier demo."""


def run(argv: Sequence[str]) -> None:
    """Run the demo."""
    args = parse(DemoArgs, argv, "avbench demo")
    from avbench.cli import dispatch
    from avbench.demo import run_demo

    run_demo(args.out, command=dispatch, overwrite=args.overwrite)
