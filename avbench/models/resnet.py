"""ResNet-18 encoders for spectrograms and frames."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from avbench.batch import Batch
from avbench.models.width import WIDTH
from avbench.vocabulary import MODALITIES, Modality

if TYPE_CHECKING:
    import torchvision

STAGES = (2, 3, 4)
_STEM_CHANNELS = {"audio": 1, "visual": 3}


class Encoder(nn.Module):
    """torchvision's ResNet-18 without its classifier, for one modality; randomly initialized.

    The audio stem takes one channel. A clip's K frames go through as separate images; their features are averaged over
    frames and space (OGM-GE's published network does the same). width: channels of the first stage; the published
    network has 64, and 512 features.
    """

    def __init__(self, modality: Modality, *, width: int = WIDTH) -> None:
        super().__init__()
        self.modality = modality
        self.width = width
        import torchvision  # and with it torch._dynamo: over a second, for which no other command should wait

        # Of another width nothing of what is made here stays: nothing is drawn for it.
        with nullcontext() if width == WIDTH else torch.device("meta"):
            network = torchvision.models.resnet18(weights=None)
        network.fc = nn.Identity()
        if _STEM_CHANNELS[modality] != 3 or width != WIDTH:
            network.conv1 = nn.Conv2d(_STEM_CHANNELS[modality], width, kernel_size=7, stride=2, padding=3, bias=False)
        if width != WIDTH:
            _make_stages(network, width)
        self.network = network
        initialize(self)

    @property
    def features(self) -> int:
        """How many features a clip gets: the channels of the last stage."""
        return self.channels(STAGES[-1])

    def channels(self, stage: int) -> int:
        """Channels of the maps after a stage, from 1 to 4."""
        return self.width << (stage - 1)

    def forward(self, batch: Batch) -> Tensor:
        """Features [B, features] of the batch's spectrograms or frames."""
        images = self.images(batch)
        return self.network(_folded(images)).unflatten(0, images.shape[:2]).mean(dim=1)

    def images(self, batch: Batch) -> Tensor:
        """What the encoder reads of a batch, [B, K, C, H, W]; a spectrogram is one image."""
        if self.modality == "audio":
            if batch.audio is None:
                raise ValueError("the audio encoder was given a batch without audio")
            return batch.audio[:, None]
        if batch.frames is None:
            raise ValueError("the visual encoder was given a batch without frames")
        return batch.frames

    # For networks that join encoders between their stages: the stem and stages 2, 3 and 4, one by one.

    def stem(self, batch: Batch) -> Tensor:
        """Maps [B, K, width, H, W] after the first stage, of each image."""
        images = self.images(batch)
        network = self.network
        maps = network.maxpool(network.relu(network.bn1(network.conv1(_folded(images)))))
        return network.layer1(maps).unflatten(0, images.shape[:2])

    def stage(self, number: int, maps: Tensor) -> Tensor:
        """Maps [B, K, channels(number), H, W] after a stage, from those after the one before it."""
        stage = self.network.get_submodule(f"layer{number}")
        return stage(_folded(maps)).unflatten(0, maps.shape[:2])


def encoder_a_modality(width: int = WIDTH) -> dict[str, Encoder]:
    """An encoder for each modality, audio first, both of one width."""
    return {modality: Encoder(modality, width=width) for modality in MODALITIES}


def _make_stages(network: torchvision.models.ResNet, width: int) -> None:
    """Give torchvision's ResNet-18 stages of another width; its constructor knows only 64."""
    import torchvision

    network.inplanes = width
    network.bn1 = nn.BatchNorm2d(width)
    for stage in range(1, 5):
        blocks = network._make_layer(
            torchvision.models.resnet.BasicBlock, width << (stage - 1), 2, stride=1 if stage == 1 else 2
        )
        setattr(network, f"layer{stage}", blocks)


def _folded(images: Tensor) -> Tensor:
    """Images [B, K, C, H, W] as a batch [B K, C, H, W] in channels-last memory; a view where they lie so already."""
    # One image a clip is taken as it lies: flattening gives an axis of one channel another stride, by which
    # convolutions may choose another algorithm.
    flat = images[:, 0] if images.shape[1] == 1 else images.flatten(0, 1)
    return flat.contiguous(memory_format=torch.channels_last)


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
