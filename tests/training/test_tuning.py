"""The loader's threads and depth are measured, kept, and change no number."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from avbench.cli import main
from avbench.records import read_metrics
from avbench.training import tuning
from avbench.training.tuning import least_close_to_best, threads_to_try
from tests.synthetic import make_dataset

FLAGS = (
    "--preset",
    "tiny",
    "--width",
    "8",
    "--batch-size",
    "4",
    "--epochs",
    "1",
    "--log-steps",
    "1",
    "--methods",
    "audio,baseline",
)


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run / "metrics.jsonl", kinds=["step"])]


def training_of(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "config.toml").read_text())["training"]


def test_what_was_measured_is_kept_for_a_resume_and_changes_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, plain, run = tmp_path / "data", tmp_path / "plain", tmp_path / "run"
    make_dataset(data, clips={"train": 12, "val": 3, "test": 3}, seconds=1.0)
    monkeypatch.setattr(tuning, "_SECONDS", 0.1)
    monkeypatch.setattr(tuning, "cores_of_a_rank", lambda: 3)
    main(["train", str(data), "--out", str(plain), *FLAGS])
    capsys.readouterr()
    main(["train", str(data), "--out", str(run), *FLAGS, "--tune"])
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tuned: ")]
    chosen = training_of(run)
    threads, prefetch = chosen["loader_threads"], chosen["prefetch"]
    assert threads in (1, 2, 3) and prefetch in (2, 4)
    assert said.startswith(f"tuned: {threads} decoding thread") and f"{prefetch} batches ahead (2: " in said
    assert losses(run) == losses(plain) and losses(run)
    # Whoever resumes, or starts the same command again, goes on with what was measured; what is given goes before it.
    main(["train", "--out", str(run), "--resume", "--epochs", "2"])
    assert training_of(run)["loader_threads"] == threads and training_of(run)["prefetch"] == prefetch
    again = ["train", str(data), "--out", str(run), *FLAGS, "--epochs", "3", "--tune", "--auto-resume"]
    main([*again, "--loader-threads", "7"])
    assert training_of(run)["loader_threads"] == 7 and training_of(run)["prefetch"] == prefetch
    assert "threads and prefetch are given, nothing to measure" in capsys.readouterr().out


def test_the_fewest_threads_that_are_nearly_the_fastest_are_chosen() -> None:
    assert threads_to_try(1) == [1] and threads_to_try(12) == [1, 2, 4, 8, 12] and threads_to_try(8) == [1, 2, 4, 8]
    assert least_close_to_best({1: 100.0, 2: 196.0, 4: 200.0, 8: 190.0}) == 2
    assert least_close_to_best({1: 0.0, 2: 0.0}) == 1


def test_batches_rounded_to_what_networks_compute_in_change_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "data", clips={"train": 8, "val": 3, "test": 3}, seconds=1.0)
    flags = (*FLAGS, "--methods", "audio,visual,greedy:warmup=1,tmc,ogm-ge:fusion=film", "--precision", "bfloat16")
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        main(["train", str(data), "--out", str(out), *flags, "--loader-precision", precision])
    assert losses(tmp_path / "bfloat16") == losses(tmp_path / "float32")
    with pytest.raises(SystemExit) as stop:
        main(["train", str(data), "--out", str(tmp_path / "no"), *FLAGS, "--precision", "float32",
              "--loader-precision", "bfloat16"])  # fmt: skip
    assert stop.value.code == 2
    assert "loader-precision is bfloat16, but networks compute in float32; " in capsys.readouterr().err
