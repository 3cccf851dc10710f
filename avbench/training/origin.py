"""Where numbers come from, as a launch records it: which code ran on what, with which clips of each split."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avbench.machine import processor_name, usable_cores, versions
from avbench.records import write_json
from avbench.run_folder import RunFolder

_PACKAGE = Path(__file__).resolve().parents[1]
# Git answers in milliseconds; on a file system that hangs a training does not wait for it.
_GIT_SECONDS = 5.0


def describe_clips(clip_ids: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Per split how many clips are used, and the SHA-256 of their ids, ascending, as little-endian int64."""
    return {
        split: {"clips": len(ids), "sha256": hashlib.sha256(np.sort(ids).astype("<i8").tobytes()).hexdigest()}
        for split, ids in clip_ids.items()
    }


def describe_code(package: Path = _PACKAGE) -> dict[str, Any]:
    """Which code of avbench runs: `source_sha256` of its modules; in a git checkout also `commit` and `uncommitted`.

    uncommitted: whether the package differs from the commit. Never raises: what cannot be told is left out.
    """
    return {**_source(package), **_checkout(package)}


def _source(package: Path) -> dict[str, str]:
    """SHA-256 over names and contents of all modules, in order of their names."""
    digest = hashlib.sha256()
    try:
        for path in sorted(package.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    except OSError:
        return {}
    return {"source_sha256": digest.hexdigest()}


def _checkout(package: Path) -> dict[str, Any]:
    """The commit of the git checkout that holds the package; empty where none does.

    A package that was installed into some other project's checkout is none of that project's files, so its commit says
    nothing of it.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {}
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--", ".")
    return {} if commit is None or changes is None else {"commit": commit, "uncommitted": changes != ""}


def _git(folder: Path, *words: str) -> str | None:
    """What git prints for a command in a folder; None where there is no git or it fails."""
    # Those variables would send git to another checkout; and it is to write nothing, not even a fresher index.
    away = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    environment = {name: value for name, value in os.environ.items() if name not in away}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_environment(
    *, world_size: int, device: torch.device, dtype: torch.dtype, clip_ids: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """What a run ran on: code, versions, machine, ranks, command, and which clips of each split it was given."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "code": describe_code(),
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": processor_name(),
        "cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": str(dtype).removeprefix("torch."),
        "world_size": world_size,
        "clips": describe_clips(clip_ids),
        **({"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()} if device.type == "cuda" else {}),
    }


def record_launch(folder: RunFolder, environment: dict[str, Any]) -> int:
    """Append a launch to environment.json: a resumed run lists every machine it ran on. Returns how many there are."""
    launches = json.loads(folder.environment.read_text("utf-8"))["launches"] if folder.environment.exists() else []
    write_json(folder.environment, {"launches": [*launches, environment]})
    return len(launches) + 1
