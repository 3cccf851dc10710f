"""Bring your own: anybody's predictions and confidences, from Parquet or CSV, checked like a run folder's.

Predictions: a row a clip with `key` (see `keys`) and `prediction` (see `class_labels`) or class probabilities: a column
`probabilities` or `log_probabilities` of lists (JSON in CSV), or one column a class. Columns `run` and `seed` tell
several apart; the file's name is the run otherwise. A run whose `method`, or without that column whose name, is audio
or visual is taken for that unimodal network, any other for one that reads both. Confidences: `key`, `label`, `audio`
and `visual` in [0, 1], and `split` if there are several; the confidence.parquet of a run folder is one too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avbench.analysis.measures.accuracy import Labels, Scores, modalities_of
from avbench.analysis.measures.class_scores import HeldScores
from avbench.analysis.measures.discrepancy import Floats, average_over_seeds
from avbench.analysis.reading.checks import (
    check_confidences,
    check_names,
    check_same_labels,
    check_split,
    check_two_classes,
)
from avbench.analysis.reading.class_labels import class_names, class_numbers
from avbench.analysis.reading.columns import (
    Keys,
    check_once,
    keys_of,
    listed_names,
    names_of,
    numbers_of,
    seeds_of,
    shown,
)
from avbench.analysis.reading.keys import KnownKeys, sources_in
from avbench.analysis.reading.own_files import (
    OwnFile,
    check_columns,
    is_written_by_avbench,
    read_file,
    read_predictions_file,
)
from avbench.analysis.reading.own_probabilities import Share, check_highest, probabilities_in, width_of
from avbench.analysis.reading.parked_scores import Park, ParkedScores
from avbench.analysis.reading.results import Coverage, Epochs, Results
from avbench.analysis.reading.runs import read_runs
from avbench.errors import RunError, UsageError
from avbench.records import read_table
from avbench.run_folder import RunFolder
from avbench.vocabulary import MODALITIES

_CONFIDENCE_COLUMNS = ("key", "label", "split", "seed", *MODALITIES, *(f"{modality}_mean" for modality in MODALITIES))


@dataclass(frozen=True, slots=True)
class _Given:
    """A confidence file, read for one split.

    keys and class labels (N,) as they stand, and per modality and seed the confidences (N,). elsewhere: keys of its
    other splits. says_split: whether it has a column of that name. dataset, classes: a name, and the classes' names in
    the order of their numbers, None where nothing lists them; every_label: the labels of all splits. content: the
    dataset's index_sha256 and fingerprint, where something says them. own: whether it is a run folder's, whose labels
    are class numbers.
    """

    path: Path
    keys: Keys
    labels: pa.Array
    by_seed: Mapping[str, Mapping[int, Floats]]
    elsewhere: frozenset[str]
    says_split: bool
    dataset: str
    classes: tuple[str, ...] | None
    every_label: frozenset[object]
    content: Mapping[str, str]
    own: bool


def read_results(
    runs: Sequence[Path], *, predictions: Sequence[Path], confidence: Path | None, split: str, epochs: Epochs
) -> Results:
    """What run folders and files of somebody's own say of one split, together.

    With run folders, their clips, classes and, unless `confidence` is given, their confidences count; without, those
    of `confidence`, which is needed then. Raises UsageError and RunError as `read_runs` does, and for files that miss
    evaluated clips, name unknown ones, hold a clip twice, or values that are no class, probability or confidence.
    """
    check_split(split)
    for run in runs:
        if run.is_file():
            raise UsageError(f"{run}: is a file, not a run folder; if it holds predictions, --predictions {run}")
    given = None if confidence is None else _read_confidence(confidence, split=split)
    if runs:
        results = read_runs(runs, split=split, epochs=epochs)
        splits = _splits_of(results) if predictions or given else {}
        known = KnownKeys(splits, sources_in([folder.files.confidence for folder in results.folders]))
        results = results if given is None else _cut_by(results, given, splits, known)
    elif given is None:
        way_out = (
            "--confidence FILE with the clips' confidences" if predictions else "a run folder: `avbench evaluate RUN`"
        )
        raise UsageError(f"nothing says which clips belong to which subset; give {way_out}")
    elif not predictions:
        raise UsageError(f"--confidence {given.path}: nothing to score; give run folders or --predictions FILE")
    else:
        # How many classes there are, where nothing lists them.
        width = 0 if given.classes else max(width_of(read_predictions_file(path)) for path in predictions)
        results = _results_of(given, split=split, width=width)
        known = KnownKeys([*given.elsewhere, *given.keys], sources_in([given.path]))
    # One file after the other: of those before, what ranks clips lies in TMPDIR.
    scores = [score for path in predictions for score in _scores_of(read_predictions_file(path), results, known)]
    _check_names(scores, predictions, trained={score.run for score in results.scores})
    return replace(results, scores=(*results.scores, *scores))


def _read_confidence(path: Path, *, split: str) -> _Given:
    everything = table = read_file(path, "--confidence", columns=_CONFIDENCE_COLUMNS)
    own = "audio_mean" in table.column_names  # what training writes
    names = {modality: f"{modality}_mean" if own else modality for modality in MODALITIES}
    check_columns(table.column_names, ("label", *names.values()), path)
    if "split" in table.column_names:
        table = _of_split(table, split, path)
    seeds = seeds_of(table, path)
    by_seed: dict[str, dict[int, Floats]] = {modality: {} for modality in MODALITIES}
    first, keys = table, np.array([], object)
    for seed in np.unique(seeds):
        part = table.filter(pa.array(seeds == seed)).sort_by("key")
        part_keys = keys_of(part)
        check_once(part_keys, path)
        if len(keys) and not np.array_equal(part_keys, keys):
            raise RunError(f"{path}: seed {seed} lists other clips than seed {seeds.min()}")
        first, keys = part, part_keys
        for modality, name in names.items():
            if part.column(name).null_count < part.num_rows or len(np.unique(seeds)) == 1:
                by_seed[modality][int(seed)] = _confidences(part, name, part_keys, path, split=split)
    for modality, name in names.items():
        if not by_seed[modality]:
            raise RunError(f"{path}: column {name!r} is empty")
    dataset, classes, content = _description(path) if own else (path.stem, None, {})
    return _Given(
        path=path,
        keys=keys,
        labels=first.column("label").combine_chunks(),
        by_seed=by_seed,
        elsewhere=frozenset(keys_of(everything)) - frozenset(keys),
        says_split="split" in everything.column_names,
        dataset=dataset,
        classes=classes,
        every_label=frozenset(everything.column("label").unique().to_pylist()),
        content=content,
        own=own,
    )


def _of_split(table: pa.Table, split: str, path: Path) -> pa.Table:
    there = sorted(table.column("split").unique().to_pylist())
    table = table.filter(pc.equal(table.column("split"), split))
    if table.num_rows == 0:
        raise RunError(
            f"{path}: holds no clip of the {split} split, only of {listed_names(there)}; choose with --split"
        )
    return table


def _description(path: Path) -> tuple[str, tuple[str, ...] | None, Mapping[str, str]]:
    """Name, classes and digests of the dataset that a run's own confidence table is of, where it lies in its folder."""
    try:
        told = json.loads(RunFolder(path.parent).dataset.read_text(encoding="utf-8"))
        digests = {name: str(told[name]) for name in ("index_sha256", "fingerprint") if name in told}
        return str(told["name"]), tuple(map(str, told["classes"])), {"index_sha256": "", **digests}
    except (OSError, ValueError, KeyError, TypeError):
        return path.stem, None, {}  # taken out of its folder; numbers do then


def _confidences(part: pa.Table, name: str, keys: Keys, path: Path, *, split: str) -> Floats:
    values = numbers_of(part, name, path)
    absent = part.column(name).is_null().to_numpy()
    if absent.any():
        raise RunError(
            f"{path}: covers only part of the {split} split: {int(absent.sum())} of {len(absent)} clips have no "
            f"{name!r}, the first is {shown(keys[absent][0])}"
        )
    check_confidences(
        values,
        ~absent,
        text=lambda row, count: (
            f"{path}: column {name!r} of {shown(keys[row])} is {values[row]}, expected a probability in "
            f"[0, 1] ({count} such values)"
        ),
    )
    return values


def _results_of(given: _Given, *, split: str, width: int) -> Results:
    """Results without a run: the clips of a confidence file. width: class probabilities a clip, 0 where unknown."""
    classes = given.classes or class_names(given.every_label, width=width, path=given.path)
    what = f"{given.path}: column 'label'"
    labels = class_numbers(given.labels, given.keys, classes, what=what, by_place=given.own)
    check_two_classes(
        labels,
        where=str(given.path),
        which=f"clip of the {split} split",
        named=lambda number: shown(classes[number]),
        way_out="give clips of two classes or more",
    )
    clips = len(labels)
    return Results(
        folders=(),
        dataset=given.dataset,
        classes=classes,
        split=split,
        clip_ids=np.arange(clips),
        key_column=pa.array(given.keys, pa.string()),
        labels=labels,
        confidence={modality: average_over_seeds(by_seed) for modality, by_seed in given.by_seed.items()},
        confidence_by_seed=given.by_seed,
        scores=(),
        planted=None,
        coverage=Coverage(listed=clips, evaluated=clips, unrecorded=0, unpredicted=0),
        confidence_source=str(given.path),
    )


def _cut_by(results: Results, given: _Given, splits: Mapping[str, str], known: KnownKeys) -> Results:
    """The same runs on subsets that are cut by a file's confidences. splits: of every clip of the dataset, by key."""
    keys = known.resolved(given.keys)
    check_once(keys, given.path)
    rows = _rows_of(keys, results.keys)
    missing = rows < 0
    if missing.any():
        raise RunError(
            f"{given.path}: covers only part of the {results.split} split: {int(missing.sum())} of {len(rows)} "
            f"evaluated clips are not in it, the first is {shown(results.keys[missing][0])}{_spaces(given.keys)}"
        )
    wanted = {results.split} if given.says_split else set(splits.values())
    strangers = [key for key in keys if splits.get(key) not in wanted]
    if strangers:
        where = f"the {results.split} split of " if given.says_split else ""
        raise RunError(
            f"{given.path}: {len(strangers)} of its {len(given.keys)} keys are unknown to {where}{results.dataset}, "
            f"the first is {shown(strangers[0])}"
        )
    what = f"{given.path}: column 'label'"
    labels = class_numbers(given.labels, given.keys, results.classes, what=what, by_place=given.own)[rows]
    _check_labels(labels, results, given.path)
    by_seed = {name: {seed: values[rows] for seed, values in seeds.items()} for name, seeds in given.by_seed.items()}
    return replace(
        results,
        confidence={name: average_over_seeds(seeds) for name, seeds in by_seed.items()},
        confidence_by_seed=by_seed,
        confidence_source=str(given.path),
        confidence_content=given.content,
    )


def _splits_of(results: Results) -> dict[str, str]:
    """The split of every clip of the dataset, by key: predictions may name them all, though one split is scored."""
    splits = dict.fromkeys(results.keys, results.split)
    for path in (folder.files.confidence for folder in results.folders):
        if path.exists():
            table = read_table(path, columns=["key", "split"])
            splits |= dict(zip(table.column("key").to_pylist(), table.column("split").to_pylist(), strict=True))
    return splits


def _scores_of(file: OwnFile, results: Results, known: KnownKeys) -> list[Scores]:
    """One for each run and seed that the file holds."""
    path, table = file.path, file.narrow
    runs, seeds = names_of(table, "run", path, default=path.stem), seeds_of(table, path)
    places = dict.fromkeys(zip(runs, seeds.tolist(), strict=True))
    if len(places) == 1:
        ((run, seed),) = places
        return [_score(file, results, known, run=run, seed=seed)]
    return [
        _score(file.only((runs == run) & (seeds == seed)), results, known, run=run, seed=seed) for run, seed in places
    ]


def _score(file: OwnFile, results: Results, known: KnownKeys, *, run: str, seed: int) -> Scores:
    path, table = file.path, file.narrow
    keys, own = known.resolved(keys_of(table)), is_written_by_avbench(file.names)
    check_once(keys, path)
    _check_known(keys, results, known, path)
    wanted = results.keys
    rows = _rows_of(keys, wanted)
    missing = rows < 0
    if missing.any():
        raise RunError(
            f"{path}: lacks {int(missing.sum())} of the {len(rows)} evaluated clips of the {results.split} split, the "
            f"first is {shown(wanted[missing][0])}; predict them all"
        )
    if "label" in table.column_names:
        what = f"{path}: column 'label'"
        column = table.column("label").combine_chunks()
        labels = class_numbers(column, keys, results.classes, what=what, by_place=own)
        _check_labels(labels[rows], results, path)
    predictions, ranks = _read_answers(file, keys, results.classes, rows, own=own)
    methods = dict.fromkeys(names_of(table, "method", path, default=run))
    if len(methods) > 1:
        raise RunError(
            f"{path}: column 'method' holds {listed_names(tuple(methods))} for the run {shown(run)}; a run is of one "
            f"method: tell runs apart by a column 'run', or leave the column out"
        )
    (method,) = methods
    return Scores(
        run,
        method,
        seed,
        correct=predictions == results.labels,
        predictions=predictions,
        probabilities=ranks,
        modalities=modalities_of(method),
    )


def _read_answers(
    file: OwnFile, keys: Keys, classes: Sequence[str], rows: NDArray[np.int64], *, own: bool
) -> tuple[Labels, HeldScores | ParkedScores | None]:
    """What is said of each evaluated clip, and what ranks them, if anything. rows: of these clips in the file.

    Rows of other splits are checked too: a mistake there is one here.
    """
    path, predictions = file.path, np.empty(len(keys), np.int64)
    says = "prediction" in file.names
    if says:
        column = file.narrow.column("prediction").combine_chunks()
        predictions = class_numbers(column, keys, classes, what=f"{path}: column 'prediction'", by_place=own)
    places = np.full(len(keys), -1, np.int64)
    places[rows] = np.arange(len(rows))
    park, rounded = Park(clips=len(rows), classes=len(classes)), None
    for place, given in probabilities_in(file, keys, classes, own=own):
        if says:
            read = Share(place.stop, len(keys))
            check_highest(predictions[place], given.values, keys[place], path, read=read)
        else:
            predictions[place] = given.ranks.argmax(axis=1)
        park.add(places[place], given.ranks)
        rounded = given.rounded
    if rounded is None and not says:
        raise RunError(
            f"{path}: has no column 'prediction', no column 'probabilities', and none for each class "
            f"({', '.join(map(shown, classes[:3]))}, ...); it has {listed_names(file.names)}"
        )
    return predictions[rows], None if rounded is None else park.scores(rounded=rounded)


def _check_known(keys: Keys, results: Results, known: KnownKeys, path: Path) -> None:
    strangers = [key for key in keys if key not in known]
    if not strangers:
        return
    first = f"the first is {shown(strangers[0])}{_spaces(strangers)}"
    if len(strangers) == len(keys):
        raise RunError(
            f"{path}: holds another dataset's predictions: none of its {len(keys)} keys is in {results.dataset}, "
            f"{first}; expected the clips' paths in the media folder, or keys such as {shown(results.keys[0])}"
        )
    if not results.folders:
        raise RunError(
            f"{results.confidence_source}: covers only part of the {results.split} split: {len(strangers)} of the "
            f"{len(keys)} clips that {path} predicts are not in it, {first}"
        )
    raise RunError(f"{path}: {len(strangers)} of its {len(keys)} keys are unknown to {results.dataset}, {first}")


def _spaces(keys: Sequence[str] | Keys) -> str:
    return "; take the spaces around keys away" if any(key != key.strip() for key in keys) else ""


def _check_labels(labels: Labels, results: Results, path: Path) -> None:
    check_same_labels(
        labels,
        results.labels,
        text=lambda row, count: (
            f"{path}: {count} of {len(labels)} labels are not those of {results.dataset}, the first is "
            f"{shown(results.classes[labels[row]])} of {shown(results.keys[row])}; it belongs to another dataset"
        ),
    )


def _check_names(scores: Sequence[Scores], paths: Sequence[Path], *, trained: Set[str]) -> None:
    """trained: names of runs of run folders; a file's seeds of that name would be averaged with what it knows not."""
    where = ", ".join(map(str, paths))

    def twice(_: Scores, score: Scores) -> str:
        which = "" if score.run in trained else f" with seed {score.seed}"
        return (
            f"{where}: the run {score.run!r}{which} is there already; rename the file, or name its run in a column "
            "'run'"
        )

    def unlike(one: Scores, other: Scores) -> str:
        return (
            f"{where}: the name {other.run!r} stands for different methods ({one.method}, {other.method}); give one "
            "of them another name"
        )

    check_names(scores, twice=twice, unlike=unlike, taken=trained)


def _rows_of(keys: Keys, wanted: Keys) -> NDArray[np.int64]:
    """Where each wanted key stands among these, -1 where it does not."""
    places = {key: row for row, key in enumerate(keys)}
    return np.array([places.get(key, -1) for key in wanted], np.int64)
