"""Both encoders, a head on each, and a joint head on the concatenation: Gradient-Blending's network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avbench.batch import Batch, Outputs
from avbench.models.fusion import full_precision
from avbench.models.resnet import encoder_a_modality, initialize
from avbench.models.width import WIDTH
from avbench.vocabulary import MODALITIES

JOINT = "joint"
HEADS = (*MODALITIES, JOINT)  # the order of Wang et al. 2020, table 1


class MultiHead(nn.Module):
    """Two ResNet-18s, a linear layer on each, and one on their concatenated features (audio first)."""

    def __init__(self, classes: int, *, width: int = WIDTH) -> None:
        super().__init__()
        encoders = encoder_a_modality(width)
        self.encoders = nn.ModuleDict(encoders)
        features = encoders["audio"].features
        self.heads = nn.ModuleDict({head: nn.Linear(len(_read_by(head)) * features, classes) for head in HEADS})
        initialize(self.heads)

    def forward(self, batch: Batch) -> Outputs:
        """Logits of the joint head; unimodal logits, with their gradient, of the other two; [B, classes] each."""
        features = {modality: self.encoders[modality](batch) for modality in MODALITIES}
        logits = {head: _logits(self.heads[head], features, head) for head in HEADS}
        return Outputs(logits=logits[JOINT], unimodal_logits={name: logits[name] for name in MODALITIES})

    def branch(self, head: str) -> Branch:
        """What one head hangs on, sharing this network's parameters."""
        return Branch(self, head)


class Branch(nn.Module):
    """One head of a MultiHead, and the encoders that it reads."""

    def __init__(self, network: MultiHead, head: str) -> None:
        super().__init__()
        self.head_name = head
        self.encoders = nn.ModuleDict({modality: network.encoders[modality] for modality in _read_by(head)})
        self.head = network.heads[head]

    def forward(self, batch: Batch) -> Outputs:
        """Logits of this head, [B, classes]."""
        features = {modality: encoder(batch) for modality, encoder in self.encoders.items()}
        return Outputs(logits=_logits(self.head, features, self.head_name))


def _read_by(head: str) -> Sequence[str]:
    return MODALITIES if head == JOINT else (head,)


def _logits(layer: nn.Module, features: Mapping[Any, Tensor], head: str) -> Tensor:
    return full_precision(layer(torch.cat([features[modality] for modality in _read_by(head)], dim=1)))
