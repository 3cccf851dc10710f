"""The confidences of all clips as one Parquet table: confidence.parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avbench import records
from avbench.confidence.store import CHUNK_ROWS, ConfidenceStore
from avbench.dataset import Dataset
from avbench.distributed import broadcast_object, current_world
from avbench.errors import RunError
from avbench.vocabulary import MODALITIES, SPLITS, Modality


def export(path: Path, *, stores: Sequence[ConfidenceStore], dataset: Dataset) -> dict[str, int]:
    """Write the totals of some stores, committed epochs only, as records.CONFIDENCE_SCHEMA. A collective.

    One row a clip and seed, by seed and clip id; rows pass through rank 0 some at a time. Columns of a modality without
    a store of that seed are null; so are mean and deviation of a clip that no epoch recorded (its epochs are 0).
    The deviation is over epochs, by sums of squares, so exact to about 1e-8.
    Returns, on every rank, how many clips no epoch recorded, quarantined ones apart, by store name (`audio-seed0`).
    Raises RunError on every rank where rank 0 cannot write.
    """
    by_place = {(store.seed, store.modality): store for store in stores}
    if len(by_place) < len(stores):
        raise ValueError(f"two stores of one modality and seed: {', '.join(store.name for store in stores)}")
    if wrong := [store.name for store in stores if store.clips != len(dataset)]:
        raise ValueError(f"the dataset has {len(dataset)} clips, other than the stores {', '.join(wrong)}")
    missing = {store.name: 0 for store in stores}
    chunks = _gathered(by_place, clips=len(dataset), missing=missing, quarantined=dataset.quarantined)
    failure = None
    if current_world().is_main:
        try:
            with records.atomic_path(path) as partial, pq.ParquetWriter(partial, records.CONFIDENCE_SCHEMA) as writer:
                for seed, ids, totals in chunks:
                    writer.write_table(_confidence_table(dataset, seed, ids, totals))
        except OSError as error:
            failure = str(error)
    for _ in chunks:  # the other ranks' part; on rank 0, what is left where writing failed
        pass
    failure, missing = broadcast_object((failure, missing))
    if failure:
        raise RunError(f"{path}: cannot export confidences: {failure}")
    return missing


def _gathered(
    stores: dict[tuple[int, Modality], ConfidenceStore], *, clips: int, missing: dict[str, int], quarantined: np.ndarray
) -> Iterator[tuple[int, np.ndarray, dict[Modality, np.ndarray]]]:
    """Chunks of (seed, clip ids, rows by modality) on rank 0, empty ones elsewhere; a collective each.

    Counts into `missing`, on rank 0, the clips of each store that no epoch recorded.
    """
    for seed in sorted({seed for seed, _ in stores}):
        for start in range(0, clips, CHUNK_ROWS):
            ids = np.arange(start, min(start + CHUNK_ROWS, clips))
            totals = {}
            for modality in MODALITIES:
                if store := stores.get((seed, modality)):
                    totals[modality] = rows = store.on_main_rank(start, start + len(ids))
                    if len(rows):
                        unseen = ids[rows["epochs"] == 0]
                        missing[store.name] += len(unseen) - int(np.isin(unseen, quarantined).sum())
            yield seed, ids, totals


def _confidence_table(dataset: Dataset, seed: int, ids: np.ndarray, totals: dict[Modality, np.ndarray]) -> pa.Table:
    columns: dict[str, Any] = {
        "clip_id": ids,
        "key": dataset.column("key", ids),
        "split": pa.DictionaryArray.from_arrays(dataset.splits[ids], SPLITS),
        "label": dataset.labels[ids],
        "source": dataset.column("source", ids),
        "seed": np.full(len(ids), seed),
    }
    for modality in MODALITIES:
        names = [f"{modality}_{what}" for what in ("mean", "std", "epochs", "correct_epochs")]
        values = _averages(totals[modality]) if modality in totals else [pa.nulls(len(ids))] * len(names)
        columns.update(zip(names, values, strict=True))
        columns[f"planted_{modality}"] = dataset.column(f"planted_{modality}", ids)
    return pa.table(columns).select(records.CONFIDENCE_SCHEMA.names).cast(records.CONFIDENCE_SCHEMA)


def _averages(rows: np.ndarray) -> list[Any]:
    """Mean, population standard deviation, epochs, correct epochs; the first two null where epochs is 0."""
    epochs = rows["epochs"]
    unseen = epochs == 0
    count = np.maximum(epochs, 1).astype(np.float64)
    mean = rows["sum"] / count
    variance = np.maximum(rows["sum_of_squares"] / count - mean**2, 0.0)  # rounding may go below 0
    return [pa.array(mean, mask=unseen), pa.array(np.sqrt(variance), mask=unseen), epochs, rows["correct_epochs"]]
