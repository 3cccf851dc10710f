"""`avbench train` as users call it, on datasets made in a second; faults are real."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from avbench.batch import Batch, Clock, Outputs
from avbench.cli import main
from avbench.dataset import Dataset, shard_name
from avbench.engine.plain import Engine
from avbench.loading.order import EpochOrder
from avbench.methods import METHODS
from avbench.methods.base import Method, Step
from avbench.methods.baseline import Baseline
from avbench.records import CONFIDENCE_SCHEMA, predictions_schema, read_metrics, read_table
from avbench.training.audit import Count
from avbench.training.run import Progress
from avbench.vocabulary import MODALITIES, SPLITS
from tests.marks import EXHAUSTIVE
from tests.synthetic import make_dataset

FAST = (
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
    "--log-steps",
    "1",
)
RUNS = (*MODALITIES, "baseline")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 20, "val": 9, "test": 9})


def train(dataset: Path, out: Path, *flags: str) -> Path:
    main(["train", str(dataset), "--out", str(out), *FAST, *flags])
    return out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a user's mistake ends in."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert error.startswith("avbench: ")
    return error


def start(dataset: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    words = ["train", str(dataset), "--out", str(out), *FAST, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "avbench", *words], stderr=subprocess.PIPE, text=True, env=environment
    )


def results(run: Path) -> dict[str, pa.Table]:
    tables = sorted(run.glob("predictions/*.parquet"))
    return {str(path.relative_to(run)): read_table(path) for path in [run / "confidence.parquet", *tables]}


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs over three epochs, never interrupted, in a process like the interrupted ones."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    process = start(dataset, out, "--epochs", "3", "--checkpoint-steps", "2")
    _, log = process.communicate()
    assert process.returncode == 0, log
    return out


def test_a_run_folder_holds_all_that_the_design_names(trained: Path, dataset: Path) -> None:
    for name in (
        "config.toml",
        "runs.json",
        "environment.json",
        "dataset.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
    ):
        assert (trained / name).exists(), name
    assert not (trained / "lock.json").exists()
    confidence = read_table(trained / "confidence.parquet", CONFIDENCE_SCHEMA)
    assert confidence["audio_epochs"].to_pylist() == [3] * 38
    told, trained_on = json.loads((trained / "dataset.json").read_text()), Dataset(dataset)
    assert (told["index_sha256"], told["fingerprint"]) == (trained_on.index_sha256, trained_on.fingerprint)
    for run in RUNS:
        for split, clips in (("val", 9), ("test", 9)):
            table = read_table(trained / f"predictions/{run}-seed0-{split}.parquet", predictions_schema(3))
            probabilities = np.array(table["probabilities"].to_pylist())
            assert table.num_rows == (3 * clips if run == "baseline" else clips)  # also without each modality
            np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
            assert (probabilities.argmax(axis=1) == table["prediction"].to_numpy()).all()
            own = np.array([replaced == "none" for replaced in table["replaced"].to_pylist()])
            logarithms = table["log_probabilities"].to_pylist()
            assert [row is not None for row in logarithms] == own.tolist()
            found = np.exp([row for row in logarithms if row is not None])
            np.testing.assert_allclose(found, probabilities[own], rtol=1e-5, atol=1e-7)
            groups = pq.ParquetFile(trained / f"predictions/{run}-seed0-{split}.parquet")
            assert groups.num_row_groups == len(set(table["replaced"].to_pylist()))  # no group holds two kinds of rows
    sources = Dataset(dataset).column("source", np.arange(38)).to_pylist()
    assert confidence["source"].to_pylist() == sources


def test_every_epoch_counted_every_clip_once(trained: Path, dataset: Path) -> None:
    expected = Count.of(Dataset(dataset).clip_ids("train"))
    for record in read_metrics(trained / "metrics.jsonl", kinds=["epoch"]):
        counted = (record["counted_clips"], record["counted_hash"])
        assert counted == (record["expected_clips"], record["expected_hash"]) == (20, expected.hash)
        assert record["left_out_clips"] == 0


def test_confidence_is_the_mean_of_the_history(trained: Path) -> None:
    confidence = read_table(trained / "confidence.parquet")
    parts = [read_table(path) for path in sorted((trained / "confidence/history").glob("visual-*.parquet"))]
    assert len(parts) == 3
    values = np.stack([part.sort_by("clip_id")["confidence"].to_numpy() for part in parts]).astype(np.float64)
    np.testing.assert_allclose(confidence["visual_mean"].to_numpy(), values.mean(axis=0), rtol=1e-12)


def test_the_best_epoch_by_validation_predicts(trained: Path) -> None:
    epochs = read_metrics(trained / "metrics.jsonl", kinds=["epoch"])
    for run in RUNS:
        accuracy = [record["val_accuracy"] for record in epochs if record["run"] == run]
        table = read_table(trained / f"predictions/{run}-seed0-val.parquet")
        table = table.filter(pc.equal(table["replaced"], "none"))
        assert set(table["epoch"].to_pylist()) == {accuracy.index(max(accuracy))}
        right = (table["prediction"].to_numpy() == table["label"].to_numpy()).mean()
        assert right == pytest.approx(max(accuracy))


def test_no_test_accuracy_is_computed_while_training(trained: Path) -> None:
    assert "test" not in (trained / "metrics.jsonl").read_text()


# Before any checkpoint, within an epoch, and in the last one; tests/training/test_faults.py kills ranks everywhere.
@pytest.mark.parametrize(
    ("epoch", "batch"),
    [pytest.param(0, 1, marks=EXHAUSTIVE), (1, 3), pytest.param(2, 1, marks=EXHAUSTIVE)],
)
def test_a_run_killed_and_resumed_ends_with_the_same_numbers(
    dataset: Path, trained: Path, tmp_path: Path, epoch: int, batch: int
) -> None:
    process = start(dataset, tmp_path / "run", "--epochs", "3", "--checkpoint-steps", "2")
    wait_for_batch(tmp_path / "run", process, epoch, batch)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run/confidence.parquet").exists()
    resumed = start(dataset, tmp_path / "run", "--epochs", "3", "--checkpoint-steps", "2", "--resume")
    _, log = resumed.communicate()
    assert resumed.returncode == 0, log
    assert epoch == 0 or "resumed from epoch-" in log
    expected = results(trained)
    got = results(tmp_path / "run")
    assert expected.keys() == got.keys()
    for name, table in expected.items():
        assert got[name].equals(table), name
    assert records_of(tmp_path / "run") == records_of(trained)
    assert curves_of(tmp_path / "run") == curves_of(trained)


def curves_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """By name the points of every curve that TensorBoard shows of the runs: step and value."""
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    names = [name for name in board.Tags()["scalars"] if not name.startswith("performance/")]
    return {name: [(event.step, event.value) for event in board.Scalars(name)] for name in names}


def wait_for_batch(run: Path, process: subprocess.Popen[str], epoch: int, batch: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists():
            records = read_metrics(run / "metrics.jsonl", kinds=["step"])
            if any((record["epoch"], record["batch"]) >= (epoch, batch) for record in records):
                return
        time.sleep(0.01)
    raise AssertionError("training ended before it could be killed")


def records_of(run: Path) -> list[dict[str, Any]]:
    """What is recorded of the runs, which does not hang on the clock."""
    return read_metrics(run / "metrics.jsonl", kinds=["step", "epoch", "event"])


def test_more_epochs_can_be_asked_for_on_resume(dataset: Path, trained: Path, tmp_path: Path) -> None:
    train(dataset, tmp_path / "run", "--methods", "audio", "--epochs", "1")
    main(["train", "--out", str(tmp_path / "run"), "--resume", "--epochs", "2"])
    epochs = read_metrics(tmp_path / "run/metrics.jsonl", kinds=["epoch"])
    assert [record["epoch"] for record in epochs] == [0, 1]
    assert len(json.loads((tmp_path / "run/environment.json").read_text())["launches"]) == 2
    speeds = read_metrics(tmp_path / "run/metrics.jsonl", kinds=["performance"])
    assert [record["launch"] for record in speeds] == [record["epoch"] + 1 for record in speeds]


def test_a_run_is_the_same_alone_and_among_others(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # whatever the machine would use by itself
    together = train(dataset, tmp_path / "together", "--epochs", "2", "--methods", "visual,other=baseline,audio")
    for run in ("visual", "audio"):
        alone = train(dataset, tmp_path / run, "--epochs", "2", "--methods", run)
        name = f"predictions/{run}-seed0-test.parquet"
        assert read_table(alone / name).equals(read_table(together / name))
        column = f"{run}_mean"
        both = (read_table(folder / "confidence.parquet")[column] for folder in (alone, together))
        assert next(both).equals(next(both))


def test_a_profile_traces_every_run_s_steps_and_changes_no_number(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = train(dataset, tmp_path / "plain", "--epochs", "2", "--methods", "audio,visual")
    traced = train(dataset, tmp_path / "traced", "--epochs", "2", "--methods", "audio,visual", "--profile", "2")
    trace = json.loads((traced / "profile" / "rank-0.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"]]
    assert names.count("audio-seed0") == names.count("visual-seed0") > 0
    (said,) = [event["text"] for event in read_metrics(traced / "metrics.jsonl") if "profile" in event.get("text", "")]
    assert said.startswith("profile of ") and said in capsys.readouterr().err
    assert not (plain / "profile").exists()
    tables = results(plain)
    assert all(table.equals(tables[name]) for name, table in results(traced).items())


def test_performance_records_say_processor_and_reading(trained: Path) -> None:
    records = read_metrics(trained / "metrics.jsonl", kinds=["performance"])
    assert records
    for record in records:
        assert record["cpu_cores_busy"] > 0 and record["cpu_use_share"] > 0
        assert record["storage_bytes_per_second"] >= 0
        assert "gpu_power_watts" not in record and not any(name.endswith("_by_rank") for name in record)


def test_performance_is_drawn_in_tensorboard(trained: Path) -> None:
    board = EventAccumulator(str(trained / "tensorboard"))
    board.Reload()
    records = read_metrics(trained / "metrics.jsonl", kinds=["performance"])
    for name in ("clips_per_second", "data_wait_share", "cpu_use_share", "peak_memory_bytes"):
        drawn = [event.value for event in board.Scalars(f"performance/{name}")]
        assert drawn == pytest.approx([record[name] for record in records], rel=1e-6)


def test_seeds_differ_in_initialization_and_share_the_order(dataset: Path, tmp_path: Path) -> None:
    run = train(dataset, tmp_path / "run", "--epochs", "1", "--methods", "audio", "--seeds", "0,1")
    one, other = (read_table(run / f"predictions/audio-seed{seed}-test.parquet") for seed in (0, 1))
    assert not one["probabilities"].equals(other["probabilities"])
    assert read_table(run / "confidence.parquet")["seed"].to_pylist() == [0] * 38 + [1] * 38


class Diverging(Baseline):
    """Its loss is not finite from the third step on."""

    name = "diverging"

    def loss(self, outputs: Outputs, batch: Batch, clock: Clock) -> Tensor:
        losses = super().loss(outputs, batch, clock)
        return losses * float("nan") if clock.step >= 2 else losses


def test_a_run_that_diverges_is_stopped_and_the_others_go_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METHODS, "diverging", Diverging)
    run = train(dataset, tmp_path / "run", "--epochs", "2", "--methods", "diverging,audio")
    texts = [record["text"] for record in read_metrics(run / "metrics.jsonl", kinds=["event"])]
    assert any("diverging-seed0 stopped: diverged" in text for text in texts)
    header, diverged, audio, kept, following = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "best", "epoch", "val.", "accuracy", "time", "stopped"]
    assert diverged.split()[:3] == ["diverging-seed0", "-", "-"]
    assert diverged.endswith("diverged in epoch 0, by step 3, at learning rate 0.01")
    best = max(read_metrics(run / "metrics.jsonl", kinds=["epoch"]), key=lambda record: record["val_accuracy"])
    assert audio.split()[:3] == ["audio-seed0", str(best["epoch"]), f"{100 * best['val_accuracy']:.1f}"]
    assert audio.endswith("after all 2 epochs")
    assert f"`avbench train --out {run} --resume --keep-checkpoints 0`" in kept
    assert following == f"next: avbench evaluate {run}"
    assert (run / "finished.json").exists() and not (run / "diverged.json").exists()
    assert {path.name for path in run.glob("predictions/*")} == {"audio-seed0-test.parquet", "audio-seed0-val.parquet"}
    epochs = read_metrics(run / "metrics.jsonl", kinds=["epoch"])
    assert [(record["run"], record["epoch"]) for record in epochs] == [("audio", 0), ("audio", 1)]


def diverging_from(step: int, *, seed: int) -> Callable[..., Tensor]:
    """A loss that is not finite from a step of one seed on."""

    def loss(self: Method, outputs: Outputs, batch: Batch, clock: Clock) -> Tensor:
        losses = Method.loss(self, outputs, batch, clock)
        return losses * float("nan") if self.seed == seed and clock.step >= step else losses

    return loss


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_modality_that_no_running_method_needs_is_no_longer_decoded(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: str
) -> None:
    """All that read the one diverge in the third step; the network of the other trains on as if it were alone."""
    other = {"audio": "visual", "visual": "audio"}[modality]
    flags = ("--epochs", "2", "--batch-size", "4")
    alone = train(dataset, tmp_path / "alone", *flags, "--methods", other)
    decoded = []
    step = METHODS[other].train_step

    def noted(self: Method, engine: Engine, batch: Batch, clock: Clock) -> Step:
        decoded.append((batch.audio is not None, batch.frames is not None))
        return step(self, engine, batch, clock)

    class DivergingAlone(METHODS[modality]):  # type: ignore[misc, name-defined]
        name = "diverging-alone"
        confidence_of = None
        loss = diverging_from(2, seed=0)

    monkeypatch.setattr(METHODS[other], "train_step", noted)
    monkeypatch.setitem(METHODS, "diverging", Diverging)
    monkeypatch.setitem(METHODS, "diverging-alone", DivergingAlone)
    run = train(dataset, tmp_path / "run", *flags, "--methods", f"diverging-alone,{other},diverging")
    read_last = (other == "audio", other == "visual")
    assert decoded == [(True, True)] * 3 + [read_last] * 7
    assert {path.name for path in run.glob("predictions/*")} == {path.name for path in alone.glob("predictions/*")}
    for name, table in results(alone).items():
        assert results(run)[name].equals(table), name


def test_a_network_that_diverged_cuts_no_subset(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 1 of audio has a whole epoch recorded when it diverges, in the second."""
    monkeypatch.setattr(METHODS["audio"], "loss", diverging_from(4, seed=1), raising=False)
    flags = ("--epochs", "2", "--methods", "audio,visual,baseline", "--seeds", "0,1")
    run = train(dataset, tmp_path / "run", *flags)
    assert not (run / "predictions/audio-seed1-test.parquet").exists()
    table = read_table(run / "confidence.parquet")
    recorded = {
        modality: table.filter(pc.is_valid(table[f"{modality}_mean"]))["seed"].unique().to_pylist()
        for modality in MODALITIES
    }
    assert recorded == {"audio": [0], "visual": [0, 1]}
    main(["evaluate", str(run), "--resamples", "20"])
    assert "audio over seed 0 and visual over seeds 0, 1" in (run / "report/tables.md").read_text()


def test_what_a_network_left_when_it_was_trained_for_fewer_epochs_goes_when_it_diverges(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(dataset, tmp_path / "run", "--epochs", "1", "--methods", "audio,baseline")
    assert len(results(run)) == 5
    monkeypatch.setattr(METHODS["audio"], "loss", diverging_from(4, seed=0), raising=False)
    main(["train", "--out", str(run), "--resume", "--epochs", "2"])
    assert not (run / "confidence.parquet").exists()
    assert {path.name[:8] for path in run.glob("predictions/*")} == {"baseline"}


BIG = """
from avbench.methods.unimodal import Audio


class BigAudio(Audio):
    name = "big-audio"
    network = "a big one"
"""


def test_a_network_of_ones_own_is_the_one_that_cuts_the_subsets(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "big.py").write_text(BIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "big", raising=False)
    run = train(dataset, tmp_path / "run", "--epochs", "1", "--methods", "audio=big:BigAudio,visual,baseline")
    main(["evaluate", str(run), "--resamples", "20"])
    text = (run / "report/accuracy.csv").read_text()
    assert {line.split(",")[0] for line in text.splitlines()[1:]} == {"audio", "visual", "baseline"}
    assert "a big one" in text


def flip_a_byte(path: Path, clip: int) -> None:
    """Damage a clip's audio."""
    opened = Dataset(path)
    offset = int(opened.audio_offsets[clip]) + int(opened.audio_sizes[clip]) // 2
    with (path / shard_name(int(opened.shards[clip]))).open("rb+") as shard:
        shard.seek(offset)
        byte = shard.read(1)[0]
        shard.seek(offset)
        shard.write(bytes([byte ^ 0xFF]))


def test_a_clip_with_bad_bytes_is_left_out_and_named(tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "dataset", clips={"train": 9, "val": 6, "test": 6})
    opened = Dataset(path)
    clip = int(opened.clip_ids("train")[4])
    flip_a_byte(path, clip)
    run = train(path, tmp_path / "run", "--epochs", "1", "--methods", "audio,visual")
    texts = [record["text"] for record in read_metrics(run / "metrics.jsonl", kinds=["event"])]
    assert any(opened.key(clip) in text for text in texts)
    row = read_table(run / "confidence.parquet").slice(clip, 1).to_pylist()[0]
    assert row["key"] == opened.key(clip) and row["audio_mean"] is None and row["audio_epochs"] == 0
    epochs = read_metrics(run / "metrics.jsonl", kinds=["epoch"])
    assert {record["clips"] for record in epochs} == {8}
    expected = Count.of(np.setdiff1d(opened.clip_ids("train"), [clip]))
    for record in epochs:
        assert record["counted_hash"] == record["expected_hash"] == expected.hash
        assert (record["counted_clips"], record["expected_clips"], record["left_out_clips"]) == (8, 8, 1)
    named = [event for event in read_metrics(run / "metrics.jsonl") if "clip_id" in event]
    assert [(event["clip_id"], event["epoch"]) for event in named] == [(clip, 0)]


def test_early_stopping_keeps_the_earliest_of_equal_epochs() -> None:
    progress = Progress()
    judged = [progress.judge(epoch=e, accuracy=a, patience=2) for e, a in enumerate([0.4, 0.6, 0.6, 0.5])]
    assert judged == [True, True, False, False]
    assert (progress.best_epoch, progress.best_accuracy) == (1, 0.6)
    assert "2 epochs" in progress.finished


def test_patience_0_never_stops() -> None:
    progress = Progress()
    for epoch in range(50):
        progress.judge(epoch=epoch, accuracy=0.5, patience=0)
    assert not progress.finished


def test_classes_and_fraction_make_a_cheap_trial(dataset: Path, tmp_path: Path) -> None:
    flags = ("--epochs", "1", "--methods", "audio", "--classes", "class-0", "class-2", "--fraction", "0.5")
    run = train(dataset, tmp_path / "run", *flags)
    table = read_table(run / "confidence.parquet")
    used = [row for row in table.to_pylist() if row["audio_epochs"]]
    assert {row["label"] for row in used} == {0, 2}
    count = {split: sum(row["split"] == split for row in used) for split in SPLITS}
    assert count == {"train": 7, "val": 6, "test": 6}  # half of 7 and of 6, rounded up


def test_an_existing_run_is_not_overwritten_unless_asked(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(dataset, tmp_path / "run", "--epochs", "1", "--methods", "audio")
    words = ("train", str(dataset), "--out", str(run), *FAST, "--epochs", "1", "--methods", "audio")
    assert "already a run; go on with it by --resume" in refused(capsys, *words)
    assert "unknown class" in refused(capsys, *words, "--overwrite", "--classes", "class-0", "class-9")
    assert results(run)  # still there: what replaces it was refused
    main([*words, "--overwrite"])
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    assert "exists and is no run folder" in refused(capsys, "train", str(dataset), "--out", str(other))
    assert "--overwrite leaves it alone" in refused(capsys, "train", str(dataset), "--out", str(other), "--overwrite")
    assert (other / "thesis.tex").read_text() == "years of work"


def test_what_would_make_another_run_cannot_change_on_resume(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(dataset, tmp_path / "run", "--epochs", "1", "--methods", "audio")
    resume = ("train", str(dataset), "--out", str(run), "--resume")
    assert "cannot change learning-rate from 0.01 to 0.5" in refused(capsys, *resume, "--learning-rate", "0.5")
    assert "cannot change width from 8 to 16" in refused(capsys, *resume, "--width", "16")
    assert "cannot change methods" in refused(capsys, *resume, "--methods", "visual")
    other = make_dataset(tmp_path / "other", seed=1)
    assert "was saved with dataset" in refused(capsys, "train", str(other), "--out", str(run), "--resume")


def test_a_second_training_in_the_same_folder_is_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(dataset, tmp_path / "run", "--epochs", "1", "--methods", "audio")
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock = {"host": os.uname().nodename, "process": holder.pid}
    (run / "lock.json").write_text(json.dumps(lock))
    resume = ("train", "--out", str(run), "--resume", "--epochs", "2")
    assert "another training holds it" in refused(capsys, *resume)
    kept = results(run)
    assert "another training holds it" in refused(capsys, "train", str(dataset), "--out", str(run), "--overwrite")
    assert results(run).keys() == kept.keys()
    holder.communicate(b"\n")
    main(list(resume))  # its holder is gone


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--methods", "baselin"), "unknown method 'baselin'; did you mean 'baseline'"),
        (("--preset", "tyny"), "unknown preset 'tyny'; did you mean 'tiny'"),
        (("--epochs", "0"), "epochs is 0, expected at least 1"),
        (("--epochs", "many"), "--epochs"),
        (("--width", "7"), "width is 7, expected at least 8"),
        (("--learning-rte", "1"), "--learning-rte"),
        (("--momentum", "2"), "momentum is 2.0, expected a number in [0, 1)"),
        (("--learning-rate", "inf"), "learning-rate is inf"),
        (("--hang-seconds", "0"), "hang-seconds is 0.0, expected at least 1"),
        (("--exchange-megabytes", "0"), "exchange-megabytes is 0, expected at least 1"),
        (("--seeds", "0,0"), "seeds are [0, 0]"),
        (("--fraction", "0"), "fraction is 0.0"),
        (("--classes", "class-0", "class-9"), "unknown class"),
        (("--methods", "audio,two=audio"), "'audio' and 'two' would both be the audio confidence"),
        (("--resume",), "no run to resume"),
        (("--seeds", "99999999999999999999"), "seeds are"),
        (("--classes", "class-0", "class-0"), "names one twice"),
        (("--classes", "class-0"), "names 'class-0' alone"),
        (("--resume", "--config", "x.toml"), "leave out --config"),
        (("--config", "missing.toml"), "missing.toml: no such configuration file"),
    ],
)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, "train", str(dataset), "--out", str(tmp_path / "run"), *flags)
    assert not (tmp_path / "run").exists()


def break_nothing(path: Path) -> None:
    path.mkdir()


def set_version(path: Path) -> None:
    make_dataset(path)
    description = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps({**description, "version": 99}))


def truncate_shard(path: Path) -> None:
    make_dataset(path)
    with (path / shard_name(0)).open("rb+") as shard:
        shard.truncate(1000)


def one_test_class(path: Path) -> None:
    make_dataset(path, clips={"train": 9, "val": 3, "test": 1})


def no_validation(path: Path) -> None:
    make_dataset(path, clips={"train": 9, "val": 0, "test": 6})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such dataset folder"),
        (break_nothing, "is empty"),
        (set_version, "version 99"),
        (truncate_shard, "truncated?"),
        (one_test_class, "one class only"),
        (no_validation, "the val split has no clips"),
    ],
)
def test_a_dataset_that_cannot_be_trained_on_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "dataset")
    line = refused(capsys, "train", str(tmp_path / "dataset"), "--out", str(tmp_path / "run"), *FAST)
    assert message in line
    assert str(tmp_path / "dataset") in line
    assert not (tmp_path / "run").exists()


def test_a_quarantine_within_an_epoch_goes_back_to_the_epochs_start(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "dataset"
    shutil.copytree(dataset, path)
    process = start(path, tmp_path / "run", "--epochs", "2", "--methods", "audio", "--checkpoint-steps", "1")
    while not list((tmp_path / "run/checkpoints").glob("epoch-0001-batch-00000[12]")):  # written beside training
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    clip = int(Dataset(path).clip_ids("train")[0])
    (path / "quarantine.jsonl").write_text(json.dumps({"clip_id": clip, "key": "", "reason": "a test"}) + "\n")
    capsys.readouterr()
    main(["train", "--out", str(tmp_path / "run"), "--resume"])
    log = capsys.readouterr().err
    assert "the quarantine has changed" in log and "resumed from epoch-0001-batch-000000" in log
    table = read_table(tmp_path / "run/confidence.parquet")
    epochs = {row["clip_id"]: row["audio_epochs"] for row in table.to_pylist()}
    assert epochs.pop(clip) <= 1 and set(epochs.values()) == {2}


def test_a_bad_clip_is_named_in_the_metrics_of_a_resumed_run_too(tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "dataset", clips={"train": 24, "val": 3, "test": 3})
    clip = int(EpochOrder(Dataset(path).clip_ids("train"), 0, 0, 8).batch(0)[0])
    flip_a_byte(path, clip)
    flags = ("--epochs", "1", "--methods", "audio", "--checkpoint-steps", "1")
    process = start(path, tmp_path / "run", *flags)
    wait_for_batch(tmp_path / "run", process, 0, 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    main(["train", "--out", str(tmp_path / "run"), "--resume"])
    train(path, tmp_path / "whole", *flags)
    assert records_of(tmp_path / "run") == records_of(tmp_path / "whole")
    assert any(Dataset(path).key(clip) in record.get("text", "") for record in records_of(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system to fill")
def test_a_full_disk_ends_in_one_line_and_leaves_the_last_checkpoint(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=240m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system here")
    try:
        # A checkpoint of this width has some 90 MB, a best network 45.
        flags = (*FAST, "--width", "64", "--methods", "audio", "--epochs", "3")
        line = refused(capsys, "train", str(dataset), "--out", str(disk / "run"), *flags)
        assert "No space left on device" in line and str(disk) in line
        assert list((disk / "run/checkpoints").glob("epoch-*"))
        subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
        main(["train", "--out", str(disk / "run"), "--resume"])
        whole = results(train(dataset, tmp_path / "whole", *flags))
        assert all(results(disk / "run")[name].equals(table) for name, table in whole.items())
    finally:
        subprocess.run(["umount", str(disk)], check=True)
