"""Shows that two commits do the same, byte for byte: for changes of structure, which are to change nothing else.

    python tests/compare_commits.py BEFORE AFTER [--methods audio,visual,baseline]

The same made-up videos are packed by both, the same dataset is trained on by both, and one run folder is evaluated
by both. Compared are all files of the datasets (but for the version in `made_with`), confidences, predictions, networks
and optimizers, and all files of the reports (but for the places and times that they name). Each difference is a line,
and the exit status is 1 where there is one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

PLANTED = ("--planted.classes", "3", "--planted.train", "24", "--planted.val", "6", "--planted.test", "9")
TRAINING = ("--preset", "tiny", "--epochs", "2", "--batch-size", "8", "--precision", "float32")
METHODS = "audio,visual,baseline,ogm-ge,gradient-blending:super_epoch=1,greedy:warmup=1,tmc"


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """A work tree of a commit, for a while."""
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(folder)], check=True)


def avbench(tree: Path, *words: object) -> None:
    """Run the command of a work tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "avbench", *map(str, words)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} in {tree} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def digests(folder: Path, pattern: str = "**/*", *, hide: tuple[Path, ...] = ()) -> dict[str, str]:
    """SHA-256 of each file, by its path, without what names a place, a time or a version."""
    found = {}
    for path in sorted(folder.glob(pattern)):
        if path.is_file():
            data = path.read_bytes()
            if path.suffix in (".json", ".jsonl", ".md", ".html", ".csv", ".tex", ".svg"):
                data = without_places(data, hide)
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def tensors(run: Path) -> dict[str, str]:
    """SHA-256 of each tensor of a run folder's checkpoints: their files differ by the order of writing."""
    found = {}
    for folder in sorted(run.glob("checkpoints/epoch-*/tensors")):
        whole = folder.with_name("tensors.pt")
        dcp_to_torch_save(folder, whole)
        for name, tensor in torch.load(whole, weights_only=True).items():
            data = tensor.double().numpy().tobytes() if tensor.is_floating_point() else repr(tensor.tolist()).encode()
            found[f"{folder.parent.name}: {name}"] = hashlib.sha256(data).hexdigest()
        whole.unlink()
    return found


def without_places(data: bytes, hide: tuple[Path, ...]) -> bytes:
    """A text without folders, dates and `made_with`."""
    for place in hide:
        data = data.replace(str(place).encode(), b"PLACE")
    data = re.sub(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:?\d\d|Z)?", b"TIME", data)
    return re.sub(rb'"made_with": *"[^"]*"', b'"made_with": ""', data)


def differences(what: str, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """A line for each file that differs, or that only one has."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            only = "" if name in before and name in after else f", only {'before' if name in before else 'after'}"
            found.append(f"{what}: {name} differs{only}")
    print(f"{what}: {len(before)} files before, {len(after)} after, {len(found)} differ", flush=True)
    return found


def main() -> None:
    """Compare; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--width", default="8", help="of the networks: 64 is the published one")
    parser.add_argument("--methods", default=METHODS)
    options = parser.parse_args()
    found: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with checkout(options.before, folder / "before") as before, checkout(options.after, folder / "after") as after:
            trees = {"before": before, "after": after}
            for side, tree in trees.items():
                avbench(
                    tree, "pack", "planted", *PLANTED, "--media", folder / "media", "--out", folder / f"data-{side}"
                )
            found += differences("datasets", *(digests(folder / f"data-{side}") for side in trees))
            for side, tree in trees.items():
                run = folder / f"run-{side}"
                avbench(
                    tree,
                    "train",
                    folder / "data-before",
                    *TRAINING,
                    "--width",
                    options.width,
                    "--methods",
                    options.methods,
                    "--out",
                    run,
                )
            for what, pattern in (
                ("confidences", "confidence.parquet"),
                ("histories", "confidence/**/*"),
                ("predictions", "predictions/*"),
                ("best networks", "checkpoints/best/*"),
            ):
                found += differences(what, *(digests(folder / f"run-{side}", pattern) for side in trees))
            found += differences("networks and optimizers", *(tensors(folder / f"run-{side}") for side in trees))
            for side, tree in trees.items():
                avbench(tree, "evaluate", folder / "run-before", "--out", folder / f"report-{side}")
            hide = tuple(folder / f"report-{side}" for side in trees)
            found += differences("reports", *(digests(folder / f"report-{side}", hide=hide) for side in trees))
    print("\n".join(found) or "no difference")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
