"""Videos become shards that any reader reads; interruptions change no byte; a full disk leaves nothing half-made."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import soundfile
import webdataset

from avbench.dataset import Dataset, checksum
from avbench.errors import DatasetError, RecipeError, UsageError
from avbench.loading.presets import preset
from avbench.loading.stored_spectrogram import stored_spectrogram
from avbench.packing import making
from avbench.packing.pack import pack
from avbench.packing.recipes.reading import load_recipe
from avbench.packing.recipes.recipe import Recipe
from avbench.vocabulary import SPLITS
from tests.packing.make_video import click_track, make_labelled_folder, make_video, number_shown

LABELS = {f"v{number:02d}": "xy"[number % 2] for number in range(16)}
SMALL = Recipe(clips_per_shard=3, short_side=32)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return make_labelled_folder(tmp_path_factory.mktemp("media"), LABELS)


@pytest.fixture(scope="module")
def packed(media, tmp_path_factory):
    """Packed in one go: what every interrupted pack must end as."""
    out = tmp_path_factory.mktemp("packed") / "dataset"
    pack(SMALL, media, out=out, workers=1)
    return out


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def members(tar):
    with tarfile.open(tar) as reader:
        return [member.name for member in reader]


def test_what_goes_in_comes_out(tmp_path):
    sound = click_track(3.0, 48000, 1.5)
    make_video(tmp_path / "media" / "one.mp4", seconds=3.0, sound=sound, audio_codec="aac")
    make_video(tmp_path / "media" / "t.w o.mkv", seconds=3.0, sound=sound)
    make_video(tmp_path / "media" / "three.mp4", seconds=3.0, sound=sound)
    text = "key,label,split\none,x,train\nt.w o,y,test\nthree,x,test\n"
    (tmp_path / "media" / "labels.csv").write_text(text)
    dataset = pack(Recipe(), tmp_path / "media", out=tmp_path / "out", workers=1)
    assert dataset.classes == ("x", "y")
    assert [dataset.key(clip_id) for clip_id in dataset.clip_ids("train")] == ["one"]
    assert {dataset.key(clip_id) for clip_id in dataset.clip_ids("test")} == {"t%2Ew%20o", "three"}
    for clip_id in range(3):
        waveform, rate = soundfile.read(io.BytesIO(dataset.audio_bytes(clip_id).tobytes()), dtype="int16")
        assert rate == 48000 and waveform.ndim == 1 and len(waveform) == dataset.samples[clip_id]
        assert 144000 <= len(waveform) < 145024  # Matroska counts the padding of the last AAC frame
        assert np.argmax(np.abs(waveform.astype(int)) > 8000) / 48000 == pytest.approx(1.5, abs=0.004)
        assert dataset.frame_counts(np.array([clip_id]))[0] == 3
        images = [simplejpeg.decode_jpeg(dataset.frame_bytes(clip_id, frame).tobytes()) for frame in range(3)]
        assert [number_shown(image) for image in images] == [0, 25, 50]
        assert images[0].shape == (dataset.heights[clip_id], dataset.widths[clip_id], 3) == (64, 128, 3)
        assert checksum(dataset.audio_bytes(clip_id)) == dataset.audio_checksums[clip_id]
        assert checksum(dataset.frame_bytes(clip_id, 2)) == dataset.frame_checksum(clip_id, 2)


def test_shards_hold_one_split_each_and_members_in_the_documented_order(packed):
    dataset = Dataset(packed)
    shards = dataset.description["shards"]
    assert [shard["split"] for shard in shards] == sorted((s["split"] for s in shards), key=SPLITS.index)
    assert dataset.description["clips"] == {"train": 12, "val": 2, "test": 2}
    assert (np.diff(dataset.splits) >= 0).all() and (np.diff(dataset.shards) >= 0).all()
    key = dataset.key(0)
    assert members(packed / "shard-000000.tar")[:3] == [f"{key}.json", f"{key}.flac", f"{key}.000.jpg"]
    with tarfile.open(packed / "shard-000000.tar") as reader:
        told = json.load(reader.extractfile(f"{key}.json"))
    assert told == {
        "label": LABELS[key],
        "split": "train",
        "source": key,
        "start_seconds": 0.0,
        "duration_seconds": pytest.approx(1.2, abs=0.03),
        "frames": 1,
        "width": 32,
        "height": 32,
        "sample_rate_hz": 48000,
    }
    assert (packed / "rejects.jsonl").read_text() == ""
    assert not (packed / ".packing").exists()


def test_clips_are_in_random_order_that_the_seed_decides(media, tmp_path, packed):
    order = [Dataset(packed).key(clip_id) for clip_id in range(12)]
    assert order != sorted(order)
    other = pack(Recipe(clips_per_shard=3, short_side=32, seed=1), media, out=tmp_path / "out", workers=1)
    assert [other.key(clip_id) for clip_id in range(12)] != order


def test_any_number_of_workers_gives_the_same_bytes(media, tmp_path, packed):
    pack(SMALL, media, out=tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == contents(packed)


def test_dali_indexes_are_those_of_its_own_tool(tmp_path, packed):
    for tar in sorted(packed.glob("*.tar")):
        subprocess.run([sys.executable, "-m", "wds2idx", tar, tmp_path / "x.idx"], check=True, capture_output=True)
        assert tar.with_suffix(".idx").read_text() == (tmp_path / "x.idx").read_text()


@pytest.fixture(scope="module")
def real(real_clips, tmp_path_factory):
    recipe = load_recipe("folder", {"window_seconds": 2.0, "clips_per_shard": 10})
    return pack(recipe, real_clips, out=tmp_path_factory.mktemp("real") / "dataset", workers=2)


def test_real_clips_are_read_back_by_webdataset(real):
    urls = [str(real.path / shard["name"]) for shard in real.description["shards"]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == len(real) == 100
    for clip_id, sample in enumerate(samples):
        assert sample["__key__"] == real.key(clip_id)
        assert sample["flac"] == real.audio_bytes(clip_id).tobytes()
        assert sample["000.jpg"] == real.frame_bytes(clip_id, 0).tobytes()
        assert sample["001.jpg"] == real.frame_bytes(clip_id, 1).tobytes()
        told = json.loads(sample["json"])
        assert told["label"] == real.classes[real.labels[clip_id]]
        assert min(told["width"], told["height"]) == (144 if told["source"] == "1oR8FSr-eyw_000184_000194" else 256)
        info = soundfile.info(io.BytesIO(sample["flac"]))
        assert (info.format, info.subtype, info.channels, info.samplerate) == ("FLAC", "PCM_16", 1, 48000)
        assert 95000 <= info.frames <= 96000  # the last window of a clip may lack an AAC frame


def test_real_clips_are_read_back_by_dali_through_our_indexes(real):
    dali = pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, types

    paths = [str(real.path / shard["name"]) for shard in real.description["shards"]]
    indexes = [path.replace(".tar", ".idx") for path in paths]

    @dali.pipeline_def(batch_size=20, num_threads=1, device_id=None)
    def graph():
        audio, first, second = fn.readers.webdataset(
            paths=paths, index_paths=indexes, ext=["flac", "000.jpg", "001.jpg"], missing_component_behavior="error"
        )
        return fn.decoders.audio(audio, dtype=types.INT16)[0], first, fn.decoders.image(second)

    pipeline = graph()
    pipeline.build()
    for batch in range(5):
        sounds, pictures, images = pipeline.run()
        for row in range(20):
            clip_id = 20 * batch + row
            assert np.array(sounds[row]).shape == (real.samples[clip_id], 1)
            assert np.array(pictures[row]).tobytes() == real.frame_bytes(clip_id, 0).tobytes()
            assert np.array(images[row]).shape == (real.heights[clip_id], real.widths[clip_id], 3)


def test_windows_of_one_video_are_in_one_split(real):
    splits = {}
    sources = real.column("source", np.arange(len(real))).to_pylist()
    for source, split in zip(sources, real.splits.tolist(), strict=True):
        assert splits.setdefault(source, split) == split
    assert Counter(splits.values()) == {0: 14, 1: 3, 2: 3}  # 17 videos of small classes pooled, 3 of singing


def bad_media(folder):
    """Four good videos and one of each kind that cannot be packed."""
    make_labelled_folder(folder, {"a": "x", "b": "y", "c": "x", "d": "y"})
    make_video(folder / "mute.mp4", has_sound=False)
    make_video(folder / "blind.mp4", has_pictures=False)
    make_video(folder / "short.mp4", seconds=0.5)
    make_video(folder / "cut.mp4", seconds=4.0)
    data = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    (folder / "text.mp4").write_text("not a video")
    shutil.copy(folder / "a.mp4", folder / "odd.mp4")
    bad = ["mute", "blind", "short", "cut", "text", "missing"]
    rows = ["a,x,train", "b,y,train", "c,x,test", "d,y,test", *(f"{key},x,train" for key in bad), "odd,z,train"]
    (folder / "labels.csv").write_text("key,label,split\n" + "\n".join(rows) + "\n")
    return folder


def test_every_clip_that_cannot_be_packed_is_listed_with_its_reason(tmp_path):
    media = bad_media(tmp_path / "media")
    dataset = pack(Recipe(classes=("x", "y")), media, out=tmp_path / "out", workers=1)
    assert len(dataset) == 4
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert {reject["key"]: reject["reason"] for reject in rejects} == {
        "mute": "no audio stream",
        "blind": "no video stream",
        "short": "shorter than a second",
        "cut": "truncated",
        "text": "not a video",
        "missing": "missing file",
        "odd": "unknown label",
    }
    assert dataset.description["rejects"] == dict(sorted(Counter(reject["reason"] for reject in rejects).items()))
    assert str(tmp_path) not in (tmp_path / "out" / "rejects.jsonl").read_text()


def test_shards_whose_clips_are_all_rejected_leave_no_gap(tmp_path):
    media = bad_media(tmp_path / "media")
    dataset = pack(Recipe(classes=("x", "y"), clips_per_shard=1), media, out=tmp_path / "out", workers=1)
    assert [shard["name"] for shard in dataset.description["shards"]] == [f"shard-{n:06d}.tar" for n in range(4)]
    assert sorted(path.name for path in dataset.path.glob("shard-*.tar")) == [f"shard-{n:06d}.tar" for n in range(4)]
    assert dataset.shards.tolist() == [0, 1, 2, 3]
    for clip_id in range(4):
        assert members(dataset.path / f"shard-{clip_id:06d}.tar")[0] == f"{dataset.key(clip_id)}.json"


def test_no_clips_left_and_a_test_split_of_one_class_end_in_one_line(tmp_path):
    media = make_labelled_folder(tmp_path / "media", {"a": "x", "b": "y", "c": "x"})
    (media / "labels.csv").write_text("key,label,split\na,x,train\nb,y,train\nc,x,test\n")
    with pytest.raises(RecipeError, match="test split has clips of one class only, 'x'"):
        pack(SMALL, media, out=tmp_path / "one", workers=1)
    assert not list((tmp_path / "one").glob("shard-*"))  # it is said before anything is decoded
    for video in media.glob("*.mp4"):
        video.write_text("not a video")
    (media / "labels.csv").write_text("key,label,split\na,x,train\nb,y,test\nc,x,test\n")
    with pytest.raises(RecipeError, match="no clips are left"):
        pack(SMALL, media, out=tmp_path / "none", workers=1)
    with pytest.raises(DatasetError):
        Dataset(tmp_path / "none")
    assert (tmp_path / "none" / "rejects.jsonl").read_text().count("not a video") == 3


PACK = """
import sys
from pathlib import Path
from avbench.packing.pack import pack
from avbench.packing.recipes.recipe import Recipe
if __name__ == "__main__":
    pack(Recipe(clips_per_shard=3, short_side=32), Path(sys.argv[1]), out=Path(sys.argv[2]), workers=int(sys.argv[3]))
"""


def started(media, out, workers, folder):
    script = folder / "pack_it.py"
    script.write_text(PACK)
    command = [sys.executable, str(script), str(media), str(out), str(workers)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def descendants(pid):
    """Processes that a process has started, and those that they have: a server of workers, and its workers."""
    try:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return found + [one for child in found for one in descendants(child)]


def workers_of(pid):
    """The workers of a pack: children of a child."""
    return [one for one in descendants(pid) if Path(f"/proc/{one}/stat").read_text().split()[3] != str(pid)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_pack_that_was_killed_and_continued_equals_one_that_never_was(media, tmp_path, packed, workers):
    out = tmp_path / "out"
    process = started(media, out, workers, tmp_path)
    wait_for(lambda: len(list(out.glob("shard-*.tar"))) >= 2)
    others = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(DatasetError):
        Dataset(out)
    for tar in out.glob("shard-*.tar"):  # whatever is there under its name is whole
        assert tar.read_bytes() == (packed / tar.name).read_bytes()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others))  # no worker outlives its parent
    made = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")}
    pack(SMALL, media, out=out, workers=3 - workers)
    assert contents(out) == contents(packed)
    kept = [path for path, when in made.items() if path.stat().st_mtime_ns == when]
    assert len(kept) >= 1  # what was done is not done again


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_are_killed_cost_their_shards_time_only(media, tmp_path, packed, workers):
    out = tmp_path / "out"
    process = started(media, out, workers, tmp_path)
    for made in (1, 3):
        wait_for(lambda made=made: len(list(out.glob("shard-*.tar"))) >= made)
        for victim in workers_of(process.pid):
            os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "was killed or crashed (out of memory?) at" in errors and "SIGKILL; its shard is made again" in errors
    assert contents(out) == contents(packed)


def test_a_finished_dataset_is_only_replaced_when_asked(media, tmp_path, packed):
    out = tmp_path / "out"
    shutil.copytree(packed, out)
    with pytest.raises(DatasetError, match=r"already holds a packed dataset.*--overwrite"):
        pack(SMALL, media, out=out, workers=1)
    assert contents(out) == contents(packed)
    mapped = Dataset(out)
    before = mapped.audio_bytes(0).copy()
    pack(Recipe(clips_per_shard=16, short_side=16), media, out=out, workers=1, overwrite=True)
    assert Dataset(out).widths.tolist() == [16] * 16
    assert sorted(path.name for path in out.glob("*.tar")) == [f"shard-{number:06d}.tar" for number in range(3)]
    assert (mapped.audio_bytes(0) == before).all()  # a reader of the old dataset keeps what it has mapped


def test_a_folder_with_other_files_is_never_touched(media, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(DatasetError, match="holds other files"):
            pack(SMALL, media, out=tmp_path, workers=1, overwrite=overwrite)
    with pytest.raises(DatasetError, match="is a file"):
        pack(SMALL, media, out=tmp_path / "mine.txt", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(UsageError, match="workers is 0"):
        pack(SMALL, media, out=tmp_path / "x", workers=0)


def test_an_unfinished_pack_is_not_continued_with_another_recipe_or_list(tmp_path):
    media = make_labelled_folder(tmp_path / "media", {"a": "x", "b": "y", "c": "x"})
    (media / "labels.csv").write_text("key,label,split\na,x,train\nb,y,test\nc,x,test\n")
    for video in media.glob("*.mp4"):
        video.rename(video.with_suffix(".gone"))
    out = tmp_path / "out"
    with pytest.raises(RecipeError, match="no clips are left"):
        pack(SMALL, media, out=out, workers=1)
    with pytest.raises(DatasetError, match="begun with short_side 32, not 64"):
        pack(Recipe(clips_per_shard=3, short_side=64), media, out=out, workers=1)
    (media / "labels.csv").write_text("key,label,split\na,x,train\nb,y,train\n")
    with pytest.raises(DatasetError, match="begun with other videos or labels"):
        pack(SMALL, media, out=out, workers=1)
    for video in media.glob("*.gone"):
        video.rename(video.with_suffix(".mp4"))
    assert len(pack(Recipe(short_side=64), media, out=out, workers=1, overwrite=True)) == 2


@pytest.mark.slow
def test_a_second_pack_of_a_folder_shares_its_shards_and_may_not_overwrite_it(media, tmp_path, packed):
    out = tmp_path / "out"
    process = started(media, out, 1, tmp_path)
    wait_for(lambda: list(out.glob("shard-*.tar")))
    stopped = [process.pid, *workers_of(process.pid)]
    for one in stopped:
        os.kill(one, signal.SIGSTOP)
    half_written = set(out.glob(".shard-*.partial"))
    try:
        with pytest.raises(DatasetError, match=r"another `avbench pack` is writing it .*so it is not overwritten"):
            pack(SMALL, media, out=out, workers=1, overwrite=True)
        second = started(media, out, 2, tmp_path)
        wait_for(lambda: len(list(out.glob(".packing/*.arrow"))) >= 6 - len(list(out.glob(".packing/shard-*.lock"))))
        assert half_written <= set(out.glob(".shard-*.partial"))
    finally:
        for one in stopped:
            os.kill(one, signal.SIGCONT)
    for one in (process, second):
        _, errors = one.communicate(timeout=120)
        assert one.returncode == 0, errors
    assert contents(out) == contents(packed)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_ends_in_one_line_and_a_rerun_with_room_completes(media, small_disk, packed, workers):
    out = small_disk / "out"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(150_000))
    with pytest.raises(DatasetError) as caught:
        pack(SMALL, media, out=out, workers=workers)
    message = str(caught.value)
    assert str(out) in message and "the disk is full" in message and "MB free" in message and "\n" not in message
    with pytest.raises(DatasetError):
        Dataset(out)
    for tar in out.glob("shard-*.tar"):
        assert tar.read_bytes() == (packed / tar.name).read_bytes()
    assert not list(out.glob(".*.partial"))
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    pack(SMALL, media, out=out, workers=workers)
    assert contents(out) == contents(packed)


def test_planted_clips_are_rendered_packed_and_keep_their_qualities(tmp_path):
    numbers = {"train": 4, "val": 2, "test": 4, "classes": 2, "size": 32, "seconds": 1.0}
    recipe = load_recipe("planted", {f"planted.{name}": value for name, value in numbers.items()})
    dataset = pack(recipe, tmp_path / "media", out=tmp_path / "out", workers=1)
    assert dataset.description["clips"] == {"train": 4, "val": 2, "test": 4}
    assert dataset.classes == recipe.classes
    rows = [line.split(",") for line in (tmp_path / "media" / "labels.csv").read_text().splitlines()[1:]]
    planted = dataset.column("planted_audio", np.arange(10)).to_pylist()
    keys = dataset.column("key", np.arange(10)).to_pylist()
    assert dict(zip(keys, planted, strict=True)) == {row[0]: float(row[3]) for row in rows}


@pytest.mark.parametrize("suffix", ["wav", "ogg"])
def test_the_recipe_chooses_the_codec(media, tmp_path, suffix):
    dataset = pack(Recipe(audio_suffix=suffix, short_side=32), media, out=tmp_path / "out", workers=1)
    waveform, rate = soundfile.read(io.BytesIO(dataset.audio_bytes(3).tobytes()))
    assert (len(waveform), rate) == (dataset.samples[3], 48000)
    assert members(dataset.path / "shard-000000.tar")[1].endswith(f".{suffix}")


STFT = replace(SMALL, audio_suffix="stft", stft_preset="paper")


def test_sound_may_be_kept_as_a_presets_spectrogram_that_webdataset_reads(media, tmp_path, packed):
    dataset = pack(STFT, media, out=tmp_path / "out", workers=2)
    flac = Dataset(packed)
    kept = stored_spectrogram(preset("paper"))
    assert dataset.description["spectrogram"] == json.loads(json.dumps(asdict(kept)))
    key = dataset.key(0)
    assert members(dataset.path / "shard-000000.tar")[:3] == [f"{key}.json", f"{key}.stft", f"{key}.000.jpg"]
    urls = [str(dataset.path / shard["name"]) for shard in dataset.description["shards"]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == len(dataset) == 16
    for clip_id, sample in enumerate(samples):
        assert sample["__key__"] == dataset.key(clip_id) == flac.key(clip_id)
        waveform, _ = soundfile.read(io.BytesIO(flac.audio_bytes(clip_id).tobytes()), dtype="int16")
        assert sample["stft"] == dataset.audio_bytes(clip_id).tobytes() == kept.encode(waveform)
        assert dataset.samples[clip_id] == flac.samples[clip_id]
        assert sample["000.jpg"] == flac.frame_bytes(clip_id, 0).tobytes()


def test_a_pack_of_spectrograms_that_stopped_and_went_on_equals_one_that_never_did(media, tmp_path, monkeypatch):
    pack(STFT, media, out=tmp_path / "whole", workers=1)
    going_on = making._Making.go_on

    def stopped(self):
        if list((tmp_path / "out").glob("shard-*.tar")):
            raise KeyboardInterrupt
        going_on(self)

    monkeypatch.setattr("avbench.packing.making._Making.go_on", stopped)
    with pytest.raises(KeyboardInterrupt):
        pack(STFT, media, out=tmp_path / "out", workers=1)
    monkeypatch.undo()
    assert 1 <= len(list((tmp_path / "out").glob("shard-*.tar"))) < 8
    with pytest.raises(DatasetError, match="begun with audio_suffix 'stft', not 'flac'"):
        pack(SMALL, media, out=tmp_path / "out", workers=1)
    pack(STFT, media, out=tmp_path / "out", workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
