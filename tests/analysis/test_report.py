"""`evaluate` on run folders written by hand: every number in the files, every mistake that a user can make."""

import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import avbench.analysis.report as report
from avbench.analysis.measures.accuracy import accuracy_table
from avbench.analysis.presenting.report_folder import check_report_folder, replace_report
from avbench.analysis.presenting.terminal import terminal_table
from avbench.analysis.reading.results import parse_epochs
from avbench.analysis.reading.runs import read_runs
from avbench.analysis.report import assess, evaluate
from avbench.cli import main
from avbench.errors import AvbenchError, RunError, UsageError
from avbench.records import write_json, write_text
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import make_run, write_history, write_predictions
from tests.analysis.presented import table_files_of

LABELS = [0, 1, 2, 0, 1, 2]
AUDIO = [0.9, 0.8, 0.5, 0.25, 0.1, 0.7]
VISUAL = [0.1, 0.5, 0.5, 0.5, 0.8, 0.7]
# discrepancy     0.8  0.3  0.0  -0.25  -0.7  0.0
RIGHT = {
    ("audio", "audio", 0): [True, True, True, False, False, True],
    ("visual", "visual", 0): [False, True, False, True, True, True],
    ("baseline", "baseline", 0): [True, False, True, True, True, False],
}


def hand_made(folder, **changes):
    settings = {"labels": LABELS, "audio": {0: AUDIO}, "visual": {0: VISUAL}, "correct": RIGHT}
    return make_run(folder, **{**settings, **changes})


def files_of(*runs, **settings):
    """The tables' files as text, without the page and its figures."""
    return {name: content.decode() for name, content in table_files_of(assess(runs, **settings)).items()}


def rows_of(text):
    return list(csv.DictReader(text.splitlines()))


def cells_of(rows, **wanted):
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def table_of(*runs):
    """The accuracy table without the report around it."""
    results = read_runs(runs, split="test", epochs="all")
    return accuracy_table(results.scores, results.discrepancies, (0.0, 0.2, 0.4))


@pytest.fixture
def run(tmp_path):
    return hand_made(tmp_path / "run")


class TestNumbers:
    def test_accuracy_csv_by_hand(self, run):
        rows = rows_of(files_of(run)["accuracy.csv"])
        columns = ["method", "seed", "subset", "threshold", "clips", "few_clips", "accuracy", "low", "high", "network"]
        assert list(rows[0]) == columns
        found = {
            (row["method"], row["threshold"], row["subset"]): (
                int(row["clips"]),
                row["accuracy"] and float(row["accuracy"]),
            )
            for row in rows
        }
        assert len(rows) == len(found) == 3 * 3 * 4
        for threshold in ("0.0", "0.2", "0.4"):
            assert found["audio", threshold, "overall"] == (6, 4 / 6)
            assert found["baseline", threshold, "overall"] == (6, 4 / 6)
        for threshold in ("0.0", "0.2"):
            assert found["audio", threshold, "audio"] == (2, 1.0)
            assert found["visual", threshold, "audio"] == (2, 0.5)
            assert found["baseline", threshold, "audio"] == (2, 0.5)
            assert found["audio", threshold, "visual"] == (2, 0.0)
            assert found["visual", threshold, "visual"] == (2, 1.0)
            assert found["visual", threshold, "tie"] == (2, 0.5)
            assert found["baseline", threshold, "tie"] == (2, 0.5)
        assert found["visual", "0.4", "audio"] == (1, 0.0)
        assert found["baseline", "0.4", "audio"] == (1, 1.0)
        assert found["audio", "0.4", "visual"] == (1, 0.0)
        assert found["audio", "0.4", "tie"] == (4, 0.75)

    def test_an_empty_subset_is_an_empty_cell(self, run):
        files = files_of(run, thresholds=[0.75])
        (cell,) = cells_of(rows_of(files["accuracy.csv"]), method="audio", subset="visual")
        assert (cell["clips"], cell["accuracy"], cell["low"], cell["high"]) == ("0", "", "", "")
        for name, text in files.items():
            assert not re.search(r"\b(nan|none|inf)\b", text.lower()), name

    def test_numbers_are_written_in_full_precision(self, run):
        assessed = assess([run])
        evaluation = assessed[0]
        for row in rows_of(table_files_of(assessed)["accuracy.csv"].decode()):
            cell = evaluation.table.cell(row["method"], int(row["seed"]), row["subset"], float(row["threshold"]))
            for name in ("accuracy", "low", "high"):
                value = getattr(cell, name)
                assert row[name] == "" if value is None else float(row[name]) == value

    def test_thresholds_are_sorted_and_counted_once(self, run):
        evaluation, _ = assess([run], thresholds=[0.4, 0, 0.4, -0.0])
        assert evaluation.table.thresholds == (0.0, 0.4)
        assert str(evaluation.table.thresholds[0]) == "0.0"

    def test_rows_of_a_replaced_modality_are_not_scored(self, run):
        # make_run writes such rows for every clip, all wrong.
        assert pq.read_table(run / "predictions" / "audio-seed0-test.parquet").num_rows == 12
        assert table_of(run).cell("audio", 0, "audio", 0.0).accuracy == 1.0

    def test_unimodal_networks_are_known_by_method_not_by_name(self, tmp_path):
        named = {
            ("sound", "audio", 0): RIGHT["audio", "audio", 0],
            ("audio", "baseline", 0): RIGHT["baseline", "baseline", 0],
        }
        run = hand_made(tmp_path / "run", correct={**named, ("visual", "visual", 0): RIGHT["visual", "visual", 0]})
        table = table_of(run)
        assert (table.unimodal, table.multimodal) == (("sound", "visual"), ("audio",))

    def test_a_method_of_ones_own_that_reads_one_modality_is_unimodal(self, run):
        """It is right on every clip of both sides, and no multimodal method for that."""
        write_predictions(
            run, run="mine", method="my-audio", seed=0, split="test", clip_ids=np.arange(100, 106), labels=LABELS,
            correct=[True] * 6, replaced_correct={},
        )  # fmt: skip
        runs = {name: said_of(name) for name in (*MODALITIES, "baseline")}
        write_json(run / "runs.json", {**runs, "mine": said_of("audio", method="my-audio", confidence_of=None)})
        evaluation, results = assess([run])
        assert (evaluation.table.unimodal, evaluation.table.multimodal) == (("audio", "mine", "visual"), ("baseline",))
        assert evaluation.conclusion.winners == ()
        assert {one.run for one in evaluation.comparisons} == {"baseline"}
        assert {one.unimodal for one in evaluation.comparisons} == {"audio", "mine", "visual"}
        assert evaluation.table.modality_of["mine"] == "audio"
        assert len(results.confidence_by_seed["audio"]) == 1

    def test_a_network_of_ones_own_may_be_the_one_that_cuts_the_subsets(self, tmp_path):
        named = {("big", "big-audio", 0) if name == "audio" else (name, method, 0): right
                 for (name, method, _), right in RIGHT.items()}  # fmt: skip
        run = hand_made(tmp_path / "run", correct=named, epochs={"big-audio": 1})
        runs = {"big": said_of("audio", method="big-audio"), "visual": said_of("visual")}
        write_json(run / "runs.json", {**runs, "baseline": said_of("baseline")})
        evaluation, _ = assess([run])
        assert evaluation.table.unimodal == ("big", "visual")
        assert evaluation.table.cell("big", 0, "audio", 0.0).accuracy == 1.0
        assert evaluation.verdicts[0].answered
        write_history(run, "audio", seed=0, epoch=1, confidence=dict(zip(range(100, 106), VISUAL, strict=True)))
        write_history(run, "visual", seed=0, epoch=0, confidence=dict(zip(range(100, 106), VISUAL, strict=True)))
        best = read_runs([run], split="test", epochs="best")
        np.testing.assert_array_equal(best.discrepancies, np.zeros(6))

    def test_two_seeds_cut_the_subsets_once_by_their_mean(self, tmp_path):
        # Clip 1 prefers audio with seed 0 (0.8 : 0.5) and vision with seed 1 (0 : 0.5); its mean prefers vision.
        second = [0.9, 0.0, 0.5, 0.25, 0.1, 0.7]
        correct = {(run, method, seed): right for (run, method, _), right in RIGHT.items() for seed in (0, 1)}
        run = hand_made(tmp_path / "run", audio={0: AUDIO, 1: second}, visual={0: VISUAL, 1: VISUAL}, correct=correct)
        evaluation, _ = assess([run], thresholds=[0.0])
        assert evaluation.table.seeds == (0, 1)
        assert (evaluation.table.clips("audio", 0.0), evaluation.table.clips("visual", 0.0)) == (1, 3)
        assert {cell.clips for cell in evaluation.table.cells if cell.subset == "visual"} == {3}

    def test_planted_clips_give_a_second_table_and_a_rank_correlation(self, tmp_path):
        planted = {"audio": [0.9, 0.8, 0.6, 0.25, 0.1, 0.5], "visual": [0.1, 0.4, 0.5, 0.5, 0.9, 0.75]}
        run = hand_made(tmp_path / "run", planted=planted)
        evaluation, _ = assess([run])
        # Planted discrepancies 0.8, 0.4, 0.1, -0.25, -0.8, -0.25 have ranks 6 5 4 2.5 1 2.5, estimated ones
        # 6 5 3.5 2 1 3.5.
        # Pearson's correlation of these ranks: 16.25 / 17.
        assert evaluation.spearman == pytest.approx(16.25 / 17)
        files = files_of(run)
        (cell,) = cells_of(rows_of(files["accuracy_planted.csv"]), method="baseline", threshold="0.0", subset="visual")
        assert (cell["clips"], float(cell["accuracy"])) == ("3", 2 / 3)
        assert f"planted discrepancy: {16.25 / 17:.3f}" in files["tables.md"]

    def test_planted_tables_leave_out_clips_without_a_planted_quality(self, tmp_path):
        planted = {"audio": [0.9, None, 0.6, 0.3, 0.1, 0.4], "visual": [0.1, None, 0.5, 0.6, 0.9, 0.7]}
        run = hand_made(tmp_path / "run", planted=planted)
        evaluation, _ = assess([run])
        assert evaluation.planted.clips("overall", 0.0) == 5
        assert any("1 clip has no planted quality" in note for note in evaluation.notes)

    def test_no_planted_qualities_no_planted_table(self, run):
        assessed = assess([run])
        assert (assessed[0].planted, assessed[0].spearman) == (None, None)
        assert "accuracy_planted.csv" not in table_files_of(assessed)

    def test_another_split_is_evaluated_on_request(self, tmp_path):
        evaluation, _ = assess([hand_made(tmp_path / "run", split="val")], split="val")
        assert (evaluation.split, evaluation.table.cell("audio", 0, "overall", 0.0).correct) == ("val", 4)


class TestCoverage:
    def test_a_clip_without_confidence_is_counted_and_left_out_of_everything(self, tmp_path):
        run = hand_made(tmp_path / "run", audio={0: [0.9, 0.8, 0.5, None, 0.1, 0.7]})
        evaluation, _ = assess([run])
        coverage = evaluation.coverage
        assert (coverage.listed, coverage.evaluated, coverage.unrecorded, coverage.unpredicted) == (6, 5, 1, 0)
        assert evaluation.table.clips("overall", 0.0) == 5
        assert evaluation.table.cell("audio", 0, "overall", 0.0).correct == 4  # the clip left out was wrong
        assert any("5 of the split's 6 clips" in note for note in evaluation.notes)

    def test_a_clip_that_one_seed_lacks_is_left_out(self, tmp_path):
        correct = {(run, method, seed): right for (run, method, _), right in RIGHT.items() for seed in (0, 1)}
        audio = {0: AUDIO, 1: [None, *AUDIO[1:]]}
        run = hand_made(tmp_path / "run", audio=audio, visual={0: VISUAL, 1: VISUAL}, correct=correct)
        assert read_runs([run], split="test", epochs="all").coverage.unrecorded == 1

    def test_a_clip_with_bad_bytes_has_neither_prediction_nor_confidence(self, tmp_path):
        audio, visual = ({0: [*values[:5], None]} for values in (AUDIO, VISUAL))
        run = hand_made(tmp_path / "run", audio=audio, visual=visual, predicted=range(5))
        coverage = read_runs([run], split="test", epochs="all").coverage
        assert (coverage.evaluated, coverage.unrecorded, coverage.unpredicted) == (5, 0, 1)


class TestEpochs:
    @pytest.fixture
    def recorded(self, tmp_path):
        run = hand_made(tmp_path / "run", epochs={"audio": 2, "visual": 0})
        for epoch, shift in enumerate((0.0, 0.1, 0.2)):
            values = {100 + row: value - shift if row == 0 else value for row, value in enumerate(AUDIO)}
            halves = ({k: v for k, v in values.items() if k < 103}, {k: v for k, v in values.items() if k >= 103})
            for rank, half in enumerate(halves):
                # Train clips of the same epoch are in the same parts.
                write_history(run, "audio", seed=0, epoch=epoch, rank=rank, confidence={rank: 0.5, **half})
        for epoch in range(2):
            values = {100 + row: value for row, value in enumerate(VISUAL)}
            write_history(run, "visual", seed=0, epoch=epoch, confidence=values)
        return run

    def confidence(self, run, epochs):
        return read_runs([run], split="test", epochs=parse_epochs(epochs)).confidence

    def test_a_range_is_averaged_both_ends_included(self, recorded):
        assert self.confidence(recorded, "0:1")["audio"][0] == pytest.approx((0.9 + 0.8) / 2)
        assert self.confidence(recorded, "1:1")["audio"][0] == pytest.approx(0.8)

    def test_all_is_the_mean_in_the_table(self, recorded):
        np.testing.assert_array_equal(self.confidence(recorded, "all")["audio"], AUDIO)

    def test_best_is_the_epoch_that_each_network_predicts_from(self, recorded):
        best = self.confidence(recorded, "best")
        assert best["audio"][0] == pytest.approx(0.7)  # epoch 2
        assert best["visual"][0] == pytest.approx(0.1)  # epoch 0
        assert assess([recorded], confidence_epochs="best")[0].confidence_epochs == "best"

    def test_a_clip_missing_in_one_epoch_is_averaged_over_the_others(self, recorded):
        write_history(recorded, "audio", seed=0, epoch=1, rank=0, confidence={101: 0.8, 102: 0.5})
        assert self.confidence(recorded, "0:1")["audio"][0] == pytest.approx(0.9)

    def test_epochs_that_were_not_recorded_are_an_error(self, recorded):
        with pytest.raises(UsageError, match=r"visual, seed 0 has no epoch 2; .* holds epochs 0 to 1"):
            evaluate([recorded], confidence_epochs="0:2")
        with pytest.raises(UsageError, match="audio, seed 0 has no epoch 7"):
            evaluate([recorded], confidence_epochs="7:9")

    def test_a_gap_in_the_history_is_an_error(self, recorded):
        for path in (recorded / "confidence" / "history").glob("visual-seed0-epoch0000-*"):
            path.unlink()
        with pytest.raises(UsageError, match="visual, seed 0 has no epoch 0"):
            evaluate([recorded], confidence_epochs="0:1")

    def test_no_history_is_an_error(self, run):
        with pytest.raises(RunError, match="holds no history of audio, seed 0; use `--confidence-epochs all`"):
            evaluate([run], confidence_epochs="0:1")

    def test_two_parts_that_hold_the_same_clip_are_an_error(self, recorded):
        write_history(recorded, "visual", seed=0, epoch=1, rank=1, confidence={100: 0.5})
        with pytest.raises(RunError, match="epoch 1 holds some clips twice"):
            evaluate([recorded], confidence_epochs="1:1")

    def test_a_number_that_is_no_confidence_is_an_error(self, recorded):
        write_history(recorded, "visual", seed=0, epoch=1, confidence={100: float("nan")})
        with pytest.raises(RunError, match="of clip 100 is nan, not a probability"):
            evaluate([recorded], confidence_epochs="1:1")

    def test_best_needs_one_network_a_modality(self, recorded):
        write_predictions(
            recorded, run="audio2", method="audio", seed=0, split="test", clip_ids=np.arange(100, 106), labels=LABELS,
            correct=[True] * 6,
        )  # fmt: skip
        with pytest.raises(RunError, match="has 2 audio networks with seed 0"):
            evaluate([recorded], confidence_epochs="best")

    @pytest.mark.parametrize("text", ["", "5", "a:b", "1:2:3", "-1:2", "latest"])
    def test_anything_else_is_an_error(self, run, text):
        with pytest.raises(UsageError, match="expected all, best or FIRST:LAST"):
            evaluate([run], confidence_epochs=text)

    def test_a_range_that_ends_before_it_starts_is_an_error(self, run):
        with pytest.raises(UsageError, match="did you mean 2:5"):
            evaluate([run], confidence_epochs="5:2")


CONFIG = """
dataset = "/data/pets"
out = "run"
methods = ["audio", "visual", "baseline"]
seeds = [0]
preset = "paper"
classes = []

[training]
epochs = 9
batch_size = 64
log_steps = 20

[optimizer]
learning_rate = 0.001
"""


def said_of(method, /, **changes):
    """What runs.json says of a run."""
    unimodal = method in MODALITIES
    return {
        "method": method,
        "network": "one network" if unimodal else "two networks",
        "modalities": [method] if unimodal else [*MODALITIES],
        "confidence_of": method if unimodal else None,
        "options": {} if unimodal else {"fusion": "concat"},
        **changes,
    }


class TestSeveralRuns:
    def test_runs_trained_apart_are_evaluated_together(self, tmp_path, run):
        other = hand_made(tmp_path / "other", audio={}, visual={}, correct={("ogm-ge", "ogm-ge", 0): [True] * 6})
        (other / "confidence.parquet").unlink(missing_ok=True)  # it trained no unimodal network
        table = table_of(run, other)
        assert table.rows == (("audio", 0), ("visual", 0), ("baseline", 0), ("ogm-ge", 0))
        assert table.cell("ogm-ge", 0, "overall", 0.0).accuracy == 1.0

    def test_the_unimodal_networks_may_come_from_two_folders(self, tmp_path):
        apart = [
            hand_made(tmp_path / name, audio=audio, visual=visual, correct={(name, name, 0): RIGHT[name, name, 0]})
            for name, audio, visual in (("audio", {0: AUDIO}, {}), ("visual", {}, {0: VISUAL}))
        ]
        evaluation, _ = assess(apart)
        assert (evaluation.table.clips("audio", 0.0), evaluation.table.clips("tie", 0.0)) == (2, 2)
        assert evaluation.folder == apart[0] / "report"

    def test_seeds_from_two_folders_are_averaged(self, tmp_path):
        second = {(run, method, 1): right for (run, method, _), right in RIGHT.items()}
        runs = [
            hand_made(tmp_path / "first"),
            hand_made(tmp_path / "second", audio={1: [0.0] * 6}, visual={1: [0.5] * 6}, correct=second),
        ]
        # discrepancies 0.8 - 0.5, 0.3 - 0.5, 0 - 0.5, ... over two: only clip 0 still prefers audio.
        table = table_of(*runs)
        assert (table.clips("audio", 0.0), table.clips("visual", 0.0)) == (1, 5)

    def test_one_name_twice_is_an_error(self, tmp_path, run):
        with pytest.raises(RunError, match="both hold the run 'audio' with seed 0"):
            evaluate([run, hand_made(tmp_path / "other")])

    def test_one_name_for_two_methods_is_an_error(self, tmp_path, run):
        other = hand_made(tmp_path / "other", audio={}, visual={}, correct={("baseline", "tmc", 1): [True] * 6})
        with pytest.raises(RunError, match=r"use the name 'baseline' for different methods \(baseline, tmc\)"):
            evaluate([run, other])

    @pytest.fixture
    def another_seed(self, tmp_path):
        """A maker of a folder with seed 1 of the three runs, of which runs.json and config.toml are told."""

        def make(name, *, seed=1, config=CONFIG, **said):
            correct = {(run, method, seed): right for (run, method, _), right in RIGHT.items()}
            folder = hand_made(tmp_path / name, audio={seed: AUDIO}, visual={seed: VISUAL}, correct=correct)
            write_text(folder / "config.toml", config)
            write_json(folder / "runs.json", {run: said_of(run, **said.get(run, {})) for run, _, _ in RIGHT})
            return folder

        return make

    def test_seeds_of_one_configuration_are_averaged(self, another_seed):
        moved = CONFIG.replace("/data/pets", "/other/pets").replace("log_steps = 20", "log_steps = 5\nother = 1")
        first, second = another_seed("first", seed=0), another_seed("second", config=moved)
        evaluation, _ = assess([first, second])
        assert evaluation.table.seeds == (0, 1)
        assert not any("alike" in note for note in evaluation.notes)

    def test_what_a_run_was_trained_on_counts_and_was_all_of_train_where_nobody_said_it(self, another_seed):
        old = another_seed("old", seed=0)
        now = {"trains_on": "train", "options": {"fusion": "concat", "trains_on": "train"}}
        assert assess([old, another_seed("same", baseline=now)])[0].table.seeds == (0, 1)
        other = another_seed("other", baseline={**now, "trains_on": "estimation"})
        with pytest.raises(RunError, match=r"different option trains-on \(train and estimation\)"):
            evaluate([old, other])

    def test_who_left_clips_out_and_who_estimates_on_clips_it_trained_on_is_said(self, another_seed):
        blending = {"method": "gradient-blending", "options": {"mode": "online", "super_epoch": 3}}
        folders = [
            another_seed("mixed", seed=0, baseline=blending, audio={"trains_on": "estimation"}),
            another_seed("offline", seed=0, baseline={**blending, "options": {"mode": "offline", "super_epoch": 3}}),
            another_seed("once", seed=0, baseline={**blending, "options": {"mode": "online", "super_epoch": 9}}),
            another_seed("apart", seed=0, baseline={**blending, "trains_on": "estimation"}),
        ]
        mixed, offline, once, apart = (" ".join(assess([folder])[0].notes) for folder in folders)
        assert "audio was not trained on 10 % of each class's training videos" in mixed
        assert "baseline was trained on all of train: from the second estimate" in mixed
        assert "trained on all" not in offline + once  # of 9 epochs: one estimate, before the first step
        assert "baseline was not trained on 10 %" in apart and "from the second" not in apart

    @pytest.mark.parametrize(
        ("config", "said", "message"),
        [
            (
                CONFIG.replace("batch_size = 64", "batch_size = 4"),
                {},
                r"run 'audio'.* different batch-size \(64 and 4\)",
            ),
            (CONFIG.replace("0.001", "0.1"), {}, r"different learning-rate \(0.001 and 0.1\)"),
            (CONFIG.replace("paper", "tiny"), {}, r"different preset \(paper and tiny\)"),
            (CONFIG.replace("[]", '["cat", "dog"]'), {}, r"different classes \(all and cat, dog\)"),
            (
                CONFIG,
                {"options": {"fusion": "film", "more": True}},
                r"run 'baseline', .* different option fusion \(concat and film\), option more \(not said and True\); "
                r"evaluate them apart, or train one under another name \(--methods NAME=baseline\)",
            ),
            (CONFIG, {"network": "one big network"}, r"different network \(two networks and one big network\)"),
        ],
    )
    def test_seeds_of_different_configurations_are_an_error(self, another_seed, config, said, message):
        first, second = another_seed("first", seed=0), another_seed("second", config=config, baseline=said)
        for folders in ([first, second], [second, first]):
            with pytest.raises(RunError, match=message if folders[0] == first else "whose seeds would be averaged"):
                evaluate(folders)

    def test_networks_of_two_names_that_cut_the_same_subsets_must_be_alike(self, another_seed, tmp_path):
        first = another_seed("first", seed=0)
        other = hand_made(tmp_path / "other", audio={1: AUDIO}, visual={}, correct={("ear", "audio", 1): [True] * 6})
        write_text(other / "config.toml", CONFIG)
        write_json(other / "runs.json", {"ear": said_of("audio")})
        assert assess([first, other])[0].table.unimodal == ("audio", "ear", "visual")
        write_text(other / "config.toml", CONFIG.replace("epochs = 9", "epochs = 3"))
        with pytest.raises(RunError, match=r"the audio network, .* different epochs \(9 and 3\); .* train one again"):
            evaluate([first, other])

    def test_runs_that_are_only_compared_may_be_trained_unlike_and_a_note_says_so(self, run, tmp_path):
        other = hand_made(tmp_path / "other", audio={}, visual={}, correct={("tmc", "tmc", 0): [True] * 6})
        write_text(run / "config.toml", CONFIG)
        write_text(other / "config.toml", CONFIG.replace("batch_size = 64", "batch_size = 4"))
        (note,) = [note for note in assess([run, other])[0].notes if "alike" in note]
        assert note.endswith(f": batch-size is 64 in {run}, 4 in {other}.")

    def test_two_recordings_of_one_modality_and_seed_are_an_error(self, tmp_path, run):
        other = hand_made(tmp_path / "other", visual={}, correct={("audio2", "audio", 0): [True] * 6})
        with pytest.raises(RunError, match="both recorded the audio confidence with seed 0; leave one out"):
            evaluate([run, other])

    def test_different_datasets_are_an_error(self, tmp_path, run):
        with pytest.raises(RunError, match=r"different datasets \(pets 5e5e5e5e, pets aaaaaaaa\)"):
            evaluate([run, hand_made(tmp_path / "other", fingerprint="a" * 64)])

    def test_different_clips_are_an_error(self, tmp_path, run):
        other = hand_made(
            tmp_path / "other", audio={}, visual={}, correct={("tmc", "tmc", 0): [True] * 6}, first_clip=101
        )
        with pytest.raises(RunError, match=r"predict different clips .2 are in one only, the first is clip 100"):
            evaluate([run, other])

    def test_different_labels_are_an_error(self, tmp_path, run):
        other = hand_made(
            tmp_path / "other", audio={}, visual={}, correct={("tmc", "tmc", 0): [True] * 6}, labels=[1, *LABELS[1:]]
        )
        with pytest.raises(RunError, match="give different labels to the same clips"):
            evaluate([run, other])

    def test_the_same_folder_twice_is_an_error(self, run):
        with pytest.raises(UsageError, match="given twice"):
            evaluate([run, run / "." / "predictions" / ".."])


class TestMistakes:
    """Each is one line that names the thing and the way out."""

    @pytest.mark.parametrize("thresholds", [[], [-0.1], [1.0], [float("nan")], [0.2, float("inf")]])
    def test_bad_thresholds(self, run, thresholds):
        with pytest.raises(UsageError, match="--thresholds"):
            evaluate([run], thresholds=thresholds)

    @pytest.mark.parametrize("resamples", [-1, 19, 100_001, 10**9])
    def test_resamples_that_are_too_few_or_never_end(self, run, resamples):
        with pytest.raises(UsageError, match=f"--resamples {resamples}: expected 20 to 100000"):
            evaluate([run], resamples=resamples)

    def test_no_run(self):
        with pytest.raises(UsageError, match="give a run folder: `avbench evaluate RUN`"):
            evaluate([])

    def test_a_split_that_is_none(self, run):
        with pytest.raises(UsageError, match="unknown split 'tset'; did you mean 'test'"):
            evaluate([run], split="tset")

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(RunError, match="no such run folder"):
            evaluate([tmp_path / "nothing"])

    @pytest.mark.parametrize("name", ["config.toml", "dataset.json", "environment.json"])
    def test_a_folder_that_is_no_run_folder(self, run, name):
        (run / name).unlink()
        with pytest.raises(RunError, match=f"not a run folder, it has no {name}"):
            evaluate([run])

    def test_a_description_that_is_damaged(self, run):
        (run / "dataset.json").write_text("{")
        with pytest.raises(RunError, match="cannot be read"):
            evaluate([run])
        (run / "dataset.json").write_text("[]")
        with pytest.raises(RunError, match="has no 'name'"):
            evaluate([run])

    @pytest.mark.parametrize(
        "said", [{"modalities": ["smell"]}, {"modalities": []}, {"confidence_of": "smell"}, {"options": 3}]
    )
    def test_a_list_of_runs_that_is_none(self, run, said):
        write_json(run / "runs.json", {"audio": {"method": "audio", **said}})
        with pytest.raises(RunError, match=r"runs\.json: holds no list of runs"):
            evaluate([run])

    def test_no_predictions(self, run):
        shutil.rmtree(run / "predictions")
        with pytest.raises(RunError, match="holds no predictions; did the training end"):
            evaluate([run])

    def test_no_predictions_of_this_split(self, run):
        with pytest.raises(RunError, match="has no predictions of the val split, only of test; choose with --split"):
            evaluate([run], split="val")

    @pytest.mark.parametrize(
        ("left_out", "message"),
        [
            (["audio"], r"no audio network among the runs \(baseline, visual\).*--methods audio`"),
            (["audio", "visual"], r"no audio and no visual network.*--methods audio,visual`"),
        ],
    )
    def test_no_unimodal_network(self, run, left_out, message):
        for name in left_out:
            (run / "predictions" / f"{name}-seed0-test.parquet").unlink()
        with pytest.raises(RunError, match=message):
            evaluate([run])

    def test_no_confidence_table(self, run):
        (run / "confidence.parquet").unlink()
        with pytest.raises(RunError, match="no such table"):
            evaluate([run])

    def test_no_confidence_of_this_split(self, run):
        table = pq.read_table(run / "confidence.parquet")
        split = pa.array(["train"] * table.num_rows)
        pq.write_table(
            table.set_column(table.schema.get_field_index("split"), "split", split), run / "confidence.parquet"
        )
        with pytest.raises(RunError, match="holds no clip of the test split"):
            evaluate([run])

    @pytest.mark.parametrize("modality", MODALITIES)
    def test_nothing_recorded_of_one_modality(self, tmp_path, modality):
        with pytest.raises(RunError, match=f"no {modality} confidence of the test split was recorded"):
            evaluate([hand_made(tmp_path / "run", **{modality: {0: [None] * 6}})])

    def test_no_clip_with_both_confidences(self, tmp_path):
        run = hand_made(tmp_path / "run", audio={0: [0.5] * 3 + [None] * 3}, visual={0: [None] * 3 + [0.5] * 3})
        with pytest.raises(RunError, match="no clip of the test split has an audio and a visual confidence"):
            evaluate([run])

    def test_one_class_only(self, tmp_path):
        with pytest.raises(RunError, match="has the same class"):
            evaluate([hand_made(tmp_path / "run", labels=[1] * 6)])

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.01])
    def test_a_confidence_that_is_no_probability(self, tmp_path, value):
        run = hand_made(tmp_path / "run", audio={0: [0.5, value, 0.5, 0.5, 0.5, 0.5]})
        with pytest.raises(RunError, match=r"the audio confidence of clip 101 is .*, not a probability"):
            evaluate([run])

    def test_a_confidence_table_that_misses_predicted_clips(self, run):
        pq.write_table(pq.read_table(run / "confidence.parquet").slice(2), run / "confidence.parquet")
        with pytest.raises(RunError, match=r"name different clips of the test split: 2 are .* the first is clip 100"):
            evaluate([run])

    def test_predictions_that_miss_recorded_clips(self, tmp_path):
        with pytest.raises(RunError, match=r"name different clips of the test split: 1 are .* the first is clip 105"):
            evaluate([hand_made(tmp_path / "run", predicted=range(5))])

    def test_a_clip_listed_twice(self, run):
        table = pq.read_table(run / "confidence.parquet")
        pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), run / "confidence.parquet")
        with pytest.raises(RunError, match="lists clip 100 twice"):
            evaluate([run])

    def test_seeds_that_list_different_clips(self, tmp_path):
        run = hand_made(tmp_path / "run", audio={0: AUDIO, 1: AUDIO}, visual={0: VISUAL, 1: VISUAL})
        pq.write_table(pq.read_table(run / "confidence.parquet").slice(1), run / "confidence.parquet")
        with pytest.raises(RunError, match="seed 1 lists other clips than seed 0"):
            evaluate([run])

    def test_labels_that_contradict(self, run):
        write_predictions(
            run, run="baseline", method="baseline", seed=0, split="test", clip_ids=np.arange(100, 106),
            labels=[1, *LABELS[1:]], correct=[True] * 6,
        )  # fmt: skip
        with pytest.raises(RunError, match="give different labels to the same clips"):
            evaluate([run])

    @pytest.mark.parametrize("name", ["confidence.parquet", "predictions/visual-seed0-test.parquet"])
    def test_a_truncated_table(self, run, name):
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(RunError, match=f"{name}: not a readable Parquet table"):
            evaluate([run])

    def test_a_table_without_its_columns(self, run):
        path = run / "predictions" / "visual-seed0-test.parquet"
        pq.write_table(pq.read_table(path).drop_columns(["prediction"]), path)
        with pytest.raises(RunError, match="lacks the columns prediction"):
            evaluate([run])

    def test_a_table_with_empty_or_wrong_values(self, run):
        path = run / "predictions" / "visual-seed0-test.parquet"
        table = pq.read_table(path)
        place = table.schema.get_field_index("prediction")
        for values, message in (
            (pa.array([None] * 12, pa.int32()), "prediction has 6 empty values"),
            (pa.array(["cat"] * 12), "column .prediction. holds string, expected int32"),
        ):
            pq.write_table(table.set_column(place, "prediction", values), path)
            with pytest.raises(RunError, match=message):
                evaluate([run])

    def test_a_table_of_two_runs(self, run):
        path = run / "predictions" / "visual-seed0-test.parquet"
        both = pa.concat_tables([pq.read_table(path), pq.read_table(run / "predictions" / "audio-seed0-test.parquet")])
        pq.write_table(both, path)
        with pytest.raises(RunError, match="must hold one run"):
            evaluate([run])

    def test_a_table_of_replaced_modalities_only(self, run):
        path = run / "predictions" / "visual-seed0-test.parquet"
        table = pq.read_table(path)
        pq.write_table(table.filter(pa.compute.equal(table.column("replaced"), "audio")), path)
        with pytest.raises(RunError, match="holds no prediction with both modalities"):
            evaluate([run])

    def test_every_message_is_one_line(self, run):
        (run / "confidence.parquet").write_bytes(b"PAR1 no table at all")
        with pytest.raises(AvbenchError) as caught:
            evaluate([run])
        assert "\n" not in str(caught.value)


class TestFolder:
    def test_the_same_run_gives_the_same_bytes_and_leaves_nothing_else(self, tmp_path):
        run = hand_made(tmp_path / "run", planted={"audio": AUDIO, "visual": VISUAL})
        assert evaluate([run]).folder == run / "report"
        first = {path.name: path.read_bytes() for path in (run / "report").iterdir()}
        tables = {"accuracy.csv", "seeds.csv", "metrics.csv", "significance.csv", "tables.md", "tables.tex"}
        assert tables | {"index.html", "heatmap.png", "heatmap.svg", "accuracy_planted.csv"} <= first.keys()
        assert not {"parts.csv", "utilization.csv", "cross_seed.csv", "published.csv"} & first.keys()
        hand_made(run)  # the same, but without planted qualities
        evaluate([run])
        assert not (run / "report" / "accuracy_planted.csv").exists()
        evaluate([hand_made(run, planted={"audio": AUDIO, "visual": VISUAL})])
        assert {path.name: path.read_bytes() for path in (run / "report").iterdir()} == first
        assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []

    @pytest.fixture
    def reported(self, run):
        """A run with a report of long ago, which had no manifest."""
        (run / "report").mkdir()
        for name in ("accuracy.csv", "index.html", "methods-0.2.png", "diagnostics-ogm-ge.svg"):
            (run / "report" / name).write_text("old")
        return run

    def test_a_failed_evaluation_leaves_the_old_report(self, reported):
        (reported / "confidence.parquet").write_bytes(b"")
        with pytest.raises(RunError):
            evaluate([reported])
        assert (reported / "report" / "index.html").read_text() == "old"

    def test_a_report_that_cannot_be_put_in_place_leaves_the_old_one(self, reported):
        with pytest.raises(TypeError):
            replace_report(reported / "report", {"index.html": b"new", "accuracy.csv": None})
        assert (reported / "report" / "index.html").read_text() == "old"
        assert [path.name for path in reported.iterdir() if path.name.startswith(".")] == []

    def test_a_report_takes_the_place_of_an_old_one_or_makes_its_folder(self, reported, tmp_path):
        for folder in (reported / "report", tmp_path / "a" / "b"):
            for content in (b"new", b"newer"):
                check_report_folder(folder)
                replace_report(folder, {"accuracy.csv": content})
                assert (folder / "accuracy.csv").read_bytes() == content
                assert {path.name for path in folder.iterdir()} == {"accuracy.csv", "report.json"}

    def test_the_manifest_lists_every_file(self, run):
        folder = evaluate([run], resamples=20).folder
        listed = json.loads((folder / "report.json").read_text())
        assert (listed["format"], listed["version"]) == ("avbench-report", 1)
        assert listed["files"] == sorted(path.name for path in folder.iterdir())

    @pytest.mark.parametrize("names", [["chapter.tex"], ["accuracy.csv"], ["accuracy.csv", "index.html", "thesis.tex"]])
    def test_somebody_elses_folder_is_not_replaced(self, run, tmp_path, names):
        (tmp_path / "thesis").mkdir()
        for name in names:
            (tmp_path / "thesis" / name).write_text("x")
        with pytest.raises(UsageError, match=r"holds other things than a report, such as .*; choose another folder"):
            evaluate([run], out=tmp_path / "thesis")
        assert {path.name for path in (tmp_path / "thesis").iterdir()} == set(names)

    @pytest.mark.parametrize("foreign", ["notes.txt", ".hidden", "more/figure.png"])
    def test_what_somebody_put_into_a_report_is_not_lost(self, reported, foreign):
        for fresh in (False, True):
            if fresh:
                evaluate([reported], resamples=20)
            path = reported / "report" / foreign
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine")
            with pytest.raises(UsageError, match=f"such as '{foreign.split('/')[0]}', which would be lost"):
                evaluate([reported])
            assert path.read_text() == "mine"
            path.unlink()
            if path.parent != reported / "report":
                path.parent.rmdir()

    def test_what_comes_into_a_report_in_the_meantime_is_not_lost(self, tmp_path):
        replace_report(tmp_path / "report", {"accuracy.csv": b"old"})
        (tmp_path / "report" / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match=r"notes.txt"):
            replace_report(tmp_path / "report", {"accuracy.csv": b"new"})
        assert (tmp_path / "report" / "accuracy.csv").read_bytes() == b"old"

    @pytest.mark.parametrize("manifest", ["{", "[]", '{"format": "other", "files": ["report.json", "mine.csv"]}'])
    def test_a_manifest_of_something_else_is_none(self, tmp_path, manifest):
        (tmp_path / "report.json").write_text(manifest)
        (tmp_path / "mine.csv").write_text("mine")
        with pytest.raises(UsageError, match="holds other things"):
            check_report_folder(tmp_path)

    def test_a_link_to_a_report_stays_one(self, tmp_path):
        replace_report(tmp_path / "report", {"accuracy.csv": b"old"})
        (tmp_path / "link").symlink_to("report")
        replace_report(tmp_path / "link", {"accuracy.csv": b"new"})
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "report" / "accuracy.csv").read_bytes() == b"new"

    @pytest.mark.parametrize("out", ["file", "file/report", "file/a/report", "n" * 300, "/proc/report"])
    def test_a_place_where_no_folder_can_be_made_is_refused_before_the_work(self, run, tmp_path, monkeypatch, out):
        (tmp_path / "file").write_text("x")
        monkeypatch.setattr(report, "evaluated", None)  # a call would be a TypeError
        with pytest.raises(UsageError, match="--out") as caught:
            evaluate([run], out=tmp_path / out)
        assert "\n" not in str(caught.value)
        assert {path.name for path in tmp_path.iterdir()} == {"file", "run"}


class TestShown:
    @pytest.mark.parametrize("width", [80, 100])
    def test_the_terminal_table_fits(self, tmp_path, width):
        right = RIGHT["baseline", "baseline", 0]
        correct = {**RIGHT, **{(name, name, 0): right for name in ("gradient-blending", "ogm-ge", "greedy", "tmc")}}
        console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
        console.print(terminal_table(assess([hand_made(tmp_path / "run", correct=correct)])[0]))
        lines = console.export_text().splitlines()
        assert max(map(len, lines)) <= width
        assert len([line for line in lines if line.startswith("gradient-blending ")]) == 3  # not folded
        (line,) = [line for line in lines if line.startswith("T = 0.4")]
        assert re.findall(r"\d+", line) == ["0", "4", "6", "1", "1", "4"]

    def test_the_terminal_table_fits_where_everything_is_right(self, tmp_path):
        correct = {(name, name, 0): [True] * 6 for name in (*MODALITIES, "gradient-blending")}
        console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
        console.print(terminal_table(assess([hand_made(tmp_path / "run", correct=correct)])[0]))
        lines = console.export_text().splitlines()
        assert len([line for line in lines if line.startswith("gradient-blending ")]) == 3

    def test_the_terminal_table_says_what_was_left_out(self, tmp_path):
        run = hand_made(tmp_path / "run", audio={0: [0.9, 0.8, 0.5, None, 0.1, 0.7]})
        caption = terminal_table(assess([run])[0]).caption
        assert caption.splitlines()[0] == "5 clips; 1 more left out: no confidence"


def test_a_report_is_made_without_importing_torch(run):
    code = (
        "import sys; from pathlib import Path; from avbench.analysis.report import evaluate\n"
        "evaluate([Path(sys.argv[1])]); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(run)], check=True)
    assert (run / "report" / "index.html").exists()


def test_thresholds_that_would_be_called_alike_are_refused():
    with pytest.raises(UsageError, match=r"0\.1 and 0\.1000000[0-9]* would both be called 0\.1; leave one out"):
        report.checked_thresholds([0.1, 0.10000004])
    assert report.checked_thresholds([0.4, 0.1, 0.1]) == (0.1, 0.4)


@pytest.mark.parametrize("name", ["a[/b]", "[red]", ":smile:"])
def test_a_terminal_shows_names_as_they_are(run, tmp_path, capsys, monkeypatch, name):
    mine = pa.table({"key": [f"clip{row}" for row in range(6)], "prediction": [0] * 6, "run": [name] * 6})
    pq.write_table(mine, tmp_path / "mine.parquet")
    made, _ = assess([run], predictions=[tmp_path / "mine.parquet"], resamples=20)
    monkeypatch.setattr(report, "evaluate", lambda *_, **__: made)
    main(["evaluate", str(run)])
    assert name in capsys.readouterr().out


class TestDamage:
    """A file that holds another kind of thing than it was written with is named in one line."""

    @pytest.mark.parametrize(
        ("file", "field", "value"),
        [
            ("dataset.json", "name", None),
            ("dataset.json", "classes", 3),
            ("dataset.json", "classes", [0, 1, 2]),
            ("dataset.json", "clips_per_class", [1]),
            ("dataset.json", "recipe", "x"),
            ("environment.json", "launches", {"a": 1}),
        ],
    )
    def test_in_json(self, run, file, field, value):
        said = json.loads((run / file).read_text())
        write_json(run / file, {**said, field: value})
        with pytest.raises(RunError, match=rf"{file}: .*damaged"):
            assess([run], resamples=20)

    @pytest.mark.parametrize("file", ["confidence.parquet", "predictions/audio-seed0-test.parquet"])
    @pytest.mark.parametrize("column", ["split", "clip_id", "label"])
    @pytest.mark.parametrize("value", [[1.0], {"a": 1}, True])
    def test_in_a_table(self, run, file, column, value):
        table = pq.read_table(run / file)
        place = table.column_names.index(column)
        pq.write_table(table.set_column(place, column, pa.array([value] * len(table))), run / file)
        with pytest.raises(RunError, match=rf"column '{column}' holds .*damaged"):
            assess([run], resamples=20)

    def test_a_run_without_a_name(self, run):
        file = run / "predictions" / "audio-seed0-test.parquet"
        table = pq.read_table(file)
        place = table.column_names.index("run")
        pq.write_table(table.set_column(place, "run", pa.nulls(len(table), pa.string())), file)
        with pytest.raises(RunError, match="must hold one run, one seed"):
            assess([run], resamples=20)
