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
