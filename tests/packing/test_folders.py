"""Every video in a folder of classes is found, through links too, and what becomes no clip is counted and named."""

import io
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from avbench.errors import RecipeError
from avbench.packing.recipes.files import NO_VIDEO_SUFFIXES, VIDEO_SUFFIXES
from avbench.packing.recipes.left_out import LeftOut, left_out_from_json
from avbench.packing.recipes.recipe import Recipe
from avbench.packing.recipes.videos import clips_of, videos_of
from tests.packing.make_video import make_video


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def left_out(folder):
    return {one.why: one for one in videos_of(Recipe(), folder).left_out}


def sources(folder):
    return [clip.source for clip in clips_of(Recipe(), folder)]


def sound_file():
    """The bytes of an Ogg file that holds sound only."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(8000, np.int16), 8000, format="OGG", subtype="VORBIS")
    return buffer.getvalue()


def test_containers_of_cameras_discs_and_old_web_sites_are_videos(tmp_path):
    suffixes = [
        "wmv",
        "asf",
        "vob",
        "MTS",
        "m2ts",
        "mxf",
        "f4v",
        "m2v",
        "mpg",
        "mpeg",
        "divx",
        "dv",
        "ogm",
        "ogg",
        "ogv",
        "rm",
        "rmvb",
        "3gp",
        "3G2",
        "qt",
        "y4m",
        "nut",
        "ts",
        "webm",
    ]
    touch(tmp_path, *(f"a/{number}.{suffix}" for number, suffix in enumerate(suffixes)), "b/1.mp4", "c/2.MOV")
    assert len(sources(tmp_path)) == len(suffixes) + 2
    assert not videos_of(Recipe(), tmp_path).left_out


@pytest.mark.parametrize("suffix", ["m3u8", "ffconcat", "sdp", "txt", "jpg", "gif", "png", "webp", "srt"])
def test_playlists_text_and_images_are_no_videos(suffix):
    assert f".{suffix}" in NO_VIDEO_SUFFIXES
    assert not VIDEO_SUFFIXES & NO_VIDEO_SUFFIXES


def test_what_is_no_video_is_counted_by_suffix_and_the_first_are_named(tmp_path):
    touch(tmp_path, "dog/1.mp4", "dog/2.xyz", "dog/deep/3.XYZ", "dog/4.m3u8", "cat/1.mp4", "cat/none", ".git/x.mp4")
    touch(tmp_path, "stray.mp4", "README.md", "dog/.DS_Store", "dog/._1.mp4", "only/5.xyz")
    (tmp_path / "empty").mkdir()
    found = left_out(tmp_path)
    assert found["suffix"] == LeftOut(
        "suffix", 6, ("cat/none", "dog/2.xyz", "dog/4.m3u8"), {".xyz": 3, "": 1, ".m3u8": 1, ".md": 1}
    )
    assert str(found["suffix"]) == (
        "6 files have not the suffix of a video (.xyz 3, no suffix 1, .m3u8 1, .md 1): "
        "cat/none, dog/2.xyz, dog/4.m3u8, ..."
    )
    assert str(found["no class"]) == "1 video lies beside the class folders: stray.mp4"
    assert str(found["empty class"]) == "2 class folders hold no video: empty, only"
    assert found["hidden"].first == ("dog/._1.mp4",) and found["hidden folder"].first == (".git",)
    assert sources(tmp_path) == ["cat/1", "dog/1"]
    assert left_out_from_json([one.as_json() for one in found.values()]) == list(found.values())


def test_where_nothing_is_a_video_the_refusal_says_what_there_is(tmp_path):
    touch(tmp_path, "a/1.xyz", "b/2.xyz", "stray.mp4")
    with pytest.raises(RecipeError, match=r"nor a folder of videos for each class \(2 files have not .*\.xyz 2"):
        clips_of(Recipe(), tmp_path)


def test_a_file_of_sound_does_not_compete_with_a_video_for_a_name(tmp_path):
    make_video(tmp_path / "a" / "1.mp4", width=32, height=32)
    make_video(tmp_path / "a" / "2.mp4", width=32, height=32)
    for name in ("a/1.ogg", "b/3.ogg", "b/3.ogv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(sound_file())
    clips = {clip.source: clip.path.name for clip in clips_of(Recipe(), tmp_path)}
    assert clips == {"a/1": "1.mp4", "a/2": "2.mp4", "b/3": "3.ogg"}  # b/3 stays, to be rejected with its reason
    assert left_out(tmp_path)["no pictures"].first == ("a/1.ogg", "b/3.ogv")
    make_video(tmp_path / "a" / "1.mkv", width=32, height=32)
    with pytest.raises(RecipeError, match=r"1\.mkv and 1\.mp4 have the same name; remove or rename one"):
        clips_of(Recipe(), tmp_path)


def test_linked_folders_are_followed_each_once_and_never_in_a_circle(tmp_path):
    media, pool = tmp_path / "media", tmp_path / "pool"
    touch(pool, "p/1.mp4", "p/deep/2.mp4", "q/3.mp4")
    touch(media, "dog/own.mp4", "dog/z/4.mp4", "cat/5.mp4")
    (media / "dog" / "linked").symlink_to(pool / "p")
    (media / "dog" / "again").symlink_to(pool / "p")  # sorts first, so it is the name that counts
    (media / "dog" / "part").symlink_to(pool / "p" / "deep")
    (media / "dog" / "own_z").symlink_to("z")
    (media / "bird").symlink_to(pool / "q")
    (pool / "p" / "back").symlink_to(media)
    (media / "dog" / "up").symlink_to("..")
    (media / "dog" / "self").symlink_to("self")
    (media / "all").symlink_to(".")
    (media / "fish").symlink_to("unmounted disk")
    (media / "dog" / "more").symlink_to(tmp_path / "unmounted")
    (media / "cat" / "gone.mp4").symlink_to("nowhere.mp4")  # stays, to be rejected as missing
    assert sources(media) == [*("bird/3", "cat/5", "cat/gone", "dog/again/1", "dog/again/deep/2", "dog/own", "dog/z/4")]
    said = left_out(media)["link"]
    # all, dog/again/back, dog/linked, dog/own_z, dog/part and dog/up
    assert (said.count, said.first) == (6, ("all", "dog/linked", "dog/own_z"))
    assert str(left_out(media)["dead link"]) == "3 links lead nowhere: dog/more, dog/self, fish"


def test_a_dataset_among_the_class_folders_is_no_class(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/1.mp4", "done/dataset.json", "done/shard-000000.tar", "begun/.packing/plan.json")
    assert sources(tmp_path) == ["a/1", "b/1"]
    assert not left_out(tmp_path)


def test_a_name_that_is_not_utf_8_and_a_pipe_are_said(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/1.mp4")
    os.mkfifo(tmp_path / "a" / "pipe.mp4")  # reading it would wait for ever
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/bad\xff.mp4")).touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")).mkdir()
    found = left_out(tmp_path)
    assert sources(tmp_path) == ["a/1", "b/1"]
    assert found["special"].first == ("a/pipe.mp4",)
    assert found["not UTF-8"].count == 2
    assert all(name.isascii() for name in found["not UTF-8"].first)


@contextmanager
def as_another_user():
    """Root may read everything, so for a moment nobody looks."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_cannot_be_read_is_said():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        touch(folder, "a/1.mp4", "b/1.mp4", "a/shut/2.mp4", "shut/1.mp4")
        folder.chmod(0o755)
        for shut in ("a/shut", "shut"):
            (folder / shut).chmod(0)
        with as_another_user():
            found = videos_of(Recipe(), folder).left_out
        for shut in ("a/shut", "shut"):
            (folder / shut).chmod(0o755)
        assert [str(one) for one in found] == ["2 folders cannot be read: a/shut, shut"]
