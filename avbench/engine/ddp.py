"""The engine over a process group: every rank holds the whole network and optimizer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from avbench.engine.config import OptimizerConfig
from avbench.engine.plain import Engine


class DDPEngine(Engine):
    """DistributedDataParallel, gradients averaged while backward runs."""

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: OptimizerConfig,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        accumulation: int = 1,
        compiles: bool = False,
        leaves_unused_parameters: bool = False,
    ) -> None:
        super().__init__(
            model, optimizer=optimizer, device=device, dtype=dtype, accumulation=accumulation, compiles=compiles
        )
        self._leaves_unused_parameters = leaves_unused_parameters
        self._callable = DistributedDataParallel(
            self._callable,
            device_ids=[device] if device.type == "cuda" else None,
            # Without it a branch that gets no gradient is not averaged, silently in the first step.
            find_unused_parameters=leaves_unused_parameters,
            # Per-rank batch norm, as published; the statistics are averaged before evaluating and saving.
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )

    def _anew(self, model: nn.Module) -> Engine:
        return DDPEngine(
            model,
            optimizer=self._config,
            device=self.device,
            dtype=self.dtype,
            accumulation=self.accumulation,
            leaves_unused_parameters=self._leaves_unused_parameters,
        )

    def _synchronization(self) -> AbstractContextManager[Any]:
        """Gradients of all micro-batches but the last stay on their rank."""
        if self._is_last or not self.model.training:
            return nullcontext()
        return cast(DistributedDataParallel, self._callable).no_sync()

    def _clear_grads(self) -> None:
        # The buckets are the gradients: they are zeroed, not dropped, or DDP would allocate them again.
        self.optimizer.zero_grad(set_to_none=False)
