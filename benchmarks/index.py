"""What do finishing, opening, checking, verifying and taking a view of a dataset cost at size, and in what proportion?

    python benchmarks/index.py [--json FILE]                         10 thousand, 100 thousand and 1 million clips
    python benchmarks/index.py --clips 10000000 --clips-per-shard 1000      one size

On made-up datasets of `--clips-per-shard` clips a shard (64, as packing has it): a clip is 0.1 s of sound (FLAC) and
one picture of 16 x 16, and the shards of a split are the same file under other names, so a million clips take the disk
space of three shards and of their index. Only keys differ from what `avbench pack` writes: they come again in every
shard.

* finish: from the shards' notes to index.arrow and dataset.json, what `avbench pack` ends with.
* open: `Dataset(folder)`, what every process of a training begins with. No shard is looked at.
* look: whether every shard is there and of its size, what one process of a training asks once.
* check: the index's SHA-256, class names, labels, splits and counts, what a training asks once before it starts.
* verify: all that `avbench verify` does, in one process: the index checked as a whole, every shard hashed, every clip
  decoded. Of more than `--verify-shards` shards so many are verified, and the time of all is computed from theirs.
* view: what `avbench view` does, to take every second class.
* open view: `Dataset(view)`, of half the clips.

Timed: CPU time (user and system) of the calls, medians over `--rounds` (of verify and finish one), with the files in
the page cache. Not timed: making the dataset up. Memory: what the process has more of its own after the call than
before it (resident, without mapped files).

Answer: benchmarks/README.md.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import simplejpeg
import tyro
from rich.console import Console
from rich.table import Table

from avbench.benchmarking.results import run_script, write_results
from avbench.dataset import Dataset
from avbench.errors import UsageError
from avbench.integrity import check_contents, content_problems, row_problems
from avbench.machine import describe, summary
from avbench.packing import pack, verify
from avbench.packing.clips import Clip
from avbench.packing.media import ClipMedia
from avbench.packing.recipes.files import WORK_FOLDER
from avbench.packing.recipes.recipe import Recipe
from avbench.packing.shard_task import ShardTask
from avbench.packing.views.rule import RuleFiles
from avbench.packing.views.view import make_view
from avbench.packing.workers import Beat

CLASSES = tuple(f"class {number:03d}" for number in range(100))
NOBODY = Beat([0, 0], SimpleNamespace(value=0))
"""Who listens to how far a shard is."""


@dataclass(frozen=True)
class Config:
    """What to measure.

    clips: sizes, ascending. rounds: of open and check. verify_shards: to verify of each size, after a first one that is
    not counted. json: where to write the results.
    """

    clips: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    clips_per_shard: int = 64
    rounds: int = 3
    verify_shards: int = 20
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print a table, write JSON."""
    if list(config.clips) != sorted(set(config.clips)) or min(config.clips) < 3 * config.clips_per_shard:
        raise UsageError(
            f"--clips {' '.join(map(str, config.clips))}: expected ascending sizes of three shards or more"
        )
    console, machine = Console(), describe()
    results = []
    for clips in config.clips:
        with tempfile.TemporaryDirectory() as folder, console.status(f"{clips:,} clips"):
            results.append(measured(clips // config.clips_per_shard, config, Path(folder) / "dataset"))
    console.print(table_of(results, title=summary(machine)))
    write_results(config, machine=machine, results=results)


def measured(shards: int, config: Config, folder: Path) -> dict[str, Any]:
    """CPU seconds and bytes of memory of each phase at one size."""
    recipe, tasks = made_up(shards, config, folder)
    phases: dict[str, dict[str, float]] = {}
    phases["finish"] = timed(lambda: pack._finish(recipe, CLASSES, tasks, folder, pack.Listed(folder)), rounds=1)
    phases["open"] = timed(lambda: Dataset(folder), rounds=config.rounds)
    dataset = Dataset(folder)
    phases["look"] = timed(dataset.check_shards, rounds=config.rounds)
    phases["check"] = timed(lambda: check_contents(dataset), rounds=config.rounds)
    phases["verify"] = verified(dataset, config.verify_shards)
    view = folder.with_name("view")
    phases["view"] = timed(lambda: viewed(folder, view), rounds=1)
    phases["open view"] = timed(lambda: Dataset(view), rounds=config.rounds)
    assert 2 * len(Dataset(view)) == len(dataset)
    index = (folder / "index.arrow").stat().st_size
    return {"clips": len(dataset), "shards": shards, "index_bytes": index, "phases": phases}


def viewed(folder: Path, out: Path) -> None:
    """Make a view of every second class."""
    classes = folder.with_name("classes.txt")
    classes.write_text("\n".join(CLASSES[::2]), encoding="utf-8")
    make_view([folder], out=out, files=RuleFiles(classes=classes))


def verified(dataset: Dataset, shards: int) -> dict[str, float]:
    """What verifying costs: of the dataset as a whole, and of some shards, from which that of all is computed."""
    all_shards = len(dataset.packed_shards)
    chosen = range(1, min(shards, all_shards - 1) + 1)

    def whole() -> None:
        dataset.check_index()
        problems = [*content_problems(dataset), *row_problems(dataset), *verify._problems_beside(dataset)]
        texts = [text for text in problems if not text.startswith("clips.csv")]  # which lists nothing here
        assert [text[:9] for text in texts] == ["two clips"], problems[:3]

    def some() -> None:
        for number in chosen:
            assert not verify._shard_problems(dataset.path, "benchmark", False, number, NOBODY)

    verify._shard_problems(dataset.path, "benchmark", False, 0, NOBODY)
    of_whole, of_some = timed(whole, rounds=1), timed(some, rounds=1)
    computed = of_some["cpu_seconds"] / len(chosen) * all_shards
    return {**of_whole, "cpu_seconds": of_whole["cpu_seconds"] + computed, "shards_verified": len(chosen)}


def made_up(shards: int, config: Config, folder: Path) -> tuple[Recipe, list[ShardTask]]:
    """A folder as `avbench pack` leaves it before its last step: the same shard in train, val and test."""
    recipe = Recipe(audio_suffix="flac", sample_rate_hz=16_000, clips_per_shard=config.clips_per_shard)
    (folder / WORK_FOLDER).mkdir(parents=True)
    splits = ["train"] * (shards - 2) + ["val", "test"]
    tasks = [ShardTask(number, split, (), CLASSES, recipe, folder) for number, split in enumerate(splits)]
    firsts: dict[str, ShardTask] = {}
    for task in tasks:
        first = firsts.setdefault(task.split, task)
        if first is task:
            write_shard(task, config.clips_per_shard)
            continue
        for made, name in ((first.tar, task.tar), (first.tar.with_suffix(".idx"), task.tar.with_suffix(".idx"))):
            os.link(made, name)
        os.link(first.note, task.note)
    return recipe, tasks


def write_shard(task: ShardTask, clips: int) -> None:
    """A whole shard of made-up clips, written by packing's own code, which reads them from here and not from videos."""
    media = ClipMedia(
        waveform=np.zeros(1600, np.int16),
        frames=[simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))],
        width=16,
        height=16,
        seconds=0.1,
        mix_db=0.0,
        pixel_aspect=1.0,
    )
    named = tuple(
        Clip(f"{task.split}-{number:06d}", CLASSES[number % len(CLASSES)], task.split, Path(), f"{number:06d}.mp4")
        for number in range(clips)
    )
    reading, pack._read = pack._read, lambda clip, task: media
    try:
        pack.make_shard(ShardTask(task.number, task.split, named, CLASSES, task.recipe, task.out), NOBODY)
    finally:
        pack._read = reading


def timed(action: Callable[[], object], *, rounds: int) -> dict[str, float]:
    """CPU seconds of a call, median over rounds, and by how much memory of its own the process grew in the first."""
    seconds, before = [], own_memory()
    grown = 0
    for number in range(rounds):
        began = cpu_seconds()
        kept = action()
        seconds.append(cpu_seconds() - began)
        grown = own_memory() - before if number == 0 else grown
        del kept
    return {"cpu_seconds": statistics.median(seconds), "memory_bytes": max(0, grown)}


def cpu_seconds() -> float:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def own_memory() -> int:
    """Resident bytes that are no file's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def table_of(results: list[dict[str, Any]], *, title: str) -> Table:
    """A column a size: seconds, and microseconds a clip, which stay what they are where the cost is in proportion."""
    table = Table(title=title, title_justify="left")
    table.add_column("CPU s (us a clip)")
    for result in results:
        table.add_column(f"{result['clips']:,} clips", justify="right")
    for phase in results[0]["phases"]:
        seconds = [(result["phases"][phase]["cpu_seconds"], result["clips"]) for result in results]
        table.add_row(phase, *(f"{one:.3f} ({one / clips * 1e6:.2f})" for one, clips in seconds))
    table.add_row("index, MB", *(f"{result['index_bytes'] / 1e6:,.1f}" for result in results))
    for phase in ("finish", "open", "view"):
        memory = [result["phases"][phase]["memory_bytes"] for result in results]
        table.add_row(f"{phase}, MB", *(f"{size / 1e6:,.1f}" for size in memory))
    return table


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
