"""Averages, heatmap and subsets against numbers worked out by hand and NumPy's own histogram."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avbench.analysis.measures.discrepancy import (
    HEATMAP_BINS,
    average_over_epochs,
    average_over_seeds,
    discrepancy,
    heatmap,
    subsets,
)

PAIRS = hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(1, 60)), elements=st.floats(0, 1))


def test_discrepancy_is_audio_minus_visual():
    np.testing.assert_array_equal(
        discrepancy(np.array([1.0, 0.0, 0.5, 0.75]), np.array([0.0, 1.0, 0.5, 0.25])), [1.0, -1.0, 0.0, 0.5]
    )


@pytest.mark.parametrize(
    ("audio", "visual", "message"),
    [
        ([0.5, np.nan], [0.5, 0.5], "1 audio confidences are not in"),
        ([0.5, 0.5], [np.nan, np.nan], "2 visual confidences are not in"),
        ([0.5, 1.5], [0.5, 0.5], "the first is 1.5 in row 1"),
        ([0.5], [0.5, 0.5], "two .N,. arrays"),
        ([[0.5]], [[0.5]], "two .N,. arrays"),
    ],
)
def test_a_confidence_that_is_none_is_an_error_not_a_number(audio, visual, message):
    for function in (discrepancy, heatmap):
        with pytest.raises(ValueError, match=message):
            function(np.array(audio), np.array(visual))


def test_heatmap_cells_by_hand():
    audio = np.array([0.0, 0.005, 0.01, 0.29, 0.58, 0.99, 1.0, 1.0, np.nextafter(0.01, 0)])
    visual = np.array([0.0, 0.0, 0.0, 0.57, 1.0, 0.99, 1.0, 0.5, 0.0])
    expected = np.zeros((100, 100), int)
    expected[0, 0] = 3  # 0, 0.005 and the last number below 0.01
    expected[0, 1] = 1  # 0.01 opens bin 1
    expected[57, 29] = 1  # int(0.29 * 100) is 28, int(0.57 * 100) is 56
    expected[99, 58] = 1
    expected[99, 99] = 2  # 0.99 opens the last bin, 1 is in it too
    expected[50, 99] = 1
    counts = heatmap(audio, visual)
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype == np.int64


def test_every_hundredth_opens_its_own_bin():
    edges = np.array([float(f"0.{k:02d}") for k in range(100)])
    np.testing.assert_array_equal(heatmap(edges, np.zeros(100))[0], np.ones(100))


@given(PAIRS)
def test_heatmap_is_numpys_two_dimensional_histogram(pair):
    audio, visual = pair
    edges = np.arange(HEATMAP_BINS + 1) / HEATMAP_BINS
    np.testing.assert_array_equal(heatmap(audio, visual), np.histogram2d(visual, audio, bins=[edges, edges])[0])


@pytest.mark.parametrize(
    ("threshold", "audio", "visual", "tie"),
    [
        (0.0, [0, 1, 2], [4, 5, 6], [3]),
        (0.25, [0, 1], [5, 6], [2, 3, 4]),  # +-0.25 itself is not above 0.25
        (0.5, [0], [6], [1, 2, 3, 4, 5]),
        (0.999, [0], [6], [1, 2, 3, 4, 5]),
    ],
)
def test_subsets_by_hand(threshold, audio, visual, tie):
    parts = subsets(np.array([1.0, 0.5, 0.25, 0.0, -0.25, -0.5, -1.0]), threshold)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in parts.items()} == {
        "audio": audio,
        "visual": visual,
        "tie": tie,
    }


@given(PAIRS, st.floats(0, 1, exclude_max=True))
def test_every_clip_is_in_exactly_one_subset(pair, threshold):
    parts = subsets(discrepancy(*pair), threshold)
    np.testing.assert_array_equal(sum(mask.astype(int) for mask in parts.values()), 1)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, np.nan])
def test_a_threshold_outside_of_its_range_is_an_error(threshold):
    with pytest.raises(ValueError, match="a threshold must be in"):
        subsets(np.zeros(3), threshold)


def test_a_clip_without_discrepancy_belongs_to_no_subset():
    with pytest.raises(ValueError, match="belongs to no subset"):
        subsets(np.array([0.5, np.nan]), 0.0)


def test_average_counts_only_the_epochs_that_recorded_a_clip():
    nan = np.nan
    epochs = (np.array(values) for values in ([0.5, nan, nan], [1.0, 0.25, nan], [0.0, 0.75, nan]))
    np.testing.assert_array_equal(average_over_epochs(epochs), [0.5, 0.5, nan])


def test_average_over_seeds_leaves_a_clip_out_that_one_seed_lacks():
    seeds = {3: np.array([0.5, np.nan, 0.25]), 1: np.array([1.0, 0.5, 0.25])}
    np.testing.assert_array_equal(average_over_seeds(seeds), [0.75, np.nan, 0.25])


def test_an_average_over_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one epoch"):
        average_over_epochs([])
    with pytest.raises(ValueError, match="at least one seed"):
        average_over_seeds({})


@pytest.mark.parametrize(
    ("audio", "visual", "threshold"),
    [(0.9, 0.7, 0.2), (0.6, 0.4, 0.2), (0.7, 0.5, 0.2), (0.8, 0.6, 0.2), (0.9, 0.5, 0.4), (1.0, 0.6, 0.4)],
)
def test_a_clip_that_lies_on_a_threshold_in_decimals_is_beyond_it_on_no_side(audio, visual, threshold):
    for one, other in ((audio, visual), (visual, audio)):
        parts = subsets(discrepancy(np.array([one]), np.array([other])), threshold)
        assert {name: bool(mask[0]) for name, mask in parts.items()} == {"audio": False, "visual": False, "tie": True}
    (beyond,) = subsets(discrepancy(np.array([audio]), np.array([visual - 1e-12])), threshold)["audio"]
    assert beyond


def test_equal_means_of_decimals_are_ties_and_tiny_differences_are_not():
    audio = average_over_seeds({0: np.array([0.1, 1e-20, 0.3]), 1: np.array([0.2, 1e-20, 0.3])})
    visual = average_over_seeds({0: np.array([0.15, 1e-21, 0.3]), 1: np.array([0.15, 1e-21, np.nextafter(0.3, 1)])})
    assert audio[0] != visual[0]  # by rounding
    found = subsets(discrepancy(audio, visual), 0)
    np.testing.assert_array_equal(found["tie"], [True, False, True])
    np.testing.assert_array_equal(found["audio"], [False, True, False])
