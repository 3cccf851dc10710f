"""What does a step cost under DeepSpeed, and what does OGM-GE's gradient modulation cost there, beside DDP?

    torchrun --standalone --nproc-per-node=2 benchmarks/engines.py [--preset paper|tiny] [--json FILE]

OGM-GE reads and rewrites nearly all gradients between backward and step. Under DDP every rank has them; under ZeRO 1
and 2 each rank has its part, so they are gathered once a step, and each rank keeps its part of what is written. Timed,
on one network under each engine, turn and turn about: the baseline's step, OGM-GE's without noise, and OGM-GE's. Wall
time of the slowest rank, medians. "Modulation" is how much longer a step with it takes than the baseline's under the
same engine, as a share of the baseline's step under DDP, so that engines can be compared. Not timed: making the
engines, and the first step of each kind.

Answers: benchmarks/README.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from methods import about, here, synchronize, synthetic_batch
from rich.console import Console
from rich.table import Table

from avbench import shipped
from avbench.batch import Batch, Clock
from avbench.benchmarking.results import run_script, write_results
from avbench.distributed import current_world, gather_objects, process_group
from avbench.engine.choice import build_engine
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.plain import Engine
from avbench.engine.precision import pick_precision
from avbench.methods.base import Method
from avbench.methods.choice import parse_methods

KINDS = ("baseline", "ogm-ge:noise=false", "ogm-ge")
ENGINES = ("ddp", "zero0", "zero1", "zero2")


@dataclass(frozen=True)
class Config:
    """What to measure.

    batch_size: of each rank. rounds: steps of each kind under each engine. json: where to write the results.
    """

    preset: str = "paper"
    batch_size: int = 8
    rounds: int = 12
    json: Path | None = None


def main(config: Config) -> None:
    """Measure on every rank; rank 0 prints a table and writes JSON."""
    torch.set_num_threads(1)
    with process_group(device=here()) as world:
        results = measure(config)
        if world.is_main:
            Console().print(table_of(results, config))
            write_results(config, **about(), ranks=world.size, results=results)


def measure(config: Config) -> list[dict[str, Any]]:
    """Median seconds of each kind of step under each engine. A collective."""
    batch = own(synthetic_batch(config.preset, config.batch_size, here()))
    methods = {kind: method_of(kind) for kind in KINDS}
    engines = {name: engine_of(methods[KINDS[0]], name) for name in ENGINES}
    times: dict[tuple[str, str], list[float]] = {(name, kind): [] for name in ENGINES for kind in KINDS}
    for number in range(config.rounds + 1):
        for name, kind in sorted(times, reverse=bool(number % 2)):
            step = partial(methods[kind].train_step, engines[name], batch, Clock(0, number, 1))
            times[name, kind].append(seconds_of(step))
    return [
        {
            "engine": name,
            "step": kind,
            "seconds": statistics.median(values[1:]),
            "quartiles": statistics.quantiles(values[1:], n=4) if config.rounds > 1 else values[1:] * 3,
            "modulation": statistics.median(
                (mine - baseline) / of_ddp
                for mine, baseline, of_ddp in zip(
                    values[1:], times[name, KINDS[0]][1:], times[ENGINES[0], KINDS[0]][1:], strict=True
                )
            ),
        }
        for (name, kind), values in times.items()
    ]


def own(batch: Batch) -> Batch:
    """A batch for this rank: all ranks have one of the same size."""
    assert batch.global_valid is not None
    return replace(batch, global_valid=batch.global_valid * current_world().size)


def method_of(kind: str) -> Method:
    """A method as `--methods` names it, for a dataset of VGG-Sound's size."""
    (spec,) = parse_methods([kind])
    return spec.method(spec.config, classes=309, seed=0)


def engine_of(method: Method, name: str) -> Engine:
    """The network of all three under an engine."""
    settings = shipped("launch") / f"{name}.json"
    torch.manual_seed(0)
    return build_engine(
        method.build_model(),
        optimizer=OptimizerConfig(),
        device=here(),
        dtype=getattr(torch, pick_precision("auto", here())),
        leaves_unused_parameters=False,
        engine=EngineConfig() if name == "ddp" else EngineConfig("deepspeed", str(settings)),
    )


def seconds_of(action: Callable[[], object]) -> float:
    """Wall seconds of the slowest rank. A collective."""
    gather_objects(None)  # all begin at once
    started = time.perf_counter()
    action()
    synchronize(here())
    return max(gather_objects(time.perf_counter() - started))


def table_of(results: list[dict[str, Any]], config: Config) -> Table:
    """A row an engine."""
    title = (
        f"preset {config.preset}, {current_world().size} ranks, batch {config.batch_size} each, medians of "
        f"{config.rounds} steps, {here()}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("engine")
    for column in ("baseline, ms", "of DDP's", "modulation without noise", "modulation"):
        table.add_column(column, justify="right")
    of = {(row["engine"], row["step"]): row for row in results}
    for name in ENGINES:
        baseline = of[name, KINDS[0]]["seconds"]
        table.add_row(
            name,
            f"{1e3 * baseline:.0f}",
            f"{baseline / of['ddp', KINDS[0]]['seconds']:.2f}",
            *(f"{of[name, kind]['modulation']:+.1%}" for kind in KINDS[1:]),
        )
    return table


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
