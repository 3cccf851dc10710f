"""What does an option of packing cost a trained network in accuracy?

    python benchmarks/packing_accuracy.py [--sounds flac,ogg,stft] [--sides 256,224] [--seeds 2] [--json FILE]

Made-up clips in VGG-Sound's format (`avbench pack planted`, 48 kHz, 256 px) are rendered once and packed once for each
option; wav is left out, since it holds flac's samples bit for bit. At preset `paper` the trainer of `avbench train`
trains `audio` and `visual` from scratch on the first sound and the first size, by the demo's optimizer; each network of
its best epoch by validation is then tested on the same test clips as every option packs them. So an option's accuracy
differs from the first one's by what packing did to the clips and by nothing else, and beside it stands for how many
clips the predicted class changed, and by how much the true label's confidence, which discrepancies are made of, did on
average. A network that was trained on the option itself is another question, which takes a training an option.

Answer: benchmarks/README.md.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from methods import here
from packing_options import PRESET, overrides_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from avbench.arguments import comma_list
from avbench.batch import true_label_confidence
from avbench.benchmarking.results import run_script, write_results
from avbench.dataset import Dataset
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.precision import pick_precision
from avbench.errors import UsageError
from avbench.loading.loader import Loader
from avbench.machine import describe, summary, usable_cores
from avbench.methods.choice import parse_methods
from avbench.packing.pack import pack
from avbench.packing.recipes.reading import load_recipe
from avbench.progress import tracked
from avbench.training.clips import select_clips
from avbench.training.config import TrainerConfig
from avbench.training.fit import train
from avbench.training.held_folder import HeldFolder
from avbench.training.parallel import SideBySide
from avbench.training.passes import Passes
from avbench.training.run import Run
from avbench.training.training import Training

# The demo's, launch/demo.toml.
OPTIMIZER = OptimizerConfig(learning_rate=0.006, schedule="one-cycle", warmup=0.25)
RENDERED_SIDE = 256  # of the videos


@dataclass(frozen=True)
class Config:
    """What to measure.

    sounds, sides: the options; networks are trained on the first of each. clips: of train; test has as many, val a
    quarter. json: where to write the results.
    """

    sounds: Annotated[tuple[str, ...], comma_list(str, "flac,stft")] = ("flac", "ogg", "stft")
    sides: Annotated[tuple[int, ...], comma_list(int, "256,224")] = (256, 224)
    seeds: int = 2
    clips: int = 240
    seconds: float = 10.0
    classes: int = 5
    epochs: int = 10
    batch_size: int = 8
    json: Path | None = None


@dataclass(frozen=True)
class Said:
    """What a network says of every test clip: the predicted class, the true label's confidence, the label; [clips]."""

    predicted: np.ndarray
    confidence: np.ndarray
    label: np.ndarray


def main(config: Config) -> None:
    """Render, pack, train, test, print a table, write JSON."""
    if config.seeds < 1 or not config.sounds or not config.sides:
        raise UsageError("--seeds, --sounds and --sides: expected one or more")
    machine = describe()
    sound, side = config.sounds[0], config.sides[0]
    options = {"audio": [(each, side) for each in config.sounds], "visual": [(sound, each) for each in config.sides]}
    wanted = dict.fromkeys(option for each in options.values() for option in each)
    with tempfile.TemporaryDirectory() as folder:
        datasets = {option: packed(*option, config, Path(folder)) for option in tracked(wanted, "packing")}
        networks = trained(datasets[sound, side], config, Path(folder) / "run")
        results = []
        for method, of_method in options.items():
            said = [[said_of(datasets[option], run, config) for option in of_method] for run in networks[method]]
            results += [
                {"method": method, "option": option, "seeds": [compared(seed[0], seed[number]) for seed in said]}
                for number, option in enumerate(of_method)
            ]
    console = Console()
    console.print(table_of(results, config))
    console.print(summary(machine), soft_wrap=True)
    write_results(config, machine=machine, results=results)


def packed(sound: str, side: int, config: Config, folder: Path) -> Dataset:
    """An option's dataset; the videos are rendered for the first one."""
    clips = {"train": config.clips, "val": -(-config.clips // 4), "test": config.clips}
    planted = {**clips, "classes": config.classes, "seconds": config.seconds, "size": RENDERED_SIDE}
    recipe = load_recipe(
        "planted",
        {
            **{f"planted.{name}": value for name, value in planted.items()},
            "sample_rate_hz": PRESET.audio.sample_rate_hz,
            **overrides_of(f"{sound}-{side}"),
        },
    )
    workers = usable_cores()
    return pack(recipe, folder / "videos", out=folder / f"{sound}-{side}", workers=workers)


def trained(dataset: Dataset, config: Config, folder: Path) -> dict[str, list[Run]]:
    """By method the network of each seed's best epoch."""
    specs = parse_methods(["audio", "visual"])
    training = Training(
        dataset,
        clip_ids=select_clips(dataset, classes=(), fraction=1.0),
        specs=specs,
        seeds=range(config.seeds),
        preset=PRESET,
        config=TrainerConfig(epochs=config.epochs, batch_size=config.batch_size),
        optimizer=OPTIMIZER,
        engine=EngineConfig(),
        device=here(),
    )
    train(training, HeldFolder(folder), save_config=lambda path: path.write_text(""))
    checkpoints = HeldFolder(folder).checkpoints
    *_, newest = sorted(checkpoints.glob("epoch-*"))
    best = json.loads((newest / "manifest.json").read_text("utf-8"))["best"]
    runs: dict[str, list[Run]] = {spec.name: [] for spec in specs}
    for spec in specs:
        for seed in range(config.seeds):
            run = Run(
                spec,
                seed=seed,
                classes=config.classes,
                optimizer=OPTIMIZER,
                engine=EngineConfig(),
                device=here(),
                dtype=precision(),
                store=None,
            )
            (name,) = (name for name in best if name.startswith(f"{run.name}-epoch"))
            state = torch.load(checkpoints / "best" / name, map_location=here(), weights_only=True)
            run.engine.model.load_state_dict(state)
            runs[spec.name].append(run)
    return runs


def precision() -> torch.dtype:
    """What the trainer computes in here."""
    return getattr(torch, pick_precision("auto", here()))


def said_of(dataset: Dataset, run: Run, config: Config) -> Said:
    """What a network says of a dataset's test clips, by clip id."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    loader = Loader(
        dataset,
        dataset.clip_ids("test"),
        preset=PRESET,
        batch_size=config.batch_size,
        seed=0,
        training=False,
        modalities=run.method.modalities,
        device=here(),
    )
    with closing(loader), torch.no_grad(), SideBySide(threads=1, device=here()) as side_by_side:
        for batch in Passes(precision(), side_by_side, ()).batches(loader, [run]):
            probabilities = run.predict(batch).probabilities
            confidence = true_label_confidence(probabilities, batch.label)
            parts.append((probabilities.argmax(dim=1), confidence, batch.label))
    predicted, confidence, label = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return Said(predicted, confidence, label)


def compared(first: Said, other: Said) -> dict[str, float]:
    """Of an option, beside the one that the network was trained on."""
    return {
        "accuracy": float((other.predicted == other.label).mean()),
        "changed": float((other.predicted != first.predicted).mean()),
        "confidence_difference": float(np.abs(other.confidence - first.confidence).mean()),
    }


def table_of(results: list[dict[str, Any]], config: Config) -> Table:
    """A row an option, means over seeds."""
    title = (
        f"Networks trained at preset {PRESET.name} on {config.sounds[0]}, {config.sides[0]} px: {config.clips} clips "
        f"of {config.seconds:g} s, {config.classes} classes, {config.epochs} epochs, {config.seeds} seeds; tested on "
        f"{config.clips} clips as each option packs them; chance {1 / config.classes:.0%}"
    )
    table = Table(title=title, title_justify="left")
    for column in ("network", "packed", "accuracy", "predictions changed", "confidence, mean change"):
        table.add_column(column, justify="left" if column in ("network", "packed") else "right")
    for row in results:
        accuracy, changed, confidence = (
            statistics.fmean(seed[name] for seed in row["seeds"])
            for name in ("accuracy", "changed", "confidence_difference")
        )
        sound, side = row["option"]
        packed_as = sound if row["method"] == "audio" else f"{side} px"
        table.add_row(row["method"], packed_as, f"{accuracy:.1%}", f"{changed:.1%}", f"{confidence:.4f}")
    return table


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
