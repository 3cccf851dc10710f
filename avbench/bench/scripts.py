"""Runs the scripts of benchmarks/, each in a process of its own, and gathers what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avbench import shipped
from avbench.bench.data import Data
from avbench.errors import AvbenchError, UsageError


class ScriptStopped(Exception):  # noqa: N818  it has said why
    """A script ended with a status that is not 0, and has said why on stderr."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


@dataclass(frozen=True)
class Script:
    """One run of a script. result: its name in the gathered JSON."""

    result: str
    file: str
    arguments: tuple[str, ...]


def scripts_of(target: str, data: Data, preset: str, *, quick: bool) -> list[Script]:
    """What answers a target's questions. quick: on so few clips that only whether it runs is learned."""
    dataset, media = str(data.dataset), ("--media", str(data.media)) if data.media else ()
    small = ("--rounds", "1") if quick else ()
    batch = ("--batch-size", "4") if quick else ()
    few = ("--clips", "8", *batch, *small) if quick else ()
    steps = ("--steps", "1", "--step-batch", "2") if quick else ()
    if target == "loader":
        return [
            Script("loader", "loader.py", (dataset, *media, *few)),
            Script("floors", "floors.py", (dataset, "--preset", preset, *few, *steps)),
        ]
    if target == "training":
        return [
            Script("methods", "methods.py", ("--preset", preset, *batch, *small)),
            Script("one pass", "methods.py", ("--dataset", dataset, "--preset", preset, *few)),
        ]
    if target == "store":
        sizes = ("1000", "5000") if quick else ("200000", "20000000")
        return [Script("store", "store.py", ("--clips", *sizes, *small))]
    assert target == "pack"
    return [Script("pack", "pack.py", (str(data.media), *(("--clips", "2") if quick else ())))]


def run(script: Script, folder: Path) -> Any:
    """What the script measured; its tables go to our stdout. Raises ScriptStopped."""
    path = shipped("benchmarks") / script.file
    written = folder / f"{script.result.replace(' ', '-')}.json"
    command = [sys.executable, str(path), *script.arguments, "--json", str(written)]
    # One thread of OpenMP, as avbench's own loader and ranks that share cores have it.
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        raise ScriptStopped(done.returncode)
    return json.loads(written.read_text(encoding="utf-8"))


def check_json(path: Path) -> None:
    """UsageError where results could not be written there: before anything is measured."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise UsageError(f"--json {path}: is a folder or lies in none; name a file in a folder that exists")


def write_results(config: Any, **results: Any) -> None:
    """Results and, under "config", the script's options as JSON, into the file that its option `json` names, if any."""
    if config.json:
        options = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
        config.json.write_text(json.dumps({"config": options, **results}, indent=1), encoding="utf-8")


def run_script(main: Callable[[], None]) -> None:
    """What a script of benchmarks/ ends with: a user's mistake is one line and exit status 2, as `avbench`'s own."""
    try:
        main()
    except AvbenchError as error:
        print(f"avbench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
