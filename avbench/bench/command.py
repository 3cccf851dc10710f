"""What `avbench bench` does: runs a target's scripts and gathers their JSON, or prints a plan of bigger machines."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from avbench.bench.scripts import LoaderSizes, run, scripts_of
from avbench.bench.targets import TARGETS
from avbench.benchmarking.data import Data, made_up
from avbench.benchmarking.plan import (
    Costs,
    Machines,
    Plan,
    advice,
    bytes_per_second,
    chosen_methods,
    costs_of,
    make_plan,
    read_costs,
)
from avbench.benchmarking.results import check_json
from avbench.dataset import Dataset
from avbench.errors import UsageError
from avbench.loading.presets import Stft, preset
from avbench.machine import describe

_OWN_CHOICE = LoaderSizes()


def measure(
    target: str,
    dataset: Path | None,
    *,
    media: Path | None,
    preset_name: str,
    json_file: Path | None,
    quick: bool,
    sizes: LoaderSizes = _OWN_CHOICE,
) -> None:
    """Run a target's scripts, which print tables; with json_file gather what they measured there.

    Raises UsageError, or ScriptStopped where a script ended early, having said why.
    """
    preset(preset_name)  # raises UsageError
    if sizes != _OWN_CHOICE and target != "loader":
        raise UsageError(f"--peers, --clips and --rounds are for `avbench bench loader`; `bench {target}` has its own")
    for name, value in (("--clips", sizes.clips), ("--rounds", sizes.rounds)):
        if value < 0:
            raise UsageError(f"{name} {value}: expected 1 or more")
    if json_file:
        check_json(json_file)
    if media is not None and not media.is_dir():
        raise UsageError(f"--media {media}: no such folder")
    targets = [name for name in TARGETS if target in (name, "all") and name != "all"]
    if "loader" in targets and not isinstance(preset(preset_name).audio.transform, Stft):
        raise UsageError(f"--preset {preset_name}: its sound is no Fourier transform alone, so it has no floor")
    console = Console(stderr=True, highlight=False)
    if quick:
        console.print("--quick: a few clips; these figures say that all runs, not how fast", soft_wrap=True)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="avbench-bench-") as folder:
        data = _data(target, dataset, media, Path(folder), quick=quick)
        scripts = [
            script for name in targets for script in scripts_of(name, data, preset_name, quick=quick, chosen=sizes)
        ]
        for script in scripts:
            console.print(f"\n{script.result}: {script.file}", style="bold", markup=False)
            results[script.result] = run(script, Path(folder))
    if json_file:
        record = {"machine": describe(), "target": target, "quick": quick, "results": results}
        json_file.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _data(target: str, dataset: Path | None, media: Path | None, folder: Path, *, quick: bool) -> Data:
    if dataset is not None:
        Dataset(dataset).check_shards()  # raises DatasetError
    if target in ("pack", "all") and dataset is not None and media is None:
        raise UsageError(f"bench {target} packs videos: name them with --media FOLDER, or leave out the dataset too")
    if target not in ("pack", "store") and dataset is None and media is not None:
        raise UsageError(f"--media {media}: name the dataset too that was packed from it")
    if target == "store" or dataset is not None or media is not None:
        return Data(dataset, media)
    return made_up(folder, quick=quick)


def plan_machines(
    *,
    gpus: int,
    cores: int,
    storage: str,
    methods: str,
    codec: str,
    step_ms: float,
    clips: int,
    costs_file: Path | None,
    preset_name: str,
    json_file: Path | None,
) -> None:
    """Print which stage binds on such machines, and what to change; with json_file write it there too.

    Raises UsageError on values that make no sense, ScriptStopped where measuring failed.
    """
    for name, value in (("--gpus", gpus), ("--step-ms", step_ms)):
        if value < 0:
            raise UsageError(f"{name} {value:g}: expected 0 or more")
    for name, value in (("--cores-per-gpu", cores), ("--clips", clips)):
        if value < 1:
            raise UsageError(f"{name} {value}: expected 1 or more")
    if json_file:
        check_json(json_file)
    machines, names = Machines(gpus, cores, bytes_per_second(storage)), chosen_methods(methods)
    costs = read_costs(costs_file) if costs_file else _measured_costs(preset_name)
    if step_ms and gpus:
        share = step_ms / 1e3 / len(names)
        costs = replace(costs, step_seconds=dict.fromkeys(names, share), steps_on_gpu=True)
    codec = codec or next(name for name in costs.load_cpu_seconds if name not in costs.estimated)
    plan = make_plan(costs, machines, methods=names, codec=codec)
    changes = advice(costs, machines, methods=names, codec=codec)
    _print_plan(plan, changes, machines, methods=names, codec=codec, clips=clips, preset_name=costs.preset)
    if json_file:
        record = {
            "machines": asdict(machines),
            "costs": asdict(costs),
            "methods": names,
            "codec": codec,
            "clips_per_second": plan.rates,
            "binds": plan.binds,
            "hours_per_epoch": plan.hours(clips),
            "advice": changes,
        }
        json_file.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _measured_costs(preset_name: str) -> Costs:
    Console(stderr=True).print("no --from: measuring the stages here first, on made-up clips (minutes)")
    with tempfile.TemporaryDirectory(prefix="avbench-bench-") as folder:
        data = made_up(Path(folder), quick=False)
        (script,) = [one for one in scripts_of("loader", data, preset_name, quick=False) if one.result == "floors"]
        return costs_of(run(script, Path(folder)))


def _print_plan(
    plan: Plan,
    changes: Sequence[str],
    machines: Machines,
    *,
    methods: Sequence[str],
    codec: str,
    clips: int,
    preset_name: str,
) -> None:
    console = Console(highlight=False)
    what = f"{machines.gpus} GPUs x {machines.cores} cores" if machines.gpus else f"{machines.cores} cores"
    storage = f"{machines.storage_bytes_per_second / 1e9:g} GB/s"
    table = Table(
        title=f"{what}, {storage}; preset {preset_name}, {codec}, {len(methods)} methods", title_justify="left"
    )
    table.add_column("stage")
    table.add_column("clips/s", justify="right")
    table.add_column("")
    for stage, rate in plan.rates.items():
        table.add_row(stage, f"{rate:,.0f}", "binds" if stage == plan.binds else "")
    if plan.unknown_steps:
        table.add_row("steps", "not known", "")
    console.print(table)
    if plan.unknown_steps:
        console.print(
            "steps were measured on a CPU; what follows holds only where a GPU trains faster than it is fed: "
            "give --step-ms, or --from a machine with a GPU",
            soft_wrap=True,
        )
    epoch = f"{plan.hours(clips):.2g} hours an epoch of {clips:,} clips, all methods in one pass"
    console.print(f"{plan.binds} binds: {plan.clips_per_second:,.0f} clips/s, {epoch}", soft_wrap=True)
    for line in changes:
        console.print(f"- {line}", soft_wrap=True, markup=False)
