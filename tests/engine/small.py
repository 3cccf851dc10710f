"""A small network under any engine, and steps of it on slices of made-up batches: for tests of engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avbench.batch import Batch, Outputs
from avbench.distributed import World, current_world
from avbench.engine.choice import build_engine
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.plain import Engine
from avbench.methods.base import global_mean

CPU = torch.device("cpu")
CLASSES = 3
SGD = OptimizerConfig(learning_rate=0.1, weight_decay=0.01, schedule="constant")
ADAM = OptimizerConfig(optimizer="adam", learning_rate=0.01, schedule="constant")


def zero(stage: int, *, accumulation: int = 1, clipping: float = 0.0, **settings: Any) -> EngineConfig:
    """DeepSpeed at a ZeRO stage, with settings of `zero_optimization`."""
    text = json.dumps({"gradient_clipping": clipping, "zero_optimization": {"stage": stage, **settings}})
    return EngineConfig(engine="deepspeed", deepspeed_config=text, accumulation=accumulation)


class Small(nn.Module):
    """A kernel, batch norm of fixed statistics, a linear layer, and a parameter that takes no part: 87 numbers, which
    ranks cannot share equally.

    Batch norm is there for ranks without clips: their backward yields its gradients in another order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(1, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.unused = nn.Parameter(torch.ones(9))
        self.head = nn.Linear(5, CLASSES)

    def forward(self, batch: Batch) -> Outputs:
        assert batch.audio is not None
        norm = self.norm
        maps = F.batch_norm(self.kernel(batch.audio), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        maps = torch.tanh(maps)
        return Outputs(self.head(maps.mean((2, 3)).to(self.head.weight.dtype)).float())


def engine_of(config: EngineConfig, *, optimizer: OptimizerConfig = SGD, dtype: torch.dtype = torch.float32) -> Engine:
    torch.manual_seed(0)
    return build_engine(
        Small(), optimizer=optimizer, device=CPU, dtype=dtype, leaves_unused_parameters=True, engine=config
    )


def alone(*, optimizer: OptimizerConfig = SGD, accumulation: int = 1) -> Engine:
    """The plain engine, on every rank for itself: what others are compared with."""
    torch.manual_seed(0)
    engine = Engine(Small(), optimizer=optimizer, device=CPU, accumulation=accumulation)
    engine.world = World()
    return engine


def batch_of(clips: int, number: int) -> Batch:
    """The whole global batch of a step."""
    generator = torch.Generator().manual_seed(number)
    return Batch(
        audio=torch.randn(clips, 1, 6, 6, generator=generator),
        frames=None,
        label=torch.randint(CLASSES, (clips,), generator=generator),
        clip_id=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
        global_valid=torch.tensor(clips),
    )


def own_slice(batch: Batch, counts: Sequence[int]) -> Batch:
    """This rank's part of a global batch that is cut into `counts`."""
    rank = current_world().rank
    first = sum(counts[:rank])
    return batch.select(slice(first, first + counts[rank]))


def backward(engine: Engine, batch: Batch) -> Tensor:
    """Gradients of the mean loss over the global batch, of which this is a slice; returns the last loss."""
    loss = torch.zeros(())
    for part in engine.micro_batches(batch):
        losses = F.cross_entropy(engine.forward(part).logits, part.label, reduction="none")
        loss = global_mean(losses, part, engine)
        engine.backward(loss)
    return loss


def take_steps(
    engine: Engine, counts: Sequence[int], numbers: Sequence[int], between: Callable[[int], None] = lambda _: None
) -> Engine:
    """Steps by their numbers; `between` is called between a step's backward and its update."""
    for number in numbers:
        batch = batch_of(sum(counts), number)
        backward(engine, batch if engine.world.size == 1 else own_slice(batch, counts))
        between(number)
        engine.step()
    return engine


def flat(engine: Engine) -> Tensor:
    """All parameters, one after the other."""
    return torch.cat([parameter.detach().flatten() for parameter in engine.parameters])


def flat_state(engine: Engine) -> dict[str, Tensor]:
    """What `state_dict` says, each tensor by a name; a collective under ZeRO."""
    state = engine.state_dict()
    return {f"model {name}": value for name, value in state["model"].items()} | {
        f"optimizer {number} {name}": value
        for number, values in state["optimizer"]["state"].items()
        for name, value in values.items()
    }
