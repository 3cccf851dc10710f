"""What is trained: a record of all that decides a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from avbench.dataset import Dataset
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.loading.presets import Preset
from avbench.methods.choice import RunSpec
from avbench.training.config import TrainerConfig


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
