"""Does everything run on one GPU, is it what it is on a CPU, and how fast is it?

    python benchmarks/gpu.py [--json FILE] [--trace FILE.gz] [--only ANSWER,...] [--minutes 7]

It builds nothing and needs no data: planted clips of ten seconds are rendered and packed first, as FLAC, as WAV, and
with their sound kept as spectrograms. Answers come in order of worth; each row is measured by itself, what it raises is
its answer, and the JSON file is written anew, as a whole, after every one: whatever ends the script, nothing that was
found is lost. A row that would not be done within `--minutes` is not begun, and listed.

* smoke: `doctor`; the first batch of every preset and modality; a step of every method in each precision; `train` and
  `evaluate`.
* agreement: of the same batch from the GPU's pipeline and the CPU's, for every preset and for kept spectrograms.
* places: the same clips at other places in a batch, and the same batch twice: the same bits?
* waits: where a method's step makes the processor wait for the GPU, by torch.cuda.set_sync_debug_mode("error").
* steps: clips/s of each method's step on a batch that stays on the GPU, and for the baseline and OGM-GE those of the
  plain loop of benchmarks/step.py, in float32 and under autocast in bfloat16.
* loader: clips/s of the Loader alone by codec and by preset; last, those of a DALI graph as its documentation builds
  one and as its settings can be tuned (benchmarks/peers/plain_dali.py).
* resume: a training that was stopped and resumed ends with the same weights and losses? deterministic: what torch warns
  of when it is asked for deterministic algorithms.
* decoder: pictures/s by the share that the GPU's engine for JPEG decodes, and by threads.
* training: clips/s, waiting for data, use, power and joules a clip of the second epoch of one method by codec, of all
  methods in one pass, and of those on a CUDA stream each; beside it the plain loop fed by a DataLoader with `--workers`
  processes. Later: all methods by codec, and apart: each method in a training of its own.
* engines: the baseline's step under DDP and DeepSpeed's ZeRO 1 with one rank over nccl, and compiled.
* bad clips: what is said of a JPEG and of a FLAC whose second half is zeros while the checksum fits. largest batch:
  what is said of one that does not fit.
* profile: the three largest costs of a step of all methods. batches: clips/s of steps by the size of the batch.
  predictions: clips/s.

Timed: wall time between synchronizations, after a warm-up. `aims`: what was aimed at beside what was measured.
On a machine without a GPU it ends with one line, status 2; with `--device cpu` it runs there, to see that it does.
Where a row failed, the status is 1.

Not run on a GPU yet: no answers.
"""

from __future__ import annotations

import os

# Before CUDA starts: cuBLAS is deterministic only with a workspace of a fixed size.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from gpu_answers import Row, breaks, right, smoke, speed, training
from gpu_answers.aims import aims_of
from gpu_answers.setting import Config, Setting

from avbench.benchmarking.results import check_json, run_script, write_results
from avbench.errors import Interrupted, UsageError, unknown
from avbench.loading.gpu import check_driver, why_unused
from avbench.machine import describe, summary

ANSWERS = (
    "smoke", "agreement", "places", "waits", "steps", "loader", "resume", "deterministic", "decoder", "training",
    "engines", "bad clips", "largest batch", "profile", "batches", "predictions", "apart",
)  # fmt: skip


@dataclass
class Found:
    """Answers by row; tracebacks of the rows that failed; seconds each took; a line for each that was not begun."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    is_stopped: bool = False


def main(config: Config) -> None:
    """Measure, print each row, write JSON. Raises UsageError where there is no GPU."""
    device = device_of(config)
    wanted = wanted_of(config)
    for path in filter(None, (config.json, config.trace)):
        check_json(path)
    machine = describe()
    say(summary(machine))
    deadline = time.monotonic() + 60 * config.minutes
    with tempfile.TemporaryDirectory(prefix="avbench-gpu-", ignore_cleanup_errors=True) as name:
        setting = Setting(config, device, Path(name))
        for found in asked((row for row in rows(setting) if row.answer in wanted), deadline):
            write(config, machine, found)
        breaks.leave()
    for line in (*aims_in_words(config, found), *found.left_out):
        say(line)
    if found.failed:
        say(f"failed: {', '.join(found.failed)}; tracebacks are in the JSON")
        sys.exit(1)


def device_of(config: Config) -> torch.device:
    """Where everything is measured. Raises UsageError where it is not there."""
    if config.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of everything that looks for one
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(f"benchmarks/gpu.py wants an NVIDIA GPU; {why_unused() or 'NVML and torch find none here'}")
    check_driver()
    torch.backends.cudnn.deterministic = True  # as the trainer sets them
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", 0)


def wanted_of(config: Config) -> frozenset[str]:
    """The answers to find. Raises UsageError for an unknown one."""
    names = [name.strip() for name in config.only.split(",") if name.strip()]
    for name in names:
        if name not in ANSWERS:
            raise UsageError(f"--only: {unknown('answer', name, ANSWERS)}")
    return frozenset(names or ANSWERS)


def rows(setting: Setting) -> Iterator[Row]:
    """All there is to ask, in order of worth."""
    yield from smoke.rows(setting)
    yield from right.agreement(setting)
    yield from speed.steps(setting)
    yield from speed.loaders(setting)
    yield from right.resuming(setting)
    yield from speed.decoder(setting)
    yield from training.rows(setting)
    yield from breaks.rows(setting)
    yield from training.later_rows(setting)
    yield from speed.later_rows(setting)


def asked(rows: Iterable[Row], deadline: float) -> Iterator[Found]:
    """All that is found so far, after each row. deadline: by time.monotonic."""
    found = Found()
    for row in rows:
        left = deadline - time.monotonic()
        if row.seconds > left:
            found.left_out.append(f"{row.answer}, {row.name}: left out, {row.seconds:.0f} s of {left:.0f} s left")
        else:
            find(row, found)
        yield found
        if found.is_stopped:
            return


def find(row: Row, found: Found) -> None:
    """Measure a row; what it raises is the answer, but for what ends the script."""
    begun = time.monotonic()
    try:
        value = row.find()
    except (Exception, SystemExit) as error:
        value = f"failed: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        found.failed[f"{row.answer}, {row.name}"] = traceback.format_exc()
        # A signal, which training takes for itself: whoever sent it wants an end.
        found.is_stopped = isinstance(error, Interrupted)
        # A traceback holds what the row had on the GPU.
        traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # a GPU that is broken is said by every row to come
            torch.cuda.empty_cache()
    found.answers.setdefault(row.answer, {})[row.name] = value
    found.seconds[f"{row.answer}, {row.name}"] = round(time.monotonic() - begun, 2)
    say(f"{row.answer} | {row.name} | {in_words(value)}")


def write(config: Config, machine: dict[str, Any], found: Found) -> None:
    """All that is known by now."""
    write_results(
        config,
        machine=machine,
        answers=found.answers,
        aims=aims_of(found.answers, preset=config.preset),
        failed=found.failed,
        seconds=found.seconds,
        left_out=found.left_out,
    )


def aims_in_words(config: Config, found: Found) -> Iterator[str]:
    """A line an aim."""
    for aim in aims_of(found.answers, preset=config.preset):
        yield f"{'met' if aim['met'] else 'NOT met'}: {aim['aim']}: {in_words(aim['measured'])}"


def in_words(value: Any) -> str:
    """What a row found, on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {in_words(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "; ".join(map(in_words, value)) or "none"
    if isinstance(value, str | bool):
        return str(value)
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def say(text: str) -> None:
    """At once, so that a log that is cut off has it."""
    print(text, flush=True)


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
