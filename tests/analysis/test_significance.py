"""Comparisons by hand and against SciPy, Holm over one table, the answer in one sentence."""

import numpy as np
import pytest
from scipy import stats

from avbench.analysis.measures.accuracy import Scores, accuracy_table, modalities_of, verdict
from avbench.analysis.measures.significance import compare, conclude
from avbench.analysis.measures.statistics import holm
from avbench.vocabulary import MODALITIES


def scores(run, right, *, method=None, seed=0):
    right = np.array(right, bool)
    method = method or run
    read = modalities_of(method)
    return Scores(run, method, seed, right, predictions=right.astype(np.int64), modalities=read)


def letters(run, right, **more):
    return scores(run, [letter == "1" for letter in right], **more)


DISCREPANCY = np.array([0.9, 0.5, 0.1, 0.0, -0.1, -0.3, -0.5, -0.9])


def test_one_seed_is_compared_by_mcnemars_exact_test():
    random = np.random.default_rng(0)
    discrepancies = random.uniform(-1, 1, 300)
    runs = [scores(name, random.random(300) < share) for name, share in (("audio", 0.5), ("visual", 0.6), ("a", 0.6))]
    found = compare(runs, discrepancies, [0.0, 0.5])
    assert len(found) == 2 * 2 * 2
    for one in found:
        part = discrepancies > one.threshold if one.subset == "audio" else discrepancies < -one.threshold
        a, b = (next(run.correct[part] for run in runs if run.run == name) for name in (one.run, one.unimodal))
        assert one.difference == pytest.approx(a.mean() - b.mean())
        assert one.clips == part.sum()
        assert one.p == pytest.approx(stats.binomtest(int((a & ~b).sum()), int((a != b).sum())).pvalue, abs=1e-11)


def test_holm_is_over_every_comparison_of_the_table():
    random = np.random.default_rng(1)
    runs = [scores(name, random.random(80) < 0.5) for name in (*MODALITIES, "a", "b", "c")]
    found = compare(runs, random.uniform(-1, 1, 80), [0.0, 0.2, 0.4])
    assert len(found) == 3 * 2 * 2 * 3
    assert tuple(one.p_holm for one in found) == holm([one.p for one in found])


def test_correctness_is_averaged_over_seeds_before_it_is_compared():
    # Three seeds against two, on the clips 0 to 2: means 1, 2/3, 1/3 against 1/2, 1/2, 0.
    runs = [letters("m", "11110000", seed=0), letters("m", "11010000", seed=1), letters("m", "10010000", seed=2)]
    runs += [letters("audio", "10000000", seed=0), letters("audio", "01000000", seed=1), letters("visual", "00000000")]
    (found,) = (one for one in compare(runs, DISCREPANCY, [0.0]) if (one.unimodal, one.subset) == ("audio", "audio"))
    # Differences 1/2, 1/6, 1/3: all positive, so p is 2 of 8 ways to choose signs.
    assert found.difference == pytest.approx((1 / 2 + 1 / 6 + 1 / 3) / 3)
    assert found.p == pytest.approx(2 / 8)


def test_an_empty_subset_has_no_comparison():
    found = compare(
        [letters("audio", "1" * 8), letters("visual", "1" * 8), letters("m", "1" * 8)], np.abs(DISCREPANCY), [0.0]
    )
    assert {one.subset for one in found} == {"audio"}


def concluded(runs, discrepancies, thresholds):
    table = accuracy_table(runs, discrepancies, thresholds)
    found = [verdict(table, threshold) for threshold in thresholds]
    return conclude("pets", table, found, compare(runs, discrepancies, thresholds))


def test_nobody_wins():
    lost = [letters("audio", "11110000"), letters("visual", "00001111"), letters("m", "11100001")]
    found = concluded(lost, DISCREPANCY, [0.0, 0.2, 0.4])
    assert (found.winners, found.significant) == ((), ())
    assert found.sentence == (
        "On pets, no multimodal method beats both unimodal networks on every subset "
        "(audio and visual side, T = 0, 0.2 and 0.4)."
    )


def test_a_win_at_one_threshold_is_no_win_but_is_told():
    mixed = [letters("audio", "01010000"), letters("visual", "00011000"), letters("m", "11000110")]
    assert concluded(mixed, DISCREPANCY, [0.0, 0.6]).sentence == (
        "On pets, no multimodal method beats both unimodal networks on every subset "
        "(audio and visual side, T = 0 and 0.6); m does at T = 0."
    )


def test_winners_and_those_of_them_by_more_than_chance():
    clips = 200
    discrepancies = np.repeat([0.5, -0.5], clips // 2)
    half = np.arange(clips) % 2 == 0
    slightly = half.copy()
    slightly[[1, 101]] = True
    runs = [scores("audio", half), scores("visual", half), scores("sure", np.ones(clips)), scores("lucky", slightly)]
    found = concluded(runs, discrepancies, [0.0, 0.2])
    assert (found.winners, found.significant) == (("lucky", "sure"), ("sure",))
    assert found.sentence == (
        "On pets, lucky and sure beat both unimodal networks on every subset (audio and visual side, T = 0 and 0.2), "
        "significantly so sure."
    )
    assert concluded(runs[:3], discrepancies, [0.0]).sentence.endswith("(audio and visual side, T = 0), significantly.")
    alone = concluded([*runs[:2], runs[3]], discrepancies, [0.0])
    assert (alone.winners, alone.significant) == (("lucky",), ())
    assert alone.sentence.endswith("but not significantly on all.")


def test_without_anything_to_compare_there_is_no_answer():
    found = concluded([letters("audio", "1" * 8), letters("visual", "1" * 8)], DISCREPANCY, [0.0])
    assert found.sentence == "On pets, there was nothing to compare at any threshold."
