"""Published lists become clips by columns and patterns that a recipe file states, and nothing else is needed."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import simplejpeg

from avbench.dataset import Dataset
from avbench.errors import RecipeError
from avbench.packing.pack import pack
from avbench.packing.recipes.patterns import pattern
from avbench.packing.recipes.reading import load_recipe
from avbench.packing.recipes.videos import clips_of, videos_of
from tests.conftest import REPOSITORY
from tests.packing.make_video import make_labelled_folder, make_video, number_shown

# Neither has a header in common: VGG-Sound's has none, Kinetics' names its columns. Rows are made up.
VGG_SOUND = """
kind = "list"
name = "vgg"
[list]
files = "vggsound.csv"
columns = ["id", "start", "label", "split"]
path = "{id}_{start:06d}.mp4"
source = "{id}"
split = "split"
"""
VGG_ROWS = """---g-f_I2yQ,1,people marching,test
--0PQM4-hqg,30,"waterfall, burbling",train
--56QUhyDQM,185,people marching,train
--56QUhyDQM,205,people marching,train
-0gone00000,100,people marching,train
-1stay00000,0,"waterfall, burbling",test
"""
KINETICS = """
kind = "list"
name = "kinetics"
[list]
files = ["train.csv", "val.csv", "test.csv"]
path = "{split}/{youtube_id}_{time_start:06d}_{time_end:06d}.mp4"
key = "{youtube_id}_{time_start:06d}_{time_end:06d}"
source = "{youtube_id}"
split = "split"
"""
KINETICS_FILES = {
    "train.csv": "label,youtube_id,time_start,time_end,split\n"
    '"playing, loudly",a0000000000,5,15,train\nclapping,-b000000000,100,110,train\n',
    "val.csv": "label,youtube_id,time_start,time_end,split,is_cc\nclapping,c0000000000,0,10,validate,1\n",
    "test.csv": "label,youtube_id,time_start,time_end,split\nclapping,d0000000000,7,17,test\n"
    '"playing, loudly",e,1,2,test\n',
}


def recipe_of(tmp_path, text, **overrides):
    (tmp_path / "mine.toml").write_text(text)
    return load_recipe(
        str(tmp_path / "mine.toml"), {name.replace("__", "."): value for name, value in overrides.items()}
    )


def refusal(tmp_path, text, **overrides):
    with pytest.raises(RecipeError) as caught:
        clips_of(recipe_of(tmp_path, text, **overrides), tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def vgg(tmp_path):
    (tmp_path / "vggsound.csv").write_text(VGG_ROWS)
    for name in ("---g-f_I2yQ_000001", "--0PQM4-hqg_000030", "--56QUhyDQM_000185", "--56QUhyDQM_000205"):
        (tmp_path / f"{name}.mp4").touch()
    (tmp_path / "-1stay00000_000000.mkv").touch()
    (tmp_path / "other.mp4").touch()
    return tmp_path


def test_a_list_without_header_becomes_clips(vgg):
    recipe = recipe_of(vgg, VGG_SOUND, val_fraction=0.0)
    clips = {clip.key: clip for clip in clips_of(recipe, vgg)}
    assert {key: (clip.source, clip.label, clip.split, clip.path.name) for key, clip in clips.items()} == {
        "---g-f_I2yQ_000001": ("---g-f_I2yQ", "people marching", "test", "---g-f_I2yQ_000001.mp4"),
        "--0PQM4-hqg_000030": ("--0PQM4-hqg", "waterfall, burbling", "train", "--0PQM4-hqg_000030.mp4"),
        "--56QUhyDQM_000185": ("--56QUhyDQM", "people marching", "train", "--56QUhyDQM_000185.mp4"),
        "--56QUhyDQM_000205": ("--56QUhyDQM", "people marching", "train", "--56QUhyDQM_000205.mp4"),
        "-0gone00000_000100": ("-0gone00000", "people marching", "train", "-0gone00000_000100"),
        "-1stay00000_000000": ("-1stay00000", "waterfall, burbling", "test", "-1stay00000_000000.mkv"),
    }
    assert {clip.start_seconds for clip in clips.values()} == {0.0} and not any(clip.seconds for clip in clips.values())
    assert {key: clip.looked_for for key, clip in clips.items() if clip.looked_for} == {
        "-0gone00000_000100": "looked for '-0gone00000_000100.mp4'"
    }
    assert [str(one) for one in videos_of(recipe, vgg).left_out] == ["1 video is not in the list: other.mp4"]


def test_clips_are_in_the_order_of_the_rows(vgg):
    videos = videos_of(recipe_of(vgg, VGG_SOUND), vgg)
    assert [clip.source for clip in videos.clips] == [row.partition(",")[0] for row in VGG_ROWS.splitlines()]
    assert videos.classes == ("people marching", "waterfall, burbling")


def test_clips_of_one_video_come_into_one_split_and_keep_the_one_they_are_given(tmp_path):
    rows = [f"v{number // 2:02d},{number % 2 * 10},{'xy'[number // 2 % 2]},train" for number in range(80)]
    rows += [f"v{number:02d},50,{'xy'[number % 2]},test" for number in range(20)]
    (tmp_path / "vggsound.csv").write_text("\n".join(rows))
    (tmp_path / "v00_000000.mp4").touch()
    splits = defaultdict(Counter)
    for clip in clips_of(recipe_of(tmp_path, VGG_SOUND, val_fraction=0.5), tmp_path):
        splits[clip.source][clip.split] += 1
    assert all(
        counts["test"] == (source < "v20") for source, counts in splits.items()
    )  # whatever becomes of the others
    assert Counter((counts["train"], counts["val"]) for counts in splits.values()) == {(2, 0): 20, (0, 2): 20}


def test_lists_with_headers_folders_and_other_words_for_splits_are_packed(tmp_path):
    for name, text in KINETICS_FILES.items():
        (tmp_path / name).write_text(text)
    video = make_labelled_folder(tmp_path / "template", {"one": "x"}) / "one.mp4"
    for name in (
        "train/a0000000000_000005_000015",
        "train/-b000000000_000100_000110",
        "test/d0000000000_000007_000017",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.mp4").write_bytes(video.read_bytes())
    (tmp_path / "validate").mkdir()
    (tmp_path / "validate" / "c0000000000_000000_000010.mp4").write_bytes(video.read_bytes())
    (tmp_path / "test" / "e_000001_000002.mp4").write_text("no video")
    (tmp_path / "train.csv").write_text((tmp_path / "train.csv").read_text() + "clapping,gone,1,11,train\n")
    (tmp_path / "test.csv").write_text((tmp_path / "test.csv").read_text() + '"playing, loudly",f,1,2,test\n')
    (tmp_path / "test" / "f_000001_000002.mp4").write_bytes(video.read_bytes())
    out = tmp_path.parent / f"{tmp_path.name}-out"
    dataset = pack(recipe_of(tmp_path, KINETICS, short_side=32), tmp_path, out=out, workers=1)
    assert dataset.description["clips"] == {"train": 2, "val": 1, "test": 2}
    assert dataset.description["rejects"] == {"missing file": 1, "not a video": 1}
    assert dataset.classes == ("clapping", "playing, loudly")
    assert sorted(dataset.key(clip_id) for clip_id in dataset.clip_ids("train")) == [
        "-b000000000_000100_000110",
        "a0000000000_000005_000015",
    ]
    stored = Dataset(out).description["recipe"]
    assert stored["kind"] == "list" and stored["list"]["path"].startswith("{split}/") and "labels" not in stored


def test_start_and_end_cut_a_clip_out_of_a_whole_video_and_windows_stay_within(tmp_path):
    make_video(tmp_path / "a.mp4", seconds=6.0, fps=10)
    (tmp_path / "list.csv").write_text("id,begin,finish,label\na,1.5,4.5,x\na,5,9,x\ngone,0,3,x\n")
    text = """
    kind = "list"
    [list]
    files = ["list.csv"]
    path = "{id}.mp4"
    key = "{id}-{begin}"
    start = "begin"
    end = "finish"
    """

    def spans(**overrides):
        clips = clips_of(recipe_of(tmp_path, text, **overrides), tmp_path)
        return [(clip.source, clip.key, clip.start_seconds, clip.seconds) for clip in clips]

    assert spans() == [("a", "a-1%2E5", 1.5, 3.0), ("a", "a-5", 5.0, 4.0), ("gone", "gone-0", 0.0, 3.0)]
    assert spans(window_seconds=1.0) == [
        ("a", "a-1%2E5-000", 1.5, 1.0),
        ("a", "a-1%2E5-001", 2.5, 1.0),
        ("a", "a-1%2E5-002", 3.5, 1.0),
        ("a", "a-5-000", 5.0, 1.0),  # the video ends at 6
        ("gone", "gone-0-000", 0.0, 1.0),
    ]
    assert [span[3] for span in spans(list__end="", list__seconds=2)] == [2.0, 2.0, 2.0]
    assert [span[3] for span in spans(list__end="")] == [None, None, None]
    assert "list.csv: line 3: 'a.mp4' is the video of " in refusal(
        tmp_path, text, list__start="", list__end="", list__key="{id}-{begin}"
    )
    recipe = recipe_of(tmp_path, text, test_fraction=0.0, val_fraction=0.0)
    dataset = pack(recipe, tmp_path, out=tmp_path / "out", workers=1)
    shown = {
        dataset.key(clip_id): [
            number_shown(simplejpeg.decode_jpeg(dataset.frame_bytes(clip_id, frame).tobytes()))
            for frame in range(dataset.frame_counts(np.array([clip_id]))[0])
        ]
        for clip_id in range(len(dataset))
    }
    assert shown == {
        "a-1%2E5": [15, 25, 35],
        "a-5": [50],
    }  # of ten pictures a second, one a second; the video ends at 6


def test_a_list_of_file_names_whose_split_is_the_file_it_is_in(tmp_path):
    """As Kinetics-Sound's KEY,10,CLASS, and with a key that says the video's id."""
    (tmp_path / "my_train.txt").write_text("aaaaaaaaaaa_000030_000040,10,11\nbbbbbbbbbbb_000000_000010,10,2\n")
    (tmp_path / "my_test.txt").write_text("ccccccccccc_30,10,2\n")
    for name in ("aaaaaaaaaaa_000030_000040", "bbbbbbbbbbb_000000_000010", "ccccccccccc_30"):
        (tmp_path / f"{name}.mp4").touch()
    text = """
    kind = "list"
    [list]
    files = ["my_train.txt", "my_test.txt"]
    file_splits = ["training", "test"]
    columns = ["key", "seconds", "class"]
    label = "class"
    path = "{key}.mp4"
    source = "{key:.11}"
    """
    videos = videos_of(recipe_of(tmp_path, text, val_fraction=0.0), tmp_path)
    assert [(clip.source, clip.label, clip.split) for clip in videos.clips] == [
        ("aaaaaaaaaaa", "11", "train"),
        ("bbbbbbbbbbb", "2", "train"),
        ("ccccccccccc", "2", "test"),
    ]
    assert videos.classes == ("2", "11")


def test_a_first_line_that_repeats_the_names_and_another_separator_are_no_trouble(tmp_path):
    (tmp_path / "a.txt").write_text(
        "Category&VideoID&Quality\nChurch bell&one&good\nMale speech, man speaking&two&bad\n"
    )
    for name in ("one", "two"):
        (tmp_path / f"{name}.mp4").touch()
    text = 'kind = "list"\n[list]\nfiles = "a.txt"\nseparator = "&"\npath = "{VideoID}.mp4"\nlabel = "Category"\n'
    named = 'columns = ["Category", "VideoID", "Quality"]\n'
    for more in ("", named):
        clips = clips_of(recipe_of(tmp_path, text + more), tmp_path)
        assert [(clip.key, clip.label) for clip in clips] == [
            ("one", "Church bell"),
            ("two", "Male speech, man speaking"),
        ]


def test_a_list_may_be_named_on_the_command_line_wherever_it_lies(vgg):
    (vgg / "lists").mkdir()
    (vgg / "vggsound.csv").rename(vgg / "lists" / "full.csv")
    assert "vggsound.csv: no such list" in refusal(vgg, VGG_SOUND)
    for place in ("lists/full.csv", str(vgg / "lists" / "full.csv")):
        assert len(clips_of(recipe_of(vgg, VGG_SOUND, list__files=place), vgg)) == 6
    text = VGG_SOUND.replace('files = "vggsound.csv"', "")
    assert "--list.files FILE" in refusal(vgg, text)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"list__path": "{id}-{start}.mp4"}, ["holds none of the 6 listed", "'---g-f_I2yQ-1.mp4'", "6 videos: ---g-"]),
        ({"list__path": "{ids}.mp4"}, ["list.path", "unknown column 'ids'", "did you mean 'id'", "known: id, label"]),
        ({"list__label": "lable"}, ["list.label", "unknown column 'lable'", "did you mean 'label'"]),
        ({"list__split": "splits"}, ["list.split", "did you mean 'split'"]),
        ({"list__path": "{id"}, ["[list] path is '{id'"]),
        ({"list__path": "{id:x}"}, ["{id:x} is unknown", "{id:06d}"]),
        ({"list__path": "{}"}, ["between braces stands the name of a column"]),
        ({"list__path": "{id!r}"}, ["between braces stands the name of a column"]),
        ({"list__path": "{label:06d}"}, ["vggsound.csv: line 1", "label is 'people marching'", "a whole number"]),
        ({"list__path": ""}, ["path is ''", "a pattern"]),
        ({"list__key": "{id}"}, ["line 4", "'--56QUhyDQM'", "line 3", "list.key"]),
        ({"list__columns": ["id", "start", "label"]}, ["list.split", "unknown column 'split'"]),
        ({"list__columns": ["id", "start", "split", "label"]}, ["line 1", "unknown split 'people marching'"]),
        ({"list__columns": ["id", "id"]}, ["columns", "names that differ"]),
        ({"list__columns": []}, ["list.path", "unknown column 'id'", "list.columns does"]),
        ({"list__separator": "::"}, ["separator is '::'", "one character"]),
        ({"list__end": "start"}, ["end is 'start'", "none where start is not given"]),
        ({"list__start": "label"}, ["line 1", "label is 'people marching'", "expected seconds"]),
        ({"list__start": "start", "list__end": "start"}, ["line 1", "ends at 1 s, and begins at 1 s"]),
        ({"list__seconds": 10}, ["seconds is 10.0", "0 without start"]),
        ({"list__file_splits": ["train"]}, ["file_splits", "none where split names a column"]),
        ({"list__file_splits": ["a", "b"], "list__split": ""}, ["file_splits", "one for each of 1 files"]),
        ({"list__file_splits": ["tset"], "list__split": ""}, ["unknown split 'tset'", "did you mean 'test'"]),
        ({"list__pth": "x"}, ["mine.toml: [list]: unknown field 'pth'", "did you mean 'path'"]),
        ({"path": "x"}, ["no field 'path'", "--list.path"]),
        ({"labels": "x.csv"}, ["'labels' is for recipes of kind 'folder', this one is 'list'"]),
        ({"list__seconds": "long"}, ["mine.toml: [list]: seconds is 'long', expected a number"]),
    ],
)
def test_each_mistake_of_a_list_recipe_is_one_clear_line(vgg, overrides, parts):
    message = refusal(vgg, VGG_SOUND, **overrides)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ("", ["lists no videos"]),
        ("a,1,x,train\nb,2,,train\n", ["line 2 has no label"]),
        ("a,1,x,train\nb,2,y\n", ["line 2 has no split"]),
        ("a,1,x,train\nb,2,y,z,test\n", ["line 2 has more values than columns"]),
        ("a,1,x,train\na,1,y,train\n", ["line 2", "is called 'a_000001', as is ", "line 1"]),
        ("a,1,x,train\nb,one,y,train\n", ["line 2", "start is 'one'", "whole number"]),
        ("a\0,1,x,train\n", ["line 1", "NUL"]),
        ('a,1,"x,train\n', ["line 1 is no CSV"]),
    ],
)
def test_each_mistake_in_the_rows_is_one_clear_line(tmp_path, rows, parts):
    (tmp_path / "vggsound.csv").write_text(rows)
    (tmp_path / "a_000001.mp4").touch()
    message = refusal(tmp_path, VGG_SOUND)
    assert "vggsound.csv" in message
    for part in parts:
        assert part in message


def test_the_documented_recipe_reads_such_a_list(vgg):
    documents = [REPOSITORY / "README.md", REPOSITORY / "shards" / "README.md"]
    (text,) = (text for path in documents if path.exists() and 'kind = "list"' in (text := path.read_text()))
    block = text[text.index('    kind = "list"') :].split("\n\nPack")[0]
    recipe = recipe_of(vgg, "\n".join(line.strip() for line in block.splitlines()))
    assert len(clips_of(recipe, vgg)) == 6
    assert clips_of(recipe, vgg) == clips_of(recipe_of(vgg, VGG_SOUND), vgg)


def test_a_table_without_its_path_is_refused(tmp_path):
    assert "mine.toml: [list]: path is missing" in refusal(tmp_path, 'kind = "list"\n')


def test_a_clip_that_could_be_two_videos_is_refused(vgg):
    (vgg / "---g-f_I2yQ_000001.mkv").touch()
    text = VGG_SOUND.replace(".mp4", "")
    assert "'---g-f_I2yQ_000001' could be ---g-f_I2yQ_000001.mkv and ---g-f_I2yQ_000001.mp4" in refusal(vgg, text)


def test_patterns_write_text_numbers_and_beginnings():
    row = {"YouTube id": "-bC", "start": "30.0", "end": "-7", "key": "abcdefghijk_30"}
    assert pattern("{YouTube id}_{start:06d}{{x}}").fill(row) == "-bC_000030{x}"
    assert pattern("{key:.11}|{end:d}|{start}").fill(row) == "abcdefghijk|-7|30.0"
    assert pattern("{key}/{start:03d}.mp4").columns == ["key", "start"]
