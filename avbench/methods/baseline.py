"""The baseline of the field: late fusion of two ResNet-18s, one head, cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from avbench.methods.base import Method
from avbench.models.fusion import FUSIONS, Fusion, LateFusion


class Baseline(Method):
    """Two ResNet-18s, joined by one of the fusions, trained as if they were one network."""

    @dataclass(frozen=True)
    class Config:
        """Options of the baseline."""

        fusion: Fusion = "concat"
        """How the head joins the features: concatenated, added logits, FiLM, or gated (the last two by audio)."""

    name = "baseline"
    mechanism = "Learns both modalities jointly, and does nothing against imbalance."

    @property
    def network(self) -> str:  # type: ignore[override]
        """What the tables say the network is."""
        return f"two ResNet-18s, {FUSIONS[self.config.fusion].description}"

    def build_model(self) -> nn.Module:
        """Late fusion."""
        return LateFusion(self.classes, self.config.fusion, width=self.width)
