"""Spectrograms that were computed while packing: as exact as a byte allows, and refused where they do not fit."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from avbench.dataset import DESCRIPTION_FILE, Dataset, checksum, shard_name
from avbench.distributed import World
from avbench.errors import DatasetError, UsageError
from avbench.loading.loader import Loader
from avbench.loading.presets import PRESETS, preset
from avbench.loading.reference import audio_oracle
from avbench.loading.stored_spectrogram import stored_spectrogram
from avbench.vocabulary import MODALITIES
from tests.synthetic import make_dataset

PAPER = preset("paper")
KEPT = stored_spectrogram(PAPER)


def loader_of(dataset: Dataset, **options) -> Loader:
    defaults = {"preset": PAPER, "batch_size": 4, "seed": 0, "training": True}
    return Loader(dataset, dataset.clip_ids("train"), **(defaults | options))


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> dict[str, Dataset]:
    """The same clips, shorter and longer than the preset's ten seconds, with sound and with spectrograms."""
    folder = tmp_path_factory.mktemp("stored")
    options = {"clips": {"train": 6}, "seconds": [1.2, 10.5], "clips_per_shard": 4}
    return {
        suffix: Dataset(make_dataset(folder / suffix, audio_suffix=suffix, **options)) for suffix in ("flac", "stft")
    }


@pytest.fixture
def copied(both, tmp_path) -> Dataset:
    return Dataset(shutil.copytree(both["stft"].path, tmp_path / "copy"))


def rewrite(dataset: Dataset, clip_id: int, data: bytes) -> None:
    """Overwrite the start of a clip's stored sound."""
    with (dataset.path / shard_name(int(dataset.shards[clip_id]))).open("r+b") as file:
        file.seek(int(dataset.audio_offsets[clip_id]))
        file.write(data)


def sounds() -> dict[str, np.ndarray]:
    """int16, at 48 kHz."""
    generator = np.random.default_rng(0)
    time = np.arange(500_000) / 48_000
    return {
        "noise, longer than the preset": (3000 * generator.standard_normal(len(time))).astype(np.int16),
        "a tone and silence, short": (20_000 * np.sin(2 * np.pi * 440 * time[:30_000])).astype(np.int16),
        "as loud as 16 bits hold": np.full(480_000, -32768, np.int16),
        "soft noise": generator.integers(-2, 3, 480_000).astype(np.int16),
        "one sample": np.array([5], np.int16),
    }


@pytest.mark.parametrize("name", sounds())
def test_a_stored_value_is_within_half_a_step_of_torchaudios(name):
    waveform = sounds()[name]
    codes = np.frombuffer(KEPT.encode(waveform), np.uint8).reshape(KEPT.shape)
    expected = audio_oracle(torch.from_numpy(waveform / 32768), PAPER.audio).T.numpy()
    assert codes.shape == expected.shape == (1001, 257)
    # Where next to nothing is left of a loud sound, float64 rounds it as it comes: compare magnitudes there.
    rounding = 1e-13 * np.exp(expected.max()) / np.exp(expected)
    assert (np.abs(KEPT.lowest + KEPT.step * codes - expected) <= KEPT.step / 2 + 1e-9 + rounding).all()
    if name.startswith("as loud"):
        assert codes.max() == 255


def test_the_loader_gives_live_spectrograms_to_half_a_step_and_the_same_pictures(both):
    live, stored = (list(loader_of(both[suffix]).epoch(2)) for suffix in ("flac", "stft"))
    assert len(live) == len(stored) == 2
    for one, other in zip(live, stored, strict=True):
        assert torch.equal(one.clip_id, other.clip_id) and torch.equal(one.label, other.label)
        assert torch.equal(one.frames, other.frames) and other.valid.all()
        assert other.audio.shape == one.audio.shape == (3, 1, 257, 1001)
        assert other.audio.dtype == torch.float32 and other.audio.stride() == one.audio.stride()
        # The live transform is float32's, whose noise is 3e-7 of the largest magnitude.
        noise = 1e-6 * one.audio.exp().max() / one.audio.exp()
        assert ((one.audio - other.audio).abs() <= KEPT.step / 2 + 1e-5 + noise).all()
        assert (one.audio - other.audio).abs().max() > KEPT.step / 4  # rounded: not the live ones


def test_slices_of_ranks_and_a_resumed_epoch_are_the_same_batches(both):
    whole = list(loader_of(both["stft"], modalities=["audio"]).epoch(1))
    ranks = [list(loader_of(both["stft"], world=World(rank, 2), modalities=["audio"]).epoch(1)) for rank in range(2)]
    resumed = list(loader_of(both["stft"], modalities=["audio"]).epoch(1, first_batch=1))
    for number, batch in enumerate(whole):
        assert torch.equal(torch.cat([rank[number].audio for rank in ranks]), batch.audio)
    assert len(resumed) == 1 and torch.equal(resumed[0].audio, whole[1].audio)


def test_another_preset_is_refused_but_for_its_pictures(both):
    line = r"stft: .* preset paper's spectrogram, which preset tiny cannot use; train with `--preset paper`, or pack"
    with pytest.raises(DatasetError, match=line):
        loader_of(both["stft"], preset=preset("tiny"))
    loader = loader_of(both["stft"], preset=preset("tiny"), modalities=["visual"])
    assert next(iter(loader.epoch(0))).frames.shape == (3, 1, 3, 64, 64)
    with pytest.raises(DatasetError, match=line):
        next(loader.epoch(0, modalities=MODALITIES))
    # What counts is what the audio is, not its name.
    other = replace(preset("tiny"), audio=PAPER.audio)
    assert next(iter(loader_of(both["stft"], preset=other).epoch(0))).audio.shape == (3, 1, 257, 1001)
    softer = replace(PAPER.audio.transform, log_offset=1e-6)
    with pytest.raises(DatasetError, match="preset paper cannot use"):
        loader_of(both["stft"], preset=replace(PAPER, audio=replace(PAPER.audio, transform=softer)))


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"paper"}))
def test_presets_of_another_kind_cannot_be_stored(name):
    with pytest.raises(UsageError, match=rf"preset {name}'s audio cannot be kept.*presets that have it: paper$"):
        stored_spectrogram(preset(name))


def test_bad_bytes_make_a_silent_clip_that_is_reported_and_harm_no_other(copied):
    good = {}
    for batch in loader_of(copied).epoch(0):
        good |= dict(zip(batch.clip_id.tolist(), batch.audio, strict=True))
    rewrite(copied, 3, bytes(2000))
    loader = loader_of(copied)
    for batch in loader.epoch(0):
        for clip, valid, audio in zip(batch.clip_id.tolist(), batch.valid.tolist(), batch.audio, strict=True):
            assert valid == (clip != 3)
            if valid:
                assert torch.equal(audio, good[clip])
            else:
                np.testing.assert_allclose(audio.numpy(), np.log(1e-7), rtol=1e-6)
    assert list(loader.bad_clips) == [3] and "audio has checksum" in loader.bad_clips[3]


def test_a_clip_whose_spectrogram_has_another_size_is_left_out_and_named(copied):
    description = json.loads((copied.path / DESCRIPTION_FILE).read_text())
    assert description["spectrogram"]["shape"] == [1001, 257]
    copied.audio_sizes = copied.audio_sizes.copy()
    copied.audio_sizes[3] -= 257
    copied.audio_checksums = copied.audio_checksums.copy()
    copied.audio_checksums[3] = checksum(copied.audio_bytes(3))
    loader = loader_of(copied)
    invalid = [batch.clip_id[~batch.valid].tolist() for batch in loader.epoch(0)]
    assert [clip_id for clips in invalid for clip_id in clips] == [3]
    assert loader.bad_clips == {3: "audio is as it was packed but cannot be decoded"}
