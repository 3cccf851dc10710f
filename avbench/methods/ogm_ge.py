"""OGM-GE: slow the modality that is ahead, and make up for the lost gradient noise (Peng et al., CVPR 2022).

arXiv 2203.15332, sections 3.2 and 3.3; published code GeWu-Lab/OGM-GE_CVPR2022. Where this departs from that code: a
ratio of exactly 1 slows neither modality, as in the paper (the code slows audio); scores are summed over the global
batch before the ratio is taken; a kernel is known by its encoder and its shape, not by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from avbench.batch import Batch, Clock, Outputs
from avbench.engine.plain import Engine
from avbench.methods.base import Log, RunView, step_generator
from avbench.methods.baseline import Baseline
from avbench.vocabulary import MODALITIES, Modality


class OGMGE(Baseline):
    """The baseline with on-the-fly gradient modulation and generalization enhancement."""

    @dataclass(frozen=True)
    class Config(Baseline.Config):
        """Options of OGM-GE; the fusion is the baseline's."""

        alpha: float = 0.1
        """How hard the stronger modality is slowed, >= 0; published: 0.1 for VGG-Sound, 0.8 for CREMA-D."""
        noise: bool = True
        """Add noise to the modulated gradients (the GE in the name); false is plain OGM."""
        start: int = 0
        """First epoch that is modulated, from 0."""
        end: int = 50
        """Last epoch that is modulated, inclusive."""

        def __post_init__(self) -> None:
            if not 0 <= self.alpha < float("inf"):
                raise ValueError(f"alpha is {self.alpha}, expected a number >= 0")
            if self.start < 0:
                raise ValueError(f"start is {self.start}, expected an epoch, counted from 0")
            if self.end < self.start:
                raise ValueError(f"end is {self.end}, expected an epoch >= start, which is {self.start}")

    name = "ogm-ge"
    paper = (
        "Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation, CVPR 2022, arXiv 2203.15332, "
        "sections 3.2 and 3.3"
    )
    mechanism = "Scales down the gradients of the encoder whose modality is ahead, and makes up for the lost noise."

    def before_epoch(self, run: RunView) -> None:
        """Says once where the optimizer undoes the modulation."""
        if run.clock.epoch == 0 and run.engine.rescales_gradients:
            run.say(
                "ogm-ge multiplies gradients by a factor, which an Adam-like optimizer divides out again: "
                "the modulation has next to no effect; --optimizer sgd is what the paper uses"
            )

    def after_backward(self, engine: Engine, outputs: Outputs, batch: Batch, clock: Clock) -> Log:
        """Modulate the convolution kernels of both encoders; logs ratios and coefficients."""
        # Over ranks the mean: a common factor of both scores, which the ratio is free of.
        score = dict(zip(MODALITIES, engine.mean(true_label_scores(outputs, batch.label)), strict=True))
        ratio = ratios(score)
        if self.config.start <= clock.epoch <= self.config.end:
            coefficient = {modality: slowing(ratio[modality], alpha=self.config.alpha) for modality in MODALITIES}
            self._modulate(engine, coefficient, clock)
        else:
            coefficient = {modality: torch.ones_like(ratio[modality]) for modality in MODALITIES}
        return {
            **{f"ratio/{modality}": ratio[modality] for modality in MODALITIES},
            **{f"coefficient/{modality}": coefficient[modality] for modality in MODALITIES},
        }

    def _modulate(self, engine: Engine, coefficient: Mapping[Modality, Tensor], clock: Clock) -> None:
        generator = step_generator(self.seed, clock, engine.device) if self.config.noise else None
        encoders = cast(nn.ModuleDict, engine.model.encoders)
        for modality in MODALITIES:
            rewrite = partial(modulated, k=coefficient[modality], generator=generator)
            engine.update_grads(convolution_kernels(encoders[modality]), rewrite)


def true_label_scores(outputs: Outputs, label: Tensor) -> Tensor:
    """Sum over a batch of the probability that each modality's part gives the true label, [modalities] float64.

    s_u = sum over B of softmax(z_u)[y]. In the order of MODALITIES.
    """
    parts = torch.stack([outputs.unimodal_logits[modality].detach() for modality in MODALITIES])
    # float64: where a float32 probability would underflow to 0, the ratio is still right.
    probabilities = torch.softmax(parts.double(), dim=2)
    return probabilities.gather(2, label.expand(len(MODALITIES), -1)[..., None]).sum(dim=(1, 2))


def ratios(scores: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
    """How far each modality is ahead: rho_audio = s_audio / s_visual, and the reverse; finite for finite scores."""
    audio, visual = (scores[modality].clamp(min=torch.finfo(torch.float32).tiny) for modality in MODALITIES)
    return {"audio": audio / visual, "visual": visual / audio}


def slowing(ratio: Tensor, *, alpha: float) -> Tensor:
    """The factor of a modality's gradients: k = 1 - tanh(alpha rho) where rho > 1, else 1."""
    return torch.where(ratio > 1.0, 1.0 - torch.tanh(alpha * ratio), torch.ones_like(ratio))


def convolution_kernels(encoder: nn.Module) -> list[nn.Parameter]:
    """The 4-D parameters of an encoder: what is modulated; batch norm is left alone."""
    return [parameter for parameter in encoder.parameters() if parameter.ndim == 4]


def modulated(gradients: Sequence[Tensor], *, k: Tensor, generator: torch.Generator | None) -> list[Tensor]:
    """Each gradient times k, and noise where there is a generator: g <- k g + e, e ~ N(0, std(g)).

    std: the unbiased standard deviation of that tensor's gradient before it is multiplied. gradients: [O, I, H, W]
    each; they are rewritten in place and returned.
    """
    # One piece of memory for all kernels' noise: asking for another each time costs more than drawing a tenth of it.
    largest = max((gradient.numel() for gradient in gradients), default=0)
    memory = None if generator is None else gradients[0].new_empty(largest)
    for gradient in gradients:
        noise = None if generator is None else noise_like(gradient, generator, memory=memory)
        gradient.mul_(k)
        if noise is not None:
            gradient.add_(noise)
    return list(gradients)


def noise_like(gradient: Tensor, generator: torch.Generator, *, memory: Tensor | None = None) -> Tensor:
    """Normal noise with the mean 0 and the unbiased standard deviation of a gradient [O, I, H, W].

    An element's noise depends on its index and not on how the tensor lies in memory, which engines differ in: it is
    drawn in the order O, H, W, I, that of channels-last. memory: of at least as many numbers, overwritten, which the
    result lies in; without it, new.
    """
    channels_last = gradient.permute(0, 2, 3, 1)
    if memory is None:
        memory = gradient.new_empty(gradient.numel())
    noise = memory[: gradient.numel()].view(channels_last.shape)
    # Half the time of torch.std, and no copy for the noise: 11 million numbers an encoder are what OGM-GE costs.
    torch.sub(channels_last, gradient.mean(), out=noise)
    deviation = torch.linalg.vector_norm(noise) / (noise.numel() - 1) ** 0.5
    return noise.normal_(generator=generator).mul_(deviation).permute(0, 3, 1, 2)
