"""Work beside training: in order, raised where all ranks are, and really beside it."""

import threading
from pathlib import Path

import pytest

from avbench.cli import main
from avbench.confidence.store import ConfidenceStore
from avbench.errors import RunError
from avbench.records import read_table
from avbench.training.background import Background
from avbench.training.run import Run
from tests.synthetic import make_dataset

SECONDS = 60.0  # more than anything here takes, however busy the machine


@pytest.fixture
def background():
    started = Background("test")
    yield started
    started.close()


def fail() -> None:
    raise RunError("the disk is full")


def test_tasks_are_done_in_order_and_one_can_be_waited_for_while_later_ones_go_on(background: Background) -> None:
    done: list[str] = []
    gate = threading.Event()
    first = background.do(lambda: done.append("first"))
    background.do(lambda: done.append("second" if gate.wait(SECONDS) else "too late"))
    background.wait(first)
    assert done == ["first"]
    gate.set()
    background.wait()
    assert done == ["first", "second"]


def test_a_failure_is_raised_once_by_who_waits_for_it_and_not_by_who_waits_for_less(background: Background) -> None:
    done: list[str] = []
    first = background.do(lambda: done.append("first"))
    failing = background.do(fail)
    last = background.do(lambda: done.append("last"))
    while not background.failed:
        pass
    background.wait(first)
    with pytest.raises(RunError, match="the disk is full"):
        background.wait(last)
    assert done == ["first"]  # nothing after a failure
    background.wait(failing)
    background.do(lambda: done.append("again"))
    background.wait()
    assert done == ["first", "again"] and not background.failed


def test_an_epochs_confidences_are_exchanged_and_written_while_the_next_epoch_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make_dataset(tmp_path / "dataset", clips={"train": 9, "val": 4, "test": 4})
    next_epoch_trains = threading.Event()
    waited: list[bool] = []
    train_step, write_history = Run.train_step, ConfidenceStore._write_history

    def noting_step(run: Run, *arguments: object, epoch: int, **others: object) -> None:
        if epoch == 1:
            next_epoch_trains.set()
        train_step(run, *arguments, epoch=epoch, **others)  # type: ignore[arg-type]

    def waiting_history(store: ConfidenceStore, folder: Path) -> None:
        if store.epochs == 0:
            waited.append(next_epoch_trains.wait(SECONDS))
        write_history(store, folder)

    monkeypatch.setattr(Run, "train_step", noting_step)
    monkeypatch.setattr(ConfidenceStore, "_write_history", waiting_history)
    flags = ["--preset", "tiny", "--width", "8", "--batch-size", "8", "--methods", "audio", "--epochs", "2"]
    main(["train", str(dataset), "--out", str(tmp_path / "run"), *flags])
    assert waited == [True]
    confidence = read_table(tmp_path / "run" / "confidence.parquet")
    assert set(confidence["audio_epochs"].to_pylist()) == {2}
