"""avbench doctor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avbench.cli.output import console, print_json
from avbench.cli.parsing import parse


@dataclass(frozen=True)
class DoctorArgs:
    """What this machine has, and what will run where."""

    path: Path = Path()
    """The folder whose free disk counts."""
    json: bool = False
    """Answer as one JSON object on stdout."""


def run(argv: Sequence[str]) -> None:
    """Print what this machine has."""
    args = parse(DoctorArgs, argv, "avbench doctor")
    from avbench.doctor import examine

    sections = examine(args.path)
    if args.json:
        print_json({section.name: dict(section.rows) for section in sections})
        return
    for section in sections:
        console().print(section.table())
