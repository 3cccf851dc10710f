"""benchmarks/gpu.py runs on a CPU, too, and loses nothing that it has found."""

import ast
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from avbench.errors import Interrupted, UsageError
from avbench.methods import METHODS

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])}
SMALL = {
    "device": "cpu", "preset": "tiny", "presets": ("tiny",), "methods": "audio,ogm-ge", "clips": 4, "clip_seconds": 1.0,
    "batch_size": 2, "batch_sizes": (2,), "largest": 4, "seconds": 0.01, "block": 1, "epoch_clips": 4, "workers": 2,
    "minutes": 60.0,
}  # fmt: skip


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    import gpu

    return gpu


def test_without_a_gpu_it_ends_with_one_line():
    command = [sys.executable, str(BENCHMARKS / "gpu.py")]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT, check=False)
    assert refused.returncode == 2
    assert refused.stderr == "avbench: benchmarks/gpu.py wants an NVIDIA GPU; NVML and torch find none here\n"


def test_what_cublas_needs_is_set_before_anything_could_start_cuda():
    body = ast.parse((BENCHMARKS / "gpu.py").read_text()).body
    text = [ast.unparse(statement) for statement in body]
    (place,) = [
        number for number, line in enumerate(text) if "CUBLAS_WORKSPACE_CONFIG" in line and "setdefault" in line
    ]
    assert all(line.split()[:2] in (["from", "__future__"], ["import", "os"]) for line in text[1:place])


def fake(gpu, monkeypatch, *rows):
    monkeypatch.setattr(gpu, "rows", lambda setting: iter([gpu.Row(*row) for row in rows]))


def refuse() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.\nA long story.")


def leave() -> None:
    sys.exit(2)


def test_a_row_that_fails_is_written_and_the_others_are_too(gpu, monkeypatch, tmp_path, capsys):
    fake(
        gpu,
        monkeypatch,
        ("smoke", "first", 1, lambda: "done"),
        ("smoke", "second", 1, refuse),
        ("waits", "third", 1, leave),
        ("steps", "fourth", 1, lambda: {"avbench": 200.0}),
    )
    path = tmp_path / "gpu.json"
    with pytest.raises(SystemExit) as ended:
        gpu.main(gpu.Config(**SMALL, json=path))
    assert ended.value.code == 1
    written = json.loads(path.read_text())
    assert written["answers"] == {
        "smoke": {"first": "done", "second": "failed: OutOfMemoryError: CUDA out of memory."},
        "waits": {"third": "failed: SystemExit: 2"},
        "steps": {"fourth": {"avbench": 200.0}},
    }
    assert set(written["failed"]) == {"smoke, second", "waits, third"}
    assert "in refuse" in written["failed"]["smoke, second"] and written["machine"]["processor"]
    output = capsys.readouterr().out
    assert "steps | fourth | avbench 200" in output and "failed: smoke, second, waits, third;" in output


def test_a_signal_during_a_training_ends_it_with_what_was_found(gpu, monkeypatch, tmp_path):
    def interrupted() -> None:
        raise Interrupted("SIGTERM")

    later = ("steps", "later", 1, lambda: pytest.fail("goes on"))
    fake(gpu, monkeypatch, ("smoke", "first", 1, lambda: 1), ("training", "second", 1, interrupted), later)
    path = tmp_path / "gpu.json"
    with pytest.raises(SystemExit) as ended:
        gpu.main(gpu.Config(**SMALL, json=path))
    assert ended.value.code == 1
    answers = json.loads(path.read_text())["answers"]
    assert answers == {"smoke": {"first": 1}, "training": {"second": "failed: Interrupted: interrupted by SIGTERM"}}


def test_a_row_that_time_is_too_short_for_is_listed_and_a_shorter_one_is_still_found(gpu, monkeypatch, tmp_path):
    fake(
        gpu,
        monkeypatch,
        ("smoke", "long", 90, lambda: 1),
        ("steps", "short", 10, lambda: 2),
        ("waits", "not wanted", 10, lambda: 3),
    )
    path = tmp_path / "gpu.json"
    gpu.main(gpu.Config(**{**SMALL, "minutes": 1.0, "only": "smoke, steps"}, json=path))
    written = json.loads(path.read_text())
    assert written["answers"] == {"steps": {"short": 2}}
    (line,) = written["left_out"]
    assert line.startswith("smoke, long: left out, 90 s of ")


def test_an_answer_that_there_is_not_is_refused(gpu):
    with pytest.raises(UsageError, match=r"--only: unknown answer 'step'; did you mean 'steps'"):
        gpu.main(gpu.Config(**SMALL, only="smoke,step"))


def test_when_it_is_killed_all_that_was_found_is_there(tmp_path):
    """At any moment: rows come one after the other, large ones, so that a write is often under way."""
    program = (
        "import sys, gpu\n"
        "from pathlib import Path\n"
        "row = lambda n: gpu.Row('smoke', str(n), 1, lambda: 'x' * 300_000)\n"
        "gpu.rows = lambda setting: map(row, range(10_000))\n"
        "gpu.main(gpu.Config(device='cpu', minutes=60, json=Path(sys.argv[1])))\n"
    )
    path = tmp_path / "gpu.json"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        printed = 0
        assert process.stdout is not None
        while printed < 12:
            printed += process.stdout.readline().startswith("smoke | ")
        time.sleep(0.013)
        process.send_signal(signal.SIGKILL)
    found = json.loads(path.read_text())["answers"]["smoke"]
    assert list(found) == [str(number) for number in range(len(found))] and len(found) >= 11


def test_aims_are_held_against_what_was_measured(gpu):
    from gpu_answers.aims import aims_of

    answers = {
        "steps": {"baseline": {"avbench": 1000.0, "plain loop, bfloat16": 800.0}, "tmc": {"avbench": 500.0}},
        "training": {
            "baseline, flac": {"clips_per_second": 980.0, "data_wait_share": 0.004, "gpu_data_wait_share": 0.006},
            "all methods, flac": {"clips_per_second": 250.0},
            "plain loop, DataLoader, float32": "failed: RuntimeError: no",
        },
        "loader": {"paper, flac": 2000.0},
        "apart": {"baseline, flac": {"clips_per_second": 500.0}, "tmc, flac": {"clips_per_second": 250.0}},
    }
    aims = aims_of(answers, preset="paper")
    assert [(round(aim["measured"], 4), aim["met"]) for aim in aims] == [
        (0.01, True),  # waiting
        (0.98, True),  # fed beside resident
        (1.25, False),  # beside the plain loop: 1000 / 800
        (round(0.004 / 0.003, 4), False),  # one pass: 1/250 beside 1/1000 + 1/500
        (1.5, False),  # 1/500 + 1/250 beside 1/250
    ]
    assert aims_of({}, preset="paper") == []


def test_what_is_right_is_asked_on_a_cpu_too(gpu, tmp_path):
    path = tmp_path / "gpu.json"
    gpu.main(gpu.Config(**SMALL, json=path, only="agreement,places,waits,decoder,bad clips"))
    answers = json.loads(path.read_text())["answers"]
    same = {"largest": 0.0, "mean": 0.0, "within what tests allow": True}
    assert answers["agreement"] == {"tiny": {"audio": same, "frames": same}}
    assert answers["places"]["another place in the batch"] == {"clip_id": True, "audio": True, "frames": True}
    assert answers["places"]["the same batch twice"] == {"clip_id": True, "audio": True, "frames": True}
    assert answers["waits"] == {"audio": "none", "ogm-ge": "none"}
    assert len(answers["decoder"]) == 5 and all(speed > 0 for speed in answers["decoder"].values())
    assert answers["bad clips"]["a broken FLAC"].startswith("named: ")
    assert "decode" in answers["bad clips"]["a cut JPEG"]


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(3000)
def test_the_whole_course_runs_on_a_cpu(gpu, tmp_path):
    path, trace = tmp_path / "gpu.json", tmp_path / "trace.json.gz"
    # But for compiling, which takes minutes there; tests/engine does that.
    only = ",".join(gpu.ANSWERS).replace("engines,", "")
    gpu.main(gpu.Config(**SMALL, json=path, trace=trace, only=only))
    written = json.loads(path.read_text())
    assert not written["failed"] and not written["left_out"]
    answers = written["answers"]
    assert set(answers) == set(gpu.ANSWERS) - {"engines"}
    assert {spec.name for spec in gpu.Setting(gpu.Config(), torch.device("cpu"), tmp_path).specs} == set(METHODS)
    (resumed,) = answers["resume"].values()
    assert all(resumed["the same weights"].values()) and resumed["the same losses"] and resumed["steps"] == 48
    assert answers["largest batch"] == {"of 4": "a batch of 4 fits"}
    assert {"clips_per_second", "data_wait_share"} <= set(answers["training"]["all methods, flac"])
    assert answers["training"]["plain loop, DataLoader, float32"]["clips_per_second"] > 0
    assert answers["loader"]["plain DALI, tuned, flac"] > 0
    assert answers["profile"]["all methods"].startswith("profile of ")
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert any("DALI" in line for line in answers["smoke"]["doctor"])


@pytest.mark.slow
def test_kept_spectrograms_are_held_against_the_cpus(gpu, tmp_path):
    path = tmp_path / "gpu.json"
    gpu.main(gpu.Config(**{**SMALL, "preset": "paper"}, json=path, only="agreement"))
    kept = json.loads(path.read_text())["answers"]["agreement"]["kept spectrograms"]
    assert kept["audio"] == {"largest": 0.0, "mean": 0.0, "within what tests allow": True}
