"""Training with code that torch.compile makes: the same steps, for every method, in one process and over ranks."""

import copy
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._inductor.utils import fresh_cache

from avbench.batch import Batch, Outputs
from avbench.cli import main
from avbench.distributed import gather_objects
from avbench.engine import compiled as compiling
from avbench.engine.batch_norm import over_the_global_batch
from avbench.engine.choice import build_engine
from avbench.engine.compiled import check_compiles
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.plain import Engine
from avbench.errors import INTERRUPTED_STATUS, STOP_SIGNALS, UsageError
from avbench.methods.choice import parse_methods
from avbench.records import read_table
from avbench.training.passes import counted, prepare
from avbench.training.run import Run
from avbench.training.watchdog import Signals
from tests.conftest import REPOSITORY
from tests.engine.small import ADAM, CPU, Small, alone, batch_of, engine_of, flat, own_slice, take_steps
from tests.marks import by_example
from tests.methods import steps
from tests.methods.test_every_method import ONE_A_METHOD
from tests.processes import run_on_ranks
from tests.synthetic import make_dataset

COMPILED = EngineConfig(compile=True)
# Traces and differentiates ahead as inductor does, and runs what it got by torch's own kernels: no compiler, same bits.
TRACED = "aot_eager"

needs_a_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", TRACED)


def graphs() -> int:
    """Graphs that have been compiled so far."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


# A network whose encoders see each other has all that there is to compile.
@pytest.mark.parametrize(
    "text", by_example(ONE_A_METHOD, examples=[text for text in ONE_A_METHOD if text.startswith("greedy")])
)
def test_every_methods_compiled_steps_are_its_own(text: str, traced: None) -> None:
    (spec,) = parse_methods([text])
    own, compiled = (
        Run(spec, seed=0, classes=steps.CLASSES, optimizer=OptimizerConfig(), engine=engine, device=CPU,
            dtype=torch.float64, store=None)
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


def check_ranks(cases: Sequence[tuple[Sequence[int], int]]) -> None:
    """Compiled steps over ranks are those of the plain engine on the whole batches."""
    compiling.BACKEND = TRACED
    for counts, accumulation in cases:
        engine = engine_of(EngineConfig(compile=True, accumulation=accumulation))
        take_steps(engine, counts, range(3))
        torch.testing.assert_close(flat(engine), flat(take_steps(alone(), [sum(counts)], range(3))))
        assert len(set(gather_objects(flat(engine).numpy().tobytes()))) == 1
    assert graphs() > 0
    with pytest.raises(UsageError, match="--batch-norm global cannot be compiled over several ranks"):
        check_compiles(over_the_global_batch(nn.Sequential(nn.BatchNorm2d(2))), CPU)


def test_ranks_average_gradients_of_compiled_steps() -> None:
    # On a rank with one clip or none the network is not compiled.
    run_on_ranks(2, check_ranks, [((3, 4), 1), ((5, 1), 1), ((6, 0), 1), ((4, 5), 2)])


def step_of_a_method(text: str, is_compiled: bool) -> np.ndarray:
    """Parameters after two steps of a method with 309 classes: its head alone is more than one of DDP's buckets."""
    compiling.BACKEND = TRACED
    (spec,) = parse_methods([text])
    run = Run(spec, seed=0, classes=309, optimizer=OptimizerConfig(), engine=EngineConfig(compile=is_compiled),
              device=CPU, dtype=torch.float64, store=None)  # fmt: skip
    for number in range(2):
        whole = replace(steps.batch_of(5, seed=number), global_valid=None)
        batch = counted(prepare(own_slice(whole, (3, 2)), torch.float64))
        assert batch is not None
        run.train_step(batch, epoch=0, epochs=1, total_steps=4)
    return flat(run.engine).numpy()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_ranks_average_a_whole_networks_gradients_of_compiled_steps() -> None:
    text = "baseline:fusion=concat"
    compiled, own = (run_on_ranks(2, step_of_a_method, text, is_compiled) for is_compiled in (True, False))
    np.testing.assert_allclose(compiled[0], own[0], rtol=1e-9, atol=1e-12)
    assert np.array_equal(compiled[0], compiled[1])


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
@needs_a_compiler
def test_inductors_steps_are_torchs_to_rounding() -> None:
    torch._dynamo.reset()
    engine, expected = engine_of(COMPILED), alone()
    for clips in (6, 5, 7):
        take_steps(engine, [clips], [clips])
        take_steps(expected, [clips], [clips])
    torch.testing.assert_close(flat(engine), flat(expected))


NARROW = """
from torch import nn

from avbench.batch import Outputs
from avbench.methods.base import Method


class Narrow(nn.Module):
    def __init__(self, classes):
        super().__init__()
        layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        self.encoders = nn.ModuleDict({"visual": nn.Sequential(*layers)})
        self.head = nn.Linear(32, classes)

    def forward(self, batch):
        return Outputs(self.head(self.encoders["visual"](batch.frames[:, 0])).float())


class Cut(Method):
    name = "cut"
    network = "a convolution"
    modalities = ("visual",)
    stops_at = None

    def build_model(self):
        return Narrow(self.classes)

    def train_step(self, engine, batch, clock):
        if clock.step == self.stops_at:
            raise KeyboardInterrupt
        return super().train_step(engine, batch, clock)
"""


@pytest.mark.slow
@needs_a_compiler
def test_a_compiled_training_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled anew, from a batch of another size than the first that was compiled from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("narrow.py").write_text(NARROW, encoding="utf-8")
    make_dataset(tmp_path / "data", clips={"train": 20, "val": 3, "test": 6})
    words = ["--methods", "narrow:Cut", "--preset", "tiny", "--batch-size", "7", "--epochs", "2", "--compile"]
    words += ["--checkpoint-steps", "1", "--learning-rate", "0.1", "--precision", "float32"]

    def train(*words: str) -> None:
        torch._dynamo.reset()
        with fresh_cache():
            before = graphs()
            main(["train", *words])
            assert graphs() > before

    train("data", "--out", "whole", *words)
    narrow = importlib.import_module("narrow")
    monkeypatch.setattr(narrow.Cut, "stops_at", 2)
    with pytest.raises(SystemExit):
        train("data", "--out", "resumed", *words)
    monkeypatch.setattr(narrow.Cut, "stops_at", None)
    train("--out", "resumed", "--resume")
    whole, resumed = (read_table(Path(run, "predictions/cut-seed0-test.parquet")) for run in ("whole", "resumed"))
    assert whole.equals(resumed)


def test_signals_to_the_whole_group_spare_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that is asked to stop goes on; this process hears of it."""
    said = []

    def compiler(graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., object]:
        told = "".join(f"kill -{signal.Signals(number).name[3:]} $$; " for number in STOP_SIGNALS)
        said.append(subprocess.run(["sh", "-c", f"{told}echo compiled"], capture_output=True, text=True).stdout)
        os.kill(os.getpid(), signal.SIGTERM)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", compiler)
    with Signals() as signals:
        take_steps(built(Small()), [4], [0])
    assert said == ["compiled\n"]
    assert signals.asked == signal.SIGTERM
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(STOP_SIGNALS)


def compilers_of(cache: Path) -> list[str]:
    """Processes of g++ that work on files of this cache."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "cc1plus" in words[0] and any(str(cache) in word for word in words):
                found.append(entry.name)
    return found


@needs_a_compiler
@pytest.mark.parametrize(
    "number", by_example([signal.SIGINT, signal.SIGTERM], examples=[signal.SIGTERM]), ids=lambda number: number.name
)
def test_a_training_that_is_asked_to_stop_while_it_compiles_saves_and_says_one_line(
    number: signal.Signals, tmp_path: Path
) -> None:
    """The whole process group is, as by a terminal, when a compiler works for the first step."""
    (tmp_path / "narrow.py").write_text(NARROW, encoding="utf-8")
    make_dataset(tmp_path / "data", clips={"train": 20, "val": 3, "test": 6})
    words = ["--methods", "narrow:Cut", "--preset", "tiny", "--batch-size", "7", "--epochs", "2", "--compile"]
    cache = tmp_path / "cache"
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    process = subprocess.Popen(
        [sys.executable, "-m", "avbench", "train", "data", "--out", "run", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(cache)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # The board is opened right before training; what was compiled before was only to see that anything can be.
    while not (tmp_path / "run/tensorboard").exists() or not compilers_of(cache):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, log = process.communicate(timeout=300)
    assert process.returncode == INTERRUPTED_STATUS, log
    *rest, line = log.splitlines()
    assert line.startswith(f"avbench: interrupted by {number.name} in epoch 0 after 1 of 3 batches; nothing is lost")
    assert len(rest) < 10, log
    assert (tmp_path / "run/interrupted.json").exists() and list((tmp_path / "run/checkpoints").glob("epoch-*"))


class Breaking(Small):
    """Asks for a number while it computes, which cannot be traced."""

    def forward(self, batch: Batch) -> Outputs:
        return super().forward(batch) if float(self.head.bias.detach().sum()) < 9.0 else Outputs(batch.clip_id)


def built(model: nn.Module) -> Engine:
    return build_engine(
        model, optimizer=ADAM, device=CPU, dtype=torch.float32, leaves_unused_parameters=True, engine=COMPILED
    )


def test_a_network_that_cannot_be_compiled_as_a_whole_is_refused(traced: None) -> None:
    with pytest.raises(UsageError, match=r"cannot compile Breaking as a whole \(.+\); leave --compile out"):
        take_steps(built(Breaking()), [4], [0])


class Powered(Small):
    """A power of the logits, by its name: for each there is code of its own."""

    def __init__(self, power: str) -> None:
        super().__init__()
        self.power = power

    def forward(self, batch: Batch) -> Outputs:
        return Outputs(super().forward(batch).logits ** len(self.power))


def test_more_variants_of_a_network_than_are_compiled_are_an_error(
    traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_MOST_VARIANTS", 2)
    for power in ("x", "xx"):
        take_steps(built(Powered(power)), [4], [0])
    with pytest.raises(UsageError, match="cannot compile Powered as a whole"):
        take_steps(built(Powered("xxx")), [4], [0])


def test_deepspeed_is_refused() -> None:
    with pytest.raises(UsageError, match="under --engine deepspeed it is untested; use --engine ddp"):
        EngineConfig(engine="deepspeed", compile=True)


def test_a_machine_without_a_compiler_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    compiling._why_nothing_compiles.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"can compile nothing here \(.*No working C\+\+ compiler.*\); it wants"):
            engine_of(COMPILED)
    finally:
        compiling._why_nothing_compiles.cache_clear()
