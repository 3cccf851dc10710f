"""Bring your own: anybody's predictions and confidences, from Parquet or CSV, checked like a run folder's.

Predictions: a row a clip with `key` and `prediction` (a class's name or number), or class probabilities: a column
`probabilities` of lists (JSON in CSV), or one column a class. Columns `run` and `seed` tell several apart; the file's
name is the run otherwise. A run called audio or visual is taken for that unimodal network. Confidences: `key`, `label`,
`audio` and `visual` in [0, 1], and `split` if there are several; the confidence.parquet of a run folder is one too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from avbench.analysis.discrepancy import MODALITIES, Floats, average_over_seeds
from avbench.analysis.evaluation import Labels, Scores
from avbench.analysis.runs import Coverage, Epochs, Results, read_runs
from avbench.errors import RunError, UsageError, unknown
from avbench.records import SPLITS, read_table

# Read as text: a number would lose leading zeros of a key, and a class's name may be a number.
_TEXT = ("key", "label", "prediction", "run", "split", "method", "probabilities", "replaced")


@dataclass(frozen=True, slots=True)
class _Given:
    """A confidence file: keys and class labels (N,) as they stand, and per modality and seed the confidences (N,)."""

    path: Path
    keys: NDArray[np.object_]
    labels: pa.Array
    by_seed: Mapping[str, Mapping[int, Floats]]


def read_results(
    runs: Sequence[Path], *, predictions: Sequence[Path], confidence: Path | None, split: str, epochs: Epochs
) -> Results:
    """What run folders and files of somebody's own say of one split, together.

    With run folders, their clips, classes and, unless `confidence` is given, their confidences count; without, those
    of `confidence`, which is needed then. Raises UsageError and RunError as `read_runs` does, and for files that miss
    evaluated clips, name unknown ones, hold a clip twice, or values that are no class, probability or confidence.
    """
    if split not in SPLITS:
        raise UsageError(unknown("split", split, SPLITS))
    files = [(path, _read_file(path, "--predictions")) for path in predictions]
    given = None if confidence is None else _read_confidence(confidence, split=split)
    if runs:
        results = read_runs(runs, split=split, epochs=epochs)
        results = results if given is None else _cut_by(results, given)
    elif given is None:
        way_out = (
            "--confidence FILE with the clips' confidences" if predictions else "a run folder: `avbench evaluate RUN`"
        )
        raise UsageError(f"nothing says which clips belong to which subset; give {way_out}")
    elif not predictions:
        raise UsageError(f"--confidence {given.path}: nothing to score; give run folders or --predictions FILE")
    else:
        results = _results_of(given, split=split, width=max(_width(table) for _, table in files))
    known = _known_keys(results)
    scores = [score for path, table in files for score in _scores_of(path, table, results, known)]
    together = (*results.scores, *scores)
    _check_names(together, [path for path, _ in files])
    return replace(results, scores=together)


# Files


def _read_file(path: Path, option: str) -> pa.Table:
    """A Parquet or CSV file with a column `key`."""
    if not path.is_file():
        raise UsageError(f"{option} {path}: no such file")
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        table = read_table(path)
    elif suffix in (".csv", ".tsv"):
        as_text = csv.ConvertOptions(column_types=dict.fromkeys(_TEXT, pa.string()))
        delimiter = csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",")
        try:
            table = csv.read_csv(path, convert_options=as_text, parse_options=delimiter)
        except pa.ArrowInvalid as error:
            raise RunError(f"{path}: not a readable CSV table ({error})") from None
    else:
        raise UsageError(f"{option} {path}: unknown kind of file {suffix!r}; give .parquet, .csv or .tsv")
    if "key" not in table.column_names:
        raise RunError(f"{path}: has no column 'key', only {', '.join(table.column_names)}")
    if table.num_rows == 0:
        raise RunError(f"{path}: holds no row")
    if "replaced" in table.column_names:  # predictions of avbench itself
        table = table.filter(pc.equal(table.column("replaced"), "none"))
    return table.combine_chunks()


def _keys(table: pa.Table) -> NDArray[np.object_]:
    return table.column("key").cast(pa.string()).fill_null("").to_numpy()


def _check_once(keys: NDArray[np.object_], path: Path) -> None:
    again = [key for key, count in Counter(keys).items() if count > 1]
    if again:
        raise RunError(
            f"{path}: {len(again)} keys stand more than once, the first is {again[0]!r}; a clip has one row, or one a "
            f"run and seed, which columns of these names tell apart"
        )


# Confidences


def _read_confidence(path: Path, *, split: str) -> _Given:
    table = _read_file(path, "--confidence")
    own = "audio_mean" in table.column_names  # what training writes
    names = [f"{modality}_mean" if own else modality for modality in MODALITIES]
    missing = [name for name in ("label", *names) if name not in table.column_names]
    if missing:
        raise RunError(f"{path}: has no column {' and no '.join(missing)}, only {', '.join(table.column_names)}")
    if "split" in table.column_names:
        there = sorted(str(name) for name in table.column("split").unique().to_pylist())
        table = table.filter(pc.equal(table.column("split"), split))
        if table.num_rows == 0:
            raise RunError(
                f"{path}: holds no clip of the {split} split, only of {', '.join(there)}; choose with --split"
            )
    seeds = _whole(table, "seed", path) if "seed" in table.column_names else np.zeros(table.num_rows, np.int64)
    by_seed: dict[str, dict[int, Floats]] = {modality: {} for modality in MODALITIES}
    first, keys = table, np.array([], object)
    for seed in np.unique(seeds):
        part = table.filter(pa.array(seeds == seed)).sort_by("key")
        part_keys = _keys(part)
        _check_once(part_keys, path)
        if len(keys) and not np.array_equal(part_keys, keys):
            raise RunError(f"{path}: seed {seed} lists other clips than seed {seeds.min()}")
        first, keys = part, part_keys
        for modality, name in zip(MODALITIES, names, strict=True):
            if part.column(name).null_count < part.num_rows or len(np.unique(seeds)) == 1:
                by_seed[modality][int(seed)] = _confidences(part, name, part_keys, path, split=split)
    for modality, name in zip(MODALITIES, names, strict=True):
        if not by_seed[modality]:
            raise RunError(f"{path}: column {name} is empty")
    return _Given(path, keys, first.column("label").combine_chunks(), by_seed)


def _confidences(part: pa.Table, name: str, keys: NDArray[np.object_], path: Path, *, split: str) -> Floats:
    values = _numbers(part, name, path)
    absent = part.column(name).is_null().to_numpy()
    if absent.any():
        raise RunError(
            f"{path}: covers only part of the {split} split: {int(absent.sum())} of {len(absent)} clips have no "
            f"{name}, the first is {keys[absent][0]!r}"
        )
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        raise RunError(
            f"{path}: column {name} of {keys[wrong][0]!r} is {values[wrong][0]}, expected a probability in [0, 1] "
            f"({int(wrong.sum())} such values)"
        )
    return values


def _results_of(given: _Given, *, split: str, width: int) -> Results:
    """Results without a run: the clips of a confidence file. width: class probabilities a clip, 0 where unknown."""
    classes = _classes_named(given, width)
    labels = _class_numbers(given.labels, given.keys, classes, what=f"{given.path}: column label")
    _check_two_classes(labels, classes, given.path, split)
    clips = len(labels)
    return Results(
        folders=(),
        dataset=given.path.stem,
        classes=classes,
        split=split,
        clip_ids=np.arange(clips),
        keys=given.keys,
        labels=labels,
        confidence={modality: average_over_seeds(by_seed) for modality, by_seed in given.by_seed.items()},
        confidence_by_seed=given.by_seed,
        scores=(),
        planted=None,
        coverage=Coverage(listed=clips, evaluated=clips, unrecorded=0, unpredicted=0),
        confidence_source=str(given.path),
    )


def _classes_named(given: _Given, width: int) -> tuple[str, ...]:
    """Class names of a confidence file: its labels where they are words, else the numbers from 0 on."""
    names = sorted({str(label) for label in given.labels.to_pylist()})
    if all(name.isdecimal() for name in names):
        return tuple(str(number) for number in range(max(width, 1 + max(int(name) for name in names))))
    return tuple(names)


def _check_two_classes(labels: Labels, classes: Sequence[str], path: Path, split: str) -> None:
    if len(np.unique(labels)) < 2:
        raise RunError(
            f"{path}: every clip of the {split} split has the same class ({classes[labels[0]]}); accuracies mean "
            f"nothing there: give clips of two classes or more"
        )


def _cut_by(results: Results, given: _Given) -> Results:
    """The same runs on subsets that are cut by a file's confidences."""
    rows = _rows_of(given.keys, results.keys)
    missing = rows < 0
    if missing.any():
        raise RunError(
            f"{given.path}: covers only part of the {results.split} split: {int(missing.sum())} of {len(rows)} "
            f"evaluated clips are not in it, the first is {results.keys[missing][0]!r}"
        )
    labels = _class_numbers(given.labels, given.keys, results.classes, what=f"{given.path}: column label")[rows]
    _check_labels(labels, results, given.path)
    by_seed = {name: {seed: values[rows] for seed, values in seeds.items()} for name, seeds in given.by_seed.items()}
    return replace(
        results,
        confidence={name: average_over_seeds(seeds) for name, seeds in by_seed.items()},
        confidence_by_seed=by_seed,
        confidence_source=str(given.path),
    )


# Predictions


def _known_keys(results: Results) -> frozenset[str]:
    """Every key that predictions may name: all clips of the dataset, of which those of other splits are not scored."""
    tables = [
        read_table(folder.path / "confidence.parquet")
        for folder in results.folders
        if (folder.path / "confidence.parquet").exists()
    ]
    return frozenset(results.keys).union(*(table.column("key").to_pylist() for table in tables))


def _width(table: pa.Table) -> int:
    """How many class probabilities a row has in a column of lists; 0 where there is none."""
    if "probabilities" not in table.column_names:
        return 0
    first = table.column("probabilities")[0].as_py()
    return len(json.loads(first) if isinstance(first, str) else first or ())


def _scores_of(path: Path, table: pa.Table, results: Results, known: frozenset[str]) -> list[Scores]:
    """One for each run and seed that the file holds."""
    runs = table.column("run").to_pylist() if "run" in table.column_names else [path.stem] * table.num_rows
    seeds = _whole(table, "seed", path) if "seed" in table.column_names else np.zeros(table.num_rows, np.int64)
    places = dict.fromkeys(zip(runs, seeds.tolist(), strict=True))
    names = np.array(runs, object)
    return [
        _score(path, table.filter(pa.array((names == run) & (seeds == seed))), results, known, run=str(run), seed=seed)
        for run, seed in places
    ]


def _score(path: Path, table: pa.Table, results: Results, known: frozenset[str], *, run: str, seed: int) -> Scores:
    keys = _keys(table)
    _check_once(keys, path)
    _check_known(keys, results, known, path)
    rows = _rows_of(keys, results.keys)
    missing = rows < 0
    if missing.any():
        raise RunError(
            f"{path}: lacks {int(missing.sum())} of the {len(rows)} evaluated clips of the {results.split} split, the "
            f"first is {results.keys[missing][0]!r}; predict them all"
        )
    table, keys = table.take(pa.array(rows)), results.keys
    if "label" in table.column_names:
        what = f"{path}: column label"
        _check_labels(
            _class_numbers(table.column("label").combine_chunks(), keys, results.classes, what=what), results, path
        )
    probabilities = _probabilities(table, keys, results.classes, path)
    if "prediction" in table.column_names:
        column = table.column("prediction").combine_chunks()
        predictions = _class_numbers(column, keys, results.classes, what=f"{path}: column prediction")
    elif probabilities is not None:
        predictions = probabilities.argmax(axis=1).astype(np.int64)
    else:
        raise RunError(
            f"{path}: has no column prediction, no column probabilities, and none for each class "
            f"({', '.join(results.classes[:3])}, ...); it has {', '.join(table.column_names)}"
        )
    method = str(table.column("method")[0].as_py()) if "method" in table.column_names else run
    return Scores(run, method, seed, predictions == results.labels, predictions, probabilities)


def _check_known(keys: NDArray[np.object_], results: Results, known: frozenset[str], path: Path) -> None:
    strangers = [key for key in keys if key not in known]
    if len(strangers) == len(keys):
        raise RunError(
            f"{path}: holds another dataset's predictions: none of its {len(keys)} keys is in {results.dataset}, the "
            f"first is {strangers[0]!r}"
        )
    if strangers and not results.folders:
        raise RunError(
            f"{results.confidence_source}: covers only part of the {results.split} split: {len(strangers)} of the "
            f"{len(keys)} clips that {path} predicts are not in it, the first is {strangers[0]!r}"
        )
    if strangers:
        raise RunError(
            f"{path}: {len(strangers)} of its {len(keys)} keys are unknown to {results.dataset}, the first is "
            f"{strangers[0]!r}"
        )


def _probabilities(
    table: pa.Table, keys: NDArray[np.object_], classes: Sequence[str], path: Path
) -> NDArray[np.float32] | None:
    """(N, classes), from a column of lists or from one column a class; None where there are neither."""
    named = [name for name in classes if name in table.column_names and name not in _TEXT]
    if "probabilities" in table.column_names:
        values = _lists(table, keys, len(classes), path)
    elif len(named) == len(classes):
        values = np.stack([_numbers(table, name, path) for name in classes], axis=1)
    elif named:
        absent = [name for name in classes if name not in named]
        raise RunError(f"{path}: has columns for {len(named)} of {len(classes)} classes, but none for {absent[0]!r}")
    else:
        return None
    wrong = ~np.isfinite(values).all(axis=1)
    if wrong.any():
        raise RunError(
            f"{path}: {int(wrong.sum())} clips have a class probability that is missing or not finite, the first is "
            f"{keys[wrong][0]!r}"
        )
    return values.astype(np.float32)


def _lists(table: pa.Table, keys: NDArray[np.object_], classes: int, path: Path) -> Floats:
    lists = table.column("probabilities").to_pylist()
    for row, numbers in enumerate(lists):
        try:
            lists[row] = json.loads(numbers) if isinstance(numbers, str) else list(numbers or ())
        except ValueError:
            raise RunError(
                f"{path}: probabilities of {keys[row]!r} are {numbers!r}, expected [0.1, 0.9, ...]"
            ) from None
        if len(lists[row]) != classes:
            raise RunError(
                f"{path}: {keys[row]!r} has {len(lists[row])} probabilities, expected {classes}, one a class"
            )
    try:
        return np.array(lists, np.float64)
    except (TypeError, ValueError):
        raise RunError(f"{path}: column probabilities holds other things than numbers") from None


def _class_numbers(column: pa.Array, keys: NDArray[np.object_], classes: Sequence[str], *, what: str) -> Labels:
    """Class numbers from names or numbers; in text, what is a class's name is that, and not its number."""
    numbers = {name: number for number, name in enumerate(classes)}
    if pa.types.is_integer(column.type):
        numbers = {}
    values = []
    for row, value in enumerate(column.to_pylist()):
        if value is None or value == "":
            raise RunError(f"{what} of {keys[row]!r} is empty ({_empty(column)} such values)")
        number = numbers.get(value, -1) if isinstance(value, str) else -1
        if number < 0 and str(value).isdecimal() and int(value) < len(classes):
            number = int(value)
        if number < 0:
            raise RunError(f"{what} of {keys[row]!r}: {_no_class(str(value), classes)}")
        values.append(number)
    return np.array(values, np.int64)


def _empty(column: pa.Array) -> int:
    return sum(value is None or value == "" for value in column.to_pylist())


def _no_class(value: str, classes: Sequence[str]) -> str:
    if value.lstrip("-").isdecimal() or len(classes) > 20:
        return f"{value!r} is no class; expected a name such as {classes[0]!r} or a number from 0 to {len(classes) - 1}"
    return unknown("class", value, classes)


def _check_labels(labels: Labels, results: Results, path: Path) -> None:
    differ = labels != results.labels
    if differ.any():
        raise RunError(
            f"{path}: {int(differ.sum())} of {len(differ)} labels are not those of {results.dataset}, the first is "
            f"{results.classes[labels[differ][0]]!r} of {results.keys[differ][0]!r}; it belongs to another dataset"
        )


def _check_names(scores: Sequence[Scores], paths: Sequence[Path]) -> None:
    seen: set[tuple[str, int]] = set()
    methods: dict[str, str] = {}
    for score in scores:
        if (score.run, score.seed) in seen:
            raise RunError(
                f"{', '.join(map(str, paths))}: the run {score.run!r} with seed {score.seed} is there already; rename "
                f"the file, or name its run in a column 'run'"
            )
        seen.add((score.run, score.seed))
        if methods.setdefault(score.run, score.method) != score.method:
            raise RunError(
                f"{', '.join(map(str, paths))}: the name {score.run!r} stands for different methods "
                f"({methods[score.run]}, {score.method}); give one of them another name"
            )


# Columns


def _rows_of(keys: NDArray[np.object_], wanted: NDArray[np.object_]) -> NDArray[np.int64]:
    """Where each wanted key stands among these, -1 where it does not."""
    places = {key: row for row, key in enumerate(keys)}
    return np.array([places.get(key, -1) for key in wanted], np.int64)


def _numbers(table: pa.Table, name: str, path: Path) -> Floats:
    """A column as float64, NaN for null."""
    try:
        return table.column(name).cast(pa.float64()).fill_null(np.nan).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise RunError(f"{path}: column {name} holds {table.column(name).type}, not numbers") from None


def _whole(table: pa.Table, name: str, path: Path) -> NDArray[np.int64]:
    column = table.column(name)
    try:
        if not column.null_count:
            return column.cast(pa.int64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    raise RunError(f"{path}: column {name} holds empty values or {column.type}, expected a whole number in every row")
