"""Gradient-Blending: every head has a loss of its own, weighted by how well it generalizes and how little it overfits.

Wang, Tran, Feiszli, "What Makes Training Multi-Modal Classification Networks Hard?", CVPR 2020 (arXiv 1905.12681).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avbench.batch import Batch, Clock, Outputs
from avbench.engine.plain import Engine
from avbench.methods.base import Costs, Method, Part, RunView, Step
from avbench.methods.probe import Losses, Probe
from avbench.models.multihead import HEADS, JOINT, MultiHead

__all__ = ["HEADS", "Blend", "GradientBlending", "Losses", "blend"]

# O^2 may come out as next to nothing by chance, and its head would then get all the weight.
LEAST_SQUARED_OVERFITTING = 1e-6


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
    they were. Neither val nor test is looked at. An estimate that is interrupted goes on where it was.

    What the run itself is trained on is an option, since what the paper does with held-out clips is not known to us. On
    all of train, the default, later online estimates hold out clips that the network has trained on, so that what it
    has overfitted by then, O_N, hardly shows; on the estimation part it shows, and a tenth of the clips is not learnt
    from. The measurement in the README of this folder could not tell which is better: accuracies are as near as seeds
    are, and the default has the smaller spread and gets the clips that all other methods get. Estimates are noisy
    either way where few clips are held out: there, with 48 of them, the first gave the joint head 0.16, 0.55 and 0.84
    in three seeds.
    """

    @dataclass(frozen=True)
    class Config:
        """Options."""

        mode: Literal["online", "offline"] = "online"
        """online: estimate before every super-epoch; offline: once, from the initial network, over all epochs."""
        super_epoch: int = 10
        """Epochs between estimates, and of an estimate, when online."""
        trains_on: Literal["train", "estimation"] = "train"
        """What the run is trained on. train: all clips, also those held out for estimates, so that estimates after the
        first hardly see what was overfitted; estimation: the 90 % that estimates train on."""

        def __post_init__(self) -> None:
            if self.super_epoch < 1:
                raise ValueError(f"super_epoch is {self.super_epoch}, expected at least 1")

    name = "gradient-blending"
    paper = (
        "Wang, Tran, Feiszli, What Makes Training Multi-Modal Classification Networks Hard?, CVPR 2020, "
        "arXiv 1905.12681"
    )
    mechanism = "Weights the losses of an audio, a visual and a joint head by how well each generalizes."
    compiles = "yes, but for its estimates: their copies of parts live too short to be worth it"
    costs = Costs(
        passes="before each super-epoch as many passes as it has epochs, over 90 % of train, in which three heads are "
        "trained on copies, and passes without gradients that measure losses on that part and on the other 10 %"
    )
    network = "two ResNet-18s, a linear layer on each and one on both"
    parts = ("train", "estimation", "held-out")
    resumes_passes = True

    def __init__(self, config: Any, *, classes: int, seed: int) -> None:
        super().__init__(config, classes=classes, seed=seed)
        self.weights = {head: 1.0 / len(HEADS) for head in HEADS}
        self.estimated_at = -1  # epoch before which the weights were last estimated
        self._under_way: Probe | None = None

    @property
    def trains_on(self) -> Part:
        """All of train or what estimates train on, as the option says."""
        return cast(Part, self.config.trains_on)

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
        run.say(_described(blended), **_numbers(self.weights, before, after))

    def state_dict(self) -> dict[str, Any]:
        """The weights, when they were estimated, and the estimate that is under way. A collective."""
        under_way = {} if self._under_way is None else {"probe": self._under_way.state_dict()}
        return {"weights": dict(self.weights), "estimated_at": self.estimated_at, **under_way}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.weights, self.estimated_at = dict(state["weights"]), state["estimated_at"]
        self._under_way = Probe.from_state(state["probe"]) if "probe" in state else None

    def _super_epoch(self, clock: Clock) -> int:
        return clock.epochs if self.config.mode == "offline" else self.config.super_epoch

    def _probe(self, run: RunView, *, epochs: int) -> tuple[dict[str, Losses], dict[str, Losses]]:
        """Each head's losses now, and after training it alone for some epochs."""
        if self._under_way is None or self._under_way.epochs != epochs:  # resumed with another number of epochs
            self._under_way = Probe(epochs=epochs, fills=run.clock.step == 0)
        branches = {head: run.fork(f"{head}-{epochs}", partial(_branch, head=head)) for head in HEADS}
        before, after = self._under_way.go_on(run, branches)
        for branch in branches.values():
            branch.release()
        self._under_way = None
        return before, after


def _branch(model: nn.Module, head: str) -> nn.Module:
    return cast(MultiHead, model).branch(head)


def _numbers(
    weights: Mapping[str, float], before: Mapping[str, Losses], after: Mapping[str, Losses]
) -> dict[str, float]:
    """What an estimate found, for metrics.jsonl: weights, G, O_N and what O grew by, of each head."""
    return {
        **{f"weight/{head}": weight for head, weight in weights.items()},
        **{f"gain/{head}": before[head].held_out - after[head].held_out for head in before},
        **{f"overfitting/{head}": losses.overfitting for head, losses in before.items()},
        **{f"overfitting_growth/{head}": after[head].overfitting - before[head].overfitting for head in before},
    }


def _described(blended: Blend) -> str:
    weights = ", ".join(f"{head} {weight:.3f}" for head, weight in blended.weights.items())
    if blended.kept:
        return f"no head gained on held-out clips, so the weights stay {weights}"
    worse = f"; {' and '.join(blended.worse)} did not gain on held-out clips" if blended.worse else ""
    floored = f"; {' and '.join(blended.floored)} did not overfit, so O^2 is at its floor" if blended.floored else ""
    return f"estimated weights {weights}{worse}{floored}"
