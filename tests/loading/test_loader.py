"""The loader as its consumer sees it. Ranks are World values: the loader needs no process group."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from avbench.batch import Batch
from avbench.dataset import DESCRIPTION_FILE, Dataset, checksum, shard_name
from avbench.distributed import World
from avbench.errors import DatasetError, UsageError
from avbench.loading.loader import Loader
from avbench.loading.order import random_windows
from avbench.loading.presets import PRESETS, Preset, VisualPreset, preset
from avbench.loading.reading import Crops, Reader
from avbench.loading.reference import audio_oracle
from avbench.vocabulary import MODALITIES
from tests.synthetic import make_dataset

TINY = preset("tiny")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """Clips of several sizes and lengths; 23 train clips, so that no batch size divides them."""
    path = tmp_path_factory.mktemp("datasets") / "mixed"
    return Dataset(
        make_dataset(
            path,
            clips={"train": 23, "val": 4, "test": 5},
            size=[(64, 48), (48, 80), (90, 90)],
            seconds=[2.0, 1.2, 3.0],
            sample_rate=16_000,
        )
    )


@pytest.fixture(scope="module")
def lengths(tmp_path_factory) -> Dataset:
    """Clips from less than a second to more than the longest preset; seven train clips."""
    path = tmp_path_factory.mktemp("datasets") / "lengths"
    return Dataset(make_dataset(path, clips={"train": 7, "test": 3}, seconds=[0.6, 6.5, 11.0], sample_rate=16_000))


@pytest.fixture
def copied(dataset, tmp_path) -> Dataset:
    """The same dataset, free to be damaged."""
    shutil.copytree(dataset.path, tmp_path / "copy")
    return Dataset(tmp_path / "copy")


def loader_of(dataset: Dataset, *, split: str = "train", **options) -> Loader:
    defaults = {"preset": TINY, "batch_size": 6, "seed": 0, "training": split == "train"}
    return Loader(dataset, dataset.clip_ids(split), **(defaults | options))


def collected(batches) -> Batch:
    """Batches put together; shapes of empty slices must fit too."""
    batches = list(batches)
    columns = {
        name: torch.cat([getattr(batch, name) for batch in batches])
        for name in ("audio", "frames", "label", "clip_id", "valid")
        if getattr(batches[0], name) is not None
    }
    return Batch(**({"audio": None, "frames": None} | columns))


def assert_equal_batches(first: Batch, second: Batch) -> None:
    for name in ("audio", "frames", "label", "clip_id", "valid"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None and other is None) or torch.equal(one, other), name


def damage(dataset: Dataset, clip_id: int, *, offset: int, size: int) -> None:
    """Overwrite bytes of a clip's shard in place."""
    with (dataset.path / shard_name(int(dataset.shards[clip_id]))).open("r+b") as file:
        file.seek(offset)
        file.write(bytes(size))


def damage_audio(dataset: Dataset, clip_id: int) -> None:
    damage(dataset, clip_id, offset=int(dataset.audio_offsets[clip_id]) + 100, size=50)


def damage_frames(dataset: Dataset, clip_id: int) -> None:
    for row in range(int(dataset.frames.first[clip_id]), int(dataset.frames.first[clip_id + 1])):
        damage(dataset, clip_id, offset=int(dataset.frames.offset[row]) + 100, size=50)


def test_an_epoch_yields_every_clip_once_with_its_label(dataset):
    loader = loader_of(dataset)
    batches = list(loader.epoch(0))
    assert [batch.position for batch in batches] == list(range(len(loader))) == [0, 1, 2, 3]
    assert [len(batch) for batch in batches] == [5, 6, 6, 6]
    whole = collected(batches)
    assert sorted(whole.clip_id.tolist()) == dataset.clip_ids("train").tolist()
    assert whole.label.tolist() == dataset.labels[whole.clip_id.numpy()].tolist()
    assert whole.valid.all() and whole.label.dtype == whole.clip_id.dtype == torch.int64
    assert whole.audio.shape == (23, 1, 64, 101) and whole.frames.shape == (23, 1, 3, 64, 64)
    assert whole.audio.dtype == whole.frames.dtype == torch.float32
    assert batches[0].frames.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert not loader.bad_clips


@pytest.mark.parametrize("batch_size", [6, 2])
def test_slices_of_1_2_and_3_ranks_are_the_same_global_batches_bit_for_bit(dataset, batch_size):
    alone = list(loader_of(dataset, batch_size=batch_size).epoch(3))
    for size in (2, 3):
        ranks = [list(loader_of(dataset, batch_size=batch_size, world=World(r, size)).epoch(3)) for r in range(size)]
        for number, batch in enumerate(alone):
            slices = [batches[number] for batches in ranks]
            assert {part.position for part in slices} == {number}
            assert max(map(len, slices)) - min(map(len, slices)) <= 1
            assert_equal_batches(collected(slices), batch)
    # With two clips for three ranks, one slice of every batch is empty.
    if batch_size == 2:
        assert all(any(len(batches[n]) == 0 for batches in ranks) for n in range(len(alone)))


@pytest.mark.parametrize("name", ["vggsound-ogm", "kinetics-sound-ogm", "vggsound-official"])
def test_every_presets_audio_is_the_same_at_any_world_size_and_when_resumed(lengths, name):
    options = {"preset": preset(name), "batch_size": 2, "modalities": ["audio"]}
    alone = list(loader_of(lengths, **options).epoch(3))
    ranks = [list(loader_of(lengths, world=World(rank, 3), **options).epoch(3)) for rank in range(3)]
    for number, batch in enumerate(alone):
        slices = [batches[number] for batches in ranks]
        assert 0 in map(len, slices)
        assert_equal_batches(collected(slices), batch)
    resumed = loader_of(lengths, **options).epoch(3, first_batch=2)
    assert_equal_batches(collected(resumed), collected(alone[2:]))


@pytest.mark.parametrize("name", sorted(name for name in PRESETS if PRESETS[name].audio.sample_rate_hz == 16_000))
def test_every_preset_hears_the_right_part_of_each_clip(lengths, name):
    audio = preset(name).audio
    for split in ("train", "test"):
        batch = collected(loader_of(lengths, split=split, preset=preset(name), modalities=["audio"]).epoch(1))
        assert batch.audio.shape == (len(batch), 1, *audio.shape)
        for clip_id, ours in zip(batch.clip_id.tolist(), batch.audio, strict=True):
            waveform, rate = soundfile.read(io.BytesIO(lengths.audio_bytes(clip_id).tobytes()))
            start = 0
            if audio.window == "random" and split == "test":
                start = max(0, (len(waveform) - 80_000) // 2)
            elif audio.window == "random":
                one, length = np.array([clip_id]), np.array([len(waveform)])
                start = int(random_windows(one, length, np.array([80_000]), seed=0, epoch=1)[0])
            assert rate == audio.sample_rate_hz
            expected = audio_oracle(torch.from_numpy(waveform), audio, start=start)
            assert (ours[0] - expected).abs().median() < 1e-4


@pytest.mark.parametrize(
    ("name", "rate_hz", "said"),
    [("vggsound-ogm", 48_000, "sound is brought from 48000 to 16000 Hz"), ("paper", 48_000, ""), ("paper", 16_000, "")],
)
def test_that_sound_is_resampled_is_said_where_packing_could_spare_it(tmp_path, name, rate_hz, said):
    dataset = Dataset(make_dataset(tmp_path / "dataset", clips={"train": 2}, seconds=1.0, sample_rate=rate_hz))
    with closing(loader_of(dataset, preset=preset(name))) as loader:
        assert loader.resampling_text.startswith(said) and bool(loader.resampling_text) == bool(said)


def test_random_windows_change_with_the_epoch_and_middle_ones_do_not(lengths):
    for split, changes in (("train", True), ("test", False)):
        loader = loader_of(lengths, split=split, preset=preset("vggsound-ogm"), modalities=["audio"])
        first, second = (collected(loader.epoch(epoch)) for epoch in (0, 1))
        for clip_id in first.clip_id.tolist():
            same = torch.equal(first.audio[first.clip_id == clip_id], second.audio[second.clip_id == clip_id])
            assert same != (changes and lengths.samples[clip_id] > 80_000)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"balanced-av"}))
def test_every_preset_has_a_stock_clip_of_silence(copied, name):
    whole = collected(loader_of(copied, preset=preset(name)).epoch(0))
    damage_audio(copied, 3)
    batch = collected(loader_of(copied, preset=preset(name)).epoch(0))
    assert batch.clip_id[~batch.valid].tolist() == [3]
    assert_equal_batches(batch.select(batch.valid), whole.select(whole.clip_id != 3))
    stock = batch.select(~batch.valid)
    assert torch.isfinite(stock.audio).all() and float(stock.audio.max() - stock.audio.min()) < 1e-5
    assert stock.frames.shape == (1, PRESETS[name].visual.frames, 3, *whole.frames.shape[-2:])


def test_a_preset_that_wants_the_middle_of_each_second_refuses_other_frames(copied):
    balanced = preset("balanced-av")
    with pytest.raises(DatasetError, match=r"copy: .* 0 s .*balanced-av.*`frame_phase_seconds = 0.5` in the recipe"):
        loader_of(copied, preset=balanced)
    loader = loader_of(copied, preset=balanced, modalities=["audio"])  # hears what it always does
    assert collected(loader.epoch(0)).audio.shape[1:] == (1, 257, 1003)
    with pytest.raises(DatasetError, match="balanced-av"):
        next(loader.epoch(0, modalities=MODALITIES))
    description = json.loads((copied.path / DESCRIPTION_FILE).read_text())
    (copied.path / DESCRIPTION_FILE).write_text(json.dumps(description | {"frame_phase_seconds": 0.5}))
    batch = collected(loader_of(Dataset(copied.path), preset=balanced).epoch(0))
    assert batch.valid.all() and batch.frames.shape == (23, 1, 3, 224, 224)


def test_threads_and_prefetch_change_nothing(dataset):
    one = collected(loader_of(dataset).epoch(1))
    other = collected(loader_of(dataset, threads=3, prefetch=4).epoch(1))
    assert_equal_batches(one, other)


def test_an_epoch_resumed_anywhere_goes_on_with_the_same_batches(dataset):
    whole = list(loader_of(dataset).epoch(2))
    for first in range(5):
        rest = list(loader_of(dataset).epoch(2, first_batch=first))
        assert [batch.position for batch in rest] == list(range(first, 4))
        for batch in rest:
            assert_equal_batches(batch, whole[batch.position])


def test_resuming_reads_nothing_of_the_batches_before(copied):
    loader = loader_of(copied)
    clips = [batch.clip_id.tolist() for batch in loader.epoch(0)]
    for clip_id in clips[0] + clips[1]:
        damage_audio(copied, clip_id)
        damage_frames(copied, clip_id)
    assert collected(loader.epoch(0, first_batch=2)).valid.all()
    assert not loader.bad_clips


def test_state_is_the_next_batch_to_come(dataset):
    loader = loader_of(dataset)
    iterator = loader.epoch(5)
    taken = [next(iterator), next(iterator)]
    assert loader.state_dict() == {"epoch": 5, "batch": 2}
    iterator.close()
    state = loader.state_dict()
    rest = list(loader_of(dataset).epoch(state["epoch"], first_batch=state["batch"]))
    assert_equal_batches(collected([*taken, *rest]), collected(loader_of(dataset).epoch(5)))
    assert collected(loader.epoch(5)) is not None and loader.state_dict() == {"epoch": 5, "batch": 4}


def test_random_choices_belong_to_clip_epoch_and_seed(dataset):
    def by_clip(**options):
        epoch = options.pop("epoch", 0)
        batch = collected(loader_of(dataset, **options).epoch(epoch))
        return batch.frames[batch.clip_id.argsort()]

    first = by_clip()
    assert torch.equal(first, by_clip(batch_size=5, shuffle_shards=1))  # in another order, in other batches
    for other in (by_clip(epoch=1), by_clip(seed=1)):
        assert all(not torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_evaluation_goes_through_ascending_ids_and_is_the_same_each_epoch(dataset):
    ids = dataset.clip_ids("test")
    loader = Loader(dataset, ids[::-1].copy(), preset=TINY, batch_size=2, seed=0, training=False)
    first, second = collected(loader.epoch(0)), collected(loader.epoch(1))
    assert first.clip_id.tolist() == ids.tolist()
    assert_equal_batches(first, second)


def test_frames_of_a_clip_share_crop_and_flip(tmp_path):
    path = make_dataset(tmp_path / "data", clips={"train": 8}, seconds=1.0, sample_rate=16_000, size=(80, 60))
    three = Preset("three", TINY.audio, VisualPreset(frames=3, height=64, width=64))
    batch = collected(loader_of(Dataset(path), preset=three, modalities=["visual"]).epoch(0))
    assert batch.frames.shape == (8, 3, 3, 64, 64)
    # A clip of one frame shows it three times: equal only if crop and flip are.
    assert torch.equal(batch.frames[:, 0], batch.frames[:, 1]) and torch.equal(batch.frames[:, 0], batch.frames[:, 2])


@pytest.mark.parametrize(("modality", "other"), [("audio", damage_frames), ("visual", damage_audio)])
def test_one_modality_touches_nothing_of_the_other(copied, modality, other):
    both = collected(loader_of(copied).epoch(0))
    for clip_id in copied.clip_ids("train"):
        other(copied, clip_id)
    loader = loader_of(copied, modalities=[modality])
    alone = collected(loader.epoch(0))
    assert alone.valid.all() and not loader.bad_clips
    if modality == "audio":
        assert alone.frames is None and torch.equal(alone.audio, both.audio)
    else:
        assert alone.audio is None and torch.equal(alone.frames, both.frames)
    assert not collected(loader_of(copied).epoch(0)).valid.any()  # the damage is real


def test_each_epoch_may_decode_other_modalities(dataset):
    loader = loader_of(dataset)
    assert all(batch.audio is not None and batch.frames is not None for batch in loader.epoch(0))
    assert all(batch.audio is None and batch.frames is not None for batch in loader.epoch(1, modalities=["visual"]))
    assert all(batch.audio is None and batch.frames is None and len(batch) for batch in loader.epoch(2, modalities=()))
    with pytest.raises(UsageError, match=r"unknown modality 'vidual'.*'visual'"):
        next(loader.epoch(3, modalities=["vidual"]))


@pytest.mark.parametrize(("harm", "what"), [(damage_audio, "audio has checksum"), (damage_frames, "frame .* checksum")])
def test_bad_bytes_make_a_stock_clip_that_is_reported_and_harm_no_other(copied, harm, what):
    sound = collected(loader_of(copied).epoch(0))
    harm(copied, 3)
    loader = loader_of(copied)
    batch = collected(loader.epoch(0))
    assert batch.clip_id[~batch.valid].tolist() == [3] == list(loader.bad_clips)
    assert re.search(what, loader.bad_clips[3])
    assert_equal_batches(batch.select(batch.valid), sound.select(sound.clip_id != 3))
    stock = batch.select(~batch.valid)
    assert stock.audio.unique().numel() == 1 and torch.isfinite(stock.audio).all()  # silence
    assert stock.frames[0].flatten(2).std(-1).max() < 1e-6  # one colour


@pytest.mark.parametrize("mapped_before", [True, False])
def test_a_shard_cut_short_after_it_was_opened_makes_bad_clips_not_a_dead_process(copied, mapped_before):
    loader = loader_of(copied)
    if mapped_before:
        assert collected(loader.epoch(0)).valid.all()
    last = int(copied.clip_ids("train")[-1])
    shard = copied.path / shard_name(int(copied.shards[last]))
    os.truncate(shard, int(copied.audio_offsets[last]) + 10)
    batch = collected(loader.epoch(1))
    assert batch.clip_id[~batch.valid].tolist() == [last]
    assert "ends at byte" in loader.bad_clips[last] and shard.name in loader.bad_clips[last]


def test_the_clips_of_a_shard_that_is_gone_are_bad_ones(copied):
    loader = loader_of(copied)
    (copied.path / shard_name(0)).unlink()
    batch = collected(loader.epoch(0))
    gone = [clip for clip in copied.clip_ids("train").tolist() if copied.shards[clip] == 0]
    assert sorted(batch.clip_id[~batch.valid].tolist()) == gone == sorted(loader.bad_clips)
    assert set(loader.bad_clips.values()) == {"shard-000000.tar cannot be read (No such file or directory)"}


@pytest.fixture(params=MODALITIES)
def undecodable(request, tmp_path) -> tuple[Dataset, str]:
    """Nine clips, and the modality of clip 4 that is junk with a checksum that fits, as if it had been packed so."""
    dataset = Dataset(make_dataset(tmp_path / "data", clips={"train": 9}, sample_rate=16_000, seconds=1.0))
    if request.param == "audio":
        offset, size = int(dataset.audio_offsets[4]), int(dataset.audio_sizes[4])
    else:
        row = int(dataset.frames.first[4])
        offset, size = int(dataset.frames.offset[row]), int(dataset.frames.size[row])
    junk = np.resize(np.frombuffer(b"\x01junk", np.uint8), size).tobytes()
    with (dataset.path / shard_name(int(dataset.shards[4]))).open("r+b") as file:
        file.seek(offset)
        file.write(junk)
    if request.param == "audio":
        dataset.audio_checksums = dataset.audio_checksums.copy()
        dataset.audio_checksums[4] = checksum(junk)
    else:
        checksums = dataset.frames.checksum.copy()
        checksums[row] = checksum(junk)
        dataset.frames = replace(dataset.frames, checksum=checksums)
    return dataset, request.param


@pytest.mark.parametrize("prefetch", [1, 3])
def test_sound_bytes_that_cannot_be_decoded_make_a_stock_clip_and_harm_no_other(undecodable, prefetch):
    dataset, modality = undecodable
    loader = loader_of(dataset, batch_size=2, prefetch=prefetch)
    batch = collected(loader.epoch(0))
    assert batch.clip_id[~batch.valid].tolist() == [4]
    assert loader.bad_clips == {4: f"{modality} is as it was packed but cannot be decoded"}
    others = collected(loader_of(dataset, batch_size=2).epoch(0, left_out=[4]))
    assert torch.equal(batch.clip_id, others.clip_id) and len(batch) == 9
    assert_equal_batches(batch.select(batch.valid), others.select(others.valid))
    again = collected(loader.epoch(1, left_out=loader.bad_clips))  # by the same pipelines
    assert again.clip_id[~again.valid].tolist() == [4]


def test_leaving_an_epoch_before_a_clip_that_cannot_be_decoded_harms_nothing(undecodable):
    dataset, _ = undecodable
    loader = loader_of(dataset, batch_size=1, training=False, prefetch=4)
    for _ in range(2):
        iterator = loader.epoch(0)
        assert [next(iterator).clip_id.item() for _ in range(2)] == [0, 1]  # 4 is being worked on
        iterator.close()
    batch = collected(loader.epoch(0))
    assert batch.clip_id.tolist() == list(range(9)) and batch.clip_id[~batch.valid].tolist() == [4]


def test_an_abandoned_epoch_leaves_no_thread_and_another_can_start(dataset):
    loader = loader_of(dataset, batch_size=2)
    for _ in range(3):
        iterator = loader.epoch(0)
        next(iterator)
        del iterator
    first = loader.epoch(0)
    next(first)
    assert len(collected(loader.epoch(1))) == 23
    with pytest.raises(RuntimeError, match="another epoch was started"):
        next(first)
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "avbench-loader"]


def test_a_process_that_leaves_in_the_middle_of_an_epoch_ends_cleanly(dataset):
    program = (
        "import sys\n"
        "from avbench.dataset import Dataset\n"
        "from avbench.loading.presets import preset\n"
        "from avbench.loading.loader import Loader\n"
        "data = Dataset(sys.argv[1])\n"
        "loader = Loader(data, data.clip_ids('train'), preset=preset('tiny'), batch_size=2, seed=0, training=True)\n"
        "batches = loader.epoch(0)\n"
        "next(batches)\n"
        "print('left')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(dataset.path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr


def own_memory() -> int:
    """Resident bytes of this process that are no pages of mapped files."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["RssAnon"].split()[0])


@pytest.mark.slow
def test_memory_stays_flat_over_epochs(tmp_path):
    dataset = Dataset(make_dataset(tmp_path / "data", clips={"train": 12}, size=(340, 256), seconds=10.0))
    # Batches of 40 MB, few an epoch: what made glibc's heaps grow by hundreds of megabytes.
    clip_ids = np.resize(np.arange(len(dataset)), 96)
    loader = Loader(dataset, clip_ids, preset=preset("paper"), batch_size=24, seed=0, training=True)
    resident = []
    for epoch in range(20):
        for _ in loader.epoch(epoch):
            pass
        resident.append(own_memory())
    assert resident[-1] - resident[0] < 50e6


@pytest.mark.parametrize("name", ["batch_size", "threads", "prefetch"])
def test_numbers_below_one_are_refused(dataset, name):
    with pytest.raises(UsageError, match=f"{name} is 0; the loader needs at least 1"):
        loader_of(dataset, **{name: 0})


def test_no_clips_are_refused(dataset):
    with pytest.raises(DatasetError, match="no clips to load"):
        Loader(dataset, np.empty(0, np.int64), preset=TINY, batch_size=2, seed=0, training=True)


def test_what_is_left_out_is_looked_up_and_not_listed_for_every_batch(copied):
    class OnlyAsked(frozenset):
        def __iter__(self):
            raise AssertionError("a list of all that is left out was made")

    ids = copied.clip_ids("train")[:6]
    reader = Reader(copied, TINY, MODALITIES, left_out=OnlyAsked(ids[[1, 4]].tolist()), spectrogram=None)
    damage_audio(copied, int(ids[2]))
    nothing, boxes = np.zeros(6, np.int64), np.tile([0, 0, 8, 8], (6, 1))
    crops = Crops(nothing[:, None], boxes, nothing.astype(bool))
    prepared = reader.prepare(3, ids, nothing, crops)
    assert prepared.valid.tolist() == [True, False, False, True, False, True]
    assert list(prepared.bad) == [ids[2]]
    none = reader.prepare(4, ids[:0], nothing[:0], Crops(nothing[:0, None], boxes[:0], nothing[:0].astype(bool)))
    assert none.valid.tolist() == [] and none.valid.dtype == bool
