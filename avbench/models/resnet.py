"""ResNet-18 encoders for spectrograms and frames."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from avbench.batch import Batch, Modality

FEATURES = 512  # channels of ResNet-18's last stage
_STEM_CHANNELS = {"audio": 1, "visual": 3}


class Encoder(nn.Module):
    """torchvision's ResNet-18 without its classifier, for one modality; randomly initialized.

    The audio stem takes one channel. A clip's K frames go through as separate images; their features are averaged over
    frames and space (OGM-GE's published network does the same).
    """

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.modality = modality
        network = torchvision.models.resnet18(weights=None)
        network.fc = nn.Identity()
        if _STEM_CHANNELS[modality] != 3:
            network.conv1 = nn.Conv2d(_STEM_CHANNELS[modality], 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.network = network
        initialize(self)

    def forward(self, batch: Batch) -> Tensor:
        """Features [B, 512] of the batch's spectrograms or frames."""
        if self.modality == "audio":
            if batch.audio is None:
                raise ValueError("the audio encoder was given a batch without audio")
            return self.network(batch.audio.contiguous(memory_format=torch.channels_last))
        if batch.frames is None:
            raise ValueError("the visual encoder was given a batch without frames")
        clips, frames = batch.frames.shape[:2]
        images = batch.frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.network(images).view(clips, frames, FEATURES).mean(dim=1)


def initialize(module: nn.Module) -> None:
    """Random initialization of the published comparisons: Kaiming normal (fan out) for convolutions, Xavier normal for
    linear layers, biases 0, batch norm 1 and 0. Draws from torch's global generator.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
