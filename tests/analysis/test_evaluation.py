"""Accuracies by hand, intervals and correlation against SciPy, the weighted mean as a property."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score

from avbench.analysis.measures.accuracy import SUBSETS, Scores, accuracy_table, modalities_of, rank_correlation, verdict
from avbench.analysis.measures.seeds import seed_table
from avbench.analysis.measures.statistics import binomial_interval
from avbench.vocabulary import MODALITIES

DISCREPANCY = np.array([0.9, 0.5, 0.1, 0.0, -0.1, -0.3, -0.5, -0.9])


def scores(run, right, *, method=None, seed=0):
    right = np.array(right, bool)
    method = method or run
    read = modalities_of(method)
    return Scores(run, method, seed, right, predictions=right.astype(np.int64), modalities=read)


def three_runs(*, audio="11110000", visual="00001111", baseline="11010011"):
    named = {"baseline": baseline, "visual": visual, "audio": audio}
    return [scores(run, [letter == "1" for letter in right]) for run, right in named.items()]


def test_counts_and_accuracies_by_hand():
    table = accuracy_table(three_runs(), DISCREPANCY, [0.0, 0.2])
    found = {
        (run, subset, threshold): (cell.correct, cell.clips)
        for run in (*MODALITIES, "baseline")
        for threshold in (0.0, 0.2)
        for subset in SUBSETS
        for cell in [table.cell(run, 0, subset, threshold)]
    }
    assert found == {
        ("audio", "overall", 0.0): (4, 8),
        ("audio", "audio", 0.0): (3, 3),
        ("audio", "visual", 0.0): (0, 4),
        ("audio", "tie", 0.0): (1, 1),
        ("audio", "overall", 0.2): (4, 8),
        ("audio", "audio", 0.2): (2, 2),
        ("audio", "visual", 0.2): (0, 3),
        ("audio", "tie", 0.2): (2, 3),
        ("visual", "overall", 0.0): (4, 8),
        ("visual", "audio", 0.0): (0, 3),
        ("visual", "visual", 0.0): (4, 4),
        ("visual", "tie", 0.0): (0, 1),
        ("visual", "overall", 0.2): (4, 8),
        ("visual", "audio", 0.2): (0, 2),
        ("visual", "visual", 0.2): (3, 3),
        ("visual", "tie", 0.2): (1, 3),
        ("baseline", "overall", 0.0): (5, 8),
        ("baseline", "audio", 0.0): (2, 3),
        ("baseline", "visual", 0.0): (2, 4),
        ("baseline", "tie", 0.0): (1, 1),
        ("baseline", "overall", 0.2): (5, 8),
        ("baseline", "audio", 0.2): (2, 2),
        ("baseline", "visual", 0.2): (2, 3),
        ("baseline", "tie", 0.2): (1, 3),
    }
    assert table.cell("baseline", 0, "audio", 0.0).accuracy == 2 / 3


def test_unimodal_rows_come_first_whatever_their_names():
    runs = [scores("a", DISCREPANCY > 0, method="baseline"), scores("z", DISCREPANCY > 0, method="audio")]
    runs += [scores("y", DISCREPANCY > 0, method="visual", seed=seed) for seed in (1, 0)]
    table = accuracy_table(runs, DISCREPANCY, [0.0])
    assert table.rows == (("z", 0), ("y", 0), ("y", 1), ("a", 0))
    assert (table.unimodal, table.multimodal, table.seeds) == (("z", "y"), ("a",), (0, 1))


def test_an_empty_subset_has_no_clips_no_accuracy_and_no_interval():
    table = accuracy_table(three_runs(), DISCREPANCY, [0.95])
    cell = table.cell("audio", 0, "audio", 0.95)
    assert (cell.clips, cell.correct, cell.accuracy, cell.low, cell.high) == (0, 0, None, None, None)
    assert table.mean("audio", "audio", 0.95) is None
    assert table.cell("audio", 0, "tie", 0.95).clips == 8


@given(st.data())
@settings(deadline=None)
def test_overall_is_the_clip_weighted_mean_of_the_three_parts_at_every_threshold(data):
    clips = data.draw(st.integers(1, 40))
    value = st.sampled_from(np.linspace(-1, 1, 21).tolist())
    discrepancies = np.array(data.draw(st.lists(value, min_size=clips, max_size=clips)))
    right = np.array(data.draw(st.lists(st.booleans(), min_size=clips, max_size=clips)))
    thresholds = data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3, unique=True))
    table = accuracy_table([scores("audio", right)], discrepancies, thresholds)
    for threshold in thresholds:
        overall, *parts = (table.cell("audio", 0, subset, threshold) for subset in SUBSETS)
        assert (overall.correct, overall.clips) == (sum(p.correct for p in parts), sum(p.clips for p in parts))
        weighted = sum(part.clips * (part.accuracy or 0.0) for part in parts) / overall.clips
        assert overall.accuracy == pytest.approx(weighted, abs=1e-12)
        assert overall.accuracy == pytest.approx(accuracy_score(np.ones(clips, bool), right), abs=1e-12)


@given(st.integers(1, 5000), st.floats(0, 1))
@settings(deadline=None)
def test_an_interval_holds_its_accuracy_and_stays_in_range(clips, share):
    correct = round(clips * share)
    low, high = binomial_interval(np.array([correct]), np.array([clips]))
    assert 0 <= low[0] <= correct / clips <= high[0] <= 1


@given(st.integers(1, 5000), st.floats(0, 1))
@settings(deadline=None)
def test_intervals_of_one_seed_are_scipys_of_wilson(clips, share):
    correct = round(clips * share)
    expected = stats.binomtest(correct, clips).proportion_ci(0.95, method="wilson")
    low, high = binomial_interval(np.array([correct]), np.array([clips]))
    assert (low[0], high[0]) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))


def test_intervals_of_nothing_everything_and_no_clips():
    low, high = binomial_interval(np.array([0, 3, 0]), np.array([1, 3, 0]))
    # At the ends Wilson's is z^2 / (n + z^2) wide, z^2 = 3.8415.
    np.testing.assert_allclose(low, [0, 1 - 3.8415 / 6.8415, np.nan], atol=1e-4)
    np.testing.assert_allclose(high, [3.8415 / 4.8415, 1, np.nan], atol=1e-4)
    assert (low[0], high[1]) == (0.0, 1.0)


def test_rank_correlation_by_hand():
    # Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6
    assert rank_correlation(np.array([0.1, 0.2, 0.3, 0.4]), np.array([-0.5, -0.9, 0.8, 0.1])) == pytest.approx(0.6)


@pytest.mark.parametrize("estimated", [[0.5, 0.5, 0.5], [0.1]])
def test_rank_correlation_of_a_constant_is_not_defined(estimated):
    assert rank_correlation(np.array(estimated), np.arange(len(estimated), dtype=float)) is None


def test_a_method_wins_only_above_both_networks_on_both_subsets():
    wins = accuracy_table(three_runs(audio="10010000", visual="00001100", baseline="11000111"), DISCREPANCY, [0.0])
    found = verdict(wins, 0.0)
    assert found.winners == ("baseline",)
    assert found.sentence == (
        "At T = 0, baseline beats both unimodal networks on both the audio-preferred clips and "
        "the visual-preferred clips."
    )
    equal = accuracy_table(three_runs(audio="11010000", visual="00001100", baseline="11000111"), DISCREPANCY, [0.0])
    assert verdict(equal, 0.0).winners == ()  # 2 of 3 audio-preferred clips, both


def test_the_other_network_counts_too():
    # Above audio on the audio-preferred clips, but there the visual network is better still.
    table = accuracy_table(three_runs(audio="00010000", visual="11100000", baseline="11001111"), DISCREPANCY, [0.0])
    assert verdict(table, 0.0).winners == ()


def test_a_lost_question_says_by_how_much():
    sentence = verdict(accuracy_table(three_runs(), DISCREPANCY, [0.2]), 0.2).sentence
    assert sentence == (
        "At T = 0.2, baseline does not beat both unimodal networks on both subsets: it reaches 100.0 % on the "
        "audio-dominated clips (audio: 100.0 %) and 66.7 % on the visual-dominated clips (visual: 100.0 %)."
    )


def test_seeds_are_averaged_before_comparing():
    runs = [
        *(scores("audio", DISCREPANCY > 0.2, seed=seed) for seed in (0, 1)),  # 2 of 3
        *(scores("visual", DISCREPANCY < -0.2, seed=seed) for seed in (0, 1)),  # 3 of 4
        scores("baseline", np.ones(8), seed=0),
        scores("baseline", [1, 0, 0, 1, 1, 1, 1, 0], seed=1),  # 1 of 3 and 3 of 4, in the mean 2/3 and 7/8
    ]
    table = accuracy_table(runs, DISCREPANCY, [0.0])
    assert table.mean("baseline", "audio", 0.0) == pytest.approx(2 / 3)
    assert verdict(table, 0.0).winners == ()
    runs[-1] = scores("baseline", [1, 1, 0, 1, 1, 1, 1, 0], seed=1)
    assert verdict(accuracy_table(runs, DISCREPANCY, [0.0]), 0.0).winners == ("baseline",)


def test_an_empty_subset_or_no_multimodal_method_leaves_the_question_open():
    empty = verdict(accuracy_table(three_runs(), np.abs(DISCREPANCY), [0.0]), 0.0)
    assert not empty.answered
    assert empty.sentence == "At T = 0, the question has no answer: no clip is visual-preferred."
    alone = verdict(accuracy_table(three_runs()[1:], DISCREPANCY, [0.0]), 0.0)
    assert not alone.answered


def test_a_method_does_not_beat_its_equal_however_their_seeds_differ():
    """Found by search: as sums of floats, the mean of the first five shares is above that of the other five."""
    of_method, of_networks = (11, 12, 10, 11, 15), (15, 9, 18, 16, 1)  # of 18, 59 together either way
    assert sum(of_method) == sum(of_networks)
    assert np.mean(np.divide(of_method, 18)) > np.mean(np.divide(of_networks, 18))
    found = []
    for run, rights in (("audio", of_networks), ("visual", of_networks), ("baseline", of_method)):
        for seed, right in enumerate(rights):
            found.append(scores(run, np.tile(np.arange(18) < right, 2), seed=seed))
    sides = np.repeat([0.5, -0.5], 18)
    table = accuracy_table(found, sides, [0.0])
    assert table.mean("baseline", "audio", 0.0) == table.mean("audio", "audio", 0.0) == 59 / 90
    assert verdict(table, 0.0).winners == ()
    cells = seed_table(found, sides, [0.0])
    assert {cells.cell(run, "audio", 0.0).mean for run in ("audio", "visual", "baseline")} == {59 / 90}
