"""The baseline of the field: late fusion by concatenation, one head, cross-entropy."""

from __future__ import annotations

from torch import nn

from avbench.methods.base import Method
from avbench.models.fusion import LateFusion


class Baseline(Method):
    """Two ResNet-18s, features concatenated, one linear layer."""

    name = "baseline"
    network = "two ResNet-18s, concatenated, one linear layer"

    def build_model(self) -> nn.Module:
        """Late fusion by concatenation."""
        return LateFusion(self.classes)
