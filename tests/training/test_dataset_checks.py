"""What `avbench train` does with a dataset that is damaged, moved, or changed: one line, or exactly what was packed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.errors import AvbenchError
from avbench.records import read_metrics, read_table
from avbench.start import _opened
from avbench.training.ending import _missing_text
from tests.processes import run_on_ranks
from tests.synthetic import make_dataset

FLAGS = ("--preset", "tiny", "--width", "8", "--batch-size", "8", "--epochs", "1", "--methods", "audio")
UNUSED = "not used, since --classes or --fraction leaves them out"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of train, one of val and of test."""
    path = tmp_path_factory.mktemp("data") / "dataset"
    return make_dataset(path, clips={"train": 12, "val": 4, "test": 4}, seconds=1.2, clips_per_shard=6)


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    return shutil.copytree(dataset, tmp_path / "dataset")


def train(dataset: Path, out: Path, *flags: str) -> Path:
    main(["train", str(dataset), "--out", str(out), *FLAGS, *flags])
    return out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """All that stands on stderr, which is one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["train", *words])
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.out == "" and output.err.count("\n") == 1, output.err
    return output.err


def flip_a_label(path: Path) -> None:
    """The lowest bit of one label of the index, and nothing else."""
    index = path / "index.arrow"
    data = bytearray(index.read_bytes())
    place = bytes(data).index(np.array(Dataset(path).labels).tobytes())
    data[place + 4] ^= 1
    index.write_bytes(data)


def test_a_flipped_label_ends_training_in_one_line(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_a_label(copy)
    line = refused(capsys, str(copy), "--out", str(tmp_path / "run"), *FLAGS)
    assert "SHA-256 of index.arrow" in line and "avbench verify" in line
    assert not (tmp_path / "run").exists()


def test_swapped_class_names_end_training_in_one_line(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = json.loads((copy / "dataset.json").read_text())
    description["classes"][:2] = description["classes"][1::-1]
    (copy / "dataset.json").write_text(json.dumps(description))
    line = refused(capsys, str(copy), "--out", str(tmp_path / "run"), *FLAGS)
    assert "train-0000 was packed as 'class-0', dataset.json calls its class 'class-1'" in line
    assert not (tmp_path / "run").exists()


def test_training_goes_on_without_a_lost_shard_once_it_is_set_aside(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "shard-000001.tar").unlink()
    assert "shard-000001.tar: missing" in refused(capsys, str(copy), "--out", str(tmp_path / "run"), *FLAGS)
    main(["verify", str(copy), "--quarantine", "--workers", "1"])
    assert "set aside: 6 clips, of damaged shards: 1" in capsys.readouterr().out
    shutil.copy(copy / "shard-000000.tar", copy / "shard-000007.tar")
    run = train(copy, tmp_path / "run")
    error = capsys.readouterr().err
    assert f"avbench: {copy}: shard-000007.tar is no shard of this dataset" in error
    confidence = read_table(run / "confidence.parquet")
    assert confidence["audio_epochs"].to_pylist() == [1] * 6 + [0] * 6 + [1] * 8
    events = [record["text"] for record in read_metrics(run / "metrics.jsonl", kinds=["event"])]
    assert not any("no audio-seed0 confidence" in text for text in events)
    assert json.loads((run / "dataset.json").read_text())["quarantined"] == 6


def test_a_dataset_that_was_moved_or_changed_is_told_apart(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(dataset, tmp_path / "place")
    run = train(place, tmp_path / "run")
    moved = place.rename(tmp_path / "moved")
    resume = ("--out", str(run), "--resume", "--epochs", "2")
    line = refused(capsys, *resume)
    assert f"{place}: no such dataset folder; if it was moved, name its new place" in line
    make_dataset(place, clips={"train": 9, "val": 4, "test": 4}, seconds=1.2)
    line = refused(capsys, *resume)
    assert f"{run}: was saved with dataset 'synthetic' with 20 clips of 3 classes (index " in line
    assert f"{place} was packed again or changed since: 'synthetic' with 17 clips of 3 classes (index " in line
    shutil.rmtree(place)
    make_dataset(place, classes=2, clips={"train": 9, "val": 4, "test": 4}, seconds=1.2)
    assert f"{place} is another dataset: 'synthetic' with 17 clips of 2 classes (index " in refused(capsys, *resume)
    described = (run / "dataset.json").read_bytes()
    (run / "dataset.json").write_bytes(described[:-20])
    assert f"{run / 'dataset.json'}: cannot be read" in refused(capsys, str(moved), *resume)
    (run / "dataset.json").write_bytes(described)
    main(["train", str(moved), *resume])
    assert json.loads((run / "finished.json").read_text()) == {"epochs": 2}


@pytest.mark.parametrize(
    ("clips", "unused", "bad", "text"),
    [
        (18, 18, 0, f"18 clips have no A confidence: 18 {UNUSED}"),
        (1, 0, 1, "1 clip has no A confidence: 1 with bad bytes"),
        (5, 3, 9, f"5 clips have no A confidence: 3 {UNUSED}, 2 with bad bytes"),
        (5, 3, 1, f"5 clips have no A confidence: 3 {UNUSED}, 1 with bad bytes, 1 that no epoch recorded"),
    ],
)
def test_why_clips_have_no_confidence_is_said(clips: int, unused: int, bad: int, text: str) -> None:
    assert _missing_text("A", clips, unused=unused, bad=bad) == text


def test_clips_without_confidence_are_told_apart_by_a_training(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset(copy)
    for clip_id in (2, 13):
        with (copy / f"shard-{dataset.shards[clip_id]:06d}.tar").open("r+b") as file:
            file.seek(int(dataset.audio_offsets[clip_id]) + 50)
            file.write(bytes(50))
    run = train(copy, tmp_path / "run", "--fraction", "0.5")
    (event,) = (
        record["text"]
        for record in read_metrics(run / "metrics.jsonl", kinds=["event"])
        if "no audio-seed0 confidence" in record["text"]
    )
    used = [row for row in read_table(run / "confidence.parquet").to_pylist() if row["audio_epochs"]]
    assert len(used) == 20 - 6 - 2  # half of train; of the rest two bad
    assert event == f"8 clips have no audio-seed0 confidence: 6 {UNUSED}, 2 with bad bytes"


def opening(path: Path) -> str:
    """What a rank is told that opens the dataset to train on it."""
    with pytest.raises(AvbenchError) as refused:
        _opened(path, resume=None)
    return str(refused.value)


def test_every_rank_is_told_what_rank_0_found(copy: Path) -> None:
    flip_a_label(copy)
    first, second = run_on_ranks(2, opening, copy)
    assert first == second and "SHA-256 of index.arrow" in first
