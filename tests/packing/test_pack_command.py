"""What `avbench pack` says before, after and in its help, and what a packing process loads."""

import importlib.metadata
import json
import re
import subprocess
import sys
from dataclasses import fields

import pytest

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.errors import DatasetError, RecipeError
from avbench.packing.pack import pack
from avbench.packing.recipes.planted import PlantedConfig
from avbench.packing.recipes.reading import load_recipe
from avbench.packing.recipes.recipe import Recipe
from avbench.training.clips import check_clips
from avbench.vocabulary import SPLITS
from tests.conftest import REPOSITORY
from tests.packing.make_video import make_labelled_folder, make_video

TRAIN_ONLY = Recipe(short_side=32, val_fraction=0.0, test_fraction=0.0)
SMALL = ("--short-side", "32", "--workers", "1")


def packed(media, out, *more):
    main(["pack", "folder", "--media", str(media), "--out", str(out), *SMALL, *more])


def one_line(capsys):
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.fixture
def decodes_nothing(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a video was decoded, or rendered")

    monkeypatch.setattr("avbench.packing.pack.make_shards", refuse)
    monkeypatch.setattr("avbench.packing.recipes.rendering.render", refuse)


def test_classes_that_are_numbers_are_numbered_by_their_value_and_said(tmp_path, capsys):
    media = make_labelled_folder(tmp_path / "media", {f"v{number:02d}": str(number) for number in range(12)})
    rows = [f"v{number:02d},{number},{'test' if number > 9 else 'train'}" for number in range(12)]
    (media / "labels.csv").write_text("\n".join(["key,label,split", *rows]) + "\n")
    packed(media, tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    assert dataset.classes == tuple(map(str, range(12)))
    for clip_id, label in enumerate(dataset.labels):  # number and name are one, so a 3 of whatever kind means 3
        assert dataset.key(clip_id) == f"v{label:02d}"
    lines = capsys.readouterr().out.splitlines()
    assert "12 classes, 0 rejected" in lines[0]
    assert "classes are numbers, in this order: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11" in lines


def one_split(tmp_path, split):
    media = make_labelled_folder(tmp_path / "media", {"a": "x", "b": "y"})
    (media / "labels.csv").write_text(f"key,label,split\na,x,{split}\nb,y,{split}\n")
    return media


@pytest.mark.parametrize(("split", "missing"), [("train", "val and test splits"), ("test", "train and val splits")])
def test_a_pack_of_one_split_is_made_and_said_before_and_after(tmp_path, capsys, split, missing):
    media = one_split(tmp_path, split)
    packed(media, tmp_path / "out", "--val-fraction", "0", "--test-fraction", "0")
    said = capsys.readouterr()
    text = f"no clips in the {missing}: `avbench train` needs clips in all three"
    assert text in said.err.splitlines()[0] and text in said.out.splitlines()
    assert "no training clip" not in said.out
    with pytest.raises(DatasetError, match="split has no clips; pack it again with some") as caught:
        check_clips(dataset := Dataset(tmp_path / "out"), {name: dataset.clip_ids(name) for name in SPLITS})
    assert "\n" not in str(caught.value)


def test_a_planned_test_split_of_one_class_is_refused_before_anything_is_decoded(tmp_path, decodes_nothing):
    media = make_labelled_folder(tmp_path / "media", {"a": "x", "b": "y", "c": "x"})
    (media / "labels.csv").write_text("key,label,split\na,x,train\nb,y,train\nc,x,test\n")
    with pytest.raises(RecipeError, match="the test split has clips of one class only, 'x'"):
        pack(Recipe(window_seconds=1.0), media, out=tmp_path / "out", workers=1)
    with pytest.raises(RecipeError, match=r"no video has the label of a class: the labels are 'x', 'y'"):
        pack(Recipe(classes=("z", "w")), media, out=tmp_path / "out", workers=1)
    recipe = load_recipe("planted", {"planted.test": 1})
    with pytest.raises(RecipeError, match="the test split has clips of one class only"):
        pack(recipe, tmp_path / "rendered", out=tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists() and not (tmp_path / "rendered").exists()


def test_classes_without_a_training_clip_and_files_that_are_left_out_are_said(tmp_path, capsys):
    media = make_labelled_folder(tmp_path / "media", {"a": "x", "b": "y", "c": "x", "d": "late", "e": "x"})
    rows = ["a,x,train", "b,y,train", "c,x,test", "d,late,test", "e,x,val", "f,y,train", "g.gif,x,train", "h,Y,train"]
    (media / "labels.csv").write_text("\n".join(["key,label,split", *rows]) + "\n")
    (media / "f.xyz").touch()
    (media / "g.gif").touch()
    (media / "more.wmv").touch()
    packed(media, tmp_path / "out", "--classes", '["x", "y", "late", "never"]')
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines == [
        f"{tmp_path / 'out'}: 5 clips (2 train, 1 val, 2 test), 4 classes, 3 rejected "
        "(missing file 1, not a video 1, unknown label 1; rejects.jsonl lists them)",
        "split  listed  packed  missing  not a video  unknown label",
        "train       5       2        1            1              1",
        "val         1       1        0            0              0",
        "test        2       2        0            0              0",
        "classes furthest from their list: Y 0 of 1, y 1 of 2, x 3 of 4",
        "2 of 4 classes have no training clip: late, never",
        "1 video is not in the list: more.wmv",
    ]
    before = [line.removeprefix(f"avbench: {tmp_path / 'out'}: ") for line in said.err.splitlines()]
    assert before[:3] == ["1 video has a label that is no class: 'Y' 1", *lines[6:]]
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert {reject["key"]: reject["detail"] for reject in rejects} == {
        "f": "looked for 'f', as it is or with the suffix of a video; there is f.xyz",
        "g%2Egif": "files with the suffix .gif are not opened",
        "h": "'Y'",
    }


def test_json_is_one_object_with_all_that_the_lines_say(tmp_path, capsys):
    media = make_labelled_folder(tmp_path / "media", {f"v{number}": str(number % 2 * 10) for number in range(6)})
    (media / "labels.csv").unlink()
    for number in range(6):
        (media / str(number % 2 * 10)).mkdir(exist_ok=True)
        (media / f"v{number}.mp4").rename(media / str(number % 2 * 10) / f"v{number}.mp4")
    (media / "10" / "a.xyz").touch()
    (media / "10" / "bad.mp4").write_text("no video")
    packed(media, tmp_path / "out", "--json")
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["dataset"] == str(tmp_path / "out")
    assert sum(told["clips"].values()) == 6 and told["classes"] == ["0", "10"]
    assert told["rejected"] == {"not a video": 1}
    assert told["left_out"] == [{"why": "suffix", "count": 1, "first": ["10/a.xyz"], "suffixes": {".xyz": 1}}]
    assert told["classes_without_training_clips"] == [] and told["empty_splits"] == []
    with pytest.raises(SystemExit) as stop:
        packed(media, tmp_path / "out", "--json")
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert "already holds a packed dataset" in json.loads(said.out)["error"] and said.err.startswith("avbench: ")


def test_a_link_that_leads_nowhere_is_rejected_and_says_so(tmp_path):
    media = make_labelled_folder(tmp_path / "media", {"a": "x", "b": "y"})
    (media / "c.mp4").symlink_to("nowhere.mp4")
    (media / "labels.csv").write_text("key,label\na,x\nb,y\nc,x\n")
    pack(TRAIN_ONLY, media, out=tmp_path / "out", workers=1)
    (reject,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
    assert (reject["reason"], reject["detail"]) == ("missing file", "c.mp4 is a link that leads nowhere")


def test_videos_behind_links_and_with_rare_suffixes_are_packed(tmp_path):
    sound = {"width": 32, "height": 32, "seconds": 1.2, "fps": 10}
    make_video(tmp_path / "disk" / "1.mts", **sound)
    make_video(tmp_path / "media" / "a" / "2.mp4", **sound)
    (tmp_path / "media" / "a" / "2.mp4").rename(tmp_path / "media" / "a" / "2.F4V")
    make_video(tmp_path / "media" / "b" / "3.vob", video_codec="mpeg2video", audio_codec="mp2", **sound)
    (tmp_path / "media" / "b" / "more").symlink_to(tmp_path / "disk")
    dataset = pack(TRAIN_ONLY, tmp_path / "media", out=tmp_path / "out", workers=1)
    assert sorted(dataset.key(clip_id) for clip_id in range(3)) == ["a%2F2", "b%2F3", "b%2Fmore%2F1"]
    assert dataset.description["left_out"] == [] and dataset.description["rejects"] == {}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["planted", "--classes", "4"], "--planted.classes"),
        (
            ["planted", "--audio-noise", "1"],
            "no field 'audio_noise'; that of the table [planted] is --planted.audio-noise",
        ),
        (["folder", "--media", ".", "--classes", "4"], "expected a list of names in quotes, or a file"),
        (["folder", "--media", ".", "--classes", "a,b"], 'a list is written ["dog", "cat"]'),
        (["folder", "--media", ".", "--train", "4"], "unknown field 'train'"),
        (["folder", "--media", ""], "--media is empty"),
    ],
)
def test_a_mistaken_field_is_answered_with_the_right_one(words, text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["pack", *words, "--out", str(tmp_path / "out")])
    assert text in one_line(capsys)


def shown(capsys, monkeypatch, *words):
    monkeypatch.setenv("COLUMNS", "120")  # wider, two boxes would lie side by side
    with pytest.raises(SystemExit) as stop:
        main(["pack", *words])
    assert stop.value.code == 0
    return capsys.readouterr().out


def fields_of(text):
    """{field: (type, line, default)} of the options that a help lists."""
    options = " ".join(text.replace("\u2502", " ").split()).split(" --")[1:]
    found = [re.match(r"([\w.-]+) (\S+) (.+) \((?:default: )?([^(]*)\)", option) for option in options]
    return {one[1].replace("-", "_"): (one[2], one[3], one[4]) for one in found if one}


def test_the_help_of_a_recipe_lists_its_fields_with_types_defaults_and_a_line_each(capsys, monkeypatch, tmp_path):
    text = shown(capsys, monkeypatch, "planted", "--help")
    told = fields_of(text)
    names = [f"planted.{one.name}" for one in fields(PlantedConfig)]
    names += [one.name for one in fields(Recipe) if one.name not in ("kind", "source")]
    assert set(names) | {"out", "media", "workers"} <= set(told)
    assert told["planted.classes"][::2] == ("INT", "5") and told["planted.visual_noise"][::2] == ("FLOAT", "0.35")
    assert told["clips_per_shard"][::2] == ("INT", "60")  # of planted.toml, and not the field's own
    assert all(len(line) > 12 for _, line, _ in told.values())
    assert "kind" not in told
    folder = fields_of(shown(capsys, monkeypatch, "folder", "--help"))
    assert folder["window_seconds"][::2] == ("FLOAT", "0.0")
    assert not any(name.startswith("planted.") for name in folder)
    (tmp_path / "mine.toml").write_text("jpeg_quality = 71\n")
    own = shown(capsys, monkeypatch, "--out", "x", "--json", str(tmp_path / "mine.toml"), "-h")
    assert fields_of(own)["jpeg_quality"][::2] == ("INT", "71")
    general = shown(capsys, monkeypatch, "--help")
    for example in ("avbench pack folder --media VIDEOS --out DATASET", "avbench pack planted --out DATASET"):
        assert example in general and example in text
    assert "avbench pack planted --help" in general


# Ends after a whole pack, of sound and pictures, with what this process has loaded.
LOADED = """
import sys
from avbench.cli import main
main(["pack", "folder", "--media", sys.argv[1], "--out", sys.argv[2], "--workers", "1"])
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "scipy", "webdataset", "pandas", "nvidia"}))
"""


def test_a_packing_process_loads_no_torch(tmp_path):
    media = make_labelled_folder(tmp_path / "media", {"a": "x", "b": "y"})
    command = [sys.executable, "-c", LOADED, str(media), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.splitlines()[-1] == ""


# What a spawned worker loads before it makes a shard.
WORKER = """
import sys
from avbench.packing.workers import run_tasks
def loaded(task, beat):
    import avbench.packing.pack
    return "torch" in sys.modules, "avbench.packing.pack" in sys.modules
if __name__ == "__main__":
    import avbench.packing.pack
    print([found for _, found in run_tasks(loaded, [0, 1], units=[1, 1], workers=2, title="", unit="")])
"""


def test_a_worker_process_loads_no_torch(tmp_path):
    (tmp_path / "it.py").write_text(WORKER)
    command = [sys.executable, str(tmp_path / "it.py")]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "[(False, True), (False, True)]\n"


def test_packing_works_without_installed_metadata(tmp_path, monkeypatch, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    media = make_labelled_folder(tmp_path / "media", {"a": "x", "b": "y"})
    packed(media, tmp_path / "out")
    assert Dataset(tmp_path / "out").description["made_with"]["avbench"] is None
    main(["--version"])
    assert "not installed" in capsys.readouterr().out
