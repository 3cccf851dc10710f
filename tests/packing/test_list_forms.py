"""The forms that published lists have: JSON of several shapes, parts of a column, several orders, words and names."""

import json
from collections import Counter

import pytest

from avbench.errors import RecipeError
from avbench.packing.pack import pack
from avbench.packing.recipes.list_config import split_in
from avbench.packing.recipes.patterns import pattern
from avbench.packing.recipes.reading import load_recipe
from avbench.packing.recipes.videos import videos_of
from tests.packing.make_video import make_video

SCHEMES = """
kind = "list"
[list]
files = "list.csv"
columns = ["id", "start", "end", "label"]
key = "{id}_{start}"
source = "{id}"
start = "start"
end = "end"
path = ["{id}_{start:06d}_{end:06d}", "{id}_{start:06d}", "{id}_{start:d}", "{id}_{start:ms}_{end:ms}"]
whole = "{id}"
anywhere = true
prefer = "replacement/"
"""
BALANCED = """
kind = "list"
[list]
files = "list.json"
json = "database.{key}"
path = "{key}"
split = "subset"
parse = "key"
parts = [
    "(?P<id>.{11})_(?P<start>[0-9]+)_(?P<end>[0-9]+)", "(?P<id>.{11})_(?P<start>[0-9]+)", "(?P<id>.{11})"
]
source = "{id}"
"""


def recipe_of(tmp_path, text, **overrides):
    (tmp_path / "mine.toml").write_text(text)
    options = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_recipe(str(tmp_path / "mine.toml"), {"val_fraction": 0, "test_fraction": 0, **options})


def rows_of(tmp_path, text, **overrides):
    return videos_of(recipe_of(tmp_path, text, **overrides), tmp_path).clips


def refusal(tmp_path, text, **overrides):
    with pytest.raises(RecipeError) as caught:
        rows_of(tmp_path, text, **overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    "name",
    [
        *("-abcdefghi__000030_000040.mp4", "-abcdefghi__000030.mkv", "-abcdefghi__30.webm", "playing violin/"),
        *("-abcdefghi__30000_40000.avi", "train/playing_violin/-abcdefghi__000030.mp4", "a/b/c/-abcdefghi__30.MOV"),
    ],
)
def test_a_clip_that_is_cut_already_is_found_under_each_name_and_in_each_folder(tmp_path, name):
    name += "-abcdefghi__000030_000040.flv" if name.endswith("/") else ""
    (tmp_path / "list.csv").write_text("-abcdefghi_,30,40,playing violin\n")
    touch(tmp_path, name)
    (clip,) = rows_of(tmp_path, SCHEMES)
    assert (clip.path, clip.start_seconds, clip.seconds) == (tmp_path / name, 0.0, None)
    assert (clip.key, clip.source, clip.looked_for) == ("-abcdefghi__30", "-abcdefghi_", "")


def test_a_bare_id_is_the_whole_video_and_is_cut_and_a_clip_that_is_cut_already_comes_first(tmp_path):
    (tmp_path / "list.csv").write_text("abcdefghijk,3,5,x\nabcdefghijk,1,3.5,x\n")
    make_video(tmp_path / "abcdefghijk.mp4", seconds=6.0, fps=10, width=32, height=32)
    make_video(tmp_path / "abcdefghijk_000003.mp4", seconds=2.0, fps=10, width=32, height=32)
    clips = rows_of(tmp_path, SCHEMES)
    assert [(clip.path.name, clip.start_seconds, clip.seconds) for clip in clips] == [
        ("abcdefghijk_000003.mp4", 0.0, None),
        ("abcdefghijk.mp4", 1.0, 2.5),
    ]
    dataset = pack(recipe_of(tmp_path, SCHEMES, short_side=32), tmp_path, out=tmp_path / "out", workers=1)
    samples = dict(zip(map(dataset.key, range(2)), dataset.column("samples", range(2)).to_pylist(), strict=True))
    assert samples["abcdefghijk_1"] == 2.5 * 48000 and abs(samples["abcdefghijk_3"] - 2 * 48000) < 2048


def test_what_the_durations_say_against_the_names_is_said(tmp_path):
    (tmp_path / "list.csv").write_text("abcdefghijk,30,40,x\nbbbbbbbbbbb,5,7,y\nccccccccccc,0,2,y\n")
    make_video(tmp_path / "abcdefghijk.mp4", seconds=2.0, fps=10, width=32, height=32)
    make_video(tmp_path / "bbbbbbbbbbb_5.mp4", seconds=4.0, fps=10, width=32, height=32)
    make_video(tmp_path / "ccccccccccc_0.mp4", seconds=2.0, fps=10, width=32, height=32)
    short, long = videos_of(recipe_of(tmp_path, SCHEMES), tmp_path).notes
    assert short.startswith("1 of 1 files that should be whole videos, by their names, end before their clips begin")
    assert "abcdefghijk.mp4 first, which has 2.0 s, and its clip begins at 30 s" in short
    assert long.startswith("1 of 2 files that should be cut already, by their names, are longer than their clips")
    assert "bbbbbbbbbbb_5.mp4 first, which has 4.0 s in the place of 2 s" in long


def test_of_two_files_of_one_clip_the_rule_chooses_else_both_are_named(tmp_path):
    (tmp_path / "list.csv").write_text("abcdefghijk,30,40,x\n")
    name = "abcdefghijk_000030_000040.mp4"
    touch(tmp_path, f"train/{name}", f"replacement/replacement_for_corrupted_k400/{name}")
    (clip,) = rows_of(tmp_path, SCHEMES)
    assert clip.path.parent.name == "replacement_for_corrupted_k400"
    message = refusal(tmp_path, SCHEMES, list__prefer=[])
    assert f"train/{name}" in message and f"replacement/replacement_for_corrupted_k400/{name}" in message
    assert "list.csv: line 1" in message


def test_a_suffix_in_the_list_chooses_the_file(tmp_path):
    (tmp_path / "list.csv").write_text("abcdefghijk_30.mkv,0,1,x\n")
    touch(tmp_path, "a/abcdefghijk_30.mp4", "a/abcdefghijk_30.mkv")
    (clip,) = rows_of(tmp_path, SCHEMES, list__path="{id}", list__whole=[])
    assert clip.path.name == "abcdefghijk_30.mkv"
    (tmp_path / "list.csv").write_text("abcdefghijk_30,0,1,x\n")
    message = refusal(tmp_path, SCHEMES, list__path="{id}", list__whole=[])
    assert "'abcdefghijk_30' could be abcdefghijk_30.mkv and abcdefghijk_30.mp4" in message


def test_a_row_whose_video_is_missing_says_every_name_that_was_tried(tmp_path):
    (tmp_path / "list.csv").write_text("abcdefghijk,30,40,x\nbbbbbbbbbbb,5,7,y\n")
    touch(tmp_path, "bbbbbbbbbbb_5.mp4")
    missing = rows_of(tmp_path, SCHEMES)[0]
    tried = ("_000030_000040", "_000030", "_30", "_30000_40000", "")
    names = ", ".join(f"'abcdefghijk{end}'" for end in tried)
    assert missing.looked_for == f"looked for {names}, with the suffix of a video in any folder"


def test_a_folder_with_none_of_the_files_says_what_was_tried_and_the_nearest_name(tmp_path):
    (tmp_path / "list.csv").write_text("abcdefghijk,30,40,x\n")
    touch(tmp_path, "zzz.mp4", "sub/abcdefghijk-30.mp4", "q.mp4")
    message = refusal(tmp_path, SCHEMES)
    assert "holds none of the 1 listed videos" in message and "'abcdefghijk_000030_000040'" in message
    assert "3 videos: q.mp4" in message and message.endswith("the nearest name is sub/abcdefghijk-30.mp4")


def test_times_in_milliseconds_are_seconds_in_names_too(tmp_path):
    (tmp_path / "list.csv").write_text("abcdefghijk,30000,40500,x\nbbbbbbbbbbb,1500,3000,x\n")
    touch(tmp_path, "abcdefghijk_000030.mp4", "bbbbbbbbbbb.mp4")
    first, second = rows_of(tmp_path, SCHEMES, list__milliseconds=True)
    assert first.path.name == "abcdefghijk_000030.mp4"
    assert (second.path.name, second.start_seconds, second.seconds) == ("bbbbbbbbbbb.mp4", 1.5, 1.5)
    row = {"start": "30.5", "label": "x"}
    assert pattern("{start:ms}").fill(row) == "30500"
    with pytest.raises(ValueError, match=r"label is 'x'; {label:ms} takes seconds"):
        pattern("{label:ms}").fill(row)


def test_keys_of_three_kinds_in_an_object_of_objects(tmp_path):
    database = {
        "-bcdefghijk_30": {"subset": "training", "label": "singing"},
        "Abcdefghijk_000030_000040": {"subset": "validation", "label": "eating"},
        "a_cdefghijk": {"subset": "testing", "label": "singing"},
    }
    (tmp_path / "list.json").write_text(json.dumps({"labels": ["eating", "singing"], "database": database}))
    touch(tmp_path, *(f"{key}.mp4" for key in database))
    clips = rows_of(tmp_path, BALANCED)
    assert [(clip.key, clip.source, clip.split, clip.label) for clip in clips] == [
        ("-bcdefghijk_30", "-bcdefghijk", "train", "singing"),
        ("Abcdefghijk_000030_000040", "Abcdefghijk", "val", "eating"),
        ("a_cdefghijk", "a_cdefghijk", "test", "singing"),
    ]


@pytest.mark.parametrize(
    ("path", "value", "label"),
    [
        ("videos.{instrument}.[id]", {"version": 1, "videos": {"flute": ["a", "b"], "tuba": ["c"]}}, "instrument"),
        ("{no}", {"5": {"id": "a", "is": "flute"}, "6": {"id": "b", "is": "flute"}, "7": {"id": "c", "is": "x"}}, "is"),
        ("[]", [{"id": name, "is": {"it": "tuba" if name == "c" else "flute"}} for name in "abc"], "is.it"),
        ("clips.[]", {"clips": [{"id": "a", "is": [1]}, {"id": "b", "is": [1]}, {"id": "c", "is": [2]}]}, "is.0"),
    ],
)  # fmt: skip
def test_json_of_other_shapes(tmp_path, path, value, label):
    (tmp_path / "list.json").write_text(json.dumps(value))
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text = f'kind = "list"\n[list]\nfiles = "list.json"\njson = "{path}"\npath = "{{id}}"\nlabel = "{label}"\n'
    clips = rows_of(tmp_path, text)
    assert [clip.key for clip in clips] == ["a", "b", "c"]
    assert clips[0].label == clips[1].label != clips[2].label and clips[0].label in ("flute", "1")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{", ["line 1, column 2 is no JSON"]),
        ('{"labels": []}', ["it has no 'database'; it has labels"]),
        ('{"database": []}', ["entry database is [], expected an object"]),
        ('{"database": {"abcdefghijk": {"subset": "train"}}}', ["entry abcdefghijk", "list.label", "'label'"]),
        ('{"database": {"short": {"subset": "train", "label": "x"}}}', ["entry short", "key is 'short'", "ID_START"]),
        ('{"database": {"abcdefghijk": {"subset": "tran", "label": "x"}}}', ["unknown split 'tran'", "did you mean"]),
        ('{"database": {"abcdefghijk": {"subset": "", "label": "x"}}}', ["entry abcdefghijk has no subset"]),
        ('{"database": {"abcdefghijk": {"subset": "train", "label": null}}}', ["entry abcdefghijk has no label"]),
        ('{"database": {"a": {"label": "x"}, "a": {"label": "y"}}}', ["the name 'a' comes twice in one object"]),
        ('{"database": {}}', ["lists no videos"]),
    ],
)  # fmt: skip
def test_each_mistake_of_a_json_list_is_one_clear_line(tmp_path, text, parts):
    (tmp_path / "list.json").write_text(text)
    message = refusal(tmp_path, BALANCED)
    assert "list.json" in message
    for part in parts:
        assert part in message


TWO_ORDERS = r"""
kind = "list"
[list]
files = ["full.csv", "test.csv"]
columns = ["id,start,label,split", "name,label"]
parse = "name"
parts = '(?P<id>.{11})_(?P<start>[0-9]{6})(?P<suffix>\..+)?'
path = ["{id}_{start:06d}{suffix}", "{id}_{start:06d}"]
source = "{id}"
key = "{id}_{start:06d}"
split = "split"
default_split = "test"
"""


def test_lists_of_several_orders_of_columns_and_a_split_where_none_is_said(tmp_path):
    (tmp_path / "full.csv").write_text('-bcdefghijk,3,"a, b",train\n')
    (tmp_path / "test.csv").write_text('Abcdefghijk_000300.mp4,"a, b"\n')
    touch(tmp_path, "-bcdefghijk_000003.webm", "Abcdefghijk_000300.mp4", "Abcdefghijk_000300.mkv")
    assert [(clip.key, clip.path.suffix, clip.label, clip.split) for clip in rows_of(tmp_path, TWO_ORDERS)] == [
        ("-bcdefghijk_000003", ".webm", "a, b", "train"),
        ("Abcdefghijk_000300", ".mp4", "a, b", "test"),
    ]
    (tmp_path / "test.csv").write_text("Abcdefghijk,10,2\n")
    message = refusal(tmp_path, TWO_ORDERS)
    assert "test.csv: line 1 has 3 values, 'Abcdefghijk,10,2'; a list of this recipe has 4 (id,start,label,s" in message
    (tmp_path / "test.csv").write_text("Abcdefghijk_000300,x\nAbcdefghijk_000310,x,y,test\n")
    assert "test.csv: line 2 has 4 values, the lines before it have 2" in refusal(tmp_path, TWO_ORDERS)
    (tmp_path / "test.csv").write_text("Abcdefghijk_000300,x\nAbcdefg_30.mp4,x\n")
    message = refusal(tmp_path, TWO_ORDERS)
    assert "test.csv: line 2: column name is 'Abcdefg_30.mp4'; expected ID_START" in message


def test_one_key_with_two_labels_is_refused_with_both(tmp_path):
    (tmp_path / "full.csv").write_text("-bcdefghijk,3,a,train\n")
    (tmp_path / "test.csv").write_text("-bcdefghijk_000003.mp4,b\n")
    touch(tmp_path, "-bcdefghijk_000003.mp4")
    message = refusal(tmp_path, TWO_ORDERS)
    assert "test.csv: line 1" in message and "full.csv: line 1 with the label 'b' and there 'a'" in message


def test_rows_without_a_label_are_counted_and_named_and_never_packed(tmp_path):
    (tmp_path / "test.csv").write_text("youtube_id,time_start,split\na,0,test\nb,5,test\n")
    (tmp_path / "val.csv").write_text("label,youtube_id,time_start,split\nx,c,0,validate\ny,d,0,validate\n,e,0,val\n")
    touch(tmp_path, *(f"{name}.mp4" for name in "abcde"))
    text = 'kind = "list"\n[list]\nfiles = ["test.csv", "val.csv"]\npath = "{youtube_id}"\nsplit = "split"\n'
    assert "test.csv: of list.label: unknown column 'label'" in refusal(tmp_path, text)
    videos = videos_of(recipe_of(tmp_path, text, list__labels_may_lack=True), tmp_path)
    assert [(clip.key, clip.label) for clip in videos.clips] == [("c", "x"), ("d", "y")]
    assert "3 rows of the list have no label: a, b, e" in map(str, videos.left_out)
    message = refusal(tmp_path, text, list__labels_may_lack=True, list__files="test.csv")
    assert message == "test.csv: none of its 2 rows has a label; give a list that has some, too"


def test_wanted_classes_are_kept_and_the_rows_of_others_are_counted(tmp_path):
    (tmp_path / "list.csv").write_text("a,0,1,x\nb,0,1,y\nc,0,1,z\nd,0,1,y\n")
    touch(tmp_path, *(f"{name}_0.mp4" for name in "abcd"))
    videos = videos_of(recipe_of(tmp_path, SCHEMES, list__keep=["x", "y"]), tmp_path)
    assert videos.classes == ("x", "y") and [clip.key for clip in videos.clips] == ["a_0", "b_0", "d_0"]
    assert "1 row of the list has a class that the recipe does not keep: c_0" in map(str, videos.left_out)
    message = refusal(tmp_path, SCHEMES, list__keep=["q"])
    assert "none of its 4 rows has a class of this recipe; the first has 'x', the classes are q" in message


def test_classes_that_are_only_numbered_are_named_by_a_file(tmp_path):
    (tmp_path / "list.csv").write_text("a,0,1,1\nb,0,1,0\n")
    (tmp_path / "names.txt").write_text("violin\ncello\n")
    touch(tmp_path, "a_0.mp4", "b_0.mp4")
    videos = videos_of(recipe_of(tmp_path, SCHEMES, list__names=str(tmp_path / "names.txt")), tmp_path)
    assert [clip.label for clip in videos.clips] == ["cello", "violin"]
    assert videos.classes == ("violin", "cello")  # class 0 stays class 0
    (tmp_path / "list.csv").write_text("a,0,1,2\n")
    message = refusal(tmp_path, SCHEMES, list__names=str(tmp_path / "names.txt"))
    assert "line 1: the label is '2'; list.names has the classes 0 to 1" in message
    assert "cannot be read" in refusal(tmp_path, SCHEMES, list__names=str(tmp_path / "none.txt"))


def test_splits_by_the_name_of_the_list():
    names = ("my_train.txt", "trainSet.txt", "testSet.txt", "valSet.txt", "kinetics_sound_test.txt", "TEST.csv")
    assert [split_in(name) for name in names] == ["train", "train", "test", "val", "test", "test"]
    assert [split_in(name) for name in ("Annotations.txt", "train_and_test.csv", "contest.csv")] == [None] * 3


def test_splits_are_cut_anew_by_a_column_in_the_place_of_the_published_ones(tmp_path):
    rows = [f"{actor:04d}_{word}_{label},{label}" for actor in range(20) for word in "pqr" for label in ("ANG", "SAD")]
    (tmp_path / "train.csv").write_text("\n".join(rows[::2]))
    (tmp_path / "test.csv").write_text("\n".join(rows[1::2]))
    touch(tmp_path, "0000_p_ANG.flv")
    text = """
    kind = "list"
    [list]
    files = ["train.csv", "test.csv"]
    columns = ["name", "label"]
    path = "{name}"
    split_in_name = true
    parse = "name"
    parts = "(?P<actor>[0-9]{4})_.*"
    """
    assert Counter(clip.split for clip in rows_of(tmp_path, text)) == {"train": 60, "test": 60}
    recipe = recipe_of(tmp_path, text, list__split_by="actor", val_fraction=0.1, test_fraction=0.2)
    videos = videos_of(recipe, tmp_path)
    assert Counter(clip.split for clip in videos.clips) == {"train": 84, "val": 12, "test": 24}
    splits_of = {}
    for clip in videos.clips:
        assert splits_of.setdefault(clip.key[:4], clip.split) == clip.split
    assert videos.notes[0] == "published splits are left aside: all splits are cut anew, by actor"


def test_a_video_that_the_list_itself_puts_into_two_splits_is_said(tmp_path):
    (tmp_path / "full.csv").write_text("-bcdefghijk,3,a,train\n-bcdefghijk,20,a,test\nAbcdefghijk,3,b,train\n")
    touch(tmp_path, "-bcdefghijk_000003.mp4")
    (note,) = videos_of(recipe_of(tmp_path, TWO_ORDERS, list__files="full.csv"), tmp_path).notes
    assert note == "1 video has clips in several splits of the list itself, '-bcdefghijk' first, in train and test"


def test_counts_that_differ_from_the_published_ones_are_said(tmp_path):
    (tmp_path / "full.csv").write_text("-bcdefghijk,3,a,train\n-bcdefghijk,20,a,train\nAbcdefghijk,3,b,test\n")
    touch(tmp_path, "-bcdefghijk_000003.mp4")
    options = {"list__files": "full.csv"}
    right = ["rows 3", "videos 2", "classes 2", "train 2", "test 1", "val 7"]  # the list has no val
    assert not videos_of(recipe_of(tmp_path, TWO_ORDERS, **options, list__expected=right), tmp_path).notes
    wrong = ["rows 4000", "train 2", "test 2"]
    (note,) = videos_of(recipe_of(tmp_path, TWO_ORDERS, **options, list__expected=wrong), tmp_path).notes
    assert note == "the list has other counts than its authors': rows 3, published 4,000; test 1, published 2"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"list__parts": ["("]}, ["parts has '('", "no regular expression"]),
        ({"list__parse": ""}, ["parts is", "where parse names a column"]),
        ({"list__columns": [], "list__json": "{}"}, ["json is '{}'", "{column}"]),
        ({"list__expected": ["row 3"]}, ["expected is ('row 3',)", "rows, videos, classes"]),
        ({"list__default_split": "tset"}, ["unknown split 'tset'"]),
        ({"list__whole": "{id}"}, ["whole is", "none where start is not given"]),
        ({"list__path": ["{nothing}", "{id}"]}, ["list.path", "unknown column 'nothing'"]),
        ({"list__json": "[]"}, ["columns is", "none where json is given"]),
        ({"list__columns": ["id,start,label,split", "label,label"]}, ["columns is", "names that differ"]),
    ],
)
def test_each_mistake_of_the_new_options_is_one_clear_line(tmp_path, overrides, parts):
    (tmp_path / "full.csv").write_text("-bcdefghijk,3,a,train\n")
    touch(tmp_path, "-bcdefghijk_000003.mp4")
    message = refusal(tmp_path, TWO_ORDERS, **{"list__files": "full.csv", **overrides})
    for part in parts:
        assert part in message
