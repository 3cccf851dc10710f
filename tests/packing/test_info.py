"""`avbench info` says what is in a dataset, from the index alone, and writes the keys of its clips."""

import csv
import json
from pathlib import Path

import pytest

from avbench.cli import main
from avbench.dataset import Dataset, shard_name
from avbench.packing.info import info, lines
from avbench.packing.pack import pack
from avbench.packing.recipes.recipe import Recipe
from tests.packing.make_video import make_labelled_folder
from tests.synthetic import make_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """13 clips of 1.2 s, train 7 (3, 2, 2 of its classes), val 3, test 3, without one shard."""
    path = make_dataset(
        tmp_path / "data", clips={"train": 7, "val": 3, "test": 3}, seconds=1.2, size=[(16, 16), (24, 16)],
        sample_rate=8000, clips_per_shard=3,
    )  # fmt: skip
    (path / shard_name(1)).unlink()
    return path


def set_aside(path: Path, *clips: int) -> None:
    keys = {clip: Dataset(path, shards_may_be_damaged=True).key(clip) for clip in clips}
    lines = [json.dumps({"clip_id": clip, "key": key, "reason": "a test"}) + "\n" for clip, key in keys.items()]
    (path / "quarantine.jsonl").write_text("".join(lines))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_counts_are_those_of_the_clips_though_a_shard_is_gone(dataset: Path) -> None:
    set_aside(dataset, 1, 12)
    found = info(dataset)
    assert [(name, of["clips"], of["quarantined"]) for name, of in found["splits"].items()] == [
        ("train", 7, 1),
        ("val", 3, 0),
        ("test", 3, 1),
    ]
    assert found["classes"] == [
        {"name": "class-0", "train": 3, "val": 1, "test": 1},
        {"name": "class-1", "train": 2, "val": 1, "test": 1},
        {"name": "class-2", "train": 2, "val": 1, "test": 1},
    ]
    assert found["videos"] == 13 and found["sample_rates_hz"] == [8000]
    assert found["seconds"] == {"sum": pytest.approx(13 * 1.2), "min": 1.2, "median": 1.2, "max": 1.2}
    assert found["frames_a_clip"] == {"sum": 26, "min": 2, "median": 2, "max": 2}
    # Numbers within a split go round the sizes: 4 + 2 + 2 of the first.
    assert found["picture_sizes"] == [{"width": 16, "height": 16, "clips": 8}, {"width": 24, "height": 16, "clips": 5}]
    assert found["quarantine"] == {"clips": 2, "shards": [], "reasons": {"a test": 2}}
    assert found["quality"] is None and found["rejected"] == {}
    described = json.loads((dataset / "dataset.json").read_text())
    assert found["index_sha256"] == described["index_sha256"]
    assert found["bytes"]["shards"] == sum(shard["size_bytes"] for shard in described["shards"])
    assert 0 < found["bytes"]["pictures"] < found["bytes"]["sound"] < found["bytes"]["shards"]


def test_of_a_pack_it_says_recipe_rejects_quality_and_what_was_left_out(tmp_path: Path) -> None:
    media = make_labelled_folder(tmp_path / "media", {f"v{number}": "xy"[number % 2] for number in range(8)})
    (media / "v5.mp4").write_text("no video")
    out = pack(Recipe(clips_per_shard=3, short_side=32), media, out=tmp_path / "data", workers=1).path
    found = info(out)
    assert found["clips"] == 7 and sum(found["rejected"].values()) == 1
    assert set(found["quality"]) == {"silent", "anti_phase", "frozen", "non_square_pixels"}
    assert found["recipe"]["kind"] == "folder" and found["recipe"]["short_side"] == 32
    assert found["contents_sha256"] == json.loads((out / "dataset.json").read_text())["contents_sha256"]
    text = "\n".join(lines(found))
    for part in ("7 of 7 videos, 2 classes", "flac, 48000 Hz", 'kind "folder"', "short_side 32", found["index_sha256"]):
        assert part in text, part


def test_of_hundreds_of_classes_the_largest_and_smallest_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "data", classes=70, clips={"train": 71}, seconds=1.0, size=(8, 8), sample_rate=8000)
    text = lines(info(path))
    assert sum(line.startswith("class-") for line in text) == 20
    assert "and 50 classes between them; --json lists all 70" in text
    assert text[1].split() == ["class-0", "2", "0", "0"]


def test_the_keys_of_the_clips_that_are_used_are_written_as_csv(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_aside(dataset, 1)
    file = tmp_path / "keys.csv"
    main(["info", str(dataset), "--export-keys", str(file)])
    assert capsys.readouterr().out.endswith(f"{file}: the keys of 12 clips, without 1 in quarantine\n")
    with file.open(newline="") as text:
        rows = list(csv.reader(text))
    assert rows[0] == ["key", "split", "label", "source"] and len(rows) == 13
    assert rows[1] == ["train-0000", "train", "class-0", "train-0000.mp4"]
    assert rows[2][0] == "train-0002" and rows[-1] == ["test-0002", "test", "class-2", "test-0002.mp4"]
    assert "is there already" in refused(capsys, "info", str(dataset), "--export-keys", str(file))
    other = tmp_path / "other.csv"
    main(["info", str(dataset), "--export-keys", str(other), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["exported_keys"] == {"file": str(other), "clips": 12, "left_out": 1}
    assert other.read_bytes() == file.read_bytes()


def test_what_is_no_dataset_or_has_a_damaged_index_is_one_line(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such dataset folder" in refused(capsys, "info", str(tmp_path / "none"))
    index = dataset / "index.arrow"
    data = bytearray(index.read_bytes())
    place = bytes(data).index(Dataset(dataset, shards_may_be_damaged=True).labels.tobytes())
    data[place + 2] ^= 1
    index.write_bytes(data)
    assert "its label 65536 is none of 3 classes" in refused(capsys, "info", str(dataset))
