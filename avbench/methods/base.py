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

from avbench.batch import Batch, Clock, Outputs
from avbench.engine.plain import Engine
from avbench.models.width import WIDTH
from avbench.vocabulary import MODALITIES, Modality

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

    def batches(self, part: Part, *, epoch: int, training: bool, first_batch: int = 0) -> Iterable[Batch]:
        """A pass over the clips of a part, as `train_step` gets its batches; a collective.

        training: shuffled and augmented, by a random stream that belongs to (part, epoch) and to no run's training.
        first_batch: the one to begin with, the `position` of a batch that an interrupted pass did not come to.
        Between two batches the run may be saved, see `Method.resumes_passes`, or be interrupted by an exception.
        """

    def fork(self, name: str, part: Callable[[nn.Module], nn.Module]) -> Engine:
        """`engine.fork(part)`, kept in what is saved before `before_epoch` returns, by name.

        Where the run was resumed from there, the fork of that name is as it was then. A collective.
        """

    def learning_rate_at(self, *, step: int, epoch: int) -> float:
        """The rate that the run's schedule has at a step, counted from the start of the run, of an epoch."""

    def each(self, items: Iterable[T], action: Callable[[T], None]) -> None:
        """`action(item)` for each, side by side where the machine has cores for it."""

    def say(self, text: str, **numbers: float) -> None:
        """An event for whoever watches and for metrics.jsonl; rank 0 writes it."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a method costs, in work rather than in time.

    encoders: ResNet-18s that it trains. forwards, backwards: through the network, in a training step. passes: what else
    it goes over clips for, in words; empty: nothing.
    """

    encoders: int = 2
    forwards: int = 1
    backwards: int = 1
    passes: str = ""


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
    paper: ClassVar[str] = ""  # where it was published
    mechanism: ClassVar[str] = ""  # what it does against imbalance, in a sentence
    curves: ClassVar[str] = ""  # what the numbers that it logs mean, for the report's figure of them
    legends: ClassVar[Mapping[str, str]] = {}  # what that figure calls them, where their own names do not say it
    compiles: ClassVar[str] = "yes"  # what --compile makes of it
    costs: ClassVar[Costs] = Costs()
    modalities: ClassVar[Sequence[Modality]] = MODALITIES  # what it reads
    confidence_of: ClassVar[Modality | None] = None  # its true-label probability feeds that store
    leaves_unused_parameters: ClassVar[bool] = False  # told to DDP
    parts_see_each_other: ClassVar[bool] = False  # its part of a modality hangs on the other modality, too
    parts: ClassVar[Sequence[Part]] = ("train",)  # whose clips it reads before epochs
    # Whether `before_epoch` can go on from between any two of its batches: by then `state_dict` has all of its progress
    # but the forks. Otherwise its passes are made again from the first one when they are interrupted.
    resumes_passes: ClassVar[bool] = False

    def __init__(self, config: Any, *, classes: int, seed: int) -> None:
        self.config = config
        self.classes = classes
        self.seed = seed
        self.width = WIDTH

    @property
    def trains_on(self) -> Part:
        """The part of train whose clips `train_step` gets; the same for all of a run, an option may decide it.

        All runs of a pass see the same batches of train; of each a run gets the rows of its part, and where no rank has
        one there is no step. A clip that it does not get counts nowhere in its training: not in its losses and
        accuracies, not in a confidence store.
        """
        return "train"

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

    def log_probabilities(self, outputs: Outputs) -> Tensor:
        """Natural logarithms of the prediction's class probabilities, [B, classes], by which clips are ranked.

        From the logits in float64, which keeps apart what probabilities cannot: near 1 they are all equal. Of a method
        that has probabilities of its own, their logarithms; override this as well where logits say more.
        """
        if type(self).probabilities is not Method.probabilities:
            return torch.log(self.probabilities(outputs)["prediction"].double())
        return log_softmax(outputs.logits)

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


def log_softmax(logits: Tensor) -> Tensor:
    """Natural logarithms of softmax(logits), float64 [B, classes], exact near 0 as well.

    With m the highest logit, log p_k = z_k - m - log(1 + sum of exp(z_j - m) over all others). A sum that has the 1 in
    it would lose all others from a margin of 17 on in float32, of 37 in float64, and the most confident clips were all
    equal: so the others are added up alone, for log1p. Their logarithm fits float32 up to a margin of 100.
    """
    values = logits.double()
    highest = values.max(dim=1, keepdim=True)
    below = values - highest.values
    others = below.exp().scatter(1, highest.indices, 0.0).sum(dim=1, keepdim=True)
    return below - torch.log1p(others)


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
