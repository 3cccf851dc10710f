"""What does each option of packing cost, in bytes, CPU time and accuracy, so that one can be chosen?

    python benchmarks/packing_options.py [--media VIDEOS] [--json FILE]

VIDEOS is a folder as `avbench pack folder` takes it; without it, made-up clips are rendered first. They are packed once
for each of `options`: sound as flac, wav, ogg or stft (the spectrogram of preset `paper`, in bytes), and the shorter
side of the pictures. The first option is the one that the others are compared with.

Bytes: of the shards, divided by the clips; a clip's sound; a clip's pictures. CPU time: one epoch of the Loader, preset
`paper`, random crops, checksums included, from the request for the first batch to the last batch; user and system time
of the process, the measure that other work on the machine moves least. Not timed: packing, and a first epoch, which
builds the pipelines, warms the page cache and, with four batches or more, touches the four buffers that batches go
into. Options are interleaved, round after round; medians are shown, and as spread the largest half range of the three,
as a share. Accuracy: absolute differences from the first option's batches, same clips, frames, crops and
flips: of spectrograms in units of the natural logarithm, of pictures in levels of 0 to 255. Crops are whole pixels, so
those of pictures of another size differ by up to one. "heard" is the maximum over values above the noise of rounding
sound to 16 bits: below it the live spectrogram is itself mostly rounding.

Answer: benchmarks/README.md.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from avbench.arguments import comma_list
from avbench.benchmarking.data import made_up
from avbench.benchmarking.results import run_script, write_results
from avbench.dataset import Dataset
from avbench.errors import UsageError
from avbench.loading.loader import Loader
from avbench.loading.presets import preset
from avbench.loading.stored_spectrogram import stored_spectrogram
from avbench.machine import describe, summary, usable_cores
from avbench.packing.pack import pack
from avbench.packing.recipes.reading import load_recipe
from avbench.progress import tracked
from avbench.vocabulary import MODALITIES, Modality

PRESET = preset("paper")
CASES: dict[str, tuple[Modality, ...]] = {"both": MODALITIES, "audio": ("audio",), "visual": ("visual",)}
# Logarithm of the STFT magnitude that white noise of 16 bits' rounding has: deviation 2**-15 / sqrt(12), Hann window.
ROUNDING = math.log(2**-15 / math.sqrt(12) * math.sqrt(3 / 8 * PRESET.audio.transform.n_fft))


@dataclass(frozen=True)
class Config:
    """What to measure.

    media: a folder of videos; made-up ones where None. options: sound and shorter side of each dataset. clips: in an
    epoch; the dataset's are repeated to make so many. json: where to write the results.
    """

    media: Path | None = None
    options: Annotated[tuple[str, ...], comma_list(str, "flac-256,stft-224")] = (
        "flac-256",
        "wav-256",
        "ogg-256",
        "stft-256",
        "flac-224",
        "stft-224",
    )
    clips: int = 160
    batch_size: int = 32
    rounds: int = 5
    json: Path | None = None


@dataclass(frozen=True)
class Difference:
    """Absolute differences from the first option: means, and largest ones.

    heard: the largest of a spectrogram where it is above the noise of 16 bits.
    """

    spectrogram_mean: float
    spectrogram_max: float
    spectrogram_heard: float
    picture_mean: float
    picture_max: float


def main(config: Config) -> None:
    """Pack, measure, print tables, write JSON."""
    torch.set_num_threads(1)
    overrides = {option: overrides_of(option) for option in config.options}
    if not overrides:
        raise UsageError("--options is empty; name some, flac-256 say")
    with tempfile.TemporaryDirectory() as folder:
        media = config.media or made_up(Path(folder) / "made-up", quick=False).media
        assert media is not None
        datasets = {}
        for option in tracked(overrides, "packing"):
            recipe = load_recipe("folder", overrides[option])
            workers = usable_cores()
            datasets[option] = pack(recipe, media, out=Path(folder) / option, workers=workers)
        machine = describe()
        costs = measure(datasets, config)
        first, *_ = datasets.values()
        results = [
            {
                "option": option,
                **sizes(dataset),
                "cpu_seconds": costs[option],
                "difference": asdict(difference(first, dataset)),
            }
            for option, dataset in datasets.items()
        ]
        finer = 1 - range_used(first)
    console = Console()
    console.print(costs_table(results, config))
    console.print(differences_table(results))
    console.print(f"A scale of its own for each clip would make stft's steps {finer:.0%} finer.")
    console.print(summary(machine), soft_wrap=True)
    write_results(config, machine=machine, clips_of_dataset=len(first), results=results, scale_a_clip_finer=finer)


def overrides_of(option: str) -> dict[str, object]:
    """Fields of the recipe for an option like flac-256."""
    suffix, _, short_side = option.partition("-")
    if not short_side.isdecimal():
        raise UsageError(f"--options: {option!r} is no sound and shorter side; expected flac-256, say")
    stft = {"stft_preset": PRESET.name} if suffix == "stft" else {}
    return {"audio_suffix": suffix, "short_side": int(short_side), **stft}


def measure(datasets: dict[str, Dataset], config: Config) -> dict[str, dict[str, list[float]]]:
    """CPU seconds a clip: by option and case, one of each round."""
    costs: dict[str, dict[str, list[float]]] = {option: {case: [] for case in CASES} for option in datasets}
    for case, modalities in CASES.items():
        loaders = {
            option: loader_of(
                dataset, np.resize(np.arange(len(dataset)), config.clips), config.batch_size, modalities=modalities
            )
            for option, dataset in datasets.items()
        }
        for number in tracked(range(config.rounds + 1), f"rounds, {case}"):
            for option, loader in loaders.items():
                before = time.process_time()
                for _ in loader.epoch(number):
                    pass
                if number:  # not the one that warms up
                    costs[option][case].append((time.process_time() - before) / config.clips)
        for loader in loaders.values():
            loader.close()
    return costs


def loader_of(
    dataset: Dataset, clip_ids: np.ndarray, batch_size: int, *, modalities: Sequence[Modality] = MODALITIES
) -> Loader:
    """As a training has it."""
    return Loader(dataset, clip_ids, preset=PRESET, batch_size=batch_size, seed=0, training=True, modalities=modalities)


def sizes(dataset: Dataset) -> dict[str, float]:
    """Mean bytes a clip: of the shards, of sound, of pictures."""
    shards = sum(dataset.packed_shards.size_bytes)
    return {
        "bytes": shards / len(dataset),
        "audio_bytes": float(dataset.audio_sizes.mean()),
        "picture_bytes": float(dataset.frames.size.sum()) / len(dataset),
    }


def difference(first: Dataset, other: Dataset) -> Difference:
    """Of every clip's training batch, once."""
    deviation = torch.tensor(PRESET.visual.deviation).view(3, 1, 1)
    spectrograms, largest, heard, pictures, largest_picture = [], 0.0, 0.0, [], 0.0
    for (audio, frames), (other_audio, other_frames) in zip(_clips(first), _clips(other), strict=True):
        gap = (audio - other_audio).abs()
        spectrograms.append(float(gap.mean()))
        largest = max(largest, float(gap.max()))
        heard = max(heard, float(torch.where(audio > ROUNDING, gap, 0.0).max()))
        levels = 255 * deviation * (frames - other_frames).abs()
        pictures.append(float(levels.mean()))
        largest_picture = max(largest_picture, float(levels.max()))
    means = statistics.fmean(spectrograms), statistics.fmean(pictures)
    return Difference(means[0], largest, heard, means[1], largest_picture)


def _clips(dataset: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Audio and frames of one clip after the other."""
    for batch in loader_of(dataset, np.arange(len(dataset)), 8).epoch(0):
        assert batch.audio is not None
        assert batch.frames is not None
        assert batch.valid.all()
        yield from zip(batch.audio, batch.frames, strict=True)


def range_used(dataset: Dataset) -> float:
    """Mean share of the stored spectrogram's range between a clip's softest and loudest value."""
    stored = stored_spectrogram(PRESET)
    return statistics.fmean(float(audio.max() - audio.min()) / (255 * stored.step) for audio, _ in _clips(dataset))


def costs_table(results: Sequence[dict[str, Any]], config: Config) -> Table:
    """A row an option: bytes and CPU time."""
    rounds = f"{config.rounds} rounds of {config.clips} clips"
    result = Table(
        title=f"Packing options: kB a clip, and CPU ms a clip of the Loader ({rounds})", title_justify="left"
    )
    result.add_column("option")
    for column in ("kB", "sound", "pictures", *CASES, "spread"):
        result.add_column(column, justify="right")
    for row in results:
        kilobytes = [f"{row[name] / 1e3:.0f}" for name in ("bytes", "audio_bytes", "picture_bytes")]
        rounds_of = [[1e3 * seconds for seconds in row["cpu_seconds"][case]] for case in CASES]
        middles = [statistics.median(costs) for costs in rounds_of]
        spread = max((max(costs) - min(costs)) / 2 / middle for costs, middle in zip(rounds_of, middles, strict=True))
        result.add_row(row["option"], *kilobytes, *(f"{middle:.2f}" for middle in middles), f"{spread:.0%}")
    return result


def differences_table(results: Sequence[dict[str, Any]]) -> Table:
    """A row an option: accuracy."""
    title = f"Absolute differences from {results[0]['option']}: of log-magnitudes, and of pixels of 0 to 255"
    result = Table(title=title, title_justify="left")
    result.add_column("option")
    for column in ("spectrogram, mean", "heard", "max", "pixels, mean", "max"):
        result.add_column(column, justify="right")
    for row in results:
        gap = Difference(**row["difference"])
        logs = (f"{gap.spectrogram_mean:.3f}", f"{gap.spectrogram_heard:.3f}", f"{gap.spectrogram_max:.2f}")
        result.add_row(row["option"], *logs, f"{gap.picture_mean:.2f}", f"{gap.picture_max:.0f}")
    return result


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
