"""The whole job on planted clips: every command that a user would type, typed for them."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from avbench import shipped
from avbench.errors import UsageError

_MARK = "demo.txt"  # what a folder that a demo made has in it
CONFIG = shipped("launch") / "demo.toml"


def commands(out: Path) -> list[list[str]]:
    """The demo as the arguments of `avbench`: pack, train, evaluate, all into `out`."""
    dataset, run = str(out / "dataset"), str(out / "run")
    return [
        ["pack", "planted", "--media", str(out / "videos"), "--out", dataset],
        ["train", dataset, "--out", run, "--config", str(CONFIG)],
        ["evaluate", run],
    ]


def run_demo(out: Path, *, command: Callable[[Sequence[str]], None], overwrite: bool) -> None:
    """Run the demo into a new folder, showing each command first. command: runs `avbench` with these arguments.

    Raises UsageError where the folder exists; with `overwrite` an earlier demo is replaced, and nothing else.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        if not (overwrite and (out / _MARK).exists()):
            way_out = "is no earlier demo; name another with --out" if overwrite else "--overwrite replaces a demo"
            raise UsageError(f"{out}: exists already; {way_out}")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).write_text("".join(f"avbench {shlex.join(words)}\n" for words in commands(out)), encoding="utf-8")
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    for words in commands(out):
        console.print(f"\n$ avbench {shlex.join(words)}", style="bold", soft_wrap=True, markup=False)
        command(words)
    console.print(f"the demo took {time.monotonic() - started:.0f} s; everything is in {out}", soft_wrap=True)
