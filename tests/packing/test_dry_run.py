"""A dry run says what a pack makes, and leaves nothing behind."""

import json
import shutil
import tempfile
from functools import partial
from types import SimpleNamespace

import pytest

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.packing import dry_run as module
from avbench.packing.info import info
from tests.packing.make_video import make_labelled_folder

OPTIONS = ("--short-side", "32", "--clips-per-shard", "4", "--workers", "1")


@pytest.fixture
def media(tmp_path):
    folder = make_labelled_folder(tmp_path / "media", {f"v{number:02d}": "xy"[number % 2] for number in range(12)})
    rows = [f"v{number:02d},{'xy'[number % 2]},{('train', 'test', 'val')[number // 4]}" for number in range(12)]
    more = ["bad,x,train", "gone,y,train", "odd,z,test", "empty.gif,x,val"]
    (folder / "labels.csv").write_text("\n".join(["key,label,split", *rows, *more]) + "\n")
    (folder / "bad.mp4").write_text("no video")
    shutil.copy(folder / "v00.mp4", folder / "odd.mp4")
    shutil.copy(folder / "v00.mp4", folder / "empty.gif")
    return folder


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where temporary folders are made; nothing is left there."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    there = SimpleNamespace(TemporaryDirectory=partial(tempfile.TemporaryDirectory, dir=folder))
    monkeypatch.setattr(module, "tempfile", there)
    yield folder
    assert list(folder.iterdir()) == []


def told(capsys, *words):
    capsys.readouterr()
    main(["pack", *words, "--dry-run", "--json"])
    return json.loads(capsys.readouterr().out)


def test_it_tells_the_dataset_that_a_pack_makes_and_leaves_no_folder(media, tmp_path, capsys):
    out = tmp_path / "out"
    words = ("folder", "--media", str(media), "--out", str(out), *OPTIONS, "--classes", '["x", "y"]')
    before = sorted(tmp_path.iterdir()), sorted(media.iterdir())
    found = told(capsys, *words)
    assert (sorted(tmp_path.iterdir()), sorted(media.iterdir())) == before
    assert found["splits"]["train"]["listed"] == 6 and found["splits"]["train"]["to_pack"] == 5
    assert found["missing"] == ["gone"] and found["splits"]["test"]["refused"] == {"unknown label": 1}
    assert found["splits"]["val"]["refused"] == {"not a video": 1}
    assert found["sample"] == {"clips": 13, "seed": 0, "rejected": {"not a video": 1}}
    assert (found["bytes_error"], found["hours_error"]) == (0, 0)
    main(["pack", *words])
    dataset, packed = Dataset(out), info(out)
    assert found["hours"] * 3600 == pytest.approx(packed["seconds"]["sum"], rel=1e-6)
    on_disk = sum(path.stat().st_size for path in out.glob("shard-*"))
    assert abs(found["bytes"] - on_disk) < 10240 * len(dataset.description["shards"])  # of tar's own rounding
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["pack", *words, "--dry-run"])
    assert "already holds a packed dataset" in capsys.readouterr().err


def test_the_sample_is_drawn_by_the_seed_and_says_how_sure_it_is(media, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 5)
    words = ("folder", "--media", str(media), "--out", str(tmp_path / "out"), *OPTIONS)
    first, again, other = (told(capsys, *words, "--seed", seed) for seed in ("1", "1", "2"))
    assert first == again and first["sample"]["clips"] == 5 and other["sample"]["seed"] == 2
    main(["pack", *words, "--dry-run", "--seed", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["split", "listed", "to", "pack", "missing", "not", "a", "video", "hours", "size"]
    assert lines[-3] == "missing: gone"
    assert "nothing was packed; a pack would make 6 shards" in lines[-2]
    assert lines[-1].startswith("estimated from 5 clips that were decoded and encoded (drawn by seed 1), ")


def test_the_interval_of_a_sum_is_that_of_a_sample_without_repeats():
    total, error = module._scaled([1.0, 3.0], 8)
    # Standard deviation sqrt(2), over sqrt(2) clips, less the share of the clips that is known.
    assert total == 16.0 and error == pytest.approx(8 * 1.96 * (1 - 2 / 8) ** 0.5)
    assert module._scaled([1.0, 3.0], 2) == (4.0, 0.0) and module._scaled([], 0) == (0.0, 0.0)


def test_planted_clips_are_rendered_where_they_are_not_kept(tmp_path, capsys):
    few = [f"--planted.{name}" for name in ("train=4", "val=2", "test=4", "classes=2", "size=32", "seconds=1.2")]
    found = told(capsys, "planted", "--out", str(tmp_path / "out"), *few, "--workers", "1")
    assert [found["splits"][name]["to_pack"] for name in ("train", "val", "test")] == [4, 2, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch"]


def test_what_a_pack_refuses_a_dry_run_refuses(media, tmp_path, capsys):
    words = ["pack", "folder", "--media", str(media), "--out", str(tmp_path / "out"), "--dry-run"]
    for more, text in (
        (["--part", "0/2"], "leave out --part"),
        (["--classes", '["q", "r"]'], "no video has the label of a class"),
        (["--clip-seconds-limit", "0"], "expected more than 0"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*words, *more])
        assert stop.value.code == 2 and text in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
