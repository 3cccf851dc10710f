"""Gradient-Blending: every head has a loss of its own, weighted by how well it generalizes and how little it overfits.

Wang, Tran, Feiszli, "What Makes Training Multi-Modal Classification Networks Hard?", CVPR 2020 (arXiv 1905.12681).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avbench.batch import Batch, Clock, Outputs
from avbench.engine import Engine
from avbench.methods.base import Method, Part, RunView, Step, global_mean
from avbench.models.multihead import HEADS, JOINT, MultiHead

# O^2 may come out as next to nothing by chance, and its head would then get all the weight.
LEAST_SQUARED_OVERFITTING = 1e-6


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean losses of one head at one checkpoint, on the clips that estimates train on and on those held out."""

    estimation: float
    held_out: float

    @property
    def overfitting(self) -> float:
        """O: how much higher the loss is on clips that were not trained on."""
        return self.held_out - self.estimation


@dataclass(frozen=True, slots=True)
class Blend:
    """Weights of the heads' losses, adding up to 1.

    worse: heads that gained nothing. floored: heads whose squared overfitting was below the floor. kept: whether these
    are the weights of an earlier blend.
    """

    weights: dict[str, float]
    worse: tuple[str, ...] = ()
    floored: tuple[str, ...] = ()
    kept: bool = False


def blend(before: Mapping[str, Losses], after: Mapping[str, Losses], previous: Mapping[str, float]) -> Blend:
    """Weights w_k = (1/Z) G_k / O_k^2 (Wang et al. 2020, equation 4), from each head's losses at N and at N + n.

    G_k = Lval_N - Lval_{N+n} is what a head gained on held-out clips; O_k = (Lval_{N+n} - Ltrain_{N+n}) - (Lval_N -
    Ltrain_N) is what it overfitted meanwhile. A head that gained nothing, or whose losses are not finite, gets weight
    0; where none gained, the previous weights stay.
    """
    gains = {head: before[head].held_out - after[head].held_out for head in before}
    overfitted = {head: after[head].overfitting - before[head].overfitting for head in before}
    raw = {
        head: gain / max(overfitted[head] ** 2, LEAST_SQUARED_OVERFITTING) if gain > 0 else 0.0
        for head, gain in gains.items()
    }
    raw = {head: value if 0.0 <= value < float("inf") else 0.0 for head, value in raw.items()}
    worse = tuple(head for head, value in raw.items() if value == 0.0)
    floored = tuple(head for head in raw if head not in worse and overfitted[head] ** 2 < LEAST_SQUARED_OVERFITTING)
    total = sum(raw.values())
    if total == 0.0:
        return Blend(dict(previous), worse, floored, kept=True)
    return Blend({head: value / total for head, value in raw.items()}, worse, floored)


class GradientBlending(Method):
    """Loss sum_k w_k L_k over the audio, the visual and the joint head; the joint head predicts.

    Before a super-epoch the weights are estimated: from the network as it is, each head alone is trained on 90 % of
    train (for as many epochs as the super-epoch has) and its losses are measured there and on the other 10 %, in
    evaluation mode (before the first step, with batch norm's statistics filled by a pass). The three run in lockstep on
    the same decoded batches, on copies: the network, its optimizer, its statistics and all random states are left as
    they were. Neither val nor test is looked at.
    """

    @dataclass(frozen=True)
    class Config:
        """Options."""

        mode: Literal["online", "offline"] = "online"
        """online: estimate before every super-epoch; offline: once, from the initial network, over all epochs."""
        super_epoch: int = 10
        """Epochs between estimates, and of an estimate, when online."""

        def __post_init__(self) -> None:
            if self.super_epoch < 1:
                raise ValueError(f"super_epoch is {self.super_epoch}, expected at least 1")

    name = "gradient-blending"
    network = "two ResNet-18s, a linear layer on each and one on both"
    parts = ("train", "estimation", "held-out")

    def __init__(self, config: Any, *, classes: int, seed: int) -> None:
        super().__init__(config, classes=classes, seed=seed)
        self.weights = {head: 1.0 / len(HEADS) for head in HEADS}
        self.estimated_at = -1  # epoch before which the weights were last estimated

    def build_model(self) -> nn.Module:
        """Both encoders and three heads."""
        return MultiHead(self.classes, width=self.width)

    def loss(self, outputs: Outputs, batch: Batch, clock: Clock) -> Tensor:
        """The blended loss of each clip, [B]."""
        logits = {**outputs.unimodal_logits, JOINT: outputs.logits}
        losses = [self.weights[head] * F.cross_entropy(logits[head], batch.label, reduction="none") for head in HEADS]
        return torch.stack(losses).sum(dim=0)

    def train_step(self, engine: Engine, batch: Batch, clock: Clock) -> Step:
        """The base step, with the weights in the log."""
        step = super().train_step(engine, batch, clock)
        step.log.update({f"weight/{head}": weight for head, weight in self.weights.items()})
        return step

    def before_epoch(self, run: RunView) -> None:
        """Estimate the weights where a super-epoch begins."""
        epoch = run.clock.epoch
        if self.estimated_at == epoch or epoch % self._super_epoch(run.clock) != 0:
            return
        before, after = self._probe(run, epochs=min(self._super_epoch(run.clock), run.clock.epochs - epoch))
        blended = blend(before, after, self.weights)
        self.weights, self.estimated_at = blended.weights, epoch
        run.say(_described(blended), **{f"weight/{head}": weight for head, weight in self.weights.items()})

    def state_dict(self) -> dict[str, Any]:
        """The weights, and when they were estimated."""
        return {"weights": dict(self.weights), "estimated_at": self.estimated_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.weights, self.estimated_at = dict(state["weights"]), state["estimated_at"]

    def _super_epoch(self, clock: Clock) -> int:
        return clock.epochs if self.config.mode == "offline" else self.config.super_epoch

    def _probe(self, run: RunView, *, epochs: int) -> tuple[dict[str, Losses], dict[str, Losses]]:
        """Each head's losses now, and after training it alone for some epochs."""
        branches = {head: run.engine.fork(partial(_branch, head=head)) for head in HEADS}
        if run.clock.step == 0:
            _fill_statistics(run, _longest_first(branches))
        before = _measure(run, branches)
        for ahead in range(epochs):
            _train(run, _longest_first(branches), ahead=ahead)
        after = _measure(run, branches)
        for branch in branches.values():
            branch.release()
        return before, after


def _branch(model: nn.Module, head: str) -> nn.Module:
    return cast(MultiHead, model).branch(head)


def _longest_first(branches: Mapping[str, Engine]) -> list[Engine]:
    return sorted(branches.values(), key=lambda branch: len(branch.parameters), reverse=True)


def _fill_statistics(run: RunView, branches: Sequence[Engine]) -> None:
    """Let batch norm see a pass over the estimation part.

    Before the first step its running statistics are 0 and 1, those of no data: losses in evaluation mode would be those
    of another network than the one that trains, and their fall would be taken for a gain.
    """
    for batch in run.batches("estimation", epoch=0, training=False):

        def look(branch: Engine, batch: Batch = batch) -> None:
            with torch.no_grad():
                branch.forward(batch)

        run.each(branches, look)


def _train(run: RunView, branches: Sequence[Engine], *, ahead: int) -> None:
    """An epoch of every branch on the estimation part, at the rates that the run itself is going to have."""
    epoch = run.clock.epoch + ahead
    first = run.clock.step + ahead * run.steps_per_epoch
    for number, batch in enumerate(run.batches("estimation", epoch=epoch, training=True)):
        # The part is smaller than train, so an epoch of it never outruns the run's own.
        rate = run.learning_rate_at(step=first + number, epoch=epoch)

        def step(branch: Engine, batch: Batch = batch, rate: float = rate) -> None:
            branch.set_learning_rate(rate)
            for part in branch.micro_batches(batch):
                losses = F.cross_entropy(branch.forward(part).logits, part.label, reduction="none")
                branch.backward(global_mean(losses, part, branch))
            branch.step()

        run.each(branches, step)


def _measure(run: RunView, branches: Mapping[str, Engine]) -> dict[str, Losses]:
    """Mean losses of every branch on both parts, in evaluation mode; the same on every rank. A collective."""
    for branch in branches.values():
        branch.average_buffers()
    measured = {part: _mean_losses(run, list(branches.values()), part) for part in ("estimation", "held-out")}
    return {
        head: Losses(estimation=trained_on, held_out=held_out)
        for head, trained_on, held_out in zip(branches, measured["estimation"], measured["held-out"], strict=True)
    }


def _mean_losses(run: RunView, branches: Sequence[Engine], part: Part) -> list[float]:
    sums = torch.zeros(len(branches) + 1, dtype=torch.float64, device=run.engine.device)

    def add(numbered: tuple[int, Engine]) -> None:
        number, branch = numbered
        with branch.evaluating(), torch.no_grad():
            logits = branch.forward(batch).logits
            sums[number] += F.cross_entropy(logits, batch.label, reduction="sum").double()

    for batch in run.batches(part, epoch=0, training=False):
        if len(batch):
            sums[-1] += len(batch)
            run.each(list(enumerate(branches)), add)
    *losses, clips = run.engine.mean(sums).tolist()
    # Where no clip of a part is whole there is no loss; `blend` then keeps the weights.
    return [loss / clips if clips else float("nan") for loss in losses]


def _described(blended: Blend) -> str:
    weights = ", ".join(f"{head} {weight:.3f}" for head, weight in blended.weights.items())
    if blended.kept:
        return f"no head gained on held-out clips, so the weights stay {weights}"
    worse = f"; {' and '.join(blended.worse)} did not gain on held-out clips" if blended.worse else ""
    floored = f"; {' and '.join(blended.floored)} did not overfit, so O^2 is at its floor" if blended.floored else ""
    return f"estimated weights {weights}{worse}{floored}"
