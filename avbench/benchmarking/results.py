"""How a script of benchmarks/ begins and ends: options checked, results written, mistakes in one line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avbench.errors import AvbenchError, UsageError
from avbench.records import write_text


def check_json(path: Path) -> None:
    """UsageError where results could not be written there: before anything is measured."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise UsageError(f"--json {path}: is a folder or lies in none; name a file in a folder that exists")
    if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise UsageError(f"--json {path}: cannot be written; name a file in a folder that can")


def write_results(config: Any, **results: Any) -> None:
    """Results and, under "config", the script's options as JSON, into the file that its option `json` names, if any.

    The file is replaced as a whole: a script that is killed leaves what was written before.
    """
    if config.json:
        options = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
        write_text(config.json, json.dumps({"config": options, **results}, indent=1))


def run_script(main: Callable[[], None]) -> None:
    """What a script of benchmarks/ ends with: a user's mistake is one line and exit status 2, as `avbench`'s own."""
    try:
        main()
    except AvbenchError as error:
        print(f"avbench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
