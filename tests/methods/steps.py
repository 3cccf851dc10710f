"""Steps of a method on made-up clips, alone or on ranks: for tests that compare the two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from avbench.batch import Batch, Clock
from avbench.distributed import current_world
from avbench.engine.choice import build_engine
from avbench.engine.config import OptimizerConfig
from avbench.engine.plain import Engine
from avbench.methods.base import Method
from avbench.methods.choice import parse_methods
from avbench.models.width import WIDTH

CPU = torch.device("cpu")
CLASSES = 3


@dataclass
class Taken:
    """What steps left behind: parameters and buffers by name, and each step's log."""

    parameters: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]
    logs: list[dict[str, float]]


def batch_of(clips: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Noise of 32 x 32, one frame a clip, all valid, as one process gets it."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        audio=torch.randn(clips, 1, 32, 32, generator=generator, dtype=dtype),
        frames=torch.randn(clips, 1, 3, 32, 32, generator=generator, dtype=dtype),
        label=torch.randint(CLASSES, (clips,), generator=generator),
        clip_id=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
        global_valid=torch.tensor(clips),
    )


def thin(text: str, *, classes: int = CLASSES) -> Method:
    """A method as `--methods` names it, whose networks have an eighth of all channels.

    What ranks and engines do with parameters does not hang on how many a layer has; their time does.
    """
    (spec,) = parse_methods([text])
    method = spec.method(spec.config, classes=classes, seed=0)
    method.width = WIDTH // 8
    return method


def configured(text: str) -> tuple[Method, Engine]:
    """A method as `--methods` names it, and an engine over its network, batch norm in evaluation mode.

    So a step does not depend on how the global batch is cut into ranks.
    """
    method = thin(text)
    torch.manual_seed(0)
    engine = build_engine(
        method.build_model(),
        optimizer=OptimizerConfig(),
        device=CPU,
        dtype=torch.float32,
        leaves_unused_parameters=method.leaves_unused_parameters,
    )
    for module in engine.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return method, engine


def take_steps(text: str, bounds: Sequence[int], steps: int) -> Taken:
    """Take steps on this rank's slice `bounds[rank]:bounds[rank + 1]` of each global batch of `bounds[-1]` clips."""
    method, engine = configured(text)
    rank = current_world().rank
    own = torch.arange(bounds[rank], bounds[rank + 1])
    logs = []
    for step in range(steps):
        batch = batch_of(bounds[-1], seed=step).select(own)
        taken = method.train_step(engine, batch, Clock(epoch=0, step=step, epochs=1))
        logs.append({name: float(value) for name, value in taken.log.items()})
    return Taken(_arrays(engine.model.named_parameters()), _arrays(engine.model.named_buffers()), logs)


def _arrays(named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in named}
