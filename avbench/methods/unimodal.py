"""Each modality alone: one encoder, one linear layer. Their true-label confidences are what the analysis rests on."""

from __future__ import annotations

from torch import nn

from avbench.methods.base import Costs, Method
from avbench.models.fusion import Unimodal


class _Alone(Method):
    paper = "Xia et al., Balanced Audiovisual Dataset for Imbalance Analysis, CVPR workshop 2023, arXiv 2302.10912"
    mechanism = "Learns from one modality alone; its confidence in the true label says how much that modality reveals."
    costs = Costs(encoders=1)

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
