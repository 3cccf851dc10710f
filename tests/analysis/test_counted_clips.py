"""The audit in the report: what was recorded of counted clips is checked, and what does not fit is said."""

import csv
import io

import pytest

from avbench.analysis.report import assess
from avbench.records import MetricsWriter, write_json
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import make_run
from tests.analysis.presented import markdown_of, table_files_of

RUNS, EPOCHS = MODALITIES, 3


def counted(run, epoch, *, left_out=0):
    """A record as training writes it, of 90 clips."""
    clips, digest = 90 - left_out, f"{0xABC + left_out:016x}"
    return {
        "kind": "epoch", "run": run, "method": run, "seed": 0, "epoch": epoch, "val_accuracy": 0.5,
        "clips": float(clips), "counted_clips": clips, "counted_hash": digest, "expected_clips": clips,
        "expected_hash": digest, "left_out_clips": left_out,
    }  # fmt: skip


def records():
    return [counted(run, epoch) for epoch in range(EPOCHS) for run in RUNS]


def audited(folder, lines):
    right = {(run, run, 0): [True, False, True] for run in RUNS}
    make_run(folder, labels=[0, 1, 2], audio={0: [0.9, 0.2, 0.6]}, visual={0: [0.5] * 3}, correct=right)
    launch = {"clips": {"train": {"clips": 90, "sha256": "00"}}}
    write_json(folder / "environment.json", {"launches": [launch]})
    log = MetricsWriter(folder / "metrics.jsonl")
    for line in lines:
        log.write(line)
    log.close()
    return assess([folder], thresholds=[0.0], resamples=20)


def test_each_clip_once_is_said_on_the_page_and_in_the_files_and_warns_of_nothing(tmp_path):
    assessed = audited(tmp_path / "run", records())
    evaluation = assessed[0]
    assert [(one.verdict, one.checked, one.clips, one.left_out) for one in evaluation.audit.runs] == [
        ("each once", 3, 90, 0)
    ] * 2
    assert evaluation.warnings == ()
    assert "Each of the 2 networks counted every clip" in markdown_of(assessed)
    assert "(6 epochs in all)" in evaluation.audit.sentence
    rows = list(csv.DictReader(io.StringIO(table_files_of(assessed)["audit.csv"].decode())))
    assert [(row["method"], row["verdict"], row["clips_an_epoch"]) for row in rows] == [
        ("audio", "each once", "90"),
        ("visual", "each once", "90"),
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"counted_clips": 91}, "epoch 1 counted 91 clips for 90"),
        ({"counted_hash": "0" * 16}, "epoch 1 counted 90 clips, but not each of its 90 once"),
        ({"clips": 91.0}, "epoch 1 counted 90 clips, but its loss is of 91"),
        # Both sides alike: other epochs, other runs and the launch say otherwise.
        ({"counted_hash": "1" * 16, "expected_hash": "1" * 16}, "from epoch 0 to 1 its part of train became another"),
        ({"clips": 91.0, "counted_clips": 91, "expected_clips": 91}, "epoch 1 is of 91 clips of train, where the "),
        ({"left_out_clips": 1}, "from epoch 0 to 1 its part of train became another"),
    ],
)
def test_a_record_that_was_tampered_with_is_caught(tmp_path, changed, said):
    lines = [{**line, **changed} if (line["run"], line["epoch"]) == ("visual", 1) else line for line in records()]
    evaluation, _ = audited(tmp_path / "run", lines)
    audio, visual = evaluation.audit.runs
    assert audio.verdict == "each once"
    assert visual.verdict == "wrong" and any(said in problem for problem in visual.problems)
    (warning,) = evaluation.warnings
    assert warning.startswith("visual (seed 0, run) did not count each clip of its part of train exactly once")


def test_an_epoch_without_a_record_or_with_two_is_caught_but_a_run_that_stopped_is_not(tmp_path):
    lines = records()
    twice = audited(tmp_path / "twice", [*lines, lines[0]])[0].audit.runs
    assert twice[0].problems == ("epoch 0 has 2 records",)
    gone = audited(tmp_path / "gone", lines[:-1])[0].audit.runs
    assert gone[1].problems == ("epoch 2 has no record",)
    stop = {"kind": "event", "run": "visual", "seed": 0, "text": "visual-seed0 stopped after epoch 1: no better"}
    assert audited(tmp_path / "stopped", [*lines[:-1], stop])[0].audit.wrong == ()


def test_clips_left_out_are_named_the_first_and_then_counted(tmp_path):
    lines = [counted(run, epoch, left_out=7) for epoch in range(EPOCHS) for run in RUNS]
    out = [
        {"kind": "event", "text": f"clip a/{clip} is left out: bad JPEG", "clip_id": clip, "epoch": 0}
        for clip in range(7)
    ]
    evaluation, _ = audited(tmp_path / "run", [*out, *lines])
    assert evaluation.audit.wrong == ()
    assert evaluation.audit.sentence.endswith("for bad bytes (7): a/0, a/1, a/2, a/3, a/4 and 2 more.")
    assert (
        "7 clips of its part were left out, and events name 6"
        in audited(tmp_path / "unnamed", [*out[1:], *lines])[0].audit.runs[0].problems
    )


def test_folders_of_earlier_versions_recorded_nothing_and_that_is_no_mistake(tmp_path):
    names = ("kind", "run", "method", "seed", "epoch", "val_accuracy")
    evaluation, _ = audited(tmp_path / "run", [{name: line[name] for name in names} for line in records()])
    assert [one.verdict for one in evaluation.audit.runs] == ["not recorded"] * 2
    assert evaluation.warnings == ()
    assert evaluation.audit.sentence.startswith(
        "Not recorded, as in run folders of earlier versions: 6 epochs of audio"
    )
