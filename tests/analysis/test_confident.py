"""Confident networks: average precision keeps the order that float32 probabilities lose, and says where it cannot."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score

from avbench.analysis.measures.metrics import AVERAGE_PRECISION
from avbench.analysis.report import assess
from avbench.errors import RunError
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import CLASSES, make_run

CLIPS = 60
RANDOM = np.random.default_rng(7)
LABELS = RANDOM.integers(0, 3, CLIPS)
LOGITS = RANDOM.normal(size=(CLIPS, 3)) * 40  # probabilities near 1 differ by less than float32 has
KEYS = [f"clip{row}" for row in range(CLIPS)]


def log_softmax(logits):
    below = logits - logits.max(axis=1, keepdims=True)
    return below - np.log(np.exp(below).sum(axis=1, keepdims=True))


def expected(scores):
    return np.mean([average_precision_score(number == LABELS, scores[:, number]) for number in range(3)])


def margins(logits):
    """Log-odds of each class, which order clips as their probabilities do, without loss."""
    found = np.empty_like(logits)
    for number in range(3):
        others = np.delete(logits, number, axis=1)
        found[:, number] = logits[:, number] - np.logaddexp.reduce(others, axis=1)
    return found


@pytest.fixture
def run(tmp_path):
    said = LOGITS.argmax(axis=1) == LABELS
    right = {(name, name, 0): said.tolist() for name in (*MODALITIES, "baseline")}
    values = {0: RANDOM.random(CLIPS).tolist()}
    return make_run(tmp_path / "run", labels=LABELS.tolist(), audio=values, visual={0: values[0][::-1]}, correct=right)


def with_columns(run, **columns):
    """The run folder, with these numbers in the baseline's own rows, by row of the clip."""
    path = run / "predictions" / "baseline-seed0-test.parquet"
    table = pq.read_table(path)
    rows = np.array([int(key.removeprefix("clip")) for key in table["key"].to_pylist()])
    own = np.array([value == "none" for value in table["replaced"].to_pylist()])
    for name, values in {"prediction": LOGITS.argmax(axis=1), **columns}.items():
        cells = [
            values[row].tolist() if keep else table[name][at].as_py()
            for at, (row, keep) in enumerate(zip(rows, own, strict=True))
        ]
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(cells, table.schema.field(name).type))
    pq.write_table(table, path)
    return run


def precision_of(evaluation, run="baseline"):
    return evaluation.metrics.cell(run, AVERAGE_PRECISION, "overall", 0.0).value


def test_a_run_folder_is_ranked_by_its_logarithms(run):
    probabilities = np.exp(log_softmax(LOGITS)).astype(np.float32)
    assert expected(probabilities) < expected(margins(LOGITS)) - 0.01  # the case is one
    # What avbench.methods.base.log_softmax gives: the others' sum on its own, so that nothing near 0 is lost.
    others = np.sort(np.exp(LOGITS - LOGITS.max(axis=1, keepdims=True)), axis=1)[:, :-1].sum(axis=1, keepdims=True)
    logarithms = (LOGITS - LOGITS.max(axis=1, keepdims=True) - np.log1p(others)).astype(np.float32)
    with_columns(run, probabilities=probabilities, log_probabilities=logarithms)
    evaluation, _ = assess([run], resamples=20)
    assert precision_of(evaluation) == pytest.approx(expected(margins(LOGITS)), abs=1e-12)
    (note,) = (note for note in evaluation.notes if "float32 probabilities" in note)
    assert "of audio and visual ranks" in note  # which have no logarithms; baseline has


def test_a_folder_of_an_earlier_version_is_read_as_before_with_a_note(run):
    probabilities = np.exp(log_softmax(LOGITS)).astype(np.float32)
    with_columns(run, probabilities=probabilities)
    for path in (run / "predictions").iterdir():
        pq.write_table(pq.read_table(path).drop_columns(["log_probabilities"]), path)
    table = pq.read_table(run / "confidence.parquet")
    pq.write_table(table.drop_columns(["source"]), run / "confidence.parquet")
    evaluation, _ = assess([run], resamples=20)
    assert precision_of(evaluation) == pytest.approx(expected(probabilities), abs=1e-12)
    assert any("Mean average precision of audio, baseline and visual ranks clips by float32" in note or
               "Mean average precision of audio, visual and baseline ranks clips by float32" in note
               for note in evaluation.notes)  # fmt: skip
    (note,) = (note for note in evaluation.notes if "give the same number" in note or "gives the same number" in note)
    assert "% of baseline's" in note


@pytest.mark.parametrize("layout", ["lists.parquet", "columns.csv", "columns.parquet", "logs.parquet"])
def test_files_in_float64_keep_their_numbers(run, tmp_path, layout):
    values = np.exp(log_softmax(LOGITS * 0.75))  # 1 - p is down to 1e-16
    path = tmp_path / f"mine-{layout}"
    if layout.startswith("lists"):
        pq.write_table(pa.table({"key": KEYS, "probabilities": values.tolist()}), path)
    elif layout.startswith("logs"):
        pq.write_table(pa.table({"key": KEYS, "log_probabilities": np.log(values).tolist()}), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["key", *CLASSES])
            writer.writerows([key, *map(repr, row.tolist())] for key, row in zip(KEYS, values, strict=True))
    else:
        pq.write_table(pa.table({"key": KEYS, **{name: values[:, at] for at, name in enumerate(CLASSES)}}), path)
    assert expected(values) != pytest.approx(expected(values.astype(np.float32)), abs=1e-4)
    evaluation, _ = assess([run], predictions=[path], resamples=20)
    assert precision_of(evaluation, path.stem) == pytest.approx(expected(values), abs=1e-12)


def test_damaged_logarithms_are_one_line(run):
    with_columns(run, log_probabilities=np.full((CLIPS, 3), np.nan, np.float32))
    with pytest.raises(RunError, match=r"baseline-seed0-test\.parquet: some class probabilities are not finite"):
        assess([run], resamples=20)


def test_rows_of_replaced_modalities_are_not_read(run):
    # Numbers that could not be: they would be refused if anybody looked.
    path = run / "predictions" / "baseline-seed0-test.parquet"
    table = pq.read_table(path)
    own = np.array([value == "none" for value in table["replaced"].to_pylist()])
    cells = [row if keep else [np.nan] * 3 for row, keep in zip(table["probabilities"].to_pylist(), own, strict=True)]
    field = table.schema.field("probabilities")
    table = table.set_column(table.column_names.index("probabilities"), field, pa.array(cells, field.type))
    pq.write_table(table, path)
    assess([run], resamples=20)
    pq.write_table(table, path, row_group_size=7)  # rows of both kinds in each group
    assess([run], resamples=20)
