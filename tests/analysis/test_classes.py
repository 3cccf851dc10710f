"""Counts of classes by hand, and that a selection is readable and fair."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avbench.analysis.measures.classes import ClassSides, class_sides, select_classes
from avbench.analysis.presenting.files import csv_text
from avbench.analysis.presenting.tables.classes import class_record


def sides(label, *, audio=0, visual=0, tied=0, lead=0.0):
    return ClassSides(label, f"c{label}", audio, visual, tied, audio_confidence=0.5 + lead, visual_confidence=0.5)


def test_counts_and_means_by_hand():
    labels = np.array([0, 0, 0, 2, 2])
    audio, visual = np.array([0.75, 0.5, 0.25, 0.0, 1.0]), np.array([0.25, 0.5, 0.5, 1.0, 0.5])
    cat, dog, rain = class_sides(labels, audio, visual, classes=["cat", "dog", "rain"])
    assert (cat.name, cat.audio, cat.visual, cat.tied, cat.clips) == ("cat", 1, 1, 1, 3)
    assert (cat.audio_confidence, cat.visual_confidence) == pytest.approx((0.5, 1.25 / 3))
    assert (rain.audio, rain.visual, rain.tied, rain.audio_confidence) == (1, 1, 0, 0.5)
    assert dog.clips == 0
    assert np.isnan(dog.audio_confidence)


@given(st.integers(1, 200), st.integers(1, 8), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_every_clip_is_counted_in_its_class(clips, classes, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, clips)
    audio, visual = random.integers(0, 5, (2, clips)) / 4
    rows = class_sides(labels, audio, visual, classes=[str(number) for number in range(classes)])
    assert [row.clips for row in rows] == [int((labels == number).sum()) for number in range(classes)]
    assert sum(row.audio for row in rows) == (audio > visual).sum()
    assert sum(row.visual for row in rows) == (audio < visual).sum()


def test_few_classes_are_all_shown_the_most_audio_sided_first():
    rows = [sides(0, audio=1, visual=3), sides(1, audio=4), sides(2), sides(3, audio=2, visual=2, tied=5)]
    selection = select_classes(rows, most=6)
    assert [(name, [row.label for row in members]) for name, members in selection.groups] == [
        ("all classes", [1, 3, 0])  # the class without clips is not among them
    ]
    assert selection.left_out == 0


def test_of_many_classes_both_ends_and_the_middle_are_shown():
    rows = [sides(number, audio=number, visual=100 - number) for number in range(101)]
    selection = select_classes(rows, most=9)
    assert [(name, [row.label for row in members]) for name, members in selection.groups] == [
        ("most audio-sided", [100, 99, 98]),
        ("in between", [73, 50, 26]),  # a quarter, a half and three quarters of the way from 97 down to 3
        ("most visual-sided", [2, 1, 0]),
    ]
    assert selection.left_out == 92


def test_equal_shares_are_ordered_by_mean_discrepancy_then_by_number():
    rows = [sides(0, audio=2, lead=0.1), sides(1, audio=5, lead=0.3), sides(2, audio=1, lead=0.3)]
    ((_, members),) = select_classes(rows, most=3).groups
    assert [row.label for row in members] == [1, 2, 0]


@given(st.integers(0, 400), st.integers(3, 30))
def test_a_selection_shows_each_class_once_and_no_more_than_asked(classes, most):
    random = np.random.default_rng(classes)
    rows = [sides(n, audio=int(a), visual=int(v)) for n, (a, v) in enumerate(random.integers(0, 5, (classes, 2)))]
    selection = select_classes(rows, most=most)
    shown = [row.label for _, members in selection.groups for row in members]
    with_clips = sum(row.clips > 0 for row in rows)
    assert len(shown) == len(set(shown)) == min(with_clips, len(shown))
    assert len(shown) + selection.left_out == with_clips
    assert most - 2 <= len(shown) <= most if with_clips > most else len(shown) == with_clips
    leans = [rows[label].lean for label in shown]
    assert leans == sorted(leans, reverse=True)


def test_the_csv_holds_every_class_in_full_precision():
    rows = class_sides(np.array([0, 0, 2]), np.array([0.1, 0.2, 1.0]), np.zeros(3), classes=['a, "b"', "dog", "rain"])
    lines = list(csv.DictReader(io.StringIO(csv_text([class_record(row) for row in rows]))))
    assert ",".join(lines[0]) == (
        "class,clips,few_clips,audio_preferred,visual_preferred,tied,u_audio,u_visual,discrepancy"
    )
    assert [line["class"] for line in lines] == ['a, "b"', "dog", "rain"]
    assert float(lines[0]["u_audio"]) == (0.1 + 0.2) / 2
    assert (lines[0]["clips"], lines[0]["audio_preferred"], lines[0]["visual_preferred"]) == ("2", "2", "0")
    assert (lines[1]["clips"], lines[1]["u_audio"], lines[1]["discrepancy"]) == ("0", "", "")
