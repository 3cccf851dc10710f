"""Does a training run as fast as `avbench bench plan` says, with one process and with two?

    python benchmarks/plan.py DATASET [--preset tiny] [--batch-size 64] [--methods baseline] [--json FILE]

On CPUs. Measured first, in one process on one core, as benchmarks/floors.py does: CPU seconds of loading a clip, and of
each method's step a clip, on batches of the size that a rank will have. From these the plan's model predicts clips a
second of one core and of two. Then `avbench train` really trains, one rank on one core and two ranks on two, turn and
turn about, as benchmarks/ranks.py does; clips a second are from the training's own records, second half of the
intervals.

On a busy machine a core is only partly the training's. So what is measured is shown twice: in clips a second of wall
time, and as what the cores would do if nothing else ran on them and no rank waited: cores over the training's CPU
seconds a clip. The second tells whether costs are predicted well; the first, on a quiet machine, also whether ranks
wait for each other. The model leaves gradient exchange out, so with two ranks it is expected to promise too much.

Answers: benchmarks/README.md.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import floors
import torch
import tyro
from ranks import Config as RanksConfig
from ranks import latter_half
from rich.console import Console
from rich.table import Table

from avbench.benchmarking.plan import Costs, Machines, chosen_methods, make_plan
from avbench.benchmarking.results import run_script, write_results
from avbench.dataset import Dataset
from avbench.errors import UsageError
from avbench.loading.presets import preset
from avbench.machine import describe, summary
from avbench.progress import tracked
from avbench.vocabulary import MODALITIES

RANKS = (1, 2)


@dataclass(frozen=True)
class Config:
    """What to measure.

    dataset: a packed dataset; an epoch of its train split is trained. methods: as for `avbench bench plan`. batch_size:
    of the global batch. clips: that loading is measured on, two batches at least. rounds: trainings of each kind. json:
    where to write the results.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    preset: str = "tiny"
    methods: str = "baseline"
    batch_size: int = 64
    clips: int = 64
    rounds: int = 3
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print a table, write JSON."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < max(RANKS):
        raise UsageError(f"this process may use {len(cores)} core, two ranks need {max(RANKS)}")
    torch.set_num_threads(1)
    machine = describe()
    predicted = {count: prediction(config, ranks=count, cores=cores[:1]) for count in RANKS}
    measured: dict[int, list[dict[str, float]]] = {count: [] for count in RANKS}
    for _ in tracked(range(config.rounds), "rounds"):
        for count in RANKS:
            measured[count].append(training(config, ranks=count, cores=cores[:count]))
    console = Console()
    console.print(table_of(predicted, measured, config))
    console.print(summary(machine), soft_wrap=True)
    results = [{"ranks": count, **predicted[count], "measured": measured[count]} for count in RANKS]
    write_results(config, machine=machine, results=results)


def prediction(config: Config, *, ranks: int, cores: Sequence[int]) -> dict[str, float]:
    """Measured costs of a clip, and the clips a second that the plan makes of them for as many cores as ranks."""
    dataset, names = Dataset(config.dataset), chosen_methods(config.methods)
    of_rank = config.batch_size // ranks
    measuring = floors.Config(
        config.dataset,
        preset=config.preset,
        clips=max(config.clips, 2 * of_rank),
        batch_size=of_rank,
        step_batch=of_rank,
    )
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        load = floors.loader_cost(dataset, preset(config.preset), MODALITIES, measuring)["cpu_seconds"]
        steps = {name: floors.step_seconds(name, measuring) for name in names}
    finally:
        os.sched_setaffinity(0, allowed)
    codec = dataset.audio_suffix
    costs = Costs(config.preset, {codec: 1.0}, {codec: load}, steps, steps_on_gpu=False)
    # Storage is not in question: what was just read is in the page cache.
    plan = make_plan(costs, Machines(0, ranks, float("inf")), methods=names, codec=codec)
    return {"load_cpu_seconds": load, "steps_cpu_seconds": sum(steps.values()), "predicted": plan.clips_per_second}


def training(config: Config, *, ranks: int, cores: Sequence[int]) -> dict[str, float]:
    """Clips a second of an epoch's second half, and as many cores over its CPU seconds a clip."""
    settings = RanksConfig(
        config.dataset,
        preset=config.preset,
        methods=",".join(chosen_methods(config.methods)),
        batch_size=config.batch_size,
    )
    with tempfile.TemporaryDirectory() as folder:
        records = latter_half(settings, Path(folder, "run"), cores=cores, ranks=ranks)
    rate = statistics.harmonic_mean([record["clips_per_second"] for record in records])
    cpu = statistics.fmean(record["cpu_cores_busy"] / record["clips_per_second"] for record in records)
    return {"clips_per_second": rate, "of_own_cores": ranks / cpu}


def table_of(
    predicted: dict[int, dict[str, float]], measured: dict[int, list[dict[str, float]]], config: Config
) -> Table:
    """A column a number of ranks: medians over rounds, with the range, and how much too high the prediction is."""
    title = f"preset {config.preset}, batch {config.batch_size}, {config.methods}, medians of {config.rounds} trainings"
    table = Table("", *(f"{count} on as many cores" for count in predicted), title=title, title_justify="left")
    for kind, words in (("load_cpu_seconds", "loading, CPU ms/clip"), ("steps_cpu_seconds", "steps, CPU ms/clip")):
        table.add_row(words, *(f"{1e3 * said[kind]:.2f}" for said in predicted.values()))
    table.add_row("predicted, clips/s", *(f"{said['predicted']:.1f}" for said in predicted.values()))
    for kind, words in (("clips_per_second", "measured, clips/s"), ("of_own_cores", "of cores of its own, clips/s")):
        values = {count: [one[kind] for one in measured[count]] for count in predicted}
        middles = {count: statistics.median(values[count]) for count in predicted}
        table.add_row(
            words, *(f"{middles[count]:.1f} ({min(of):.1f} to {max(of):.1f})" for count, of in values.items())
        )
        table.add_row(
            "predicted over it", *(f"{said['predicted'] / middles[count]:.2f}" for count, said in predicted.items())
        )
    return table


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
