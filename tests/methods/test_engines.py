"""Every method under every engine: DeepSpeed's steps are DDP's, and can be gone on from.

DDP's are those of one process: test_every_method.py shows it, in float64. DeepSpeed computes in float32, where one
rounding is enough for one of many millions of activations to fall on the other side of a relu, which shows in the third
digit of some gradients. So networks are smooth here: where nothing jumps, five steps agree to 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from avbench.batch import Batch, Clock
from avbench.distributed import current_world
from avbench.engine.batch_norm import over_the_global_batch
from avbench.engine.choice import build_engine
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.plain import Engine
from avbench.methods.base import Method, Part
from avbench.methods.gradient_blending import GradientBlending
from tests.engine.small import own_slice, zero
from tests.marks import by_example
from tests.methods.steps import batch_of, thin
from tests.methods.test_every_method import CONFIGURED, ONE_A_METHOD
from tests.methods.test_gradient_blending import InMemory
from tests.processes import run_on_ranks

CPU = torch.device("cpu")
STEPS = 5
TWO = [4, 2]
# Micro-batches of more than one clip: of one clip's maps torch 2.11 has, behind other activations than relu, wrong
# gradients on a CPU, by how they lie in memory.
MORE = [9, 6]


@pytest.fixture(autouse=True)
def private_extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))


def smooth(module: nn.Module) -> nn.Module:
    """The module with every relu and maximum replaced by what has no kink."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.SiLU())
        elif isinstance(child, nn.MaxPool2d):
            setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
        else:
            smooth(child)
    return module


def configured(text: str, config: EngineConfig, *, dtype: torch.dtype, batch_norm: str) -> tuple[Method, Engine]:
    """A method and its engine; batch norm "evaluation" or "global", by neither of which slices matter."""
    method = thin(text)
    torch.manual_seed(0)
    model = smooth(method.build_model())
    engine = build_engine(
        over_the_global_batch(model) if batch_norm == "global" else model,
        optimizer=OptimizerConfig(),
        device=CPU,
        dtype=dtype,
        leaves_unused_parameters=method.leaves_unused_parameters,
        engine=config,
    )
    if batch_norm == "evaluation":
        for module in engine.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    return method, engine


class Float32(InMemory):
    """The parts of train that Gradient-Blending estimates on."""

    def batches(self, part: Part, *, epoch: int, training: bool, first_batch: int = 0) -> Iterator[Batch]:
        for batch in super().batches(part, epoch=epoch, training=training, first_batch=first_batch):
            assert batch.audio is not None and batch.frames is not None
            yield replace(batch, audio=batch.audio.float(), frames=batch.frames.float())


def take_step(method: Method, engine: Engine, number: int, counts: list[int] = TWO) -> dict[str, float]:
    counts = counts if current_world().size == 2 else [sum(counts)]
    batch = batch_of(sum(counts), seed=number, dtype=torch.float64 if engine.dtype == torch.float64 else torch.float32)
    step = method.train_step(engine, own_slice(batch, counts), Clock(0, number, 1))
    assert torch.isfinite(step.losses).all()
    return {f"log {number} {name}": float(value) for name, value in step.log.items()}


def state_of(engine: Engine) -> dict[str, np.ndarray]:
    state = engine.state_dict()
    found = {name: value.numpy().copy() for name, value in state["model"].items()}
    for number, of_parameter in state["optimizer"]["state"].items():
        found |= {f"optimizer {number} {name}": value.numpy().copy() for name, value in of_parameter.items()}
    return found


def estimate(text: str, config: EngineConfig) -> dict[str, float]:
    """Gradient-Blending's weights, from forks of its engine."""
    method, engine = configured(text, config, dtype=torch.float32, batch_norm="global")
    assert isinstance(method, GradientBlending)
    method.before_epoch(Float32(engine, Clock(0, 0, 1), TWO))
    engine.release()
    return method.weights


def train(
    text: str, config: EngineConfig, dtype: torch.dtype = torch.float32, counts: list[int] = TWO
) -> dict[str, np.ndarray | float]:
    """All that five steps leave behind, the last two of them from what was saved and loaded anew."""
    method, engine = configured(text, config, dtype=dtype, batch_norm="evaluation")
    logs: dict[str, float] = {}
    for number in range(STEPS):
        if number == 3:
            state, of_method = engine.state_dict(), method.state_dict()
            engine.release()
            method, engine = configured(text, config, dtype=dtype, batch_norm="evaluation")
            engine.load_state_dict(state)
            method.load_state_dict(of_method)
        logs |= take_step(method, engine, number, counts)
    found = {**state_of(engine), **logs}
    engine.release()
    return found


def check_same(found: Mapping[str, object], expected: Mapping[str, object], tolerance: float, text: str) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance, err_msg=f"{text}: {name}")


def check_deepspeed(text: str, stages: list[int]) -> None:
    expected = train(text, EngineConfig())
    for stage in stages:
        check_same(train(text, zero(stage)), expected, 1e-5, f"{text} under ZeRO {stage}")
    if text == "gradient-blending":
        weights = estimate(text, EngineConfig())
        assert len(set(weights.values())) > 1  # not the thirds that it began with
        for stage in stages:
            check_same(estimate(text, zero(stage)), weights, 1e-3, "estimate")  # of losses' small differences


@pytest.mark.parametrize("text", by_example(CONFIGURED, examples=ONE_A_METHOD))
def test_deepspeed_takes_the_steps_of_ddp(text: str) -> None:
    run_on_ranks(2, check_deepspeed, text, [0, 1, 2], timeout_seconds=600.0)


def test_modulated_gradients_under_zero_are_those_of_ddp() -> None:
    run_on_ranks(2, check_deepspeed, "ogm-ge:alpha=0.8", [2])


def check_accumulated(text: str) -> None:
    whole, parts = (train(text, EngineConfig(accumulation=count), torch.float64, MORE) for count in (1, 3))
    check_same(parts, whole, 1e-8, f"{text} in micro-batches")
    expected = train(text, EngineConfig(accumulation=3), counts=MORE)
    found = train(text, zero(2, accumulation=3), counts=MORE)
    check_same(found, expected, 1e-5, f"{text} in micro-batches under ZeRO 2")


# Not the heads that take a running mean of features once a forward, as batch norm does.
ACCUMULATED = [text for text in CONFIGURED if "film" not in text and "gated" not in text]


@pytest.mark.parametrize("text", by_example(ACCUMULATED, examples=set(ONE_A_METHOD) & set(ACCUMULATED)))
def test_accumulated_steps_are_those_over_the_whole_batch(text: str) -> None:
    run_on_ranks(2, check_accumulated, text, timeout_seconds=600.0)


def check_bf16(text: str, configs: list[EngineConfig]) -> None:
    for config in configs:
        method, engine = configured(text, config, dtype=torch.bfloat16, batch_norm="global")
        for number in range(2):
            take_step(method, engine, number)
        assert all(torch.isfinite(parameter).all() for parameter in engine.parameters)
        engine.release()


@pytest.mark.parametrize("text", by_example(CONFIGURED, examples=ONE_A_METHOD[-2:]))
def test_steps_in_bf16_are_finite_under_every_engine(text: str) -> None:
    check_bf16(text, [EngineConfig()])
    run_on_ranks(2, check_bf16, text, [EngineConfig(), zero(0), zero(1), zero(2)], timeout_seconds=600.0)
