"""Which engine a run trains under."""

from __future__ import annotations

import torch
from torch import nn

from avbench.distributed import current_world
from avbench.engine.compiled import check_compiles
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.ddp import DDPEngine
from avbench.engine.deepspeed_settings import settings_with
from avbench.engine.plain import Engine
from avbench.errors import UsageError

_DEFAULT = EngineConfig()


def build_engine(
    model: nn.Module,
    *,
    optimizer: OptimizerConfig,
    device: torch.device,
    dtype: torch.dtype,
    leaves_unused_parameters: bool,
    engine: EngineConfig = _DEFAULT,
) -> Engine:
    """The engine that is asked for; of ddp, the plain one in one process. A collective.

    Raises UsageError for what DeepSpeed cannot do, or torch cannot compile.
    """
    accumulation = engine.accumulation
    if engine.engine == "deepspeed":
        if dtype == torch.float64:
            raise UsageError("precision is float64, and DeepSpeed reduces in float32; use --engine ddp")
        # DeepSpeed takes a second to import.
        from avbench.engine.deepspeed import deepspeed_engine

        settings = settings_with(engine.deepspeed_config, clip_norm=optimizer.clip_norm)
        return deepspeed_engine(
            model, optimizer=optimizer, device=device, dtype=dtype, accumulation=accumulation, settings=settings
        )
    if engine.compile:
        check_compiles(model, device)
    if current_world().size == 1:
        return Engine(
            model, optimizer=optimizer, device=device, dtype=dtype, accumulation=accumulation, compiles=engine.compile
        )
    return DDPEngine(
        model,
        optimizer=optimizer,
        device=device,
        dtype=dtype,
        accumulation=accumulation,
        compiles=engine.compile,
        leaves_unused_parameters=leaves_unused_parameters,
    )
