"""How a training ends: all runs diverged, or checkpoints that are not to be kept."""

import json
import shutil
from pathlib import Path

import pytest
from torch import Tensor

from avbench.batch import Batch, Clock, Outputs
from avbench.cli import main
from avbench.errors import DIVERGED_STATUS
from avbench.methods.base import Method
from avbench.records import read_metrics, read_table
from avbench.vocabulary import MODALITIES
from tests.synthetic import make_dataset

FLAGS = ("--preset", "tiny", "--width", "8", "--batch-size", "8", "--learning-rate", "0.01", "--log-steps", "1")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 9, "val": 4, "test": 4})


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    main(["train", str(dataset), "--out", str(out), "--methods", "audio", "--epochs", "2", *FLAGS])
    return out


def stopped(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    """The status and the last line of a command that does not end well."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert isinstance(stop.value.code, int)
    return stop.value.code, capsys.readouterr().err.strip().splitlines()[-1]


def not_finite(self: Method, outputs: Outputs, batch: Batch, clock: Clock) -> Tensor:
    return outputs.logits.sum(dim=1) * float("nan")


def test_where_all_runs_diverged_nothing_starts_again_and_every_command_says_so(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Method, "loss", not_finite)
    run = tmp_path / "run"
    begin = ("train", dataset, "--out", run, "--methods", "audio,visual", "--epochs", "2", *FLAGS)
    named = (
        "all its 2 runs diverged (audio-seed0 in epoch 0 by step 1 at learning rate 0.01; "
        "visual-seed0 in epoch 0 by step 1 at learning rate 0.01)"
    )
    status, line = stopped(capsys, *begin)
    assert status == DIVERGED_STATUS == 3
    assert line.startswith(f"avbench: {run}: {named}") and "lower --learning-rate" in line
    runs = json.loads((run / "diverged.json").read_text())["runs"]
    assert runs == [
        {"run": f"{name}-seed0", "method": name, "seed": 0, "epoch": 0, "step": 1, "learning_rate": 0.01}
        for name in MODALITIES
    ]
    assert not (run / "finished.json").exists()
    launches = (run / "environment.json").read_bytes()
    assert stopped(capsys, *begin, "--auto-resume") == (3, line)
    for words in (("train", "--out", run, "--resume"), ("train", "--out", run, "--resume", "--epochs", "9")):
        assert stopped(capsys, *words) == (2, line)
    assert (run / "environment.json").read_bytes() == launches
    status, line = stopped(capsys, "evaluate", run)
    assert status == 2 and named in line and "--resume" not in line
    monkeypatch.undo()
    main([str(word) for word in (*begin, "--overwrite")])
    assert (run / "finished.json").exists() and not (run / "diverged.json").exists()


def test_checkpoints_of_a_finished_run_are_removed_when_asked_for_and_the_best_networks_stay(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    # What else may lie there: an earlier best network, a checkpoint that was set aside, one half written.
    (run / "checkpoints/best/audio-seed0-epoch0007.pt").write_bytes(b"old")
    for name in ("unused-epoch-0001-batch-000000", ".partial-epoch-0002-batch-000001"):
        (run / "checkpoints" / name).mkdir()
    epochs = read_metrics(run / "metrics.jsonl", kinds=["epoch"])
    best = max(epochs, key=lambda record: (record["val_accuracy"], -record["epoch"]))["epoch"]
    before = (run / f"checkpoints/best/audio-seed0-epoch{best:04d}.pt").read_bytes()
    main(["train", "--out", str(run), "--resume", "--keep-checkpoints", "0"])
    assert "finished already; " in capsys.readouterr().out
    check_holds_only_the_best(run, best)
    assert (run / f"checkpoints/best/audio-seed0-epoch{best:04d}.pt").read_bytes() == before
    status, line = stopped(capsys, "train", "--out", run, "--resume", "--epochs", "3")
    assert status == 2 and "ended after 2 epochs, and its checkpoints were then removed" in line
    check_holds_only_the_best(run, best)
    main(["train", "--out", str(run), "--resume"])  # there is nothing left to do
    for path in trained.glob("predictions/*.parquet"):
        assert read_table(run / path.relative_to(trained)).equals(read_table(path)), path.name


def check_holds_only_the_best(run: Path, best: int) -> None:
    files = [str(path.relative_to(run / "checkpoints")) for path in (run / "checkpoints").rglob("*") if path.is_file()]
    assert files == [f"best/audio-seed0-epoch{best:04d}.pt"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["best"]


def test_a_run_that_keeps_no_checkpoints_has_one_while_it_trains(
    dataset: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, step = tmp_path / "run", Method.train_step
    there = []

    def noting(self: Method, *arguments: object) -> object:
        there.append(len(list((run / "checkpoints").glob("epoch-*"))))
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Method, "train_step", noting)
    flags = ("--methods", "audio", "--epochs", "2", "--keep-checkpoints", "0", "--checkpoint-steps", "1")
    main(["train", str(dataset), "--out", str(run), *flags, *FLAGS])
    assert max(there) >= 1
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["best"]
    assert len(list((run / "checkpoints/best").iterdir())) == 1
    for path in trained.glob("predictions/*.parquet"):
        assert read_table(run / path.relative_to(trained)).equals(read_table(path)), path.name
    assert "checkpoints: the best networks, " in capsys.readouterr().out
