"""A view that is written out is a dataset like any other: its own tars, the same clips in the same order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.errors import DatasetError
from avbench.packing.pack import pack
from avbench.packing.recipes.recipe import Recipe
from avbench.packing.verify import verify
from avbench.packing.views.write_out import write_out
from avbench.vocabulary import SPLITS
from tests.documents import commands
from tests.packing.make_video import make_labelled_folder
from tests.packing.test_views import clips_of, contents_of, damage, files_of, line_of, listed, synthetic, view_of


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic(tmp_path_factory.mktemp("views") / "packed")


@pytest.fixture(scope="module")
def view(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A view with other classes and splits than the json of its clips says."""
    folder = tmp_path_factory.mktemp("view")
    keys = [key for key, _, _ in clips_of(Dataset(packed))]
    splits = listed(folder / "splits", [f"{key},{SPLITS[row // 2 % 3]}" for row, key in enumerate(keys[::2])])
    renamed = listed(folder / "map", ["class-0,ärger", "class-2,class-1"])
    return view_of(packed, out=folder / "view", splits=splits, map=renamed, drop=["quality:noise==1"])


@pytest.fixture(scope="module")
def written(view: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_out(view.path, out=tmp_path_factory.mktemp("written") / "dataset", workers=1, clips_per_shard=3)


def test_a_written_view_has_the_clips_and_bytes_of_the_view_in_its_order(view: Dataset, written: Dataset) -> None:
    assert clips_of(written) == clips_of(view) and contents_of(written) == contents_of(view)
    assert not written.is_view and written.fingerprint == view.fingerprint
    assert {"ärger", "class-1"} == set(written.classes)
    assert verify(written.path, workers=1) == []
    for name in ("source", "start_seconds", "samples", "width", "planted_audio"):
        assert written.table_column(name).to_pylist() == view.table_column(name).to_pylist()
    told = written.description
    assert told["rule"] == view.description["rule"] and told["origin"] == view.description["origin"]
    assert told["quality"] == view.description["quality"]
    assert pq.read_table(written.path / "quality.parquet").equals(pq.read_table(view.path / "quality.parquet"))
    assert max(shard["clips"] for shard in told["shards"]) == 3


def test_the_webdataset_library_reads_a_written_view(view: Dataset, written: Dataset) -> None:
    urls = [str(written.shard_path(number)) for number in range(len(written.packed_shards))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [key for key, _, _ in clips_of(view)]
    for clip, sample in enumerate(samples):
        told = json.loads(sample["json"])
        assert (told["label"], told["split"]) == clips_of(view)[clip][1:]
        assert sample["flac"] == view.audio_bytes(clip).tobytes()
        assert sample["000.jpg"] == view.frame_bytes(clip, 0).tobytes()


def test_dalis_own_reader_reads_a_written_view_by_its_indexes(view: Dataset, written: Dataset) -> None:
    dali = pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn

    paths = [str(written.shard_path(number)) for number in range(len(written.packed_shards))]
    indexes = [path.replace(".tar", ".idx") for path in paths]

    @dali.pipeline_def(batch_size=len(view), num_threads=1, device_id=None)
    def graph() -> object:
        suffixes = ["flac", "000.jpg"]
        return tuple(
            fn.readers.webdataset(paths=paths, index_paths=indexes, ext=suffixes, missing_component_behavior="error")
        )

    sounds, pictures = graph().run()
    for clip in range(len(view)):
        assert np.array(sounds[clip]).tobytes() == view.audio_bytes(clip).tobytes()
        assert np.array(pictures[clip]).tobytes() == view.frame_bytes(clip, 0).tobytes()


def test_the_bytes_do_not_depend_on_workers_or_on_where_a_view_lies(
    view: Dataset, written: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = write_out(view.path, out=tmp_path / "again", workers=2, clips_per_shard=3)
    assert files_of(again.path) == files_of(written.path)
    other = view_of(view.path, out=tmp_path / "deeper" / "view")  # a view of the view has the same clips
    elsewhere = write_out(other.path, out=tmp_path / "other", workers=1, clips_per_shard=3)
    names = [name for name in files_of(elsewhere.path) if name != "dataset.json"]
    assert all((elsewhere.path / name).read_bytes() == (written.path / name).read_bytes() for name in names)


def test_a_packed_dataset_that_is_written_out_has_its_own_bytes(tmp_path: Path) -> None:
    """Members are as packing writes them, the json of an unchanged clip included."""
    make_labelled_folder(tmp_path / "media", {f"v{number}": "xy"[number % 2] for number in range(6)})
    packed = pack(Recipe(clips_per_shard=2, short_side=32), tmp_path / "media", out=tmp_path / "packed", workers=1)
    view = view_of(packed.path, out=tmp_path / "view")
    out = write_out(view.path, out=tmp_path / "out", workers=1)
    same = {name for name, data in files_of(packed.path).items() if files_of(out.path).get(name) == data}
    # What became of the listed clips, clips.csv, is of the pack.
    assert set(files_of(packed.path)) - same == {"dataset.json", "clips.csv"}
    assert view.index_sha256 == packed.index_sha256 == out.index_sha256  # all clips, in the same shards
    # Packed from the videos by the recipe that it keeps, a lost shard comes back.
    before = files_of(out.path)
    (out.path / "shard-000001.tar").unlink()
    main(["verify", str(out.path), "--repair", "--media", str(tmp_path / "media"), "--workers", "1"])
    assert files_of(out.path) == before


def test_a_lost_shard_of_a_view_is_packed_again_where_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_labelled_folder(tmp_path / "media", {f"v{number}": "xy"[number % 2] for number in range(6)})
    packed = pack(Recipe(clips_per_shard=2, short_side=32), tmp_path / "media", out=tmp_path / "packed", workers=1).path
    before = files_of(packed)
    view = view_of(packed, out=tmp_path / "view", classes=listed(tmp_path / "classes", ["x"]))
    (packed / "shard-000000.tar").unlink()
    line = line_of(capsys, "verify", view.path, "--repair", "--workers", "1")
    assert "damaged: shard-000000.tar" in line and "--repair --media VIDEOS" in line
    main(["verify", str(view.path), "--repair", "--media", str(tmp_path / "media"), "--workers", "1"])
    assert "packed anew: ../packed/shard-000000.tar" in capsys.readouterr().out
    assert files_of(packed) == before


def test_the_command_writes_a_view_out(view: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    main(["pack", "--from-view", str(view.path), "--out", out, "--workers", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["fingerprint"] == view.fingerprint
    assert Dataset(out).packed_shards.splits == ["train", "val", "test"]  # 64 clips a shard, of one split each
    assert "already holds a packed dataset" in line_of(capsys, "pack", "--from-view", view.path, "--out", out)
    main(["pack", "--from-view", str(view.path), "--out", out, "--overwrite", "--clips-per-shard", "2"])
    assert "in 11 shards" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["pack", "--from-view", str(view.path), "--help"])
    assert stop.value.code == 0 and "--clips-per-shard INT" in capsys.readouterr().out


def test_the_readmes_commands_make_a_view_and_its_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    synthetic(tmp_path / "KINETICS400")
    listed(tmp_path / "renamed.csv", ["class-2,rain", "class-1,"])
    listed(tmp_path / "classes.txt", ["rain"])
    for words in commands("shards/README.md", "Views"):
        main(words)
    assert Dataset("DATASET").fingerprint == Dataset("KINETICS-SOUND").fingerprint
    assert clips_of(Dataset("DATASET")) == [
        (key, "rain", split) for key, name, split in clips_of(Dataset("KINETICS400")) if name == "class-2"
    ]


def test_what_is_not_whole_is_not_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = synthetic(tmp_path / "packed")
    view = view_of(packed, out=tmp_path / "view").path
    out = ("--out", tmp_path / "out", "--workers", "1")
    damage(packed, clip=3)
    line = line_of(capsys, "pack", "--from-view", view, *out)
    assert "train-0003 is not as it was packed" in line and "--quarantine" in line
    assert not (tmp_path / "out" / "dataset.json").exists()
    main(["verify", str(view), "--quarantine", "--workers", "1"])
    line = line_of(capsys, "pack", "--from-view", view, *out)
    assert "1 clips are in quarantine (train-0003); make a view without them" in line
    without = view_of(view, out=tmp_path / "without").path
    line = line_of(capsys, "pack", "--from-view", without, *out)
    assert "unfinished pack that was begun with another" in line or "--overwrite" in line
    main(["pack", "--from-view", str(without), "--out", str(tmp_path / "new"), "--workers", "1"])
    assert verify(tmp_path / "new", workers=1) == [] and len(Dataset(tmp_path / "new")) == 25


def test_damage_to_a_clips_json_is_not_copied(tmp_path: Path) -> None:
    packed = synthetic(tmp_path / "packed")
    view = view_of(packed, out=tmp_path / "view").path
    shard = packed / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b'"source": "train-0001.mp4"', b'"source": "train-0009.mp4"'))
    with pytest.raises(DatasetError, match="train-0001 is not as it was packed"):
        write_out(view, out=tmp_path / "out", workers=1)


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    packed = synthetic(tmp_path / "packed", seconds=4.0, size=(320, 240), clips_per_shard=2, sample_rate=48000)
    view = view_of(packed, out=tmp_path / "view").path
    quiet = write_out(view, out=tmp_path / "quiet", workers=1, clips_per_shard=1)
    words = ["pack", "--from-view", view, "--out", tmp_path / "out", "--clips-per-shard", "1", "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    kills = 0
    for round_ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-m", "avbench", *map(str, words)], env=environment, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(list((tmp_path / "out" / ".packing").glob("shard-*.arrow"))) > 2 * round_:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.wait(60)
        if process.returncode == 0:
            break
    subprocess.run([sys.executable, "-m", "avbench", *map(str, words)], env=environment, check=False, timeout=120)
    assert kills >= 3
    assert files_of(tmp_path / "out") == files_of(quiet.path)


def test_a_view_is_never_written_over_itself_or_its_own_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = synthetic(tmp_path / "packed")
    view = view_of(packed, out=tmp_path / "view").path
    (tmp_path / "link").symlink_to(packed)
    before = files_of(packed)
    for out in (packed, tmp_path / "link", view):
        line = line_of(capsys, "pack", "--from-view", view, "--out", out, "--overwrite")
        assert "is what is to be written out, or holds its shards" in line
    assert files_of(packed) == before and verify(view, workers=1) == []
