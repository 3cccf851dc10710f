"""What does each method's own work cost a step, and what does one pass with all methods save?

    python benchmarks/methods.py [--preset paper|tiny] [--json FILE]      own work of each joint method
    python benchmarks/methods.py --dataset DATASET [--preset ...]         one pass beside seven separate runs

Own work: everything in a method's step beyond forward, backward and optimizer of its network. Each joint method's
training step is timed beside the plain step of the same network (forward, cross-entropy of the logits that predict,
backward, optimizer), turn and turn about, on one synthetic batch that stays where it is. On a CPU: user and system time
of the process, torch on one thread; on a GPU: wall time between synchronizations. "Own work" is the median over the
steps in which a method does all of its own work: Greedy's re-balancing steps, which measure nothing, count only in the
column over all steps. Gradient-Blending's own work within a step is next to nothing; its estimates are passes over data
and belong to the other question.

One pass: the same `train` that `avbench train` calls, for one epoch, with all seven methods at once, and with each
alone; CPU time and wall time of both ways; start of the interpreter not included. Loading: CPU time of the loaders' own
threads and of DALI's alone, of every pass over the data (training, validation, test, predictions and the means for
them). Gradient-Blending is timed without its estimate in both, and the estimate beside. Decoding: CPU time of the
loader alone over the same training epoch. Aimed at: loading of seven separate runs over that of one pass is 4 or more.

Answers: benchmarks/README.md.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table

from avbench.batch import Batch, Clock
from avbench.benchmarking.results import run_script, write_results
from avbench.dataset import Dataset
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.plain import Engine
from avbench.engine.precision import pick_precision
from avbench.loading.loader import Loader
from avbench.loading.presets import preset
from avbench.methods import METHODS
from avbench.methods.base import Method, global_mean
from avbench.methods.choice import RunSpec, parse_methods
from avbench.methods.gradient_blending import GradientBlending
from avbench.progress import tracked
from avbench.training.clips import select_clips
from avbench.training.config import TrainerConfig
from avbench.training.fit import train
from avbench.training.held_folder import HeldFolder
from avbench.training.training import Training
from avbench.vocabulary import MODALITIES

ALL = ",".join(METHODS)
JOINT = ("baseline", "ogm-ge", "tmc", "greedy:warmup=1", "gradient-blending")
# The requirement: own work as a share of the plain step, at preset `paper`.
ALLOWED = {"ogm-ge": 0.05, "tmc": 0.05, "greedy": 0.10}
# Seconds between looks at the CPU time of threads that may end: what one does after the last look is not counted.
_LOOK_SECONDS = 0.02
PACKAGES = ("torch", "torchvision", "nvidia-dali-cuda120", "deepspeed")


@dataclass(frozen=True)
class Config:
    """What to measure.

    rounds: steps of each kind (own work), or repetitions of both ways (one pass). clips: of the training split that one
    pass uses, at most. json: where to write the results.
    """

    preset: str = "paper"
    batch_size: int = 8
    rounds: int = 12
    dataset: Path | None = None
    clips: int = 0
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(1)
    console = Console()
    if config.dataset is None:
        results: list[dict[str, Any]] = [own_work(text, config) for text in tracked(JOINT, "methods")]
        console.print(own_work_table(results, config))
    else:
        results = list(one_pass(config))
        console.print(one_pass_table(results, config))
    write_results(config, **about(), results=results)


# Own work


def own_work(text: str, config: Config) -> dict[str, Any]:
    """Seconds of a method's step and of the plain step of its network, medians, and their spreads."""
    (spec,) = parse_methods([text])
    method = spec.method(spec.config, classes=309, seed=0)
    engine = engine_of(method)
    batch = synthetic_batch(config.preset, config.batch_size, engine.device)
    measured: list[bool] = []  # of each of the method's steps, whether it did all of the method's own work

    def step_of_method(number: int) -> None:
        step = method.train_step(engine, batch, Clock(0, number, 1))
        measured.append(not any(float(value) for name, value in step.log.items() if name.startswith("rebalancing/")))

    steps: dict[str, Callable[[int], object]] = {
        "plain": lambda number: plain_step(engine, batch),
        "method": step_of_method,
    }
    for step in steps.values():
        step(0)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(1, config.rounds + 1):
        for name in sorted(steps, reverse=bool(number % 2)):
            times[name].append(seconds_of(partial(steps[name], number), engine.device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    shares = [mine / plain - 1 for mine, plain in zip(times["method"], times["plain"], strict=True)]
    whole = [share for share, all_of_it in zip(shares, measured[1:], strict=True) if all_of_it]
    return {
        "method": method.name,
        "network": method.network,
        "plain_seconds": medians["plain"],
        "method_seconds": medians["method"],
        "own_work": statistics.median(whole) if whole else None,
        "steps_with_all_of_it": len(whole),
        "mean_over_all_steps": sum(times["method"]) / sum(times["plain"]) - 1,
        "spread": (max(times["plain"]) - min(times["plain"])) / 2 / medians["plain"],
        "device": str(engine.device),
    }


def engine_of(method: Method) -> Engine:
    """The method's network, as the trainer would wrap it in one process."""
    device = here()
    dtype = getattr(torch, pick_precision("auto", device))
    torch.manual_seed(0)
    return Engine(method.build_model(), optimizer=OptimizerConfig(), device=device, dtype=dtype)


def here() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def synthetic_batch(preset_name: str, size: int, device: torch.device) -> Batch:
    """Random clips in a preset's shapes."""
    chosen = preset(preset_name)
    visual = chosen.visual
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(size, visual.frames, visual.height, visual.width, 3, generator=generator)
    return Batch(
        audio=torch.randn(size, 1, *chosen.audio.shape, generator=generator).to(device),
        frames=frames.to(device).permute(0, 1, 4, 2, 3),
        label=torch.randint(309, (size,), generator=generator).to(device),
        clip_id=torch.arange(size, device=device),
        valid=torch.ones(size, dtype=torch.bool),
        global_valid=torch.tensor(size, device=device),
    )


def plain_step(engine: Engine, batch: Batch) -> None:
    """Forward, cross-entropy, backward, optimizer."""
    losses = F.cross_entropy(engine.forward(batch).logits, batch.label, reduction="none")
    engine.backward(global_mean(losses, batch, engine))
    engine.step()


def seconds_of(action: Callable[[], object], device: torch.device) -> float:
    """CPU seconds on a CPU, wall seconds on a GPU."""
    if device.type == "cpu":
        started = time.process_time()
        action()
        return time.process_time() - started
    synchronize(device)
    started = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, where it is one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def own_work_table(results: Sequence[dict[str, Any]], config: Config) -> Table:
    """A row a method."""
    where = results[0]["device"]
    title = f"preset {config.preset}, batch {config.batch_size}, medians of {config.rounds} steps each, {where}"
    table = Table(title=title, title_justify="left")
    for column in ("method", "plain step, ms", "own work", "of steps", "over all steps", "spread", "allowed"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in results:
        allowed = ALLOWED.get(row["method"])
        table.add_row(
            row["method"],
            f"{1e3 * row['plain_seconds']:.1f}",
            "" if row["own_work"] is None else f"{row['own_work']:+.1%}",
            str(row["steps_with_all_of_it"]),
            f"{row['mean_over_all_steps']:+.1%}",
            f"{row['spread']:.0%}",
            "" if allowed is None or config.preset != "paper" else f"{allowed:.0%}",
        )
    return table


# One pass


class WithoutEstimates(GradientBlending):
    """Gradient-Blending with the weights that it begins with."""

    def before_epoch(self, run: Any) -> None:
        """No passes over data."""


def without_estimates(specs: Sequence[RunSpec]) -> tuple[RunSpec, ...]:
    """The same, Gradient-Blending without its estimates, which are passes of their own before some epochs."""
    return tuple(
        replace(spec, method=WithoutEstimates) if issubclass(spec.method, GradientBlending) else spec for spec in specs
    )


def one_pass(config: Config) -> list[dict[str, Any]]:
    """Both ways, `rounds` times, interleaved; and what decoding and an estimate cost."""
    assert config.dataset is not None
    dataset = Dataset(config.dataset)
    specs = parse_methods([ALL])
    without = without_estimates(specs)
    estimate = next(spec for spec in specs if issubclass(spec.method, GradientBlending))
    results = []
    for number in range(config.rounds):
        together = timed(lambda: trained(dataset, without, config))
        alone = [timed(partial(trained, dataset, (spec,), config)) for spec in without]
        with_estimate = timed(partial(trained, dataset, (estimate,), config))
        decoding = timed(partial(decode, dataset, config))
        of_estimate = without.index(next(spec for spec in without if spec.method is WithoutEstimates))
        results.append(
            {
                "round": number,
                "together": together,
                "alone": dict(zip([spec.name for spec in without], alone, strict=True)),
                "estimate_cpu_seconds": with_estimate["cpu_seconds"] - alone[of_estimate]["cpu_seconds"],
                "estimate_loading_seconds": with_estimate["loading_seconds"] - alone[of_estimate]["loading_seconds"],
                "decoding": decoding,
            }
        )
    return results


def trained(dataset: Dataset, specs: Sequence[RunSpec], config: Config) -> None:
    """One epoch into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        training = Training(
            dataset,
            clip_ids=clips_of(dataset, config),
            specs=specs,
            seeds=(0,),
            preset=preset(config.preset),
            config=TrainerConfig(epochs=1, batch_size=config.batch_size, loader_threads=1),
            optimizer=OptimizerConfig(),
            engine=EngineConfig(),
            device=here(),
        )
        train(training, HeldFolder(Path(folder) / "run"), save_config=lambda path: path.write_text(""))


def clips_of(dataset: Dataset, config: Config) -> dict[str, Any]:
    """Of train the first `clips`, where so many are asked for."""
    selected = select_clips(dataset, classes=(), fraction=1.0)
    return {**selected, "train": selected["train"][: config.clips or None]}


def decode(dataset: Dataset, config: Config) -> None:
    """The training epoch's batches, and nothing done with them."""
    loader = Loader(
        dataset,
        clips_of(dataset, config)["train"],
        preset=preset(config.preset),
        batch_size=config.batch_size,
        seed=0,
        training=True,
        modalities=MODALITIES,
        device=here(),
    )
    for _ in loader.epoch(0):
        pass
    loader.close()


def timed(action: Callable[[], None]) -> dict[str, float]:
    """CPU and wall seconds of this process, all its threads, and CPU seconds of those that load."""
    cpu, wall = time.process_time(), time.perf_counter()
    with loading_threads() as seconds:
        action()
    return {
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "loading_seconds": sum(seconds.values()),
    }


@contextmanager
def loading_threads() -> Iterator[dict[int, float]]:
    """By thread, CPU seconds of the loaders' and DALI's, those that end in here included; whole after the block."""
    seconds: dict[int, float] = {}
    before = cpu_of_loading_threads()
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_SECONDS):
            seconds.update(
                {thread: used - before.get(thread, 0.0) for thread, used in cpu_of_loading_threads().items()}
            )

    looking = threading.Thread(target=look, name="benchmark")
    looking.start()
    try:
        yield seconds
    finally:
        done.set()
        looking.join()


def cpu_of_loading_threads() -> dict[int, float]:
    """User and system seconds of this process's threads that load, by their number."""
    own = {thread.native_id for thread in threading.enumerate() if thread.name == "avbench-loader"}
    seconds = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if int(task.name) in own or (task / "comm").read_text().startswith("[DALI]"):
                seconds[int(task.name)] = 1e-9 * int((task / "schedstat").read_text().split()[0])
    return seconds


def one_pass_table(results: Sequence[dict[str, Any]], config: Config) -> Table:
    """Medians over the rounds: CPU and wall seconds, and CPU seconds of loading."""
    table = Table(title=f"preset {config.preset}, batch {config.batch_size}, one epoch, medians of {len(results)}")
    for column in ("", "CPU s", "wall s", "loading, CPU s"):
        table.add_column(column, justify="right" if column else "left")

    def row(name: str, of: Callable[[dict[str, Any], str], float]) -> None:
        kinds = ("cpu_seconds", "wall_seconds", "loading_seconds")
        table.add_row(name, *(f"{statistics.median(of(result, kind) for result in results):.2f}" for kind in kinds))

    def separate(result: dict[str, Any], kind: str) -> float:
        return sum(one[kind] for one in result["alone"].values())

    row("all seven in one pass", lambda result, kind: result["together"][kind])
    row("seven separate runs", separate)
    row("saved", lambda result, kind: separate(result, kind) - result["together"][kind])
    row("decoding of six", lambda result, kind: 6 * result["decoding"][kind])
    row("one pass / separate", lambda result, kind: result["together"][kind] / separate(result, kind))
    row("separate / one pass", lambda result, kind: separate(result, kind) / result["together"][kind])
    estimate, loading = (
        f"{statistics.median(result[f'estimate_{kind}_seconds'] for result in results):.2f}"
        for kind in ("cpu", "loading")
    )
    table.add_row("Gradient-Blending's estimate, beside", estimate, "", loading)
    return table


def about() -> dict[str, Any]:
    """What a result means nothing without."""
    return {
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "processor": platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
