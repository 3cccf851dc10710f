"""What a value of somebody's own file means as a class: a name, a place, or one line that says why neither."""

import os
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from avbench.analysis.reading.class_labels import class_names, class_numbers, stand_in_order
from avbench.analysis.reading.external import read_results
from avbench.analysis.report import assess
from avbench.errors import RunError
from avbench.records import write_json
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import make_run

TEXT_ORDER = tuple(sorted(map(str, range(12))))  # 0, 1, 10, 11, 2, ...: as earlier versions packed them
NATURAL = tuple(map(str, range(12)))
WORDS = ("cat", "dog", "rain")
MIXED = ("cat", "3", "dog", "7")


def places(values, classes, *, kind=None, by_place=False):
    column = pa.array(values, type=kind)
    keys = [f"clip{row}" for row in range(len(values))]
    return class_numbers(column, keys, classes, what="column 'prediction'", by_place=by_place).tolist()


@pytest.mark.parametrize("classes", [TEXT_ORDER, NATURAL])
@pytest.mark.parametrize(
    "values",
    [[3, 10, 2], ["3", "10", "2"], ["3.0", "10.", "2.00"], [3.0, 10.0, 2.0], [Decimal(3), Decimal(10), Decimal(2)]],
)
def test_where_names_are_numbers_a_number_is_a_name(classes, values):
    assert places(values, classes) == [classes.index(name) for name in ("3", "10", "2")]


@pytest.mark.parametrize("value", ["01", "12", 12, 12.0, -1, "-1", 2.5, "3.5", "+3", "3e0", " 3", True, float(2**60)])
def test_no_other_number_is_a_class(value):
    with pytest.raises(RunError, match=r"column 'prediction' of 'clip0': .*") as caught:
        places([value], TEXT_ORDER)
    assert str(value).strip() in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_error_names_the_number_and_says_that_it_is_no_place():
    with pytest.raises(RunError, match=r"'12' is no class; the class names are numbers, so a number is a class's name"):
        places([12], TEXT_ORDER)


def test_names_with_zeros_in_front_are_names():
    assert places(["01", "10"], ("00", "01", "10")) == [1, 2]
    with pytest.raises(RunError, match="'1' is no class"):
        places([1], ("00", "01", "10"))


def test_other_numbers_as_names():
    assert places([-1, 1], ("-1", "1")) == [0, 1]
    assert places([2, 1], ("1", "2", "3")) == [1, 0]  # from 1 on
    assert places([0.5, 1.0], ("0.5", "1.0", "1.5")) == [0, 1]
    assert places([1000], ("10", "1000")) == [1]


def test_where_names_are_words_a_number_is_a_place():
    assert places([0, 2], WORDS) == [0, 2]
    assert places(["0", "dog", "2.0"], WORDS) == [0, 1, 2]
    for value in (3, "3", -1, "02"):
        with pytest.raises(RunError, match="is no class"):
            places([value], WORDS)


def test_where_some_names_are_numbers_a_number_is_taken_only_as_what_it_is_either_way():
    assert places(["3", "cat"], MIXED) == [1, 0]  # a name letter by letter
    for value in (3, 1, 3.0, "3.0", "1"):
        with pytest.raises(RunError, match="could be a class's name or its place, since some class names are numbers"):
            places([value], MIXED)
    assert places([1], ("0", "1", "cat")) == [1]  # the class named 1 stands at place 1
    with pytest.raises(RunError, match="could be a class's name or its place"):
        places([2], ("0", "1", "cat"))


def test_avbenchs_own_numbers_are_places():
    assert places([3, 10], TEXT_ORDER, by_place=True) == [3, 10]
    assert places(["3", "10.0"], TEXT_ORDER, by_place=True) == [3, 10]


def test_empty_values_and_categories():
    assert places(["dog", "cat"], WORDS, kind=pa.dictionary(pa.int32(), pa.string())) == [1, 0]
    with pytest.raises(RunError, match=r"of 'clip1' is empty \(2 such values\)"):
        places(["cat", None, ""], WORDS)
    with pytest.raises(RunError, match=r"of 'clip0' is empty \(2 such values\)"):
        places([None, None], WORDS, kind=pa.null())


def test_names_that_nobody_listed(tmp_path):
    assert class_names([3.0, 1.0], width=0, path=tmp_path) == ("0", "1", "2", "3")
    assert class_names(["2", "1", ""], width=5, path=tmp_path) == ("0", "1", "2", "3", "4")
    assert class_names(["01", "10"], width=0, path=tmp_path) == ("01", "10")
    assert class_names([-1, 1, 10], width=0, path=tmp_path) == ("-1", "1", "10")
    assert class_names(["10.5", "2.5", "0.5"], width=0, path=tmp_path) == ("0.5", "2.5", "10.5")


def test_names_of_one_value_have_one_order_and_a_number_may_be_long(tmp_path):
    names = ["01", "1", "2", "1.0", "+1", "001"]
    ordered = ("+1", "001", "01", "1", "1.0", "2")
    assert {class_names(names[turn:] + names[:turn], width=0, path=tmp_path) for turn in range(6)} == {ordered}
    code = f"from avbench.analysis.reading.class_labels import class_names as c; print(c({names}, width=0, path='x'))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }
    assert said == {str(ordered)}
    assert class_names(["9" * 5000, "1"], width=0, path=tmp_path) == ("1", "9" * 5000)
    assert stand_in_order(NATURAL)
    assert stand_in_order(("1", "5", "10"))
    assert not stand_in_order(TEXT_ORDER)


# Through files, on a dataset whose classes were packed in text order


LABELS = [TEXT_ORDER.index(str(number)) for number in range(12)]  # clip n is of the class named n
KEYS = [f"clip{row}" for row in range(12)]


@pytest.fixture
def run(tmp_path):
    right = {(name, name, 0): [True] * 12 for name in MODALITIES}
    values = {0: np.linspace(0, 1, 12).tolist()}
    folder = make_run(tmp_path / "run", labels=[0] * 12, audio=values, visual={0: values[0][::-1]}, correct=right)
    relabelled(folder)
    return folder


def relabelled(folder):
    """The same run on the twelve classes."""
    description = {"name": "numbers", "classes": TEXT_ORDER, "index_sha256": "5e" * 32}
    write_json(folder / "dataset.json", description)
    for path in [folder / "confidence.parquet", *(folder / "predictions").iterdir()]:
        table = pq.read_table(path).sort_by("clip_id")
        if "replaced" in table.column_names:
            table = table.filter(pa.array([value == "none" for value in table["replaced"].to_pylist()]))
        labels = pa.array(LABELS, pa.int32())
        for name in {"label", "prediction"} & set(table.column_names):
            table = table.set_column(table.column_names.index(name), name, labels)
        if "probabilities" in table.column_names:
            place = table.column_names.index("probabilities")
            table = table.set_column(place, "probabilities", pa.array(np.eye(12, dtype=np.float32)[LABELS].tolist()))
        pq.write_table(table, path)


def correct(run, path, **options):
    results = read_results([run], predictions=[path], split="test", epochs="all", **{"confidence": None, **options})
    (score,) = (score for score in results.scores if score.run == path.stem)
    return int(score.correct.sum())


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("text.csv", [str(number) for number in range(12)]),
        ("pandas.csv", [f"{number}.0" for number in range(12)]),
        ("whole.parquet", list(range(12))),
        ("floats.parquet", [float(number) for number in range(12)]),
        ("text.parquet", [str(number) for number in range(12)]),
    ],
)
def test_a_perfect_prediction_is_perfect_however_it_is_written(run, tmp_path, name, column):
    path = tmp_path / name
    table = pa.table({"key": KEYS, "label": column, "prediction": column})
    (pyarrow.csv.write_csv if path.suffix == ".csv" else pq.write_table)(table, path)
    assert correct(run, path) == 12
    confidence = tmp_path / f"c-{name}"
    table = pa.table({"key": KEYS, "label": column, "audio": [0.5] * 12, "visual": np.linspace(0, 1, 12)})
    (pyarrow.csv.write_csv if path.suffix == ".csv" else pq.write_table)(table, confidence)
    assert correct(run, path, confidence=confidence) == 12


def test_lists_are_refused_where_numbers_stand_in_another_order_and_a_column_a_class_is_taken(run, tmp_path):
    values = np.eye(12)  # the class named n has place n of the list, in the order of the numbers
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"key": KEYS, "probabilities": values.tolist()}), path)
    with pytest.raises(
        RunError, match=r"named by numbers that do not stand in their order \(0, 1, 10, 11, 2, ...\)"
    ) as caught:
        correct(run, path)
    assert "give one column a class" in str(caught.value)
    columns = {str(number): values[:, number] for number in range(12)}
    pq.write_table(pa.table({"key": KEYS, **columns}), path)
    assert correct(run, path) == 12


def test_a_runs_own_table_is_by_place(run, tmp_path):
    own = run / "predictions" / "audio-seed0-test.parquet"
    results = read_results([], predictions=[own], confidence=run / "confidence.parquet", split="test", epochs="all")
    assert results.classes == TEXT_ORDER
    assert results.scores[0].correct.all()


def test_the_report_says_the_order_of_classes_that_are_numbers(run):
    evaluation, _ = assess([run], resamples=20)
    (note,) = (note for note in evaluation.notes if "names of the classes are numbers" in note)
    assert "0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9" in note
    assert "lists of class probabilities are not taken" in note


class TestAccents:
    """Letters with accents are one letter or two, as whoever wrote a file wrote them; the class is the same."""

    ONE, TWO = "H\u00fcndin", "Hu\u0308ndin"

    @pytest.mark.parametrize("classes", [(ONE, "cat"), (TWO, "cat"), (ONE, "3")])
    def test_either_form_names_the_class(self, classes):
        assert places([self.ONE, self.TWO, classes[1]], classes) == [0, 0, 1]

    def test_two_classes_that_differ_by_form_alone_are_told_apart(self):
        assert places([self.ONE, self.TWO], (self.ONE, self.TWO)) == [0, 1]

    def test_columns_named_in_the_other_form_are_the_classes(self, tmp_path):
        confidence = {"key": list("abc"), "label": [self.ONE, "cat", self.ONE], "audio": [0.5] * 3, "visual": [0.1] * 3}
        mine = {"key": list("abc"), "cat": [0.1, 0.9, 0.6], self.TWO: [0.9, 0.1, 0.4]}
        for name, columns in (("confidence", confidence), ("mine", mine)):
            pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        (score,) = read_results(
            [],
            predictions=[tmp_path / "mine.parquet"],
            confidence=tmp_path / "confidence.parquet",
            split="test",
            epochs="all",
        ).scores
        assert score.correct.tolist() == [True, True, False]


def test_numbered_classes_are_not_said_to_have_no_names_where_they_have():
    with pytest.raises(RunError, match=r"'nan' is no class; the classes here are the numbers from 0 to 11 \("):
        places([float("nan")], NATURAL)
