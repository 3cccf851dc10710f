"""Processes in which videos of certain names crash the decoder in C, hang in it, or have their process killed.

Python runs `sitecustomize` first thing in every process, so what it replaces is replaced in workers and their children,
too; the crash itself is a real one. Names begin with one of KINDS.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import REPOSITORY

KINDS = ("segv", "abort", "kill", "exit", "memory", "hang", "spoil")

_SITE = """
import sys
if "avbench" not in sys.modules:
    import ctypes, os, time
    from pathlib import Path
    import avbench.packing.pack as packing
    read_clip, spoilt = packing.read_clip, []

    def read(path, **options):
        with open(os.environ["CRASHING_LOG"], "a") as log:
            log.write(path.name + "\\n")
        if path.name.startswith("segv"):
            ctypes.string_at(0)
        if path.name.startswith("abort"):
            os.abort()
        if path.name.startswith("kill"):
            os.kill(os.getpid(), 9)
        if path.name.startswith("exit"):
            ctypes.CDLL(None)._exit(3)
        if path.name.startswith("memory"):
            raise MemoryError
        if path.name.startswith("hang"):
            ctypes.CDLL(None).pause()
        if spoilt:
            ctypes.string_at(0)
        if path.name.startswith("spoil"):
            spoilt.append(path)
        return read_clip(path, **options)

    packing.read_clip = read
"""


def crashing_avbench(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `avbench WORDS` in a process in which such videos crash; `folder` keeps what that needs."""
    return subprocess.run(
        command(*words), env=environment(folder), capture_output=True, text=True, timeout=250, **options
    )


def command(*words: str) -> Sequence[str]:
    return [sys.executable, "-m", "avbench", *words]


def environment(folder: Path) -> dict[str, str]:
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(_SITE)
    log = folder / "read.log"
    log.touch()
    paths = f"{folder / 'site'}:{REPOSITORY}"
    return {**os.environ, "PYTHONPATH": paths, "CRASHING_LOG": str(log), "OMP_NUM_THREADS": "1"}


def times_read(folder: Path, name: str) -> int:
    """How often a process began to read this video."""
    return (folder / "read.log").read_text().splitlines().count(name)
