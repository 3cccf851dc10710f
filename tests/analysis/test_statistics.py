"""Exact tests and intervals against SciPy, by counting all cases, and by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from avbench.analysis.measures.statistics import (
    P_FLOOR,
    binomial_interval,
    holm,
    is_few,
    mean_interval,
    resamples_of,
    sign_flip_p,
)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
@settings(deadline=None)
def test_a_sign_flip_test_counts_all_ways_to_choose_signs(differences):
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([total >= observed for total in sums])
    assert sign_flip_p(np.array(differences)) == pytest.approx(expected, abs=1e-11)


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 50))
@settings(deadline=None)
def test_one_seed_is_mcnemars_exact_test(first_only, second_only, neither):
    differences = np.repeat([1, -1, 0], [first_only, second_only, neither])
    pairs = first_only + second_only
    expected = stats.binomtest(first_only, pairs).pvalue if pairs else 1.0
    if pairs or neither:
        assert sign_flip_p(differences) == pytest.approx(max(expected, P_FLOOR), abs=1e-11)


@pytest.mark.parametrize("seed", range(4))
def test_a_sign_flip_test_is_scipys_exact_permutation_test(seed):
    right = np.random.default_rng(seed).integers(0, 4, (2, 9))  # of three seeds each; whole, so that sums are exact
    expected = stats.permutation_test(
        tuple(right), lambda a, b: np.sum(a - b), permutation_type="samples", vectorized=False, n_resamples=10**6
    )
    assert sign_flip_p(right[0] - right[1]) == pytest.approx(expected.pvalue, abs=1e-11)


def test_a_large_sign_flip_test_is_an_exact_convolution():
    differences = np.random.default_rng(0).integers(-3, 4, 3000)
    differences[:60] = 3
    chances = np.ones(1)
    for value in (1, 2, 3):
        times = int((np.abs(differences) == value).sum())
        spread = np.zeros(2 * value * times + 1)
        spread[:: 2 * value] = stats.binom.pmf(np.arange(times + 1), times, 0.5)
        chances = np.convolve(chances, spread)
    expected = 2 * chances[len(chances) // 2 + abs(differences.sum()) :].sum()
    assert 1e-4 < expected < 0.5
    assert sign_flip_p(differences) == pytest.approx(expected, abs=1e-11)


def test_a_common_factor_changes_no_p_value():
    differences = np.array([3, -1, 2, 2, 0, -1])
    assert sign_flip_p(differences) == sign_flip_p(6 * differences)


def test_p_values_stay_within_bounds():
    assert sign_flip_p(np.zeros(5, int)) == 1.0
    assert sign_flip_p(np.ones(200, int)) == P_FLOOR


def test_holm_by_hand():
    # Ascending 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 = 0.02, 0.03, 0.06, 0.04; the last may not fall below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_its_definition_rejects(p_values):
    # Step down: reject while the smallest p left is below alpha over the number left.
    alpha, left, rejected = 0.05, sorted(p_values), []
    while left and left[0] < alpha / len(left):
        rejected.append(left.pop(0))
    adjusted = holm(p_values)
    near = any(abs(p * (len(p_values) - rank) - alpha) < 1e-12 for rank, p in enumerate(sorted(p_values)))
    if not near:
        assert sorted(p for p, of in zip(p_values, adjusted, strict=True) if of < alpha) == rejected


@given(st.integers(1, 400), st.floats(0, 1))
@settings(deadline=None)
def test_an_interval_over_one_seed_is_the_binomial_one(clips, share):
    right = (np.arange(clips) < round(clips * share)).astype(int)
    low, high = binomial_interval(np.array([right.sum()]), np.array([clips]))
    assert mean_interval(right, seeds=1) == pytest.approx((low[0], high[0]), abs=1e-12)


@pytest.mark.parametrize("clips", [12, 150])
def test_an_interval_over_seeds_is_scipys_percentile_bootstrap(clips):
    right = np.random.default_rng(clips).choice([0, 1, 3], clips)
    expected = stats.bootstrap(
        (right / 3,), np.mean, n_resamples=20000, method="percentile", vectorized=True, rng=np.random.default_rng(0)
    ).confidence_interval
    low, high = mean_interval(right, seeds=3)
    assert low == pytest.approx(expected.low, abs=1.5 / (3 * clips))
    assert high == pytest.approx(expected.high, abs=1.5 / (3 * clips))


@pytest.mark.parametrize(("seeds", "clips", "right"), [(2, 7, 0), (3, 7, 3), (2, 1, 1), (3, 2, 2), (5, 1000, 5)])
def test_where_every_clip_is_right_as_often_the_interval_is_wilsons_for_so_many_clips(seeds, clips, right):
    low, high = mean_interval(np.full(clips, right), seeds=seeds)
    z, p = stats.norm.ppf(0.975), right / seeds
    # Wilson's ends are the accuracies that differ from p by z of their own standard errors: roots of a parabola.
    roots = np.roots([1 + z**2 / clips, -2 * p - z**2 / clips, p**2])
    assert (low, high) == (pytest.approx(min(roots), abs=1e-9), pytest.approx(max(roots), abs=1e-9))
    assert low < high


def test_few_is_fewer_than_thirty():
    assert [is_few(clips) for clips in (0, 1, 29, 29.5, 30, 31)] == [True, True, True, True, False, False]


def test_resamples_draw_every_clip_alike_and_are_the_same_again():
    def drawn(seed, together):
        return np.concatenate(list(resamples_of(40, resamples=3000, seed=[seed], together=together)))

    counts = drawn(1, 3000)
    assert counts.shape == (3000, 40)
    np.testing.assert_array_equal(counts.sum(axis=1, dtype=int), 40)
    # Each clip's count is Binomial(40, 1/40): mean 1, variance 39/40.
    assert np.abs(counts.mean(axis=0) - 1).max() < 5 * np.sqrt(0.975 / 3000)
    assert counts.var() == pytest.approx(0.975, abs=0.02)
    np.testing.assert_array_equal(counts, drawn(1, 7))  # however many at a time
    assert (counts != drawn(2, 3000)).any()
