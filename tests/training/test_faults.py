"""Ranks that die: killed with SIGKILL at every kind of moment, a run under torchrun ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from avbench.records import read_metrics, read_table
from tests.marks import by_example
from tests.processes import avbench_on_ranks
from tests.synthetic import make_dataset
from tests.training.killed import POINTS

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = ["--preset", "tiny", "--width", "8", "--batch-size", "6", "--learning-rate", "0.01", "--schedule", "constant"]
FLAGS += ["--methods", "audio", "--epochs", "2", "--checkpoint-steps", "1", "--log-steps", "1"]
# What comes often enough for a second, third... time to be meant.
MOST = {"decoding": 12, "backward": 4, "all-to-all": 12, "checkpoint-tensors": 5, "checkpoint-manifest": 5}


def torchrun(*words: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*launcher, "--max-restarts=3", "--monitor-interval=0.2", "-m", *words]


def run(command: list[str], guard: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run in a process group of its own, whose number goes into the guard file."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    if guard is not None:
        guard.write_text(str(process.pid))
    output, _ = process.communicate(timeout=600)
    return subprocess.CompletedProcess(command, process.returncode, output)


def results(folder: Path) -> dict[str, pa.Table]:
    paths = [folder / "confidence.parquet", *sorted(folder.glob("predictions/*.parquet"))]
    history = {
        f"history epoch {epoch}": pa.concat_tables(
            [read_table(path) for path in sorted(folder.glob(f"confidence/history/*epoch{epoch:04d}*.parquet"))]
        )
        for epoch in range(2)
    }
    return {**{path.name: read_table(path) for path in paths}, **history}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 17, "val": 4, "test": 4})


@pytest.fixture(scope="module")
def expected(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """Of two ranks that nobody killed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    avbench_on_ranks(2, "train", str(dataset), "--out", str(out), *FLAGS)
    return results(out)


def check(folder: Path, expected: dict[str, pa.Table]) -> None:
    got = results(folder)
    assert got.keys() == expected.keys()
    for name, table in expected.items():
        assert got[name].equals(table), name
    steps = [(record["epoch"], record["batch"]) for record in read_metrics(folder / "metrics.jsonl", kinds=["step"])]
    assert steps == [(epoch, batch) for epoch in range(2) for batch in (1, 2, 3)]


@pytest.mark.parametrize("seed", by_example(range(18), examples=(1, 3, 5)))
def test_a_rank_killed_at_any_moment_leaves_a_run_that_finishes_by_itself(
    seed: int, dataset: Path, expected: dict[str, pa.Table], tmp_path: Path
) -> None:
    dice = random.Random(seed)
    point = POINTS[seed % len(POINTS)]
    count = dice.randint(1, MOST.get(point, 5))
    # A manifest and a new name are rank 0's to write.
    rank = 0 if point in ("checkpoint-manifest", "checkpoint-rename") else dice.randint(0, 1)
    guard, out = tmp_path / "guard", tmp_path / "run"
    words = ["tests.training.killed", point, str(rank), str(count), str(guard), "--"]
    done = run(torchrun(*words, "train", str(dataset), "--out", str(out), *FLAGS, "--auto-resume"), guard)
    assert (tmp_path / "guard.done").exists(), f"nobody was killed: {point}, rank {rank}, time {count}"
    assert done.returncode == 0, done.stdout
    check(out, expected)


@pytest.mark.parametrize("seed", by_example(range(18, 24), examples=(21,)))
def test_all_ranks_and_their_launcher_killed_go_on_when_started_again(
    seed: int, dataset: Path, expected: dict[str, pa.Table], tmp_path: Path
) -> None:
    dice = random.Random(seed)
    point = POINTS[seed % len(POINTS)]
    guard, out = tmp_path / "guard", tmp_path / "run"
    words = ["tests.training.killed", point, "-1", str(dice.randint(1, MOST.get(point, 5))), str(guard), "--"]
    train = ["train", str(dataset), "--out", str(out), *FLAGS, "--auto-resume"]
    killed = run(torchrun(*words, *train), guard)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    # Workers are in sessions of their own and see their launcher's end by the other rank's, or not at all.
    subprocess.run(["pkill", "-KILL", "-f", str(out)], check=False)
    done = run(torchrun("avbench", *train))
    assert done.returncode == 0, done.stdout
    check(out, expected)
