"""Two encoders that gate each other's channels while they compute: MMTM blocks, and the network of Greedy.

MMTM, squeeze and excitation across modalities: Joze, Shaban, Iuzzolino, Koishida, CVPR 2020 (arXiv 1911.08670). The
network, and gates that can be replaced by their running averages: Wu, Jastrzebski, Cho, Geras, ICML 2022 (arXiv
2202.05306).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from avbench.batch import Batch, Outputs
from avbench.models.fusion import full_precision
from avbench.models.resnet import STAGES, Encoder, encoder_a_modality, initialize
from avbench.models.width import WIDTH
from avbench.vocabulary import MODALITIES, Modality

_REDUCTION = 4  # of the width between squeeze and gates
_UNMEASURED_GATE = 0.5  # an average before there was any step to average over: a gate's value at input 0


class Squeeze(nn.Module):
    """Mean of maps [B, K, C, H, W] over frames and space, [B, C], in float32 at least.

    A module, though it has no parameters, so that what it returns can be read and replaced from outside.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C]."""
        # Summed in full precision, and no copy of the maps is made for it.
        return maps.mean(dim=(1, 3, 4), dtype=torch.float64 if maps.dtype == torch.float64 else torch.float32)


class Gate(nn.Module):
    """Gates of one modality's channels, g = sigmoid(W h) in (0, 1), and their running average.

    average: [channels], a buffer; see `MMTMFusion.average_in`.
    """

    average: Tensor

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.excitation = nn.Linear(width, channels)
        self.register_buffer("average", torch.full((channels,), _UNMEASURED_GATE))

    def forward(self, joint: Tensor) -> Tensor:
        """Gates [B, channels] from the block's joint vector [B, width]."""
        return torch.sigmoid(self.excitation(joint))


class MMTM(nn.Module):
    """One block: gates for every modality's channels, from what all of them hold.

    h = relu(W_s [GAP(x_audio); GAP(x_visual)]), g_u = sigmoid(W_u h), x_u <- x_u * g_u. Width of h: half of all
    channels. channels: of each modality's maps.
    """

    def __init__(self, channels: Mapping[Modality, int]) -> None:
        super().__init__()
        total = sum(channels.values())
        width = int(2 * total / _REDUCTION)
        self.squeezes = nn.ModuleDict({modality: Squeeze() for modality in channels})
        self.shared = nn.Linear(total, width)
        self.gates = nn.ModuleDict({modality: Gate(width, count) for modality, count in channels.items()})

    def forward(self, maps: Mapping[Modality, Tensor], rebalanced: Modality | None = None) -> dict[Modality, Tensor]:
        """Gates [B, C] of each modality, in float32 at least, from its maps [B, K, C, H, W].

        rebalanced: the modality whose gates are their running averages instead, the same for every clip.
        """
        squeezed = torch.cat([self.squeezes[modality](maps[modality]) for modality in MODALITIES], dim=1)
        with torch.autocast(squeezed.device.type, enabled=False):
            joint = torch.relu(self.shared(squeezed))
            gates = {modality: cast(Gate, self.gates[modality]) for modality in MODALITIES}
            return {
                modality: gate.average.expand(len(joint), -1) if modality == rebalanced else gate(joint)
                for modality, gate in gates.items()
            }


class MMTMFusion(nn.Module):
    """Two ResNet-18s joined by an MMTM block after stages 2, 3 and 4; a head on each, logits averaged.

    A clip's K frames share their gates, and the squeeze of the visual maps averages over them too.
    rebalanced: the modality whose gates the next training forward replaces by their running averages; None is the
    regular network, which is also what evaluates, always. Set it through `rebalancing`.
    """

    averaged_steps: Tensor

    def __init__(self, classes: int, *, width: int = WIDTH) -> None:
        super().__init__()
        encoders = encoder_a_modality(width)
        self.encoders = nn.ModuleDict(encoders)
        self.blocks = nn.ModuleDict(
            {str(stage): MMTM({name: encoders[name].channels(stage) for name in MODALITIES}) for stage in STAGES}
        )
        self.pools = nn.ModuleDict({modality: Squeeze() for modality in MODALITIES})
        self.heads = nn.ModuleDict({name: nn.Linear(each.features, classes) for name, each in encoders.items()})
        self.register_buffer("averaged_steps", torch.zeros((), dtype=torch.long))
        self.rebalanced: Modality | None = None
        initialize(self.blocks)
        initialize(self.heads)

    def forward(self, batch: Batch) -> Outputs:
        """Logits, the mean of both branches', and each branch's as unimodal logits, with their gradients.

        extras: in a regular forward "gates" [B, all gates], detached, as `average_in` wants their mean.
        """
        rebalanced = self.rebalanced if self.training else None
        encoders = {modality: cast(Encoder, self.encoders[modality]) for modality in MODALITIES}
        maps = {modality: encoder.stem(batch) for modality, encoder in encoders.items()}
        gates: list[Tensor] = []
        for stage, block in self.blocks.items():
            maps = {modality: encoder.stage(int(stage), maps[modality]) for modality, encoder in encoders.items()}
            of_stage = block(maps, rebalanced)
            maps = {modality: _gated(maps[modality], of_stage[modality]) for modality in MODALITIES}
            gates += of_stage.values()
        logits: dict[str, Tensor] = {
            modality: full_precision(self.heads[modality](self.pools[modality](maps[modality])))
            for modality in MODALITIES
        }
        return Outputs(
            logits=torch.stack(list(logits.values())).mean(dim=0),
            unimodal_logits=logits,
            extras={"gates": torch.cat(gates, dim=1).detach()} if rebalanced is None else {},
        )

    @contextmanager
    def rebalancing(self, modality: Modality | None) -> Iterator[None]:
        """Training forwards in this context have that modality's gates replaced; None: they are regular."""
        self.rebalanced = modality
        try:
            yield
        finally:
            self.rebalanced = None

    @torch.no_grad()
    def average_in(self, gates: Tensor) -> None:
        """Take one regular step's gates into the running averages, which are the means over all such steps.

        gates: the mean over the step's global batch of `extras["gates"]`. Until the first step all averages are 0.5.
        """
        self.averaged_steps += 1
        # In the order of `extras["gates"]`: by stage, then by modality.
        averages = [cast(Gate, block.gates[modality]).average for block in self._blocks() for modality in MODALITIES]
        for average, mean in zip(averages, gates.split([len(average) for average in averages]), strict=True):
            average += (mean.to(average.dtype) - average) / self.averaged_steps

    def main_parameters(self, modality: Modality) -> list[nn.Parameter]:
        """The own parameters of a modality's branch: its encoder and head."""
        return [*self.encoders[modality].parameters(), *self.heads[modality].parameters()]

    def bypass_parameters(self, modality: Modality) -> list[nn.Parameter]:
        """The fusion parameters of a modality's branch, which bring the other modality in: the W_u of all blocks, and
        their W_s, which count in both branches."""
        modules = [part for block in self._blocks() for part in (block.gates[modality], block.shared)]
        return [parameter for module in modules for parameter in module.parameters()]

    def feature_modules(self, modality: Modality) -> list[nn.Module]:
        """The modules whose outputs are all that gates and heads see of a modality: its squeezes, its pooled features.

        With these outputs held constant the other branch's gates do not depend on the modality, and the modality's own
        logits are constant.
        """
        return [*(block.squeezes[modality] for block in self._blocks()), self.pools[modality]]

    def _blocks(self) -> list[MMTM]:
        return [cast(MMTM, block) for block in self.blocks.values()]


def _gated(maps: Tensor, gates: Tensor) -> Tensor:
    """Maps [B, K, C, H, W] times gates [B, C], in the maps' precision."""
    return maps * gates.to(maps.dtype)[:, None, :, None, None]
