"""What all questions share: sizes, clips packed once, loaders and steps as `avbench train` makes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from methods import ALL, synchronize, synthetic_batch
from step import run_of

from avbench.batch import Batch
from avbench.dataset import Dataset
from avbench.distributed import World
from avbench.engine.config import EngineConfig
from avbench.engine.precision import pick_precision
from avbench.errors import UsageError
from avbench.loading.gpu import JPEG_ENGINE_SHARE
from avbench.loading.loader import Loader
from avbench.loading.presets import PRESETS, preset
from avbench.loading.stored_spectrogram import stored_spectrogram
from avbench.methods.choice import RunSpec, parse_methods
from avbench.packing.pack import pack
from avbench.packing.recipes.reading import load_recipe
from avbench.training.decoding import cores_of_a_rank, pick_loader_dtype
from avbench.training.passes import prepare
from avbench.vocabulary import MODALITIES, Modality

_PLAIN = EngineConfig()


@dataclass(frozen=True)
class Config:
    """What to measure. The defaults are for one H100 and seven minutes."""

    device: Literal["cuda", "cpu"] = "cuda"
    """cpu: only to see that everything runs; its numbers say nothing."""
    only: str = ""
    """Answers to find, by name and with commas between; all where none is named."""
    minutes: float = 7.0
    """What would not be done by then is not begun, and listed."""
    json: Path | None = None
    """Where to write the results; written anew after every row."""
    trace: Path | None = None
    """Where to write the profile's trace, compressed by gzip."""
    preset: str = "paper"
    """Of all but what asks for every preset."""
    presets: tuple[str, ...] = tuple(PRESETS)
    methods: str = ALL
    clips: int = 96
    """To render and to pack, of train."""
    clip_seconds: float = 10.0
    batch_size: int = 64
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Of the steps that are timed by the size of the batch."""
    largest: int = 4096
    """A batch that does not fit into the GPU's memory."""
    seconds: float = 1.5
    """Of each measurement of a rate."""
    block: int = 10
    """Steps launched before the clock waits for the GPU."""
    epoch_clips: int = 2048
    """That the clips are repeated to in training."""
    workers: int = 16
    """Processes of the DataLoader that feeds the plain loop."""


class Setting:
    """folder: for what is packed and trained; everything in it is made when it is first asked for."""

    def __init__(self, config: Config, device: torch.device, folder: Path) -> None:
        self.config, self.device, self.folder = config, device, folder
        self.precision = pick_precision("auto", device)
        self.precisions: tuple[str, ...] = tuple(dict.fromkeys((self.precision, "float32")))
        self.dtype: torch.dtype = getattr(torch, self.precision)
        self.loader_dtype = pick_loader_dtype("auto", computed_in=self.dtype, device=device)
        self._datasets: dict[str, Dataset | Exception] = {}

    @property
    def codecs(self) -> tuple[str, ...]:
        """Kinds of sound; kept spectrograms where the preset's can be kept."""
        try:
            stored_spectrogram(preset(self.config.preset))
        except UsageError:
            return "flac", "wav"
        return "flac", "wav", "stft"

    @property
    def specs(self) -> tuple[RunSpec, ...]:
        """The methods that are asked for."""
        return parse_methods([self.config.methods])

    def dataset(self, codec: str) -> Dataset:
        """Planted clips of ten seconds with this kind of sound. Raises what went wrong, the same once it has."""
        if codec not in self._datasets:
            try:
                self._datasets[codec] = self._packed(codec)
            except Exception as error:
                self._datasets[codec] = error
        found = self._datasets[codec]
        if isinstance(found, Exception):
            raise UsageError(f"no {codec} clips: {type(found).__name__}: {found}") from found
        return found

    def _packed(self, codec: str) -> Dataset:
        config = self.config
        splits = {"train": config.clips, "val": 8, "test": 8}
        planted = {**splits, "classes": 3, "seconds": config.clip_seconds, "size": 256}
        overrides: dict[str, object] = {f"planted.{name}": value for name, value in planted.items()}
        sound: dict[str, object] = {"sample_rate_hz": preset(config.preset).audio.sample_rate_hz, "audio_suffix": codec}
        if codec == "stft":
            sound["stft_preset"] = config.preset
        # Which balanced-av wants, and the others take.
        recipe = load_recipe("planted", {**overrides, **sound, "frame_phase_seconds": 0.5})
        out = self.folder / f"dataset-{codec}"
        return pack(recipe, self.folder / "videos", out=out, workers=cores_of_a_rank(), overwrite=False)

    def tiled(self, codec: str, clips: int) -> np.ndarray:
        """Ids of clips of train, repeated to so many."""
        return np.resize(self.dataset(codec).clip_ids("train"), clips)

    def loader(
        self,
        codec: str,
        *,
        preset_name: str = "",
        device: torch.device | None = None,
        modalities: Sequence[Modality] = MODALITIES,
        world: World | None = None,
        threads: int = 0,
        jpeg_engine_share: float = JPEG_ENGINE_SHARE,
        dtype: torch.dtype | None = None,
    ) -> Loader:
        """As the trainer makes it, over an epoch of repeated clips."""
        return Loader(
            self.dataset(codec),
            self.tiled(codec, self.config.epoch_clips),
            preset=preset(preset_name or self.config.preset),
            batch_size=self.config.batch_size,
            seed=0,
            training=True,
            modalities=modalities,
            device=device or self.device,
            world=world or World(),
            threads=threads or cores_of_a_rank(),
            jpeg_engine_share=jpeg_engine_share,
            dtype=dtype or self.loader_dtype,
        )

    def step(
        self, method: str, *, precision: str = "", batch_size: int = 0, engine: EngineConfig = _PLAIN
    ) -> Callable[[], object]:
        """A step as `avbench train` takes it, on a batch that stays where it is."""
        precision = precision or self.precision
        batch = self.batch(batch_size)
        run = run_of(method, precision, noise=True, engine=engine)
        return partial(run.train_step, prepare(batch, getattr(torch, precision)), epoch=0, epochs=1, total_steps=1)

    def batch(self, batch_size: int = 0) -> Batch:
        """Random numbers in the preset's shapes, on the device."""
        return synthetic_batch(self.config.preset, batch_size or self.config.batch_size, self.device)

    def per_second(self, action: Callable[[], object], *, seconds: float = 0.0) -> float:
        """How often an action is done in a second; the clock waits for the GPU after each block of them.

        So what hides the time of a launch in training hides it here, too. The first two are not counted.
        """
        action()
        action()
        synchronize(self.device)
        begun, done = time.perf_counter(), 0
        while time.perf_counter() - begun < (seconds or self.config.seconds):
            for _ in range(self.config.block):
                action()
            synchronize(self.device)  # else the processor would run ahead of the clock
            done += self.config.block
        return done / (time.perf_counter() - begun)
