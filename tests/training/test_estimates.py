"""A run that is interrupted again and again in the passes before an epoch gets on, to the same bits."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avbench.cli import main
from avbench.errors import INTERRUPTED_STATUS
from avbench.methods import METHODS
from avbench.methods.base import Method, RunView
from avbench.methods.baseline import Baseline
from avbench.records import read_metrics, read_table
from avbench.training.checkpoint import Within
from avbench.training.interruption import Stop
from avbench.training.watchdog import Watchdog
from tests.conftest import REPOSITORY
from tests.marks import by_example
from tests.processes import avbench_on_ranks, run_on_ranks
from tests.synthetic import make_dataset
from tests.training.stopped import stopped_after

FLAGS = ["--preset", "tiny", "--width", "8", "--batch-size", "4", "--learning-rate", "0.01", "--momentum", "0.9"]
FLAGS += ["--log-steps", "1", "--epochs", "2"]
# Before epoch 0: a pass to fill, two to measure, two to train and two to measure; the estimation part has 5 batches.
METHOD = "gradient-blending:super_epoch=2"
SAID = "before the first epoch"
BATCHES = 5 + (5 + 1) + 2 * 5 + (5 + 1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 20, "val": 5, "test": 5})


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    main(["train", str(dataset), "--out", str(out), *words_for()])
    return out


def words_for() -> list[str]:
    return ["--methods", f"audio,{METHOD}", *FLAGS]


def check_equal(run: Path, whole: Path) -> None:
    """The same predictions and records; of events those that are of a run."""
    for path in sorted(whole.glob("predictions/*.parquet")):
        assert read_table(run / path.relative_to(whole)).equals(read_table(path)), path.name
    assert records_of(run) == records_of(whole)


def records_of(run: Path) -> list[dict[str, Any]]:
    records = read_metrics(run / "metrics.jsonl", kinds=["step", "epoch", "event"])
    return [record for record in records if "run" in record and not record.get("text", "").endswith(SAID)]


def stopped_while_training(beats: int, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a training that gets SIGTERM after so many batches."""
    with stopped_after(beats) as places, pytest.raises(SystemExit) as stop:
        main(words)
    assert len(places) == beats + 1, "the training came to its end"
    assert stop.value.code == INTERRUPTED_STATUS
    return capsys.readouterr().err.strip().splitlines()[-1]


def say_before_the_first_epoch(self: Method, run: RunView) -> None:
    if run.clock.epoch == 0:
        run.say(SAID)


def test_a_run_that_is_preempted_again_and_again_within_an_estimate_gets_on(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(METHODS["audio"], "before_epoch", say_before_the_first_epoch)
    run = tmp_path / "run"
    begin = ["train", str(dataset), "--out", str(run), *words_for()]
    done = 0
    # Amid filling, at the end of measuring, amid training, and before the very last batch.
    for beats in (3, 8, 8, 7):
        line = stopped_while_training(beats, begin if not done else ["train", "--out", str(run), "--resume"], capsys)
        done += beats
        assert f"{done} batches done); nothing is lost" in line
        within = json.loads((run / "interrupted.json").read_text())["within"]
        assert (within["run"], within["batches"]) == ("gradient-blending-seed0", done)
        assert (run / f"checkpoints/epoch-0000-batch-000000-prepared-0001-pass-batch-{done:07d}").is_dir()
    assert done == BATCHES - 1
    main(["train", "--out", str(run), "--resume"])
    check_equal(run, whole)
    (said,) = [event for event in read_metrics(run / "metrics.jsonl") if event.get("text", "").endswith(SAID)]
    assert said["run"] == "audio"
    passes = [
        [record[name] for name in ("passes", "clips")]
        for folder in (run, whole)
        for record in read_metrics(folder / "metrics.jsonl", kinds=["performance"])
        if "passes" in record
    ]
    assert passes == [[7, 5 * 17 + 2 * 3]] * 2


def test_a_run_killed_within_an_estimate_goes_on_from_its_last_checkpoint_there(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed: as far as the run folder can tell."""
    words = ["train", str(dataset), "--out", str(tmp_path / "run"), *words_for(), "--checkpoint-steps", "4"]
    with monkeypatch.context() as patch:
        patch.setattr(Watchdog, "beat", killing_after(23, tmp_path / "run/checkpoints", Watchdog.beat))
        with pytest.raises(SystemExit):
            main(words)
    newest = max((tmp_path / "run/checkpoints").glob("epoch-*"))
    assert newest.name == "epoch-0000-batch-000000-prepared-0001-pass-batch-0000020"
    main(["train", "--out", str(tmp_path / "run"), "--resume"])
    check_equal(tmp_path / "run", whole)


def killing_after(
    beats: int, checkpoints: Path, beat: Callable[[Watchdog, str], None]
) -> Callable[[Watchdog, str], None]:
    """A beat that ends the training, once what is being written beside it has its name."""
    left = iter(range(beats))

    def counted(self: Watchdog, where: str) -> None:
        if next(left, None) is None:
            while list(checkpoints.glob(".partial-*")) or not list(checkpoints.glob("*-0000020")):
                time.sleep(0.01)
            raise KeyboardInterrupt
        beat(self, where)

    return counted


@pytest.mark.slow
def test_an_estimate_over_clips_that_have_changed_is_made_again(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = tmp_path / "dataset", tmp_path / "run"
    subprocess.run(["cp", "-r", str(dataset), str(path)], check=True)
    words = ["train", str(path), "--out", str(run), "--methods", METHOD.replace("2", "1"), *FLAGS]
    # Into the estimate before epoch 1: an estimate has 22 batches (17 without filling), an epoch 5, 2 for val, 2 for
    # test, which nobody reads here.
    line = stopped_while_training(5 + 6 + 5 + 6 + 5 + 2 + 4, words, capsys)
    assert "before epoch 1" in line
    (path / "quarantine.jsonl").write_text(json.dumps({"clip_id": 0, "key": "", "reason": "a test"}) + "\n")
    main(["train", "--out", str(run), "--resume"])
    log = capsys.readouterr().err
    assert "within the passes before an epoch over other clips" in log
    assert "resumed from epoch-0001-batch-000000\n" in log


class Forgetful(Baseline):
    """Makes two passes over train before its first epoch, and keeps nothing of them."""

    name = "forgetful"
    begun = 0

    def before_epoch(self, run: RunView) -> None:
        for number in range(2 if run.clock.epoch == 0 else 0):
            Forgetful.begun += 1
            for _ in run.batches("train", epoch=number, training=False):
                pass


def test_what_a_method_cannot_go_on_with_is_said_and_made_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METHODS, "forgetful", Forgetful)
    words = ["train", str(dataset), "--out", str(tmp_path / "run"), "--methods", "forgetful", *FLAGS]
    line = stopped_while_training(7, [*words, "--checkpoint-steps", "2"], capsys)
    assert "(2 passes begun, 7 batches done)" in line
    assert "forgetful-seed0's method cannot go on from within, so they are made again, nothing else is lost" in line
    assert not list((tmp_path / "run/checkpoints").glob("epoch-*"))
    main(["train", "--out", str(tmp_path / "run"), "--resume"])
    assert Forgetful.begun == 4


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (Stop("SIGTERM", 0, 3, 5), "in epoch 0 after 3 of 5 batches; nothing is lost"),
        (
            Stop("SIGTERM", 0, 5, 5),
            "after all 5 batches of epoch 0, before it was judged; that is done again, nothing else is lost",
        ),
        (
            Stop("SIGTERM", 2, 0, 5, is_trained=True),
            "after the last epoch, while predictions were made; they are made again, nothing else is lost",
        ),
        (
            Stop("SIGUSR1", 1, 0, 5, Within("gb-seed0", passes=1, batches=1)),
            "before epoch 1, in what gb-seed0 does there (1 pass begun, 1 batch done); nothing is lost",
        ),
    ],
)
def test_what_is_done_again_after_a_signal_is_said(stop: Stop, said: str) -> None:
    text = stop.text(Path("a run"))
    assert text == f"interrupted by {stop.signal} {said}, go on with `avbench train --out 'a run' --resume`"


def test_predictions_that_are_interrupted_are_made_again(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(dataset), "--out", str(tmp_path / "run"), "--methods", "audio", *FLAGS]
    # Two epochs of 5 batches, 2 of val and 2 of test.
    assert "while predictions were made" in stopped_while_training(19, words, capsys)
    main(["train", "--out", str(tmp_path / "run"), "--resume"])
    assert list((tmp_path / "run/predictions").glob("*.parquet"))


def stopped_rank(words: list[str], beats: int) -> None:
    """`avbench` on one rank of several, of which the first gets SIGTERM after so many batches."""
    with stopped_after(beats if os.environ["RANK"] == "0" else sys.maxsize), pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == INTERRUPTED_STATUS


ENGINES = {
    "ddp": ["--engine", "ddp", "--batch-norm", "local"],
    "accumulated": ["--engine", "ddp", "--batch-norm", "global", "--accumulation", "2"],
    **{
        f"zero{stage}": ["--engine", "deepspeed", "--deepspeed-config", str(REPOSITORY / f"launch/zero{stage}.json")]
        for stage in range(3)
    },
}


@pytest.mark.parametrize("engine", by_example(ENGINES, examples=("zero2",)))
def test_an_estimate_on_two_ranks_is_gone_on_with_to_the_same_bits_under_every_engine(
    engine: str, dataset: Path, tmp_path: Path
) -> None:
    words = [*words_for(), *ENGINES[engine]]
    avbench_on_ranks(2, "train", str(dataset), "--out", str(tmp_path / "whole"), *words)
    run = tmp_path / "run"
    for number, beats in enumerate((3, 5, 6)):
        mode = ["--resume"] if number else [str(dataset), *words]
        told = ["train", "--out", str(run), *mode]
        run_on_ranks(2, stopped_rank, told, beats, timeout_seconds=600.0, is_joined=False)
    # Ranks learn of it one batch late.
    assert json.loads((run / "interrupted.json").read_text())["within"]["batches"] == 3 + 5 + 6 + 3
    avbench_on_ranks(2, "train", "--out", str(run), "--resume")
    check_equal(run, tmp_path / "whole")
