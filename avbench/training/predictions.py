"""Predictions of a split as Parquet tables, with both modalities and with either replaced by its mean over train."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from avbench.batch import Batch
from avbench.dataset import Dataset
from avbench.distributed import current_world, gather_objects
from avbench.errors import DatasetError
from avbench.loading.loader import Loader
from avbench.records import LOG_PROBABILITIES, predictions_schema, write_table
from avbench.training.passes import Passes
from avbench.training.replacement import Means, predict_without_each
from avbench.training.run import Prediction, Run
from avbench.vocabulary import REPLACED, SPLITS

# Columns of some clips, by name: clip_id, probabilities, and those of logarithms, uncertainty and unimodal parts that
# there are.
_Columns = dict[str, np.ndarray]


def write_predictions(
    loader: Loader,
    runs: Sequence[Run],
    *,
    means: Mapping[str, Means],
    dataset: Dataset,
    split: str,
    paths: Sequence[Path],
    passes: Passes,
) -> None:
    """Each run's predictions of every valid clip of a split, one Parquet table a run. A collective.

    means: per run name the mean features of each modality, of the runs that are to predict without each, too.
    """
    collected: dict[str, dict[str, list[_Columns]]] = {run.name: defaultdict(list) for run in runs}

    def collect(run: Run, batch: Batch) -> None:
        of_run = means.get(run.name)
        found = {"none": run.predict(batch)} if of_run is None else predict_without_each(run, batch, of_run)
        for replaced, prediction in found.items():
            columns = _columns(batch, prediction)
            if replaced != "none":
                del columns[LOG_PROBABILITIES]  # nobody ranks by them
            collected[run.name][replaced].append(columns)

    passes.each(loader, runs, collect)
    for run, path in zip(runs, paths, strict=True):
        of_ranks = gather_objects({replaced: _joined(parts) for replaced, parts in collected[run.name].items()})
        if not any(of_ranks):
            raise DatasetError(
                f"{dataset.path}: no clip of the {split} split is whole; run `avbench verify {dataset.path}`"
            )
        if current_world().is_main:
            found = [replaced for replaced in REPLACED if any(replaced in part for part in of_ranks)]
            columns = {replaced: _in_order([part[replaced] for part in of_ranks if part]) for replaced in found}
            tables = [predictions_table(run, dataset, split, replaced=name, columns=columns[name]) for name in found]
            write_table(path, *tables)


def predictions_table(run: Run, dataset: Dataset, split: str, *, replaced: str, columns: _Columns) -> pa.Table:
    """The table of records.predictions_schema.

    replaced: "none" or a modality. columns: clip_id int64 [N], probabilities float32 [N, classes] and, where the
    network has them, log_probabilities of its shape, uncertainty, audio_prediction and visual_prediction [N].
    """
    clip_id, probabilities = columns["clip_id"], columns["probabilities"]
    count, classes = probabilities.shape
    schema = predictions_schema(classes)
    table: dict[str, Any] = {
        "clip_id": clip_id,
        "key": dataset.column("key", clip_id).combine_chunks(),
        "split": pa.array([SPLITS[number] for number in dataset.splits[clip_id]]),
        "label": dataset.labels[clip_id],
        "run": pa.repeat(run.spec.name, count),
        "method": pa.repeat(run.spec.method.name, count),
        "seed": np.full(count, run.seed, np.int64),
        "epoch": np.full(count, run.progress.best_epoch, np.int32),
        "replaced": pa.repeat(replaced, count),
        "prediction": probabilities.argmax(axis=1).astype(np.int32),
        "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.reshape(-1)), classes),
        LOG_PROBABILITIES: pa.nulls(count, schema.field(LOG_PROBABILITIES).type)
        if (logarithms := columns.get(LOG_PROBABILITIES)) is None
        else pa.FixedSizeListArray.from_arrays(pa.array(logarithms.reshape(-1)), classes),
    }
    for name in ("uncertainty", "audio_prediction", "visual_prediction"):
        table[name] = columns[name] if name in columns else pa.nulls(count, schema.field(name).type)
    return pa.table(table, schema=schema)


def _columns(batch: Batch, prediction: Prediction) -> _Columns:
    columns = {"clip_id": batch.clip_id, "probabilities": prediction.probabilities}
    columns[LOG_PROBABILITIES] = prediction.log_probabilities
    columns.update({f"{name}_prediction": predicted for name, predicted in prediction.parts.items()})
    if prediction.uncertainty is not None:
        columns["uncertainty"] = prediction.uncertainty
    return {name: tensor.cpu().numpy() for name, tensor in columns.items()}


def _joined(parts: Sequence[_Columns]) -> _Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _in_order(parts: Sequence[_Columns]) -> _Columns:
    """All ranks' rows by ascending clip id."""
    joined = _joined(parts)
    order = np.argsort(joined["clip_id"])
    return {name: column[order] for name, column in joined.items()}
