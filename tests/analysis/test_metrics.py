"""Class means against scikit-learn on random inputs, resampled, with ties and absent classes; their intervals."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score

from avbench.analysis.measures.accuracy import SUBSETS, Scores, modalities_of
from avbench.analysis.measures.class_scores import HeldScores, Room
from avbench.analysis.measures.metrics import (
    ACCURACY,
    AVERAGE_PRECISION,
    CLASS_ACCURACY,
    MACRO_F1,
    METRICS,
    ClassSums,
    Support,
    centred_interval,
    macro_f1,
    mean_class_accuracy,
)
from avbench.analysis.measures.metrics import metric_table as measured
from avbench.analysis.measures.ranking import Subsets, rankings
from avbench.analysis.measures.statistics import resamples_of
from avbench.analysis.reading.parked_scores import by_class
from avbench.vocabulary import MODALITIES

metric_table = partial(measured, room=Room(by_class, memory_bytes=2 * 10**9, threads=2))


def ranking_of(labels, probabilities, *, memory_bytes=2**30, deep_enough=20_000):
    everything = Subsets.of([np.ones(len(labels), bool)], np.zeros(len(labels)))
    (ranking,) = rankings(
        HeldScores(probabilities),
        labels,
        everything,
        by_class=by_class,
        memory_bytes=memory_bytes,
        deep_enough=deep_enough,
    )
    return ranking


def mean_average_precision_of(labels, probabilities, **options):
    ones = np.ones((1, len(labels)), np.uint8)
    return ranking_of(labels, probabilities, **options).mean_average_precision(ones, np.float64)[0]


def class_means_of(labels, predictions, counts):
    support, (right, guessed) = Support.of(labels).sums(counts), ClassSums.of(labels, predictions).sums(counts)
    return mean_class_accuracy(support, right), macro_f1(support, right, guessed)


@st.composite
def predicted(draw):
    """Labels, predictions, probabilities with ties, and how often each clip counts; classes may be absent."""
    clips, classes = draw(st.integers(1, 25)), draw(st.integers(2, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels, predictions = random.integers(0, classes, (2, clips))
    probabilities = random.integers(0, draw(st.sampled_from([2, 5, 10**6])), (clips, classes)).astype(np.float32)
    counts = random.integers(0, 4, (3, clips))
    counts[:, random.integers(0, clips)] += 1  # a resample without any clip is another test
    return labels, predictions, probabilities, counts.astype(np.uint8)


@given(predicted(), st.sampled_from([0, 2**30]))
@settings(deadline=None)
def test_class_means_are_scikit_learns_of_the_clips_as_often_as_they_count(case, memory_bytes):
    labels, predictions, probabilities, resamples = case
    ranking = ranking_of(labels, probabilities, memory_bytes=memory_bytes)
    found = zip(*class_means_of(labels, predictions, resamples), ranking.mean_average_precision(resamples), strict=True)
    for (accuracy, f1, precision), counts in zip(found, resamples.astype(int), strict=True):
        rows = np.repeat(np.arange(len(labels)), counts)
        y, guessed, scores = labels[rows], predictions[rows], probabilities[rows]
        present = np.unique(y)
        with np.testing.suppress_warnings() as quiet:
            quiet.filter(UserWarning)  # a prediction of a class that is absent
            assert accuracy == pytest.approx(balanced_accuracy_score(y, guessed), abs=1e-6)
        assert f1 == pytest.approx(f1_score(y, guessed, labels=present, average="macro", zero_division=0), abs=1e-6)
        expected = np.mean([average_precision_score(y == name, scores[:, name]) for name in present])
        assert precision == pytest.approx(expected, abs=1e-6)


def test_average_precision_is_scikit_learns_macro_where_every_class_is_present():
    random = np.random.default_rng(3)
    labels, probabilities = random.integers(0, 4, 200), random.random((200, 4)).astype(np.float32)
    expected = average_precision_score(np.eye(4)[labels], probabilities, average="macro")
    assert mean_average_precision_of(labels, probabilities) == pytest.approx(expected, abs=1e-6)


def test_numbers_by_hand():
    labels, predictions = np.array([0, 0, 0, 1, 1, 4]), np.array([0, 0, 1, 1, 0, 2])
    accuracy, f1 = class_means_of(labels, predictions, np.ones((1, 6), np.uint8))
    # Shares right: 2/3, 1/2, 0. F1: 2*2/(3+3), 2*1/(2+2), 0. Class 2 has no clip and is in no mean.
    assert accuracy[0] == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert f1[0] == pytest.approx((2 / 3 + 1 / 2) / 3)
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.6, 0.4]], np.float32)
    # Class 0 is right at rank 1 and, tied with a wrong one, at rank 3: (1/1 + 2/3) / 2. Class 1: 1/1 and 2/3 likewise.
    assert mean_average_precision_of(np.array([0, 1, 0, 1]), probabilities) == pytest.approx((1 + 2 / 3) / 2)


def test_a_resample_without_any_clip_has_no_mean():
    labels, none = np.array([0, 1]), np.zeros((1, 2), np.uint8)
    assert np.isnan(class_means_of(labels, labels, none)).all()
    assert np.isnan(ranking_of(labels, np.eye(2, dtype=np.float32)).mean_average_precision(none)[0])


def test_numbers_are_the_same_on_each_subset_and_whatever_fits_into_memory():
    random = np.random.default_rng(1)
    labels, probabilities = random.integers(0, 3, 50), random.integers(0, 9, (50, 3)).astype(np.float32)
    scores = [Scores("a", "a", seed, labels == 0, labels * 0, probabilities) for seed in (0, 1)]
    discrepancies = np.round(random.uniform(-1, 1, 50), 1)
    tables = [
        metric_table(
            scores, labels, discrepancies, thresholds=[0.3, 0.6], resamples=20, tick=lambda done, total: None,
            room=Room(by_class, memory_bytes=memory_bytes, threads=2),
        )
        for memory_bytes in (0, 2 * 10**9)
    ]  # fmt: skip
    assert tables[0] == tables[1]
    for threshold in (0.3, 0.6):
        for subset, chosen in (("audio", discrepancies > threshold), ("visual", -discrepancies > threshold)):
            assert tables[0].cell("a", AVERAGE_PRECISION, subset, threshold).value == pytest.approx(
                mean_average_precision_of(labels[chosen], probabilities[chosen]), abs=1e-12
            )


def test_small_subsets_have_the_intervals_of_scikit_learn_on_the_clips_that_were_drawn():
    # What the whole bootstrap gives, clip by clip: on small sets nothing is left out.
    random = np.random.default_rng(4)
    labels, probabilities = random.integers(0, 3, 60), random.random((60, 3))
    probabilities[np.arange(60), labels] += 0.3
    discrepancies = random.uniform(-1, 1, 60)
    scores = [Scores("a", "a", 0, probabilities.argmax(axis=1) == labels, probabilities.argmax(axis=1), probabilities)]
    table = metric_table(scores, labels, discrepancies, thresholds=[0.0], resamples=30, tick=lambda done, total: None)
    assert not table.partly
    masks = [np.ones(60, bool), discrepancies > 0, discrepancies < 0]
    for place, (subset, mask) in enumerate(zip(("overall", *MODALITIES), masks, strict=True)):
        y, scored = labels[mask], probabilities[mask]
        values = []
        for counts in resamples_of(mask.sum(), resamples=30, seed=[20230223, place], together=1):
            rows = np.repeat(np.arange(len(y)), counts[0])
            drawn = [average_precision_score(y[rows] == number, scored[rows, number]) for number in np.unique(y[rows])]
            values.append(np.mean(drawn))
        cell = table.cell("a", AVERAGE_PRECISION, subset, 0.0)
        assert (cell.low, cell.high) == pytest.approx(centred_interval(cell.value, np.array(values)), abs=1e-6)


def test_runs_that_do_not_fit_into_memory_together_are_measured_one_after_the_other():
    random = np.random.default_rng(2)
    labels = random.integers(0, 4, 300)
    scores = [
        Scores(run, run, seed, labels == 0, labels * 0, random.random((300, 4)))
        for run in ("a", "b")
        for seed in range(3)
    ]
    discrepancies = random.uniform(-1, 1, 300)

    def table(memory_bytes):
        return metric_table(
            scores, labels, discrepancies, thresholds=[0.0], resamples=20, tick=lambda done, total: None,
            room=Room(by_class, memory_bytes=memory_bytes, threads=2),
        )  # fmt: skip

    # A group a run and seed, and nothing in memory.
    assert table(1) == table(64_000_000)


class TestTable:
    @pytest.fixture(scope="class")
    def made(self):
        random = np.random.default_rng(5)
        labels, discrepancies = random.integers(0, 5, 120), np.round(random.uniform(-1, 1, 120), 1)
        labels[discrepancies < -0.5] %= 3  # so that two classes have no visual-dominated clip
        scores = []
        for run, method, seeds in (("audio", "audio", 2), ("late", "baseline", 2), ("mine", "mine", 1)):
            for seed in range(seeds):
                probabilities = random.random((120, 5)).astype(np.float32)
                probabilities[np.arange(120), labels] += 0.4
                guessed = probabilities.argmax(axis=1)
                given = None if run == "mine" else probabilities
                scores.append(
                    Scores(run, method, seed, guessed == labels, guessed, given, modalities=modalities_of(method))
                )
        ticks = []
        table = metric_table(
            scores, labels, discrepancies, thresholds=[0.0, 0.5], resamples=400, tick=lambda *at: ticks.append(at)
        )
        return scores, labels, discrepancies, table, ticks

    def test_values_are_scikit_learns_averaged_over_seeds(self, made):
        scores, labels, discrepancies, table, _ = made
        audio = discrepancies > 0.5
        for run in ("audio", "late"):
            of_run = [score for score in scores if score.run == run]
            expected = {
                ACCURACY: np.mean([score.correct[audio].mean() for score in of_run]),
                CLASS_ACCURACY: np.mean([balanced_accuracy_score(labels[audio], s.predictions[audio]) for s in of_run]),
                MACRO_F1: np.mean([f1_score(labels[audio], s.predictions[audio], average="macro") for s in of_run]),
                AVERAGE_PRECISION: np.mean(
                    [average_precision_score(np.eye(5)[labels[audio]], s.probabilities[audio]) for s in of_run]
                ),
            }
            for metric in METRICS:
                cell = table.cell(run, metric, "audio", 0.5)
                assert cell.value == pytest.approx(expected[metric], abs=1e-6)
                assert cell.low < cell.value < cell.high
                assert (cell.clips, cell.seeds) == (audio.sum(), 2)

    def test_absent_classes_are_counted(self, made):
        _, _, _, table, _ = made
        assert table.cell("late", MACRO_F1, "visual", 0.5).absent == 2
        assert table.cell("late", MACRO_F1, "visual", 0.5).classes == 3
        assert table.cell("late", MACRO_F1, "overall", 0.5).absent == 0

    def test_overall_is_the_same_at_every_threshold(self, made):
        _, _, _, table, _ = made
        for metric in METRICS:
            at = [table.cell("late", metric, "overall", threshold) for threshold in (0.0, 0.5)]
            assert (at[0].value, at[0].low, at[0].high) == (at[1].value, at[1].low, at[1].high)

    def test_without_probabilities_there_is_no_average_precision(self, made):
        _, _, _, table, _ = made
        cell = table.cell("mine", AVERAGE_PRECISION, "overall", 0.0)
        assert (cell.value, cell.low, cell.high) == (None, None, None)
        assert table.cell("mine", MACRO_F1, "overall", 0.0).value is not None

    def test_every_step_is_told(self, made):
        told = [done for done, _ in made[4]]
        assert {total for _, total in made[4]} == {100}  # per cent
        assert told[-1] == 100
        assert len(told) > 5
        assert told == sorted(set(told))

    def test_it_is_the_same_again(self, made):
        scores, labels, discrepancies, table, _ = made
        again = metric_table(
            scores, labels, discrepancies, thresholds=[0.0, 0.5], resamples=400, tick=lambda done, total: None
        )
        assert again == table

    def test_an_interval_is_as_wide_as_scipys(self, made):
        scores, labels, _, table, _ = made
        late = [score for score in scores if score.run == "late"]

        def statistic(y, first, second):
            return np.mean([f1_score(y, guessed, average="macro") for guessed in (first, second)])

        expected = stats.bootstrap(
            (labels, late[0].predictions, late[1].predictions), statistic, paired=True, vectorized=False,
            n_resamples=400, method="percentile", rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        cell = table.cell("late", MACRO_F1, "overall", 0.0)
        assert cell.high - cell.low == pytest.approx(expected.high - expected.low, rel=0.2)


def test_an_empty_subset_has_no_numbers():
    labels = np.array([0, 1, 0])
    scores = [Scores("a", "a", 0, labels == 0, labels * 0, np.eye(3, 2, dtype=np.float32))]
    table = metric_table(scores, labels, np.full(3, 0.5), thresholds=[0.0], resamples=20, tick=lambda done, total: None)
    for metric in METRICS:
        cell = table.cell("a", metric, "visual", 0.0)
        assert (cell.clips, cell.classes, cell.absent, cell.value, cell.low, cell.high) == (0, 0, 2, None, None, None)
    assert len(table.cells) == len(METRICS) * len(SUBSETS)


def test_average_precision_of_a_subset_of_one_class_is_not_defined():
    labels = np.array([0, 1, 0, 0])
    scores = [Scores("a", "a", 0, labels == 0, labels * 0, np.full((4, 2), 0.5, np.float32))]
    table = metric_table(
        scores, labels, np.array([0.5, -0.5, 0.5, -0.5]), thresholds=[0.0], resamples=20, tick=lambda done, total: None
    )
    cell = table.cell("a", AVERAGE_PRECISION, "audio", 0.0)
    assert (cell.clips, cell.classes, cell.value, cell.low, cell.high) == (2, 1, None, None, None)
    assert table.cell("a", AVERAGE_PRECISION, "visual", 0.0).value is not None
    for metric in (CLASS_ACCURACY, MACRO_F1):  # of one class they are what they are of any number
        assert table.cell("a", metric, "audio", 0.0).value == 1.0


def test_class_means_whose_resamples_are_all_alike_have_wilsons_interval_for_so_many_clips():
    labels = np.array([0, 1, 2])
    probabilities = np.eye(3, dtype=np.float32)
    scores = [Scores("a", "a", seed, labels == labels, labels, probabilities) for seed in (0, 1)]
    table = metric_table(scores, labels, np.ones(3), thresholds=[0.0], resamples=30, tick=lambda done, total: None)
    for metric in METRICS:
        cell = table.cell("a", metric, "overall", 0.0)
        expected = stats.binomtest(3, 3).proportion_ci(0.95, method="wilson")
        assert (cell.value, cell.low, cell.high) == (1.0, pytest.approx(expected.low), 1.0), metric


def test_resamples_that_lean_to_one_side_are_centred():
    resampled = np.linspace(0.6, 0.8, 1001)  # around 0.7, and the estimate is 0.5
    assert centred_interval(0.5, resampled) == pytest.approx((0.405, 0.595), abs=1e-9)
    low, high = centred_interval(0.01, resampled)
    assert (low, high) == (0.0, pytest.approx(0.105))


def test_centred_intervals_cover_what_is_expected_of_test_sets_of_this_size():
    # Ten clips a class: plain percentiles of average precision cover its expectation in about 82 % of these cases.
    def sample(random):
        labels = random.integers(0, 50, 500)
        probabilities = random.normal(size=(500, 50)).astype(np.float32)
        probabilities[np.arange(500), labels] += 1.5 * random.uniform(0, 2, 500)
        return labels, probabilities

    random = np.random.default_rng(1)
    expected = np.mean([mean_average_precision_of(*sample(random)) for _ in range(60)])
    covered = []
    for _ in range(40):
        labels, probabilities = sample(random)
        scores = [Scores("a", "a", 0, labels == 0, labels * 0, probabilities)]
        ones = np.ones(500)
        table = metric_table(scores, labels, ones, thresholds=[0.0], resamples=100, tick=lambda done, total: None)
        cell = table.cell("a", AVERAGE_PRECISION, "overall", 0.0)
        covered.append(cell.low <= expected <= cell.high)
    assert np.mean(covered) >= 0.85
