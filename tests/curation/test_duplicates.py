"""Clips that come twice are found with what shows it; unlike ones are not; silence and still pictures prove nothing."""

import csv
import json
import shutil
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from avbench.cli import main
from avbench.curation.duplicates import finding, looks, sounds
from avbench.curation.duplicates.comparing import Match
from avbench.curation.duplicates.finding import find_duplicates
from avbench.curation.duplicates.listing import COLUMNS, as_json, lines
from avbench.curation.duplicates.neighbours import neighbours
from avbench.curation.duplicates.search import candidates
from avbench.curation.duplicates.sounds import STEP_SECONDS, SoundPrint, alike_at, different, sound_print, words_of
from avbench.errors import UsageError
from avbench.packing.pack import pack
from avbench.packing.recipes.planted import PlantedConfig
from avbench.packing.recipes.reading import load_recipe
from avbench.packing.recipes.rendering import render
from tests.curation.made_sound import RATE_HZ, music, noise
from tests.curation.reencode import reencode
from tests.documents import commands
from tests.marks import EXHAUSTIVE
from tests.synthetic import encoded_clip, write_dataset

SECONDS = 6


def film(number: int, *, seconds: int = SECONDS) -> list[np.ndarray]:
    """Pictures, one a second, of smooth blots: others each second, and in each film."""
    generator = np.random.default_rng((number, 2))
    coarse = generator.uniform(0, 255, (seconds, 4, 6, 1))
    return [np.kron(one, np.ones((12, 12, 3))).astype(np.uint8) for one in coarse]


class Clips:
    """A dataset under construction."""

    def __init__(self) -> None:
        self._made: list[dict] = []

    def add(self, key, sound, images, *, split="train", label=0, **options) -> None:
        self._made.append(encoded_clip(key, sound, images, split=split, label=label, **options))

    def write(self, path: Path, **options) -> Path:
        return write_dataset(path, self._made, classes=2, **options)


def quieter_with_noise(sound: np.ndarray) -> np.ndarray:
    return (0.5 * sound + np.random.default_rng(0).normal(0, 8, len(sound))).astype(np.int16)


def found_keys(found) -> dict[tuple[str, str], tuple[Match | None, Match | None]]:
    return {(found.key(pair.one), found.key(pair.other)): (pair.sound, pair.pictures) for pair in found.pairs}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Some of each kind: equal bytes, alike sound, alike pictures, and what proves nothing."""
    clips, black = Clips(), [np.zeros((48, 72, 3), np.uint8)] * SECONDS
    for number, split in zip(range(6), ("train", "train", "val", "val", "test", "test"), strict=True):
        clips.add(f"plain-{number}", music(number, SECONDS), film(number), split=split, label=number % 2)
    clips.add("same-sound", music(4, SECONDS), film(20), label=0)  # of plain-4, which is in test
    clips.add("same-pictures", music(20, SECONDS), film(3), label=1)  # of plain-3, in val
    clips.add("all-the-same", music(1, SECONDS), film(1), label=1)  # of plain-1, in train too
    clips.add("shifted", quieter_with_noise(music(5, SECONDS)[round(1.3 * RATE_HZ) :]), film(21), label=0)
    brighter = [np.clip(image * 0.8 + 30, 0, 255).astype(np.uint8)[::2, ::2].copy() for image in film(2)]
    clips.add("scaled", music(22, SECONDS), brighter, label=0)
    silence = np.zeros(SECONDS * RATE_HZ, np.int16)
    for number in range(4):  # equal bytes, and yet no evidence
        clips.add(f"silent-{number}", silence, film(30 + number), split="train" if number < 2 else "test")
        clips.add(f"black-{number}", music(30 + number, SECONDS), black, split="train" if number < 2 else "test")
    return clips.write(tmp_path_factory.mktemp("duplicates") / "data")


def test_each_kind_of_duplicate_is_found_with_its_evidence_and_nothing_else(mixed):
    found = find_duplicates([mixed], workers=1)
    keys = found_keys(found)
    assert set(keys) == {
        ("same-sound", "plain-4"),
        ("shifted", "plain-5"),
        ("same-pictures", "plain-3"),
        ("scaled", "plain-2"),
        ("plain-1", "all-the-same"),
    }
    same = Match(is_same=True, alike=1.0, shift_seconds=0.0)
    assert keys["same-sound", "plain-4"] == (same, None)
    assert keys["same-pictures", "plain-3"] == (None, same)
    assert (same, same) in keys.values()
    sound, pictures = keys["shifted", "plain-5"]
    assert pictures is None and not sound.is_same and sound.alike > 0.7
    assert sound.shift_seconds == pytest.approx(1.3, abs=STEP_SECONDS / 2)  # later in the one that was not cut
    sound, pictures = keys["scaled", "plain-2"]
    assert sound is None and pictures.alike == 1.0 and pictures.shift_seconds == 0


def test_pairs_of_train_with_test_come_first_and_are_counted_apart(mixed):
    found = find_duplicates([mixed], workers=1)
    relations = [found.relation(pair) for pair in found.pairs]
    assert relations == ["train-test", "train-test", "train-val", "train-val", "train-train"]
    told = as_json(found)
    assert told["pairs_by_splits"]["train-test"] == 2 and told["groups"] == 5
    assert told["train_clips_of_val_and_test"] == 4
    text = list(lines(found))
    assert text[0] == "in train and in test: 2 pairs"
    assert text[-1] == "19 clips: 5 pairs in 5 groups; 4 of train against val or test, with 4 training clips"


def test_checksums_alone_find_equal_bytes_and_nothing_else(mixed, monkeypatch):
    keys = found_keys(find_duplicates([mixed], workers=1, exact=True))
    assert len(keys) == 3 and ("same-sound", "plain-4") in keys and ("same-pictures", "plain-3") in keys
    # Only clips of which something is equal are decoded.
    decoded = []
    made = finding.make_prints
    monkeypatch.setattr(finding, "make_prints", lambda task, beat: decoded.extend(task.clip_ids) or made(task, beat))
    find_duplicates([mixed], workers=1, exact=True)
    assert len(decoded) == 6 + 4 + 4


def test_several_processes_find_the_same(mixed):
    one, two = (find_duplicates([mixed], workers=workers) for workers in (1, 2))
    assert one.pairs == two.pairs


def test_clips_of_two_datasets_are_compared(mixed, tmp_path):
    clips = Clips()
    clips.add("elsewhere", music(0, SECONDS), film(0), split="test", label=1)
    clips.add("new", music(99, SECONDS), film(99))
    found = find_duplicates([mixed, clips.write(tmp_path / "other")], workers=1)
    pair = next(pair for pair in found.pairs if found.key(pair.other) == "elsewhere")
    assert found.key(pair.one) == "plain-0" and found.dataset_of[pair.other] == 1
    text = next(line for line in lines(found) if "elsewhere" in line)
    assert f"{mixed}: plain-0 = {tmp_path / 'other'}: elsewhere (class-0 and class-1): sound the same" in text
    with pytest.raises(UsageError, match="is given twice"):
        find_duplicates([mixed, mixed / "." / ".." / mixed.name], workers=1)


def test_kept_fingerprints_are_taken_and_give_the_same(mixed, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    first = find_duplicates([mixed], workers=1, kept_in=kept)
    assert list(kept.glob("*.npz"))
    monkeypatch.setattr("avbench.curation.duplicates.prints._clip_print", None)  # nothing is made anew
    assert find_duplicates([mixed], workers=1, kept_in=kept).pairs == first.pairs
    next(kept.glob("*.npz")).write_bytes(b"damaged")
    monkeypatch.undo()
    assert find_duplicates([mixed], workers=1, kept_in=kept).pairs == first.pairs


def test_damaged_clips_are_named_and_the_others_are_found(mixed, tmp_path):
    copy = shutil.copytree(mixed, tmp_path / "copy")
    whole = find_duplicates([copy], workers=1)
    dataset = whole.datasets[0]
    clip = next(number for number in range(len(dataset)) if dataset.key(number) == "scaled")
    shard = copy / f"shard-{dataset.shards[clip]:06d}.tar"
    data = bytearray(shard.read_bytes())
    data[int(dataset.audio_offsets[clip]) + 50] ^= 255
    shard.write_bytes(data)
    found = find_duplicates([copy], workers=1)
    assert [(found.key(clip), reason) for clip, reason in found.bad] == [("scaled", "sound is not as it was packed")]
    assert len(found.pairs) == len(whole.pairs) - 1
    assert any("1 clips could not be read" in line and "scaled first" in line for line in lines(found))


def test_of_kept_spectrograms_only_equal_ones_are_found_and_this_is_said(tmp_path):
    clips, options = Clips(), {"audio_suffix": "stft"}
    for number in (0, 1):
        clips.add(f"a-{number}", music(7, SECONDS), film(number), **options)
    clips.add("louder", 2 * music(7, SECONDS), film(3), split="test", **options)
    clips.add("silent-0", np.zeros(SECONDS * RATE_HZ, np.int16), film(4), **options)
    clips.add("silent-1", np.zeros(SECONDS * RATE_HZ, np.int16), film(5), **options)
    found = find_duplicates([clips.write(tmp_path / "data", audio_suffix="stft")], workers=1)
    assert list(found_keys(found)) == [("a-0", "a-1")]
    assert any(line.startswith("5 clips have a kept spectrogram") for line in lines(found))


def test_of_a_clip_that_comes_many_times_each_training_copy_is_paired_with_test(tmp_path):
    clips = Clips()
    for number in range(30):
        split = "test" if number in (3, 17) else "train"
        clips.add(
            f"copy-{number:02d}", quieter_with_noise(np.roll(music(1, SECONDS), number)), film(number), split=split
        )
    found = find_duplicates([clips.write(tmp_path / "data")], workers=1)
    assert len(found.groups) == 1 and len(found.groups[0]) == 30
    assert len(found.train_clips_of_val_and_test()) == 28


def test_the_readmes_command_writes_a_csv_file(mixed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("DATASET").symlink_to(mixed)
    ((*words,),) = commands("shards/README.md", "Clips that come twice")
    main(words)
    assert capsys.readouterr().out.splitlines()[-1] == "duplicates.csv: 5 pairs"
    with Path("duplicates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    shifted = next(row for row in rows if row["key"] == "shifted")
    assert (shifted["splits"], shifted["other_key"], shifted["sound"], shifted["pictures"]) == (
        "train-test", "plain-5", "alike", "",
    )  # fmt: skip
    assert 1.2 < float(shifted["sound_shift_seconds"]) < 1.4


def test_a_view_without_the_training_clips_that_were_found_has_none_left(mixed, tmp_path, capsys):
    keys, view = tmp_path / "leaks.txt", tmp_path / "view"
    main(["duplicates", str(mixed), "--workers", "1", "--train-keys", str(keys)])
    assert sorted(keys.read_text().split()) == ["same-pictures", "same-sound", "scaled", "shifted"]
    assert f"{keys}: the keys of 4 training clips" in capsys.readouterr().out
    main(["view", str(mixed), "--without-keys", str(keys), "--out", str(view)])
    found = find_duplicates([view], workers=1)
    assert list(found_keys(found)) == [("plain-1", "all-the-same")] and len(found.clip_ids) == 15


def test_the_command_prints_json_or_lines(mixed, capsys):
    main(["duplicates", str(mixed), "--json", "--workers", "1"])
    told = json.loads(capsys.readouterr().out)
    assert told["clips"] == 19 and len(told["pairs"]) == 5 and told["not_read"] == []
    assert list(told["pairs"][0]) == list(COLUMNS)
    main(["duplicates", str(mixed), "--exact", "--workers", "1"])
    assert "19 clips: 3 pairs in 3 groups; 2 of train against val or test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [(["nowhere"], "nowhere"), ([], "DATASET"), (["DATA", "DATA"], "is given twice"), (["DATA", "--out", ""], "--out")],
)
def test_a_mistake_is_one_line_and_status_2(mixed, capsys, words, text):
    with pytest.raises(SystemExit) as ended:
        main(["duplicates", *(str(mixed) if word == "DATA" else word for word in words)])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and text in error, error


# The search and the fingerprints.


def test_ten_thousand_silent_or_equal_clips_are_no_more_work_than_others():
    """The pairs that are looked at grow with the clips, not with their square."""
    words, places = (lambda one: one), np.arange(20)
    equal = [np.full(20, 7, np.uint64)] * 10_000
    first, second = neighbours(np.concatenate(equal), np.repeat(np.arange(10_000), 20), radius=16)
    assert len(first) == len(second) <= 6 * 6 * 200_000
    found = list(candidates(equal, [places] * 10_000, radius=16, votes=3, slack=1))
    assert len(found) < 100_000
    silent = sound_print(np.zeros(SECONDS * RATE_HZ, np.int16))
    words, steps = zip(*(words_of(silent) for _ in range(10_000)), strict=True)
    assert not sum(map(len, words)) and not list(candidates(words, steps, radius=16, votes=3, slack=1))


def test_words_that_differ_in_few_bits_meet():
    generator = np.random.default_rng(0)
    words = generator.integers(0, 2**64, 4000, np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << generator.integers(0, 64, (4000, 8)).astype(np.uint64), axis=1)
    both = np.concatenate([words, words ^ flips])
    first, second = neighbours(both, np.arange(8000), radius=8)
    met = {(min(pair), max(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    assert np.mean([(number, number + 4000) in met for number in range(4000)]) > 0.3
    assert all(other - one == 4000 for one, other in met)  # others differ in about half of their bits


def prints_of(numbers) -> list[SoundPrint]:
    return [sound_print((music if number % 2 else noise)(number, SECONDS)) for number in numbers]


def false_pairs(prints: list[SoundPrint]) -> list[tuple[int, int]]:
    words, steps = zip(*map(words_of, prints), strict=True)
    found = candidates(words, steps, radius=16, votes=3, slack=1)
    return [(one, other) for one, other, _ in found if alike_at(prints[one], prints[other])]


def test_no_two_of_independent_music_and_noise_are_alike():
    prints = prints_of(range(300))
    assert false_pairs(prints) == []
    # Every pair, without the search's choice.
    assert not [pair for pair in zip(range(60), count(1)) if alike_at(prints[pair[0]], prints[pair[1]])]


@pytest.mark.parametrize("clips", [pytest.param(10_000, marks=EXHAUSTIVE)])
def test_no_two_of_ten_thousand_are_alike(clips):
    assert false_pairs(prints_of(range(clips))) == []


def test_a_sound_is_found_at_its_shift_under_noise_and_at_another_loudness():
    for number in range(20):
        whole = (music if number % 2 else noise)(number, SECONDS)
        cut = quieter_with_noise(whole[round(1.3 * RATE_HZ) :])
        found = alike_at(sound_print(cut), sound_print(whole))
        assert found is not None, number
        share, shift = found
        assert share > 0.7 and shift * STEP_SECONDS == pytest.approx(1.3, abs=STEP_SECONDS), number


def test_sounds_with_one_beat_but_different_notes_are_not_alike():
    """Strokes at one tempo are somewhat alike once a beat, and nothing at one shift more than at all others."""

    def strokes(pitch):
        time_in_beat = np.arange(10 * RATE_HZ) / RATE_HZ % 0.5
        hiss = np.random.default_rng(pitch).normal(0, 0.0005, 10 * RATE_HZ)
        wave = 0.3 * np.exp(-6 * time_in_beat) * np.sin(2 * np.pi * pitch * time_in_beat) + hiss
        return sound_print((32767 * wave).astype(np.int16))

    one, other = strokes(520), strokes(525)
    best = min(different(one, other, shift)[0] for shift in range(-8, 9))
    assert best < sounds.MOST_DIFFERENT  # by the bits alone they would be
    assert alike_at(one, other) is None


def test_less_common_sound_must_be_more_alike():
    assert sounds.most_different(200) == sounds.most_different(64) == sounds.MOST_DIFFERENT
    assert sounds.most_different(16) == pytest.approx(0.5 - 2 * (0.5 - sounds.MOST_DIFFERENT))
    assert sound_print(np.ones(1000, np.int16)).bits.shape == (0,)


def test_a_look_survives_scaling_and_jpeg_and_plain_colours_have_none():
    def jpeg(image, quality=90):
        return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", "420")

    images = film(0)
    small = looks.look_print([jpeg(image) for image in images])
    large = looks.look_print([jpeg(np.kron(image, np.ones((5, 5, 1), np.uint8)), 40) for image in images])
    assert np.bitwise_count(small.looks ^ large.looks).max() <= looks.ALIKE_BITS
    between = np.bitwise_count(small.looks[:, None] ^ small.looks[None])[np.triu_indices(len(images), 1)]
    assert between.min() > looks.ALIKE_BITS
    plain = looks.look_print([jpeg(np.full((40, 40, 3), 90, np.uint8))])
    assert not plain.shows.any()


def test_a_scene_in_which_nothing_moves_proves_nothing_by_its_looks():
    one = looks.LookPrint(np.full(6, 12345, np.uint64), np.ones(6, bool))
    assert looks.alike_at(one, one) is None and not len(looks.words_of(one)[0])
    moving = looks.LookPrint(np.random.default_rng(0).integers(0, 2**64, 6, np.uint64), np.ones(6, bool))
    assert looks.alike_at(moving, moving) == (1.0, 0)
    unseen = looks.LookPrint(moving.looks, np.zeros(6, bool))
    assert looks.alike_at(moving, unseen) is None


# Real encoders.


def copied(folder: Path, config: PlantedConfig, codecs) -> list[tuple[str, str]]:
    """Planted videos and their copies under other names, with their list; returns which is whose."""
    render(config, folder, workers=1)
    rows = [line.split(",")[:2] for line in (folder / "labels.csv").read_text().splitlines()[1:]]
    pairs, listed = [], ["key,label,split"]
    for number, (key, label) in enumerate(rows):
        copy = f"upload-{number:03d}"
        codec = codecs[number % len(codecs)]
        reencode(folder / f"{key}.mp4", folder / f"{copy}.mp4", shift_seconds=1.3, size=(48, 48), audio_codec=codec)
        listed += [f"{key},{label},train", f"{copy},{label},test"]
        pairs.append((key, copy))
    (folder / "labels.csv").write_text("\n".join(listed) + "\n")
    return pairs


@pytest.mark.parametrize("clips", [8, pytest.param(40, marks=pytest.mark.slow), pytest.param(200, marks=EXHAUSTIVE)])
def test_planted_clips_that_were_encoded_again_scaled_and_shifted_are_found(tmp_path, clips):
    config = PlantedConfig(classes=8, train=clips, val=0, test=0, seconds=11.3, seed=5)
    pairs = copied(tmp_path / "media", config, ("aac", "libopus"))
    pack(load_recipe("folder"), tmp_path / "media", out=tmp_path / "data", workers=1)
    began = time.monotonic()
    found = find_duplicates([tmp_path / "data"], workers=1)
    print(f"{2 * clips} clips took {time.monotonic() - began:.1f} s")
    keys = found_keys(found)
    assert set(keys) <= set(pairs)
    assert len(keys) >= 0.95 * clips
    heard = [sound.shift_seconds for sound, _ in keys.values() if sound is not None]
    assert len(heard) >= 0.95 * clips and np.allclose(heard, -1.3, atol=STEP_SECONDS)


@pytest.mark.slow
def test_real_clips_that_were_encoded_again_are_found_and_no_others(real_clips, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    listed, pairs = ["key,label,split"], set()
    for number, video in enumerate(sorted(real_clips.glob("*.mp4"))):
        (media / video.name).symlink_to(video)
        reencode(video, media / f"upload-{number}.mp4", shift_seconds=1.3, size=(320, 180))
        label = "ab"[number % 2]  # a dataset has two classes or more
        listed += [f"{video.stem},{label},train", f"upload-{number},{label},test"]
        pairs.add((video.stem, f"upload-{number}"))
    (media / "labels.csv").write_text("\n".join(listed) + "\n")
    pack(load_recipe("folder"), media, out=tmp_path / "data", workers=2)
    assert set(found_keys(find_duplicates([tmp_path / "data"], workers=2))) == pairs
