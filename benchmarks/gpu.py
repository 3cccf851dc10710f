"""How fast is everything on one GPU, and does it do what it does on a CPU?

    python benchmarks/gpu.py [--seconds 4] [--minutes 8] [--json FILE]

It builds nothing and needs no data: planted clips of ten seconds are rendered and packed first, as FLAC and as WAV. It
ends after `--minutes` at the latest but for the measurement under way; what there was no time for is listed. Answered,
in this order:

* agreement: the largest and mean difference of the same batch's spectrograms and pictures from the GPU's pipeline and
  the CPU's (the same crops and flips; another JPEG decoder and another resizing).
* waits: which methods' steps make the processor wait for the GPU, by torch.cuda.set_sync_debug_mode("error").
* steps: clips/s of each method's step on a batch that stays on the GPU, and for the baseline and OGM-GE those of the
  plain loop of benchmarks/step.py.
* loader: clips/s of avbench's Loader on the GPU by preset and codec, and at preset `paper` of a DALI graph as its
  documentation builds one (benchmarks/peers/plain_dali.py), there too pictures decoded and spectrograms computed on the
  GPU; both with the same number of threads, the page cache warm.
* training: an epoch of all methods in one pass, after one that warms up: clips/s, share of time waiting for data, use
  of the GPU as NVML has it, joules a clip; on one CUDA stream and on one a method.

Timed: wall time between synchronizations, after a warm-up. On a machine without a GPU it ends with one line, status 2.

Not run on a GPU yet: no answers.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from methods import ALL, synchronize, synthetic_batch, without_estimates
from peers import Task
from peers.plain_dali import make
from rich.console import Console
from rich.table import Table
from step import PlainLoop, run_of
from torch import Tensor

from avbench.batch import MODALITIES, Batch
from avbench.bench.machine import describe, summary
from avbench.bench.scripts import check_json, run_script, write_results
from avbench.dataset import Dataset
from avbench.engine import EngineConfig, OptimizerConfig, pick_precision
from avbench.errors import UsageError
from avbench.loading.features import PRESETS, preset
from avbench.loading.gpu import check_driver, why_unused
from avbench.loading.loader import Loader
from avbench.methods import RunSpec, parse_methods
from avbench.packing.pack import pack
from avbench.packing.recipes import load_recipe
from avbench.records import read_metrics
from avbench.training.folder import RunFolder
from avbench.training.predict import prepare
from avbench.training.trainer import TrainerConfig, cores_of_a_rank, train

CODECS = ("flac", "wav")
Question = tuple[str, str, Callable[[], Any]]
_REPORTED = (
    "clips_per_second",
    "data_wait_share",
    "gpu_data_wait_share",
    "gpu_use_share",
    "gpu_memory_bytes",
    "joules_per_clip",
)


@dataclass(frozen=True)
class Config:
    """What to measure.

    clips: to render, of train. preset: of all but the loader, presets: of that. methods: to time steps of and to train.
    batch_size: of all that is measured. seconds: of each measurement. epoch_clips: that the clips are
    repeated to. minutes: after which nothing more is begun. json: where to write the results.
    """

    clips: int = 96
    clip_seconds: float = 10.0
    preset: str = "paper"
    presets: tuple[str, ...] = tuple(PRESETS)
    methods: str = ALL
    batch_size: int = 64
    seconds: float = 4.0
    epoch_clips: int = 1024
    minutes: float = 8.0
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print tables, write JSON. Raises UsageError where there is no GPU."""
    if not torch.cuda.is_available():
        raise UsageError(f"benchmarks/gpu.py wants an NVIDIA GPU; {why_unused() or 'NVML and torch find none here'}")
    check_driver()
    if config.json:
        check_json(config.json)
    results = measure(config, torch.device("cuda", 0))
    machine = describe()
    console = Console()
    for table in tables_of(results):
        console.print(table)
    for line in results["left_out"]:
        console.print(line, soft_wrap=True, markup=False)
    console.print(summary(machine), soft_wrap=True)
    write_results(config, machine=machine, **results)


def measure(config: Config, device: torch.device) -> dict[str, Any]:
    """All answers by name, and "left_out": a line for each there was no time for."""
    deadline = time.monotonic() + 60 * config.minutes
    with tempfile.TemporaryDirectory(prefix="avbench-gpu-") as name:
        folder = Path(name)
        return answers(questions(packed(folder, config), folder, config, device), deadline)


def answers(questions: Iterable[Question], deadline: float) -> dict[str, Any]:
    """As `measure`. deadline: by time.monotonic, after which nothing more is begun."""
    results: dict[str, Any] = {"left_out": []}
    for answer, key, question in questions:
        if time.monotonic() > deadline:
            results["left_out"].append(f"{answer}, {key}: left out, the time is over")
        else:
            results.setdefault(answer, {})[key] = question()
    return results


def questions(datasets: dict[str, Dataset], folder: Path, config: Config, device: torch.device) -> Iterator[Question]:
    """(answer, row, how to find it), in the order of the docstring."""
    yield "agreement", "", partial(agreement, datasets["flac"], config, device)
    for spec in parse_methods([config.methods]):
        yield "waits", spec.name, partial(waits_of_a_step, spec.name, config, device)
    for spec in parse_methods([config.methods]):
        yield "steps", spec.name, partial(clips_per_second_of_steps, spec.name, config, device)
    for preset_name in config.presets:
        for codec, dataset in datasets.items():
            yield "loader", f"{preset_name}, {codec}", partial(loaded, dataset, preset_name, config, device)
    for codec, dataset in datasets.items():
        yield "loader", f"plain DALI, {codec}", partial(loaded_plainly, dataset, folder / codec, config, device)
    specs = without_estimates(parse_methods([config.methods]))
    for streams in (1, len(specs)):
        yield "training", f"{streams} stream(s)", partial(trained, datasets["flac"], specs, streams, config, device)


def packed(folder: Path, config: Config) -> dict[str, Dataset]:
    """Planted clips by codec, packed from the same videos."""
    planted = {"train": config.clips, "val": 8, "test": 8, "classes": 3, "seconds": config.clip_seconds, "size": 256}
    overrides: dict[str, object] = {f"planted.{name}": value for name, value in planted.items()}
    made = {}
    for codec in CODECS:
        recipe = load_recipe("planted", {**overrides, "sample_rate_hz": 48_000, "audio_suffix": codec})
        out = folder / f"dataset-{codec}"
        made[codec] = pack(recipe, folder / "videos", out=out, workers=cores_of_a_rank(), overwrite=False)
    return made


def agreement(dataset: Dataset, config: Config, device: torch.device) -> dict[str, float]:
    """Largest and mean differences of one augmented batch, by modality."""
    first = [next(loader_of(dataset, config.preset, config, each).epoch(0)) for each in (device, torch.device("cpu"))]
    found = {}
    for what in ("audio", "frames"):
        here, there = (getattr(batch, what).cpu().double() for batch in first)
        found |= {
            f"{what}_largest": (here - there).abs().max().item(),
            f"{what}_mean": (here - there).abs().mean().item(),
        }
    return found


def waits_of_a_step(method: str, config: Config, device: torch.device) -> str:
    """What torch says where a method's step makes the processor wait; empty where it does not. Not of the first two."""
    step = step_of(method, config, device)
    step()
    step()
    synchronize(device)
    if device.type != "cuda":
        return ""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def clips_per_second_of_steps(method: str, config: Config, device: torch.device) -> dict[str, float]:
    """Of ours, and of the plain loop where there is one; turn and turn about."""
    steps: dict[str, Callable[[], object]] = {"avbench": step_of(method, config, device)}
    if method in ("baseline", "ogm-ge"):
        steps["plain loop"] = PlainLoop(method, synthetic_batch(config.preset, config.batch_size, device))
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(3):
        for name, step in steps.items():
            speeds[name].append(config.batch_size * per_second(step, config.seconds / 3, device))
    return {name: statistics.median(each) for name, each in speeds.items()}


def step_of(method: str, config: Config, device: torch.device) -> Callable[[], object]:
    """A step as `avbench train` takes it, on a batch that stays where it is."""
    precision = pick_precision("auto", device)
    batch: Batch = prepare(synthetic_batch(config.preset, config.batch_size, device), getattr(torch, precision))
    run = run_of(method, precision, noise=True)
    return partial(run.train_step, batch, epoch=0, epochs=1, total_steps=1)


def loaded(dataset: Dataset, preset_name: str, config: Config, device: torch.device) -> float:
    """Clips/s of our loader, alone."""
    loader = loader_of(dataset, preset_name, config, device)
    speed = drained((len(batch) for epoch in count() for batch in loader.epoch(epoch)), config, device)
    loader.close()
    return speed


def loaded_plainly(dataset: Dataset, folder: Path, config: Config, device: torch.device) -> float:
    """Clips/s of the plain DALI graph."""
    folder.mkdir()
    task = Task(dataset, tiled(dataset, config), config.batch_size, MODALITIES, folder, None)
    epoch = make(task, threads=cores_of_a_rank(), device_id=device.index if device.type == "cuda" else None)
    return drained((size_of(batch) for _ in count() for batch in epoch()), config, device)


def size_of(batch: tuple[Tensor | None, Tensor | None]) -> int:
    return next(len(tensor) for tensor in batch if tensor is not None)


def drained(sizes: Iterator[int], config: Config, device: torch.device) -> float:
    """Clips a second of an endless loader, after an epoch's worth."""
    for _ in range(1 + config.clips // config.batch_size):
        next(sizes)
    synchronize(device)
    begun, clips = time.perf_counter(), 0
    while time.perf_counter() - begun < config.seconds:
        clips += next(sizes)
    synchronize(device)
    return clips / (time.perf_counter() - begun)


def loader_of(dataset: Dataset, preset_name: str, config: Config, device: torch.device) -> Loader:
    """As the trainer makes it, but for the precision."""
    return Loader(
        dataset,
        tiled(dataset, config),
        preset=preset(preset_name),
        batch_size=config.batch_size,
        seed=0,
        training=True,
        device=device,
        threads=cores_of_a_rank(),
    )


def tiled(dataset: Dataset, config: Config) -> np.ndarray:
    """Clips of train, repeated to an epoch."""
    return np.resize(dataset.clip_ids("train"), config.epoch_clips)


def trained(
    dataset: Dataset, specs: Sequence[RunSpec], streams: int, config: Config, device: torch.device
) -> dict[str, float]:
    """What metrics.jsonl has of the second epoch's steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name) / "run")
        splits = {split: dataset.clip_ids(split) for split in ("val", "test")}
        train(
            dataset,
            clip_ids={"train": tiled(dataset, config), **splits},
            specs=specs,
            seeds=(0,),
            preset=preset(config.preset),
            config=TrainerConfig(epochs=2, batch_size=config.batch_size, log_steps=10_000, streams=streams),
            optimizer=OptimizerConfig(),
            engine=EngineConfig(),
            folder=folder,
            device=device,
            save_config=lambda path: path.write_text(""),
        )
        records = read_metrics(folder.metrics, kinds=["performance"])
        (of_epoch,) = [one for one in records if one["epoch"] == 1 and "clips_per_second" in one]
        return {name: of_epoch[name] for name in _REPORTED if name in of_epoch}


def per_second(action: Callable[[], object], seconds: float, device: torch.device) -> float:
    """How often an action is done in a second, launched one after the other; the first two are not counted."""
    action()
    action()
    synchronize(device)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        action()
        synchronize(device)  # else the processor would run ahead of the clock
        done += 1
    return done / (time.perf_counter() - begun)


def tables_of(results: dict[str, Any]) -> Iterator[Table]:
    """One an answer."""
    for answer, rows in results.items():
        if answer != "left_out":
            table = Table(title=answer, title_justify="left", show_header=False)
            for key, value in rows.items():
                table.add_row(key, in_words(value))
            yield table


def in_words(value: Any) -> str:
    """A row's numbers."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {in_words(each)}" for name, each in value.items())
    if isinstance(value, str):
        return value or "none"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
