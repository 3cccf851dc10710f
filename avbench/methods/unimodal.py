"""Each modality alone: one encoder, one linear layer. Their true-label confidences are what the analysis rests on."""

from __future__ import annotations

from torch import nn

from avbench.methods.base import Method
from avbench.models.fusion import Unimodal


class _Alone(Method):
    def build_model(self) -> nn.Module:
        """One encoder, one linear layer."""
        (modality,) = self.modalities
        return Unimodal(modality, self.classes, width=self.width)


class Audio(_Alone):
    """The audio network of Xia et al. 2023, section 2.1."""

    name = "audio"
    network = "ResNet-18 on audio"
    modalities = ("audio",)
    confidence_of = "audio"


class Visual(_Alone):
    """The visual network of Xia et al. 2023, section 2.1."""

    name = "visual"
    network = "ResNet-18 on frames"
    modalities = ("visual",)
    confidence_of = "visual"
