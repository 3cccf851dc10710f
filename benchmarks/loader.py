"""What does a clip cost, in CPU time, on its way from a packed dataset to tensors?

    python benchmarks/loader.py DATASET [--json FILE]              the comparison
    python benchmarks/loader.py DATASET --memory-epochs 20         growth of memory over epochs

DATASET is a packed dataset of clips of about ten seconds (its codec is the codec of all contenders). Contenders, each
with preset `paper`'s outputs in batches of 32 (a 257 x 1001 log-magnitude spectrogram; one random frame, random resized
crop to 224 x 224, flip, normalized):

* avbench: the Loader, checksums included.
* librosa + PIL: a torch DataLoader over one audio and ten JPEG files a clip, the way OGM-GE's published code reads
  VGG-Sound: librosa.load, librosa.stft, PIL, torchvision's transforms. It opens the one picture it has chosen.
* webdataset: WebDataset in a torch DataLoader over tar files, soundfile, torchaudio's Spectrogram, torchvision's JPEG
  decoder and its transforms on uint8 tensors. For one modality its tars hold only that modality.

Timed: one epoch, from the request for the first batch to the last batch as tensors in the consuming process. CPU time
is user and system time of the process, its threads and its children, the measure that other work on the machine moves
least. Not timed: starting workers, building pipelines and a first epoch, which warms the page cache. Contenders are
interleaved, round after round, and medians over the rounds are shown. Each has one worker (a process, or DALI's one
thread beside the loader's own).

Answer (2026-11-23; 20 real clips of 10 s, 48 kHz, 256 px, repeated to 96 an epoch; 5 rounds; both codecs at the same
time on a busy shared 2-core machine, spreads 11 to 67 %, so only the shares mean much, and they only roughly; CPU ms a
clip of avbench / librosa + PIL / webdataset):

* FLAC: both 10.1 / 19.2 / 18.4, share 0.55; audio 9.4 / 16.5 / 17.2, 0.57; visual 1.2 / 3.2 / 3.4, 0.38.
* WAV: both 5.6 / 12.8 / 12.8, share 0.44; audio 3.7 / 8.4 / 7.8, 0.47; visual 1.1 / 3.0 / 3.3, 0.36.
* Anonymous memory after epoch 20: WAV, 5 batches an epoch, -58 MB from epoch 1's 811 MB and -31 MB from epoch 2's (all
  epochs from 3 on within 45 MB of each other). FLAC, 3 batches an epoch, +46 MB from epoch 1's 702 MB and -2 MB from
  epoch 2's: the four buffers of a batch each are all in use only from the fourth batch on. Mapped files: +2.5 MB.
"""

from __future__ import annotations

import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, cast

import librosa
import numpy as np
import soundfile
import torch
import torchaudio
import tyro
import webdataset
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from avbench.batch import MODALITIES, Modality
from avbench.dataset import Dataset
from avbench.loading.features import PRESETS, Stft
from avbench.loading.loader import Loader

PRESET = PRESETS["paper"]
STFT = cast(Stft, PRESET.audio.transform)
LOG_OFFSET = cast(float, STFT.log_offset)
CASES: dict[str, tuple[Modality, ...]] = {"audio + visual": MODALITIES, "audio": ("audio",), "visual": ("visual",)}
# The requirement: our CPU time as a share of the better peer's.
ALLOWED = {"audio + visual": 0.6, "visual": 0.5}
# Fields of /proc/self/status.
RESIDENT = {"anonymous": "RssAnon", "file": "RssFile"}
PACKAGES = ("torch", "torchaudio", "torchvision", "nvidia-dali-cuda120", "librosa", "pillow", "webdataset", "soundfile")


@dataclass(frozen=True)
class Config:
    """What to measure.

    dataset: a packed dataset; its clips are repeated to make `clips` an epoch. json: where to write the results.
    memory_epochs: measure the growth of our memory over so many epochs, and nothing else.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    clips: int = 160
    batch_size: int = 32
    rounds: int = 5
    json: Path | None = None
    memory_epochs: int = 0


@dataclass(frozen=True)
class Measurement:
    """One epoch of one contender."""

    case: str
    contender: str
    clips: int
    wall_seconds: float
    cpu_seconds: float


def main(config: Config) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(1)
    dataset = Dataset(config.dataset)
    console = Console()
    if config.memory_epochs:
        results: Any = memory_growth(dataset, config)
        for name in RESIDENT:
            sizes = [size[name] / 1e6 for size in results]
            console.print(f"{name} memory after epoch 1 {sizes[0]:.0f} MB, then growth by epoch, MB:")
            console.print(" ".join(f"{size - sizes[0]:+.1f}" for size in sizes[1:]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            measured = list(measure(dataset, config, Path(folder)))
        console.print(table(measured, dataset))
        results = [asdict(measurement) for measurement in measured]
    if config.json:
        config.json.write_text(json.dumps({**about(config, dataset), "results": results}, indent=1), encoding="utf-8")


def measure(dataset: Dataset, config: Config, folder: Path) -> Iterator[Measurement]:
    """Every case and contender, `rounds` times, interleaved."""
    contenders = {
        (case, name): make(dataset, config, modalities, folder / f"{case} {name}")
        for case, modalities in CASES.items()
        for name, make in CONTENDERS.items()
    }
    for epoch in contenders.values():
        consume(epoch())
    for _ in track(range(config.rounds), "rounds", console=Console(stderr=True)):
        for (case, name), epoch in contenders.items():
            cpu, wall = cpu_seconds(), time.perf_counter()
            clips = consume(epoch())
            yield Measurement(case, name, clips, time.perf_counter() - wall, cpu_seconds() - cpu)


def consume(batches: Iterable[tuple[Tensor | None, Tensor | None]]) -> int:
    """Go through the batches, looking at each; returns the number of clips."""
    clips = 0
    for audio, frames in batches:
        present = [tensor for tensor in (audio, frames) if tensor is not None]
        assert all(bool(torch.isfinite(tensor[0]).all()) for tensor in present)
        clips += len(present[0])
    return clips


def cpu_seconds() -> float:
    """User and system time of this process and of its living children, all their threads."""
    total = time.process_time()
    for file in Path("/proc/self/task").glob("*/children"):
        for pid in file.read_text().split():
            # Nanoseconds on a processor; /proc/PID/stat has ticks of 10 ms only.
            for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                total += 1e-9 * int(thread.read_text().split()[0])
    return total


def tiled(dataset: Dataset, count: int) -> np.ndarray:
    """Clip ids of all splits, repeated to the wanted number."""
    return np.resize(np.arange(len(dataset)), count)


Epoch = Callable[[], Iterator[tuple[Tensor | None, Tensor | None]]]


def avbench_loader(dataset: Dataset, config: Config, modalities: tuple[Modality, ...], _: Path) -> Epoch:
    """Our own."""
    loader = Loader(
        dataset,
        tiled(dataset, config.clips),
        preset=PRESET,
        batch_size=config.batch_size,
        seed=0,
        training=True,
        modalities=modalities,
    )
    epochs = iter(range(1_000_000))

    def epoch() -> Iterator[tuple[Tensor | None, Tensor | None]]:
        for batch in loader.epoch(next(epochs)):
            yield batch.audio, batch.frames

    return epoch


def fitted(samples: np.ndarray) -> np.ndarray:
    """Cut or zero-padded to the preset's length."""
    return np.pad(samples[: PRESET.audio.samples], (0, max(0, PRESET.audio.samples - len(samples))))


class ClipFiles(TorchDataset):
    """One audio file and a folder of pictures a clip, read with librosa and PIL."""

    def __init__(self, folder: Path, keys: list[str], suffix: str, modalities: tuple[Modality, ...]) -> None:
        self.folder = folder
        self.keys = keys
        self.suffix = suffix
        self.modalities = modalities
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(PRESET.visual.height),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(PRESET.visual.mean, PRESET.visual.deviation, inplace=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        key, item = self.keys[number], {}
        if "audio" in self.modalities:
            item["audio"] = self.spectrogram(self.folder / f"{key}.{self.suffix}")
        if "visual" in self.modalities:
            pictures = sorted((self.folder / key).iterdir())
            chosen = pictures[int(torch.randint(len(pictures), ()))]
            item["frames"] = self.transform(Image.open(chosen).convert("RGB"))
        return item

    def spectrogram(self, path: Path) -> Tensor:
        """[1, F, T]."""
        samples, _ = librosa.load(path, sr=None)
        samples = fitted(samples)
        magnitudes = np.abs(librosa.stft(samples, n_fft=STFT.n_fft, hop_length=STFT.hop_length, pad_mode="reflect"))
        return torch.from_numpy(np.log(magnitudes + np.float32(LOG_OFFSET)))[None]


def librosa_and_pil(dataset: Dataset, config: Config, modalities: tuple[Modality, ...], folder: Path) -> Epoch:
    """Files of the dataset's own bytes, and a DataLoader over them."""
    for clip_id in range(len(dataset)):
        key = dataset.key(clip_id)
        (folder / key).mkdir(parents=True)
        (folder / f"{key}.{dataset.audio_suffix}").write_bytes(dataset.audio_bytes(clip_id).tobytes())
        for frame in range(int(dataset.frame_counts(np.array([clip_id]))[0])):
            (folder / key / f"{frame:03d}.jpg").write_bytes(dataset.frame_bytes(clip_id, frame).tobytes())
    keys = [dataset.key(clip_id) for clip_id in tiled(dataset, config.clips)]
    files = ClipFiles(folder, keys, dataset.audio_suffix, modalities)
    loader = DataLoader(files, config.batch_size, shuffle=True, num_workers=1, persistent_workers=True)
    return lambda: ((item.get("audio"), item.get("frames")) for item in loader)


class DecodeSample:
    """A WebDataset sample as tensors: soundfile and torchaudio, torchvision's JPEG decoder and transforms."""

    def __init__(self, suffix: str) -> None:
        visual = PRESET.visual
        self.suffix = suffix
        self.spectrogram = torchaudio.transforms.Spectrogram(STFT.n_fft, hop_length=STFT.hop_length, power=1.0)
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop((visual.height, visual.width), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(visual.mean, visual.deviation, inplace=True),
            ]
        )

    def __call__(self, sample: dict[str, Any]) -> dict[str, Tensor]:
        """A sample's tensors: what it holds is what is wanted."""
        item = {}
        if self.suffix in sample:
            samples, _ = soundfile.read(io.BytesIO(sample[self.suffix]), dtype="float32")
            power = self.spectrogram(torch.from_numpy(fitted(samples)))
            item["audio"] = power.add_(LOG_OFFSET).log_()[None]
        pictures = sorted(name for name in sample if name.endswith(".jpg"))
        if pictures:
            chosen = sample[pictures[int(torch.randint(len(pictures), ()))]]
            encoded = torch.frombuffer(bytearray(chosen), dtype=torch.uint8)
            item["frames"] = self.transform(decode_jpeg(encoded, mode=ImageReadMode.RGB))
        return item


def webdataset_and_torchaudio(
    dataset: Dataset, config: Config, modalities: tuple[Modality, ...], folder: Path
) -> Epoch:
    """Tars of the dataset's own bytes, each with only the wanted modalities, and a DataLoader over them."""
    folder.mkdir(parents=True)
    with webdataset.TarWriter(str(folder / "clips.tar")) as tar:
        for number, clip_id in enumerate(tiled(dataset, config.clips)):
            sample: dict[str, Any] = {"__key__": f"{number:06d}"}
            if "audio" in modalities:
                sample[dataset.audio_suffix] = dataset.audio_bytes(clip_id).tobytes()
            if "visual" in modalities:
                for frame in range(int(dataset.frame_counts(np.array([clip_id]))[0])):
                    sample[f"{frame:03d}.jpg"] = dataset.frame_bytes(clip_id, frame).tobytes()
            tar.write(sample)
    clips = webdataset.WebDataset(str(folder / "clips.tar"), shardshuffle=False, empty_check=False)
    decoded = clips.shuffle(100).map(DecodeSample(dataset.audio_suffix))
    loader = DataLoader(decoded, config.batch_size, num_workers=1, persistent_workers=True)
    return lambda: ((item.get("audio"), item.get("frames")) for item in loader)


CONTENDERS: dict[str, Callable[[Dataset, Config, tuple[Modality, ...], Path], Epoch]] = {
    "avbench": avbench_loader,
    "librosa + PIL": librosa_and_pil,
    "webdataset": webdataset_and_torchaudio,
}


def median(measured: list[Measurement], case: str, contender: str) -> tuple[float, float, float]:
    """CPU milliseconds a clip, their spread (half the range, as a share), and clips/s of wall time."""
    chosen = [one for one in measured if (one.case, one.contender) == (case, contender)]
    costs = [1e3 * one.cpu_seconds / one.clips for one in chosen]
    cost = statistics.median(costs)
    speed = statistics.median(one.clips / one.wall_seconds for one in chosen)
    return cost, (max(costs) - min(costs)) / 2 / max(cost, 1e-9), speed


def table(measured: list[Measurement], dataset: Dataset) -> Table:
    """A row a case and contender; ours with its share of the better peer's CPU time."""
    result = Table(title=f"{dataset.audio_suffix}, preset {PRESET.name}, medians")
    for column in ("case", "contender", "CPU ms/clip", "spread", "clips/s", "share of the better peer", "allowed"):
        result.add_column(column, justify="left" if column in ("case", "contender") else "right")
    for case in CASES:
        costs = {name: median(measured, case, name) for name in CONTENDERS}
        better = min(cost for name, (cost, _, _) in costs.items() if name != "avbench")
        for name, (cost, spread, speed) in costs.items():
            share, allowed = "", ""
            if name == "avbench":
                share, allowed = f"{cost / better:.2f}", str(ALLOWED.get(case, ""))
            result.add_row(case, name, f"{cost:.2f}", f"{spread:.0%}", f"{speed:.0f}", share, allowed)
    return result


def memory_growth(dataset: Dataset, config: Config) -> list[dict[str, int]]:
    """Resident bytes of this process after each epoch of our loader, both modalities.

    anonymous: its own memory. file: pages of mapped files (libraries, shards), which the page cache shares out and
    takes back as it likes.
    """
    epoch = avbench_loader(dataset, config, MODALITIES, Path())
    sizes = []
    for _ in track(range(config.memory_epochs), "epochs", console=Console(stderr=True)):
        consume(epoch())
        fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        sizes.append({name: 1024 * int(fields[field].split()[0]) for name, field in RESIDENT.items()})
    return sizes


def about(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What a result means nothing without."""
    return {
        "config": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()},
        "clips_of_dataset": len(dataset),
        "audio_suffix": dataset.audio_suffix,
        "preset": PRESET.name,
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    main(tyro.cli(Config))
