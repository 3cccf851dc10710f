"""What does `avbench evaluate` cost, in CPU time, memory and disk, from VGG-Sound's test split to millions of clips?

    python benchmarks/evaluate.py                                   15 and 200 thousand clips, 8 runs x 3 seeds each
    python benchmarks/evaluate.py --sizes 5000000x2x1               clips x runs x seeds; two runs are the least
    python benchmarks/evaluate.py --check                           are intervals of average precision still the same?

A run folder of made-up results is written, then the command is run on it in a fresh process, with its defaults (1,000
resamples, thresholds 0, 0.2 and 0.4, --memory-gb 2). 309 classes; the first two runs are the unimodal networks, the
others are joint ones that also predicted with either modality replaced. confidence.parquet has as many clips of train
as of test. `log_probabilities` of clips are made up one by one; `probabilities`, which are not read where these are,
are the same in all rows, so the files are half as large as a training's.

Shown: CPU time (user and system, all threads), the most memory that the process held (the kernel's count, looked at
every 0.2 s) and the most that its temporary files had. Not timed: writing the folder. CPU time does not hang on the
number of cores, wall time does.

The largest size is also scaled to `--target`, in proportion to clips x runs x seeds for time and to clips for memory:
extrapolated, and said to be.

`--check`: at 15,000 clips and 309 classes the ends of the interval of mean average precision, as `evaluate` makes it,
beside those of a bootstrap that draws all clips for all classes, with the same draws, for networks of three accuracies,
in per cent of the interval's width. Allowed are 5 %. And how often clips share the log-probability of their own class
with another clip, and what that moves, where a confident network's logits are rounded to bfloat16.

Answer: benchmarks/README.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from rich.console import Console
from rich.table import Table

from avbench.analysis.measures.class_scores import HeldScores
from avbench.analysis.measures.metrics import centred_interval
from avbench.analysis.measures.ranking import DEEP_ENOUGH, Subsets, rankings
from avbench.analysis.measures.statistics import resamples_of
from avbench.analysis.reading.parked_scores import by_class
from avbench.benchmarking.results import run_script, write_results
from avbench.errors import UsageError
from avbench.machine import describe
from avbench.methods.base import log_softmax
from avbench.records import CONFIDENCE_SCHEMA, predictions_schema, write_json, write_text
from avbench.run_folder import RunFolder
from avbench.vocabulary import MODALITIES, REPLACED

PACKAGES = ("numpy", "pyarrow", "scipy")
CHECKED_CLIPS, CHECKED_CLASSES = 15_000, 309
ALLOWED = 0.05  # of an interval's width
_CHUNK = 20_000  # clips made up at a time
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Config:
    """What to measure.

    sizes: clips x runs x seeds. target: the size to extrapolate to. memory_gb, resamples: as `avbench evaluate` takes
    them. folder: where the run folder is made for a while. json: where to write the results.
    """

    sizes: tuple[str, ...] = ("15000x8x3", "200000x8x3")
    classes: int = 309
    resamples: int = 1000
    memory_gb: float = 2.0
    target: str = "5000000x8x3"
    check: bool = False
    folder: Path | None = None
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print a table, write JSON."""
    console = Console()
    sizes = [size_of(text) for text in config.sizes]
    target = size_of(config.target)
    if config.check:
        checked = check(console)
        write_results(config, machine=describe(PACKAGES), checked=checked)
        return
    results = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=config.folder) as folder:
            refuse_what_does_not_fit(size, config, Path(folder))
            with console.status(f"{size} clips x runs x seeds: writing"):
                write_run(Path(folder) / "run", size, classes=config.classes)
            with console.status(f"{size} clips x runs x seeds: evaluating"):
                results.append(measured(Path(folder), size, config))
    forecast = scaled(results[-1], target)
    console.print(as_table(results, forecast, config))
    write_results(config, machine=describe(PACKAGES), results=results, extrapolated=forecast)


@dataclass(frozen=True)
class Size:
    """How large an evaluation is."""

    clips: int
    runs: int
    seeds: int

    def __str__(self) -> str:
        return f"{self.clips:,} x {self.runs} x {self.seeds}"

    @property
    def work(self) -> int:
        """Predicted clips in all."""
        return self.clips * self.runs * self.seeds


def size_of(text: str) -> Size:
    """Of a text such as 15000x8x3."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts) or int(parts[1]) < 2:
        raise UsageError(f"{text!r}: expected CLIPSxRUNSxSEEDS with two runs or more, such as 15000x8x3")
    return Size(*map(int, parts))


def refuse_what_does_not_fit(size: Size, config: Config, folder: Path) -> None:
    """UsageError where the disk would run out."""
    needed = size.work * (config.classes * 4 + 100) + size.clips * (config.classes * 4 + 200 * size.seeds)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(f"{size} need {needed / 1e9:.1f} GB in {folder.parent}, there are {free / 1e9:.1f} GB")


# Made-up results


def write_run(folder: Path, size: Size, *, classes: int) -> None:
    """A run folder that a training could have left: the same labels for all runs, numbers of each of its own."""
    run, names = RunFolder(folder), [f"class {number:03d}" for number in range(classes)]
    labels = np.random.default_rng(0).integers(0, classes, 2 * size.clips).astype(np.int32)
    write_text(run.config, "[training]\nepochs = 1\n")
    write_json(run.environment, {"python": sys.version.split()[0]})
    write_json(run.dataset, {"name": "made up", "classes": names, "index_sha256": "0" * 64})
    with pq.ParquetWriter(run.confidence, CONFIDENCE_SCHEMA) as writer:
        for seed in range(size.seeds):
            for first in range(0, 2 * size.clips, _CHUNK):
                writer.write_table(confidences(labels, first, min(first + _CHUNK, 2 * size.clips), seed, size.clips))
    run.predictions.mkdir()
    for number in range(size.runs):
        for seed in range(size.seeds):
            write_predictions(run.predictions, labels[size.clips :], number, seed, classes, size.clips)


def confidences(labels: np.ndarray, first: int, last: int, seed: int, train: int) -> pa.Table:
    """Some rows of confidence.parquet: train's clips first."""
    random, ids = np.random.default_rng([seed, first]), np.arange(first, last)
    columns: dict[str, Any] = {
        "clip_id": ids,
        "key": [f"clip-{number:08d}" for number in ids],
        "split": np.where(ids < train, "train", "test").astype(object),
        "label": labels[first:last],
        "source": [f"clip-{number:08d}" for number in ids],
        "seed": np.full(len(ids), seed),
    }
    for modality in MODALITIES:
        values = random.random(len(ids))
        columns |= {
            f"{modality}_mean": values,
            f"{modality}_std": values / 4,
            f"planted_{modality}": pa.nulls(len(ids)),
        }
        columns |= {f"{modality}_{name}": np.ones(len(ids), np.int32) for name in ("epochs", "correct_epochs")}
    return pa.table([columns[name] for name in CONFIDENCE_SCHEMA.names], names=CONFIDENCE_SCHEMA.names).cast(
        CONFIDENCE_SCHEMA
    )


def write_predictions(folder: Path, labels: np.ndarray, number: int, seed: int, classes: int, first_id: int) -> None:
    """The table of one run and seed: its own rows, and of a joint one those with each modality replaced."""
    joint = number >= len(MODALITIES)
    run = f"method {number}" if joint else MODALITIES[number]
    schema = predictions_schema(classes)
    same = pa.array([1 / classes] * classes, pa.float32())
    random = np.random.default_rng([number, seed])
    difficulty = random.normal(2.5, 1, classes)
    with pq.ParquetWriter(folder / f"{run}-seed{seed}-test.parquet", schema) as writer:
        for replaced in REPLACED if joint else ("none",):
            for first in range(0, len(labels), _CHUNK):
                part = labels[first : first + _CHUNK]
                scores = made_up(random, part, classes, difficulty)
                ids = np.arange(first_id + first, first_id + first + len(part))
                columns: dict[str, Any] = {
                    "clip_id": ids,
                    "key": [f"clip-{clip:08d}" for clip in ids],
                    "split": pa.repeat("test", len(part)),
                    "label": part,
                    "run": pa.repeat(run, len(part)),
                    "method": pa.repeat(run, len(part)),
                    "seed": np.full(len(part), seed),
                    "epoch": np.zeros(len(part), np.int32),
                    "replaced": pa.repeat(replaced, len(part)),
                    "prediction": scores.argmax(axis=1).astype(np.int32),
                    "probabilities": lists(pa.chunked_array([same] * len(part)).combine_chunks(), classes),
                    "log_probabilities": lists(pa.array(logarithms(scores).reshape(-1)), classes)
                    if replaced == "none"
                    else pa.nulls(len(part), schema.field("log_probabilities").type),
                }
                for name in ("uncertainty", *(f"{modality}_prediction" for modality in MODALITIES)):
                    columns[name] = pa.nulls(len(part), schema.field(name).type)
                writer.write_table(pa.table(columns, schema=schema))


def lists(values: pa.Array, width: int) -> pa.Array:
    """Flat numbers as lists."""
    return pa.FixedSizeListArray.from_arrays(values, width)


def made_up(random: np.random.Generator, labels: np.ndarray, classes: int, difficulty: np.ndarray) -> np.ndarray:
    """Logits (N, classes) of a network that knows some classes better than others, and mixes some up."""
    logits = random.standard_normal((len(labels), classes), np.float32)
    rows = np.arange(len(labels))
    logits[rows, labels] += (difficulty[labels] + random.normal(0, 1, len(labels))).astype(np.float32)
    mixed_up = (labels + random.integers(1, 4, len(labels))) % classes
    logits[rows, mixed_up] += (np.maximum(difficulty[labels] - 1.5, 0) * random.random(len(labels))).astype(np.float32)
    return logits


def logarithms(logits: np.ndarray) -> np.ndarray:
    """Log-softmax of some rows, float32."""
    below = logits - logits.max(axis=1, keepdims=True)
    return below - np.log(np.exp(below).sum(axis=1, keepdims=True))


# Measuring


def measured(folder: Path, size: Size, config: Config) -> dict[str, Any]:
    """The command on a run folder, in a process of its own whose temporary files are watched."""
    temporary = folder / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "avbench", "evaluate", str(folder / "run"), "--json"]
    command += ["--resamples", str(config.resamples), "--memory-gb", str(config.memory_gb)]
    began, most, peak = time.monotonic(), 0, 0
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(temporary)}
        )
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            most, peak = max(most, temporary_bytes(process.pid)), max(peak, peak_bytes(process.pid))
            time.sleep(_LOOK_SECONDS)
    if status:
        raise UsageError(f"avbench evaluate failed: {process.stderr.read().decode()[-500:] if process.stderr else ''}")
    return {
        "clips": size.clips,
        "runs": size.runs,
        "seeds": size.seeds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": time.monotonic() - began,
        "peak_bytes": peak,
        "temporary_bytes": most,
        "left_behind": [path.name for path in temporary.iterdir()],
        "predictions_bytes": sum(path.stat().st_size for path in RunFolder(folder / "run").predictions.iterdir()),
    }


def peak_bytes(pid: int) -> int:
    """The most that a process has held so far; what is told of it at its end may be its parent's, if that had more."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def temporary_bytes(pid: int) -> int:
    """What the files without a name have that a process holds open."""
    total = 0
    for link in Path(f"/proc/{pid}/fd").iterdir() if Path(f"/proc/{pid}/fd").exists() else ():
        try:
            if "(deleted)" in str(link.readlink()):
                total += link.stat().st_size
        except OSError:  # closed in the meantime
            continue
    return total


def scaled(result: dict[str, Any], target: Size) -> dict[str, Any]:
    """What the target would take, in proportion; not measured."""
    times = target.work / (result["clips"] * result["runs"] * result["seeds"])
    return {
        "clips": target.clips,
        "runs": target.runs,
        "seeds": target.seeds,
        "cpu_seconds": result["cpu_seconds"] * times,
        "temporary_bytes": result["temporary_bytes"] * target.clips / result["clips"],
    }


def as_table(results: list[dict[str, Any]], forecast: dict[str, Any], config: Config) -> Table:
    """One row a size, the extrapolated one last."""
    table = Table(title=f"avbench evaluate: {config.classes} classes, {config.resamples} resamples")
    for name in ("clips x runs x seeds", "CPU s", "wall s", "peak memory, MB", "temporary files, MB"):
        table.add_column(name, justify="right")
    for one in results:
        table.add_row(
            str(Size(one["clips"], one["runs"], one["seeds"])),
            f"{one['cpu_seconds']:.0f}",
            f"{one['wall_seconds']:.0f}",
            f"{one['peak_bytes'] / 1e6:.0f}",
            f"{one['temporary_bytes'] / 1e6:.0f}",
        )
    size = Size(forecast["clips"], forecast["runs"], forecast["seeds"])
    table.add_row(
        f"{size}, extrapolated", f"{forecast['cpu_seconds']:.0f}", "", "", f"{forecast['temporary_bytes'] / 1e6:.0f}"
    )
    return table


# Is what is left out small enough?


def check(console: Console) -> list[dict[str, Any]]:
    """Interval ends beside those of the whole bootstrap; UsageError where one is further off than allowed."""
    table = Table(title=f"{CHECKED_CLIPS:,} clips, {CHECKED_CLASSES} classes: interval ends beside the whole bootstrap")
    for name in ("accuracy", "mean average precision", "lower end, % of width", "upper end, % of width"):
        table.add_column(name, justify="right")
    found = []
    for strength in (1.0, 2.5, 4.5):
        found.append(checked(strength))
        one = found[-1]
        table.add_row(
            f"{one['accuracy']:.3f}", f"{one['value']:.4f}", f"{100 * one['low']:+.1f}", f"{100 * one['high']:+.1f}"
        )
    console.print(table)
    ties = [rounded_to_bfloat16(classes, scale) for classes, scale in ((5, 5.0), (CHECKED_CLASSES, 3.0))]
    table = Table(title=f"{CHECKED_CLIPS:,} clips of a confident network whose logits are rounded to bfloat16")
    for name in ("classes", "clips tied, %", "mean average precision", "in float32"):
        table.add_column(name, justify="right")
    for one in ties:
        cells = (f"{100 * one['tied']:.2f}", f"{one['value']:.5f}", f"{one['exact']:.5f}")
        table.add_row(str(one["classes"]), *cells)
    console.print(table)
    if any(max(abs(one["low"]), abs(one["high"])) > ALLOWED for one in found):
        raise UsageError(f"an end of an interval is more than {ALLOWED:.0%} of its width off")
    return [*found, *ties]


def rounded_to_bfloat16(classes: int, scale: float, *, clips: int = CHECKED_CLIPS) -> dict[str, Any]:
    """A network whose logits are so many times the usual ones: share of tied clips, and mean average precision."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, clips)
    logits = torch.from_numpy(made_up(random, labels, classes, random.normal(4, 1, classes))) * scale
    everything = Subsets.of([np.ones(clips, bool)], np.zeros(clips))
    found = []
    for each in (logits, logits.bfloat16().float()):
        numbers = HeldScores(log_softmax(each).float().numpy())
        (ranking,) = rankings(numbers, labels, everything, by_class=by_class, memory_bytes=2**31)
        found.append(
            (ranking.tied, float(ranking.mean_average_precision(np.ones((1, clips), np.uint8), np.float64)[0]))
        )
    (_, exact), (tied, value) = found
    return {"classes": classes, "tied": tied / clips, "value": value, "exact": exact}


def checked(
    strength: float, *, clips: int = CHECKED_CLIPS, classes: int = CHECKED_CLASSES, resamples: int = 1000
) -> dict[str, Any]:
    """One network; low, high: how far the ends are off, as shares of the width."""
    random = np.random.default_rng(1)
    labels = random.integers(0, classes, clips)
    scores = made_up(random, labels, classes, random.normal(strength, 1, classes))
    everything = Subsets.of([np.ones(clips, bool)], np.zeros(clips))

    def interval(deep_enough: int) -> tuple[float, tuple[float, float]]:
        (ranking,) = rankings(
            HeldScores(scores),
            labels,
            everything,
            by_class=by_class,
            memory_bytes=2**31,
            deep_enough=deep_enough,
        )
        value = float(ranking.mean_average_precision(np.ones((1, clips), np.uint8), np.float64)[0])
        draws = resamples_of(clips, resamples=resamples, seed=[5], together=10)
        return value, centred_interval(value, np.concatenate([ranking.mean_average_precision(each) for each in draws]))

    value, (low, high) = interval(DEEP_ENOUGH)
    _, (whole_low, whole_high) = interval(clips * classes)
    width = whole_high - whole_low
    return {
        "accuracy": float((scores.argmax(axis=1) == labels).mean()),
        "value": value,
        "low": (low - whole_low) / width,
        "high": (high - whole_high) / width,
    }


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
