"""What does an option of packing cost a trained network in accuracy?

    python benchmarks/packing_accuracy.py [--sounds flac,ogg,stft] [--sides 256,224] [--seeds 2] [--json FILE]

Made-up clips of ten seconds in VGG-Sound's format (`avbench pack planted`, 48 kHz, 256 px) are rendered once and packed
once for each option; wav is left out, since it holds flac's samples bit for bit. At preset `paper` the trainer of
`avbench train` then trains `audio` for each kind of sound and `visual` for each shorter side of the pictures, from
scratch, with the same order, crops and seeds for every option, by the demo's optimizer. Test accuracy is that of the
best epoch by validation, as everywhere; shown are its mean over seeds, and the smallest and largest. Two numbers differ
by chance by what the seeds differ, and by about 1.4 times the standard error that one accuracy over so many test clips
has.

Answer: benchmarks/README.md.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from methods import here
from rich.console import Console
from rich.progress import track
from rich.table import Table

from avbench.arguments import comma_list
from avbench.bench.machine import describe, summary
from avbench.bench.scripts import run_script
from avbench.dataset import Dataset
from avbench.engine import EngineConfig, OptimizerConfig
from avbench.errors import UsageError
from avbench.loading.features import preset
from avbench.methods import parse_methods
from avbench.packing.pack import pack
from avbench.packing.recipes import load_recipe
from avbench.records import read_table
from avbench.training.folder import RunFolder
from avbench.training.trainer import TrainerConfig, select_clips, train

PRESET = preset("paper")
# The demo's, launch/demo.toml.
OPTIMIZER = OptimizerConfig(learning_rate=0.006, schedule="one-cycle", warmup=0.25)
KEPT_SIDE = 256  # of the pictures where sound is what differs


@dataclass(frozen=True)
class Config:
    """What to measure.

    sounds, sides: the options, each list beside its first. clips: of train; test has as many, val a quarter. json:
    where to write the results.
    """

    sounds: Annotated[tuple[str, ...], comma_list(str, "flac,stft")] = ("flac", "ogg", "stft")
    sides: Annotated[tuple[int, ...], comma_list(int, "256,224")] = (256, 224)
    seeds: int = 2
    clips: int = 240
    seconds: float = 10.0
    classes: int = 5
    epochs: int = 5
    batch_size: int = 8
    json: Path | None = None


@dataclass(frozen=True)
class Option:
    """A dataset and the network that is trained on what differs in it."""

    method: str
    sound: str
    side: int

    @property
    def name(self) -> str:
        """What differs."""
        return self.sound if self.method == "audio" else f"{self.side} px"


def main(config: Config) -> None:
    """Render, pack, train, print a table, write JSON."""
    if config.seeds < 1 or not config.sounds:
        raise UsageError("--seeds and --sounds: expected one or more")
    machine = describe()
    options = list(options_of(config))
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for number, option in enumerate(track(options, "options", console=Console(stderr=True))):
            dataset = packed(option, config, Path(folder), number)
            accuracies = test_accuracies(option, dataset, config, Path(folder) / f"run-{number}")
            results.append({"option": asdict(option), "name": option.name, "accuracies": accuracies})
    console = Console()
    console.print(table_of(results, config))
    console.print(summary(machine), soft_wrap=True)
    if config.json:
        about = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
        record = {"machine": machine, "config": about, "results": results}
        config.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


def options_of(config: Config) -> Iterator[Option]:
    """Each kind of sound with one size of pictures, each size with the first kind of sound."""
    yield from (Option("audio", sound, KEPT_SIDE) for sound in config.sounds)
    yield from (Option("visual", config.sounds[0], side) for side in config.sides)


def packed(option: Option, config: Config, folder: Path, number: int) -> Dataset:
    """The option's dataset; the videos are rendered for the first one."""
    clips = {"train": config.clips, "val": -(-config.clips // 4), "test": config.clips}
    planted = {**clips, "classes": config.classes, "seconds": config.seconds, "size": KEPT_SIDE}
    stft = {"stft_preset": PRESET.name} if option.sound == "stft" else {}
    recipe = load_recipe(
        "planted",
        {
            **{f"planted.{name}": value for name, value in planted.items()},
            "sample_rate_hz": PRESET.audio.sample_rate_hz,
            "audio_suffix": option.sound,
            "short_side": option.side,
            **stft,
        },
    )
    workers = len(os.sched_getaffinity(0))
    return pack(recipe, folder / "videos", out=folder / f"dataset-{number}", workers=workers)


def test_accuracies(option: Option, dataset: Dataset, config: Config, folder: Path) -> list[float]:
    """Of each seed's network."""
    run, specs = RunFolder(folder), parse_methods([option.method])
    train(
        dataset,
        clip_ids=select_clips(dataset, classes=(), fraction=1.0),
        specs=specs,
        seeds=range(config.seeds),
        preset=PRESET,
        config=TrainerConfig(epochs=config.epochs, batch_size=config.batch_size),
        optimizer=OPTIMIZER,
        engine=EngineConfig(),
        folder=run,
        device=here(),
        save_config=lambda path: path.write_text(""),
    )
    accuracies = []
    for seed in range(config.seeds):
        table = read_table(run.prediction_file(option.method, seed, "test"))
        said = np.stack(table["probabilities"].to_numpy()).argmax(axis=1)
        accuracies.append(float((said == table["label"].to_numpy()).mean()))
    return accuracies


def table_of(results: list[dict[str, Any]], config: Config) -> Table:
    """A row an option."""
    title = (
        f"Test accuracy at preset {PRESET.name}: {config.clips} clips of {config.classes} classes to train on, as many "
        f"to test, {config.epochs} epochs, {config.seeds} seeds; chance {1 / config.classes:.0%}"
    )
    table = Table(title=title, title_justify="left")
    for column in ("network", "packed", "accuracy", "of the seeds", "standard error", "from the first"):
        table.add_column(column, justify="left" if column in ("network", "packed") else "right")
    firsts: dict[str, float] = {}
    for row in results:
        method, accuracies = row["option"]["method"], row["accuracies"]
        mean = statistics.fmean(accuracies)
        first = firsts.setdefault(method, mean)
        table.add_row(
            method,
            row["name"],
            f"{mean:.1%}",
            f"{min(accuracies):.1%} to {max(accuracies):.1%}",
            f"{math.sqrt(mean * (1 - mean) / config.clips):.1%}",
            "" if first is mean else f"{100 * (mean - first):+.1f}",
        )
    return table


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
