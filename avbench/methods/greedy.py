"""Greedy: the branch that takes in the other modality faster learns from its own modality alone for some steps.

Wu, Jastrzebski, Cho, Geras, "Characterizing and Overcoming the Greedy Nature of Learning in Multi-modal Deep Neural
Networks", ICML 2022 (arXiv 2202.05306); published code nyukat/greedy_multimodal_learning.

Each modality has a branch: its encoder and head, which are the branch's own parameters, and its gates, by which the
other modality comes in, which are its fusion parameters. The paper's conditional learning speed s(m1|m0) = log(mu of
the fusion parameters of branch m0 / mu of its own parameters) is measured on the branch of m0, and is named after m1,
which that branch is learning to use. Here numbers are named after the branch that they are measured on: the speed of
the audio branch is the paper's s(visual|audio), that of the visual branch its s(audio|visual). (The paper's text was
not at hand; this reading of its symbols is that of a public re-implementation, and of the steps of the published code.)

Where a branch is re-balanced, its gates are their running averages: what it computes depends on its own modality alone.
Its encoder and head go on learning, and nothing else of the network is changed or slowed: the other branch still sees
both modalities.

What is ours: the gates of every branch have their own running average, taken over regular training steps only, and
evaluation uses the real gates (the published code fills one average from the other branch's gates, averages in
evaluation too, and evaluates with cut gates).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avbench.batch import Batch, Clock, Outputs
from avbench.engine.plain import Engine
from avbench.methods.base import Log, Method, Step, step_generator
from avbench.models.mmtm import MMTMFusion
from avbench.vocabulary import MODALITIES, Modality


@dataclass(frozen=True, slots=True)
class Window:
    """Re-balancing steps to come: of which modality's branch, and how many; closed where there is none."""

    modality: Modality | None = None
    steps_left: int = 0

    def after_a_step(self) -> Window:
        """What is left of an open window after one of its steps."""
        return Window(self.modality, self.steps_left - 1) if self.steps_left > 1 else Window()


def window_after(difference: float, *, epsilon: float, length: int) -> Window:
    """The window that a regular step opens: for the branch whose speed is higher by more than epsilon, if any.

    difference: speed of the audio branch minus that of the visual one, the paper's s(visual|audio) - s(audio|visual);
    not a number (no gradient yet) opens none.
    """
    if not abs(difference) > epsilon:
        return Window()
    return Window("audio" if difference > 0 else "visual", length)


class OnItsWay:
    """A number of the device that the processor will want: asked for now, waited for when it is taken.

    On a GPU what the processor launches in between, other runs' steps among it, is launched without waiting.
    """

    def __init__(self, number: Tensor) -> None:
        # To pinned memory, as torch makes it for a copy that is not waited for.
        self._number = number.detach().to("cpu", non_blocking=True)
        self._copied = torch.cuda.current_stream(number.device).record_event() if number.is_cuda else None

    def take(self) -> float:
        """The number."""
        if self._copied is not None:
            self._copied.synchronize()
        return float(self._number)


class Greedy(Method):
    """Two branches that gate each other; regular steps measure how fast each takes in the other, others re-balance.

    Guided: after a regular step in which the conditional learning speeds of the branches, s(visual|audio) of the audio
    branch and s(audio|visual) of the visual one, differ by more than epsilon, the next `window` steps are re-balancing
    steps for the branch whose speed is higher: its gates are their running averages, so that it learns from its own
    modality alone. Then one regular step measures again. In a re-balancing step the cut gates' own weights get zero
    gradients and are not frozen, so momentum and weight decay go on, as in the published code.
    """

    @dataclass(frozen=True)
    class Config:
        """Options of Greedy."""

        variant: Literal["guided", "random"] = "guided"
        """guided: for some steps the branch that takes in the other modality faster learns from its own alone; random:
        each step is regular, or so for the audio or for the visual branch, with probability 1/3."""
        epsilon: float = 0.01
        """Difference of the branches' speeds, s(visual|audio) and s(audio|visual) in powers of ten, up to which nothing
        is re-balanced, >= 0."""
        window: int = 5
        """Re-balancing steps in a row, when guided."""
        warmup: int = 2
        """First epoch, counted from 1, that may re-balance."""

        def __post_init__(self) -> None:
            if not 0 <= self.epsilon < math.inf:
                raise ValueError(f"epsilon is {self.epsilon}, expected a number >= 0")
            if self.window < 1:
                raise ValueError(f"window is {self.window}, expected at least 1 step")
            if self.warmup < 1:
                raise ValueError(f"warmup is {self.warmup}, expected an epoch, counted from 1")

    name = "greedy"
    paper = (
        "Wu, Jastrzebski, Cho, Geras, Characterizing and Overcoming the Greedy Nature of Learning in Multi-modal Deep "
        "Neural Networks, ICML 2022, arXiv 2202.05306"
    )
    mechanism = (
        "Lets the branch that takes in the other modality faster learn from its own modality alone for some steps."
    )
    curves = (
        "A branch's speed is how fast it learns to use the other modality: log10 of (squared gradients over squared "
        "weights of its gates / of its encoder and head), so 1 is a factor of ten. The paper names the audio branch's "
        "speed s(visual|audio), the visual branch's s(audio|visual). While a branch is re-balanced it learns from its "
        "own modality alone."
    )
    legends: ClassVar[Mapping[str, str]] = {
        "audio_branch": "audio branch, s(visual | audio)",
        "visual_branch": "visual branch, s(audio | visual)",
    }
    compiles = "yes; its regular and its two kinds of re-balancing steps are three pieces of code"
    network = "two ResNet-18s joined by MMTM blocks, a linear layer on each, logits averaged"
    leaves_unused_parameters = True  # a cut gate's
    parts_see_each_other = True  # by their gates

    def __init__(self, config: Any, *, classes: int, seed: int) -> None:
        super().__init__(config, classes=classes, seed=seed)
        self._window = Window()
        self._difference: OnItsWay | None = None  # of the last regular step, where it decides about a window
        # Of mu over all regular steps: [2, modalities] float64, bypass first; None before the first step.
        self._sums: Tensor | None = None

    def build_model(self) -> nn.Module:
        """Both branches and the blocks between them."""
        return MMTMFusion(self.classes, width=self.width)

    def loss(self, outputs: Outputs, batch: Batch, clock: Clock) -> Tensor:
        """CE(z_audio) + CE(z_visual) of each clip, [B]."""
        logits = outputs.unimodal_logits
        losses = [F.cross_entropy(logits[modality], batch.label, reduction="none") for modality in MODALITIES]
        return torch.stack(losses).sum(dim=0)

    def train_step(self, engine: Engine, batch: Batch, clock: Clock) -> Step:
        """The base step, with the gates of the branch that is re-balanced, if any, replaced."""
        with _network(engine).rebalancing(self._rebalanced_at(clock)):
            return super().train_step(engine, batch, clock)

    def after_backward(self, engine: Engine, outputs: Outputs, batch: Batch, clock: Clock) -> Log:
        """A regular step measures, and decides what the next ones are; logs the speeds and what this step was.

        speed/audio_branch is the paper's s(visual|audio), speed/visual_branch its s(audio|visual).
        """
        rebalanced = _network(engine).rebalanced
        if rebalanced is None:
            self._measure(engine, outputs)
        assert self._sums is not None, "a regular step comes first"
        speed = dict(zip(MODALITIES, learning_speeds(self._sums), strict=True))
        difference = speed["audio"] - speed["visual"]
        if rebalanced is not None:
            self._window = self._window.after_a_step()
        elif self.config.variant == "guided" and self._is_warm(clock):
            # The one number of a step that the processor waits for, when the next step begins.
            self._difference = OnItsWay(difference)
        return {
            **{f"speed/{modality}_branch": value for modality, value in speed.items()},
            "difference/audio_minus_visual_branch": difference,
            **{f"rebalancing/{modality}_branch": float(modality == rebalanced) for modality in MODALITIES},
        }

    def _is_warm(self, clock: Clock) -> bool:
        return clock.epoch + 1 >= self.config.warmup

    def _rebalanced_at(self, clock: Clock) -> Modality | None:
        if self.config.variant == "guided":
            return self._decided_window().modality
        # Before any regular step there is no average to replace a gate by.
        if self._sums is None or not self._is_warm(clock):
            return None
        drawn = torch.randint(3, (), generator=step_generator(self.seed, clock, torch.device("cpu")))
        return (None, *MODALITIES)[int(drawn)]

    def _decided_window(self) -> Window:
        """The window, opened where the last regular step says so."""
        if self._difference is not None:
            difference, self._difference = self._difference.take(), None
            self._window = window_after(difference, epsilon=self.config.epsilon, length=self.config.window)
        return self._window

    def _measure(self, engine: Engine, outputs: Outputs) -> None:
        """Add up mu of both branches' fusion and own parameters, and average the gates; one reduction over ranks."""
        network = _network(engine)
        groups = [network.bypass_parameters(modality) for modality in MODALITIES]
        groups += [network.main_parameters(modality) for modality in MODALITIES]
        ratios = squared_ratios([engine.read_grads(group) for group in groups], groups)
        gates = outputs.extras["gates"].double()
        clips = torch.full_like(ratios[:1], len(gates))
        # The ratios are those of every rank up to rounding; averaged, they are exactly so, and one decides as all.
        means = engine.mean(torch.cat([ratios, gates.sum(dim=0), clips]))
        ratios, gates, clips = means.split([len(ratios), gates.shape[1], 1])
        network.average_in(gates / clips)
        by_route = ratios.view(2, len(MODALITIES))
        self._sums = by_route if self._sums is None else self._sums.to(by_route.device) + by_route

    def feature_modules(self, model: nn.Module) -> Mapping[Modality, Sequence[nn.Module]]:
        """Each modality's squeezes and pooled features: its encoder's maps reach the network by these alone."""
        return {modality: cast(MMTMFusion, model).feature_modules(modality) for modality in self.modalities}

    def state_dict(self) -> dict[str, Any]:
        """Sums of mu and the open window; the gates' averages are the network's buffers."""
        window = self._decided_window()
        return {"sums": None if self._sums is None else self._sums.tolist(), "window": asdict(window)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        sums = state["sums"]
        self._sums = None if sums is None else torch.tensor(sums, dtype=torch.float64)
        self._window, self._difference = Window(**state["window"]), None


def _network(engine: Engine) -> MMTMFusion:
    return cast(MMTMFusion, engine.model)


@torch.no_grad()
def squared_ratios(gradients: Sequence[Sequence[Tensor]], weights: Sequence[Sequence[Tensor]]) -> Tensor:
    """mu of each group of tensors, (sum of squared gradients) / (sum of squared weights), [groups] float64.

    The sums are over all tensors of a group, then the ratio is taken.
    """
    # Norms of all tensors in a few kernels, and nothing of the tensors' size is made. On a CPU their own sums, in
    # float32, lose up to 1e-4 of a square; a decision sees 1e-5 of the difference it compares with 1e-2.
    norms = torch.stack(torch._foreach_norm([tensor for group in (*gradients, *weights) for tensor in group]))
    squares = norms.double().square().split([len(group) for group in (*gradients, *weights)])
    sums = torch.stack([square.sum() for square in squares])
    return sums[: len(gradients)] / sums[len(gradients) :]


def learning_speeds(sums: Tensor) -> Tensor:
    """Conditional learning speed of each branch, log10(sum of mu of its bypass / sum of mu of its own), [branches].

    Of the audio branch the paper's s(visual|audio), of the visual branch s(audio|visual): the bypass is what brings the
    other modality in. sums: of mu over steps, [2, branches], bypass first.
    """
    return torch.log10(sums[0] / sums[1])
