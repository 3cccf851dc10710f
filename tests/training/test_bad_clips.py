"""Clips that turn out bad while training: noted in the run folder, and past a limit every rank saves and stops."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.errors import UsageError
from avbench.loading.order import EpochOrder
from avbench.records import read_metrics, read_table
from avbench.training.bad_clips import limit_of
from avbench.training.config import TrainerConfig
from tests.processes import run_on_ranks
from tests.synthetic import make_dataset

FLAGS = ("--preset", "tiny", "--width", "8", "--batch-size", "4", "--epochs", "2", "--methods", "audio")
FLAGS += ("--log-steps", "1", "--patience", "0")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of train, which have four batches an epoch."""
    path = tmp_path_factory.mktemp("data") / "dataset"
    return make_dataset(path, clips={"train": 16, "val": 4, "test": 4}, seconds=1.2, clips_per_shard=8)


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    return shutil.copytree(dataset, tmp_path / "dataset")


def damage(path: Path, *clips: int) -> None:
    """Another byte in the sound of these clips; a second time it is the one that was packed."""
    dataset = Dataset(path)
    for clip in clips:
        with (path / f"shard-{dataset.shards[clip]:06d}.tar").open("r+b") as shard:
            shard.seek(int(dataset.audio_offsets[clip]) + 50)
            byte = shard.read(1)[0]
            shard.seek(-1, 1)
            shard.write(bytes([byte ^ 0xFF]))


def batch_of(path: Path, number: int, *, epoch: int = 0) -> list[int]:
    return EpochOrder(Dataset(path).clip_ids("train"), 0, epoch, 4).batch(number).tolist()


def noted(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]


def outcome(*words: str) -> tuple[int, str]:
    """Exit status and stderr of a command, on any rank."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(list(words))
        except SystemExit as stop:
            return int(stop.code or 0), said.getvalue()
    return 0, said.getvalue()


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_the_limit_is_ten_clips_or_a_thousandth_where_none_is_named() -> None:
    assert [limit_of(-1, clips) for clips in (5, 9_999, 12_345)] == [10, 10, 12]
    assert [limit_of(setting, 200_000) for setting in (0, 3)] == [0, 3]
    with pytest.raises(UsageError, match="bad-clips-limit is -2"):
        TrainerConfig(bad_clips_limit=-2)


def test_bad_clips_are_noted_in_the_form_of_a_quarantine_and_taken_over(copy: Path, tmp_path: Path) -> None:
    bad = sorted([batch_of(copy, 1)[0], batch_of(copy, 2)[1], 17])  # the last is of val
    damage(copy, *bad)
    run = tmp_path / "run"
    assert outcome("train", str(copy), "--out", str(run), *FLAGS)[0] == 0
    found = noted(run)
    assert [(line["clip_id"], line["key"]) for line in found] == [(clip, Dataset(copy).key(clip)) for clip in bad]
    assert all(line["reason"].startswith("audio has checksum") for line in found)
    assert outcome("verify", str(copy), "--quarantine", "--add", str(run / "quarantine.jsonl"))[0] == 0
    assert Dataset(copy).quarantined.tolist() == bad
    other = tmp_path / "other"
    assert outcome("train", str(copy), "--out", str(other), *FLAGS, "--bad-clips-limit", "0")[0] == 0
    assert not (other / "quarantine.jsonl").exists()
    for folder, left_out in ((run, 2), (other, 0)):
        (record, _) = read_metrics(folder / "metrics.jsonl", kinds=["epoch"])
        assert (record["counted_clips"], record["left_out_clips"]) == (14, left_out)


def test_past_the_limit_it_saves_stops_and_goes_on_when_that_is_allowed(copy: Path, tmp_path: Path) -> None:
    damage(copy, *batch_of(copy, 2)[:2])
    keys = [Dataset(copy).key(clip) for clip in batch_of(copy, 2)[:2]]
    run, whole = tmp_path / "run", tmp_path / "whole"
    status, error = outcome("train", str(copy), "--out", str(run), *FLAGS, "--bad-clips-limit", "1")
    line = last_line(error)
    assert status == 2 and line.startswith(f"avbench: {run}: stopped in epoch 0 after 2 of 4 batches; nothing is lost.")
    assert "2 clips are bad, more than the 1 that --bad-clips-limit allows" in line and "Traceback" not in error
    for part in (*keys, "audio has checksum", "--repair", f"--quarantine --add {run}/quarantine.jsonl", "--resume"):
        assert part in line, part
    assert {entry["key"] for entry in noted(run)} == set(keys)
    assert not (run / "interrupted.json").exists()
    assert (run / "checkpoints/epoch-0000-batch-000002").is_dir()
    status, error = outcome("train", "--out", str(run), "--resume")
    assert status == 2 and f"{run}: not gone on with. 2 clips are bad" in last_line(error)
    assert outcome("train", "--out", str(run), "--resume", "--bad-clips-limit", "2")[0] == 0
    assert outcome("train", str(copy), "--out", str(whole), *FLAGS)[0] == 0
    assert read_table(run / "confidence.parquet").equals(read_table(whole / "confidence.parquet"))
    epochs = [read_metrics(folder / "metrics.jsonl", kinds=["epoch"]) for folder in (run, whole)]
    assert epochs[0] == epochs[1] and [record["counted_clips"] for record in epochs[0]] == [14, 14]


def test_mended_clips_are_used_again_from_the_next_epoch_on(copy: Path, tmp_path: Path) -> None:
    bad = batch_of(copy, 1)[:2]
    damage(copy, *bad)
    run = tmp_path / "run"
    assert outcome("train", str(copy), "--out", str(run), *FLAGS, "--bad-clips-limit", "1")[0] == 2
    damage(copy, bad[0], bad[1])  # as they were
    assert outcome("train", "--out", str(run), "--resume")[0] == 0
    epochs = read_metrics(run / "metrics.jsonl", kinds=["epoch"])
    assert [(record["counted_clips"], record["left_out_clips"]) for record in epochs] == [(14, 2), (16, 0)]
    assert all(record["counted_hash"] == record["expected_hash"] for record in epochs)
    texts = [record["text"] for record in read_metrics(run / "metrics.jsonl", kinds=["event"])]
    for clip in bad:
        assert f"clip {Dataset(copy).key(clip)} is whole again, and used from epoch 1 on" in texts
    assert not (run / "quarantine.jsonl").exists()


def test_clips_that_are_set_aside_within_the_first_epoch_leave_nothing_to_go_on_from(
    copy: Path, tmp_path: Path
) -> None:
    bad = batch_of(copy, 1)[:2]
    damage(copy, *bad)
    run = tmp_path / "run"
    assert outcome("train", str(copy), "--out", str(run), *FLAGS, "--bad-clips-limit", "0")[0] == 2
    assert outcome("verify", str(copy), "--quarantine", "--add", str(run / "quarantine.jsonl"))[0] == 0
    status, error = outcome("train", "--out", str(run), "--resume")
    assert status == 2 and "the quarantine has changed" in last_line(error)


def lose_a_shard_and_train(path: Path, run: Path, flags: tuple[str, ...]) -> tuple[int, str]:
    """A training of a dataset that loses a shard once it is open."""
    from avbench.training.trainer import Trainer

    before = Trainer.fit

    def fit(self, **options):
        shutil.move(path / "shard-000000.tar", path / "away") if self.world.is_main else None
        from avbench.distributed import barrier

        barrier()
        return before(self, **options)

    Trainer.fit = fit
    try:
        return outcome("train", str(path), "--out", str(run), *flags)
    finally:
        Trainer.fit = before


def test_a_shard_that_is_lost_while_two_ranks_train_stops_both_at_the_same_batch(copy: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    flags = (*FLAGS, "--bad-clips-limit", "3")
    ends = run_on_ranks(2, lose_a_shard_and_train, copy, run, flags, is_joined=False, timeout_seconds=400.0)
    (first, error), (second, other) = ends
    assert first == second == 2 and last_line(error) == last_line(other)
    assert "stopped in epoch 0 after " in last_line(error) and "shard-000000.tar cannot be read" in last_line(error)
    assert "Traceback" not in error + other
    checkpoints = [path.name for path in (run / "checkpoints").glob("epoch-*")]
    assert len(checkpoints) == 1
    assert len(noted(run)) > 3
    shutil.move(copy / "away", copy / "shard-000000.tar")
    ends = run_on_ranks(2, outcome, "train", "--out", str(run), "--resume", is_joined=False, timeout_seconds=400.0)
    assert [status for status, _ in ends] == [0, 0], ends
    epochs = read_metrics(run / "metrics.jsonl", kinds=["epoch"])
    assert [record["counted_hash"] == record["expected_hash"] for record in epochs] == [True, True]
    assert epochs[0]["left_out_clips"] > 3 and epochs[1]["counted_clips"] == 16
    assert whole.exists() is False and not (run / "quarantine.jsonl").exists()


def test_one_rank_that_finds_too_many_stops_both(copy: Path, tmp_path: Path) -> None:
    # Of a batch's four clips rank 0 has the first two.
    bad = batch_of(copy, 1)[:2]
    damage(copy, *bad)
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = ("train", str(copy), "--out", str(run), *FLAGS, "--bad-clips-limit", "1")
    ends = run_on_ranks(2, outcome, *words, is_joined=False, timeout_seconds=400.0)
    assert [status for status, _ in ends] == [2, 2]
    assert len({last_line(error) for _, error in ends}) == 1
    assert "2 clips are bad, more than the 1" in last_line(ends[0][1])
    resumed = ("train", "--out", str(run), "--resume", "--bad-clips-limit", "2")
    assert [status for status, _ in run_on_ranks(2, outcome, *resumed, is_joined=False, timeout_seconds=400.0)] == [
        0,
        0,
    ]
    run_on_ranks(2, outcome, "train", str(copy), "--out", str(whole), *FLAGS, is_joined=False, timeout_seconds=400.0)
    assert read_table(run / "confidence.parquet").equals(read_table(whole / "confidence.parquet"))
