"""A run folder's predictions of one split. Class probabilities stay in their file until they are wanted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avbench.analysis.measures.accuracy import Scores, modalities_of
from avbench.analysis.measures.discrepancy import Floats
from avbench.analysis.reading.checks import check_names, check_same_labels
from avbench.analysis.reading.results import ReadFolder
from avbench.analysis.reading.stored import Ids, check_ids_once, floats_of, integers_of
from avbench.analysis.reading.stored_scores import StoredScores, is_filled
from avbench.errors import RunError
from avbench.records import (
    LOG_PROBABILITIES,
    described_divergence,
    predictions_schema,
    read_schema,
    read_table,
    release_memory,
)
from avbench.vocabulary import MODALITIES, REPLACED

# What came later than the first version, whose tables are read too: what networks' own parts say, and logarithms.
_LATER = (LOG_PROBABILITIES, *(f"{modality}_prediction" for modality in MODALITIES))
_ALWAYS_THERE = pa.schema([column for column in predictions_schema(1) if column.name not in _LATER])

# Held for every row: the rest is one value in all rows, or stays in the file.
_FEW_VALUES = ("split", "run", "method", "replaced")


@dataclass(frozen=True, slots=True)
class Predictions:
    """One run's predictions of a split with both modalities, by ascending clip id; the rest as in `Scores`.

    confidence_of: the modality whose confidence the run feeds, if any. rows: which rows of the file these are, and
    file_rows how many it has. ranks_by: the column of lists that ranks clips. rounded: whether these are float32
    probabilities.
    """

    path: Path
    run: str
    method: str
    modalities: tuple[str, ...]
    confidence_of: str | None
    seed: int
    epoch: int
    classes: int
    clip_ids: Ids
    labels: Ids
    predictions: Ids
    rows: Ids
    file_rows: int
    ranks_by: str
    rounded: bool
    uncertainty: Floats | None
    parts: Mapping[str, Ids]
    replaced: Mapping[str, Ids]
    parts_alone: Mapping[str, Ids]

    def scores(self, clip_ids: Ids) -> Scores:
        """What the run made of these of its clips."""
        kept = np.isin(self.clip_ids, clip_ids)
        places = np.full(self.file_rows, -1, np.int32)
        places[self.rows[kept]] = np.arange(int(kept.sum()))
        return Scores(
            self.run,
            self.method,
            self.seed,
            correct=(self.predictions == self.labels)[kept],
            predictions=self.predictions[kept],
            probabilities=StoredScores(self.path, self.ranks_by, self.classes, places, self.rounded),
            uncertainty=None if self.uncertainty is None else self.uncertainty[kept],
            parts={modality: values[kept] for modality, values in self.parts.items()},
            replaced={modality: values[kept] for modality, values in self.replaced.items()},
            parts_alone={modality: values[kept] for modality, values in self.parts_alone.items()},
            modalities=self.modalities,
        )


def read_predictions(folder: ReadFolder, split: str) -> list[Predictions]:
    """All of a folder. Raises RunError where there are none of the split, or a table is damaged."""
    files = folder.files.prediction_files()
    if not files:
        if diverged := described_divergence(folder.path):
            raise RunError(
                f"{folder.path}: {diverged}; there is nothing to evaluate, train with a lower --learning-rate"
            )
        raise RunError(
            f"{folder.path}: holds no predictions; did the training end? `avbench train ... --resume` finishes it"
        )
    wanted = [file for file in files if re.search(rf"-seed-?\d+-{split}$", file.stem)]
    if not wanted:
        there = sorted({file.stem.rsplit("-", 1)[-1] for file in files})
        raise RunError(
            f"{folder.path}: has no predictions of the {split} split, only of {', '.join(there)}; choose with --split"
        )
    classes = len(folder.dataset["classes"])
    found = []
    for file in wanted:
        found.append(_read_file(file, split, classes=classes, runs=folder.runs))
        release_memory()
    return found


def _read_file(path: Path, split: str, *, classes: int, runs: Mapping[str, Mapping[str, Any]]) -> Predictions:
    schema = read_schema(path, _ALWAYS_THERE)
    names = [name for name in schema.names if name not in ("probabilities", LOG_PROBABILITIES, "key")]
    everything = read_table(path, columns=names, few_values=_FEW_VALUES)
    replaced = _replaced(everything)
    rows = np.flatnonzero(replaced == REPLACED.index("none"))
    # A file of one network's own rows is not copied.
    table = everything if len(rows) == len(replaced) else everything.take(pa.array(rows))
    if table.num_rows == 0:
        raise RunError(f"{path}: holds no prediction with both modalities; train the run again")
    found = {name: table.column(name).unique().to_pylist() for name in ("run", "method", "seed", "epoch", "split")}
    mixed = [name for name, values in found.items() if len(values) != 1 or values[0] is None]
    if mixed or found["split"] != [split]:
        raise RunError(
            f"{path}: must hold one run, one seed and the {split} split, but has {found[(mixed or ['split'])[0]]}"
        )
    clip_ids = integers_of(table, "clip_id", path)
    if (np.diff(clip_ids) < 0).any():  # no training writes them so
        order = np.argsort(clip_ids, kind="stable")
        clip_ids, rows, table = clip_ids[order], rows[order], table.take(pa.array(order))
    check_ids_once(clip_ids, path)
    without = {
        modality: _with_replaced(everything, chosen, modality, path, clip_ids)
        for modality in MODALITIES
        if (chosen := replaced == REPLACED.index(modality)).any()
    }
    run, method = found["run"][0], found["method"][0]
    said = runs.get(run, {})
    logarithms = LOG_PROBABILITIES in schema.names and is_filled(path, LOG_PROBABILITIES, row=int(rows.min()))
    return Predictions(
        path=path,
        run=run,
        method=method,
        modalities=tuple(said.get("modalities", modalities_of(method))),
        confidence_of=said.get("confidence_of", method if method in MODALITIES else None),
        seed=found["seed"][0],
        epoch=found["epoch"][0],
        classes=classes,
        clip_ids=clip_ids,
        labels=_classes(table, "label", path, classes=classes),
        predictions=_classes(table, "prediction", path, classes=classes),
        rows=rows,
        file_rows=everything.num_rows,
        ranks_by=LOG_PROBABILITIES if logarithms else "probabilities",
        rounded=not logarithms,
        uncertainty=None if _is_empty(table, "uncertainty") else floats_of(table, "uncertainty"),
        parts={
            modality: _classes(table, f"{modality}_prediction", path, classes=classes)
            for modality in MODALITIES
            if not _is_empty(table, f"{modality}_prediction")
        },
        replaced={
            modality: _classes(of_modality, "prediction", path, classes=classes)
            for modality, of_modality in without.items()
        },
        parts_alone={
            part: _classes(without[other], f"{part}_prediction", path, classes=classes)
            for part, other in (MODALITIES, MODALITIES[::-1])
            if other in without and not _is_empty(without[other], f"{part}_prediction")
        },
    )


def _replaced(table: pa.Table) -> np.ndarray:
    """Of each row which of `REPLACED` it has, -1 for anything else."""
    return pc.fill_null(pc.index_in(table.column("replaced"), pa.array(REPLACED)), -1).to_numpy()


def _is_empty(table: pa.Table, name: str) -> bool:
    return name not in table.column_names or table.column(name).null_count == table.num_rows


def _with_replaced(everything: pa.Table, chosen: np.ndarray, modality: str, path: Path, clip_ids: Ids) -> pa.Table:
    """The rows with a modality's features replaced, in the order of `clip_ids`. chosen: which rows these are."""
    table = everything.filter(pa.array(chosen))
    found = integers_of(table, "clip_id", path)
    order = np.argsort(found, kind="stable")
    if not np.array_equal(found[order], clip_ids):
        raise RunError(
            f"{path}: predicts other clips with {modality} replaced ({table.num_rows}) than with both modalities "
            f"({len(clip_ids)}); the file is damaged"
        )
    return table.take(pa.array(order))


def _classes(table: pa.Table, name: str, path: Path, *, classes: int) -> Ids:
    """A column of class numbers."""
    values = integers_of(table, name, path)
    outside = (values < 0) | (values >= classes)
    if outside.any():
        raise RunError(
            f"{path}: column {name} holds {values[outside][0]}, but the dataset's classes are 0 to {classes - 1} "
            f"({int(outside.sum())} such values); it was made from another dataset"
        )
    return values


def check_run_names(predictions: Sequence[Predictions]) -> None:
    """Raises RunError where two tables hold one run and seed, or one name stands for two methods."""
    check_names(
        predictions,
        twice=lambda one, other: (
            f"{one.path} and {other.path} both hold the run {other.run!r} with seed {other.seed}; "
            f"evaluate them apart, or train one under another name (--methods NAME={other.method})"
        ),
        unlike=lambda one, other: (
            f"{one.path} and {other.path} use the name {other.run!r} for different methods "
            f"({one.method}, {other.method}); evaluate them apart, or train one under another name"
        ),
    )


def check_unimodal(predictions: Sequence[Predictions], paths: Sequence[Path]) -> None:
    """Raises RunError where no run feeds the confidence of a modality."""
    recorded = {table.confidence_of for table in predictions}
    missing = [modality for modality in MODALITIES if modality not in recorded]
    if missing:
        there = ", ".join(sorted({table.run for table in predictions}))
        raise RunError(
            f"{', '.join(map(str, paths))}: no {' and no '.join(missing)} network among the runs ({there}), and the "
            f"subsets are cut by both; train with `--methods {','.join(missing)}` and give that run folder too"
        )


def check_same_clips(predictions: Sequence[Predictions]) -> None:
    """Raises RunError where tables predict other clips, or give other labels."""
    first = predictions[0]
    for other in predictions[1:]:
        if not np.array_equal(first.clip_ids, other.clip_ids):
            odd = np.setxor1d(first.clip_ids, other.clip_ids)
            raise RunError(
                f"{first.path} and {other.path} predict different clips ({len(odd)} are in one only, the first is clip "
                f"{odd[0]}); evaluate them apart or train again on the whole dataset"
            )
        _check_labels(first, other)


def _check_labels(first: Predictions, other: Predictions) -> None:
    said = f"{first.path} and {other.path} give different labels to the same clips; train one of them again"
    check_same_labels(first.labels, other.labels, text=lambda row, count: said)
