"""Anybody's predictions and confidences: scored as a run folder's own, and every mistake in one line."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from make_run import CLASSES, make_run

from avbench.analysis.export import counts_text, export_subsets
from avbench.analysis.external import read_results
from avbench.analysis.report import assess
from avbench.errors import AvbenchError, RunError, UsageError

LABELS = [0, 1, 2, 0, 1, 2]
AUDIO = [0.9, 0.8, 0.5, 0.25, 0.1, 0.7]
VISUAL = [0.1, 0.5, 0.5, 0.5, 0.8, 0.7]
KEYS = [f"clip{row}" for row in range(6)]
SAID = [0, 1, 2, 1, 1, 0]  # right on clips 0, 1, 2 and 4
CONFIDENCE = {"key": KEYS, "label": [CLASSES[label] for label in LABELS], "audio": AUDIO, "visual": VISUAL}


@pytest.fixture
def run(tmp_path):
    right = {(name, name, 0): [True, True, True, False, False, True] for name in ("audio", "visual", "baseline")}
    return make_run(tmp_path / "run", labels=LABELS, audio={0: AUDIO}, visual={0: VISUAL}, correct=right)


def write(path, columns):
    table = pa.table(columns)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def read(*runs, predictions=(), confidence=None, split="test"):
    return read_results(runs, predictions=predictions, confidence=confidence, split=split, epochs="all")


def score_of(results, run):
    (score,) = (score for score in results.scores if score.run == run)
    return score


class TestScored:
    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    @pytest.mark.parametrize("said", [SAID, [CLASSES[number] for number in SAID]])
    def test_numbers_or_names_beside_a_run(self, run, tmp_path, suffix, said):
        mine = write(tmp_path / f"mine{suffix}", {"key": KEYS[::-1], "prediction": said[::-1]})
        results = read(run, predictions=[mine])
        assert [score.run for score in results.scores] == ["audio", "baseline", "visual", "mine"]
        score = score_of(results, "mine")
        np.testing.assert_array_equal(score.predictions, SAID)
        np.testing.assert_array_equal(score.correct, [True, True, True, False, True, False])
        assert (score.probabilities, score.is_unimodal) == (None, False)

    def probabilities(self):
        return np.eye(3)[SAID] * 0.7 + 0.1

    @pytest.mark.parametrize("layout", ["lists", "json", "columns"])
    def test_class_probabilities_in_each_layout(self, run, tmp_path, layout):
        values = self.probabilities()
        if layout == "columns":  # one a class, in any order
            columns = {name: values[:, number] for number, name in reversed(list(enumerate(CLASSES)))}
            path = write(tmp_path / "mine.csv", {"key": KEYS, **columns})
        elif layout == "json":
            path = write(
                tmp_path / "mine.csv", {"key": KEYS, "probabilities": [json.dumps(row.tolist()) for row in values]}
            )
        else:
            path = write(tmp_path / "mine.parquet", {"key": KEYS, "probabilities": values.tolist()})
        score = score_of(read(run, predictions=[path]), "mine")
        np.testing.assert_array_equal(score.predictions, SAID)
        np.testing.assert_allclose(score.probabilities, values, atol=1e-7)

    def test_columns_run_and_seed_tell_several_apart(self, run, tmp_path):
        columns = {"key": KEYS * 3, "prediction": SAID + LABELS + LABELS}
        path = write(
            tmp_path / "all.csv", {**columns, "run": ["a"] * 12 + ["b"] * 6, "seed": [0] * 6 + [1] * 6 + [0] * 6}
        )
        results = read(run, predictions=[path])
        assert [(s.run, s.seed, int(s.correct.sum())) for s in results.scores[3:]] == [
            ("a", 0, 4),
            ("a", 1, 6),
            ("b", 0, 6),
        ]

    def test_keys_keep_their_zeros_and_clips_of_other_splits_are_not_scored(self, tmp_path):
        keys = [f"00{row}" for row in range(6)]
        confidence = write(tmp_path / "c.csv", {**CONFIDENCE, "key": keys, "split": ["test"] * 5 + ["val"]})
        mine = write(tmp_path / "mine.csv", {"key": keys[:5], "prediction": SAID[:5]})
        results = read(predictions=[mine], confidence=confidence)
        assert results.keys.tolist() == keys[:5]

    def test_without_a_run_a_confidence_file_cuts_the_subsets(self, tmp_path):
        confidence = write(tmp_path / "pets.csv", CONFIDENCE)
        mine = write(tmp_path / "mine.csv", {"key": KEYS, "prediction": SAID})
        unimodal = [
            write(tmp_path / f"{name}.csv", {"key": KEYS, "prediction": said})
            for name, said in (("audio", [0, 1, 0, 0, 0, 0]), ("visual", [1, 0, 0, 0, 1, 0]))
        ]
        evaluation, results = assess([], predictions=[mine, *unimodal], confidence=confidence, resamples=20)
        assert results.classes == ("cat", "dog", "rain")
        assert evaluation.dataset == "pets"
        assert evaluation.folder == tmp_path / "mine.csv-report"
        assert evaluation.table.cell("mine", 0, "audio", 0.0).accuracy == 1.0
        assert evaluation.table.cell("mine", 0, "visual", 0.0).accuracy == 0.5
        assert evaluation.table.unimodal == ("audio", "visual")
        assert evaluation.verdicts[0].answered
        assert any(str(confidence) in note for note in evaluation.notes)

    def test_without_unimodal_predictions_the_question_stays_open(self, tmp_path):
        confidence = write(tmp_path / "pets.csv", CONFIDENCE)
        mine = write(tmp_path / "mine.csv", {"key": KEYS, "prediction": SAID})
        evaluation, _ = assess([], predictions=[mine], confidence=confidence, resamples=20)
        assert evaluation.verdicts[0].sentence.endswith("no audio and no visual network was evaluated.")
        assert evaluation.comparisons == ()

    def test_numbers_as_labels_need_no_names(self, tmp_path):
        confidence = write(tmp_path / "pets.csv", {**CONFIDENCE, "label": LABELS})
        mine = write(tmp_path / "mine.parquet", {"key": KEYS, "probabilities": (np.eye(5)[SAID]).tolist()})
        results = read(predictions=[mine], confidence=confidence)
        assert results.classes == ("0", "1", "2", "3", "4")  # as many as there are probabilities

    def test_a_runs_own_files_may_be_brought_to_another_confidence(self, run, tmp_path):
        own = run / "predictions" / "baseline-seed0-test.parquet"
        results = read(predictions=[own], confidence=run / "confidence.parquet")
        (score,) = results.scores
        assert (score.run, score.method, score.seed, int(score.correct.sum())) == ("baseline", "baseline", 0, 4)
        assert score.probabilities.shape == (6, 3)
        swapped = write(tmp_path / "swapped.csv", {**CONFIDENCE, "audio": VISUAL, "visual": AUDIO})
        np.testing.assert_allclose(
            read(run, confidence=swapped).discrepancies, -read(run).discrepancies, rtol=0, atol=1e-12
        )


class TestMistakes:
    def fails(self, message, *runs, error=RunError, **files):
        with pytest.raises(error, match=message) as caught:
            read(*runs, **files)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, AvbenchError)

    def mine(self, tmp_path, **columns):
        return [write(tmp_path / "mine.csv", {"key": KEYS, "prediction": SAID, **columns})]

    def test_missing_clips(self, run, tmp_path):
        files = [write(tmp_path / "mine.csv", {"key": KEYS[:4], "prediction": SAID[:4]})]
        self.fails(r"lacks 2 of the 6 evaluated clips of the test split, the first is 'clip4'", run, predictions=files)

    def test_unknown_keys(self, run, tmp_path):
        files = [write(tmp_path / "mine.csv", {"key": [*KEYS, "x1", "x2"], "prediction": [*SAID, 0, 0]})]
        self.fails(r"2 of its 8 keys are unknown to pets, the first is 'x1'", run, predictions=files)

    def test_another_dataset(self, run, tmp_path):
        files = self.mine(tmp_path, key=[f"other{row}" for row in range(6)])
        self.fails(
            r"another dataset's predictions: none of its 6 keys is in pets, the first is 'other0'",
            run,
            predictions=files,
        )
        files = self.mine(tmp_path, label=[1, *LABELS[1:]])
        self.fails(r"1 of 6 labels are not those of pets, the first is 'dog' of 'clip0'", run, predictions=files)

    def test_a_clip_twice(self, run, tmp_path):
        files = self.mine(tmp_path, key=[*KEYS[:5], KEYS[0]])
        self.fails(r"1 keys stand more than once, the first is 'clip0'", run, predictions=files)

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ([3, *SAID[1:]], r"prediction of 'clip0': '3' is no class; expected .* a number from 0 to 2"),
            ([-1, *SAID[1:]], r"prediction of 'clip0': '-1' is no class"),
            (["dgo", *["cat"] * 5], r"unknown class 'dgo'; did you mean 'dog'"),
            ([None, *SAID[1:]], r"prediction of 'clip0' is empty \(1 such"),
        ],
    )
    def test_a_class_that_is_none(self, run, tmp_path, said, message):
        for suffix in (".csv", ".parquet"):
            path = write(tmp_path / f"mine{suffix}", {"key": KEYS, "prediction": said})
            self.fails(message, run, predictions=[path])

    def test_probabilities_that_are_none(self, run, tmp_path):
        values = np.full((6, 3), 0.3)
        values[2, 1] = np.nan
        path = write(tmp_path / "mine.parquet", {"key": KEYS, "probabilities": values.tolist()})
        self.fails(
            "1 clips have a class probability that is missing or not finite, the first is 'clip2'",
            run,
            predictions=[path],
        )
        path = write(
            tmp_path / "mine.csv", {"key": KEYS, **{name: values[:, place] for place, name in enumerate(CLASSES)}}
        )
        self.fails("the first is 'clip2'", run, predictions=[path])
        path = write(tmp_path / "mine.parquet", {"key": KEYS, "probabilities": [[0.5, 0.5]] * 6})
        self.fails("'clip0' has 2 probabilities, expected 3", run, predictions=[path])
        path = write(tmp_path / "mine.csv", {"key": KEYS, "probabilities": ["one"] * 6})
        self.fails(r"probabilities of 'clip0' are 'one', expected \[0.1", run, predictions=[path])
        path = write(tmp_path / "mine.csv", {"key": KEYS, "cat": [0.5] * 6, "dog": [0.5] * 6})
        self.fails("has columns for 2 of 3 classes, but none for 'rain'", run, predictions=[path])

    def test_neither_predictions_nor_probabilities(self, run, tmp_path):
        path = write(tmp_path / "mine.csv", {"key": KEYS, "guess": SAID})
        self.fails(
            "has no column prediction, no column probabilities, and none for each class", run, predictions=[path]
        )

    @pytest.mark.parametrize("values", [[1.5, *AUDIO[1:]], [-0.1, *AUDIO[1:]]])
    def test_a_confidence_out_of_range(self, tmp_path, values):
        confidence = write(tmp_path / "c.csv", {**CONFIDENCE, "audio": values})
        self.fails(
            r"column audio of 'clip0' is .*, expected a probability",
            predictions=self.mine(tmp_path),
            confidence=confidence,
        )

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_a_confidence_table_of_part_of_the_split(self, run, tmp_path, suffix):
        gap = write(tmp_path / f"c{suffix}", {**CONFIDENCE, "visual": [None, *VISUAL[1:5], None]})
        message = "covers only part of the test split: 2 of 6 clips have no visual, the first is 'clip0'"
        self.fails(message, predictions=self.mine(tmp_path), confidence=gap)
        short = write(tmp_path / f"c{suffix}", {name: values[:4] for name, values in CONFIDENCE.items()})
        message = "covers only part of the test split: 2 of the 6 clips that .*mine.csv predicts are not in it"
        self.fails(message, predictions=self.mine(tmp_path), confidence=short)
        message = "covers only part of the test split: 2 of 6 evaluated clips are not in it, the first is 'clip4'"
        self.fails(message, run, confidence=short)

    def test_not_a_number_is_no_confidence(self, tmp_path):
        confidence = write(tmp_path / "c.parquet", {**CONFIDENCE, "audio": [float("nan"), *AUDIO[1:]]})
        self.fails("column audio of 'clip0' is nan", predictions=self.mine(tmp_path), confidence=confidence)

    def test_a_confidence_without_its_columns_or_split(self, run, tmp_path):
        confidence = write(tmp_path / "c.csv", {"key": KEYS, "audio": AUDIO})
        self.fails("has no column label and no visual", predictions=self.mine(tmp_path), confidence=confidence)
        self.fails(
            "no clip of the val split, only of test", predictions=self.mine(tmp_path), split="val",
            confidence=run / "confidence.parquet",
        )  # fmt: skip
        twice = write(tmp_path / "c.csv", {**CONFIDENCE, "key": [*KEYS[:5], "clip0"]})
        self.fails("1 keys stand more than once", predictions=self.mine(tmp_path), confidence=twice)

    def test_one_class_only(self, tmp_path):
        confidence = write(tmp_path / "c.csv", {**CONFIDENCE, "label": ["cat"] * 6})
        files = [write(tmp_path / "mine.csv", {"key": KEYS, "prediction": ["cat"] * 6})]
        self.fails(r"every clip of the test split has the same class \(cat\)", predictions=files, confidence=confidence)

    def test_a_name_that_is_taken(self, run, tmp_path):
        files = [write(tmp_path / "baseline.csv", {"key": KEYS, "prediction": SAID})]
        self.fails("the run 'baseline' with seed 0 is there already; rename", run, predictions=files)

    def test_files_that_are_none(self, run, tmp_path):
        self.fails("no such file", run, predictions=[tmp_path / "nothing.csv"], error=UsageError)
        (tmp_path / "mine.json").write_text("{}")
        self.fails("unknown kind of file '.json'", run, predictions=[tmp_path / "mine.json"], error=UsageError)
        (tmp_path / "mine.csv").write_text("key,prediction\na,1,2\n")
        self.fails("not a readable CSV table", run, predictions=[tmp_path / "mine.csv"])
        (tmp_path / "mine.csv").write_text("clip,prediction\na,1\n")
        self.fails("has no column 'key', only clip, prediction", run, predictions=[tmp_path / "mine.csv"])
        (tmp_path / "mine.csv").write_text("key,prediction\n")
        self.fails("holds no row", run, predictions=[tmp_path / "mine.csv"])

    def test_what_is_needed_without_a_run(self, run, tmp_path):
        self.fails("give --confidence FILE", predictions=self.mine(tmp_path), error=UsageError)
        confidence = write(tmp_path / "c.csv", CONFIDENCE)
        self.fails("nothing to score", confidence=confidence, error=UsageError)
        with pytest.raises(UsageError, match="a file has no epochs to choose from"):
            assess([run], confidence=confidence, confidence_epochs="best")


class TestExport:
    def export(self, run, path, *, overwrite=False):
        return export_subsets(
            [run], path, split="test", thresholds=[0.4, 0.0], confidence_epochs="all", overwrite=overwrite
        )

    def test_every_clip_with_its_subset_at_every_threshold(self, run, tmp_path):
        file, counts = self.export(run, tmp_path / "s.csv")
        with file.open(newline="") as text:
            rows = list(csv.DictReader(text))
        assert list(rows[0]) == ["key", "label", "discrepancy", "audio", "visual", "subset_0", "subset_0.4"]
        assert [row["key"] for row in rows] == KEYS
        assert [row["subset_0"] for row in rows] == ["audio", "audio", "tie", "visual", "visual", "tie"]
        assert [row["subset_0.4"] for row in rows] == ["audio", "tie", "tie", "tie", "visual", "tie"]
        assert [float(row["discrepancy"]) for row in rows] == [a - v for a, v in zip(AUDIO, VISUAL, strict=True)]
        assert rows[0]["label"] == "cat"
        assert counts == {0.0: {"audio": 2, "visual": 2, "tie": 2}, 0.4: {"audio": 1, "visual": 1, "tie": 4}}
        assert counts_text(counts).splitlines()[1] == "T = 0.4: 1 audio-dominated, 1 visual-dominated, 4 tied"

    def test_parquet_and_a_folder_hold_the_same(self, run, tmp_path):
        file, _ = self.export(run, tmp_path / "s.parquet")
        assert self.export(run, tmp_path / "folder")[0] == tmp_path / "folder" / "subsets.csv"
        table = pa.csv.read_csv(tmp_path / "folder" / "subsets.csv")
        assert table.to_pylist() == pq.read_table(file).to_pylist()

    def test_an_exported_table_is_a_confidence_file(self, run, tmp_path):
        file, _ = self.export(run, tmp_path / "s.csv")
        mine = write(tmp_path / "mine.csv", {"key": KEYS, "prediction": SAID})
        np.testing.assert_allclose(
            read(predictions=[mine], confidence=file).discrepancies, read(run).discrepancies, atol=1e-12
        )

    def test_nothing_is_overwritten(self, run, tmp_path):
        (tmp_path / "s.csv").write_text("mine")
        with pytest.raises(UsageError, match="is there already; name another file, or replace it with --overwrite"):
            self.export(run, tmp_path / "s.csv")
        assert (tmp_path / "s.csv").read_text() == "mine"
        self.export(run, tmp_path / "s.csv", overwrite=True)
        assert (tmp_path / "s.csv").read_text().startswith("key,")

    def test_another_kind_of_file(self, run, tmp_path):
        with pytest.raises(UsageError, match=r"unknown kind of file '.xlsx'; give .csv, .parquet or a folder"):
            self.export(run, tmp_path / "s.xlsx")
