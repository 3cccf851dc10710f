"""Networks over encoders: one modality alone, and late fusion of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avbench.batch import Batch, Outputs
from avbench.distributed import sum_over_ranks
from avbench.models.resnet import Encoder, encoder_a_modality, initialize
from avbench.models.width import WIDTH
from avbench.vocabulary import MODALITIES, Modality

Fusion = Literal["concat", "sum", "film", "gated"]

MEAN_MOMENTUM = 0.1  # of the running feature means, as batch norm's


class Unimodal(nn.Module):
    """One encoder and one linear layer."""

    def __init__(self, modality: Modality, classes: int, *, width: int = WIDTH) -> None:
        super().__init__()
        encoder = Encoder(modality, width=width)
        self.encoders = nn.ModuleDict({modality: encoder})
        self.head = nn.Linear(encoder.features, classes)
        initialize(self.head)

    def forward(self, batch: Batch) -> Outputs:
        """Logits [B, classes]; the network has no unimodal parts, it is one."""
        (encoder,) = self.encoders.values()
        return Outputs(logits=full_precision(self.head(encoder(batch))))


class LateFusion(nn.Module):
    """Both encoders and a head that joins their features; every fusion has unimodal parts, defined by its head."""

    def __init__(self, classes: int, fusion: Fusion = "concat", *, width: int = WIDTH) -> None:
        super().__init__()
        encoders = encoder_a_modality(width)
        self.encoders = nn.ModuleDict(encoders)
        self.head = FUSIONS[fusion](encoders["audio"].features, classes)
        initialize(self.head)

    def forward(self, batch: Batch) -> Outputs:
        """Logits and unimodal logits, [B, classes] each."""
        features = torch.cat([self.encoders[modality](batch) for modality in MODALITIES], dim=1)
        logits = full_precision(self.head(features))
        # The parts are for reading: no gradient flows through them, and none is prepared.
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            parts = self.head.parts(full_precision(features))
        return Outputs(logits=logits, unimodal_logits=parts)


class Head(nn.Module, ABC):
    """What joins the features of both modalities, [B, 2 x features] with audio first, into logits [B, classes]."""

    description: ClassVar[str]  # for the tables

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, classes]."""

    @abstractmethod
    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """What the head makes of each modality, [B, classes] each; a collective in training mode."""


class ConcatHead(nn.Linear, Head):
    """One linear layer over both.

    It adds up what it makes of each modality: z = z_audio + z_visual with z_u = W_u phi_u + b / 2, where W_u are the
    columns of W that read modality u (Peng et al. 2022, equation 2).
    """

    description = "concatenated, one linear layer"

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(len(MODALITIES) * features, classes)

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """The two terms, with half of the bias each."""
        columns, share_of_bias = by_modality(self.weight), self.bias / len(MODALITIES)
        return {
            modality: F.linear(part, columns[modality], share_of_bias)
            for modality, part in by_modality(features).items()
        }


class SumHead(Head):
    """A linear layer a modality, added: z = (W_audio phi_audio + b_audio) + (W_visual phi_visual + b_visual).

    A part is its layer's output with that layer's full bias, in training and evaluation; the published code halves the
    bias in evaluation only, which makes the parts of one network two different things.
    """

    description = "a linear layer on each, logits added"

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({modality: nn.Linear(features, classes) for modality in MODALITIES})

    def forward(self, features: Tensor) -> Tensor:
        """The sum, in full precision."""
        audio, visual = (full_precision(part) for part in self.parts(features).values())
        return audio + visual

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """Each layer's output."""
        return {modality: self.layers[modality](part) for modality, part in by_modality(features).items()}


class MeanReplacingHead(Head):
    """A head that does not add up over modalities: a part is its output with the other modality's features replaced.

    Replaced by their mean over the global batch in training, by a running mean in evaluation. The running mean is
    updated in training mode only: the average of all batches until there are ten, then exponential with
    `MEAN_MOMENTUM`.
    """

    running_mean: Tensor  # [2 x features]
    batches: Tensor  # int64, how many the running mean has seen

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(len(MODALITIES) * features))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """The head's output for each modality as if it knew nothing of the other clip by clip."""
        means = by_modality((self._batch_mean(features) if self.training else self.running_mean).expand_as(features))
        known = by_modality(features)
        return {
            modality: self(torch.cat([(known if each == modality else means)[each] for each in MODALITIES], dim=1))
            for modality in MODALITIES
        }

    def _batch_mean(self, features: Tensor) -> Tensor:
        """Mean over the global batch, [2 x features], which the running mean takes in."""
        # Sums and counts first: ranks hold different numbers of clips. One reduction for all.
        total = sum_over_ranks(torch.cat([features.sum(dim=0), features.new_full((1,), len(features))]))
        seen = total[-1] > 0
        self.batches.add_(seen)
        mean = torch.where(seen, total[:-1] / total[-1].clamp(min=1), self.running_mean)
        weight = self.batches.clamp(min=1).to(mean.dtype).reciprocal().clamp(min=MEAN_MOMENTUM)
        self.running_mean.lerp_(mean, weight)
        return mean


class FiLMHead(MeanReplacingHead):
    """Audio scales and shifts the visual features.

    z = W (gamma * phi_visual + beta) + b with (gamma, beta) = V phi_audio + c.

    Perez et al. 2018 (arXiv 1709.07871), in the direction of OGM-GE's published network.
    """

    description = "FiLM of the visual features by audio, one linear layer"

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features)
        self.modulation = nn.Linear(features, 2 * features)
        self.output = nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, classes]."""
        audio, visual = features.chunk(2, dim=1)
        gamma, beta = self.modulation(audio).chunk(2, dim=1)
        return self.output(gamma * visual + beta)


class GatedHead(MeanReplacingHead):
    """Audio gates the visual features.

    z = W (sigmoid(V_audio phi_audio + c_audio) * (V_visual phi_visual + c_visual)) + b.

    Kiela et al. 2018 (arXiv 1802.02892), in the direction of OGM-GE's published network.
    """

    description = "visual features gated by audio, one linear layer"

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features)
        self.layers = nn.ModuleDict({modality: nn.Linear(features, features) for modality in MODALITIES})
        self.output = nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, classes]."""
        projected = {modality: self.layers[modality](part) for modality, part in by_modality(features).items()}
        return self.output(torch.sigmoid(projected["audio"]) * projected["visual"])


FUSIONS: dict[Fusion, type[Head]] = {
    "concat": ConcatHead,
    "sum": SumHead,
    "film": FiLMHead,
    "gated": GatedHead,
}


def by_modality(features: Tensor) -> dict[Modality, Tensor]:
    """The columns of [N, 2 x features] that belong to each modality, audio first; views."""
    return dict(zip(MODALITIES, features.chunk(len(MODALITIES), dim=1), strict=True))


def full_precision(tensor: Tensor) -> Tensor:
    """In float32; float64 stays as it is. Softmax and losses are never taken in bf16."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
