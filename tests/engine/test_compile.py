"""Training with code that torch.compile makes: the same steps, for every method, in one process and over ranks."""

import copy
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from avbench.engine import EngineConfig, OptimizerConfig, build_engine, over_the_global_batch, plain
from avbench.errors import UsageError
from avbench.methods import parse_methods
from avbench.training.predict import counted, prepare
from avbench.training.run import Run
from tests.engine.small import ADAM, CPU, SGD, alone, batch_of, engine_of, flat, own_slice, take_steps
from tests.methods import steps
from tests.methods.test_every_method import CONFIGURED
from tests.processes import run_on_ranks

COMPILED = EngineConfig(compile=True)
# Traces and differentiates ahead as inductor does, and runs what it got by torch's own kernels: no compiler, same bits.
TRACED = "aot_eager"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "COMPILE_BACKEND", TRACED)


def graphs() -> int:
    """Graphs that have been compiled so far."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.parametrize("text", {text.partition(":")[0]: text for text in CONFIGURED}.values())
def test_every_methods_compiled_steps_are_its_own(text: str, traced: None) -> None:
    (spec,) = parse_methods([text])
    own, compiled = (
        Run(spec, seed=0, classes=steps.CLASSES, optimizer=OptimizerConfig(), engine=engine, device=CPU,
            dtype=torch.float64, batch_norm="local", store=None)
        for engine in (EngineConfig(), COMPILED)
    )  # fmt: skip
    torch._dynamo.reset()
    before = graphs()
    for number, clips in enumerate((4, 5, 4)):
        batch = counted(prepare(replace(steps.batch_of(clips, seed=number), global_valid=None), torch.float64))
        assert batch is not None
        for run in (own, compiled):
            run.train_step(batch, epoch=0, epochs=2, total_steps=8)
        torch.testing.assert_close(flat(compiled.engine), flat(own.engine), rtol=1e-9, atol=1e-12)
    assert graphs() > before
    assert not torch._dynamo.utils.counters["graph_break"]


def test_one_code_serves_batches_of_every_size_and_evaluation_has_none(traced: None) -> None:
    torch._dynamo.reset()
    before = graphs()
    engine = engine_of(COMPILED)
    for clips in (6, 5, 7, 1, 2):
        take_steps(engine, [clips], [clips])
    with engine.evaluating():
        engine.forward(batch_of(3, 0))
    assert graphs() == before + 1
    expected = alone()
    for clips in (6, 5, 7, 1, 2):
        take_steps(expected, [clips], [clips])
    torch.testing.assert_close(flat(engine), flat(expected))


def steps_over_ranks(counts: Sequence[int], accumulation: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Parameters after compiled steps, and after those of the plain engine on the whole batches; graphs compiled."""
    plain.COMPILE_BACKEND = TRACED
    before = graphs()
    engine = engine_of(EngineConfig(compile=True, accumulation=accumulation))
    take_steps(engine, counts, range(3))
    expected = take_steps(alone(), [sum(counts)], range(3))
    return flat(engine).numpy(), flat(expected).numpy(), graphs() - before


@pytest.mark.parametrize(("counts", "accumulation"), [((3, 4), 1), ((5, 1), 1), ((4, 5), 2)])
def test_ranks_average_gradients_of_compiled_steps(counts: Sequence[int], accumulation: int) -> None:
    (first, expected, compiled), (second, _, _) = run_on_ranks(2, steps_over_ranks, counts, accumulation)
    assert compiled > 0
    assert np.array_equal(first, second)
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6)


def step_of_a_method(text: str, is_compiled: bool) -> np.ndarray:
    """Parameters after two steps of a method with 309 classes: its head alone is more than one of DDP's buckets."""
    plain.COMPILE_BACKEND = TRACED
    (spec,) = parse_methods([text])
    run = Run(spec, seed=0, classes=309, optimizer=OptimizerConfig(), engine=EngineConfig(compile=is_compiled),
              device=CPU, dtype=torch.float64, batch_norm="local", store=None)  # fmt: skip
    for number in range(2):
        whole = replace(steps.batch_of(5, seed=number), global_valid=None)
        batch = counted(prepare(own_slice(whole, (3, 2)), torch.float64))
        assert batch is not None
        run.train_step(batch, epoch=0, epochs=1, total_steps=4)
    return flat(run.engine).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("text", ["baseline:fusion=concat"])
def test_ranks_average_a_whole_networks_gradients_of_compiled_steps(text: str) -> None:
    compiled, own = (run_on_ranks(2, step_of_a_method, text, is_compiled) for is_compiled in (True, False))
    np.testing.assert_allclose(compiled[0], own[0], rtol=1e-9, atol=1e-12)
    assert np.array_equal(compiled[0], compiled[1])


def compile_global_batch_norm() -> str:
    model = over_the_global_batch(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    with pytest.raises(UsageError) as refused:
        build_engine(model, optimizer=SGD, device=CPU, dtype=torch.float32, leaves_unused_parameters=False,
                     engine=COMPILED)  # fmt: skip
    return str(refused.value)


def test_batch_norm_over_ranks_is_not_compiled() -> None:
    for said in run_on_ranks(2, compile_global_batch_norm):
        assert said == "compile is not for --batch-norm global over several ranks; leave one of the two out"


def test_a_compiled_networks_state_and_forks_are_those_of_any_other(traced: None) -> None:
    engine, other = engine_of(COMPILED, optimizer=ADAM), engine_of(EngineConfig(), optimizer=ADAM)
    take_steps(engine, [4], [0])
    assert engine.state_dict()["model"].keys() == other.state_dict()["model"].keys()
    other.load_state_dict(copy.deepcopy(engine.state_dict()))
    kept = engine.snapshot()
    take_steps(engine.fork(lambda model: model), [4], [1])
    take_steps(engine, [4], [1])
    engine.restore(kept)
    for each in (engine, other):
        take_steps(each, [4], [2])
    torch.testing.assert_close(flat(engine), flat(other))


def test_gradients_of_one_loss_leave_the_compiled_graph_for_the_next(traced: None) -> None:
    compiled, own = engine_of(COMPILED), engine_of(EngineConfig())
    for engine in (compiled, own):
        loss = engine.forward(batch_of(4, 0)).logits.square().mean()
        engine.loss_grads(loss, engine.parameters)
        engine.backward(loss)
        engine.step()
    torch.testing.assert_close(flat(compiled), flat(own))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_inductors_steps_are_torchs_to_rounding() -> None:
    torch._dynamo.reset()
    engine, expected = engine_of(COMPILED), alone()
    for clips in (6, 5, 7):
        take_steps(engine, [clips], [clips])
        take_steps(expected, [clips], [clips])
    torch.testing.assert_close(flat(engine), flat(expected))


def test_deepspeed_and_a_machine_without_a_compiler_are_refused(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="under --engine deepspeed it is untested; use --engine ddp"):
        EngineConfig(engine="deepspeed", compile=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UsageError, match=r"finds no g\+\+; install one, name one in CXX, or leave --compile out"):
        engine_of(COMPILED)
