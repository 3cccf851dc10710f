"""Does it run: `doctor`, every preset and modality, a step of every method, a training with its report."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from methods import synchronize
from rich.console import Console

from avbench.cli import main as avbench
from avbench.doctor import examine
from avbench.loading.presets import preset
from avbench.loading.stored_spectrogram import spectrogram_of
from avbench.vocabulary import MODALITIES, Modality
from gpu_answers import Row
from gpu_answers.setting import Setting


def rows(setting: Setting) -> Iterator[Row]:
    """`smoke`."""
    yield Row("smoke", "doctor", 8, partial(doctor, setting))
    yield Row("smoke", "clips packed", 40, partial(packed, setting))
    for name in setting.config.presets:
        for modalities in (MODALITIES, ("audio",), ("visual",)):
            words = f"{name}, {' and '.join(modalities)}"
            yield Row("smoke", words, 3, partial(one_batch, setting, "flac", name, modalities))
    if "stft" in setting.codecs:
        yield Row("smoke", f"{setting.config.preset}, kept spectrograms", 6, partial(kept_batch, setting))
    for spec in setting.specs:
        for precision in setting.precisions:
            row = partial(one_step, setting, spec.name, precision)
            yield Row("smoke", f"a step of {spec.name}, {precision}", 2, row)
    yield Row("smoke", "train, evaluate", 30, partial(whole, setting))


def doctor(setting: Setting) -> list[str]:
    """What `avbench doctor` says, by line."""
    console = Console(width=160, file=io.StringIO())
    with console.capture() as said:
        console.print(examine(setting.folder))
    return [line.rstrip() for line in said.get().splitlines() if line.strip()]


def packed(setting: Setting) -> dict[str, int]:
    """Clips by codec."""
    return {codec: len(setting.dataset(codec)) for codec in ("flac", "wav")}


def one_batch(setting: Setting, codec: str, preset_name: str, modalities: tuple[Modality, ...]) -> dict[str, Any]:
    """Shapes of the first batch, whose numbers are all finite."""
    loader = setting.loader(codec, preset_name=preset_name, modalities=modalities)
    try:
        batch = next(loader.epoch(0))
    finally:
        loader.close()
    found: dict[str, Any] = {}
    for name, tensor in (("audio", batch.audio), ("frames", batch.frames)):
        if tensor is not None:
            if tensor.device.type != setting.device.type or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} is on {tensor.device} or not finite")
            found[name] = f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")
    return found


def kept_batch(setting: Setting) -> dict[str, Any]:
    """As `one_batch`, of clips whose sound is kept as the preset's spectrogram."""
    assert spectrogram_of(setting.dataset("stft"), preset(setting.config.preset)) is not None
    return one_batch(setting, "stft", setting.config.preset, MODALITIES)


def one_step(setting: Setting, method: str, precision: str) -> str:
    """That a step is taken."""
    setting.step(method, precision=precision)()
    synchronize(setting.device)
    return "done"


def whole(setting: Setting) -> dict[str, Any]:
    """A short training by the commands that users type, and which files the report consists of."""
    run = setting.folder / "whole"
    words = ["--methods", "audio,visual,ogm-ge", "--preset", "tiny", "--epochs", "1", "--batch-size", "16"]
    avbench(["train", str(setting.dataset("flac").path), "--out", str(run), *words])
    avbench(["evaluate", str(run)])
    written = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    return {"predictions": sum(name.startswith("predictions") for name in written), "files": len(written)}
