"""DeepSpeed's engines do what the plain one does; what is saved under one goes on under any other."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from avbench.distributed import current_world
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.plain import Engine
from avbench.errors import UsageError
from tests.engine.small import (
    ADAM,
    SGD,
    Small,
    alone,
    backward,
    batch_of,
    engine_of,
    flat,
    flat_state,
    own_slice,
    take_steps,
    zero,
)
from tests.processes import run_on_ranks

COUNTS = [4, 2]
# Buckets so small that each step needs several, and one parameter is larger than a bucket.
SETTINGS = [
    zero(0),
    zero(1),
    zero(2, reduce_bucket_size=20, allgather_bucket_size=20),
    zero(1, reduce_scatter=False),
    zero(2, contiguous_gradients=False),
]


@pytest.fixture(autouse=True)
def private_extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where DeepSpeed would compile to, with the lock that a run killed while it compiled leaves behind."""
    lock = tmp_path / "extensions" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    return lock


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def same_state(engine: Engine, reference: Engine) -> None:
    found, expected = flat_state(engine), flat_state(reference)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype, name
        close(found[name], value)
    groups = [each.state_dict()["optimizer"]["param_groups"] for each in (engine, reference)]
    assert groups[0] == groups[1]


def check_steps() -> None:
    for config in SETTINGS:
        for optimizer in (SGD, ADAM):
            engine, reference = engine_of(config, optimizer=optimizer), alone(optimizer=optimizer)
            for each in (engine, reference):
                each.set_learning_rate(0.02)
                take_steps(each, COUNTS, range(4))
            same_state(engine, reference)


def test_steps_are_those_of_one_process() -> None:
    run_on_ranks(2, check_steps)


def check_clipping() -> None:
    optimizer = OptimizerConfig(learning_rate=0.1, clip_norm=0.05, schedule="constant")
    for stage in (0, 1, 2):
        engine, reference = engine_of(zero(stage, clipping=0.05), optimizer=optimizer), alone(optimizer=optimizer)
        by_default = engine_of(EngineConfig(engine="deepspeed"), optimizer=optimizer)
        for each in (engine, reference, by_default):
            # A frozen parameter counts nowhere in the norm.
            take_steps(each, COUNTS, range(3), lambda number, each=each: each.freeze([each.model.head.weight]))
        close(flat(engine), flat(reference))
        close(flat(by_default), flat(reference))
        unclipped = take_steps(alone(), COUNTS, range(3))
        assert not torch.allclose(flat(reference), flat(unclipped), atol=1e-3)


@pytest.mark.slow
def test_the_norm_of_the_whole_gradient_is_clipped() -> None:
    run_on_ranks(2, check_clipping)


def check_not_finite() -> None:
    optimizer = OptimizerConfig(learning_rate=0.1, clip_norm=1.0, schedule="constant")
    for stage in (0, 1, 2):
        engine = engine_of(zero(stage, clipping=1.0), optimizer=optimizer)
        engine.backward(engine.forward(own_slice(batch_of(6, 0), COUNTS)).logits.sum() * math.inf)
        engine.step()
        assert not torch.isfinite(flat(engine)).all()


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_not_left_out_in_silence() -> None:
    run_on_ranks(2, check_not_finite)


def check_gradients() -> None:
    for config in SETTINGS:
        engine, reference = engine_of(config), alone()
        with pytest.raises(ValueError, match="after backward"):
            engine.read_grads(engine.parameters)
        for number in range(3):
            check_loss_grads(engine, reference, number)
            for each in (engine, reference):
                batch = batch_of(6, number)
                backward(each, batch if each is reference else own_slice(batch, COUNTS))
            same_grads(engine, reference)
            assert torch.equal(engine.read_grads([engine.model.unused])[0], torch.zeros(9))
            for each in (engine, reference):
                some = [each.model.head.weight, each.model.kernel.weight]
                each.update_grads(some, lambda gradients: [3.0 * gradients[0], gradients[1].add_(0.5)])
            same_grads(engine, reference)
            engine.step()
            reference.step()
            with pytest.raises(ValueError, match="after backward"):
                engine.read_grads(engine.parameters)
        close(flat(engine), flat(reference))


def same_grads(engine: Engine, reference: Engine) -> None:
    """Ours, the reference's, and what DeepSpeed's own accessor says."""
    from deepspeed.utils import safe_get_full_grad

    for parameter, gradient, expected in zip(
        engine.parameters,
        engine.read_grads(engine.parameters),
        reference.read_grads(reference.parameters),
        strict=True,
    ):
        close(gradient, expected)
        assert torch.equal(gradient, safe_get_full_grad(parameter))


def check_loss_grads(engine: Engine, reference: Engine, number: int) -> None:
    """Before a backward of the same graph, which is left as it is."""
    batch = batch_of(6, number)
    loss = engine.forward(own_slice(batch, COUNTS)).logits.square().sum()
    found = engine.loss_grads(loss, [engine.model.kernel.weight, engine.model.unused])
    expected = torch.autograd.grad(reference.forward(batch).logits.square().sum(), reference.model.kernel.weight)
    close(found[0], expected[0] / engine.world.size)
    assert torch.equal(found[1], torch.zeros(9))
    engine.backward(loss)
    close(engine.read_grads([engine.model.kernel.weight])[0], found[0])


def test_gradients_are_read_and_rewritten_as_in_one_process() -> None:
    run_on_ranks(2, check_gradients)


def check_frozen() -> None:
    for config in SETTINGS:
        for optimizer in (SGD, ADAM):
            engine, reference = engine_of(config, optimizer=optimizer), alone(optimizer=optimizer)
            for each in (engine, reference):
                # Never stepped, then stepped, then frozen with a momentum: of a kernel that ranks share.
                take_steps(each, COUNTS, range(5), partial(_freeze_sometimes, each))
            same_state(engine, reference)
            kept = engine.model.kernel.weight.detach().clone()
            take_steps(engine, COUNTS, [9], partial(_freeze, engine))
            assert torch.equal(engine.model.kernel.weight, kept)
            take_steps(engine, COUNTS, [10])
            assert not torch.equal(engine.model.kernel.weight, kept)


def _freeze(engine: Engine, number: int) -> None:
    engine.freeze([engine.model.kernel.weight])
    with pytest.raises(ValueError, match="not frozen"):
        engine.read_grads([engine.model.kernel.weight])


def _freeze_sometimes(engine: Engine, number: int) -> None:
    if number in (0, 3):
        _freeze(engine, number)


@pytest.mark.slow
def test_a_frozen_parameter_keeps_its_value_and_its_state_once() -> None:
    run_on_ranks(2, check_frozen)


class Head(nn.Module):
    """A part of Small, in another order."""

    def __init__(self, whole: Small) -> None:
        super().__init__()
        self.head, self.norm, self.kernel = whole.head, whole.norm, whole.kernel

    forward = Small.forward


def check_forks() -> None:
    for config in SETTINGS:
        engine, reference = engine_of(config), alone()
        for each in (engine, reference):
            take_steps(each, COUNTS, range(2))
        before = flat_state(engine)
        fork, expected = engine.fork(Head), reference.fork(Head)
        expected.world = reference.world
        for each in (fork, expected):
            take_steps(each, COUNTS, range(2, 5))
        same_state(fork, expected)
        fork.release()
        assert all(torch.equal(value, before[name]) for name, value in flat_state(engine).items())
        snapshot, random = engine.snapshot(), torch.rand(1)
        for _ in range(2):
            engine.restore(snapshot)
            assert torch.equal(torch.rand(1), random)
            take_steps(engine, COUNTS, range(2, 4))
        take_steps(reference, COUNTS, range(2, 4))
        same_state(engine, reference)
        network = flat(engine).clone()
        engine.release()
        with engine.evaluating(), torch.no_grad():
            close(engine.forward(batch_of(6, 0)).logits, reference.forward(batch_of(6, 0)).logits)
        assert torch.equal(flat(engine), network)


@pytest.mark.slow
def test_forks_and_snapshots_go_on_as_in_one_process() -> None:
    run_on_ranks(2, check_forks)


def save_after_three(config: EngineConfig, path: Path) -> None:
    for name, optimizer in (("sgd", SGD), ("adam", ADAM)):
        engine = engine_of(config, optimizer=optimizer)
        engine.set_learning_rate(0.03)
        take_steps(engine, COUNTS, range(3), partial(_freeze_sometimes, engine))
        state = engine.state_dict()
        if current_world().is_main:
            torch.save(state, path / name)


def go_on(config: EngineConfig, path: Path, counts: list[int]) -> list[np.ndarray]:
    found = []
    for name, optimizer in (("sgd", SGD), ("adam", ADAM)):
        engine = engine_of(config, optimizer=optimizer)
        # Not as it was saved: what is loaded replaces it.
        take_steps(engine, counts, [7])
        engine.load_state_dict(torch.load(path / name, weights_only=True))
        take_steps(engine, counts, range(3, 6))
        found.append(flat(engine).numpy())
    return found


def test_what_two_ranks_saved_goes_on_under_every_engine_and_number_of_ranks(tmp_path: Path) -> None:
    run_on_ranks(2, save_after_three, zero(1), tmp_path)
    expected = []
    for name, optimizer in (("sgd", SGD), ("adam", ADAM)):
        reference = alone(optimizer=optimizer)
        reference.set_learning_rate(0.03)
        take_steps(reference, COUNTS, range(3), partial(_freeze_sometimes, reference))
        saved = torch.load(tmp_path / name, weights_only=True)
        torch.testing.assert_close(saved, reference.state_dict(), rtol=0, atol=1e-6)
        assert saved["optimizer"]["param_groups"][0]["lr"] == 0.03
        expected.append(flat(take_steps(reference, COUNTS, range(3, 6))).numpy())
    plain = [go_on(EngineConfig(), tmp_path, [6])]
    ddp = run_on_ranks(2, go_on, EngineConfig(), tmp_path, COUNTS)
    alone_under_zero = run_on_ranks(1, go_on, zero(1), tmp_path, [6])
    more_ranks = run_on_ranks(3, go_on, zero(2), tmp_path, [3, 0, 3])
    whole = run_on_ranks(2, go_on, zero(0), tmp_path, COUNTS)
    for found in (*plain, *ddp, *alone_under_zero, *more_ranks, *whole):
        for parameters, of_reference in zip(found, expected, strict=True):
            np.testing.assert_allclose(parameters, of_reference, rtol=0, atol=1e-5)


def train_alone() -> None:
    engine = engine_of(EngineConfig(engine="deepspeed"))
    assert len(dist.distributed_c10d._world.pg_map) == 1
    reference = take_steps(alone(), [6], range(3))
    same_state(take_steps(engine, [6], range(3)), reference)


def test_a_lock_left_in_the_compiler_cache_does_not_hang_a_run(private_extensions: Path) -> None:
    run_on_ranks(1, train_alone, timeout_seconds=60.0)
    assert list(private_extensions.parent.rglob("*")) == [private_extensions], "nothing was compiled"


def test_deepspeed_is_quiet_and_joins_no_second_process_group() -> None:
    # A process of its own, started as users do: DeepSpeed is imported by avbench, and nothing else has spoken before.
    program = "from tests.engine.test_deepspeed import train_alone; train_alone()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_float64_is_refused() -> None:
    with pytest.raises(UsageError, match="float64"):
        engine_of(EngineConfig(engine="deepspeed"), dtype=torch.float64)


def check_bf16() -> None:
    for stage in (0, 1, 2):
        engine = take_steps(engine_of(zero(stage), dtype=torch.bfloat16), COUNTS, range(2))
        logits = engine.forward(batch_of(6, 0)).logits
        assert logits.dtype == torch.float32 and torch.isfinite(logits).all()
        # Computed in bf16, and stepped in float32.
        assert {parameter.dtype for parameter in engine.parameters} == {torch.float32}
        exact = take_steps(engine_of(zero(stage)), COUNTS, range(2))
        difference = (flat(engine) - flat(exact)).abs().max()
        assert 0 < difference < 0.05


@pytest.mark.slow
def test_bf16_is_autocast_over_float32_parameters() -> None:
    run_on_ranks(2, check_bf16)
