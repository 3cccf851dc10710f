"""Anybody's predictions and confidences: scored as a run folder's own, and every mistake in one line."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from avbench.analysis.export import counts_text, export_subsets
from avbench.analysis.reading.external import read_results
from avbench.analysis.report import assess
from avbench.errors import AvbenchError, RunError, UsageError
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import CLASSES, make_run, write_history

LABELS = [0, 1, 2, 0, 1, 2]
AUDIO = [0.9, 0.8, 0.5, 0.25, 0.1, 0.7]
VISUAL = [0.1, 0.5, 0.5, 0.5, 0.8, 0.7]
KEYS = [f"clip{row}" for row in range(6)]
SAID = [0, 1, 2, 1, 1, 0]  # right on clips 0, 1, 2 and 4
CONFIDENCE = {"key": KEYS, "label": [CLASSES[label] for label in LABELS], "audio": AUDIO, "visual": VISUAL}


@pytest.fixture
def run(tmp_path):
    right = {(name, name, 0): [True, True, True, False, False, True] for name in (*MODALITIES, "baseline")}
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
        assert evaluation.table.unimodal == MODALITIES
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

    @pytest.mark.parametrize(("index", "notes"), [("5e" * 32, 0), ("ab" * 32, 1)])
    def test_a_confidence_table_of_another_packing_is_noted(self, run, tmp_path, index, notes):
        other = make_run(
            tmp_path / "other", labels=LABELS, audio={0: AUDIO}, visual={0: VISUAL}, correct={}, fingerprint=index
        )
        evaluation, _ = assess([run], confidence=other / "confidence.parquet", resamples=20)
        found = [note for note in evaluation.notes if "another dataset (abababab, here 5e5e5e5e" in note]
        assert len(found) == notes
        (other / "dataset.json").unlink()  # a table taken out of its folder says nothing of it
        evaluation, _ = assess([run], confidence=other / "confidence.parquet", resamples=20)
        assert not any("another dataset" in note for note in evaluation.notes)

    def test_a_runs_confidence_table_brings_the_names_of_its_classes(self, run, tmp_path):
        mine = write(tmp_path / "mine.csv", {"key": KEYS, "prediction": [CLASSES[number] for number in SAID]})
        results = read(predictions=[mine], confidence=run / "confidence.parquet")
        assert (results.classes, results.dataset) == (CLASSES, "pets")
        np.testing.assert_array_equal(score_of(results, "mine").predictions, SAID)

    def test_predictions_of_several_splits_without_a_run(self, tmp_path):
        confidence = write(tmp_path / "c.csv", {**CONFIDENCE, "split": ["test"] * 4 + ["val"] * 2})
        mine = write(tmp_path / "mine.csv", {"key": KEYS, "prediction": [CLASSES[number] for number in SAID]})
        for split, keys, said in (("test", KEYS[:4], SAID[:4]), ("val", KEYS[4:], SAID[4:])):
            results = read(predictions=[mine], confidence=confidence, split=split)
            assert (results.keys.tolist(), results.classes) == (keys, ("cat", "dog", "rain"))
            np.testing.assert_array_equal(score_of(results, "mine").predictions, said)

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_whole_numbers_with_a_point_are_whole_numbers(self, run, tmp_path, suffix):
        labels, said = (
            [f"{n}.0" for n in numbers] if suffix == ".csv" else [*map(float, numbers)] for numbers in (LABELS, SAID)
        )
        confidence = write(tmp_path / f"c{suffix}", {**CONFIDENCE, "label": labels})
        mine = write(tmp_path / f"mine{suffix}", {"key": KEYS, "label": labels, "prediction": said, "seed": [0.0] * 6})
        for results in (
            read(predictions=[mine], confidence=confidence),
            read(run, predictions=[mine], confidence=confidence),
        ):
            np.testing.assert_array_equal(score_of(results, "mine").predictions, SAID)
            np.testing.assert_array_equal(results.labels, LABELS)


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
        self.fails(r"1 key stands more than once, the first is 'clip0'", run, predictions=files)

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ([3, *SAID[1:]], r"prediction' of 'clip0': '3' is no class; expected .* a number from 0 to 2"),
            ([-1, *SAID[1:]], r"prediction' of 'clip0': '-1' is no class"),
            (["dgo", *["cat"] * 5], r"unknown class 'dgo'; did you mean 'dog'"),
            ([None, *SAID[1:]], r"prediction' of 'clip0' is empty \(1 such"),
        ],
    )
    def test_a_class_that_is_none(self, run, tmp_path, said, message):
        for suffix in (".csv", ".parquet"):
            path = write(tmp_path / f"mine{suffix}", {"key": KEYS, "prediction": said})
            self.fails(message, run, predictions=[path])

    def test_one_of_a_thing_is_told_as_one_and_two_as_two(self, run, tmp_path):
        files = self.mine(tmp_path, key=[*KEYS[:4], KEYS[0], KEYS[1]])
        self.fails(r"2 keys stand more than once, the first is 'clip0'", run, predictions=files)
        values = np.full((6, 3), np.nan)
        path = write(tmp_path / "mine.parquet", {"key": KEYS, "probabilities": values.tolist()})
        self.fails("a class probability of 6 clips is missing", run, predictions=[path])

    def test_probabilities_that_are_none(self, run, tmp_path):
        values = np.full((6, 3), 0.3)
        values[2, 1] = np.nan
        path = write(tmp_path / "mine.parquet", {"key": KEYS, "probabilities": values.tolist()})
        self.fails(
            "a class probability of 1 clip is missing or not finite, the first is 'clip2'",
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
            "has no column 'prediction', no column 'probabilities', and none for each class", run, predictions=[path]
        )

    @pytest.mark.parametrize("values", [[1.5, *AUDIO[1:]], [-0.1, *AUDIO[1:]]])
    def test_a_confidence_out_of_range(self, tmp_path, values):
        confidence = write(tmp_path / "c.csv", {**CONFIDENCE, "audio": values})
        self.fails(
            r"column 'audio' of 'clip0' is .*, expected a probability",
            predictions=self.mine(tmp_path),
            confidence=confidence,
        )

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_a_confidence_table_of_part_of_the_split(self, run, tmp_path, suffix):
        gap = write(tmp_path / f"c{suffix}", {**CONFIDENCE, "visual": [None, *VISUAL[1:5], None]})
        message = "covers only part of the test split: 2 of 6 clips have no 'visual', the first is 'clip0'"
        self.fails(message, predictions=self.mine(tmp_path), confidence=gap)
        short = write(tmp_path / f"c{suffix}", {name: values[:4] for name, values in CONFIDENCE.items()})
        message = "covers only part of the test split: 2 of the 6 clips that .*mine.csv predicts are not in it"
        self.fails(message, predictions=self.mine(tmp_path), confidence=short)
        message = "covers only part of the test split: 2 of 6 evaluated clips are not in it, the first is 'clip4'"
        self.fails(message, run, confidence=short)

    def test_not_a_number_is_no_confidence(self, tmp_path):
        confidence = write(tmp_path / "c.parquet", {**CONFIDENCE, "audio": [float("nan"), *AUDIO[1:]]})
        self.fails("column 'audio' of 'clip0' is nan", predictions=self.mine(tmp_path), confidence=confidence)

    def test_a_confidence_without_its_columns_or_split(self, run, tmp_path):
        confidence = write(tmp_path / "c.csv", {"key": KEYS, "audio": AUDIO})
        self.fails("has no column 'label' and no 'visual'", predictions=self.mine(tmp_path), confidence=confidence)
        self.fails(
            "no clip of the val split, only of 'test'", predictions=self.mine(tmp_path), split="val",
            confidence=run / "confidence.parquet",
        )  # fmt: skip
        twice = write(tmp_path / "c.csv", {**CONFIDENCE, "key": [*KEYS[:5], "clip0"]})
        self.fails("1 key stands more than once", predictions=self.mine(tmp_path), confidence=twice)

    def test_one_class_only(self, tmp_path):
        confidence = write(tmp_path / "c.csv", {**CONFIDENCE, "label": ["cat"] * 6})
        files = [write(tmp_path / "mine.csv", {"key": KEYS, "prediction": ["cat"] * 6})]
        self.fails(
            r"every clip of the test split has the same class \('cat'\)", predictions=files, confidence=confidence
        )

    @pytest.mark.parametrize("seed", [0, 7])
    def test_a_name_that_a_run_folder_has(self, run, tmp_path, seed):
        # With another seed it would be averaged with ours, and be called our network.
        files = [write(tmp_path / "baseline.csv", {"key": KEYS, "prediction": SAID, "seed": [seed] * 6})]
        self.fails("baseline.csv: the run 'baseline' is there already; rename the file", run, predictions=files)

    def test_a_name_that_another_file_has(self, run, tmp_path):
        files = [write(tmp_path / f"{name}.csv", {"key": KEYS, "prediction": SAID, "run": ["a"] * 6}) for name in "xy"]
        self.fails("the run 'a' with seed 0 is there already; rename", run, predictions=files)

    @pytest.mark.parametrize("order", [1, -1])
    def test_two_methods_in_one_run(self, run, tmp_path, order):
        columns = {"run": ["mine"] * 6, "method": ["b", "audio"][::order] * 3}
        self.fails(
            "column 'method' holds '(b', 'audio|audio', 'b)' for the run 'mine'; a run is of one method",
            run,
            predictions=self.mine(tmp_path, **columns),
        )

    def test_files_that_are_none(self, run, tmp_path):
        self.fails("no such file", run, predictions=[tmp_path / "nothing.csv"], error=UsageError)
        (tmp_path / "mine.json").write_text("{}")
        self.fails("unknown kind of file '.json'", run, predictions=[tmp_path / "mine.json"], error=UsageError)
        (tmp_path / "mine.csv").write_text("key,prediction\na,1,2\n")
        self.fails("not a readable CSV table", run, predictions=[tmp_path / "mine.csv"])
        (tmp_path / "mine.csv").write_text("clip,prediction\na,1\n")
        self.fails("has no column 'key', only 'clip', 'prediction'", run, predictions=[tmp_path / "mine.csv"])
        (tmp_path / "mine.csv").write_text("key,prediction\n")
        self.fails("holds no row", run, predictions=[tmp_path / "mine.csv"])

    @pytest.mark.parametrize("layout", ["lists", "columns"])
    @pytest.mark.parametrize("wrong", [[2.0, -1.0, 0.0], [0.5, 0.5, 0.5], [0.2, 0.2, 0.2], [4.1, -2.0, 1.3]])
    def test_probabilities_that_do_not_add_up(self, run, tmp_path, layout, wrong):
        values = np.full((6, 3), 1 / 3)
        values[[2, 4]] = wrong
        columns = {"probabilities": values.tolist()}
        if layout == "columns":
            columns = {name: values[:, place] for place, name in enumerate(CLASSES)}
        path = write(tmp_path / "mine.parquet", {"key": KEYS, **columns})
        message = "2 of 6 clips have class probabilities .* the first is 'clip2' .*softmax.*'prediction'"
        self.fails(message, run, predictions=[path])

    def test_rounded_probabilities_add_up(self, run, tmp_path):
        path = write(tmp_path / "mine.parquet", {"key": KEYS, "probabilities": [[0.3333, 0.3333, 0.3333]] * 6})
        read(run, predictions=[path])

    def test_a_prediction_that_is_not_the_most_probable_class(self, run, tmp_path):
        values = np.eye(3)[SAID]
        values[5] = [0.5, 0.0, 0.5]  # either may be said
        path = write(tmp_path / "mine.parquet", {"key": KEYS, "prediction": SAID, "probabilities": values.tolist()})
        read(run, predictions=[path])
        values[3], values[4] = [1, 0, 0], [0, 0, 1]
        path = write(tmp_path / "mine.parquet", {"key": KEYS, "prediction": SAID, "probabilities": values.tolist()})
        message = "in 2 of 6 clips the prediction is not the most probable class, the first is 'clip3'"
        self.fails(message, run, predictions=[path])

    def test_a_column_beside_probabilities_that_is_no_class(self, run, tmp_path):
        columns = {name: np.eye(3)[SAID][:, place] for place, name in enumerate(CLASSES)}
        path = write(tmp_path / "mine.parquet", {"key": KEYS, **columns, "class-3": [0.0] * 6})
        self.fails("column 'class-3' is no class", run, predictions=[path])
        path = write(
            tmp_path / "mine.parquet", {"key": KEYS, **columns, "uncertainty": [0.1] * 6, "row": list(range(6))}
        )
        read(run, predictions=[path])

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"run": ["a", "", " ", None, "a", "a"]}, "column 'run' is empty in 3 of 6 rows, the first is .* 'clip1'"),
            ({"replaced": ["none"] * 5 + ["Audio"]}, "column 'replaced' holds 'Audio', expected none, audio, visual"),
            ({"replaced": ["none"] * 5 + [None]}, "column 'replaced' holds ''"),
            ({"replaced": ["audio"] * 6}, "holds only rows with a modality replaced"),
            ({"seed": [-1] * 6}, "column 'seed' holds -1, expected whole numbers from 0"),
            ({"seed": [0.5] * 6}, "expected a whole number in every row"),
        ],
    )
    def test_columns_that_say_nothing(self, run, tmp_path, columns, message):
        path = write(tmp_path / "mine.parquet", {"key": KEYS, "prediction": SAID, **columns})
        self.fails(message, run, predictions=[path])

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_a_column_twice(self, run, tmp_path, suffix):
        columns = [pa.array(KEYS), pa.array(SAID), pa.array(SAID)]
        path = tmp_path / f"mine{suffix}"
        table = pa.table(columns, names=["key", "prediction", "prediction"])
        (pyarrow.csv.write_csv if suffix == ".csv" else pq.write_table)(table, path)
        self.fails("the column 'prediction' more than once", run, predictions=[path])

    def test_clips_that_the_split_has_not_in_a_confidence_file(self, run, tmp_path):
        columns = {name: [*values, values[0]] for name, values in CONFIDENCE.items()}
        columns["key"] = [*KEYS, "x1"]
        confidence = write(tmp_path / "c.csv", columns)
        self.fails("1 of its 7 keys are unknown to pets, the first is 'x1'", run, confidence=confidence)

    def test_an_unknown_class_in_a_row_of_another_split(self, tmp_path):
        confidence = write(tmp_path / "c.csv", {**CONFIDENCE, "split": ["test"] * 5 + ["val"]})
        files = [write(tmp_path / "mine.csv", {"key": KEYS, "prediction": ["cat"] * 5 + ["dgo"]})]
        self.fails("prediction' of 'clip5': unknown class 'dgo'", predictions=files, confidence=confidence)

    def test_names_of_classes_where_nothing_names_them(self, tmp_path):
        confidence = write(tmp_path / "c.csv", {**CONFIDENCE, "label": LABELS})
        files = [write(tmp_path / "mine.csv", {"key": KEYS, "prediction": ["dog"] * 6})]
        message = "'dog' is no class; the classes here are the numbers from 0 to 2 .*a run folder says so: give it too"
        self.fails(message, predictions=files, confidence=confidence)

    def test_hints_at_spaces_and_separators(self, run, tmp_path):
        path = write(tmp_path / "mine.csv", {" key": KEYS, "prediction": SAID})
        self.fails(
            "has no column 'key', only ' key', 'prediction'; take the spaces around ' key' away",
            run,
            predictions=[path],
        )
        path = write(tmp_path / "mine.csv", {"key": [f"{key} " for key in KEYS], "prediction": SAID})
        self.fails("the first is 'clip0 '; take the spaces around keys away", run, predictions=[path])
        path = write(tmp_path / "mine.csv", {"key": KEYS, "prediction": [" dog"] * 6})
        self.fails("' dog' is no class; take the spaces around it away", run, predictions=[path])
        path = tmp_path / "mine.csv"
        for text, word in (("key;prediction\nclip0;1\n", "semicolons"), ("key\tprediction\nclip0\t1\n", "tabs")):
            path.write_text(text)
            self.fails(f"its columns are separated by {word}, expected commas", run, predictions=[path])
        path.write_text("key;prediction\nclip0;1,5\n")
        self.fails("not a readable CSV table .*; its columns are separated by semicolons", run, predictions=[path])
        path.with_suffix(".tsv").write_text("key,prediction\nclip0,1\n")
        self.fails("separated by commas, expected tabs", run, predictions=[path.with_suffix(".tsv")])

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x00\xff\xfe\x01" * 500,
            b"key\x00\x07\x1b[31m" * 50 + b"\n1\n",
            b"\xff,\xfe\n1,2\n",
            "key,prediction\nclip0,1\n".encode("utf-16"),
            ("key,prediction\n" + "\xe9" * 9_000).encode(),  # a letter lies across the end of what is looked at
        ],
    )
    def test_rubbish_is_not_echoed(self, run, tmp_path, content):
        path = tmp_path / "mine.csv"
        path.write_bytes(content)
        with pytest.raises(RunError) as caught:
            read(run, predictions=[path])
        assert str(caught.value).isprintable() and "\ufffd" not in str(caught.value)
        assert len(str(caught.value)) < 300 + len(str(path))

    def test_folders_and_files_in_each_others_place(self, run, tmp_path):
        self.fails("--predictions .*run: is a folder", run, predictions=[run], error=UsageError)
        self.fails("--confidence .*run: is a folder", run, confidence=run, error=UsageError)
        (file,) = self.mine(tmp_path)
        self.fails(f"is a file, not a run folder; .* --predictions {file}", file, error=UsageError)

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
        names = ["key", "source", "label", "discrepancy", "audio", "visual", "subset_0", "subset_0.4"]
        assert list(rows[0]) == names
        assert [row["key"] for row in rows] == KEYS
        assert [row["subset_0"] for row in rows] == ["audio", "audio", "tie", "visual", "visual", "tie"]
        assert [row["subset_0.4"] for row in rows] == ["audio", "tie", "tie", "tie", "visual", "tie"]
        assert [row["discrepancy"] for row in rows] == ["0.8", "0.3", "0.0", "-0.25", "-0.7", "0.0"]
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

    def test_only_an_export_is_overwritten(self, run, tmp_path):
        for name in ("s.csv", "s.parquet"):
            self.export(run, tmp_path / name)
            self.export(run, tmp_path / name, overwrite=True)
        own = (run / "confidence.parquet").read_bytes()
        mine = write(tmp_path / "mine.csv", {"key": KEYS, "label": LABELS, "discrepancy": AUDIO})
        (tmp_path / "torn.parquet").write_bytes(b"PAR1")
        (tmp_path / "binary.csv").write_bytes(b"\xff\x00")
        for path in (run / "confidence.parquet", mine, tmp_path / "torn.parquet", tmp_path / "binary.csv"):
            with pytest.raises(UsageError, match="is no table of subsets, and --overwrite replaces no other file"):
                self.export(run, path, overwrite=True)
        assert (run / "confidence.parquet").read_bytes() == own

    @pytest.mark.parametrize(
        "path", ["file/s.csv", "file/a/s.csv", "file/a", "folder.csv", "n" * 300 + ".csv", "/proc/s.csv"]
    )
    def test_a_place_where_no_file_can_be_made(self, run, tmp_path, path):
        (tmp_path / "file").write_text("x")
        (tmp_path / "folder.csv").mkdir()
        with pytest.raises(UsageError, match="--export") as caught:
            self.export(run, tmp_path / path)
        assert "\n" not in str(caught.value)
        assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.csv", "run"}

    def test_without_a_run_it_names_its_own_command(self, tmp_path):
        with pytest.raises(UsageError, match=r"avbench subsets RUN --export"):
            export_subsets(
                [], tmp_path / "s.csv", split="test", thresholds=[0], confidence_epochs="all", overwrite=False
            )

    @pytest.mark.parametrize("epochs", ["all", "best"])
    def test_train_is_cut_by_its_confidences_alone(self, run, tmp_path, epochs):
        table = pq.read_table(run / "confidence.parquet")
        train = table.set_column(table.column_names.index("split"), "split", pa.array(["train"] * 6))
        train = train.set_column(train.column_names.index("clip_id"), "clip_id", pa.array(range(200, 206)))
        means = pa.array([None, *VISUAL[1:]])
        train = train.set_column(train.column_names.index("visual_mean"), "visual_mean", means)
        pq.write_table(pa.concat_tables([table, train.cast(table.schema)]), run / "confidence.parquet")
        for modality, values in (("audio", AUDIO), ("visual", VISUAL)):
            write_history(run, modality, seed=0, epoch=0, confidence=dict(zip(range(200, 206), values, strict=True)))
        file, counts = export_subsets(
            [run], tmp_path / "s.csv", split="train", thresholds=[0], confidence_epochs=epochs, overwrite=False
        )
        # The first clip, which prefers audio, has no mean over all epochs.
        assert counts == {0.0: {"audio": 1 if epochs == "all" else 2, "visual": 2, "tie": 2}}
        assert len(file.read_text().splitlines()) == 1 + sum(counts[0.0].values())

    def test_nothing_is_overwritten(self, run, tmp_path):
        (tmp_path / "s.csv").write_text("mine")
        with pytest.raises(UsageError, match="is there already; name another file, or replace it with --overwrite"):
            self.export(run, tmp_path / "s.csv")
        assert (tmp_path / "s.csv").read_text() == "mine"

    def test_another_kind_of_file(self, run, tmp_path):
        with pytest.raises(UsageError, match=r"unknown kind of file '.xlsx'; give .csv, .parquet or a folder"):
            self.export(run, tmp_path / "s.xlsx")


class TestTwoKindsOfProbabilities:
    """Accuracy would be one column's and average precision the other's."""

    CHANCES = np.full((6, 3), 0.1) + 0.7 * np.eye(3)[SAID]

    def test_columns_that_agree_are_taken(self, run, tmp_path):
        columns = {"probabilities": self.CHANCES.tolist(), "log_probabilities": np.log(self.CHANCES).tolist()}
        results = read(run, predictions=[write(tmp_path / "mine.parquet", {"key": KEYS, **columns})])
        np.testing.assert_array_equal(score_of(results, "mine").predictions, SAID)

    @pytest.mark.parametrize("other", [np.log(CHANCES[::-1]), 10 * CHANCES], ids=["of other clips", "logits"])
    def test_columns_that_do_not_are_refused(self, run, tmp_path, other):
        columns = {"probabilities": self.CHANCES.tolist(), "log_probabilities": other.tolist()}
        with pytest.raises(
            RunError, match=r"in \d of 6 clips log_probabilities are not the logarithms of probabilities"
        ):
            read(run, predictions=[write(tmp_path / "mine.parquet", {"key": KEYS, **columns})])

    def test_logarithms_of_zero_are_said_to_be(self, run, tmp_path):
        with np.errstate(divide="ignore"):
            columns = {"log_probabilities": np.log(np.eye(3)[SAID]).tolist()}
        with pytest.raises(
            RunError, match="of 6 clips are minus infinity, the first are those of 'clip0': the logarithm"
        ):
            read(run, predictions=[write(tmp_path / "mine.parquet", {"key": KEYS, **columns})])

    def test_lists_of_lists_are_refused(self, run, tmp_path):
        lists = [json.dumps([[number] for number in numbers]) for numbers in self.CHANCES.tolist()]
        with pytest.raises(RunError, match="column 'probabilities' holds other things than numbers"):
            read(run, predictions=[write(tmp_path / "mine.csv", {"key": KEYS, "probabilities": lists})])


class TestLargeFiles:
    """Class probabilities are read some rows at a time; here 256, over row groups of 100 and of all."""

    CLIPS = 700
    ORDER = np.random.default_rng(0).permutation(CLIPS)  # of the clips in the file
    LABELS = np.arange(CLIPS) % 3
    CHANCES = np.random.default_rng(1).dirichlet([1.0] * 3, CLIPS)

    @pytest.fixture
    def confidence(self, tmp_path, monkeypatch):
        monkeypatch.setattr("avbench.analysis.measures.class_scores._BATCH_BYTES", 1)
        numbers = {name: np.linspace(0, 1, self.CLIPS) for name in MODALITIES}
        columns = {"key": [f"clip{row:03d}" for row in range(self.CLIPS)], "label": [CLASSES[n] for n in self.LABELS]}
        return write(tmp_path / "confidence.csv", {**columns, **numbers})

    def columns(self, **more):
        chances = self.CHANCES[self.ORDER]
        return {"key": [f"clip{row:03d}" for row in self.ORDER], "probabilities": chances.tolist(), **more}

    @pytest.mark.parametrize("held", [0, 1 << 30])
    @pytest.mark.parametrize("rows", [100, 1000])
    @pytest.mark.parametrize("kind", ["lists", "columns", "csv"])
    def test_parts_are_put_together_in_the_clips_order(self, tmp_path, monkeypatch, confidence, held, rows, kind):
        monkeypatch.setattr("avbench.analysis.reading.parked_scores._HELD_BYTES", held)
        columns = self.columns()
        if kind != "lists":
            columns.pop("probabilities")
            columns |= {name: self.CHANCES[self.ORDER, place] for place, name in enumerate(CLASSES)}
        if kind == "csv":
            mine = write(tmp_path / "mine.csv", columns)
        else:
            mine = tmp_path / "mine.parquet"
            pq.write_table(pa.table(columns), mine, row_group_size=rows)
        score = score_of(read(predictions=[mine], confidence=confidence), "mine")
        np.testing.assert_array_equal(np.asarray(score.probabilities), self.CHANCES)
        np.testing.assert_array_equal(score.predictions, self.CHANCES.argmax(axis=1))

    def test_runs_and_replaced_rows_that_are_mixed_are_told_apart(self, tmp_path, confidence):
        three = pa.concat_tables(
            pa.table(self.columns(run=[run] * self.CLIPS, replaced=[replaced] * self.CLIPS))
            if run == "one"
            else pa.table(
                {
                    **self.columns(run=[run] * self.CLIPS, replaced=[replaced] * self.CLIPS),
                    "probabilities": self.CHANCES[self.ORDER][:, ::-1].tolist(),
                }
            )
            for run, replaced in (("one", "none"), ("other", "audio"), ("other", "none"))
        )
        mixed = three.take(pa.array(np.random.default_rng(2).permutation(3 * self.CLIPS)))
        mine = tmp_path / "mine.parquet"
        pq.write_table(mixed, mine, row_group_size=300)
        results = read(predictions=[mine], confidence=confidence)
        np.testing.assert_array_equal(np.asarray(score_of(results, "one").probabilities), self.CHANCES)
        np.testing.assert_array_equal(np.asarray(score_of(results, "other").probabilities), self.CHANCES[:, ::-1])

    def test_what_is_wrong_far_down_is_found_and_counted(self, tmp_path, confidence):
        columns = self.columns()
        columns["probabilities"][600] = [0.5, 0.5, 0.5]
        with pytest.raises(RunError, match=rf"1 of 700 clips .* the first is 'clip{self.ORDER[600]:03d}'"):
            read(predictions=[write(tmp_path / "mine.parquet", columns)], confidence=confidence)
        columns["probabilities"][300] = [0.5, 0.5, 0.5]
        with pytest.raises(RunError, match=rf"1 of the first 512 clips .* the first is 'clip{self.ORDER[300]:03d}'"):
            read(predictions=[write(tmp_path / "mine.parquet", columns)], confidence=confidence)

    def test_a_column_that_is_empty_in_a_part_is_refused(self, tmp_path, confidence):
        columns = self.columns()
        logarithms = np.log(self.CHANCES[self.ORDER]).tolist()
        columns["log_probabilities"] = [*logarithms[:256], *[None] * (self.CLIPS - 256)]
        with pytest.raises(RunError, match="column 'log_probabilities' is empty in some rows and not in others"):
            read(predictions=[write(tmp_path / "mine.parquet", columns)], confidence=confidence)
