"""How runs learnt: from the lines of metrics.jsonl to the table of best epochs, the curves and the words for none."""

import csv
import json

import numpy as np
import pytest

from avbench.analysis.measures.learning import by_run, mean_and_spread
from avbench.analysis.presenting.figures.learning import draw_learning, plans_of_learning
from avbench.analysis.presenting.figures.style import to_png
from avbench.analysis.reading.learning import read_learning
from avbench.analysis.report import assess
from avbench.records import MetricsWriter, write_json, write_text
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import make_run
from tests.analysis.presented import markdown_of, page_files_of, sheets_of, table_files_of

LABELS, RIGHT = [0, 1, 2, 0], [True, False, True, True]


def hand_made(folder, *, seeds=(0,), epochs=5, runs=MODALITIES):
    """A run folder of a training of so many epochs; what it logged is written by `log`."""
    correct = {(run, run, seed): RIGHT for run in runs for seed in seeds}
    confidence = {seed: [0.9, 0.2, 0.6, 0.1] for seed in seeds}
    make_run(folder, labels=LABELS, audio=confidence, visual={s: [0.5] * 4 for s in seeds}, correct=correct)
    write_text(folder / "config.toml", f'dataset = "pets"\n[training]\nepochs = {epochs}\n')
    return folder


def epoch(run, seed, number, accuracy, *, loss=1.0):
    return {
        "kind": "epoch", "run": run, "method": run, "seed": seed, "epoch": number, "loss": loss, "accuracy": 0.5,
        "clips": 90.0, "val_loss": 2.0, "val_accuracy": accuracy, "val_clips": 10.0,
    }  # fmt: skip


def event(text, **more):
    return {"kind": "event", **more, "text": text}


def log(folder, records):
    writer = MetricsWriter(folder / "metrics.jsonl")
    for record in records:
        writer.write(record)
    writer.close()
    return folder


def learnt(folder):
    assessed = assess([folder], thresholds=[0.0], resamples=20)
    return {(one.run, one.seed): one for one in assessed[0].learning}, assessed


def sheet_of(assessed):
    (sheet,) = (sheet for sheet in sheets_of(assessed) if sheet.kind == "learning")
    return sheet


def test_the_best_epoch_is_the_earliest_of_the_highest_validation_accuracies(tmp_path):
    values = [0.3, 0.6, 0.5, 0.6, 0.2]
    folder = log(hand_made(tmp_path / "run"), [epoch("audio", 0, n, value) for n, value in enumerate(values)])
    (one,) = read_learning(assess([folder], resamples=20)[1].folders)
    assert (one.best, one.best_accuracy, len(one.epochs)) == (1, 0.6, 5)


def test_why_each_run_stopped(tmp_path):
    folder = log(
        hand_made(tmp_path / "run", seeds=(0, 1)),
        [
            *(epoch("audio", 0, n, 0.1 * n) for n in range(5)),
            *(epoch("audio", 1, n, 0.5) for n in range(3)),
            event("audio-seed1 stopped after epoch 2: no better validation accuracy for 2 epochs", run="audio", seed=1),
            *(epoch("visual", 0, n, 0.1) for n in range(2)),
            event("visual-seed0 stopped: diverged: loss or confidence not finite", run="visual", seed=0),
            event("greedy-seed0 stopped: diverged: loss or confidence not finite", run="greedy", seed=0),
            event("audio-seed0 is not predicted without a modality", run="audio", seed=0),
            event("finished"),
        ],
    )
    found, _ = learnt(folder)
    assert {key: (one.ending, one.best, len(one.epochs)) for key, one in found.items()} == {
        ("audio", 0): ("end", 4, 5),
        ("audio", 1): ("early stop", 0, 3),
        ("visual", 0): ("diverged", 0, 2),
        ("greedy", 0): ("diverged", None, 0),
    }
    assert found["audio", 1].why == "early stop: no better validation accuracy for 2 epochs"
    assert found["visual", 0].why == "diverged: loss or confidence not finite"


def test_a_training_that_was_cut_short_says_of_how_many_epochs(tmp_path):
    folder = log(hand_made(tmp_path / "run"), [epoch("audio", 0, n, 0.5) for n in range(3)])
    assert learnt(folder)[0]["audio", 0].why == "not finished: 3 of 5 epochs"


def test_a_loss_that_is_not_finite_and_a_line_cut_short_spoil_nothing(tmp_path):
    folder = hand_made(tmp_path / "run")
    log(folder, [epoch("audio", 0, 0, 0.4, loss=float("nan")), epoch("audio", 0, 1, 0.3, loss=float("inf"))])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "run": "aud')
    found, assessed = learnt(folder)
    assert np.isnan(found["audio", 0].curves["loss"]).all()
    assert found["audio", 0].best == 0
    to_png(draw_learning({"audio": [found["audio", 0]]}, title="t"))
    (first, *_) = csv.DictReader(table_files_of(assessed)["learning.csv"].decode().splitlines())
    assert (first["loss"], first["val_accuracy"]) == ("", "0.4")


def test_the_table_is_the_first_and_names_every_run_and_seed(tmp_path):
    folder = log(
        hand_made(tmp_path / "run", seeds=(0, 1), epochs=2),
        [epoch(run, seed, n, 0.25 + 0.5 * n) for n in range(2) for run in ("visual", "audio") for seed in (1, 0)],
    )
    _, assessed = learnt(folder)
    assert sheets_of(assessed)[0].kind == "learning"
    sheet = sheet_of(assessed)
    assert sheet.headings == (
        "method", "seed", "why it stopped", "best epoch", "validation accuracy †", "epochs trained",
    )  # fmt: skip
    assert [[cell.text for cell in row] for row in sheet.rows] == [
        [run, seed, "end of the training", "1", "75.0", "2"] for run in MODALITIES for seed in ("1", "0")
    ]
    assert markdown_of(assessed).index("## Best epochs") < markdown_of(assessed).index("## Accuracy, T = 0")
    rows = list(csv.DictReader(table_files_of(assessed)["best_epochs.csv"].decode().splitlines()))
    assert {(row["method"], row["best_epoch"], row["val_accuracy"], row["ending"]) for row in rows} == {
        (run, "1", "0.75", "end") for run in MODALITIES
    }


def test_seeds_of_several_folders_are_told_apart(tmp_path):
    folders = []
    for seed in (0, 1):
        folders.append(log(hand_made(tmp_path / f"run{seed}", seeds=(seed,)), [epoch("audio", seed, 0, 0.5)]))
    sheet = sheet_of(assess(folders, thresholds=[0.0], resamples=20))
    place = sheet.headings.index("training")
    assert [row[place].text for row in sheet.rows] == ["run0", "run1"]


def test_the_mean_over_seeds_is_over_those_that_got_so_far(tmp_path):
    records = [epoch("audio", 0, n, value) for n, value in enumerate((0.2, 0.4, 0.6))]
    records += [epoch("audio", 1, n, value) for n, value in enumerate((0.4, 0.8))]
    found = by_run(learnt(log(hand_made(tmp_path / "run", seeds=(0, 1)), records))[0].values(), ["visual", "audio"])
    assert list(found) == ["audio"]
    epochs, mean, spread = mean_and_spread(found["audio"], "val_accuracy")
    assert epochs.tolist() == [0, 1, 2]
    np.testing.assert_allclose(mean, [0.3, 0.6, 0.6])
    np.testing.assert_allclose(spread, [np.std([0.2, 0.4], ddof=1), np.std([0.4, 0.8], ddof=1), np.nan])


def test_curves_are_the_numbers_given_and_chosen_epochs_are_marked(tmp_path):
    records = [epoch("audio", seed, n, 0.1 * n + 0.1 * seed, loss=3.0 - n) for seed in (0, 1) for n in range(3)]
    found = by_run(learnt(log(hand_made(tmp_path / "run", seeds=(0, 1)), records))[0].values(), ["audio"])
    figure = draw_learning(found, title="t")
    above, below = figure.axes
    np.testing.assert_allclose(above.lines[0].get_ydata(), [3, 2, 1])
    train, validation, *marks = below.lines
    np.testing.assert_allclose(train.get_ydata(), [50, 50, 50])
    np.testing.assert_allclose(validation.get_ydata(), [5, 15, 25])
    diamonds = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in marks if line.get_marker() == "D"]
    assert diamonds == [(2, pytest.approx(20)), (2, pytest.approx(30))]
    assert below.get_ylim()[1] <= 100
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "train", "validation", "± deviation over seeds", "chosen epoch",
    ]  # fmt: skip


def test_a_run_of_predictions_from_a_file_is_named_as_one_that_nothing_is_known_of(tmp_path):
    folder = log(hand_made(tmp_path / "run"), [epoch(run, 0, 0, 0.5) for run in MODALITIES])
    lines = ["key,prediction", *(f"clip{n},{label}" for n, label in enumerate(("cat", "dog", "rain", "cat")))]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    assessed = assess([folder], predictions=[tmp_path / "mine.csv"], thresholds=[0.0], resamples=20)
    evaluation = assessed[0]
    assert evaluation.untold.startswith("Not known of mine: predictions that come from a file")
    assert evaluation.untold in sheet_of(assessed).caption


def test_without_any_record_the_report_says_so_and_has_no_empty_table(tmp_path):
    assessed = assess([hand_made(tmp_path / "run")], thresholds=[0.0], resamples=20)
    evaluation = assessed[0]
    assert evaluation.learning == ()
    assert "Not known of audio and visual" in evaluation.untold
    files = {**table_files_of(assessed), **page_files_of(assessed)}
    assert "learning.csv" not in files and "learning.png" not in files
    assert "Not known of audio and visual" in files["index.html"].decode()
    assert "Not known of audio and visual" in files["tables.md"].decode()


def test_more_runs_than_a_figure_holds_take_further_figures(tmp_path):
    others = [f"method{n}" for n in range(8)]
    folder = hand_made(tmp_path / "run", runs=(*MODALITIES, *others))
    log(folder, [epoch(run, 0, 0, 0.5) for run in (*MODALITIES, *others)])
    plans = list(plans_of_learning(assess([folder], thresholds=[0.0], resamples=20)[0]))
    assert [plan.name for plan in plans] == ["learning", "learning-2"]
    assert [len(plan.draw().axes) for plan in plans] == [2 * 8, 2 * 2]  # two panels a run


class TestClassesWithoutTraining:
    def evaluated(self, tmp_path, per_class):
        folder = hand_made(tmp_path / "run")
        dataset = json.loads((folder / "dataset.json").read_text())
        write_json(folder / "dataset.json", {**dataset, "clips_per_class": per_class})
        return assess([folder], thresholds=[0.0], resamples=20)

    def test_they_are_named_before_all_tables(self, tmp_path):
        counts = {"train": [0, 30, 0], "val": [4, 3, 3], "test": [2, 1, 1]}
        assessed = self.evaluated(tmp_path, counts)
        evaluation = assessed[0]
        assert evaluation.warnings == (
            "2 of 3 classes have no training clip: cat, rain. No network could learn them; evaluated clips of them: "
            "3 of 4.",
        )
        html = page_files_of(assessed)["index.html"].decode()
        assert html.index("have no training clip") < html.index("<nav")
        assert markdown_of(assessed).index("have no training clip") < markdown_of(assessed).index("## ")

    def test_one_is_one_and_none_is_no_warning(self, tmp_path):
        evaluation, _ = self.evaluated(tmp_path, {"train": [5, 5, 0], "val": [1] * 3, "test": [2, 1, 1]})
        assert evaluation.warnings[0].startswith("1 of 3 classes has no training clip: rain. No network could learn it")
        assert assess([tmp_path / "run"], resamples=20)[0].warnings != ()

    def test_a_dataset_that_does_not_say_is_not_warned_of(self, tmp_path):
        assert self.evaluated(tmp_path, {})[0].warnings == ()
