"""Lists and folders become clips, splits are cut by the rule, and every mistake is one clear line."""

import hashlib
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avbench.errors import RecipeError
from avbench.packing.clips import LONGEST_KEY, encoded_key
from avbench.packing.recipes.reading import load_recipe
from avbench.packing.recipes.recipe import Recipe
from avbench.packing.recipes.videos import classes_of, clips_of
from avbench.packing.splits import check_splits, cut_parts
from tests.packing.make_video import make_labelled_folder, make_video

FRACTIONS = {"test": 0.1, "val": 0.1}


def listed(tmp_path, text, encoding="utf-8"):
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    return clips_of(Recipe(), tmp_path)


def refusal(tmp_path, text, encoding="utf-8"):
    with pytest.raises(RecipeError) as caught:
        listed(tmp_path, text, encoding)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_list_gives_each_video_its_label_and_split(tmp_path):
    text = 'key,label,split\n1oR8FSr-eyw_000184_000194,singing,train\nb.c,"barking, loud",test\nsub/d.mp4,x,val\n'
    clips = {clip.source: clip for clip in listed(tmp_path, text)}
    assert [(clip.key, clip.label, clip.split) for clip in clips.values()] == [
        ("1oR8FSr-eyw_000184_000194", "singing", "train"),
        ("b%2Ec", "barking, loud", "test"),
        ("sub%2Fd", "x", "val"),
    ]


def test_byte_order_mark_blank_lines_spaces_and_other_columns_are_no_trouble(tmp_path):
    clips = listed(tmp_path, "\ufeffkey , label,year\r\n a , singing ,2019\r\n\r\nb,x,2020\r\n")
    assert [(clip.key, clip.label) for clip in clips] == [("a", "singing"), ("b", "x")]


def test_planted_qualities_are_read(tmp_path):
    text = "key,label,split,planted_audio,planted_visual\na,x,train,0.25,1.0\nb,y,test,0,0.5\n"
    assert [(clip.planted_audio, clip.planted_visual) for clip in listed(tmp_path, text)] == [(0.25, 1.0), (0.0, 0.5)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name,label\na,x\n", ["no column 'key'", "columns: name, label"]),
        ("key\na\n", ["no column 'label'"]),
        ("", ["no column 'key'", "columns: none"]),
        ("key,label\n", ["lists no videos"]),
        ("key,label\na,x\nb,x\na,y\n", ["line 4", "'a' again, of line 2"]),
        ("key,label\na,x\na.mp4,y\n", ["line 3", "'a.mp4' again"]),
        ("key,label\na,\n", ["line 2", "no label"]),
        ("key,label\n,x\n", ["line 2", "no key"]),
        ("key,label,split\na,x,tset\n", ["line 2", "unknown split 'tset'", "did you mean 'test'"]),
        ("key,label,split\na,x,test\nb,x,\n", ["line 3", "every line a split, or none"]),
        ("key,label\na,barking, loud\n", ["line 2", "quote what holds a comma"]),
        ('key,label\na,"x\n', ["line 2", "no CSV"]),
        ('key,label\na,x\nb,"y"z\nc,x\n', ["line 3", "no CSV"]),
        ('key,"label\na,x\n', ["line 1", "no CSV"]),
        ("\ufeffkey;label;split\na;x;train\n", ["separated by semicolons", "by commas"]),
        ("key\tlabel\na\tx\n", ["separated by tabs", "by commas"]),
        ("key,label,label\na,x,y\n", ["2 columns 'label'", "keep one"]),
        ("key,label,planted_audio\na,x,1.5\n", ["line 2", "planted_audio is '1.5'", "0 to 1"]),
        ("key,label,planted_audio\na,x,loud\n", ["planted_audio is 'loud'"]),
    ],
)
def test_each_mistake_in_a_list_is_one_clear_line(tmp_path, text, parts):
    message = refusal(tmp_path, text)
    assert "labels.csv" in message
    for part in parts:
        assert part in message


def test_a_list_that_is_not_utf_8_is_refused(tmp_path):
    assert "not UTF-8" in refusal(tmp_path, "key,label\na,fl\u00f6te\n", encoding="latin-1")
    for encoding in ("utf-16", "utf-16-le"):  # as Excel's "Unicode text", with or without its mark
        message = refusal(tmp_path, "key,label\na,x\n", encoding=encoding)
        assert "not UTF-8" in message and "\0" not in message


def test_videos_are_found_by_name_without_suffix_even_with_dots(tmp_path):
    folder = make_labelled_folder(tmp_path, {"v1.2_abc": "x", "b": "y"})
    (folder / "b.mp4").rename(folder / "b.MKV")
    assert [clip.path.name for clip in clips_of(Recipe(), folder)] == ["b.MKV", "v1.2_abc.mp4"]
    (folder / "b.webm").touch()
    with pytest.raises(RecipeError, match=r"'b' could be b.MKV and b.webm"):
        clips_of(Recipe(), folder)


def test_one_folder_a_class(tmp_path):
    for label, name in (("dog", "1"), ("dog", "2"), ("cat", "1")):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{name}.mp4").touch()
    (tmp_path / "dog" / "notes.txt").touch()
    clips = clips_of(Recipe(), tmp_path)
    assert [(clip.key, clip.label, clip.source) for clip in clips] == [
        ("cat%2F1", "cat", "cat/1"),
        ("dog%2F1", "dog", "dog/1"),
        ("dog%2F2", "dog", "dog/2"),
    ]
    assert classes_of(Recipe(), clips) == ("cat", "dog")
    assert classes_of(Recipe(classes=("dog", "cat")), clips) == ("dog", "cat")


def test_a_folder_without_videos_or_no_folder_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"neither a list labels\.csv nor a folder of videos"):
        clips_of(Recipe(), tmp_path)
    with pytest.raises(RecipeError, match="no such media folder"):
        clips_of(Recipe(), tmp_path / "none")


def test_windows_share_their_source_and_split_and_a_nearly_whole_last_one_counts(tmp_path):
    make_video(tmp_path / "a.mp4", seconds=5.95, fps=20, width=32, height=32)
    make_video(tmp_path / "b.mp4", seconds=5.0, fps=20, width=32, height=32)
    (tmp_path / "c.mp4").write_text("no video")
    clips = [clip for clip in listed_windows(tmp_path) if clip.source != "d"]
    assert [(clip.key, clip.start_seconds, clip.seconds) for clip in clips] == [
        ("a-000", 0.0, 2.0),
        ("a-001", 2.0, 2.0),
        ("a-002", 4.0, 2.0),
        ("b-000", 0.0, 2.0),
        ("b-001", 2.0, 2.0),
        ("c-000", 0.0, 2.0),  # stays, to be rejected with its reason
    ]
    assert all(len({clip.split for clip in clips if clip.source == source}) == 1 for source in "abc")


def listed_windows(folder):
    (folder / "labels.csv").write_text("key,label\na,x\nb,x\nc,x\nd,x\n")
    return clips_of(Recipe(window_seconds=2.0), folder)


def test_keys_that_become_equal_are_refused(tmp_path):
    make_video(tmp_path / "a.mp4", seconds=2.0, fps=10, width=32, height=32)
    (tmp_path / "labels.csv").write_text("key,label\na,x\na-000,x\n")
    assert len(clips_of(Recipe(), tmp_path)) == 2
    long = "x" * 200
    assert encoded_key(long) != encoded_key(long + "y")


@given(st.text(min_size=1))
def test_a_key_is_fit_for_a_tar_member_and_for_every_reader(name):
    key = encoded_key(name)
    assert 0 < len(key) <= LONGEST_KEY
    assert not set(key) & set("./ \\\t\n\"'") and key.isascii()
    assert encoded_key(name) == key


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_different_names_have_different_keys(one, other):
    assert (encoded_key(one) == encoded_key(other)) == (one == other)


def by_hash(names):
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def test_a_tenth_of_a_class_is_cut_by_the_hash_of_its_names():
    labels = {f"video{number}": "a" for number in range(30)}
    parts = cut_parts(labels, FRACTIONS)
    ordered = by_hash(labels)
    assert parts == dict.fromkeys(ordered[:3], "test") | dict.fromkeys(ordered[3:6], "val")


def test_a_class_of_three_gives_each_split_one_and_smaller_ones_are_pooled():
    labels = {"a1": "a", "a2": "a", "a3": "a", **{f"small{number}": f"class{number}" for number in range(12)}}
    parts = cut_parts(labels, FRACTIONS)
    assert sorted(part for name, part in parts.items() if name.startswith("a")) == ["test", "val"]
    assert Counter(part for name, part in parts.items() if name.startswith("small")) == {"test": 1, "val": 1}


@given(
    labels=st.dictionaries(st.text("abcdef", min_size=1, max_size=5), st.sampled_from("xyz"), max_size=60),
    shuffled=st.randoms(use_true_random=False),
)
def test_the_cut_is_a_tenth_of_every_class_whatever_the_order(labels, shuffled):
    parts = cut_parts(labels, FRACTIONS)
    items = list(labels.items())
    shuffled.shuffle(items)
    assert cut_parts(dict(items), FRACTIONS) == parts
    sizes = Counter(labels.values())
    pool = sum(size for size in sizes.values() if size < 3)
    for part in FRACTIONS:
        counts = Counter(labels[name] for name, cut in parts.items() if cut == part)
        for label, size in sizes.items():
            if size >= 3:
                assert counts[label] == max(1, int(size / 10 + 0.5))
        small = sum(count for label, count in counts.items() if sizes[label] < 3)
        assert small == (max(1, int(pool / 10 + 0.5)) if pool >= 3 else 0)


def test_splits_that_the_list_has_are_kept_and_only_missing_ones_are_cut(tmp_path):
    rows = [f"v{number},{'xy'[number % 2]},{'test' if number < 10 else 'train'}" for number in range(50)]
    clips = listed(tmp_path, "key,label,split\n" + "\n".join(rows) + "\n")
    assert Counter(clip.split for clip in clips) == {"test": 10, "val": 4, "train": 36}
    assert {clip.key for clip in clips if clip.split == "test"} == {f"v{number}" for number in range(10)}


def test_a_video_of_an_unknown_class_takes_no_part_in_the_cut(tmp_path):
    (tmp_path / "labels.csv").write_text("key,label\na,x\nb,x\nc,x\nd,y\ne,y\nf,y\n")
    clips = clips_of(Recipe(classes=("x",)), tmp_path)
    assert Counter(clip.split for clip in clips if clip.label == "x") == {"train": 1, "val": 1, "test": 1}
    assert {clip.split for clip in clips if clip.label == "y"} == {"train"}


def test_a_test_split_of_one_class_and_an_empty_dataset_are_refused():
    check_splits({"train": [1, 1], "val": [0, 0], "test": [1, 1]}, ("a", "b"), where="d")
    check_splits({"train": [1, 1], "val": [0, 0], "test": [0, 0]}, ("a", "b"), where="d")
    with pytest.raises(RecipeError, match="test split has clips of one class only, 'b'"):
        check_splits({"train": [1, 1], "val": [0, 0], "test": [0, 3]}, ("a", "b"), where="d")
    with pytest.raises(RecipeError, match="no clips are left"):
        check_splits({"train": [0, 0], "val": [0, 0], "test": [0, 0]}, ("a", "b"), where="d")


def test_shipped_recipes_are_documented_defaults_and_overridden_by_name():
    assert load_recipe("folder", {}) == Recipe()
    recipe = load_recipe("folder", {"window_seconds": 2, "classes": ["b", "a"]})
    assert recipe == replace(Recipe(), window_seconds=2.0, classes=("b", "a"))
    planted = load_recipe("planted", {"planted.test": 24, "clips_per_shard": 7})
    assert planted.source.test == 24 and planted.clips_per_shard == 7
    assert planted.classes == planted.source.class_names


def test_classes_may_come_from_a_file(tmp_path):
    (tmp_path / "classes.txt").write_text("\ufeffb\n\na \n", encoding="utf-8")
    assert load_recipe("folder", {"classes": str(tmp_path / "classes.txt")}).classes == ("b", "a")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"windows_seconds": 2}, ["unknown field 'windows_seconds'", "did you mean 'window_seconds'"]),
        ({"kind": "foldr"}, ["unknown kind 'foldr'", "did you mean 'folder'"]),
        ({"audio_suffix": "mp3"}, ["unknown audio_suffix 'mp3'", "flac, ogg, stft, wav"]),
        ({"audio_suffix": "stft"}, ["stft_preset: unknown preset ''", "paper"]),
        ({"audio_suffix": "stft", "stft_preset": "papr"}, ["unknown preset 'papr'", "did you mean 'paper'"]),
        ({"audio_suffix": "stft", "stft_preset": "tiny"}, ["stft_preset: preset tiny", "presets that have it: paper"]),
        ({"audio_suffix": "stft", "stft_preset": "paper", "sample_rate_hz": 16000}, ["is 16000", "is of 48000 Hz"]),
        ({"stft_preset": "paper"}, ["audio_suffix is 'flac'", "takes audio_suffix 'stft'"]),
        ({"window_seconds": 0.5}, ["window_seconds is 0.5", "0, or 1 or more"]),
        ({"window_seconds": "two"}, ["window_seconds is 'two'", "a number"]),
        ({"seed": 1.5}, ["seed is 1.5", "a whole number"]),
        ({"clips_per_shard": 0}, ["clips_per_shard is 0"]),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, ["leave nothing for train"]),
        ({"classes": ["a", "a"]}, ["'a' 2 times"]),
        ({"classes": "none.txt"}, ["none.txt", "cannot be read"]),
        ({"planted.test": 3}, ["[planted] is for recipes of kind 'planted'"]),
    ],
)
def test_each_bad_value_of_a_recipe_is_one_clear_line(overrides, parts):
    with pytest.raises(RecipeError) as caught:
        load_recipe("folder", overrides)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_an_unknown_recipe_names_the_near_one(tmp_path):
    with pytest.raises(RecipeError, match="unknown recipe 'foldr'; did you mean 'folder'"):
        load_recipe("foldr")
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text("kind = folder")
    with pytest.raises(RecipeError, match="not readable as TOML"):
        load_recipe(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text('kind = "planted"\n[planted]\nbis = 1')
    with pytest.raises(RecipeError, match=r"mine.toml: \[planted\]: unknown field 'bis'; did you mean 'bias'"):
        load_recipe(str(tmp_path / "mine.toml"))
