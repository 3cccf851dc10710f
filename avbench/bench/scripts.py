"""Runs the scripts of benchmarks/, each in a process of its own, and gathers what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avbench import shipped
from avbench.benchmarking.data import Data


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


@dataclass(frozen=True)
class LoaderSizes:
    """What `bench loader` measures, where it is not the scripts' own choice: peers by name, clips an epoch, rounds."""

    peers: tuple[str, ...] = ()
    clips: int = 0
    rounds: int = 0

    def arguments(self, *names: str) -> tuple[str, ...]:
        """Those of these names that were chosen, as a script takes them."""
        values = {"peers": ",".join(self.peers), "clips": self.clips, "rounds": self.rounds}
        return tuple(word for name in names if values[name] for word in (f"--{name}", str(values[name])))


_OWN_CHOICE = LoaderSizes()


def scripts_of(target: str, data: Data, preset: str, *, quick: bool, chosen: LoaderSizes = _OWN_CHOICE) -> list[Script]:
    """What answers a target's questions. quick: on so few clips that only whether it runs is learned."""
    dataset, media = str(data.dataset), ("--media", str(data.media)) if data.media else ()
    small = ("--rounds", "1") if quick else ()
    batch = ("--batch-size", "4") if quick else ()
    few = ("--clips", "8", *batch, *small) if quick else ()
    steps = ("--steps", "1", "--step-batch", "2") if quick else ()
    if target == "loader":
        return [
            Script("loader", "loader.py", (dataset, *media, *few, *chosen.arguments("peers", "clips", "rounds"))),
            Script("floors", "floors.py", (dataset, "--preset", preset, *few, *steps, *chosen.arguments("rounds"))),
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
