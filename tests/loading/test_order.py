"""The order and every random choice: pure functions, so tested without processes."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from avbench.loading.order import (
    EpochOrder,
    SequentialOrder,
    ShardWindows,
    Stream,
    crop_boxes,
    flips,
    middle_frames,
    middle_windows,
    random_frames,
    random_windows,
    uniforms,
)

SIZES = {"clips": st.integers(1, 400), "batch_size": st.integers(1, 64), "world_size": st.integers(1, 9)}
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def whole_epoch(order: EpochOrder) -> np.ndarray:
    return np.concatenate(order.rank_slices(range(len(order)), 0, 1))


@settings(max_examples=40, deadline=None)
@given(**SIZES, seed=st.integers(-5, 2**40), epoch=st.integers(0, 1000))
def test_every_clip_is_seen_once_an_epoch_at_any_world_size(clips, batch_size, world_size, seed, epoch):
    ids = np.arange(0, 3 * clips, 3) + 7
    order = EpochOrder(ids, seed, epoch, batch_size)
    slices = [order.rank_slices(range(len(order)), rank, world_size) for rank in range(world_size)]
    seen = np.concatenate([clip_ids for of_rank in slices for clip_ids in of_rank])
    assert sorted(seen) == ids.tolist()
    for number in range(len(order)):
        of_batch = [of_rank[number] for of_rank in slices]
        np.testing.assert_array_equal(np.concatenate(of_batch), order.batch(number))
        lengths = [len(clip_ids) for clip_ids in of_batch]
        assert max(lengths) - min(lengths) <= 1


@settings(max_examples=25, deadline=None)
@given(clips=st.integers(1, 3000), batch_size=st.integers(1, 64))
def test_batch_sizes_differ_by_at_most_one_and_none_is_too_large(clips, batch_size):
    order = EpochOrder(range(clips), 0, 0, batch_size)
    lengths = [len(clip_ids) for clip_ids in order.rank_slices(range(len(order)), 0, 1)]
    assert len(order) == math.ceil(clips / batch_size)
    assert max(lengths) - min(lengths) <= 1 and max(lengths) <= batch_size


def test_a_range_an_array_and_a_mapped_file_give_the_same_batches(tmp_path):
    ids = np.arange(100, 1100)
    np.save(tmp_path / "ids.npy", ids)
    orders = [
        EpochOrder(some, 3, 1, 32) for some in (range(100, 1100), ids, np.load(tmp_path / "ids.npy", mmap_mode="r"))
    ]
    for other in orders[1:]:
        np.testing.assert_array_equal(whole_epoch(orders[0]), whole_epoch(other))


def test_one_batch_of_a_billion_clips_needs_no_shuffled_copy():
    order = EpochOrder(range(1_000_000_000), 0, 0, 64)
    batch = order.batch(10_000_000)
    assert batch.dtype == np.int64 and len(set(batch.tolist())) == 64
    assert batch.min() >= 0 and batch.max() < 1_000_000_000


def test_epochs_and_seeds_give_unrelated_orders():
    orders = [whole_epoch(EpochOrder(range(2000), seed, epoch, 50)) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    for i, first in enumerate(orders):
        assert abs(stats.spearmanr(first, np.arange(2000)).statistic) < 0.08
        for second in orders[i + 1 :]:
            assert abs(stats.spearmanr(first, second).statistic) < 0.08
            assert np.mean(first == second) < 0.01


@pytest.mark.parametrize("clips", [2, 3, 4, 5])
def test_all_orders_of_a_few_clips_are_equally_likely(clips):
    counts = Counter(tuple(EpochOrder(range(clips), 0, epoch, clips).batch(0)) for epoch in range(2400))
    observed = [*counts.values(), *[0] * (math.factorial(clips) - len(counts))]
    assert stats.chisquare(observed).pvalue > 1e-3


def test_every_clip_is_equally_likely_at_every_place():
    clips, epochs = 50, 1500
    orders = np.stack([EpochOrder(range(clips), 5, epoch, clips).batch(0) for epoch in range(epochs)])
    table = np.stack([np.bincount(orders[:, place], minlength=clips) for place in range(clips)])
    # The 50 x 50 table has 49 x 49 degrees of freedom: rows and columns add up by construction.
    statistic = ((table - epochs / clips) ** 2 / (epochs / clips)).sum()
    assert 1e-3 < stats.chi2.sf(statistic, 49 * 49) < 1 - 1e-3
    # Neighbours in the list are no neighbours in the epoch.
    places = np.argsort(orders, axis=1)
    gaps = np.abs(np.diff(places, axis=1)).ravel()
    assert gaps.mean() == pytest.approx((clips + 1) / 3, rel=0.02)


def test_mixing_is_good_at_the_size_of_a_real_dataset():
    order = whole_epoch(EpochOrder(range(100_000), 0, 0, 64))
    np.testing.assert_array_equal(np.sort(order), np.arange(100_000))
    # Independent pairs of neighbours, as a 32 x 32 table, against uniform.
    table = np.histogram2d(order[::2], order[1::2], bins=32)[0]
    assert 1e-3 < stats.chisquare(table.ravel()).pvalue < 1 - 1e-3


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12), shards=st.integers(1, 14), seed=st.integers(0, 99)
)
def test_windows_of_shards_see_every_clip_once_and_few_shards_at_a_time(lengths, shards, seed):
    shard_of_clip = np.repeat(np.arange(len(lengths)), lengths)
    windows = ShardWindows.of(shard_of_clip, shards=shards)
    order = EpochOrder(range(len(shard_of_clip)), seed, 0, 7, windows)
    seen = whole_epoch(order)
    assert sorted(seen) == list(range(len(shard_of_clip)))
    open_at = [(np.flatnonzero(shard_of_clip[seen] == shard)[[0, -1]]) for shard in range(len(lengths))]
    for place in range(len(seen)):
        assert sum(first <= place <= last for first, last in open_at) <= shards
    for number in range(len(order)):  # one by one as all at once
        np.testing.assert_array_equal(
            order.rank_slices(range(len(order)), 1, 3)[number], order.rank_slice(number, 1, 3)
        )


def test_windows_of_shards_shuffle_both_shards_and_clips():
    shard_of_clip = np.repeat(np.arange(20), 50)
    windows = ShardWindows.of(shard_of_clip, shards=4)
    seen = whole_epoch(EpochOrder(range(1000), 0, 0, 50, windows))
    visited = [set(shard_of_clip[seen[first : first + 200]]) for first in range(0, 1000, 200)]
    assert all(len(some) == 4 for some in visited) and visited[0] != {0, 1, 2, 3}
    assert abs(stats.spearmanr(seen[:200], np.arange(200)).statistic) < 0.25
    assert np.mean(np.diff(shard_of_clip[seen]) == 0) < 0.4


def test_evaluation_goes_through_the_list_as_it_is():
    order = SequentialOrder(np.array([4, 8, 15, 16, 23]), 2)
    assert [order.batch(number).tolist() for number in range(3)] == [[4], [8, 15], [16, 23]]
    with pytest.raises(IndexError, match="batch 3 of an epoch of 3 batches"):
        order.batch(3)


def test_a_clips_numbers_do_not_depend_on_its_batch():
    ids = np.array([5, 1, 900_000_000_000, 7])
    together = uniforms(ids, seed=1, epoch=2, stream=Stream.CROP, count=6)
    for row, clip_id in enumerate(ids):
        np.testing.assert_array_equal(
            uniforms(ids[row : row + 1], seed=1, epoch=2, stream=Stream.CROP, count=6)[0], together[row], str(clip_id)
        )


def test_random_numbers_are_uniform_and_their_keys_independent():
    ids = np.arange(20_000)
    draws = {
        key: uniforms(ids, seed=key[0], epoch=key[1], stream=key[2], count=2)
        for key in [(0, 0, Stream.CROP), (0, 0, Stream.FLIP), (0, 1, Stream.CROP), (1, 0, Stream.CROP)]
    }
    columns = np.concatenate(list(draws.values()), axis=1)
    assert columns.min() >= 0 and columns.max() < 1
    for column in columns.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 4 / math.sqrt(len(ids))
    for before, after in pairwise(columns.T):
        assert stats.chisquare(np.histogram2d(before, after, bins=16)[0].ravel()).pvalue > 1e-3


@pytest.mark.parametrize(("width", "height"), [(340, 256), (256, 455), (256, 256), (1000, 20)])
def test_crop_boxes_are_distributed_as_torchvisions(width, height):
    count = 3000
    ids = np.arange(count)
    ours = crop_boxes(ids, np.full(count, width), np.full(count, height), seed=0, epoch=0, scale=SCALE, ratio=RATIO)
    torch.manual_seed(0)
    picture = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(picture, list(SCALE), list(RATIO)) for _ in range(count)])
    for ours_column, theirs_column in zip(ours.T, theirs[:, [1, 0, 3, 2]].T, strict=True):
        assert stats.ks_2samp(ours_column, theirs_column).pvalue > 1e-3
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= width).all() and (ours[:, 1] + ours[:, 3] <= height).all()


def test_flips_are_fair_and_new_each_epoch():
    ids = np.arange(10_000)
    first, second = (flips(ids, seed=0, epoch=epoch) for epoch in (0, 1))
    assert stats.binomtest(int(first.sum()), len(ids)).pvalue > 1e-3
    assert stats.binomtest(int((first == second).sum()), len(ids)).pvalue > 1e-3


def test_a_random_frame_comes_from_each_part_of_the_clip():
    ids, counts = np.arange(9000), np.full(9000, 10)
    one = random_frames(ids, counts, seed=0, epoch=0, count=1)
    assert stats.chisquare(np.bincount(one[:, 0], minlength=10)).pvalue > 1e-3
    three = random_frames(ids, np.full(9000, 9), seed=0, epoch=0, count=3)
    for part in range(3):
        assert stats.chisquare(np.bincount(three[:, part], minlength=9)[3 * part : 3 * part + 3]).pvalue > 1e-3


def test_middle_frames_by_hand_also_of_clips_with_too_few():
    assert middle_frames(np.array([10, 9, 1, 2]), count=1).tolist() == [[5], [4], [0], [1]]
    assert middle_frames(np.array([9, 2, 1]), count=3).tolist() == [[1, 4, 7], [0, 1, 1], [0, 0, 0]]


@given(
    lengths=st.lists(st.integers(1, 2**31), min_size=1, max_size=50),
    window=st.integers(1, 2**31),
    seed=st.integers(-5, 2**40),
    epoch=st.integers(0, 1000),
)
def test_windows_lie_inside_their_clips_and_begin_with_those_that_are_too_short(lengths, window, seed, epoch):
    clip_ids, windows = np.arange(len(lengths)), np.full(len(lengths), window)
    for starts in (
        random_windows(clip_ids, np.array(lengths), windows, seed=seed, epoch=epoch),
        middle_windows(np.array(lengths), windows),
    ):
        assert starts.dtype == np.int64
        for start, length in zip(starts.tolist(), lengths, strict=True):
            assert start == 0 if length <= window else 0 <= start <= length - window


def test_random_windows_belong_to_clip_epoch_and_seed():
    clip_ids, lengths, windows = np.arange(50), np.arange(160_000, 160_050), np.full(50, 80_000)
    starts = random_windows(clip_ids, lengths, windows, seed=1, epoch=2)
    some = np.array([40, 7, 21])
    np.testing.assert_array_equal(random_windows(some, lengths[some], windows[some], seed=1, epoch=2), starts[some])
    for key in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert (random_windows(clip_ids, lengths, windows, **key) != starts).all()
    assert (np.unique(starts).size, random_windows(some[:0], lengths[:0], windows[:0], seed=1, epoch=2).size) == (50, 0)


def test_random_windows_start_anywhere_with_equal_probability():
    clip_ids = np.arange(6_000)
    starts = random_windows(clip_ids, np.full(6_000, 7), np.full(6_000, 5), seed=0, epoch=0)
    assert stats.chisquare([(starts == place).sum() for place in range(3)]).pvalue > 1e-3


def test_the_middle_window_has_as_much_before_it_as_behind():
    np.testing.assert_array_equal(middle_windows(np.array([10, 11, 4]), np.array([4, 4, 4])), [3, 3, 0])
