"""Whole trainings on one and several ranks, under every engine: real processes, one command a user would type."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avbench.methods import METHODS
from avbench.records import read_metrics, read_table
from avbench.training.checkpoint import _read
from tests.marks import by_example
from tests.methods.named import every_method
from tests.processes import avbench_on_ranks
from tests.synthetic import make_dataset
from tests.training.test_train import wait_for_batch

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "launch"
ZERO_2 = ("--engine", "deepspeed", "--deepspeed-config", str(LAUNCH / "zero2.json"))
# 26 clips in 4 batches of 7 and 6, so that slices are unequal; five epochs are 20 steps.
FLAGS = ["--preset", "tiny", "--width", "8", "--batch-size", "7", "--learning-rate", "0.01", "--schedule", "constant"]
FLAGS += ["--batch-norm", "global", "--log-steps", "1", "--epochs", "5"]
TWO_RUNS = "audio,ogm-ge:alpha=0.8"
ALL = every_method()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 26, "val": 5, "test": 5})


def train(ranks: int, *words: str) -> None:
    avbench_on_ranks(ranks, "train", *words)


def start(ranks: int, *words: str) -> subprocess.Popen[str]:
    """Under torchrun, which hands signals on."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "avbench", "train", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def alone(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, float64."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(1, str(dataset), "--out", str(out), "--methods", TWO_RUNS, "--precision", "float64", *FLAGS)
    return out


@pytest.fixture(scope="module")
def two_in_float32(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks under DDP, float32."""
    out = tmp_path_factory.mktemp("two") / "run"
    train(2, str(dataset), "--out", str(out), "--methods", TWO_RUNS, "--precision", "float32", *FLAGS)
    return out


def numbers_of(run: Path) -> list[tuple[dict[str, str], dict[str, float]]]:
    """Names and numbers of every step's and epoch's record: losses, accuracies, what methods log."""
    records = read_metrics(run / "metrics.jsonl", kinds=["step", "epoch"])
    return [
        (
            {name: value for name, value in record.items() if isinstance(value, str)},
            {name: value for name, value in record.items() if not isinstance(value, str)},
        )
        for record in records
    ]


def parameters_of(run: Path) -> dict[str, np.ndarray]:
    """Every network and optimizer after the last step; batch norm's running statistics too."""
    *_, newest = sorted((run / "checkpoints").glob("epoch-*"))
    _, _, tensors = _read(newest)
    return {name: value.double().numpy() for name, value in tensors.items() if name.startswith("shared/")}


def results_of(run: Path) -> dict[str, np.ndarray]:
    """Confidences and predictions, by clip."""
    confidence = read_table(run / "confidence.parquet")
    found = {name: confidence[name].to_numpy() for name in ("clip_id", "audio_mean", "audio_epochs")}
    for path in sorted(run.glob("predictions/*.parquet")):
        table = read_table(path)
        found[f"{path.name} keys"] = np.array([hash(key) for key in table["key"].to_pylist()])
        found[path.name] = np.array(table["probabilities"].to_pylist(), np.float64)
    return found


def check_agree(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def check_same_training(one: Path, other: Path, tolerance: float) -> None:
    records, others = numbers_of(one), numbers_of(other)
    assert len(records) == len(others)
    for (names, numbers), (other_names, other_numbers) in zip(records, others, strict=True):
        assert names == other_names
        assert other_numbers == pytest.approx(numbers, rel=tolerance, abs=tolerance), names
    check_agree(parameters_of(one), parameters_of(other), tolerance)
    check_agree(results_of(one), results_of(other), max(tolerance, 1e-7))  # tables are float32


def check_begun_alike(one: Path, other: Path) -> None:
    """The same first step in float32, and after it the same steps, epochs, clips and tables.

    How sums are rounded, an engine decides, and a rounded activation falls on the other side of a relu: within twenty
    steps losses differ by percents, whatever averages. Step by step, on networks without relus, engines are compared in
    tests/methods/test_engines.py.
    """
    records, others = numbers_of(one), numbers_of(other)
    assert [names for names, _ in records] == [names for names, _ in others]
    assert [(numbers["epoch"], numbers.get("batch")) for _, numbers in records] == [
        (numbers["epoch"], numbers.get("batch")) for _, numbers in others
    ]
    runs = len(TWO_RUNS.split(","))
    for (_, numbers), (_, other_numbers) in zip(records[:runs], others[:runs], strict=True):
        assert other_numbers["loss"] == pytest.approx(numbers["loss"], rel=1e-5)
    expected, got = results_of(one), results_of(other)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert got[name].shape == value.shape and np.isfinite(got[name]).all()
    np.testing.assert_array_equal(got["audio_epochs"], 5)


@pytest.mark.parametrize("ranks", by_example([2, 4], examples=[2]))
def test_any_number_of_ranks_trains_the_same_networks(ranks: int, dataset: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(ranks, str(dataset), "--out", str(out), "--methods", TWO_RUNS, "--precision", "float64", *FLAGS)
    check_same_training(alone, out, 1e-8)


@pytest.mark.parametrize("stage", by_example([0, 1, 2], examples=[2]))
def test_deepspeed_trains_the_same_networks(stage: int, dataset: Path, two_in_float32: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--methods", TWO_RUNS, "--precision", "float32", *FLAGS]
    words += ["--engine", "deepspeed", "--deepspeed-config", str(LAUNCH / f"zero{stage}.json")]
    train(2, str(dataset), "--out", str(out), *words)
    check_begun_alike(two_in_float32, out)


@pytest.mark.parametrize("engine", by_example([(), ZERO_2], examples=[()]))
def test_all_methods_finish_in_bfloat16(engine: tuple[str, ...], dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--methods", ALL, "--precision", "bfloat16", *FLAGS, "--epochs", "1", "--accumulation", "2"]
    train(2, str(dataset), "--out", str(out), *words, *engine)
    assert len(list(out.glob("predictions/*-test.parquet"))) == len(METHODS)  # none has diverged


@pytest.mark.slow
def test_a_training_stopped_on_two_ranks_goes_on_on_four_and_on_one(dataset: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(2, str(dataset), "--out", str(out), "--methods", TWO_RUNS, "--precision", "float64", *FLAGS)
    wait_for_batch(out, process, 1, 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert (out / "interrupted.json").exists()
    process = start(4, "--out", str(out), "--resume")
    wait_for_batch(out, process, 3, 1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert (out / "interrupted.json").exists()
    train(1, "--out", str(out), "--resume")
    check_agree(parameters_of(alone), parameters_of(out), 1e-8)
    check_agree(results_of(alone), results_of(out), 1e-7)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_checkpoint_under_zero_goes_on_under_ddp_and_the_other_way(
    dataset: Path, two_in_float32: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    zero = ["--engine", "deepspeed", "--deepspeed-config", str(LAUNCH / "zero2.json")]
    words = ["--methods", TWO_RUNS, "--precision", "float32", *FLAGS]
    train(2, str(dataset), "--out", str(out), *words, *zero, "--epochs", "2")
    train(2, "--out", str(out), "--resume", "--engine", "ddp", "--epochs", "3")
    train(2, "--out", str(out), "--resume", *zero, "--epochs", "5")
    check_begun_alike(two_in_float32, out)
