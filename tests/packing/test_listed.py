"""Whatever a list calls a video, the file that is there is found; what is not there says what was looked for."""

import unicodedata

import pytest

from avbench.errors import RecipeError
from avbench.packing.recipes.recipe import Recipe
from avbench.packing.recipes.videos import classes_of, clips_of, videos_of
from tests.packing.make_video import make_video


def media_with(tmp_path, *names):
    media = tmp_path / "media"
    for name in names:
        (media / name).parent.mkdir(parents=True, exist_ok=True)
        (media / name).touch()
    media.mkdir(exist_ok=True)
    return media


def found(media, *keys, labels=None):
    """{source: (key, file)} of a list of these keys; file is None for what is missing."""
    rows = [f'"{key}",{label}' for key, label in zip(keys, labels or ["x"] * len(keys), strict=True)]
    (media / "labels.csv").write_text("\n".join(["key,label", *rows]) + "\n", encoding="utf-8")
    clips = clips_of(Recipe(), media)
    return {
        clip.source: (clip.key, None if clip.looked_for else clip.path.resolve().relative_to(media.parent).as_posix())
        for clip in clips
    }


def refusal(media, *keys):
    with pytest.raises(RecipeError) as caught:
        found(media, *keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_key_with_its_suffix_names_one_file_of_two(tmp_path):
    media = media_with(tmp_path, "a.mov", "a.mp4", "b.mp4")
    assert found(media, "a.mov", "b") == {"a": ("a", "media/a.mov"), "b": ("b", "media/b.mp4")}
    assert found(media, "a.mp4") == {"a": ("a", "media/a.mp4")}
    (left,) = videos_of(Recipe(), media).left_out
    assert str(left) == "2 videos are not in the list: a.mov, b.mp4"


def test_two_listed_keys_that_differ_by_their_suffix_keep_it(tmp_path):
    media = media_with(tmp_path, "a.mov", "a.mp4", "b.mp4", "c.wmv", "c.mp4")
    assert found(media, "a.mov", "a.mp4", "b.mp4", "c.wmv", "./c.mp4") == {
        "a.mov": ("a%2Emov", "media/a.mov"),
        "a.mp4": ("a%2Emp4", "media/a.mp4"),
        "b": ("b", "media/b.mp4"),
        "c.wmv": ("c%2Ewmv", "media/c.wmv"),
        "c.mp4": ("c%2Emp4", "media/c.mp4"),
    }
    (media / "a.mp4").unlink()  # a.mov is not taken for it: that would be the other row's video
    assert found(media, "a.mov", "a.mp4")["a.mp4"] == ("a%2Emp4", None)


def test_a_bare_key_that_fits_two_videos_is_refused_and_sound_is_no_video(tmp_path):
    media = media_with(tmp_path, "a.mov", "a.mp4", "sub/b.ogg")
    assert "line 2: 'a' could be a.mov and a.mp4; name one with its suffix" in refusal(media, "a")
    assert "could be a.mov and a.mp4" in refusal(media, "a.avi")
    make_video(media / "sub" / "b.mp4", width=32, height=32)
    make_video(media / "sub" / "b.ogv", has_pictures=False, audio_codec="flac", width=32, height=32)
    (media / "sub" / "b.ogg").unlink()
    assert found(media, "sub/b") == {"sub/b": ("sub%2Fb", "media/sub/b.mp4")}


def test_a_key_of_another_suffix_than_the_only_files_finds_it_as_ever(tmp_path):
    assert found(media_with(tmp_path, "a.mkv"), "a.mp4") == {"a": ("a", "media/a.mkv")}


def test_keys_keep_what_only_looks_like_a_suffix(tmp_path):
    """As they did before their suffixes were known."""
    media = media_with(tmp_path, "v1.rm.mp4", "v2.wmv", "plain", "v3.dv.mkv", "v4.ts.mp4")
    assert found(media, "v1.rm", "v2.wmv", "plain", "v3.dv.mkv", "v4.ts") == {
        "v1.rm": ("v1%2Erm", "media/v1.rm.mp4"),
        "v2.wmv": ("v2%2Ewmv", "media/v2.wmv"),
        "plain": ("plain", "media/plain"),
        "v3.dv": ("v3%2Edv", "media/v3.dv.mkv"),
        "v4.ts": ("v4%2Ets", "media/v4.ts.mp4"),
    }
    assert found(media, "v2") == {"v2": ("v2", "media/v2.wmv")}


def test_other_ways_to_write_a_path_find_the_same_video(tmp_path):
    media = media_with(tmp_path, "a.mp4", "sub/inner/b.mp4", ".hidden.mp4")
    b = {"sub/inner/b": ("sub%2Finner%2Fb", "media/sub/inner/b.mp4")}
    for key in (
        *("sub/inner/b", "./sub//inner/./b.mp4", "sub\\inner\\b", ".\\sub\\inner\\b.mp4", "sub/../sub/inner/b.mp4"),
        *(str(media / "sub/inner/b.mp4"), str(media / "sub/inner/b"), "../media/sub/inner/b"),
    ):
        assert found(media, key) == b, key
    assert found(media, ".hidden.mp4") == {".hidden": ("%2Ehidden", "media/.hidden.mp4")}
    other = tmp_path / "link to media"
    other.symlink_to(media)
    assert found(media, str(other / "a.mp4")) == {"a": ("a", "media/a.mp4")}
    assert found(other, str(media / "a.mp4")) == {"a": ("a", "media/a.mp4")}


def test_a_file_whose_name_holds_a_backslash_is_meant_first(tmp_path):
    media = media_with(tmp_path, "sub/a.mp4", "sub\\a.mp4")
    assert found(media, "sub\\a.mp4") == {"sub\\a": ("sub%5Ca", "media/sub\\a.mp4")}


def test_videos_behind_links_are_found_by_every_name_they_have(tmp_path):
    media = media_with(tmp_path, "own/a.mp4")
    elsewhere = tmp_path / "disk 2"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "b.mp4").touch()
    (media / "kin").symlink_to(elsewhere)
    (media / "twin").symlink_to("own")
    expected = {"kin/deep/b": ("kin%2Fdeep%2Fb", "disk 2/deep/b.mp4")}
    assert found(media, "kin/deep/b") == found(media, "kin/deep/b.mp4") == expected
    assert found(media, str(elsewhere / "deep" / "b.mp4")) == expected
    assert found(media, "twin/a") == {"twin/a": ("twin%2Fa", "media/own/a.mp4")}  # a link that was not followed
    assert found(media, "twin/a.mp4") == {"twin/a": ("twin%2Fa", "media/own/a.mp4")}


def test_an_absolute_path_outside_of_the_folder_is_taken_as_it_is(tmp_path):
    media = media_with(tmp_path, "a.mp4")
    (tmp_path / "far.mp4").touch()
    ((source, (_, file)),) = found(media, str(tmp_path / "far.mp4")).items()
    assert source == str(tmp_path / "far") and file == "far.mp4"
    assert found(media, "../far.mp4") == {"../far": ("%2E%2E%2Ffar", "far.mp4")}


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_list", ["NFC", "NFD"])
def test_a_name_in_another_unicode_form_is_the_same_name(tmp_path, on_disk, in_list):
    name, key = (unicodedata.normalize(form, "Fl\u00f6te/\u00e9t\u00e9") for form in (on_disk, in_list))
    media = media_with(tmp_path, f"{name}.mp4")
    for written in (key, f"{key}.mp4", f"./{key}.mp4"):
        ((source, (_, file)),) = found(media, written).items()
        assert source == key and file == f"media/{name}.mp4"


def test_two_rows_of_one_video_are_refused_however_they_are_written(tmp_path):
    media = media_with(tmp_path, "a.mp4", "e\u0301.mp4")
    for other in ("a", "a.mp4", "./a.mp4", str(media / "a.mp4")):
        assert "line 3" in refusal(media, "a", other) and "again" in refusal(media, "a", other)
    assert "'\u00e9' is the video of line 2 again" in refusal(media, "e\u0301", "\u00e9")


def test_what_is_missing_says_what_was_looked_for(tmp_path):
    media = media_with(tmp_path, "a.xyz", "sub/b.mkv", "Film.MP4")
    (media / "labels.csv").write_text(
        "key,label\na,x\nsub/b.mp4,x\nsub/b.mov,x\nC:\\films\\c.mp4,x\n./d,x\n../e,x\nfilm,x\n"
    )
    told = {clip.source: clip.looked_for for clip in clips_of(Recipe(), media)}
    assert told == {
        "a": "looked for 'a', as it is or with the suffix of a video; there is a.xyz",
        "sub/b.mp4": "looked for 'sub/b.mp4'; there is sub/b.mkv",
        "sub/b.mov": "looked for 'sub/b.mov'; there is sub/b.mkv",
        "C:/films/c": "looked for 'C:/films/c.mp4'",
        "d": "looked for 'd', as it is or with the suffix of a video",
        "film": "looked for 'film', as it is or with the suffix of a video; there is Film.MP4",
        "../e": "looked for '../e', as it is or with the suffix of a video",
    }


def test_spaces_before_quoted_values_are_no_trouble(tmp_path):
    media = media_with(tmp_path, "v1.mp4")
    (media / "labels.csv").write_text('key, "label", split\nv1, "a, ""b""", train\n')
    (clip,) = clips_of(Recipe(), media)
    assert (clip.label, clip.split) == ('a, "b"', "train")


def test_a_key_with_a_nul_is_refused(tmp_path):
    assert "line 2: the key holds a NUL" in refusal(media_with(tmp_path), "a\0b")


def test_labels_that_look_the_same_are_one_class(tmp_path):
    nfc, nfd = "fl\u00f6te", "flo\u0308te"
    media = media_with(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    found(media, "a", "b", "c", labels=[nfd, nfc, "x"])
    assert classes_of(Recipe(), clips_of(Recipe(), media)) == (nfc, "x")
    assert {clip.label for clip in clips_of(Recipe(classes=("x", nfd)), media)} == {nfd, "x"}
    found(media, "a", "b", "c", labels=[nfd, "y", "x"])  # alone it stays as it is
    assert classes_of(Recipe(), clips_of(Recipe(), media)) == (nfd, "x", "y")
