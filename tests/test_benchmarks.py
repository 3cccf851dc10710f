"""Every benchmark runs on a few clips, so that none rots."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import make_dataset

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def run(name: str, *arguments: object) -> str:
    """The output of a benchmark script, run as its docstring says."""
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("benchmarks") / "data", clips={"train": 6}, seconds=1.5)


def test_the_loaders_benchmark_compares_all_contenders_in_all_cases(dataset, tmp_path):
    pytest.importorskip("librosa", reason="peers are not installed")
    output = run("loader.py", dataset, "--clips", 8, "--rounds", 1, "--batch-size", 4, "--json", tmp_path / "out.json")
    assert "share of" in output
    written = json.loads((tmp_path / "out.json").read_text())
    assert {(one["case"], one["contender"]) for one in written["results"]} == {
        (case, contender)
        for case in ("audio + visual", "audio", "visual")
        for contender in ("avbench", "librosa + PIL", "webdataset")
    }
    assert all(one["clips"] == 8 and one["cpu_seconds"] > 0 for one in written["results"])
    assert written["versions"]["torch"] and written["config"]["batch_size"] == 4


def test_the_loaders_benchmark_measures_memory(dataset, tmp_path):
    pytest.importorskip("librosa", reason="peers are not installed")
    run("loader.py", dataset, "--memory-epochs", 3, "--clips", 6, "--batch-size", 4, "--json", tmp_path / "out.json")
    assert len(json.loads((tmp_path / "out.json").read_text())["results"]) == 3


def test_the_methods_benchmark_times_own_work(tmp_path):
    run("methods.py", "--preset", "tiny", "--rounds", 1, "--batch-size", 2, "--json", tmp_path / "out.json")
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert {row["method"] for row in results} == {"baseline", "ogm-ge", "tmc", "greedy", "gradient-blending"}
    assert all(row["plain_seconds"] > 0 and row["method_seconds"] > 0 for row in results)


def test_the_steps_benchmark_compares_with_a_plain_loop_that_learns_the_same(tmp_path):
    output = run(
        "step.py", "--preset", "tiny", "--rounds", 1, "--batch-size", 4, "--steps", 3, "--json", tmp_path / "o"
    )
    assert "times as fast" in output
    results = json.loads((tmp_path / "o").read_text())["results"]
    assert [row["method"] for row in results] == ["baseline", "ogm-ge"]
    for row in results:
        assert {"plain loop", "avbench, float32"} <= set(row["contenders"])
        assert all(one["cpu_seconds"] > 0 and one["ratio"] > 0 for one in row["contenders"].values())
        assert len(set(row["losses"]["plain loop, float64"])) == 3  # it learns
        assert row["largest_difference_of_losses"]["avbench, float64"] < 1e-9
    losses = [row["losses"]["plain loop, float64"] for row in results]
    assert losses[0][0] == losses[1][0] and losses[0][2] != losses[1][2]  # modulation slows


@pytest.mark.slow
def test_the_methods_benchmark_times_one_pass_and_separate_runs(tmp_path):
    dataset = make_dataset(tmp_path / "data", clips={"train": 8, "val": 3, "test": 3}, seconds=1.5)
    output = run(
        "methods.py", "--dataset", dataset, "--preset", "tiny", "--rounds", 1, "--batch-size", 4,
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert "all seven in one pass" in output
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len(result["alone"]) == 7 and result["decoding"]["cpu_seconds"] > 0


def test_the_stores_benchmark_measures_two_ranks_and_extrapolates(tmp_path):
    output = run(
        "store.py", "--clips", 1000, 5000, "--rounds", 1, "--target-clips", 10_000, "--target-ranks", 4, 1000,
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert "peak, MB a rank" in output and "1,000 ranks" in output
    written = json.loads((tmp_path / "out.json").read_text())
    for result, clips in zip(written["results"], (1000, 5000), strict=True):
        assert result["clips"] == clips and len(result["of_ranks"]) == 2
        assert all(result["wall_seconds"].values()) and all(result["cpu_seconds"].values())
        assert result["saved_bytes"] > 32 * clips and result["history_bytes"] > 4 * clips
        # Half of what a rank recorded is its own; 12 bytes a value, and who sends how much.
        assert 0.8 < result["sent_bytes"] / (12 * clips / 4) < 1.2
        assert 0 < result["peak_bytes"] < 32 * clips / 2 + 200e6
    at_four, at_thousand = written["forecasts"]
    between = [result["cpu_seconds"]["exchange"] for result in written["results"]]  # of 500 and 2,500 clips a rank
    assert at_four["exchange_seconds"]["processor"] == pytest.approx(between[1])
    assert at_thousand["exchange_seconds"]["processor"] == pytest.approx(between[0])
    assert at_thousand["exchange_seconds"]["rounds"] == pytest.approx(250 * at_four["exchange_seconds"]["rounds"])
    assert at_four["saved_bytes"] == pytest.approx(2 * written["results"][1]["saved_bytes"])


def test_the_stores_benchmark_refuses_what_memory_cannot_hold():
    command = [sys.executable, str(BENCHMARKS / "store.py"), "--clips", str(10**12)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("1,000,000,000,000 clips need 40000.") and refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_engines_benchmark_times_modulation_under_each(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [BENCHMARKS / "engines.py", "--preset", "tiny", "--batch-size", "2", "--rounds", "2"]
    command += ["--json", tmp_path / "out.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["ranks"] == 2
    assert {row["engine"] for row in written["results"]} == {"ddp", "zero0", "zero1", "zero2"}
    assert len(written["results"]) == 12 and all(row["seconds"] > 0 for row in written["results"])
