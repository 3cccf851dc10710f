"""Batch norm over the global batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from avbench.distributed import current_world, sum_over_ranks

_CPU = torch.device("cpu")


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the global batch, on any device (torch's SyncBatchNorm refuses a CPU).

    Sums and counts are reduced over ranks before any ratio is taken, and the reduction is differentiable, so a step
    does not depend on how the batch is cut into ranks. Two reductions, mean first, then the centred squares: exact
    enough in float32. A rank without clips takes part.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalized input [B, C, H, W]."""
        if not self.training:
            return super().forward(input)
        values = input.double() if input.dtype == torch.float64 else input.float()
        axes = (0, 2, 3)
        count = sum_over_ranks(values.new_full((), values.numel() / values.shape[1])).clamp(min=1.0)
        mean = _differentiable_sum(values.sum(axes)) / count
        centred = values - mean[:, None, None]
        variance = _differentiable_sum(centred.square().sum(axes)) / count
        self._update(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise ValueError("GlobalBatchNorm2d keeps running statistics with a momentum")
        unbiased = variance * (count / (count - 1.0).clamp(min=1.0))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class _Sum(torch.autograd.Function):
    """Sum over ranks, whose gradient is the sum over ranks of the gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return sum_over_ranks(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient.contiguous())


def _differentiable_sum(value: Tensor) -> Tensor:
    return _Sum.apply(value)


def over_the_global_batch(module: nn.Module, device: torch.device = _CPU) -> nn.Module:
    """The module with every BatchNorm2d replaced by one over the global batch, parameters and buffers kept.

    device: where it is going to train. On a GPU torch's SyncBatchNorm does it: one collective forward and one backward
    instead of two each, in fused kernels. A rank without clips takes part there too, its statistics left out of the
    mean; a batch that is empty on all ranks, of which SyncBatchNorm would make nothing sensible, never comes
    (`Engine.micro_batches`, and the trainer skips such a step). On a CPU it refuses to work: there it is ours.
    """
    kind = nn.SyncBatchNorm if device.type == "cuda" and current_world().size > 1 else GlobalBatchNorm2d
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = kind(child.num_features, eps=child.eps, momentum=child.momentum).to(child.weight)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            over_the_global_batch(child, device)
    return module
