"""Videos in tar and zip files are packed as if the files had been unpacked; what cannot be read in place is named."""

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from avbench.cli import main
from avbench.packing.archives import archive_of, opened_bytes, size_and_time, url_of
from avbench.packing.media import Reason, Reject, seconds_of
from tests.packing.make_video import make_video

NONE = ("--val-fraction", "0", "--test-fraction", "0", "--workers", "1")


def tar_of(archive: Path, folder: Path, names=None) -> Path:
    """A tar file of what lies below a folder (or of these names)."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        for name in names or sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")):
            tar.add(folder / name, name)
    return archive


def zip_of(archive: Path, folder: Path, *, compression=zipfile.ZIP_STORED, names=None) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", compression) as made:
        for name in names or sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")):
            made.write(folder / name, name)
    return archive


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def packed(media: Path, out: Path, *words: str) -> dict[str, bytes]:
    main(["pack", "folder", "--media", str(media), "--out", str(out), *NONE, *words])
    return contents(out)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """Class folders with videos of many containers, one of them cut off and one no video."""
    folder = tmp_path_factory.mktemp("archives") / "unpacked"
    small = {"seconds": 1.5, "fps": 10, "width": 32, "height": 32}
    containers = ("a.mp4", "b.mkv", "c.ts", "d.mov", "e.flv")
    for name in containers:
        make_video(folder / "one" / name, **small)
    make_video(folder / "two" / "f.avi", video_codec="mpeg4", audio_codec="pcm_s16le", **small)
    make_video(folder / "two" / "g.webm", video_codec="libvpx", audio_codec="libopus", **small)
    make_video(folder / "two" / "h.wmv", video_codec="wmv2", audio_codec="libmp3lame", **small)
    for cut, name in (("one/a.mp4", "i.mp4"), ("one/b.mkv", "j.mkv"), ("two/f.avi", "k.avi"), ("two/h.wmv", "l.wmv")):
        data = (folder / cut).read_bytes()
        (folder / "two" / name).write_bytes(data[: len(data) * 2 // 3])
    (folder / "two" / "m.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def expected(unpacked) -> dict[str, bytes]:
    return packed(unpacked, unpacked.parent / "expected")


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_an_archive_of_class_folders_gives_the_bytes_of_the_unpacked_files(unpacked, expected, tmp_path, make):
    make(tmp_path / "media" / f"all.{make.__name__[:3]}", unpacked)
    found = packed(tmp_path / "media", tmp_path / "out")
    assert found == expected
    rejects = [json.loads(line)["key"] for line in found["rejects.jsonl"].splitlines()]
    assert {"two%2Fi", "two%2Fm"} <= set(rejects)  # with the reasons of the files themselves, as all bytes are equal


def test_an_archive_in_a_class_folder_and_windows_of_its_videos_are_as_unpacked(unpacked, tmp_path):
    options = ("--window-seconds", "1")
    expected = packed(unpacked, tmp_path / "expected", *options)
    media = tmp_path / "media"
    shutil.copytree(unpacked / "two", media / "two")
    tar_of(media / "one" / "first.tar", unpacked / "one", ["a.mp4", "b.mkv"])
    zip_of(media / "one" / "rest.ZIP", unpacked / "one", names=["c.ts", "d.mov", "e.flv"])
    assert packed(media, tmp_path / "out", *options) == expected


def test_a_pack_that_was_begun_from_files_goes_on_from_an_archive(unpacked, expected, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as broken:
        broken.setattr("avbench.packing.pack._finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            packed(unpacked, out, "--clips-per-shard", "3")
    notes = sorted((out / ".packing").glob("*.arrow"))
    notes[1].unlink()
    tar_of(tmp_path / "media" / "all.tar", unpacked)
    found = packed(tmp_path / "media", out, "--clips-per-shard", "3")
    assert found == packed(unpacked, tmp_path / "quiet", "--clips-per-shard", "3")


def test_a_published_list_finds_its_videos_in_archives(unpacked, tmp_path):
    media, names = tmp_path / "media", ("---g-f_I2yQ_000001", "0123456789a_000030")
    for name in names:
        (media / "loose").mkdir(parents=True, exist_ok=True)
        shutil.copy(unpacked / "one" / "a.mp4", media / "loose" / f"{name}.mp4")
    rows = ['---g-f_I2yQ,1,people marching,train\n0123456789a,30,"waterfall, burbling",train\n']
    (tmp_path / "vggsound.csv").write_text("".join(rows))
    words = ["pack", "vggsound", "--list", str(tmp_path / "vggsound.csv"), "--media", str(media), *NONE, "--out"]
    main([*words, str(tmp_path / "expected")])
    tar_of(media / "videos.tar", media / "loose")
    shutil.rmtree(media / "loose")
    main([*words, str(tmp_path / "out")])
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_a_compressed_tar_is_refused_where_listed_videos_are_missing(unpacked, tmp_path, capsys):
    media = tmp_path / "media"
    media.mkdir()
    shutil.copy(unpacked / "one" / "a.mp4", media)
    (media / "labels.csv").write_text("key,label\na,x\nb,y\n")
    with tarfile.open(media / "more videos.tar.gz", "w:gz") as tar:
        tar.add(unpacked / "one" / "b.mkv", "b.mkv")
    words = ["pack", "folder", "--media", str(media), "--out", str(tmp_path / "out"), *NONE]
    with pytest.raises(SystemExit) as ended:
        main(words)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "1 of 2 listed videos" in error and "`tar -xf 'more videos.tar.gz'`" in error
    (media / "labels.csv").write_text("key,label\na,x\n")  # nothing is missing: it is only named
    main(words)
    assert "1 archive is compressed and is not read; `tar -xf NAME` unpacks it: more videos.tar.gz" in (
        capsys.readouterr().out
    )


def test_only_compressed_archives_are_an_error_that_says_how_to_unpack_them(unpacked, tmp_path, capsys):
    media = tmp_path / "media"
    zip_of(media / "deflated.zip", unpacked, compression=zipfile.ZIP_DEFLATED, names=["one/a.mp4", "two/f.avi"])
    (media / "b.tgz").write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        main(["pack", "folder", "--media", str(media), "--out", str(tmp_path / "out"), *NONE])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    assert "2 videos are compressed in their zip files" in error and "`unzip NAME`" in error
    assert "1 archive is compressed and is not read; `tar -xf NAME` unpacks it: b.tgz" in error


def test_what_else_is_in_archives_is_counted_and_named(unpacked, tmp_path, capsys):
    media, loose = tmp_path / "media", tmp_path / "loose"
    shutil.copytree(unpacked / "one", media / "one")
    loose.mkdir()
    (loose / "link.mp4").symlink_to("elsewhere.mp4")
    for name in ("notes.txt", ".hidden.mp4", "._a.mp4"):
        (loose / name).write_text("text")
    with tarfile.open(media / "one" / "more.tar", "w") as tar:
        for name in ("link.mp4", "notes.txt", ".hidden.mp4", "._a.mp4"):
            tar.add(loose / name, name)
        tar.add(unpacked / "one" / "a.mp4", "a.mp4")  # lies in the folder, too
        tar.add(unpacked / "one" / "b.mkv", "../outside.mkv")
        tar.add(unpacked / "one" / "b.mkv", "./new.mkv")
    (media / "one" / "cut.tar").write_bytes((media / "one" / "more.tar").read_bytes()[:700])
    (media / "one" / "empty.tar").write_bytes(bytes(10240))
    main(["pack", "folder", "--media", str(media), "--out", str(tmp_path / "out"), *NONE])
    out = capsys.readouterr().out
    assert "6 clips (6 train" in out
    for text in (
        "2 members of archives are no regular files, or lie outside of them: one/more.tar/link.mp4, "
        "one/more.tar/../outside.mkv",
        "1 archive is damaged or cut off: one/cut.tar",
        "1 video in an archive lies in the folder, too, and is taken from there: one/more.tar/a.mp4",
        "2 files have not the suffix of a video (.tar 1, .txt 1): one/empty.tar, one/notes.txt",
        "2 videos are hidden",
    ):
        assert text in out, text


def test_two_archives_with_one_video_are_refused_by_name(unpacked, tmp_path, capsys):
    for name in ("one.tar", "two.tar"):
        tar_of(tmp_path / "media" / "class" / name, unpacked / "one", ["a.mp4"])
    with pytest.raises(SystemExit) as ended:
        main(["pack", "folder", "--media", str(tmp_path / "media"), "--out", str(tmp_path / "out"), *NONE])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "two.tar: holds a.mp4, as does" in error and "one.tar" in error


def test_the_last_of_two_members_of_one_name_counts_as_when_unpacking(unpacked, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for data in (b"older", b"newer!"):
            member = tarfile.TarInfo("x.mp4")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    path = tmp_path / "a.tar" / "x.mp4"
    with opened_bytes(path) as file:
        assert file.read() == b"newer!" and file.seek(-2, 2) == 4 and file.read(9) == b"r!"
    assert size_and_time(path)[0] == 6 and url_of(path).startswith("subfile,")


def test_a_member_that_has_gone_is_a_missing_file(unpacked, tmp_path):
    archive = tar_of(tmp_path / "a.tar", unpacked / "one", ["a.mp4"])
    assert seconds_of(archive / "a.mp4") == seconds_of(unpacked / "one" / "a.mp4")
    with pytest.raises(Reject) as caught:
        seconds_of(archive / "b.mp4")
    assert caught.value.reason == Reason.MISSING
    assert list(archive_of(archive).members) == ["a.mp4"]


def test_a_folder_that_is_called_like_an_archive_is_a_folder(unpacked, tmp_path, expected):
    shutil.copytree(unpacked, tmp_path / "media.tar")
    assert packed(tmp_path / "media.tar", tmp_path / "out") == expected


def test_odd_videos_are_read_from_an_archive_as_they_are_from_files(cases, tmp_path):
    files = sorted(path.name for path in cases.iterdir() if path.suffix != ".md")
    for name in files:
        (tmp_path / "files" / "class").mkdir(parents=True, exist_ok=True)
        shutil.copy(cases / name, tmp_path / "files" / "class")
    expected = packed(tmp_path / "files", tmp_path / "expected")
    tar_of(tmp_path / "media" / "cases.tar", tmp_path / "files", [f"class/{name}" for name in files])
    assert packed(tmp_path / "media", tmp_path / "out") == expected
