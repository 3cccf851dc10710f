"""The audit of counted clips: what its sums are, and that they tell what was counted twice or not at all."""

import numpy as np
import pytest

from avbench.training.audit import Audit, Count, mix, said_of


def test_ids_are_mixed_as_the_published_generator_mixes() -> None:
    # SplitMix64 seeded with 0 and with 1234567: its first outputs, as its author's test values have them.
    assert int(mix(np.array([0]))[0]) == 0xE220A8397B1DCDAF
    assert int(mix(np.array([1234567]))[0]) == 6457827717110365317


@pytest.mark.parametrize(("clips", "ranks"), [(0, 1), (1, 3), (5, 2), (1000, 1), (1000, 64)])
def test_a_sum_is_the_same_over_any_order_and_ranks(clips: int, ranks: int) -> None:
    generator = np.random.default_rng(clips + ranks)
    ids = generator.integers(0, 2**40, clips)
    words = np.array([Count.of(part).words() for part in np.array_split(generator.permutation(ids), ranks)])
    assert Count.from_words(*words.sum(axis=0)) == Count.of(ids)


def test_a_clip_counted_twice_in_the_place_of_another_is_seen() -> None:
    audit = Audit({"train": np.arange(100)})
    right = audit.record("train", Count.of(np.arange(100)[::-1]), left_out=())
    assert said_of("audio-seed0", 3, right) == ""
    wrong = audit.record("train", Count.of(np.array([*range(99), 0])), left_out=())
    assert wrong["counted_clips"] == wrong["expected_clips"] == 100
    assert "audio-seed0 counted 100 clips in epoch 3" in said_of("audio-seed0", 3, wrong)


@pytest.mark.parametrize(("part", "missing"), [("train", 2), ("estimation", 1)])
def test_clips_that_were_left_out_are_expected_nowhere(part: str, missing: int) -> None:
    parts = {"train": np.arange(0, 40, 2), "estimation": np.arange(0, 20, 2)}
    left_out = {4: "bad", 30: "bad", 7: "of another split"}
    counted = Count.of(np.setdiff1d(parts[part], list(left_out)))
    record = Audit(parts).record(part, counted, left_out=left_out.keys())
    assert (record["counted_hash"], record["left_out_clips"]) == (record["expected_hash"], missing)


def test_of_an_epoch_that_was_begun_without_counting_nothing_is_said() -> None:
    assert Audit({"train": np.arange(3)}).record("train", None, left_out=()) == {}
    assert said_of("audio-seed0", 0, {}) == ""
