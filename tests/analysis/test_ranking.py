"""The linear bootstrap of average precision: what it leaves out, how little that moves, and its temporary files."""

import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from avbench.analysis.measures.class_scores import HeldScores
from avbench.analysis.measures.metrics import centred_interval
from avbench.analysis.measures.ranking import Subsets, rankings
from avbench.analysis.measures.statistics import resamples_of
from avbench.analysis.reading.parked_scores import Park, by_class
from avbench.errors import RunError


def made(clips, classes, *, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, clips)
    scores = random.normal(size=(clips, classes)).astype(np.float32)
    scores[np.arange(clips), labels] += random.normal(2.5, 1, clips)
    return labels, scores


def ranked(labels, scores, **options):
    everything = Subsets.of([np.ones(len(labels), bool)], np.zeros(len(labels)))
    return rankings(HeldScores(scores), labels, everything, by_class=by_class, memory_bytes=2**30, **options)[0]


def test_clips_far_down_count_once():
    labels, scores = made(200, 4)
    counts = np.random.default_rng(1).integers(0, 4, (3, 200)).astype(np.uint8)
    found = ranked(labels, scores, deep_enough=0).mean_average_precision(counts, np.float64)
    for resample, value in zip(counts, found, strict=True):
        precisions = []
        for number in range(4):
            order = np.argsort(-scores[:, number], kind="stable")
            others = [clip for clip in order if labels[clip] != number]
            highest = set(others[: (labels == number).sum()])  # as many as the class has clips
            weights = np.array(
                [resample[clip] if labels[clip] == number or clip in highest else 1 for clip in range(200)]
            )
            precisions.append(average_precision_score(labels == number, scores[:, number], sample_weight=weights))
        assert value == pytest.approx(np.mean(precisions), abs=1e-12)


def test_a_rankings_size_grows_with_clips_and_not_with_clips_times_classes():
    for classes in (10, 100):
        ranking = ranked(*made(4000, classes), deep_enough=0)
        assert len(ranking.own) == 4000
        assert len(ranking.above) <= 4000
    small = ranked(*made(300, 5))
    assert small.rest is None  # of a small subset nothing is left out


@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_interval_ends_lie_within_five_per_cent_of_the_width_of_the_whole_bootstraps(strength):
    labels, scores = made(3000, 60)
    scores[np.arange(3000), labels] += strength
    draws = list(resamples_of(3000, resamples=300, seed=[0], together=50))
    intervals = []
    for deep_enough in (0, 3000 * 60):
        ranking = ranked(labels, scores, deep_enough=deep_enough)
        resampled = np.concatenate([ranking.mean_average_precision(counts) for counts in draws])
        intervals.append(centred_interval(0.5, resampled))
    (low, high), (whole_low, whole_high) = intervals
    assert ranked(labels, scores, deep_enough=0).rest is not None
    assert abs(low - whole_low) < 0.05 * (whole_high - whole_low)
    assert abs(high - whole_high) < 0.05 * (whole_high - whole_low)


def test_clips_with_the_number_of_another_are_counted():
    labels = np.array([0, 0, 0, 1, 1])
    scores = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    assert ranked(labels, scores).tied == 2  # the first two with each other
    scores[3, 0] = 0.9  # and now the third with one of the other class
    assert ranked(labels, scores).tied == 3


def test_parked_numbers_are_what_they_were(monkeypatch):
    values, rows = np.random.default_rng(0).random((50, 3)), np.arange(49, -1, -2)
    monkeypatch.setattr("avbench.analysis.reading.parked_scores._HELD_BYTES", 0)
    park = Park(clips=len(rows), classes=3)
    places = np.full(50, -1)
    places[rows] = np.arange(len(rows))
    for part in np.array_split(np.arange(50), 3):
        park.add(places[part], values[part])
    parked = park.scores(rounded=False)
    assert not isinstance(parked, HeldScores)
    for _ in range(2):  # again and again
        np.testing.assert_array_equal(np.asarray(parked), values[rows])


def test_without_a_place_for_temporary_files_what_fits_into_memory_is_ranked(monkeypatch):
    def nowhere(**_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", nowhere)
    labels, scores = made(30, 3)
    assert len(ranked(labels, scores).own) == 30
    everything = Subsets.of([np.ones(30, bool)], np.zeros(30))
    with pytest.raises(RunError, match="set TMPDIR to one that can"):
        rankings(HeldScores(scores), labels, everything, by_class=by_class, memory_bytes=0)


SPILLING = """
import sys, time
import numpy as np
from avbench.analysis.measures.class_scores import HeldScores
from avbench.analysis.reading.parked_scores import by_class
values = np.random.default_rng(0).random((20000, 50))
with by_class(HeldScores(values), clips=20000, memory_bytes=0) as columns:
    assert (columns.column(7) == values[:, 7]).all()
    print("spilled", flush=True)
    time.sleep(float(sys.argv[1]))
"""


def spilling(folder, seconds, **options):
    return subprocess.Popen(
        [sys.executable, "-c", SPILLING, str(seconds)],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_temporary_file_goes_away_with_a_process_that_is_killed(tmp_path):
    process = spilling(tmp_path, 60)
    assert process.stdout.readline() == "spilled\n"
    held = sum(
        link.stat().st_size
        for link in (tmp_path / f"/proc/{process.pid}/fd").iterdir()
        if "(deleted)" in str(link.readlink())
    )
    assert held == 20000 * 50 * 8
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_full_temporary_folder_is_one_line_that_names_it(tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    process = spilling(tmp_path, 0, preexec_fn=limit)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"{tmp_path}: cannot hold 0.008 GB of one run's class probabilities" in said
    assert "set TMPDIR to a folder with more room, or give more memory with --memory-gb" in said
    assert list(tmp_path.iterdir()) == []
