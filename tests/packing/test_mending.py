"""What is damaged for real is named, and mended to the bytes that were packed; what cannot be is refused and stays."""

import json
import mmap
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.errors import DatasetError, UsageError
from avbench.packing.pack import pack
from avbench.packing.recipes.recipe import Recipe
from avbench.packing.reindex import reindex
from avbench.packing.repair import repair
from avbench.packing.verify import NOT_CHECKED_QUICKLY, verify
from tests.packing.make_video import make_labelled_folder, make_video
from tests.synthetic import make_dataset

RECIPE = Recipe(clips_per_shard=3, short_side=32)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of two classes, one more that is none, and two that are alike but for their names."""
    folder = tmp_path_factory.mktemp("mending") / "media"
    make_labelled_folder(folder, {f"v{number:02d}": "xy"[number % 2] for number in range(9)})
    (folder / "v05.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def packed(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "dataset"
    return pack(RECIPE, media, out=out, workers=1).path


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(packed, tmp_path / "dataset")


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def flip_sound(path: Path) -> None:
    flip(path / "shard-000000.tar", int(Dataset(path).audio_offsets[1]) + 500)


def flip_picture(path: Path) -> None:
    dataset = Dataset(path)
    flip(path / "shard-000000.tar", int(dataset.frames.offset[int(dataset.frames.first[1])]) + 100)


def flip_header(path: Path) -> None:
    flip(path / "shard-000000.tar", int(Dataset(path).audio_offsets[1]) - 512 + 3)


def remove_a_shard(path: Path) -> None:
    (path / "shard-000000.tar").unlink()


def cut_a_shard(path: Path) -> None:
    with (path / "shard-000000.tar").open("r+b") as file:
        file.truncate(int(Dataset(path).audio_offsets[1]) + 100)


def swap_two_shards(path: Path) -> None:
    for suffix in ("tar", "idx"):
        (path / f"shard-000000.{suffix}").rename(path / "kept")
        (path / f"shard-000001.{suffix}").rename(path / f"shard-000000.{suffix}")
        (path / "kept").rename(path / f"shard-000001.{suffix}")


def take_a_shard_of_another_pack(path: Path) -> None:
    other = make_dataset(path.with_name("other"), clips={"train": 3}, seconds=1.0, size=(16, 16), clips_per_shard=3)
    for suffix in ("tar", "idx"):
        shutil.copy(other / f"shard-000000.{suffix}", path / f"shard-000000.{suffix}")


def flip_index(path: Path) -> None:
    file = path / "index.arrow"
    flip(file, file.read_bytes().index(Dataset(path).labels.tobytes()))


def cut_index(path: Path) -> None:
    file = path / "index.arrow"
    file.write_bytes(file.read_bytes()[:-100])


def damage_dali_indexes(path: Path) -> None:
    (path / "shard-000000.idx").write_text("v1.2 0\n")
    (path / "shard-000001.idx").unlink()


def sound_and_index(path: Path) -> None:
    flip_sound(path)
    flip_index(path)


# Each damage, what verify names of it, and whether a quick look sees it.
DAMAGE: list[tuple[Callable[[Path], None], list[str], bool]] = [
    (flip_sound, ["shard-000000.tar", "KEY: the checksum of its flac"], False),
    (flip_picture, ["shard-000000.tar", "KEY: the checksum of its 000.jpg"], False),
    (flip_header, ["shard-000000.tar: is no whole tar file", "KEY: the shard holds no KEY.flac"], True),
    (remove_a_shard, ["shard-000000.tar: is missing"], True),
    (cut_a_shard, ["shard-000000.tar: has ", "KEY: reaches beyond"], True),
    (swap_two_shards, ["shard-000000.tar", "shard-000001.tar", "KEY: the shard holds no KEY.json"], True),
    (take_a_shard_of_another_pack, ["shard-000000.tar", "KEY: the shard holds no KEY.json"], True),
    (flip_index, ["SHA-256 of index.arrow"], True),
    (cut_index, ["index.arrow: not a readable index"], True),
    (damage_dali_indexes, ["shard-000000.idx does not list", "shard-000001.idx is missing"], True),
    (sound_and_index, ["SHA-256 of index.arrow", "KEY: the checksum of its flac"], True),
]


@pytest.mark.parametrize(("damage", "named", "is_seen_quickly"), DAMAGE, ids=lambda one: getattr(one, "__name__", ""))
def test_damage_is_named_and_mended_to_the_packed_bytes(
    copy: Path, packed: Path, media: Path, damage: Callable[[Path], None], named: list[str], is_seen_quickly: bool
) -> None:
    key = Dataset(copy).key(1)
    damage(copy)
    texts = "\n".join(map(str, verify(copy, workers=1)))
    for part in named:
        assert part.replace("KEY", key) in texts, texts
    quick = verify(copy, workers=1, is_quick=True)
    assert bool(quick) == is_seen_quickly
    repair(copy, media, workers=1)
    assert files_of(copy) == files_of(packed)
    assert verify(copy, workers=1) == []


def test_a_quick_look_says_what_it_has_not_looked_at(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip_sound(copy)
    main(["verify", str(copy), "--quick", "--workers", "1"])
    said = capsys.readouterr().out
    assert "nothing is wrong; not checked: SHA-256 of the shards, checksums of sound and pictures" in said
    main(["verify", str(copy), "--quick", "--json", "--workers", "1"])
    found = json.loads(capsys.readouterr().out)
    assert found["whole"] and found["not_checked"] == list(NOT_CHECKED_QUICKLY)
    with pytest.raises(UsageError, match="--quick does not look at"):
        verify(copy, workers=1, is_quick=True, quarantine=True)


def test_two_shards_are_mended_by_two_workers_and_a_reader_keeps_the_old_file(
    copy: Path, packed: Path, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_sound(copy)
    (copy / "shard-000002.tar").unlink()
    damaged = (copy / "shard-000000.tar").read_bytes()
    with (copy / "shard-000000.tar").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        main(["verify", str(copy), "--repair", "--media", str(media), "--workers", "2"])
        assert mapped[:] == damaged
    assert files_of(copy) == files_of(packed)
    assert "whole; packed anew: shard-000000.tar, shard-000002.tar; made again: no index" in capsys.readouterr().out


def test_videos_that_came_later_change_nothing(copy: Path, packed: Path, media: Path, tmp_path: Path) -> None:
    more = shutil.copytree(media, tmp_path / "more")
    for number in range(20, 30):
        shutil.copy(media / "v00.mp4", more / f"v{number}.mp4")
    with (more / "labels.csv").open("a") as file:
        file.writelines(f"v{number},{'xy'[number % 2]}\n" for number in range(20, 30))
    for number in range(3):
        (copy / f"shard-{number:06d}.tar").unlink()
    repair(copy, more, workers=1)
    assert files_of(copy) == files_of(packed)


def test_a_shard_that_comes_out_otherwise_is_refused_by_the_clips_name_and_stays(
    copy: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset(copy)
    first, second = dataset.key(0), dataset.key(1)
    other = shutil.copytree(media, tmp_path / "other")
    shutil.copy(other / f"{first}.mp4", tmp_path / "kept.mp4")
    make_video(other / f"{second}.mp4", seconds=2.0, picture=lambda _: np.full((64, 128, 3), 90, np.uint8))
    flip_sound(copy)
    damaged = files_of(copy)
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(copy), "--repair", "--media", str(other), "--workers", "1"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert f"shard-000000.tar ({second}: other " in error and "other pictures) is not as it was packed" in error
    assert "packed with avbench " in error and "libavcodec" in error
    assert first not in error
    assert files_of(copy) == damaged
    (other / f"{second}.mp4").write_text("no video any more")
    with pytest.raises(DatasetError, match=rf"shard-000000.tar \({second}: .*not a video|unreadable"):
        repair(copy, other, workers=1)
    (other / f"{second}.mp4").unlink()
    with pytest.raises(DatasetError, match=second):
        repair(copy, other, workers=1)
    assert files_of(copy) == damaged


def test_what_repair_cannot_do_is_one_clear_line(
    copy: Path, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DatasetError, match="no such dataset folder"):
        repair(tmp_path / "none", media, workers=1)
    assert repair(copy, None, workers=1).shards == ()  # nothing is damaged, so no video is wanted
    flip_sound(copy)
    with pytest.raises(UsageError, match=r"damaged: shard-000000.tar; name the folder"):
        repair(copy, None, workers=1)
    (copy / "quality.parquet").unlink()
    with pytest.raises(SystemExit):
        main(["verify", str(copy), "--repair", "--media", str(media), "--workers", "1"])
    output = capsys.readouterr()
    assert "quality.parquet is missing" in output.out and "mended 1 file; 1 problem left" in output.err
    described = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps({**described, "name": "other"}))
    with pytest.raises(DatasetError, match=r"dataset.json: missing or damaged.*--reindex"):
        repair(copy, media, workers=1)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--quick", "--repair"], "--quick and --repair exclude each other"),
        (["--reindex", "--quarantine"], "--quarantine and --reindex exclude each other"),
        (["--add", "list.jsonl"], "goes with --quarantine"),
        (["--media", "videos"], "for --repair"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    packed: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(packed), *words])
    assert stop.value.code == 2 and text in capsys.readouterr().err


# --reindex


def test_of_an_intact_dataset_nothing_changes(copy: Path, packed: Path, tmp_path: Path) -> None:
    done = reindex(copy, workers=2)
    assert done.written == () and done.not_told == () and done.clips == len(Dataset(packed))
    assert files_of(copy) == files_of(packed)
    for suffix in ("flac", "wav", "ogg", "stft"):  # written by other software, as older packs were
        other = make_dataset(
            tmp_path / suffix, clips={"train": 5, "val": 2, "test": 2}, seconds=1.2, size=(16, 16), audio_suffix=suffix,
            clips_per_shard=3,
        )  # fmt: skip
        before = files_of(other)
        assert reindex(other, workers=1).written == ()
        assert files_of(other) == before


def test_lost_indexes_come_back_from_the_shards(copy: Path, packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "index.arrow").unlink()
    (copy / "shard-000000.idx").unlink()
    main(["verify", str(copy), "--reindex", "--workers", "1"])
    assert "written: index.arrow, shard-000000.idx" in capsys.readouterr().out
    assert files_of(copy) == files_of(packed)


def test_without_its_description_a_dataset_comes_back_but_for_what_no_shard_says(
    copy: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "dataset.json").unlink()
    (copy / "index.arrow").write_bytes(b"nothing")
    main(["verify", str(copy), "--reindex", "--workers", "1"])
    said = capsys.readouterr().out
    for text in ("the name", "the recipe", "an order of the classes", "whether the shards are as they were packed"):
        assert f"the shards do not say {text}" in said or text in said
    assert (copy / "index.arrow").read_bytes() == (packed / "index.arrow").read_bytes()
    assert (copy / "index.arrow.before").read_bytes() == b"nothing"
    found, before = (json.loads((path / "dataset.json").read_text()) for path in (copy, packed))
    same = ("classes", "clips", "clips_per_class", "shards", "rejects", "quality", "index_sha256", "audio_suffix")
    assert {name: found[name] for name in same} == {name: before[name] for name in same}
    assert "recipe" not in found and found["name"] == "dataset" and len(found["reindexed"]["not_told"]) == 6
    assert verify(copy, workers=1) == []
    flip_sound(copy)
    with pytest.raises(DatasetError, match="no recipe"):
        repair(copy, None, workers=1)


def test_damage_is_not_taken_for_what_is_expected(copy: Path, packed: Path) -> None:
    flip_sound(copy)
    before = files_of(copy)
    with pytest.raises(DatasetError, match=r"shard-000000.tar: is not as it was packed.*--repair"):
        reindex(copy, workers=1)
    (copy / "shard-000000.tar").unlink()
    with pytest.raises(DatasetError, match=r"shard-000000.tar: missing"):
        reindex(copy, workers=1)
    shutil.copy(packed / "shard-000000.tar", copy / "shard-000000.tar")
    shutil.copy(packed / "shard-000000.tar", copy / "shard-000008.tar")
    with pytest.raises(DatasetError, match=r"shard-000008.tar: is no shard of this dataset"):
        reindex(copy, workers=1)
    (copy / "shard-000008.tar").unlink()
    assert {name: data for name, data in files_of(copy).items() if name != "shard-000000.tar"} == {
        name: data for name, data in before.items() if name != "shard-000000.tar"
    }


def test_kept_spectrograms_without_their_description_are_refused(tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "stft", clips={"train": 3}, seconds=1.2, size=(16, 16), audio_suffix="stft")
    (path / "index.arrow").unlink()
    with pytest.raises(DatasetError, match="how long the sound of train-0000 was"):
        reindex(path, workers=1)
    (path / "dataset.json").unlink()
    with pytest.raises(DatasetError, match=r"whose scale dataset.json alone says"):
        reindex(path, workers=1)


# --quarantine --add


def test_a_list_of_clips_is_set_aside_beside_what_is(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset(copy)
    flip_sound(copy)
    main(["verify", str(copy), "--quarantine", "--workers", "1"])
    listed = [{"clip_id": clip, "key": dataset.key(clip), "reason": "found"} for clip in (0, 1)]
    file = copy.parent / "list.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in listed))
    capsys.readouterr()
    main(["verify", str(copy), "--quarantine", "--add", str(file)])
    assert f"1 more set aside from {file}, 2 in all" in capsys.readouterr().out
    lines = [json.loads(line) for line in (copy / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["clip_id"], line["reason"]) for line in lines] == [
        (0, "found"),
        (1, "the checksum of its flac is not the packed one"),
    ]
    assert Dataset(copy).quarantined.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"clip_id": 0, "key": "other", "reason": "x"}\n', "clip 0 is other there, and v"),
        ('{"clip_id": 99, "key": "a", "reason": "x"}\n', "clip 99 is a there, and none in"),
        ("{}\n", "is no list of clips"),
        (None, "cannot be read"),
    ],
)
def test_a_list_of_another_dataset_or_form_is_refused(
    copy: Path, content: str | None, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = copy.parent / "list.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(copy), "--quarantine", "--add", str(file)])
    assert stop.value.code == 2 and text in capsys.readouterr().err
    assert not (copy / "quarantine.jsonl").exists()
