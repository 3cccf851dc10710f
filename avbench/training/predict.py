"""A network over a split: tallies after each epoch, tables at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from avbench.batch import Batch, Clock
from avbench.dataset import Dataset
from avbench.distributed import current_world, gather_objects
from avbench.errors import DatasetError
from avbench.loading.loader import Loader
from avbench.records import SPLITS, predictions_schema, write_table
from avbench.training.parallel import SideBySide
from avbench.training.run import Run, modalities_read


def prepare(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch without clips whose bytes were bad, in the run's precision where that is float64."""
    if not bool(batch.valid.all()):
        batch = batch.select(batch.valid)
    if dtype != torch.float64:
        return batch
    return replace(
        batch,
        audio=None if batch.audio is None else batch.audio.double(),
        frames=None if batch.frames is None else batch.frames.double(),
    )


def evaluate(
    loader: Loader, runs: Sequence[Run], *, clock: Clock, dtype: torch.dtype, side_by_side: SideBySide
) -> None:
    """Pass over a loader's clips once, every run tallying (and recording) what it makes of them."""
    for batch in evaluation_batches(loader, runs, dtype):
        if len(batch):
            side_by_side.each(runs, partial(Run.evaluate, batch=batch, clock=clock))


def evaluation_batches(loader: Loader, runs: Sequence[Run], dtype: torch.dtype) -> Iterator[Batch]:
    """The loader's batches once, decoded for what these runs read, with their networks in evaluation mode."""
    loader.modalities = modalities_read(runs)
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.engine.evaluating())
        for batch in loader.epoch(0):
            yield prepare(batch, dtype)


def write_predictions(
    loader: Loader,
    runs: Sequence[Run],
    *,
    dataset: Dataset,
    split: str,
    paths: Sequence[Path],
    dtype: torch.dtype,
    side_by_side: SideBySide,
) -> None:
    """Each run's class probabilities for every valid clip of a split, one Parquet table a run. A collective."""
    collected: dict[str, list[tuple[Tensor, Tensor]]] = {run.name: [] for run in runs}

    def collect(run: Run, batch: Batch) -> None:
        collected[run.name].append((batch.clip_id.cpu(), run.predict(batch).cpu()))

    for batch in evaluation_batches(loader, runs, dtype):
        if len(batch):
            side_by_side.each(runs, partial(collect, batch=batch))
    for run, path in zip(runs, paths, strict=True):
        parts = [part for part in gather_objects(_joined(collected[run.name])) if part is not None]
        if not parts:
            raise DatasetError(
                f"{dataset.path}: no clip of the {split} split is whole; run `avbench verify {dataset.path}`"
            )
        if current_world().is_main:
            clip_id = np.concatenate([ids for ids, _ in parts])
            confidence = np.concatenate([values for _, values in parts])
            order = np.argsort(clip_id)
            write_table(path, predictions_table(run, dataset, split, clip_id[order], confidence[order]))


def predictions_table(
    run: Run, dataset: Dataset, split: str, clip_id: np.ndarray, probabilities: np.ndarray
) -> pa.Table:
    """The table of records.predictions_schema. clip_id: int64 [N]; probabilities: float32 [N, classes]."""
    count = len(clip_id)
    columns = {
        "clip_id": clip_id,
        "key": dataset.column("key", clip_id).combine_chunks(),
        "split": pa.array([SPLITS[number] for number in dataset.splits[clip_id]]),
        "label": dataset.labels[clip_id],
        "run": pa.repeat(run.spec.name, count),
        "method": pa.repeat(run.spec.method.name, count),
        "seed": np.full(count, run.seed, np.int64),
        "epoch": np.full(count, run.progress.best_epoch, np.int32),
        "replaced": pa.repeat("none", count),
        "prediction": probabilities.argmax(axis=1).astype(np.int32),
        "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(probabilities.reshape(-1)), probabilities.shape[1]),
        "uncertainty": pa.nulls(count, pa.float32()),
        "audio_prediction": pa.nulls(count, pa.int32()),
        "visual_prediction": pa.nulls(count, pa.int32()),
    }
    return pa.table(columns, schema=predictions_schema(probabilities.shape[1]))


def _joined(rows: list[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray] | None:
    if not rows:
        return None
    return torch.cat([ids for ids, _ in rows]).numpy(), torch.cat([values for _, values in rows]).numpy()
