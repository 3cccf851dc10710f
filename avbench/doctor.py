"""What this machine has, and which path (GPU, CPU) each stage will take here. Everything is tried, nothing assumed."""

from __future__ import annotations

import io
import os
import resource
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pynvml
import simplejpeg
import soundfile
import torch
from rich.table import Table

from avbench.engine.precision import has_bfloat16
from avbench.errors import UsageError
from avbench.loading.gpu import check_driver, jpeg_engines, jpeg_text, why_unused
from avbench.loading.presets import PRESETS, AudioPreset, Preset
from avbench.machine import PACKAGES, usable_cores, versions

# soundfile's format and subtype for each codec that shards may hold.
_AUDIO_CODECS = {"flac": ("FLAC", "PCM_16"), "wav": ("WAV", "PCM_16"), "ogg": ("OGG", "VORBIS")}


@dataclass(frozen=True)
class Section:
    """Some facts under a title. name: of the section as JSON has it. rows: each a name and what was found."""

    name: str
    title: str
    rows: Sequence[tuple[str, str]]

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, title_justify="left", show_header=False, min_width=60)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table


def examine(path: Path) -> list[Section]:
    """Everything that was tried, in order. path: the folder whose free disk counts."""
    gpus = [*find_gpus(), *_driver()] or [("none", "no NVIDIA driver answers; everything runs on the CPU")]
    found = versions()
    said = [(name, found.get(name, "not installed")) for name in ("python", *PACKAGES)]
    return [
        Section("versions", "Versions", said),
        Section("machine", "Machine", _machine(path)),
        Section("gpus", "GPUs", gpus),
        Section("codecs", "DALI decodes here", [(name, try_codec(name)) for name in (*_AUDIO_CODECS, "jpeg")]),
        Section("paths", "What will run where", paths()),
        Section("presets", "Presets", [(name, _features(preset)) for name, preset in PRESETS.items()]),
        Section("exactness", "Spectrograms here beside their reference", differences()),
    ]


def find_gpus() -> list[tuple[str, str]]:
    """Name, memory and driver of each GPU that NVML sees."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    driver = pynvml.nvmlSystemGetDriverVersion()
    gpus = []
    for number in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30
        gpus.append((f"GPU {number}", f"{pynvml.nvmlDeviceGetName(handle)}, {memory:.0f} GiB, driver {driver}"))
    return gpus


def _driver() -> list[tuple[str, str]]:
    """What is wrong with it, if anything."""
    try:
        check_driver()
    except UsageError as error:
        return [("driver", str(error))]
    return []


def paths() -> list[tuple[str, str]]:
    """Which processor each stage takes here, and why."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    why = "" if cuda else f" ({_why_no_cuda()})"
    compute = "bfloat16" if has_bfloat16(device) else "float32 (this processor has no bf16 instructions)"
    return [
        ("pack: video decoding", "CPU (PyAV)"),
        ("load: audio decoding", "CPU (DALI decodes audio on the CPU only)"),
        ("load: spectrograms", f"{'GPU' if cuda else 'CPU'} (DALI){why}"),
        ("load: JPEG decoding", f"{f'GPU, nvJPEG {_engines()}' if cuda else 'CPU, libjpeg-turbo'} (DALI)"),
        ("train", f"{'GPU' if cuda else 'CPU'}, {compute}"),
        ("train: several ranks", "nccl" if cuda else "gloo"),
        ("deepspeed's extensions", "can be compiled" if shutil.which("c++") else "cannot be compiled: no C++ compiler"),
    ]


def differences() -> list[tuple[str, str]]:
    """By how much each preset's spectrogram differs from its reference, on each device that there is."""
    from avbench.loading.reference import largest_difference  # DALI and torchaudio

    devices = [torch.device("cpu"), *([torch.device("cuda", 0)] if torch.cuda.is_available() else [])]
    return [
        (name, ", ".join(_difference(largest_difference, preset, device) for device in devices))
        for name, preset in PRESETS.items()
    ]


def _difference(measure: Callable[[AudioPreset, torch.device], float], preset: Preset, device: torch.device) -> str:
    where = "GPU" if device.type == "cuda" else "CPU"
    try:
        return f"at most {measure(preset.audio, device):.1e} on the {where}"
    except RuntimeError as error:  # what DALI raises, whatever is wrong
        return f"not on the {where}: {str(error).strip().splitlines()[0]}"


def try_codec(name: str) -> str:
    """Decode a made-up clip of a codec with DALI, and say how it went."""
    devices = {"CPU": None, **({"GPU": 0} if name == "jpeg" and torch.cuda.is_available() else {})}
    answers = []
    for device, device_id in devices.items():
        try:
            _decode(name, device_id=device_id)
            answers.append(f"yes, on the {device}")
        except RuntimeError as error:  # what DALI raises, whatever is wrong
            answers.append(f"not on the {device}: {str(error).strip().splitlines()[0]}")
    return "; ".join(answers)


def _decode(name: str, *, device_id: int | None) -> None:
    from nvidia.dali import fn, pipeline_def, types  # its import takes a second that --help need not wait for

    @pipeline_def(batch_size=1, num_threads=1, device_id=device_id, prefetch_queue_depth=1)
    def graph() -> object:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8)
        if name == "jpeg":
            return fn.decoders.image(encoded, device="cpu" if device_id is None else "mixed")
        return fn.decoders.audio(encoded, downmix=False)[0]

    pipeline = graph()
    pipeline.build()
    pipeline.feed_input("encoded", [np.frombuffer(_encoded(name), np.uint8)])
    pipeline.run()


def _encoded(name: str) -> bytes:
    if name == "jpeg":
        return simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8))
    container, subtype = _AUDIO_CODECS[name]
    file = io.BytesIO()
    soundfile.write(file, np.zeros(4_800, np.int16), 48_000, format=container, subtype=subtype)
    return file.getvalue()


def _machine(path: Path) -> list[tuple[str, str]]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    nearest = next(parent for parent in (path.resolve(), *path.resolve().parents) if parent.exists())
    disk = shutil.disk_usage(nearest)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        ("cores", f"{usable_cores()} usable of {os.cpu_count()}"),
        ("memory", f"{memory / 2**30:.1f} GiB"),
        ("free disk", f"{disk.free / 2**30:.1f} of {disk.total / 2**30:.1f} GiB at {nearest}"),
        ("open files", f"{files} at most"),
    ]


def _engines() -> str:
    return jpeg_text(jpeg_engines(torch.device("cuda", 0)))


def _why_no_cuda() -> str:
    if why := why_unused():
        return why
    if not torch.backends.cuda.is_built():
        return "this torch was built without CUDA"
    return f"torch {torch.__version__} finds no GPU; it needs a driver for CUDA {torch.version.cuda}"


def _features(preset: Preset) -> str:
    bins, steps = preset.audio.shape
    audio = f"audio {preset.audio.seconds:g} s at {preset.audio.sample_rate_hz} Hz -> 1 x {bins} x {steps}"
    return f"{audio}; {preset.visual.frames} frame(s) of {preset.visual.height} x {preset.visual.width}"
