"""TMC: trusted multi-view classification by evidence and belief (Han et al., ICLR 2021, arXiv 2102.02051).

ETMC adds a view of both modalities together (Han et al., TPAMI 2022, arXiv 2204.11423). Published code:
hanmenghan/TMC. A view is a modality or that pseudo-view. With evidence e >= 0 for each of K classes:

    alpha = e + 1, S = sum alpha, belief b = e / S, uncertainty u = K / S, so that sum b + u = 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avbench.batch import Batch, Clock, Outputs
from avbench.engine.plain import Engine
from avbench.methods.base import Log, Method, log_softmax
from avbench.models.fusion import full_precision
from avbench.models.resnet import encoder_a_modality, initialize
from avbench.models.width import WIDTH
from avbench.vocabulary import MODALITIES

PSEUDO_VIEW = "pseudo_view"
COMBINED = "combined"


class TMC(Method):
    """Two ResNet-18s whose heads give evidence, combined by the reduced Dempster's rule."""

    @dataclass(frozen=True)
    class Config:
        """Options of TMC."""

        pseudo_view: bool = False
        """Add a third view, a head on the concatenated features: ETMC."""
        annealing_epochs: int = 50
        """Epochs, counted from 1, over which the divergence term of the loss rises to its full weight."""

        def __post_init__(self) -> None:
            if self.annealing_epochs < 1:
                raise ValueError(f"annealing_epochs is {self.annealing_epochs}, expected at least 1")

    name = "tmc"
    paper = (
        "Han et al., Trusted Multi-View Classification, ICLR 2021, arXiv 2102.02051; with pseudo_view (ETMC) "
        "Han et al., TPAMI 2022, arXiv 2204.11423"
    )
    mechanism = "Lets each modality say how sure it is, and combines their beliefs by the reduced Dempster's rule."

    @property
    def network(self) -> str:  # type: ignore[override]
        """What the tables say the network is."""
        heads = "a linear layer on each and one on both" if self.config.pseudo_view else "a linear layer on each"
        return f"two ResNet-18s, {heads}, beliefs combined"

    def build_model(self) -> nn.Module:
        """Encoders with a head a view."""
        views = (*MODALITIES, PSEUDO_VIEW) if self.config.pseudo_view else MODALITIES
        return EvidentialViews(self.classes, views=views, width=self.width)

    def loss(self, outputs: Outputs, batch: Batch, clock: Clock) -> Tensor:
        """Sum of the evidential losses of every view and of the combination, [B]."""
        # The annealing counts epochs from 1.
        weight = min(1.0, (clock.epoch + 1) / self.config.annealing_epochs)
        losses = [
            evidential_loss(evidence, batch.label, divergence_weight=weight) for evidence in outputs.extras.values()
        ]
        return torch.stack(losses).sum(dim=0)

    def after_backward(self, engine: Engine, outputs: Outputs, batch: Batch, clock: Clock) -> Log:
        """Changes nothing; logs the mean uncertainty of every view and of the combination over the global batch."""
        if batch.global_valid is None:
            raise ValueError("the trainer counts a batch's valid clips over all ranks before a method sees it")
        local = torch.stack([uncertainty(evidence.detach()).sum() for evidence in outputs.extras.values()])
        means = engine.mean(local) * engine.world.size / batch.global_valid.clamp(min=1)
        return {f"uncertainty/{view}": mean for view, mean in zip(outputs.extras, means, strict=True)}

    def log_probabilities(self, outputs: Outputs) -> Tensor:
        """log alpha - log S of the combination, float64 [B, classes]: from the evidence, as logits are rounded."""
        return log_softmax(torch.log1p(outputs.extras[COMBINED].double()))

    def uncertainty(self, outputs: Outputs) -> Tensor:
        """Uncertainty of the combination, [B] in (0, 1]."""
        return uncertainty(outputs.extras[COMBINED])


class EvidentialViews(nn.Module):
    """Both encoders and a head a view, whose softplus is evidence.

    The outputs' logits are log alpha, of the combination and of each modality: their softmax is alpha / S, the mean of
    the Dirichlet distribution, which is the confidence that these networks state. extras: the evidence [B, classes] of
    every view and, last, of the combination.
    """

    def __init__(self, classes: int, *, views: Sequence[str], width: int = WIDTH) -> None:
        super().__init__()
        encoders = encoder_a_modality(width)
        self.encoders = nn.ModuleDict(encoders)
        features = encoders["audio"].features
        self.heads = nn.ModuleDict(
            {view: nn.Linear(features * (len(MODALITIES) if view == PSEUDO_VIEW else 1), classes) for view in views}
        )
        initialize(self.heads)

    def forward(self, batch: Batch) -> Outputs:
        """Outputs as the class says."""
        features: dict[str, Tensor] = {modality: self.encoders[modality](batch) for modality in MODALITIES}
        features[PSEUDO_VIEW] = torch.cat([features[modality] for modality in MODALITIES], dim=1)
        logits = {view: full_precision(head(features[view])) for view, head in self.heads.items()}
        # bf16 and fp16 cannot tell strong evidence from stronger; digamma has no such precision at all.
        with torch.autocast(features["audio"].device.type, enabled=False):
            evidence = {view: F.softplus(each) for view, each in logits.items()}
            evidence[COMBINED] = combine(list(evidence.values()))
            return Outputs(
                logits=torch.log1p(evidence[COMBINED]),
                unimodal_logits={modality: torch.log1p(evidence[modality]).detach() for modality in MODALITIES},
                extras=evidence,
            )


def uncertainty(evidence: Tensor) -> Tensor:
    """Mass on no class, u = K / S, [B] in (0, 1]; 1 without any evidence [B, classes]."""
    return evidence.shape[1] / (evidence + 1.0).sum(dim=1)


def combine(views: Sequence[Tensor]) -> Tensor:
    """Evidence of two views or more taken together, [B, classes], by the reduced Dempster's rule, pair by pair.

    The rule is stated in beliefs: with the conflict C = (sum b1)(sum b2) - sum(b1 b2),

        b = (b1 b2 + b1 u2 + b2 u1) / (1 - C),   u = u1 u2 / (1 - C),   S = K / u,   e = b S.

    In e the factor 1 - C cancels, and S1, S2 with it: e = e1 + e2 + e1 e2 / K. So there is nothing to divide by where
    views contradict each other totally (C = 1 in float32 from an evidence of some 1e8 on), and nothing to guard.
    """
    return functools.reduce(lambda e1, e2: e1 + e2 + e1 * e2 / e1.shape[1], views)


def evidential_loss(evidence: Tensor, label: Tensor, *, divergence_weight: float) -> Tensor:
    """Expected cross-entropy under Dir(alpha), and what evidence for wrong classes costs; each clip's, [B].

    sum_k y_k (digamma(S) - digamma(alpha_k)) + weight KL(Dir(alpha~) || Dir(1)), alpha~ = y + (1 - y) alpha: alpha with
    the true class's evidence taken away. evidence: [B, classes], label: int64 [B].
    """
    # In float64: lgamma of strong evidence is in the millions, of which the divergence is a small difference.
    alpha = evidence.double() + 1.0
    true_alpha = alpha.gather(1, label[:, None])
    cross_entropy = torch.digamma(alpha.sum(dim=1)) - torch.digamma(true_alpha).squeeze(1)
    wrong = alpha.scatter(1, label[:, None], 1.0)
    return (cross_entropy + divergence_weight * divergence_from_uniform(wrong)).to(evidence.dtype)


def divergence_from_uniform(alpha: Tensor) -> Tensor:
    """KL(Dir(alpha) || Dir(1)) in nats, [B], of alpha [B, K].

    lgamma(S) - sum_k lgamma(alpha_k) - lgamma(K) + sum_k (alpha_k - 1) (digamma(alpha_k) - digamma(S)).
    """
    total = alpha.sum(dim=1, keepdim=True)
    logarithm = torch.lgamma(total).squeeze(1) - torch.lgamma(alpha).sum(dim=1) - math.lgamma(alpha.shape[1])
    return logarithm + ((alpha - 1.0) * (torch.digamma(alpha) - torch.digamma(total))).sum(dim=1)
