"""What does choosing clips with a uniform discrepancy from a million candidates cost, and how uniform do they become?

    python benchmarks/choose.py [--json FILE]                     34,000 of 1 million clips of 30 classes
    python benchmarks/choose.py --classes 200 --minimum 50        more classes

Made up: confidences of which 84 in 100 prefer audio, in classes of very different sizes (from a Dirichlet distribution
of parameter 0.7), the same in every run. Each number of classes is chosen from in a process of its own.

Timed: `choose`, from arrays to rows, CPU time (user and system) and wall time; of `--rounds` the median. Not timed:
imports, and making the candidates up. Memory: the most that the process ever held by the kernel's count (VmHWM) over
what it held once the candidates were made. Distances from uniform are those of the values, before and after.

Answer: benchmarks/README.md.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from avbench.benchmarking.results import check_json, run_script, write_results
from avbench.curation.choosing.candidates import Candidates
from avbench.curation.choosing.choice import Choice, choose
from avbench.curation.choosing.constraints import Constraints
from avbench.machine import describe, summary


@dataclass(frozen=True)
class Config:
    """What to choose.

    clips: candidates. classes: numbers of classes, one measurement each. size, minimum, overall, of_class, low, high:
    of the constraints. json: where to write the results.
    """

    clips: int = 1_000_000
    classes: tuple[int, ...] = (30,)
    size: int = 34_000
    minimum: int = 100
    overall: float = 0.1
    of_class: float = 0.2
    low: float = -0.6
    high: float = 0.6
    rounds: int = 1
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print a table, write JSON."""
    if config.json:
        check_json(config.json)
    console, machine, results = Console(), describe(), []
    for classes in config.classes:
        with (
            console.status(f"{config.clips:,} clips of {classes} classes"),
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
        ):
            results.append(process.submit(measured, classes, config).result())
    console.print(table_of(results, title=summary(machine)))
    write_results(config, machine=machine, results=results)


def measured(classes: int, config: Config) -> dict[str, Any]:
    """Seconds, bytes and distances of choosing from so many classes."""
    candidates = made_up(config.clips, classes)
    constraints = Constraints(
        low=config.low, high=config.high, size=config.size, minimum=config.minimum,
        overall=config.overall, of_class=config.of_class,
    )  # fmt: skip
    held, walls, cpus = memory_bytes("VmRSS"), [], []
    for _ in range(config.rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        choice = choose(candidates, constraints, seed=0)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "classes": classes,
        "wall_seconds": statistics.median(walls),
        "cpu_seconds": statistics.median(cpus),
        "peak_bytes": memory_bytes("VmHWM") - held,
        **described(choice),
    }


def described(choice: Choice) -> dict[str, Any]:
    """What was chosen, for JSON."""
    before, after = choice.before.overall, choice.after.overall
    return {
        "kept": len(choice.rows),
        "possible": choice.possible,
        "ks_before": before.kolmogorov_smirnov,
        "ks_after": after.kolmogorov_smirnov,
        "wasserstein_before": before.wasserstein,
        "wasserstein_after": after.wasserstein,
        "entropy_before": before.entropy,
        "entropy_after": after.entropy,
        "worst_class_ks_after": max(each.kolmogorov_smirnov for each in choice.after.of_class.values() if each.clips),
        "loosened": [each.text() for each in choice.loosened],
    }


def made_up(clips: int, classes: int) -> Candidates:
    """Candidates of one pool, every class with some."""
    generator = np.random.default_rng(0)
    class_of = generator.choice(classes, clips, p=generator.dirichlet(np.full(classes, 0.7)))
    class_of[:classes] = np.arange(classes)
    discrepancy = np.clip(generator.normal(0.25, 0.25, clips), -1, 1)
    middle = generator.uniform(np.abs(discrepancy) / 2, 1 - np.abs(discrepancy) / 2)
    return Candidates(
        keys=[f"{number:011d}_000030" for number in range(clips)],
        pool_of=np.zeros(clips, np.int64),
        class_of=class_of,
        audio=np.clip(middle + discrepancy / 2, 0, 1),
        visual=np.clip(middle - discrepancy / 2, 0, 1),
        pools=("made up",),
        classes=tuple(f"class {number:03d}" for number in range(classes)),
    )


def memory_bytes(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def table_of(results: list[dict[str, Any]], *, title: str) -> Table:
    """A column a number of classes."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(f"{result['classes']} classes", justify="right")
    for name, text in (
        ("CPU s", "{cpu_seconds:.1f}"),
        ("wall s", "{wall_seconds:.1f}"),
        ("peak memory, MB", "{peak_megabytes:,.0f}"),
        ("kept", "{kept:,}"),
        ("possible", "{possible:,}"),
        ("Kolmogorov-Smirnov before, after", "{ks_before:.3f}, {ks_after:.3f}"),
        ("of the worst class", "{worst_class_ks_after:.3f}"),
        ("Wasserstein before, after", "{wasserstein_before:.3f}, {wasserstein_after:.3f}"),
        ("entropy before, after", "{entropy_before:.3f}, {entropy_after:.3f}"),
        ("bounds loosened", "{bounds}"),
    ):
        extra = (
            {"bounds": len(result["loosened"]), "peak_megabytes": result["peak_bytes"] / 1e6} for result in results
        )
        table.add_row(name, *(text.format(**result, **more) for result, more in zip(results, extra, strict=True)))
    return table


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
