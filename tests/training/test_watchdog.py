"""Ranks that stop together, and ranks that hang; real processes and real signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from avbench.batch import Batch, Clock
from avbench.cli import main
from avbench.distributed import current_world, sum_over_ranks
from avbench.errors import Interrupted
from avbench.methods.baseline import Baseline
from avbench.methods.gradient_blending import GradientBlending
from avbench.records import read_table
from avbench.training.run import Run
from avbench.training.watchdog import HANGS_STATUS, Pinned, Watchdog, report
from tests.processes import RanksFailed, run_on_ranks
from tests.synthetic import make_dataset

FLAGS = [
    "--preset",
    "tiny",
    "--width",
    "8",
    "--batch-size",
    "8",
    "--learning-rate",
    "0.01",
    "--schedule",
    "constant",
    "--epochs",
    "2",
]


def pinned(
    *, beats: int, stack: tuple[str, ...] = ("a.py:1 f",), at: float = 100.0, where: str = "epoch 0, batch 3 of train"
) -> Pinned:
    return Pinned(beats, where, 30.0, "node1, process 7", stack, at)


def test_the_rank_with_fewest_beats_hangs() -> None:
    text = report(
        {0: pinned(beats=5), 1: pinned(beats=4, where="epoch 0, batch 2 of train")}, silent_seconds=9, now=101
    )
    assert text == "rank 1 (node1, process 7): at epoch 0, batch 2 of train for 30 s, in a.py:1 f"


def test_of_ranks_at_one_batch_the_one_outside_of_collectives_hangs() -> None:
    waiting = ("avbench/engine.py:9 backward", "torch/autograd/graph.py:829 _engine_run_backward")
    stuck = ("avbench/methods/base.py:1 loss", "my_package/my_module.py:12 lookup")
    text = report({0: pinned(beats=5, stack=waiting), 1: pinned(beats=5, stack=stuck)}, silent_seconds=9, now=101)
    assert text.startswith("rank 1 ") and text.endswith("> my_package/my_module.py:12 lookup")


def test_a_rank_that_no_longer_pins_is_stopped_or_gone() -> None:
    text = report({0: pinned(beats=5), 1: pinned(beats=6, at=60.0), 2: None}, silent_seconds=9, now=101)
    assert "rank 1 (node1, process 7): not heard of for 41 s" in text and "rank 2 was never heard of" in text
    assert "rank 0" not in text


def beat_until_one_hangs(how: str) -> None:
    with Watchdog(hang_seconds=8.0, failed=lambda: False, on_failure=lambda: None) as watchdog:
        for batch in range(4):
            watchdog.beat(f"epoch 0, batch {batch} of train")
            if batch == 2 and current_world().rank == 1:
                if how == "stops":
                    time.sleep(1.5)  # so that it has been heard of
                    os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(600)
            sum_over_ranks(torch.ones(1))


@pytest.mark.parametrize(
    ("how", "words"), [("sleeps", "at epoch 0, batch 2 of train for"), ("stops", "not heard of for")]
)
def test_a_rank_that_hangs_is_named_with_where_and_not_waited_for(how: str, words: str) -> None:
    with pytest.raises(RanksFailed) as failed:
        run_on_ranks(2, beat_until_one_hangs, how, timeout_seconds=60)
    assert failed.value.causes[0] == f"exited with status {HANGS_STATUS}"
    said = [line for line in str(failed.value).splitlines() if "no progress for 8 s" in line]
    assert said and "rank 1 (" in said[0] and words in said[0] and "beat_until_one_hangs" in said[0]


def stop_one(rank: int, at: int) -> int:
    with Watchdog(hang_seconds=60.0, failed=lambda: False, on_failure=lambda: None) as watchdog:
        for batch in range(at + 5):
            if batch == at and current_world().rank == rank:
                os.kill(os.getpid(), signal.SIGUSR1)
            try:
                watchdog.beat("")
            except Interrupted:
                return batch
    return -1


def test_a_signal_to_one_rank_stops_all_before_the_same_batch() -> None:
    stopped = run_on_ranks(3, stop_one, 2, 4)
    assert len(set(stopped)) == 1 and 4 <= stopped[0] <= 6


def fail_on_one(rank: int) -> list[str]:
    said: list[str] = []

    def complain() -> None:
        said.append("failed")
        raise RuntimeError("a checkpoint could not be written")

    def beat_on() -> None:
        with Watchdog(hang_seconds=60.0, failed=lambda: current_world().rank == rank, on_failure=complain) as watchdog:
            for _ in range(5):
                watchdog.beat("")

    with pytest.raises(RuntimeError, match="could not be written"):
        beat_on()
    return said


def test_what_fails_beside_training_on_one_rank_is_raised_on_all() -> None:
    assert run_on_ranks(2, fail_on_one, 1) == [["failed"], ["failed"]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 20, "val": 9, "test": 9})


METHODS = "audio,baseline,gradient-blending:super_epoch=1"


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    main(["train", str(dataset), "--out", str(out), "--methods", METHODS, *FLAGS])
    return out


def signal_at(monkeypatch: pytest.MonkeyPatch, where: str, number: signal.Signals) -> None:
    """Let this process get a signal, once, at a moment of its training."""
    sent = []

    def send(is_there: bool) -> None:
        if is_there and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    original = Baseline.loss, Run.evaluate, Run.predict, GradientBlending._probe

    def loss(self: Baseline, outputs: Any, batch: Batch, clock: Clock) -> torch.Tensor:
        send(where == "training" and clock.step == 4 and torch.is_grad_enabled())
        return original[0](self, outputs, batch, clock)

    def evaluate(self: Run, *, batch: Batch, clock: Clock) -> None:
        send(where == "evaluating" and clock.epoch == 1)
        original[1](self, batch=batch, clock=clock)

    def predict(self: Run, batch: Batch) -> Any:
        send(where == "predicting")
        return original[2](self, batch)

    def probe(self: GradientBlending, run: Any, *, epochs: int) -> Any:
        send(where == "estimating" and run.clock.epoch == 1)
        return original[3](self, run, epochs=epochs)

    monkeypatch.setattr(Baseline, "loss", loss)
    monkeypatch.setattr(Run, "evaluate", evaluate)
    monkeypatch.setattr(Run, "predict", predict)
    monkeypatch.setattr(GradientBlending, "_probe", probe)


STOPPED = {
    "training": "in epoch 1 after ",
    "evaluating": "after all ",
    "estimating": "before epoch 1, in what gradient-blending",
    "predicting": "after the last epoch, while predictions were made; they are made again, nothing else is lost",
}


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("training", signal.SIGTERM),
        ("evaluating", signal.SIGUSR1),
        ("estimating", signal.SIGINT),
        ("predicting", signal.SIGTERM),
    ],
)
def test_a_run_asked_to_stop_saves_says_so_and_goes_on_to_the_same_end(
    where: str,
    number: signal.Signals,
    dataset: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    words = ["train", str(dataset), "--out", str(out), "--methods", METHODS, *FLAGS, "--auto-resume"]
    with monkeypatch.context() as patch:
        signal_at(patch, where, number)
        with pytest.raises(SystemExit) as stop:
            main(words)
    assert stop.value.code == 75
    assert f"avbench: interrupted by {number.name} {STOPPED[where]}" in capsys.readouterr().err
    assert (out / "interrupted.json").exists()
    steps = [path.name for path in (out / "checkpoints").glob("epoch-*")]
    if where == "training":
        assert any(name.startswith("epoch-0001-batch-00000") and not name.endswith("000000") for name in steps), steps
    main(words)
    assert not (out / "interrupted.json").exists()
    for path in [whole / "confidence.parquet", *whole.glob("predictions/*.parquet")]:
        assert read_table(out / path.relative_to(whole)).equals(read_table(path)), path.name
    capsys.readouterr()
    main(words)
    assert "finished already" in capsys.readouterr().out


def test_auto_resume_refuses_another_run(dataset: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(dataset), "--out", str(whole), "--methods", METHODS, *FLAGS, "--auto-resume"]
    for more, message in (
        (["--batch-size", "4"], "cannot change batch-size from 8 to 4"),
        (["--overwrite"], "--auto-resume and --overwrite exclude each other"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*words, *more])
        assert stop.value.code == 2 and message in capsys.readouterr().err


SLOW = """
import time
from avbench.methods.baseline import Baseline

class Slow(Baseline):
    name = "slow"

    def loss(self, outputs, batch, clock):
        time.sleep(60)
"""


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    words = ["train", str(dataset), "--out", "run", "--methods", "slow:Slow", *FLAGS]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    process = subprocess.Popen(
        [sys.executable, "-m", "avbench", *words], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run/config.toml").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None  # the step is to be finished first
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 130, log
    assert not (tmp_path / "run/interrupted.json").exists()
