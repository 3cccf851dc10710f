"""Means and deviations over seeds, subsets cut by the others, parts, utilization, published numbers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avbench.analysis.measures.accuracy import SUBSETS, Scores, accuracy_table, modalities_of
from avbench.analysis.measures.published import published_rows
from avbench.analysis.measures.seeds import cross_seed_table, parts_table, seed_table
from avbench.analysis.measures.utilization import utilization
from avbench.vocabulary import MODALITIES


def scores(run, right, *, method=None, seed=0, **more):
    right = np.array(right, bool)
    method = method or run
    read = modalities_of(method)
    return Scores(run, method, seed, right, predictions=right.astype(np.int64), modalities=read, **more)


@pytest.fixture(scope="module")
def drawn():
    random = np.random.default_rng(0)
    confidence = {name: {seed: random.random(90) for seed in (0, 1, 4)} for name in MODALITIES}
    runs = [scores(run, random.random(90) < 0.6, seed=seed) for run in (*MODALITIES, "m") for seed in (0, 1, 4)]
    return runs, confidence


def test_means_and_deviations_are_numpys_over_the_accuracies_of_each_seed(drawn):
    runs, confidence = drawn
    discrepancies = np.mean([confidence["audio"][s] - confidence["visual"][s] for s in (0, 1, 4)], axis=0)
    table, cells = seed_table(runs, discrepancies, [0.0, 0.2]), accuracy_table(runs, discrepancies, [0.0, 0.2])
    assert table.rows == (("audio", ""), ("visual", ""), ("m", ""))
    for run in ("audio", "m"):
        for subset in ("overall", *MODALITIES):
            each = [cells.cell(run, seed, subset, 0.2).accuracy for seed in (0, 1, 4)]
            cell = table.cell(run, subset, 0.2)
            assert (cell.mean, cell.deviation) == pytest.approx((np.mean(each), np.std(each, ddof=1)))
            assert (cell.clips, cell.seeds) == (cells.clips(subset, 0.2), (0, 1, 4))


def test_each_seed_is_scored_on_subsets_that_the_other_seeds_cut(drawn):
    runs, confidence = drawn
    table = cross_seed_table(runs, confidence, [0.1])
    by_hand, clips = [], []
    for seed in (0, 1, 4):
        others = [other for other in (0, 1, 4) if other != seed]
        audio, visual = (np.mean([confidence[name][other] for other in others], axis=0) for name in MODALITIES)
        part = audio - visual > 0.1
        (run,) = (run for run in runs if (run.run, run.seed) == ("audio", seed))
        by_hand.append(run.correct[part].mean())
        clips.append(part.sum())
    cell = table.cell("audio", "audio", 0.1)
    assert (cell.mean, cell.deviation) == pytest.approx((np.mean(by_hand), np.std(by_hand, ddof=1)))
    assert cell.clips == pytest.approx(np.mean(clips))


def test_a_network_gains_nothing_from_clips_that_its_own_confidence_chose():
    # Confidence and correctness of a seed go together by chance alone; the true accuracy is 1/2 everywhere.
    random = np.random.default_rng(2)
    right = {seed: random.random(4000) < 0.5 for seed in (0, 1)}
    confidence = {
        "audio": {seed: 0.4 * right[seed] + 0.5 * random.random(4000) for seed in (0, 1)},
        "visual": {seed: random.random(4000) for seed in (0, 1)},
    }
    runs = [scores("audio", right[seed], seed=seed) for seed in (0, 1)]
    discrepancies = np.mean([confidence["audio"][seed] - confidence["visual"][seed] for seed in (0, 1)], axis=0)
    assert seed_table(runs, discrepancies, [0.2]).cell("audio", "audio", 0.2).mean > 0.65
    assert cross_seed_table(runs, confidence, [0.2]).cell("audio", "audio", 0.2).mean == pytest.approx(0.5, abs=0.03)


def test_one_seed_has_no_others_and_no_deviation(drawn):
    runs, confidence = drawn
    assert cross_seed_table(runs, {**confidence, "visual": {0: confidence["visual"][0]}}, [0.0]) is None
    (cell, *_) = seed_table(runs[:1], np.linspace(-1, 1, 90), [0.0]).cells
    assert (cell.deviation, cell.mean) == (None, runs[0].correct.mean())


def test_an_empty_subset_has_no_mean():
    cell = seed_table([scores("a", [1, 0])], np.ones(2), [0.0]).cell("a", "visual", 0.0)
    assert (cell.clips, cell.mean, cell.deviation) == (0, None, None)


def test_parts_of_joint_networks_are_rows_of_their_own():
    labels = np.array([0, 1, 2, 0])
    joint = scores("late", [1, 1, 1, 1], method="baseline", parts={"audio": labels, "visual": np.array([0, 0, 0, 0])})
    table = parts_table([joint, scores("audio", [1, 1, 1, 0])], labels, np.array([0.5, 0.5, -0.5, -0.5]), [0.0])
    assert table.rows == (("late", "audio"), ("late", "visual"))
    found = {part: [table.cell("late", name, 0.0, part=part).mean for name in SUBSETS[:3]] for _, part in table.rows}
    assert found == {"audio": [1.0, 1.0, 1.0], "visual": [0.5, 0.5, 0.5]}
    assert parts_table([scores("audio", [1] * 4)], labels, np.zeros(4), [0.0]).rows == ()


def joint_run(both, without_audio, without_visual, labels, *, seed=0):
    """A run that is right where a letter is 1; wrong answers are a class that no clip has."""
    says = {
        name: np.where([letter == "1" for letter in right], labels, 9)
        for name, right in (("audio", without_audio), ("visual", without_visual))
    }
    return scores("m", [letter == "1" for letter in both], seed=seed, replaced=says)


def test_utilization_by_hand():
    labels = np.array([0, 1, 2, 3] * 2)
    run = joint_run("11111100", "11000000", "11110000", labels)
    (overall, *_) = utilization([run], labels, np.linspace(-1, 1, 8), [0.0], classes=4)
    # A(both) 6/8, A(audio replaced) 2/8, A(visual replaced) 4/8, four classes.
    assert (overall.both, overall.replaced, overall.chance) == (0.75, {"audio": 0.25, "visual": 0.5}, 0.25)
    assert overall.conditional == {"audio": pytest.approx(2 / 3), "visual": pytest.approx(1 / 3)}
    # audio: ((3/4 - 1/4) + (1/2 - 1/4)) / 2; visual: ((3/4 - 1/2) + (1/4 - 1/4)) / 2
    assert overall.shapley == {"audio": 0.375, "visual": 0.125}
    assert overall.branches == {}


def test_chance_counts_the_classes_that_networks_tell_apart_and_not_those_of_the_clips():
    labels = np.array([0, 1, 2, 3] * 2)
    (overall, *_) = utilization(
        [joint_run("11111100", "11000000", "11110000", labels)], labels, np.linspace(-1, 1, 8), [0.0], classes=10
    )
    assert overall.chance == 0.1
    assert overall.shapley == {"audio": pytest.approx((0.5 + 0.4) / 2), "visual": pytest.approx((0.25 + 0.15) / 2)}


def test_what_branches_lose_without_the_other_modality_by_hand():
    labels = np.array([0, 1, 2, 3] * 2)

    def says(right):
        return np.where([letter == "1" for letter in right], labels, 9)

    runs = [
        replace(
            joint_run("11111100", "11000000", "11110000", labels, seed=seed),
            parts={"audio": says(audio), "visual": says("00000000")},
            parts_alone={"audio": says(alone), "visual": says("00000000")},
        )
        for seed, audio, alone in ((0, "11111111", "11110000"), (1, "11110000", "11000000"))
    ]
    overall, first_half, *_ = utilization(runs, labels, np.repeat([0.5, -0.5], 4), [0.0], classes=4)
    audio = overall.branches["audio"]
    # As trained right on 8/8 and 4/8, without vision on 4/8 and 2/8: means over both seeds.
    assert (audio.both, audio.alone, audio.utilization) == (0.75, 0.375, 0.5)
    assert overall.branches["visual"].utilization is None  # it has nothing to lose
    assert (first_half.subset, first_half.branches["audio"].alone) == ("audio", 0.75)
    # Of the network's own prediction, another number.
    assert overall.conditional["visual"] == pytest.approx(1 / 3)
    # One seed of a folder that does not hold it: no mean of the others is passed off as that of all.
    assert (
        utilization([runs[0], replace(runs[1], parts_alone={})], labels, np.zeros(8), [0.0], classes=4)[0].branches
        == {}
    )


@given(st.lists(st.text("01", min_size=6, max_size=6), min_size=3, max_size=3), st.integers(1, 3))
@settings(deadline=None)
def test_shapley_values_add_up_to_what_both_give_beyond_chance(rights, seeds):
    labels = np.array([0, 1, 2, 0, 1, 2])
    runs = [joint_run(*rights, labels, seed=seed) for seed in range(seeds)]
    for one in utilization(runs, labels, np.array([0.9, 0.2, 0.0, -0.1, -0.5, 0.4]), [0.0, 0.3], classes=5):
        assert sum(one.shapley.values()) == pytest.approx(one.both - one.chance)


def test_a_network_without_a_right_answer_uses_nothing():
    labels = np.array([0, 1])
    (overall, *_) = utilization([joint_run("00", "00", "00", labels)], labels, np.array([0.5, -0.5]), [0.0], classes=2)
    assert overall.conditional == {"audio": None, "visual": None}


def test_unimodal_networks_and_runs_without_replaced_modalities_are_left_out():
    labels = np.array([0, 1])
    runs = [scores("audio", [1, 1], replaced={"audio": labels, "visual": labels}), scores("m", [1, 1])]
    assert utilization(runs, labels, np.zeros(2), [0.0], classes=2) == ()


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("Kinetics-Sound", "Kinetics-Sound"), ("kinetics_sound", "Kinetics-Sound"), ("VGGSound", "VGG-Sound"),
        ("vgg-sound", "VGG-Sound"), ("balanced", "Balanced"), ("Balanced AV", "Balanced"),
    ],
)  # fmt: skip
def test_published_rows_are_found_by_name(name, dataset):
    rows = published_rows("something", name)
    assert {row.dataset for row in rows} == {dataset}
    assert [row.method for row in rows] == ["audio", "visual", "baseline", "ogm-ge", "gradient-blending", "greedy"]


def test_other_datasets_have_no_published_rows():
    assert published_rows("pets", "vggsound-mini", "") == ()


def test_published_numbers_as_printed():
    (greedy,) = (row for row in published_rows("vggsound") if row.method == "greedy")
    assert (greedy.overall, greedy.audio, greedy.visual) == pytest.approx((0.5032, 0.5268, 0.3737))


@pytest.mark.parametrize("name", ["kinetics-sound", "vgg-sound"])
def test_published_rows_are_not_consistent_with_one_split_and_ours_are(name, drawn):
    shares = [row.audio_share for row in published_rows(name)]
    assert max(shares) - min(shares) > 0.03
    runs, confidence = drawn
    table = accuracy_table(runs, confidence["audio"][0] - confidence["visual"][0], [0.0, 0.2, 0.4])
    for run, seed in table.rows:
        for threshold in table.thresholds:
            overall, *parts = (table.cell(run, seed, subset, threshold) for subset in SUBSETS)
            assert overall.correct == sum(part.correct for part in parts)
            assert overall.clips == sum(part.clips for part in parts)
