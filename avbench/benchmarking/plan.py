"""What a bigger machine would do, from what a clip costs on a measured one: which stage binds, and what to change.

Stages overlap, so the slowest one's rate is the rate of all:

    storage   bytes a second of all storage / bytes read of a clip
    cores     GPUs x (cores a GPU - 1) / CPU seconds of loading a clip
    loader    GPUs / seconds a clip of the loader alone on one GPU            (only where a GPU was measured)
    steps     GPUs / sum over methods of a step's seconds a clip on one GPU

One core a GPU is left to the process that trains, which never waits without spinning. All methods share a loaded batch,
so loading does not grow with their number. On CPUs (gpus 0) steps and loading share all cores:

    cores     cores / (CPU seconds of loading a clip + sum of the steps' CPU seconds a clip)

Left out: gradient exchange between GPUs, validation, checkpoints, Gradient-Blending's estimates; and that more ranks on
a machine share its memory's bandwidth.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avbench.errors import UsageError, unknown
from avbench.loading.presets import preset
from avbench.methods import METHODS

VGGSOUND_CLIPS = 200_000
CORES_OF_TRAINING = 1  # a GPU's
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_READS = {"audio": ("audio",), "visual": ("visual",)}  # methods that read one modality only; the others read both
_CROP_SIDES = (192, 160, 128, 112)


@dataclass(frozen=True)
class Costs:
    """Of one clip, measured.

    read_bytes, load_cpu_seconds: by audio codec; `estimated` are codecs whose CPU time is the measured codec's with the
    decoder's floor exchanged. load_gpu_seconds: wall time of the loader alone on one GPU; None without a GPU.
    step_seconds: by method, wall time on a GPU where steps_on_gpu, else CPU time of one thread.
    """

    preset: str
    read_bytes: Mapping[str, float]
    load_cpu_seconds: Mapping[str, float]
    step_seconds: Mapping[str, float]
    steps_on_gpu: bool
    load_gpu_seconds: float | None = None
    estimated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machines:
    """gpus: all of them; 0 for CPU training, when cores are all of them. storage: bytes a second for all together."""

    gpus: int
    cores: int  # a GPU's, or all where there is no GPU
    storage_bytes_per_second: float


@dataclass(frozen=True)
class Plan:
    """Clips a second that each stage could do, by stage; infinite where a stage is not there."""

    rates: Mapping[str, float]
    unknown_steps: bool  # steps are not among them: they were measured on a CPU

    @property
    def binds(self) -> str:
        """The slowest stage."""
        return min(self.rates, key=self.rates.__getitem__)

    @property
    def clips_per_second(self) -> float:
        """Of all together."""
        return self.rates[self.binds]

    def hours(self, clips: int) -> float:
        """Of an epoch of so many clips."""
        return clips / self.clips_per_second / 3600


def make_plan(costs: Costs, machines: Machines, *, methods: Sequence[str], codec: str) -> Plan:
    """See the module's docstring. Raises UsageError on a codec or a method that was not measured."""
    _check_known("codec", [codec], costs.load_cpu_seconds)
    _check_known("method", methods, costs.step_seconds)
    load = costs.load_cpu_seconds[codec]
    steps = sum(costs.step_seconds[name] for name in methods)
    rates = {"storage": machines.storage_bytes_per_second / costs.read_bytes[codec]}
    if not machines.gpus:
        if costs.steps_on_gpu:
            raise UsageError("--gpus 0 plans for CPUs, but steps were measured on a GPU; measure on a CPU")
        return Plan({**rates, "cores": machines.cores / (load + steps)}, unknown_steps=False)
    if machines.cores <= CORES_OF_TRAINING:
        raise UsageError(
            f"--cores-per-gpu {machines.cores}: one core trains, so loading needs at least {CORES_OF_TRAINING + 1}"
        )
    rates["cores"] = machines.gpus * (machines.cores - CORES_OF_TRAINING) / load
    if costs.load_gpu_seconds:
        rates["loader"] = machines.gpus / costs.load_gpu_seconds
    if costs.steps_on_gpu and steps:
        rates["steps"] = machines.gpus / steps
    return Plan(rates, unknown_steps=not costs.steps_on_gpu)


def _check_known(kind: str, names: Sequence[str], known: Mapping[str, float]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(unknown(f"{kind} (not measured)", name, known))


def advice(costs: Costs, machines: Machines, *, methods: Sequence[str], codec: str) -> list[str]:
    """What would make it faster, best first, each with the clips/s it would give; and what would not."""
    now = make_plan(costs, machines, methods=methods, codec=codec)
    changes = _codecs(costs, machines, methods, codec)
    if now.binds == "cores" and machines.gpus:
        changes += _more_cores(costs, machines, methods, codec, now)
    if now.binds == "storage":
        changes += _faster_storage(costs, machines, methods, codec, now)
    if now.binds == "steps" or not machines.gpus:
        changes += _smaller_crops(costs, machines, methods, codec)
    faster = sorted((change for change in changes if change[0] > 1.02 * now.clips_per_second), reverse=True)
    lines = [f"{text}: {rate:,.0f} clips/s (x{rate / now.clips_per_second:.1f})" for rate, text in faster]
    return lines or [f"{now.binds} binds; no other codec, number of cores or crop helps, only more {_of(now.binds)}"]


Change = tuple[float, str]


def _codecs(costs: Costs, machines: Machines, methods: Sequence[str], codec: str) -> list[Change]:
    return [
        (
            make_plan(costs, machines, methods=methods, codec=other).clips_per_second,
            f"pack audio as {other} ({costs.read_bytes[other] / costs.read_bytes[codec]:.1f} times the bytes"
            f"{', CPU time estimated' if other in costs.estimated else ''})",
        )
        for other in costs.load_cpu_seconds
        if other != codec
    ]


def _more_cores(costs: Costs, machines: Machines, methods: Sequence[str], codec: str, now: Plan) -> list[Change]:
    others = min(rate for stage, rate in now.rates.items() if stage != "cores")
    needed = math.ceil(others * costs.load_cpu_seconds[codec] / machines.gpus) + CORES_OF_TRAINING
    rate = make_plan(costs, replace(machines, cores=needed), methods=methods, codec=codec).clips_per_second
    return [(rate, f"{needed} cores a GPU, where loading no longer binds")]


def _faster_storage(costs: Costs, machines: Machines, methods: Sequence[str], codec: str, now: Plan) -> list[Change]:
    others = min(rate for stage, rate in now.rates.items() if stage != "storage")
    needed = others * costs.read_bytes[codec]
    rate = make_plan(
        costs, replace(machines, storage_bytes_per_second=needed), methods=methods, codec=codec
    ).clips_per_second
    return [(rate, f"storage of {needed / 1e9:.2g} GB/s, or shards copied to each node's disk")]


def _smaller_crops(costs: Costs, machines: Machines, methods: Sequence[str], codec: str) -> list[Change]:
    """A convolution's work goes with the pixels: each method that looks saves that share of a visual network's step."""
    if "visual" not in costs.step_seconds:
        return []
    side = preset(costs.preset).visual.height
    changes = []
    for smaller in _CROP_SIDES:
        if smaller >= side:
            continue
        saved = (1 - (smaller / side) ** 2) * costs.step_seconds["visual"]
        steps = {
            name: max(seconds - saved, 0) if name != "audio" else seconds
            for name, seconds in costs.step_seconds.items()
        }
        rate = make_plan(replace(costs, step_seconds=steps), machines, methods=methods, codec=codec).clips_per_second
        changes.append((rate, f"crops of {smaller} x {smaller} (estimated; another experiment)"))
    return changes


def _of(stage: str) -> str:
    return {"storage": "bandwidth", "cores": "cores", "loader": "GPUs", "steps": "GPUs"}[stage]


def chosen_methods(text: str) -> tuple[str, ...]:
    """`7` as the first seven methods of avbench's table, `audio,ogm-ge` as these two. Raises UsageError."""
    if text.isdecimal():
        count = int(text)
        if not 1 <= count <= len(METHODS):
            raise UsageError(f"--methods {text}: expected 1 to {len(METHODS)}, or names: {','.join(METHODS)}")
        return tuple(METHODS)[:count]
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in METHODS:
            raise UsageError(unknown("method", name, METHODS))
    if not names:
        raise UsageError(f"--methods {text!r}: expected 1 to {len(METHODS)}, or names: {','.join(METHODS)}")
    return names


def bytes_per_second(text: str) -> float:
    """`2GB/s`, `500 MiB/s`, `25Gbit/s`; raises UsageError."""
    match = re.fullmatch(r"([\d.]+)\s*([kmgt]i?|)(b|bit)(?:/s|ps)", text.strip(), re.IGNORECASE)
    try:
        if match is None:
            raise ValueError
        value = float(match[1]) * _UNITS[match[2].lower()] / (8 if match[3].lower() == "bit" else 1)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise UsageError(f"--storage {text!r}: expected a rate like 2GB/s, 500MiB/s or 25Gbit/s")
    return value


def read_costs(path: Path) -> Costs:
    """From the JSON of `avbench bench loader` or of benchmarks/floors.py. Raises UsageError where it is neither."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        return costs_of(written.get("results", {}).get("floors", written))
    except FileNotFoundError:
        raise UsageError(f"--from {path}: no such file; `avbench bench loader --json {path}` makes it") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"--from {path}: holds no stage costs; `avbench bench loader --json {path}` writes them"
        ) from None


def costs_of(measured: Mapping[str, Any]) -> Costs:
    """Of the record that benchmarks/floors.py writes."""
    own, floors = measured["audio_suffix"], measured["floor_cpu_seconds"]
    both = measured["pipeline"]["audio + visual"]
    on_gpu = measured["device"] == "cuda"
    codecs = measured["audio_bytes"]
    return Costs(
        preset=measured["preset"],
        read_bytes={codec: size + measured["picture_bytes"] for codec, size in codecs.items()},
        load_cpu_seconds={codec: both["cpu_seconds"] + floors[codec] - floors[own] for codec in codecs},
        step_seconds=measured["steps"],
        steps_on_gpu=on_gpu,
        load_gpu_seconds=both["wall_seconds"] if on_gpu else None,
        estimated=tuple(codec for codec in codecs if codec != own),
    )
