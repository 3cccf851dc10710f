"""Where a run's numbers come from, as digests: the dataset, the clips of it that were used, the preset, the code.

Each launch in environment.json has an `origin`:

    dataset     name, index_sha256 (of index.arrow), clips, classes, classes_sha256 (of their names in order)
    clips       per split, and per part of train where it was cut, `clips` and `hash` of the ids (audit.Count)
    preset      name, sha256 (of all its numbers)
    code        sha256 (of avbench's own files); in a git checkout commit, and changed: whether files differ from it

Beside it a launch has versions of libraries, precision, machine, ranks and command.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import avbench
from avbench.dataset import Dataset
from avbench.loading.features import Preset
from avbench.training.audit import Count

_GIT_SECONDS = 20.0


def origin(dataset: Dataset, clip_ids: Mapping[str, np.ndarray], preset: Preset) -> dict[str, Any]:
    """The digests. clip_ids: per split or part of train the ids that are used."""
    counts = {name: Count.of(ids) for name, ids in clip_ids.items()}
    return {
        "dataset": {
            "name": dataset.name,
            "index_sha256": dataset.fingerprint,
            "clips": len(dataset),
            "classes": len(dataset.classes),
            "classes_sha256": digest_of(list(dataset.classes)),
        },
        "clips": {name: {"clips": count.clips, "hash": count.hash} for name, count in counts.items()},
        "preset": {"name": preset.name, "sha256": digest_of(asdict(preset))},
        "code": code(Path(avbench.__file__).resolve().parent),
    }


def digest_of(value: object) -> str:
    """SHA-256 of a value as JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def code(package: Path) -> dict[str, Any]:
    """Which code a package folder holds."""
    files = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".toml"))
    contents = {str(path.relative_to(package)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    found: dict[str, Any] = {"sha256": digest_of(contents)}
    if (package.parent / ".git").exists() and (commit := _git(package, "rev-parse", "HEAD")):
        found["commit"] = commit
        found["changed"] = bool(_git(package, "status", "--porcelain", "--", "."))
    return found


def _git(folder: Path, *words: str) -> str:
    """What git says; empty where there is none, or it refuses the checkout as somebody else's."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
