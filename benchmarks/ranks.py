"""What do a second rank, a checkpoint and an interruption cost a training?

    python benchmarks/ranks.py DATASET [--preset tiny] [--batch-size 128] [--json FILE]

Ranks: a training (`avbench train`, one epoch) by two ranks on two cores, the batch cut in two, beside one rank on one
core with the whole batch (the same training) and with half of it (the same work a step); each rank with one thread,
turn and turn about; clips a second, from the training's own records, their second half. A larger batch is faster a clip
in any case, as the optimizer's step is shared by more, so the first ratio is the smaller.
Checkpoints: one rank with `--checkpoint-steps K`, on all cores; seconds a step in which some of a checkpoint was copied
or written, and in which nothing was. Methods train side by side, one a core: with fewer methods than cores the writing
has a core to itself, else it takes training's own.
Resuming: from the start of `avbench train --resume` of a training that was killed with SIGKILL to its first record of a
new step, interpreter and imports included.

Answers: benchmarks/README.md.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from avbench.benchmarking.results import write_results
from avbench.machine import usable_cores
from avbench.progress import tracked
from avbench.records import read_metrics
from avbench.run_folder import RunFolder

PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120")
# What is aimed at: clips a second of two ranks over one's; a step while saving over a usual one; seconds.
AIMS = {"ranks": 1.7, "checkpoint": 1.1, "resume": 10.0}


@dataclass(frozen=True)
class Config:
    """What to measure. rounds: repetitions of each. checkpoint_steps: steps from one checkpoint to the next."""

    dataset: tyro.conf.Positional[Path]
    preset: str = "tiny"
    methods: str = "baseline"
    batch_size: int = 128
    epochs: int = 1
    rounds: int = 3
    checkpoint_steps: int = 4
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print a table, write JSON."""
    cores = sorted(os.sched_getaffinity(0))
    results: dict[str, Any] = {"ranks": [], "checkpoint": [], "resume": []}
    for _ in tracked(range(config.rounds), "rounds"):
        with tempfile.TemporaryDirectory() as folder:
            half = replace(config, batch_size=max(config.batch_size // 2, 1))
            one = clips_a_second(config, Path(folder, "one"), cores=cores[:1], ranks=1)
            one_half = clips_a_second(half, Path(folder, "half"), cores=cores[:1], ranks=1)
            two = clips_a_second(config, Path(folder, "two"), cores=cores[:2], ranks=2)
            rates = {"one": one, "one with half the batch": one_half, "two": two}
            results["ranks"].append({**rates, "ratio": two / one, "ratio to half the batch": two / one_half})
        with tempfile.TemporaryDirectory() as folder:
            results["checkpoint"].append(step_seconds(config, Path(folder, "run")))
        with tempfile.TemporaryDirectory() as folder:
            results["resume"].append({"seconds": resume_seconds(config, Path(folder, "run"))})
    Console().print(table_of(results))
    write_results(config, **about(), results=results)


def command(config: Config, out: Path, *, ranks: int = 1, flags: Sequence[str] = ()) -> list[str]:
    """A training, log after each step."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    words = ["train", str(config.dataset), "--out", str(out), "--preset", config.preset, "--methods", config.methods]
    words += ["--batch-size", str(config.batch_size), "--epochs", str(config.epochs), "--log-steps", "1"]
    words += ["--loader-threads", "1", "--patience", "0", *flags]
    return [sys.executable, *launcher, "-m", "avbench", *words]


def environment() -> dict[str, str]:
    """One thread a rank."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def clips_a_second(config: Config, out: Path, *, cores: Sequence[int], ranks: int) -> float:
    """Of the second half of a training's intervals, in all."""
    records = latter_half(config, out, cores=cores, ranks=ranks)
    return statistics.harmonic_mean([record["clips_per_second"] for record in records])


def latter_half(config: Config, out: Path, *, cores: Sequence[int], ranks: int) -> list[dict[str, Any]]:
    """Performance records of the second half of a training of one epoch, which makes no checkpoint within it."""
    pinned = ["taskset", "--cpu-list", ",".join(map(str, cores))]
    never = ["--checkpoint-steps", "1000000", "--epochs", "1"]
    done = subprocess.run(
        [*pinned, *command(config, out, ranks=ranks, flags=never)], env=environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    records = read_metrics(RunFolder(out).metrics, kinds=["performance"])
    records = [record for record in records if "clips_per_second" in record]
    return records[len(records) // 2 :]


def step_seconds(config: Config, out: Path) -> dict[str, Any]:
    """Median seconds of the steps in which a checkpoint was being written and of the others; how many of each."""
    flags = ["--checkpoint-steps", str(config.checkpoint_steps)]
    done = subprocess.run(command(config, out, flags=flags), env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    records = read_metrics(RunFolder(out).metrics, kinds=["performance"])
    records = [record for record in records if record["batch"] > 1]  # DALI's pipelines are built in the first
    saving = [record["step_seconds"] for record in records if record["checkpoint_writing_share"] > 0.0]
    usual = [record["step_seconds"] for record in records if record["checkpoint_writing_share"] == 0.0]
    if not saving or not usual:
        raise SystemExit(
            "no step fell into a checkpoint's writing, or all did: change --checkpoint-steps or use more clips"
        )
    found = {"saving": statistics.median(saving), "usual": statistics.median(usual)}
    return {**found, "ratio": found["saving"] / found["usual"], "steps": {"saving": len(saving), "usual": len(usual)}}


def resume_seconds(config: Config, out: Path) -> float:
    """From the start of the command to the first new step in the log."""
    flags = ["--checkpoint-steps", "2"]
    process = subprocess.Popen(command(config, out, flags=flags), env=environment(), stderr=subprocess.DEVNULL)
    while not list(out.glob("checkpoints/epoch-*-batch-*")):
        if process.poll() is not None:
            raise SystemExit("the training ended before it had made a checkpoint")
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = time.perf_counter()
    resumed = subprocess.Popen(
        [sys.executable, "-m", "avbench", "train", "--out", str(out), "--resume"],
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    launches = 2
    before = None
    while True:
        # The log is cut back to the checkpoint first; then it grows.
        launched = RunFolder(out).environment.exists() and (
            len(json.loads(RunFolder(out).environment.read_text())["launches"]) == launches
        )
        steps = len(read_metrics(RunFolder(out).metrics, kinds=["step"])) if launched else 0
        before = steps if launched and before is None else before
        if before is not None and steps > before:
            break
        if resumed.poll() is not None:
            raise SystemExit("the resumed training ended before its first step was seen: use more clips")
        time.sleep(0.02)
    seconds = time.perf_counter() - begun
    resumed.kill()
    resumed.wait()
    shutil.rmtree(out)
    return seconds


def table_of(results: dict[str, list[dict[str, Any]]]) -> Table:
    """Medians over rounds, with the range."""
    table = Table("question", "median", "range", "aim")
    for name, key, text, form, sign in (
        ("ranks", "ratio", "clips/s of two ranks over one's, same batch in all", "{:.2f}", "≥"),
        ("ranks", "ratio to half the batch", "clips/s of two ranks over one's, same batch a rank", "{:.2f}", "≥"),
        ("checkpoint", "ratio", "step while a checkpoint is written over a usual one", "{:.2f}", "≤"),
        ("resume", "seconds", "start of --resume to the first step, s", "{:.1f}", "≤"),
    ):
        values = [row[key] for row in results[name]]
        shown = [form.format(value) for value in (statistics.median(values), min(values), max(values))]
        table.add_row(text, shown[0], f"{shown[1]} to {shown[2]}", f"{sign} {AIMS[name]:g}")
    return table


def about() -> dict[str, Any]:
    """The machine and versions."""
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "platform": platform.platform(),
        "cores": usable_cores(),
        "load": os.getloadavg(),
    }


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
