"""What is trained: a record of all that decides a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from avbench.confidence.store import ConfidenceStore
from avbench.dataset import Dataset
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.loading.presets import Preset
from avbench.methods.choice import RunSpec
from avbench.training.config import TrainerConfig
from avbench.training.run import Run


@dataclass(frozen=True)
class Training:
    """One pass over a dataset that trains every method under every seed.

    clip_ids: per split ("train", "val", "test") the ids to use, int64.
    """

    dataset: Dataset
    clip_ids: dict[str, np.ndarray]
    specs: Sequence[RunSpec]
    seeds: Sequence[int]
    preset: Preset
    config: TrainerConfig
    optimizer: OptimizerConfig
    engine: EngineConfig
    device: torch.device


def runs_of(training: Training, *, dtype: torch.dtype, stores: Mapping[tuple[str, int], ConfidenceStore]) -> list[Run]:
    """A run for every seed and method, in this order. stores: of unimodal runs, by name and seed."""
    return [
        Run(
            spec,
            seed=seed,
            classes=len(training.dataset.classes),
            optimizer=training.optimizer,
            engine=training.engine,
            device=training.device,
            dtype=dtype,
            width=training.config.width,
            store=stores.get((spec.name, seed)),
        )
        for seed in training.seeds
        for spec in training.specs
    ]
