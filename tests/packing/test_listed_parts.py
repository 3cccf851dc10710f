"""The optional columns source, start and end of labels.csv: which video a clip was cut from, and where it lies."""

from collections import Counter, defaultdict

import pytest

from avbench.errors import RecipeError
from avbench.packing.pack import pack
from avbench.packing.recipes.recipe import Recipe
from avbench.packing.recipes.videos import clips_of, videos_of
from tests.packing.make_video import make_labelled_folder, make_video

WHOLE = Recipe(val_fraction=0.0, test_fraction=0.0)


def listed(folder, text, recipe=WHOLE):
    (folder / "labels.csv").write_text(text)
    return clips_of(recipe, folder)


def refusal(folder, text):
    with pytest.raises(RecipeError) as caught:
        listed(folder, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_clips_of_one_source_come_into_one_split_and_keep_their_own_keys(tmp_path):
    rows = [f"clip{number:03d},{'xy'[number // 2 % 2]},video{number // 2:02d}" for number in range(120)]
    (tmp_path / "clip000.mp4").touch()
    clips = listed(tmp_path, "key,label,source\n" + "\n".join(rows) + "\n", Recipe())
    splits = defaultdict(set)
    for clip in clips:
        splits[clip.source].add(clip.split)
    assert len(splits) == 60 and all(len(found) == 1 for found in splits.values())
    assert Counter(next(iter(found)) for found in splits.values()) == {"train": 48, "val": 6, "test": 6}
    assert [(clip.key, clip.source) for clip in clips[:3]] == [
        ("clip000", "video00"),
        ("clip001", "video00"),
        ("clip002", "video01"),
    ]
    # Where a row has no source it is the file, as it is where there is no such column.
    one, two = listed(tmp_path, "key,label,source\na,x,\nb,x,v\n")
    assert (one.source, two.source) == ("a", "v")


def test_start_and_end_are_cut_out_and_several_rows_may_have_one_video(tmp_path):
    make_video(tmp_path / "a.mp4", seconds=6.0, fps=10, width=32, height=32)
    make_video(tmp_path / "b.mp4", seconds=2.0, fps=10, width=32, height=32)
    text = "key,label,start,end\na,x,1,3.5\na.mp4,y,4,\nb,x,,\n"
    clips = listed(tmp_path, text)
    assert [(clip.key, clip.source, clip.start_seconds, clip.seconds) for clip in clips] == [
        ("a_1", "a", 1.0, 2.5),
        ("a_4", "a", 4.0, None),
        ("b", "b", 0.0, None),
    ]
    assert not videos_of(WHOLE, tmp_path).left_out
    dataset = pack(WHOLE, tmp_path, out=tmp_path.parent / f"{tmp_path.name}-out", workers=1)
    ids = range(len(dataset))
    seconds = [round(count / 48000, 1) for count in dataset.column("samples", ids).to_pylist()]
    assert dict(zip(map(dataset.key, ids), seconds, strict=True)) == {"a_1": 2.5, "a_4": 2.0, "b": 2.0}
    assert dict(zip(map(dataset.key, ids), dataset.column("start_seconds", ids).to_pylist(), strict=True))["a_4"] == 4.0
    windows = listed(tmp_path, text, Recipe(window_seconds=1.0))
    assert [clip.key for clip in windows] == ["a_1-000", "a_1-001", "a_4-000", "a_4-001", "b-000", "b-001"]


def test_a_source_that_the_list_puts_into_two_splits_is_said(tmp_path):
    (tmp_path / "labels.csv").write_text("key,label,split,source\na,x,train,v\nb,x,test,v\nc,y,test,w\n")
    (note,) = videos_of(WHOLE, tmp_path).notes
    assert note == "1 video has clips in several splits of the list itself, 'v' first, in train and test"


def test_a_list_without_these_columns_is_read_as_ever(tmp_path):
    make_labelled_folder(tmp_path, {"a": "x", "b": "y"})
    plain = clips_of(WHOLE, tmp_path)
    assert listed(tmp_path, "key,label,source,start,end\na,x,,,\nb,y,,,\n") == plain
    assert all((clip.name, clip.group, clip.start_seconds, clip.seconds) == ("", "", 0.0, None) for clip in plain)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("key,label,start,end\na,x,one,2\n", "line 2: start is 'one'; expected seconds"),
        ("key,label,start,end\na,x,1,-2\n", "line 2: end is '-2'; expected seconds"),
        ("key,label,start,end\na,x,2,1\n", "line 2: ends at 1 s, and begins at 2 s"),
        ("key,label,start\na,x,2\na,y,2\n", "line 3 has the key 'a' again, of line 2 with the label 'y' and there 'x'"),
        ("key,label,start,start\na,x,2,3\n", "2 columns 'start'"),
    ],
)
def test_each_mistake_in_these_columns_is_one_clear_line(tmp_path, text, part):
    (tmp_path / "a.mp4").touch()
    assert part in refusal(tmp_path, text)
