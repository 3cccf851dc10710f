"""What a method is: a network, a loss, and what it does between backward and the optimizer.

A method drives a step and the engine supplies the verbs, so none knows plain training from DDP or DeepSpeed. Override
the narrowest hook that states the paper's idea. Rules that keep replicas equal: every number that reaches a gradient
goes through `engine.mean` (sums and counts first, then the ratio); parameters are found through `model.encoders`, never
by name text; random numbers of a step come from a generator of the method's own, seeded by (seed, step), never from
torch's global one, which runs that are trained side by side share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avbench.batch import MODALITIES, Batch, Clock, Modality, Outputs
from avbench.engine import Engine
from avbench.models.resnet import WIDTH

T = TypeVar("T")

# What a method may ask clips of: all of train, or the two parts that train is cut into for those that estimate on data
# they do not train on. Never val or test.
Part = Literal["train", "estimation", "held-out"]

Log = dict[str, Tensor | float]


@dataclass(frozen=True, slots=True)
class Step:
    """What a training step leaves for the trainer: the outputs, each clip's loss [B], and numbers to log.

    log: "group/name" -> number, the same on every rank; metrics.jsonl gets the mean over each logging interval, and
    the report draws a curve a group. Tensors are left on the device, so that logging waits for nothing.
    """

    outputs: Outputs
    losses: Tensor
    log: Log = field(default_factory=dict)


class RunView(Protocol):
    """What a method sees of its run in `before_epoch`.

    clock: at the epoch that is about to begin. steps_per_epoch: optimizer steps of the run in an epoch.
    """

    engine: Engine
    clock: Clock
    steps_per_epoch: int

    def batches(self, part: Part, *, epoch: int, training: bool) -> Iterable[Batch]:
        """A pass over the clips of a part, as `train_step` gets its batches; a collective.

        training: shuffled and augmented, by a random stream that belongs to (part, epoch) and to no run's training.
        """

    def learning_rate_at(self, *, step: int, epoch: int) -> float:
        """The rate that the run's schedule has at a step, counted from the start of the run, of an epoch."""

    def each(self, items: Iterable[T], action: Callable[[T], None]) -> None:
        """`action(item)` for each, side by side where the machine has cores for it."""

    def say(self, text: str, **numbers: float) -> None:
        """An event for whoever watches and for metrics.jsonl; rank 0 writes it."""


class Method:
    """Base of all methods: mean cross-entropy of the network's logits.

    config: an instance of the class's own `Config`. classes: number of classes. seed: of initialization and noise.
    width: channels of the encoders' first stage, which the trainer sets before it asks for the network.
    """

    @dataclass(frozen=True)
    class Config:
        """Options of the method; each field is `--methods NAME:field=value`."""

    name: ClassVar[str]
    network: ClassVar[str]  # what the tables say the network is
    modalities: ClassVar[Sequence[Modality]] = MODALITIES  # what it reads
    confidence_of: ClassVar[Modality | None] = None  # its true-label probability feeds that store
    leaves_unused_parameters: ClassVar[bool] = False  # told to DDP
    parts: ClassVar[Sequence[Part]] = ("train",)  # whose clips it reads

    def __init__(self, config: Any, *, classes: int, seed: int) -> None:
        self.config = config
        self.classes = classes
        self.seed = seed
        self.width = WIDTH

    def build_model(self) -> nn.Module:
        """The network, freshly initialized from torch's global generator: `forward(batch) -> Outputs`, `.encoders`."""
        raise NotImplementedError

    def forward(self, engine: Engine, batch: Batch) -> Outputs:
        """Outputs for a batch, in training or evaluation."""
        return engine.forward(batch)

    def loss(self, outputs: Outputs, batch: Batch, clock: Clock) -> Tensor:
        """Each clip's loss, [B]; `train_step` takes the mean over the global batch."""
        return F.cross_entropy(outputs.logits, batch.label, reduction="none")

    def after_backward(self, engine: Engine, outputs: Outputs, batch: Batch, clock: Clock) -> Log:
        """Read or rewrite the globally averaged gradients; returns numbers to log."""
        return {}

    def train_step(self, engine: Engine, batch: Batch, clock: Clock) -> Step:
        """Forward, loss, backward, `after_backward`, optimizer step; the first three for each micro-batch.

        A method that does these itself goes over `engine.micro_batches(batch)`, too.
        """
        outputs, losses = [], []
        for part in engine.micro_batches(batch):
            outputs.append(self.forward(engine, part))
            losses.append(self.loss(outputs[-1], part, clock))
            engine.backward(global_mean(losses[-1], part, engine))
            losses[-1] = losses[-1].detach()
        joined = Outputs.joined(outputs)
        log = self.after_backward(engine, joined, batch, clock)
        engine.step()
        # One part's losses as they are: what is wrong with their shape is said by the run.
        return Step(joined, losses[0] if len(losses) == 1 else torch.cat([each.reshape(-1) for each in losses]), log)

    def before_epoch(self, run: RunView) -> None:
        """Anything that needs passes over data before an epoch; it must leave the run's engine as it was."""

    def probabilities(self, outputs: Outputs) -> dict[str, Tensor]:
        """Class probabilities [B, classes]: "prediction", and each modality's where the network has such parts."""
        parts = {name: torch.softmax(logits, dim=1) for name, logits in outputs.unimodal_logits.items()}
        return {"prediction": torch.softmax(outputs.logits, dim=1), **parts}

    def uncertainty(self, outputs: Outputs) -> Tensor | None:
        """How unsure the prediction is, [B] in [0, 1], for methods that say so."""
        return None

    def feature_modules(self, model: nn.Module) -> Mapping[Modality, Sequence[nn.Module]]:
        """Per modality the modules whose outputs are all that the rest of the network learns of it.

        Replacing those outputs by their mean over train takes the modality away: so its use is measured.
        """
        encoders = cast(nn.ModuleDict, model.encoders)
        return {modality: [encoders[modality]] for modality in self.modalities}

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


def step_generator(seed: int, clock: Clock, device: torch.device) -> torch.Generator:
    """Random numbers of one step of one run: the same on every rank, after a resume, and whatever runs beside it."""
    words = np.random.SeedSequence([seed, clock.step]).generate_state(2, np.uint64)
    # torch takes 64 bits, and its CPU generator wants them well mixed.
    return torch.Generator(device).manual_seed(int(words[0] ^ words[1]) & (2**63 - 1))
