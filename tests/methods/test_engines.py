"""Every method under every engine: DeepSpeed's steps are those of one process, and can be gone on from.

DDP's are compared in test_every_method.py, in float64. Here it is float32, which is all that DeepSpeed computes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from avbench.batch import Batch, Clock
from avbench.distributed import current_world
from avbench.engine import Engine, EngineConfig, OptimizerConfig, build_engine, over_the_global_batch
from avbench.methods import parse_methods
from avbench.methods.base import Method, Part
from avbench.methods.gradient_blending import GradientBlending
from tests.engine.small import own_slice, zero
from tests.methods.steps import batch_of
from tests.methods.test_every_method import CONFIGURED
from tests.methods.test_gradient_blending import InMemory
from tests.processes import run_on_ranks

CPU = torch.device("cpu")
STEPS = 5
TWO = [4, 2]


@pytest.fixture(autouse=True)
def private_extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))


def configured(text: str, config: EngineConfig, *, dtype: torch.dtype, batch_norm: str) -> tuple[Method, Engine]:
    """A method and its engine; batch norm "evaluation" or "global", by neither of which slices matter."""
    (spec,) = parse_methods([text])
    method = spec.method(spec.config, classes=3, seed=0)
    torch.manual_seed(0)
    model = method.build_model()
    engine = build_engine(
        over_the_global_batch(model) if batch_norm == "global" else model,
        optimizer=OptimizerConfig(),
        device=CPU,
        dtype=dtype,
        leaves_unused_parameters=method.leaves_unused_parameters,
        engine=config,
    )
    if config.engine == "ddp":
        # As ZeRO's parameters lie. Channels-last, one in a billion activations is rounded to the other side of a relu.
        engine.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if batch_norm == "evaluation":
        for module in engine.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    return method, engine


class Float32(InMemory):
    """The parts of train that Gradient-Blending estimates on."""

    def batches(self, part: Part, *, epoch: int, training: bool) -> Iterator[Batch]:
        for batch in super().batches(part, epoch=epoch, training=training):
            assert batch.audio is not None and batch.frames is not None
            yield replace(batch, audio=batch.audio.float(), frames=batch.frames.float())


def take_step(method: Method, engine: Engine, number: int, counts: list[int]) -> dict[str, float]:
    batch = own_slice(batch_of(sum(counts), seed=number), counts)
    step = method.train_step(engine, batch, Clock(0, number, 1))
    assert torch.isfinite(step.losses).all()
    return {f"log {number} {name}": float(value) for name, value in step.log.items()}


def state_of(engine: Engine) -> dict[str, np.ndarray]:
    state = engine.state_dict()
    found = {name: value.numpy().copy() for name, value in state["model"].items()}
    for number, of_parameter in state["optimizer"]["state"].items():
        found |= {f"optimizer {number} {name}": value.numpy().copy() for name, value in of_parameter.items()}
    return found


def run(text: str, config: EngineConfig, counts: list[int]) -> Iterator[dict[str, Any]]:
    """What a method has: after its estimate, if it makes one; after five steps; after another, loaded anew."""
    method, engine = configured(text, config, dtype=torch.float32, batch_norm="evaluation")
    if isinstance(method, GradientBlending):
        method.before_epoch(Float32(engine, Clock(0, 0, 1), counts))
        yield method.weights
        # Of losses' small differences, so known to fewer digits; what follows begins at the same.
        method.weights = {"audio": 0.5, "visual": 0.2, "joint": 0.3}
    logs: dict[str, float] = {}
    for number in range(STEPS):
        logs |= take_step(method, engine, number, counts)
    state, of_method = engine.state_dict(), method.state_dict()
    yield {**state_of(engine), **logs}
    engine.release()
    method, engine = configured(text, config, dtype=torch.float32, batch_norm="evaluation")
    engine.load_state_dict(state)
    method.load_state_dict(of_method)
    log = take_step(method, engine, STEPS, counts)
    yield {**state_of(engine), **log}
    engine.release()


def file_of(folder: Path, text: str, number: int) -> Path:
    return folder / f"{CONFIGURED.index(text)}-{number}.npz"


def make_reference(text: str, folder: Path) -> None:
    for number, found in enumerate(run(text, EngineConfig(), [sum(TWO)])):
        np.savez(file_of(folder, text, number), **found)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each method has in one process, in files: networks are too large to be sent about."""
    folder = tmp_path_factory.mktemp("references")
    for text in CONFIGURED:
        make_reference(text, folder)
    return folder


def check_methods(texts: list[str], config: EngineConfig, folder: Path) -> None:
    for text in texts:
        for number, found in enumerate(run(text, config, TWO)):
            expected = np.load(file_of(folder, text, number))
            tolerance = 1e-3 if number == 0 and text == "gradient-blending" else 1e-5
            assert found.keys() == set(expected.files)
            for name, value in found.items():
                np.testing.assert_allclose(
                    value, expected[name], rtol=tolerance, atol=tolerance, err_msg=f"{text}: {name}"
                )


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_two_ranks_under_deepspeed_take_the_steps_of_one_process(stage: int, references: Path) -> None:
    run_on_ranks(2, check_methods, CONFIGURED, zero(stage), references, timeout_seconds=900.0)


def test_modulated_gradients_under_zero_are_those_of_one_process(tmp_path: Path) -> None:
    make_reference("ogm-ge:alpha=0.8", tmp_path)
    run_on_ranks(2, check_methods, ["ogm-ge:alpha=0.8"], zero(2), tmp_path)


def check_accumulation(texts: list[str], config: EngineConfig, folder: Path) -> None:
    """With batch norm in evaluation mode micro-batches make no difference."""
    for text in texts:
        method, engine = configured(text, config, dtype=torch.float32, batch_norm="evaluation")
        if isinstance(method, GradientBlending):
            method.weights = {"audio": 0.5, "visual": 0.2, "joint": 0.3}
        for number in range(STEPS):
            take_step(method, engine, number, TWO if current_world().size == 2 else [sum(TWO)])
        expected = np.load(file_of(folder, text, 1 if isinstance(method, GradientBlending) else 0))
        for name, value in state_of(engine).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=f"{text}: {name}")
        engine.release()


# Not the heads that take a running mean of features once a forward, as batch norm does.
ACCUMULATED = [text for text in CONFIGURED if "film" not in text and "gated" not in text]


@pytest.mark.slow
@pytest.mark.parametrize("config", [EngineConfig(accumulation=3), zero(2, accumulation=3)], ids=["ddp", "zero2"])
def test_accumulated_steps_are_those_over_the_whole_batch(config: EngineConfig, references: Path) -> None:
    run_on_ranks(2, check_accumulation, ACCUMULATED, config, references, timeout_seconds=900.0)


def check_bf16(texts: list[str], configs: list[EngineConfig]) -> None:
    for text in texts:
        for config in configs:
            method, engine = configured(text, config, dtype=torch.bfloat16, batch_norm="global")
            for number in range(2):
                take_step(method, engine, number, TWO if current_world().size == 2 else [sum(TWO)])
            assert all(torch.isfinite(parameter).all() for parameter in engine.parameters), text
            engine.release()


@pytest.mark.slow
def test_every_method_takes_finite_steps_in_bf16_under_every_engine() -> None:
    check_bf16(list(CONFIGURED), [EngineConfig()])
    configs = [EngineConfig(), zero(0), zero(1), zero(2)]
    run_on_ranks(2, check_bf16, CONFIGURED, configs, timeout_seconds=900.0)
