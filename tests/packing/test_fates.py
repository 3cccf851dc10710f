"""clips.csv says what has become of each listed clip, in the same bytes however it was packed."""

import csv
import json
import shutil

import pytest

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.packing.info import info, lines
from avbench.packing.pack import pack, pack_part
from avbench.packing.part import Part
from avbench.packing.recipes.reading import load_recipe
from avbench.packing.verify import verify
from tests.packing.make_video import make_labelled_folder, make_video

VIDEOS = {
    "a" * 11 + "_000030": "cut already",
    "b" * 11: "whole",
    "c" * 11 + "_000010": "cut already",
    "d" * 11 + "_000005": "no video",
}
LIST = """{a},30,x,train
{b},2,"y, with a comma",train
{b},4,x,train
{c},10,x,test
{d},5,x,train
{e},7,"y, with a comma",test
{f},7,"y, with a comma",test
{g},9,,test
"""


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A media folder, and the list of it."""
    folder = tmp_path_factory.mktemp("listed")
    short, long = (
        make_video(folder / f"{name}.mp4", seconds=s, fps=10, width=32, height=32) for name, s in (("s", 2), ("l", 8))
    )
    (folder / "media").mkdir()
    for name, kind in VIDEOS.items():
        if kind == "no video":
            (folder / "media" / f"{name}.mp4").write_text("no video")
        else:
            shutil.copy(long if kind == "whole" else short, folder / "media" / f"{name}.mp4")
    shutil.copy(short, folder / "media" / f"{'f' * 11}_000007.mp4")
    (folder / "list.csv").write_text(LIST.format(**{name: name * 11 for name in "abcdefg"}))
    return folder


def recipe(folder, **more):
    options = {
        "list.lists": [str(folder / "list.csv")],
        "list.columns": ["id", "start", "label", "split"],
        "list.path": ["{id}_{start:06d}.mp4"],
        "list.whole": ["{id}.mp4"],
        "list.source": "{id}",
        "list.label": "label",
        "list.start": "start",
        "list.seconds": 2.0,
        "list.split": "split",
        "list.labels_may_lack": True,
        "list.expected": ["test 3", "rows 9"],
        "short_side": 32,
        "clips_per_shard": 2,
        "val_fraction": 0.0,
    }
    return load_recipe(str(folder / "mine.toml"), {**options, **more})


@pytest.fixture(scope="module")
def packed(listed):
    (listed / "mine.toml").write_text('kind = "list"\n[list]\npath = "{id}.mp4"\n')
    pack(recipe(listed), listed / "media", out=listed / "out", workers=1)
    return listed / "out"


def rows_of(out):
    with (out / "clips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_row_of_a_list_has_its_fate(packed):
    told = {(row["source"][0], row["start"]): row for row in rows_of(packed)}
    fates = {place: (row["fate"], row["reason"], row["file"]) for place, row in told.items()}
    assert fates == {
        ("a", "30"): ("packed", "", f"{'a' * 11}_000030.mp4"),
        ("b", "2"): ("packed", "", f"{'b' * 11}.mp4"),
        ("b", "4"): ("packed", "", f"{'b' * 11}.mp4"),
        ("c", "10"): ("packed", "", f"{'c' * 11}_000010.mp4"),
        ("d", "5"): ("rejected", "not a video", f"{'d' * 11}_000005.mp4"),
        ("e", "7"): ("missing", "missing file", ""),
        ("f", "7"): ("packed", "", f"{'f' * 11}_000007.mp4"),
        ("g", "9"): ("not used", "no label", ""),
    }
    assert told["b", "2"]["label"] == "y, with a comma" and told["e", "7"]["split"] == "test"
    keys = [row["key"] for row in rows_of(packed)][:-1]
    dataset = Dataset(packed)
    assert keys == sorted(keys) and {dataset.key(clip) for clip in range(len(dataset))} <= set(keys)


def test_dataset_json_and_the_last_lines_count_them(packed, listed, capsys):
    told = Dataset(packed).description["fates"]
    test = {"listed": 3, "published": 3, "packed": 2, "missing": 1, "rejected": {}}
    assert told["clips"] == 8 and told["splits"]["test"] == test and told["not_used"] == {"no label": 1}
    assert told["splits"]["train"]["rejected"] == {"not a video": 1}
    assert [one["name"] for one in told["furthest_classes"]] == ["y, with a comma", "x"]
    said = "\n".join(lines(info(packed)))
    assert "split  listed  published  packed  missing  not a video" in said
    assert "rows of the list that are not used: no label 1" in said
    assert "8 clips; clips.csv says what has become of each" in said
    main(["info", str(packed), "--json"])
    assert json.loads(capsys.readouterr().out)["fates"] == told


def test_parts_and_packs_of_several_processes_write_the_same_bytes(packed, listed, tmp_path):
    pack(recipe(listed), listed / "media", out=tmp_path / "two", workers=2)
    for number in (1, 0):
        pack_part(recipe(listed), listed / "media", out=tmp_path / "parts", part=Part(number, 2), workers=1)
    moved = shutil.copytree(listed / "media", tmp_path / "elsewhere")
    pack(recipe(listed), moved, out=tmp_path / "moved", workers=1)
    for name in ("two", "parts", "moved"):
        assert contents(tmp_path / name) == contents(packed)


def test_a_list_of_test_rows_alone_is_packed(listed, tmp_path, packed):
    rows = [row for row in (listed / "list.csv").read_text().splitlines() if row.endswith("test")]
    (tmp_path / "test.csv").write_text("\n".join(rows) + "\n")
    only = recipe(listed, **{"list.lists": [str(tmp_path / "test.csv")]})
    dataset = pack(only, listed / "media", out=tmp_path / "out", workers=1)
    assert dataset.description["clips"] == {"train": 0, "val": 0, "test": 2}
    assert [row["fate"] for row in rows_of(tmp_path / "out")] == ["packed", "missing", "packed", "not used"]


def test_verify_proves_the_file_and_older_datasets_have_none(packed, tmp_path):
    out = shutil.copytree(packed, tmp_path / "out")
    assert verify(out, workers=1) == []
    file = out / "clips.csv"
    text = file.read_text()
    file.write_text(text.replace("packed", "Packed", 1))
    assert ["SHA-256 of clips.csv" in str(problem) for problem in verify(out, workers=1, is_quick=True)] == [True]
    file.unlink()
    assert ["clips.csv is missing" in str(problem) for problem in verify(out, workers=1)] == [True]


def test_windows_of_a_video_begin_where_they_begin(tmp_path):
    media = make_labelled_folder(tmp_path / "media", {"a": "x", "b": "y"}, seconds=3.2)
    dataset = pack(
        load_recipe("folder", {"window_seconds": 1.5, "short_side": 32, "test_fraction": 0.0, "val_fraction": 0.0}),
        media,
        out=tmp_path / "out",
        workers=1,
    )
    assert len(dataset) == 4
    assert [(row["source"], row["start"]) for row in rows_of(dataset.path)] == [
        ("a", "0"),
        ("a", "1.5"),
        ("b", "0"),
        ("b", "1.5"),
    ]
