"""Is a training step faster than that of a plain loop, as OGM-GE's published code has one, and does it learn the same?

    python benchmarks/step.py [--preset paper|tiny] [--batch-size 16] [--rounds 8] [--compile] [--json FILE]

The plain loop is written here from what that code (GeWu-Lab/OGM-GE_CVPR2022, `train_epoch`) does: float32 in contiguous
memory, the logits of each modality's part by matrix products, three losses, each modality's score by a Python loop over
clips that takes the softmax of the whole batch for each, every kernel's gradient rewritten out of place with a standard
deviation that comes back to Python, three losses read back, torch's SGD. It is spared DataParallel. Ours is the step
that `avbench train` takes, `Run.train_step` with its tallies, in the precision that it would pick here and in float32.
With --compile there is ours once more, under `avbench train --compile`.
All have the same network from the same numbers and one synthetic batch that stays in memory; none reads data.

Timed, turn and turn about: CPU time (user and system, all threads) and wall time of a step of each; on a GPU wall time
between synchronizations. Medians, and half the distance of the extremes as spread; the ratio is the median over rounds
of the plain loop's time over ours, of CPU time on a CPU. Not timed: building, and two first steps of each; how long the
first one took (the compiled one's above all) is in the JSON, and shown with --compile.

Agreement: the losses of `--steps` steps from the same weights. Noise is left out there, as two generators draw
different numbers; everything else of OGM-GE is in. Both loops in float64 tell whether they compute the same; from the
plain loop's losses in float64 it is also shown how far float32 and bf16 lead either loop away.

Answers: benchmarks/README.md.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from methods import about, here, synchronize, synthetic_batch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from avbench.batch import Batch
from avbench.benchmarking.results import write_results
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.precision import pick_precision
from avbench.methods.choice import parse_methods
from avbench.training.passes import prepare
from avbench.training.run import Run, collect_tallies

CLASSES = 309  # of VGG-Sound
ALPHA = 0.1
_DEFAULT = EngineConfig()
AIM = 1.5  # how many times as fast as the plain loop


@dataclass(frozen=True)
class Config:
    """What to measure.

    rounds: timed steps of each kind. steps: whose losses are compared. threads: torch's, for both loops. compile:
    whether ours is timed compiled, too. json: where to write the results.
    """

    preset: str = "paper"
    batch_size: int = 16
    rounds: int = 8
    steps: int = 5
    threads: int = 1
    compile: bool = False
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(config.threads)
    batch = synthetic_batch(config.preset, config.batch_size, here())
    results = [compared(method, batch, config) for method in ("baseline", "ogm-ge")]
    console = Console()
    console.print(table_of(results, config))
    for result in results if config.compile else ():
        for name, row in result["contenders"].items():
            console.print(f"{result['method']}, {name}: first step {row['first_step_seconds']:.1f} s")
    write_results(config, **about(), results=results)


def compared(method: str, batch: Batch, config: Config) -> dict[str, Any]:
    """Times of a step and losses, of the plain loop and of ours in each precision."""
    picked = pick_precision("auto", here())
    ours = {precision: Ours(method, precision, batch) for precision in dict.fromkeys((picked, "float32"))}
    steps: dict[str, Callable[[], object]] = {"plain loop": PlainLoop(method, batch)}
    steps |= {f"avbench, {precision}": step for precision, step in ours.items()}
    if config.compile:
        steps[f"avbench, {picked}, compiled"] = Ours(method, picked, batch, engine=EngineConfig(compile=True))
    first, times = timed(steps, config.rounds)
    losses = losses_of(method, tuple(ours), batch, steps=config.steps)
    exact = losses["plain loop, float64"]
    return {
        "method": method,
        "device": str(here()),
        "precision": picked,
        "contenders": {
            name: {
                **{f"{kind}_seconds": statistics.median(values) for kind, values in times[name].items()},
                "first_step_seconds": first[name],
                "spread": spread(times[name][counting()]),
                "ratio": statistics.median(
                    plain / own
                    for plain, own in zip(times["plain loop"][counting()], times[name][counting()], strict=True)
                ),
            }
            for name in steps
        },
        "losses": losses,
        "largest_difference_of_losses": {
            name: max(abs(own - plain) / plain for own, plain in zip(values, exact, strict=True))
            for name, values in losses.items()
        },
    }


def timed(
    steps: dict[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, float], dict[str, dict[str, list[float]]]]:
    """Per contender the wall seconds of its first step, and CPU and wall seconds of each round; who begins changes."""
    first = {}
    for name, step in steps.items():
        begun = time.perf_counter()
        step()
        synchronize(here())
        first[name] = time.perf_counter() - begun
        step()
    times: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in steps}
    for number in range(rounds):
        for name in sorted(steps, reverse=bool(number % 2)):
            synchronize(here())
            cpu, wall = time.process_time(), time.perf_counter()
            steps[name]()
            synchronize(here())
            times[name]["cpu"].append(time.process_time() - cpu)
            times[name]["wall"].append(time.perf_counter() - wall)
    return first, times


def losses_of(method: str, precisions: Sequence[str], batch: Batch, *, steps: int) -> dict[str, list[float]]:
    """Per contender the mean loss at each of the first steps, without noise, from the same weights."""
    losses = {}
    for name, dtype in (("plain loop", torch.float32), ("plain loop, float64", torch.float64)):
        plain = PlainLoop(method, batch, noise=False, dtype=dtype)
        losses[name] = [plain() for _ in range(steps)]
    for precision in (*precisions, "float64"):
        step = Ours(method, precision, batch, noise=False)
        losses[f"avbench, {precision}"] = [step.loss() for _ in range(steps)]
    return losses


class Ours:
    """The step of `avbench train`."""

    def __init__(
        self, method: str, precision: str, batch: Batch, *, noise: bool = True, engine: EngineConfig = _DEFAULT
    ) -> None:
        self.run = run_of(method, precision, noise=noise, engine=engine)
        self.batch = prepare(batch, getattr(torch, precision))

    def __call__(self) -> None:
        """Take a step."""
        self.run.train_step(self.batch, epoch=0, epochs=1, total_steps=1)

    def loss(self) -> float:
        """Take a step; the mean loss before it."""
        self()
        ((loss, _, clips),) = [taken.totals for taken in collect_tallies([self.run])]
        return loss / clips


def run_of(method: str, precision: str, *, noise: bool, engine: EngineConfig = _DEFAULT) -> Run:
    """A run as the trainer makes it."""
    (spec,) = parse_methods([f"{method}:alpha={ALPHA}:noise={str(noise).lower()}" if method == "ogm-ge" else method])
    return Run(
        spec,
        seed=0,
        classes=CLASSES,
        optimizer=OptimizerConfig(),
        engine=engine,
        device=here(),
        dtype=getattr(torch, precision),
        store=None,
    )


class PlainLoop:
    """One step of the plain loop a call; returns its loss."""

    def __init__(self, method: str, batch: Batch, *, noise: bool = True, dtype: torch.dtype = torch.float32) -> None:
        assert batch.audio is not None
        assert batch.frames is not None
        self.modulates = method == "ogm-ge"
        self.noise = noise
        model = copy.deepcopy(run_of(method, "float32", noise=noise).engine.model)
        self.model = model.to(dtype=dtype, memory_format=torch.contiguous_format)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        self.audio, self.frames = batch.audio.to(dtype).contiguous(), batch.frames.to(dtype).contiguous()
        self.label = batch.label

    def __call__(self) -> float:
        """Take a step; the mean loss before it."""
        criterion = nn.CrossEntropyLoss()
        self.optimizer.zero_grad()
        audio, visual = self._features()
        head = self.model.head
        logits = head(torch.cat((audio, visual), dim=1))
        half = head.weight.shape[1] // 2
        of_audio = torch.mm(audio, head.weight[:, :half].t()) + head.bias / 2
        of_visual = torch.mm(visual, head.weight[:, half:].t()) + head.bias / 2
        losses = [criterion(each, self.label) for each in (logits, of_visual, of_audio)]
        losses[0].backward()
        if self.modulates:
            self._modulate(of_audio, of_visual)
        self.optimizer.step()
        loss, _, _ = (each.item() for each in losses)
        return loss

    def _features(self) -> tuple[Tensor, Tensor]:
        encoders = self.model.encoders
        clips, frames = self.frames.shape[:2]
        visual = encoders["visual"].network(self.frames.flatten(0, 1))
        return encoders["audio"].network(self.audio), visual.view(clips, frames, -1).mean(dim=1)

    def _modulate(self, of_audio: Tensor, of_visual: Tensor) -> None:
        score = {"audio": score_clip_by_clip(of_audio, self.label), "visual": score_clip_by_clip(of_visual, self.label)}
        ratio = score["visual"] / score["audio"]
        ahead = "visual" if ratio > 1 else "audio"
        slowed = 1 - torch.tanh(ALPHA * torch.relu(ratio if ahead == "visual" else 1 / ratio))
        for name, parameter in self.model.named_parameters():
            for modality in score:
                if modality in name and parameter.grad.dim() == 4:
                    factor = slowed if modality == ahead else 1
                    if self.noise:
                        deviation = parameter.grad.std().item() + 1e-8
                        noise = torch.zeros_like(parameter.grad).normal_(0, deviation)
                        parameter.grad = parameter.grad * factor + noise
                    else:
                        parameter.grad *= factor


def score_clip_by_clip(logits: Tensor, label: Tensor) -> Any:
    """Sum over clips of the true label's probability, in a Python loop."""
    softmax = nn.Softmax(dim=1)
    return sum([softmax(logits)[clip][label[clip]] for clip in range(len(label))])


def counting() -> str:
    """The kind of time that ratios are of."""
    return "cpu" if here().type == "cpu" else "wall"


def spread(values: Sequence[float]) -> float:
    """Half the distance of the extremes, as a share of the median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def table_of(results: Sequence[dict[str, Any]], config: Config) -> Table:
    """A row a contender."""
    title = (
        f"preset {config.preset}, batch {config.batch_size}, medians of {config.rounds} steps, {here()}, torch on "
        f"{config.threads} thread(s); losses of {config.steps} steps; aimed at: {AIM} times as fast"
    )
    table = Table(title=title, title_justify="left")
    for column in ("method", "step", "CPU, ms", "wall, ms", "spread", "times as fast", "losses off by, at most"):
        table.add_column(column, justify="left" if column in ("method", "step") else "right")
    for result in results:
        differences = result["largest_difference_of_losses"]
        for name, row in result["contenders"].items():
            table.add_row(
                result["method"],
                name,
                f"{1e3 * row['cpu_seconds']:.0f}",
                f"{1e3 * row['wall_seconds']:.0f}",
                f"{row['spread']:.0%}",
                f"{row['ratio']:.2f}",
                f"{differences[name]:.1e}" if name in differences else "",
            )
        table.add_row(result["method"], "avbench, float64", "", "", "", "", f"{differences['avbench, float64']:.1e}")
    return table


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
