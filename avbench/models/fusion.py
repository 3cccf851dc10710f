"""Networks over encoders: one modality alone, and late fusion of both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avbench.batch import MODALITIES, Batch, Modality, Outputs
from avbench.models.resnet import FEATURES, Encoder, initialize


class Unimodal(nn.Module):
    """One encoder and one linear layer."""

    def __init__(self, modality: Modality, classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({modality: Encoder(modality)})
        self.head = nn.Linear(FEATURES, classes)
        initialize(self.head)

    def forward(self, batch: Batch) -> Outputs:
        """Logits [B, classes]; the network has no unimodal parts, it is one."""
        (encoder,) = self.encoders.values()
        return Outputs(logits=full_precision(self.head(encoder(batch))))


class LateFusion(nn.Module):
    """Both encoders, features concatenated (audio first), one linear layer.

    The head adds up what it makes of each modality: z = z_audio + z_visual with z_u = W_u phi_u + b / 2, where W_u are
    the columns of W that read modality u (Peng et al. 2022, equation 2).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({modality: Encoder(modality) for modality in MODALITIES})
        self.head = nn.Linear(len(MODALITIES) * FEATURES, classes)
        initialize(self.head)

    def forward(self, batch: Batch) -> Outputs:
        """Logits and unimodal logits, [B, classes] each."""
        features = torch.cat([self.encoders[modality](batch) for modality in MODALITIES], dim=1)
        logits = full_precision(self.head(features))
        # Detached: the parts are for reading; the gradient flows through the sum.
        columns = full_precision(self.head.weight.detach()).chunk(len(MODALITIES), dim=1)
        parts = full_precision(features.detach()).chunk(len(MODALITIES), dim=1)
        share_of_bias = full_precision(self.head.bias.detach()) / len(MODALITIES)
        with torch.autocast(features.device.type, enabled=False):
            unimodal: dict[str, Tensor] = {
                modality: part @ column.T + share_of_bias
                for modality, part, column in zip(MODALITIES, parts, columns, strict=True)
            }
        return Outputs(logits=logits, unimodal_logits=unimodal)


def full_precision(tensor: Tensor) -> Tensor:
    """In float32; float64 stays as it is. Softmax and losses are never taken in bf16."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
