"""Planted clips: no evidence at quality 0, plenty at 1; the same files every time; qualities as asked for."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, kstest, spearmanr

from avbench.errors import AvbenchError, RecipeError, UsageError
from avbench.packing.recipes.rendering import (
    CLASSES,
    COLUMNS,
    SAMPLE_RATE_HZ,
    PlantedClip,
    PlantedConfig,
    encode,
    pictures,
    plan,
    render,
    waveform,
)
from avbench.vocabulary import MODALITIES, SPLITS

SMALL = PlantedConfig(classes=3, train=7, val=4, test=5, seconds=1.0, size=32, seed=5)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def decoded(data: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Waveform [samples] and frames [F, H, W, 3] of an MP4 file, as a player would get them."""
    path.write_bytes(data)
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return sound, frames


def audio_descriptor(sound: np.ndarray) -> np.ndarray:
    """How far the log-power of each of 48 bands stands out of its neighbours': which frequencies sound, whenever."""
    blocks = sound[: len(sound) // 512 * 512].reshape(-1, 512) * np.hanning(512)
    power = np.square(np.abs(np.fft.rfft(blocks, axis=1))).mean(0)
    edges = np.unique(np.geomspace(3, 257, 49).astype(int))
    bands = np.log(np.add.reduceat(power, edges[:-1])[:-1] + 1e-6)
    return bands - np.convolve(np.pad(bands, 3, mode="edge"), np.ones(7) / 7, mode="valid")


def visual_descriptor(frames: np.ndarray) -> np.ndarray:
    """Colour covariance, mean colour and energy by direction and scale of the first frame."""
    picture = frames[0].astype(np.float64) / 255.0
    pixels = picture.reshape(-1, 3)
    chroma = pixels.mean(0) - pixels.mean()
    covariance = np.cov(pixels.T)
    spectrum = np.abs(np.fft.fft2(picture.mean(2) - picture.mean()))[:16, :]
    directions = spectrum.reshape(4, 4, 8, -1).sum((1, 3)).ravel()
    parts = (chroma * 10, covariance.ravel() / np.trace(covariance), directions / directions.sum())
    return np.concatenate(parts)


def nearest_prototype_accuracy(descriptors: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on the second half of a classifier that knows the mean descriptor of each class in the first half."""
    half = len(labels) // 2
    scale = descriptors[:half].std(0) + 1e-9
    prototypes = np.stack([descriptors[:half][labels[:half] == label].mean(0) for label in np.unique(labels)])
    distances = np.square((descriptors[half:, None] - prototypes) / scale).sum(2)
    return float((np.unique(labels)[distances.argmin(1)] == labels[half:]).mean())


@pytest.mark.parametrize("number", range(4))
def test_at_quality_0_the_signal_does_not_depend_on_the_class(number: int) -> None:
    config = PlantedConfig(classes=len(CLASSES))
    clips = [PlantedClip(number, "train", label, 0.0, 0.0) for label in range(config.classes)]
    sounds = [waveform(config, clip) for clip in clips]
    films = [pictures(config, clip) for clip in clips]
    assert all(np.array_equal(sounds[0], sound) for sound in sounds)
    assert all(np.array_equal(films[0], film) for film in films)
    # Only because the class's part is weighted by 0: with any quality it shows.
    for clip, sound, film in zip(clips[1:], sounds[1:], films[1:], strict=True):
        assert not np.array_equal(sound, waveform(config, replace(clip, audio_quality=0.3)))
        assert not np.array_equal(film, pictures(config, replace(clip, visual_quality=0.3)))


def test_a_modality_does_not_depend_on_the_quality_of_the_other() -> None:
    clip = PlantedClip(3, "train", 1, 0.4, 0.6)
    assert np.array_equal(waveform(SMALL, clip), waveform(SMALL, replace(clip, visual_quality=0.0)))
    assert np.array_equal(pictures(SMALL, clip), pictures(SMALL, replace(clip, audio_quality=0.0)))


@pytest.fixture(scope="module")
def accuracies(tmp_path_factory: pytest.TempPathFactory) -> dict[float, tuple[float, float]]:
    """Accuracy (audio, visual) of the prototype classifier on decoded MP4 files in which all clips have one quality."""
    config = PlantedConfig(classes=4, seconds=1.0, seed=11)
    path = tmp_path_factory.mktemp("decoded") / "clip.mp4"
    found = {}
    for quality in (0.0, 1.0):
        labels = np.arange(96) % config.classes
        audio, visual = [], []
        for number, label in enumerate(labels.tolist()):
            clip = PlantedClip(number, "train", label, quality, quality)
            sound, frames = decoded(encode(waveform(config, clip), pictures(config, clip)), path)
            audio.append(audio_descriptor(sound))
            visual.append(visual_descriptor(frames))
        found[quality] = (
            nearest_prototype_accuracy(np.stack(audio), labels),
            nearest_prototype_accuracy(np.stack(visual), labels),
        )
    return found


@pytest.mark.parametrize("modality", [0, 1], ids=MODALITIES)
def test_decoded_clips_are_told_apart_at_quality_1_and_not_at_0(
    accuracies: dict[float, tuple[float, float]], modality: int
) -> None:
    # 48 clips of 4 classes by chance: 0.25, standard deviation 0.063.
    assert 0.04 < accuracies[0.0][modality] < 0.46
    assert accuracies[1.0][modality] > 0.9


def test_evidence_grows_with_quality() -> None:
    """The share of the class's own sound and look in the signal, by correlation with the clip at quality 1."""
    qualities = np.linspace(0.0, 1.0, 6)
    for number, label in ((0, 0), (1, 1), (2, 4)):
        sounds, films = (
            np.stack([part(PlantedConfig(), PlantedClip(number, "train", label, q, q)).ravel() for q in qualities])
            for part in (waveform, pictures)
        )
        assert np.all(np.diff(np.corrcoef(sounds)[-1]) > 0)
        assert np.all(np.diff(np.corrcoef(films)[-1]) > 0)


def test_files_are_h264_and_aac_in_mp4_of_the_length_asked_for(tmp_path: Path) -> None:
    render(SMALL, tmp_path / "clips", workers=1)
    for path in sorted((tmp_path / "clips").glob("*.mp4")):
        assert path.read_bytes()[4:8] == b"ftyp"
        with av.open(str(path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert video.codec_context.pix_fmt == "yuv420p"
            assert (video.width, video.height) == (32, 32)
            assert (audio.rate, audio.channels) == (SAMPLE_RATE_HZ, 1)
            times = [frame.time for frame in container.decode(video=0)]
        assert times == pytest.approx(np.arange(len(times)) / 10)
        assert len(times) == 10
        with av.open(str(path)) as container:
            frames = list(container.decode(audio=0))
        assert frames[0].time == pytest.approx(0.0, abs=1e-6)
        assert sum(frame.samples for frame in frames) >= SAMPLE_RATE_HZ


def test_sound_survives_the_codec_at_its_place_in_time(tmp_path: Path) -> None:
    clip = PlantedClip(0, "train", 0, 1.0, 1.0)
    config = PlantedConfig(audio_noise=0.1)
    sound = waveform(config, clip)
    heard, _ = decoded(encode(sound, pictures(config, clip)), tmp_path / "clip.mp4")
    assert np.corrcoef(sound, heard[: len(sound)])[0, 1] > 0.95


def test_the_same_files_whatever_the_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 3):
        render(SMALL, tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    assert len(list((tmp_path / "1").glob("planted-*.mp4"))) == 16
    other = tmp_path / "other"
    render(replace(SMALL, seed=6), other, workers=1)
    assert not set(contents(other).values()) & set(contents(tmp_path / "1").values())


def test_labels_list_every_clip_with_its_true_qualities(tmp_path: Path) -> None:
    render(SMALL, tmp_path, workers=1)
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for row, clip in zip(rows, plan(SMALL), strict=True):
        assert row["key"] == clip.key == f"planted-{clip.number:06d}"
        assert (row["label"], row["split"]) == (CLASSES[clip.label].name, clip.split)
        assert (float(row["planted_audio"]), float(row["planted_visual"])) == (clip.audio_quality, clip.visual_quality)
        assert (tmp_path / f"{row['key']}.mp4").exists()


@settings(max_examples=30, deadline=None)
@given(
    classes=st.integers(2, len(CLASSES)),
    counts=st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**40),
)
def test_splits_are_exact_and_classes_balanced(classes: int, counts: tuple[int, int, int], seed: int) -> None:
    train, val, test = counts
    clips = plan(PlantedConfig(classes=classes, train=train, val=val, test=test, seed=seed))
    assert [clip.number for clip in clips] == list(range(train + val + test))
    for split, count in zip(SPLITS, counts, strict=True):
        labels = Counter(clip.label for clip in clips if clip.split == split)
        assert labels.total() == count
        assert max((labels[c] for c in range(classes)), default=0) - min(labels[c] for c in range(classes)) <= 1
        assert set(labels) <= set(range(classes))


@pytest.mark.parametrize(("bias", "concentration"), [(0.0, 1.0), (0.0, 0.5), (0.5, 0.5), (-0.3, 2.0)])
def test_qualities_follow_the_documented_distribution(bias: float, concentration: float) -> None:
    clips = plan(PlantedConfig(train=3000, val=0, test=0, bias=bias, concentration=concentration, seed=3))
    audio, visual = (np.array([getattr(c, f"{m}_quality") for c in clips]) for m in MODALITIES)
    first, second = concentration * (1 + bias), concentration * (1 - bias)
    assert kstest(audio, beta(first, second).cdf).pvalue > 1e-3
    assert kstest(visual, beta(second, first).cdf).pvalue > 1e-3
    # The mean discrepancy is the bias; the qualities are independent of each other and of the label.
    assert np.mean(audio - visual) == pytest.approx(bias, abs=0.04)
    assert spearmanr(audio, visual).pvalue > 1e-3
    assert spearmanr(audio, [clip.label for clip in clips]).pvalue > 1e-3


@pytest.mark.parametrize(("bias", "qualities"), [(1.0, (1.0, 0.0)), (-1.0, (0.0, 1.0))])
def test_full_bias_leaves_one_modality_without_evidence(bias: float, qualities: tuple[float, float]) -> None:
    clips = plan(replace(SMALL, bias=bias))
    assert {(clip.audio_quality, clip.visual_quality) for clip in clips} == {qualities}


def test_a_killed_render_started_again_ends_with_the_same_files(tmp_path: Path) -> None:
    config = replace(SMALL, train=40)
    folder = tmp_path / "killed"
    code = (
        "from pathlib import Path\n"
        "from avbench.packing.recipes.rendering import *\n"
        "if __name__ == '__main__':\n"
        f"    render({config!r}, Path({str(folder)!r}), workers=2)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("planted-*.mp4"))) < 10:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = contents(folder)
    assert "labels.csv" not in before
    assert sum(name.endswith(".mp4") for name in before) < 49
    (folder / ".planted-000048.mp4.x.partial").write_bytes(b"half a clip")
    render(config, folder, workers=1)
    whole = tmp_path / "whole"
    render(config, whole, workers=2)
    assert contents(folder) == contents(whole)
    kept = {name: digest for name, digest in before.items() if name.startswith("planted-0")}
    assert kept.items() <= contents(whole).items()


def test_workers_stop_when_the_process_that_asked_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from avbench.packing.recipes.rendering import *\n"
        "if __name__ == '__main__':\n"
        f"    render(PlantedConfig(train=5000, seconds=1.0, size=16), Path({str(folder)!r}), workers=2)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while len(list(folder.glob("planted-*.mp4"))) < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
        counts = [-1, len(list(folder.iterdir()))]
        while counts[-1] != counts[-2]:
            assert time.monotonic() < deadline
            time.sleep(1.5)
            counts.append(len(list(folder.iterdir())))
    finally:
        if _group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert counts[-1] < 500


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_finished_render_is_left_alone(tmp_path: Path) -> None:
    render(SMALL, tmp_path, workers=1)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    render(SMALL, tmp_path, workers=2)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_clips_of_another_configuration_are_not_mixed_in(tmp_path: Path) -> None:
    render(replace(SMALL, train=2, val=0, test=1), tmp_path, workers=1)
    with pytest.raises(RecipeError, match=r"holds clips planted with train 2, not 3"):
        render(replace(SMALL, train=3, val=0, test=1), tmp_path, workers=1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(RecipeError, match="holds other files"):
        render(SMALL, other, workers=1)
    with pytest.raises(RecipeError, match="is not a folder"):
        render(SMALL, other / "holiday.mp4", workers=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", 1),
        ("classes", len(CLASSES) + 1),
        ("train", -1),
        ("seconds", 0.5),
        ("seconds", float("nan")),
        ("size", 33),
        ("seed", -1),
        ("bias", 1.5),
        ("concentration", 0.0),
        ("distractor", -0.1),
        ("visual_noise", float("nan")),
    ],
)
def test_values_that_cannot_be_rendered_are_named(field: str, value: float) -> None:
    with pytest.raises(AvbenchError) as caught:
        PlantedConfig(**{field: value})
    text = str(caught.value)
    assert f"{field} is {value}" in text and "expected" in text and "\n" not in text


def test_no_clips_and_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="at least one clip"):
        PlantedConfig(train=0, val=0, test=0)
    with pytest.raises(UsageError, match="workers is 0"):
        render(SMALL, tmp_path, workers=0)
