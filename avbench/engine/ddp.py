"""The engine over a process group: every rank holds the whole network and optimizer."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from avbench.batch import Batch, Outputs
from avbench.engine.config import OptimizerConfig
from avbench.engine.plain import Engine
from avbench.errors import UsageError


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

    def forward(self, batch: Batch) -> Outputs:
        """As Engine's. Raises UsageError where the step before left a parameter without a gradient, unannounced."""
        try:
            return super().forward(batch)
        except RuntimeError as error:
            if "Expected to have finished reduction" not in str(error):
                raise
            names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
            first = re.search(r"did not receive grad for rank \d+: *(\d+)", str(error))
            named = f", beginning with {names[int(first[1])]!r}" if first else ""
            raise UsageError(
                f"a method's step left parameters of its network without a gradient{named}, and over ranks these have "
                f"to be known: leaves_unused_parameters = True in the method's class says that a step may do so"
            ) from None

    def _synchronization(self) -> AbstractContextManager[Any]:
        """Gradients of all micro-batches but the last stay on their rank."""
        if self._is_last or not self.model.training:
            return nullcontext()
        return cast(DistributedDataParallel, self._callable).no_sync()

    def _clear_grads(self) -> None:
        # The buckets are the gradients: they are zeroed, not dropped, or DDP would allocate them again.
        self.optimizer.zero_grad(set_to_none=False)
