"""What is shown of a long computation where nobody sits at a terminal."""

from avbench.analysis import progress


def test_a_short_computation_says_nothing(capsys):
    with progress.progress("counting") as tick:
        for done in range(5):
            tick(done + 1, 5)
    assert capsys.readouterr() == ("", "")


def test_a_long_one_says_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", 0.0)
    with progress.progress("counting") as tick:
        for done in range(5):
            tick(done + 1, 5)
    assert capsys.readouterr() == ("", "counting: 1 of 5\n")  # the next would be ten seconds later
