"""What is shown of a long computation where nobody sits at a terminal, and where somebody does."""

import os
import pty
import sys

import pytest

from avbench import progress
from tests.terminal import read_terminal


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def counted(clock, capsys, *, seconds, **options):
    """What is said of a computation of five steps that take so many seconds each."""
    with progress.progress("counting", **options) as show:
        for done in range(5):
            clock[0] += seconds
            show(done + 1, 5)
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_a_short_computation_says_nothing(clock, capsys):
    assert counted(clock, capsys, seconds=0.5, patience_seconds=3.0) == []
    assert counted(clock, capsys, seconds=1.9) == []


def test_a_long_one_says_a_line_every_ten_seconds(clock, capsys):
    assert counted(clock, capsys, seconds=4.0, patience_seconds=3.0) == ["counting: 1 of 5", "counting: 4 of 5"]
    assert counted(clock, capsys, seconds=5.0) == ["counting: 2 of 5", "counting: 4 of 5"]


def test_with_a_unit_a_line_says_rate_and_time_left(clock, capsys):
    said = counted(clock, capsys, seconds=10.0, unit="clips")
    assert said[1] == "counting: 2 of 5 clips, 0.1 clips/s, 30 s left"


def test_items_are_tracked_in_their_order(clock, capsys):
    seen = []
    for item in progress.tracked("abc", "letters"):
        seen.append(item)
        clock[0] += 10.0
    assert seen == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == ["letters: 1 of 3", "letters: 2 of 3", "letters: 3 of 3"]


def test_a_terminal_gets_a_bar(monkeypatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with progress.progress("counting", "clips") as show:
            show(2, 5)
    shown = read_terminal(ours).decode()
    assert "counting" in shown and "━" in shown and "2/5" in shown


@pytest.mark.parametrize(("seconds", "text"), [(185.4, "3 min 05 s"), (7800, "2 h 10 min")])
def test_a_duration_is_said_in_words(seconds, text):
    assert progress.duration(seconds) == text
