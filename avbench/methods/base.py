"""What a method is: a network, a loss, and what it does between backward and the optimizer.

A method drives a step and the engine supplies the verbs, so none knows plain training from DDP or DeepSpeed. Override
the narrowest hook that states the paper's idea. Rules that keep replicas equal: every number that reaches a gradient
goes through `engine.mean` (sums and counts first, then the ratio); parameters are found through `model.encoders`, never
by name text; random numbers of a step come from a generator of the method's own, seeded by (seed, step), never from
torch's global one, which runs that are trained side by side share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avbench.batch import MODALITIES, Batch, Clock, Modality, Outputs
from avbench.engine import Engine


@dataclass(frozen=True, slots=True)
class Step:
    """What a training step leaves for the trainer: the outputs, each clip's loss [B], and numbers to log."""

    outputs: Outputs
    losses: Tensor
    log: dict[str, Tensor | float] = field(default_factory=dict)


class RunView(Protocol):
    """What a method sees of its run in `before_epoch`."""

    engine: Engine
    clock: Clock


class Method:
    """Base of all methods: mean cross-entropy of the network's logits.

    config: an instance of the class's own `Config`. classes: number of classes. seed: of initialization and noise.
    """

    @dataclass(frozen=True)
    class Config:
        """Options of the method; each field is `--methods NAME:field=value`."""

    name: ClassVar[str]
    network: ClassVar[str]  # what the tables say the network is
    modalities: ClassVar[Sequence[Modality]] = MODALITIES  # what it reads
    confidence_of: ClassVar[Modality | None] = None  # its true-label probability feeds that store
    leaves_unused_parameters: ClassVar[bool] = False  # told to DDP

    def __init__(self, config: Any, *, classes: int, seed: int) -> None:
        self.config = config
        self.classes = classes
        self.seed = seed

    def build_model(self) -> nn.Module:
        """The network, freshly initialized from torch's global generator: `forward(batch) -> Outputs`, `.encoders`."""
        raise NotImplementedError

    def forward(self, engine: Engine, batch: Batch) -> Outputs:
        """Outputs for a batch, in training or evaluation."""
        return engine.forward(batch)

    def loss(self, outputs: Outputs, batch: Batch, clock: Clock) -> Tensor:
        """Each clip's loss, [B]; `train_step` takes the mean over the global batch."""
        return F.cross_entropy(outputs.logits, batch.label, reduction="none")

    def after_backward(self, engine: Engine, outputs: Outputs, batch: Batch, clock: Clock) -> dict[str, Tensor | float]:
        """Read or rewrite the globally averaged gradients; returns numbers to log."""
        return {}

    def train_step(self, engine: Engine, batch: Batch, clock: Clock) -> Step:
        """Forward, loss, backward, `after_backward`, optimizer step."""
        outputs = self.forward(engine, batch)
        losses = self.loss(outputs, batch, clock)
        engine.backward(global_mean(losses, batch, engine))
        log = self.after_backward(engine, outputs, batch, clock)
        engine.step()
        return Step(outputs, losses.detach(), log)

    def before_epoch(self, run: RunView) -> None:
        """Anything that needs passes over data before an epoch."""

    def probabilities(self, outputs: Outputs) -> dict[str, Tensor]:
        """Class probabilities [B, classes]: "prediction", and each modality's where the network has such parts."""
        parts = {name: torch.softmax(logits, dim=1) for name, logits in outputs.unimodal_logits.items()}
        return {"prediction": torch.softmax(outputs.logits, dim=1), **parts}

    def state_dict(self) -> dict[str, Any]:
        """All that must survive a restart beyond the network and optimizer; the same on every rank."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""


def global_mean(losses: Tensor, batch: Batch, engine: Engine) -> Tensor:
    """The loss to call backward on: this rank's share of the mean over the global batch's valid clips.

    Averaging gradients over ranks divides by the world size, hence the factor; so the result is the mean over clips
    even where ranks hold different numbers of them, and a rank without any is harmless.
    """
    if batch.global_valid is None:
        raise ValueError("the trainer counts a batch's valid clips over all ranks before a method sees it")
    # In the losses' own precision: a whole number over a tensor of whole numbers would be float32.
    return losses.sum() * (engine.world.size / batch.global_valid.clamp(min=1).to(losses.dtype))
