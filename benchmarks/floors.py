"""What does each stage cost a clip, and how far is the pipeline from the fastest code that does only one stage?

    python benchmarks/floors.py DATASET [--preset paper] [--json FILE]

`avbench bench loader` runs it too, and `avbench bench plan --from` reads its JSON. On one thread, CPU milliseconds a
clip, medians over rounds through all stages in turn:

* reading: the bytes of a clip that are used (its audio, and as many pictures as the preset takes), at the rate of
  reading shards from start to end in blocks of 4 MiB, their pages dropped from the page cache before (where the file
  system does that; a disk that caches by itself is faster than it is).
* checksum: XXH3-64 of those bytes.
* audio, FLAC and WAV, and the dataset's codec if that is neither, of the same samples: DALI's decoder in a graph of its
  own with one thread, and soundfile.
* spectrogram: windows, a real FFT (MKL's through torch, SciPy's) or torch's short-time one, logarithm.
* pictures: libjpeg-turbo, through simplejpeg, of JPEGs that hold the crop and nothing else (simplejpeg decodes no part
  of a picture), then torch's antialiased resize of 8-bit pixels, then scale and shift.
* pipeline: our Loader's CPU time, checksums included, and clips/s of wall time.
* step: one training step of each method on one synthetic batch that stays where it is, a clip: CPU time on a CPU, wall
  time between synchronizations on a GPU.

A stage's floor is the fastest that was measured for it. Pipeline over sum: the pipeline's CPU time as a multiple of the
sum of its stages' floors; 1 is the limit on one core.
Pipeline over maximum: its wall time a clip as a multiple of the costliest floor; 1 is the limit with a core a stage.
Both leave out the step, and a resampling, which no floor has. Below 1: the pipeline's code is faster than what was
taken for the fastest. Only presets whose sound is a short-time Fourier transform have a floor for spectrograms.

Answer: benchmarks/RESULTS.md.
"""

from __future__ import annotations

import io
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
import scipy.fft
import simplejpeg
import soundfile
import torch
import tyro
from methods import here, seconds_of, synthetic_batch
from nvidia.dali import pipeline_def
from rich.console import Console
from rich.table import Table

from avbench.batch import Clock
from avbench.benchmarking.results import run_script, write_results
from avbench.dataset import Dataset, checksum
from avbench.engine.config import OptimizerConfig
from avbench.engine.plain import Engine
from avbench.engine.precision import pick_precision
from avbench.errors import UsageError
from avbench.loading.loader import Loader
from avbench.loading.order import crop_boxes
from avbench.loading.presets import Preset, Stft, preset
from avbench.machine import describe, summary
from avbench.methods import METHODS
from avbench.methods.choice import parse_methods
from avbench.progress import tracked
from avbench.vocabulary import MODALITIES, Modality

BY_SOUNDFILE = ", soundfile"  # the name of a codec alone is DALI's decoder, which the pipeline has
CODECS = {"flac": "FLAC", "wav": "WAV"}
CASES: dict[str, tuple[Modality, ...]] = {"audio + visual": MODALITIES, "audio": ("audio",), "visual": ("visual",)}
# The loader's epoch has each clip so often: real ones have thousands of batches, beside which their start is nothing.
_TIMES_AN_EPOCH = 8
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class Config:
    """What to measure.

    dataset: a packed dataset. clips: of it, from the first on, repeated where it has fewer. steps: of each method;
    0 leaves training out. step_batch: clips a step. json: where to write the results.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    preset: str = "paper"
    clips: int = 64
    batch_size: int = 32
    rounds: int = 5
    steps: int = 3
    step_batch: int = 8
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print tables, write JSON."""
    torch.set_num_threads(1)
    chosen = preset(config.preset)
    if not isinstance(chosen.audio.transform, Stft):
        raise UsageError(f"--preset {config.preset}: its sound is no Fourier transform alone; take paper or tiny")
    dataset, machine = Dataset(config.dataset), describe()
    material = Material.of(dataset, chosen, config.clips)
    floors = measured_floors(material, config.rounds)
    pipelines = {name: loader_cost(dataset, chosen, modalities, config) for name, modalities in CASES.items()}
    costs = {
        "preset": config.preset,
        "audio_suffix": dataset.audio_suffix,
        "floor_cpu_seconds": floors,
        "reading_bytes_per_second": reading_rate(dataset),
        "picture_bytes": material.picture_bytes,
        "audio_bytes": material.audio_bytes,
        "pipeline": {
            case: {**cost, **limits(floors, dataset.audio_suffix, CASES[case])} for case, cost in pipelines.items()
        },
        "device": here().type,
        "steps": {text: step_seconds(text, config) for text in tracked(METHODS, "steps")} if config.steps else {},
    }
    console = Console()
    console.print(floor_table(costs))
    console.print(ratio_table(costs))
    if costs["steps"]:
        console.print(step_table(costs, config))
    console.print(summary(machine), soft_wrap=True)
    write_results(config, machine=machine, **costs)


@dataclass(frozen=True)
class Material:
    """Inputs of every stage for some clips: one element a clip.

    audio: encoded, by codec. waveforms: float32, of the preset's length. cut: JPEGs of the crops alone. crops: uint8.
    """

    preset: Preset
    audio: dict[str, list[bytes]]
    waveforms: list[np.ndarray]
    cut: list[bytes]
    crops: list[np.ndarray]
    picture_bytes: float

    @property
    def audio_bytes(self) -> dict[str, float]:
        """Mean size a clip, by codec."""
        return {codec: statistics.fmean(map(len, files)) for codec, files in self.audio.items()}

    @staticmethod
    def of(dataset: Dataset, preset: Preset, count: int) -> Material:
        """Decoded, cropped and encoded again from the dataset's first clips."""
        if "spectrogram" in dataset.description:
            raise UsageError(f"{dataset.path}: its sound is kept as a spectrogram; pack it with --audio-suffix flac")
        clip_ids = np.resize(np.arange(len(dataset)), count)
        audio: dict[str, list[bytes]] = {codec: [] for codec in CODECS}
        waveforms, cut, crops, sizes = [], [], [], []
        boxes = crop_boxes(
            clip_ids,
            dataset.widths[clip_ids],
            dataset.heights[clip_ids],
            seed=0,
            epoch=0,
            scale=preset.visual.scale,
            ratio=preset.visual.ratio,
        )
        for clip_id, box in zip(clip_ids.tolist(), boxes, strict=True):
            samples, rate = soundfile.read(io.BytesIO(dataset.audio_bytes(clip_id).tobytes()), dtype="int16")
            for codec, container in CODECS.items():
                audio[codec].append(_encoded(samples, rate, container))
            if dataset.audio_suffix not in CODECS:
                audio.setdefault(dataset.audio_suffix, []).append(dataset.audio_bytes(clip_id).tobytes())
            waveform = samples[: preset.audio.samples].astype(np.float32) / np.float32(32768)
            waveforms.append(np.pad(waveform, (0, preset.audio.samples - len(waveform))))
            jpeg = dataset.frame_bytes(clip_id, 0)
            left, top, width, height = map(int, box)
            crop = simplejpeg.decode_jpeg(jpeg)[top : top + height, left : left + width]
            crops += [crop.copy()] * preset.visual.frames
            cut += [simplejpeg.encode_jpeg(crops[-1], quality=90, colorsubsampling="420")] * preset.visual.frames
            sizes.append(len(jpeg) * preset.visual.frames)
        return Material(preset, audio, waveforms, cut, crops, statistics.fmean(sizes))


def _encoded(samples: np.ndarray, rate: int, container: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype="PCM_16")
    return file.getvalue()


def measured_floors(material: Material, rounds: int) -> dict[str, float]:
    """CPU seconds a clip of each stage, medians over rounds through all of them in turn."""
    stages = single_purpose(material)
    clips = len(material.waveforms)
    times: dict[str, list[float]] = {name: [] for name in stages}
    for number in range(rounds + 1):
        for name, stage in stages.items():
            started = time.process_time()
            stage()
            if number:  # the first warms up
                times[name].append((time.process_time() - started) / clips)
    return {name: statistics.median(values) for name, values in times.items()}


def single_purpose(material: Material) -> dict[str, Callable[[], None]]:
    """By stage, code that does nothing else, over all clips."""
    transform = material.preset.audio.transform
    assert isinstance(transform, Stft)
    size = (material.preset.visual.height, material.preset.visual.width)
    mean, deviation = (np.float32(1 / 2), np.float32(1 / 4))
    resized = [np.zeros((*size, 3), np.uint8)] * len(material.crops)
    buffer = np.empty((*size, 3), np.float32)
    window = torch.hann_window(transform.n_fft)
    weights = window.numpy()

    def torch_spectrogram(waveform: np.ndarray) -> None:
        spectrum = torch.stft(
            torch.from_numpy(waveform), transform.n_fft, transform.hop_length, window=window, return_complex=True
        )
        spectrum.abs().add_(1e-7).log_()

    def real_fft_spectrogram(waveform: np.ndarray) -> None:
        half = transform.n_fft // 2
        padded = torch.from_numpy(np.pad(waveform, half, mode="reflect"))
        windows = padded.unfold(0, transform.n_fft, transform.hop_length) * window
        parts = torch.view_as_real(torch.fft.rfft(windows))
        parts.square_()
        (parts[..., 0] + parts[..., 1]).sqrt_().add_(1e-7).log_()

    def scipy_spectrogram(waveform: np.ndarray) -> None:
        padded = np.pad(waveform, transform.n_fft // 2, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, transform.n_fft)[:: transform.hop_length] * weights
        magnitudes = np.abs(scipy.fft.rfft(windows, overwrite_x=True))
        magnitudes += np.float32(1e-7)
        np.log(magnitudes, out=magnitudes)

    def resize(crop: np.ndarray) -> None:
        picture = torch.from_numpy(crop).unsqueeze(0).permute(0, 3, 1, 2)
        torch.nn.functional.interpolate(picture, size, mode="bilinear", antialias=True)

    def normalize(picture: np.ndarray) -> None:
        np.multiply(picture, deviation, out=buffer)
        np.subtract(buffer, mean, out=buffer)

    def each(action: Callable[[Any], object], items: list[Any]) -> Callable[[], None]:
        def stage() -> None:
            for item in items:
                action(item)

        return stage

    return {
        "checksum of pictures": each(checksum, material.cut),
        **{f"checksum of {codec}": each(checksum, files) for codec, files in material.audio.items()},
        **{codec: decoding_by_dali(files) for codec, files in material.audio.items()},
        **{f"{codec}{BY_SOUNDFILE}": each(_decode, files) for codec, files in material.audio.items()},
        "real FFT spectrogram": each(real_fft_spectrogram, material.waveforms),
        "torch spectrogram": each(torch_spectrogram, material.waveforms),
        "SciPy spectrogram": each(scipy_spectrogram, material.waveforms),
        "JPEG": each(simplejpeg.decode_jpeg, material.cut),
        "resize": each(resize, material.crops),
        "normalize": each(normalize, resized),
    }


def decoding_by_dali(files: list[bytes]) -> Callable[[], None]:
    """DALI's decoder and nothing else, of all files as one batch in one thread."""
    arrays = [np.frombuffer(file, np.uint8) for file in files]

    @pipeline_def(batch_size=len(files), num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph() -> Any:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True)
        return fn.decoders.audio(encoded, dtype=types.FLOAT, downmix=True)[0]

    pipeline = graph()
    pipeline.build()

    def stage() -> None:
        pipeline.feed_input("encoded", arrays)
        pipeline.run()

    return stage


def _decode(encoded: bytes) -> None:
    soundfile.read(io.BytesIO(encoded), dtype="float32")


def reading_rate(dataset: Dataset) -> float:
    """Bytes a second of reading every shard from start to end."""
    buffer, total, started = bytearray(_BLOCK_BYTES), 0, time.perf_counter()
    for number in range(len(dataset.packed_shards)):
        with dataset.shard_path(number).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while count := file.readinto(buffer):
                total += count
    return total / (time.perf_counter() - started)


def loader_cost(dataset: Dataset, chosen: Preset, modalities: tuple[Modality, ...], config: Config) -> dict[str, float]:
    """CPU and wall seconds a clip of an epoch of our Loader, medians over rounds after one that is not counted."""
    clip_ids = np.resize(np.arange(len(dataset)), config.clips * _TIMES_AN_EPOCH)
    loader = Loader(
        dataset,
        clip_ids,
        preset=chosen,
        batch_size=config.batch_size,
        seed=0,
        training=True,
        modalities=modalities,
        device=here(),
    )
    cpu_seconds, wall_seconds = [], []
    for epoch in range(config.rounds + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in loader.epoch(epoch):
            pass
        cpu_seconds.append((time.process_time() - cpu) / len(clip_ids))
        wall_seconds.append((time.perf_counter() - wall) / len(clip_ids))
    loader.close()
    return {"cpu_seconds": statistics.median(cpu_seconds[1:]), "wall_seconds": statistics.median(wall_seconds[1:])}


def step_seconds(text: str, config: Config) -> float:
    """Of a method's training step, a clip; the median of `steps` after one that is not counted."""
    (spec,) = parse_methods([text])
    device = here()
    method = spec.method(spec.config, classes=309, seed=0)
    torch.manual_seed(0)
    dtype = getattr(torch, pick_precision("auto", device))
    engine = Engine(method.build_model(), optimizer=OptimizerConfig(), device=device, dtype=dtype)
    batch = synthetic_batch(config.preset, config.step_batch, device)
    times = []
    for number in range(config.steps + 1):
        times.append(seconds_of(lambda n=number: method.train_step(engine, batch, Clock(0, n, 1)), device))
    return statistics.median(times[1:]) / config.step_batch


def limits(floors: dict[str, float], codec: str, modalities: tuple[Modality, ...]) -> dict[str, Any]:
    """Sum and maximum of the floors of the stages that modalities need, CPU seconds a clip."""
    stages = {}
    if "audio" in modalities:
        stages["checksum of audio"] = floors[f"checksum of {codec}"]
        stages["decode audio"] = min(floors[codec], floors[f"{codec}{BY_SOUNDFILE}"])
        stages["spectrogram"] = min(floors[f"{name} spectrogram"] for name in ("real FFT", "torch", "SciPy"))
    if "visual" in modalities:
        stages |= {name: floors[name] for name in ("checksum of pictures", "JPEG", "resize", "normalize")}
    costliest = max(stages, key=stages.__getitem__)
    return {"floor_sum": sum(stages.values()), "floor_maximum": stages[costliest], "costliest_floor": costliest}


def floor_table(costs: dict[str, Any]) -> Table:
    """A row a floor."""
    table = Table(title=f"Floors, preset {costs['preset']}, one thread", title_justify="left")
    table.add_column("stage")
    table.add_column("CPU ms/clip", justify="right")
    table.add_column("bytes/clip", justify="right")
    sizes = {**costs["audio_bytes"], "JPEG": costs["picture_bytes"]}
    for name, seconds in costs["floor_cpu_seconds"].items():
        table.add_row(name, f"{1e3 * seconds:.2f}", f"{sizes[name]:,.0f}" if name in sizes else "")
    table.add_row("reading, a second", "", f"{costs['reading_bytes_per_second']:,.0f}")
    return table


def ratio_table(costs: dict[str, Any]) -> Table:
    """The pipeline beside its floors; a row a case."""
    table = Table(title=f"The pipeline and its floors, CPU ms a clip, {costs['audio_suffix']}", title_justify="left")
    for column in ("case", "CPU ms", "clips/s", "sum", "over sum", "costliest floor", "over maximum"):
        table.add_column(column, justify="left" if column in ("case", "costliest floor") else "right")
    for case, row in costs["pipeline"].items():
        table.add_row(
            case,
            f"{1e3 * row['cpu_seconds']:.2f}",
            f"{1 / row['wall_seconds']:.0f}",
            f"{1e3 * row['floor_sum']:.2f}",
            f"{row['cpu_seconds'] / row['floor_sum']:.2f}",
            f"{row['costliest_floor']}, {1e3 * row['floor_maximum']:.2f}",
            f"{row['wall_seconds'] / row['floor_maximum']:.2f}",
        )
    return table


def step_table(costs: dict[str, Any], config: Config) -> Table:
    """A row a method."""
    kind = "CPU" if costs["device"] == "cpu" else "wall"
    table = Table(title=f"A training step on a resident batch of {config.step_batch}, {costs['device']}")
    table.add_column("method")
    table.add_column(f"{kind} ms/clip", justify="right")
    for name, seconds in costs["steps"].items():
        table.add_row(name, f"{1e3 * seconds:.1f}")
    return table


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
