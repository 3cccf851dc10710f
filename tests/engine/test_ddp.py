"""The engine over a process group, where a method does not say what it should."""

import pytest
import torch

from avbench.engine.choice import build_engine
from avbench.engine.config import EngineConfig
from avbench.errors import UsageError
from tests.engine.small import CPU, SGD, Small, take_steps
from tests.processes import run_on_ranks


def check_unannounced() -> None:
    engine = build_engine(
        Small(),
        optimizer=SGD,
        device=CPU,
        dtype=torch.float32,
        leaves_unused_parameters=False,
        engine=EngineConfig(engine="ddp"),
    )
    with pytest.raises(UsageError, match=r"beginning with 'unused'.*leaves_unused_parameters = True"):
        take_steps(engine, [2, 2], range(2))


def test_a_parameter_without_a_gradient_that_nobody_announced_is_named() -> None:
    run_on_ranks(2, check_unannounced)
