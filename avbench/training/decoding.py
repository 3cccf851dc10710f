"""The loaders of a pass: one preset, one device, shared pipelines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from avbench.dataset import Dataset
from avbench.distributed import current_world, ranks_on_this_node
from avbench.errors import UsageError
from avbench.loading.cores import Nearby, cores_near
from avbench.loading.loader import DEFAULT_PREFETCH, Loader
from avbench.loading.pool import PipelinePool
from avbench.loading.presets import Preset
from avbench.machine import usable_cores
from avbench.training.config import TrainerConfig
from avbench.vocabulary import Modality


class Decoding:
    """Makes loaders whose every batch is a beat.

    computed_in: what networks compute in, by which --loader-precision auto is decided. beat: called with where a loader
    is, in words, before each of its batches.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        preset: Preset,
        config: TrainerConfig,
        device: torch.device,
        computed_in: torch.dtype,
        beat: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.dataset, self.preset, self.config, self.device = dataset, preset, config, device
        self.nearby = cores_near(device) if device.type == "cuda" else Nearby(None, "")
        self.dtype = pick_loader_dtype(config.loader_precision, computed_in=computed_in, device=device)
        self.bad_clips: dict[int, str] = {}  # found by any of the loaders, by clip id what was wrong
        self._beat = beat
        self._pool = PipelinePool()  # of all loaders: they take turns

    def loader(
        self, name: str, clip_ids: np.ndarray, seed: int, training: bool, modalities: tuple[Modality, ...]
    ) -> Loader:
        """A loader of these clips. name: of the clips, said where a rank hangs. seed: of their order."""
        loader = Loader(
            self.dataset,
            clip_ids,
            preset=self.preset,
            batch_size=self.config.batch_size,
            seed=seed,
            training=training,
            modalities=modalities,
            device=self.device,
            world=current_world(),
            threads=self.config.loader_threads or cores_of_a_rank(),
            prefetch=self.config.prefetch or DEFAULT_PREFETCH,
            dtype=self.dtype,
            cores=self.nearby.cores,
            pool=self._pool,
            before_batch=lambda epoch, batch: self._beat(f"epoch {epoch}, batch {batch} of {name}"),
        )
        loader.bad_clips = self.bad_clips
        return loader

    def close(self) -> None:
        """Let go of the pipelines that loaders have left."""
        self._pool.close()


def pick_loader_dtype(wanted: str, *, computed_in: torch.dtype, device: torch.device) -> torch.dtype:
    """What batches are rounded to. Raises UsageError for bfloat16 where networks compute in more: it would be lost."""
    if wanted == "bfloat16" and computed_in != torch.bfloat16:
        raise UsageError(
            f"loader-precision is bfloat16, but networks compute in {str(computed_in).removeprefix('torch.')}; "
            f"leave it out, or add --precision bfloat16"
        )
    is_rounded = wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda")
    return torch.bfloat16 if is_rounded and computed_in == torch.bfloat16 else torch.float32


def cores_of_a_rank() -> int:
    """This rank's share of the cores that it may use."""
    return max(1, usable_cores() // ranks_on_this_node())
