"""Does training that is fed by the loader keep the pace of training on one batch that stays in memory?

    python benchmarks/fed.py DATASET [--preset tiny] [--batch-size 64] [--methods baseline] [--json FILE]

In one process, turn and turn about, round after round, clips a second of wall time of:

* resident: training steps on one batch of the dataset's clips that stays where it is.
* fed: the same steps of the same network, each on the next batch of the Loader, as `avbench train` takes them, waiting
  for data included. Not counted: the first batches, which the Loader worked ahead on while nobody trained, and two
  steps, after which it is as far ahead as it stays. It works ahead to the last batch that is counted.
* loader alone: the Loader's batches with nothing done with them, likewise in the middle of an epoch.

The step is that of `avbench train`, in the precision that it would pick here, torch on one thread. On a CPU the
training thread has one core and the loader's threads another (`--no-pin`: all share all cores): training takes all of
its core, so a loader on the same one could only take from it, and the ratio would say what the loader costs and not
whether it keeps up. Where there is one core only, the fed rate is bounded by 1 / (1 / resident + 1 / loader).

Ratio: fed over resident of one round, of which the median is shown. Aimed at: 0.97 wherever the loader alone is at
least 1.3 times as fast as the resident steps. On a CPU the ratio is shown a second time with the training thread's CPU
time in place of wall time, waiting for data added to it: other work on the machine moves that least.

Answers: benchmarks/README.md.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from methods import here, synchronize
from rich.console import Console
from rich.table import Table

from avbench.batch import Batch
from avbench.benchmarking.results import run_script, write_results
from avbench.dataset import Dataset
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.precision import pick_precision
from avbench.loading.loader import Loader
from avbench.loading.presets import preset
from avbench.machine import describe, summary
from avbench.methods.choice import parse_methods
from avbench.progress import tracked
from avbench.training.passes import counted, prepare
from avbench.training.run import Run, modalities_read

AIM, WHERE_FASTER = 0.97, 1.3
# Batches that the loader has ready or under way when it is asked for one; more than its prefetch and its queue.
_AHEAD = 5
_STEPS_BEFORE = 2


@dataclass(frozen=True)
class Config:
    """What to measure.

    dataset: a packed dataset; its clips are repeated to make the batches. methods: trained one after the other on each
    batch. steps: of each kind a round, at least 1. loader_threads: DALI's. pin: on a CPU, a core for training and
    another for loading. json: where to write the results.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    preset: str = "tiny"
    methods: str = "baseline"
    batch_size: int = 64
    steps: int = 8
    rounds: int = 7
    loader_threads: int = 1
    pin: bool = True
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(1)
    machine = describe()
    cores = Cores.of_this_machine(pinned=config.pin and here().type == "cpu")
    with cores.of_loading():
        bench = Bench(config, cores)
    kinds: dict[str, Callable[[], Timing]] = {
        "resident": bench.resident,
        "fed": bench.fed,
        "loader": bench.loader_alone,
    }
    for kind in kinds.values():
        kind()
    results = []
    for number in tracked(range(config.rounds), "rounds"):
        results.append({name: asdict(kinds[name]()) for name in sorted(kinds, reverse=bool(number % 2))})
    bench.loader.close()
    console = Console()
    console.print(table_of(results, config, cores))
    console.print(summary(machine), soft_wrap=True)
    write_results(config, machine=machine, cores=asdict(cores), results=results)


@dataclass(frozen=True)
class Cores:
    """Which cores the training thread and the loader's threads may use; () for whichever the system picks."""

    training: tuple[int, ...]
    loading: tuple[int, ...]

    @staticmethod
    def of_this_machine(*, pinned: bool) -> Cores:
        """One for training and one for loading, where there are two and they are to be apart."""
        found = sorted(os.sched_getaffinity(0))
        return Cores((found[0],), (found[1],)) if pinned and len(found) > 1 else Cores((), ())

    @contextmanager
    def of_loading(self) -> Iterator[None]:
        """Threads that are started in here load; the calling one trains afterwards."""
        if not self.loading:
            yield
            return
        caller = threading.get_native_id()
        os.sched_setaffinity(caller, self.loading)
        try:
            yield
        finally:
            os.sched_setaffinity(caller, self.training)


@dataclass(frozen=True)
class Timing:
    """Seconds a clip: of wall time, of it waiting for batches; and the training thread's CPU time."""

    wall_seconds: float
    waiting_seconds: float
    thread_seconds: float


class Bench:
    """The step, the loader and the resident batch."""

    def __init__(self, config: Config, cores: Cores) -> None:
        self.steps, self.cores = config.steps, cores
        self.dtype: torch.dtype = getattr(torch, pick_precision("auto", here()))
        self.runs = [
            Run(
                spec,
                seed=0,
                classes=309,  # of VGG-Sound
                optimizer=OptimizerConfig(),
                engine=EngineConfig(),
                device=here(),
                dtype=self.dtype,
                store=None,
            )
            for spec in parse_methods([config.methods])
        ]
        dataset = Dataset(config.dataset)
        self.loader = Loader(
            dataset,
            np.resize(np.arange(len(dataset)), config.batch_size * (config.steps + _STEPS_BEFORE + 2 * _AHEAD)),
            preset=preset(config.preset),
            batch_size=config.batch_size,
            seed=0,
            training=True,
            modalities=modalities_read(self.runs),
            device=here(),
            threads=config.loader_threads,
        )
        self.epochs = iter(range(1_000_000))
        self.batch = _copy(next(self._batches()))
        self.loader.close_epoch()

    def resident(self) -> Timing:
        """Steps on one batch."""
        return self._timed([self.batch] * self.steps, self._step)

    def fed(self) -> Timing:
        """Steps on the loader's batches."""
        batches = self._batches()
        for _ in range(_STEPS_BEFORE):
            self._step(next(batches))
        return self._timed(batches, self._step)

    def loader_alone(self) -> Timing:
        """The loader's batches."""
        return self._timed(self._batches(), lambda batch: None)

    def _timed(self, batches: Iterable[Batch], action: Callable[[Batch], None]) -> Timing:
        clips, waiting, iterator = 0, 0.0, iter(batches)
        synchronize(here())
        started, thread = time.perf_counter(), time.thread_time()
        for _ in range(self.steps):
            asked = time.perf_counter()
            batch = next(iterator)
            waiting += time.perf_counter() - asked
            action(batch)
            clips += len(batch)
        synchronize(here())
        wall, thread = time.perf_counter() - started, time.thread_time() - thread
        self.loader.close_epoch()
        return Timing(wall / clips, waiting / clips, thread / clips)

    def _batches(self) -> Iterator[Batch]:
        """A new epoch's, from the one on before which the loader worked ahead of nobody."""
        with self.cores.of_loading():
            batches = self.loader.epoch(next(self.epochs))
            for _ in range(_AHEAD):
                next(batches)
        return batches

    def _step(self, batch: Batch) -> None:
        """What the trainer does with a batch."""
        ready = counted(prepare(batch, self.dtype))
        assert ready is not None
        for run in self.runs:
            run.train_step(ready, epoch=0, epochs=1, total_steps=1)


def _copy(batch: Batch) -> Batch:
    """The batch in memory of its own, which no later one is written into."""
    audio, frames = (None if tensor is None else tensor.clone() for tensor in (batch.audio, batch.frames))
    return replace(batch, audio=audio, frames=frames)


def table_of(results: list[dict[str, dict[str, float]]], config: Config, cores: Cores) -> Table:
    """Medians over the rounds, with the range."""
    where = (
        f"training on core {cores.training[0]}, loading on core {cores.loading[0]}" if cores.training else "not pinned"
    )
    title = (
        f"preset {config.preset}, batch {config.batch_size}, {config.methods}, {here()}, {where}; "
        f"{config.rounds} rounds of {config.steps} steps"
    )
    table = Table("", "median", "range", "aim", title=title, title_justify="left")

    def row(name: str, of: Callable[[dict[str, dict[str, float]]], float], form: str, aim: str = "") -> None:
        values = [of(result) for result in results]
        shown = [form.format(value) for value in (statistics.median(values), min(values), max(values))]
        table.add_row(name, shown[0], f"{shown[1]} to {shown[2]}", aim)

    def faster(one: dict[str, dict[str, float]]) -> float:
        return one["resident"]["wall_seconds"] / one["loader"]["wall_seconds"]

    for name, words in (("resident", "resident"), ("fed", "fed"), ("loader", "loader alone")):
        row(f"{words}, clips/s", lambda one, name=name: 1 / one[name]["wall_seconds"], "{:.1f}")
    row(
        "waiting for data, of the fed time",
        lambda one: one["fed"]["waiting_seconds"] / one["fed"]["wall_seconds"],
        "{:.1%}",
    )
    row("loader alone over resident", faster, "{:.2f}")
    holds = statistics.median(map(faster, results)) >= WHERE_FASTER
    aim = f"≥ {AIM}" if holds else f"none: the loader is not {WHERE_FASTER} times as fast"
    row("fed over resident", lambda one: one["resident"]["wall_seconds"] / one["fed"]["wall_seconds"], "{:.3f}", aim)
    if here().type == "cpu":
        row("fed over resident, CPU time", in_cpu_time, "{:.3f}", aim)
    return table


def in_cpu_time(one: dict[str, dict[str, float]]) -> float:
    """The ratio with the training thread's CPU time in place of wall time, and waiting for data."""
    fed = one["fed"]
    return one["resident"]["thread_seconds"] / (fed["thread_seconds"] + fed["waiting_seconds"])


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
