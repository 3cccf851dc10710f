"""A run folder's confidences of one split, and the means over epochs and seeds that cut the subsets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avbench.analysis.measures.discrepancy import Floats, average_over_epochs, average_over_seeds, difference
from avbench.analysis.reading.checks import check_confidences, check_same_labels, check_two_classes
from avbench.analysis.reading.predictions import Predictions
from avbench.analysis.reading.results import Epochs
from avbench.analysis.reading.stored import Ids, check_ids_once, floats_of, in_order, integers_of
from avbench.errors import RunError, UsageError
from avbench.records import CONFIDENCE_SCHEMA, HISTORY_SCHEMA, read_table
from avbench.run_folder import RunFolder
from avbench.vocabulary import MODALITIES

# Columns of confidences that are read; `source`, which came later, is read where it is wanted.
_CONFIDENCES = pa.schema(
    [field for field in CONFIDENCE_SCHEMA if field.name != "source" and not field.name.endswith(("_std", "_epochs"))]
)
_HISTORY_PART = re.compile(r"(?P<modality>[a-z]+)-seed(?P<seed>-?\d+)-epoch(?P<epoch>\d+)-rank\d+\.parquet")


@dataclass(frozen=True, slots=True)
class Confidences:
    """One folder's confidences of a split, by ascending clip id; NaN where nothing was recorded."""

    folder: Path
    clip_ids: Ids
    keys: pa.Array
    labels: Ids
    planted: Mapping[str, Floats]
    means: Mapping[tuple[str, int], Floats]  # by modality and seed; only those that recorded something


def read_recorded(folder: Path, split: str) -> Confidences:
    """A folder's confidences of a split. Raises RunError where there are none, or the table is damaged."""
    path = RunFolder(folder).confidence
    table = read_table(path, _CONFIDENCES, columns=_CONFIDENCES.names, filters=[("split", "==", split)])
    if table.num_rows == 0:
        raise RunError(f"{path}: holds no clip of the {split} split; choose another with --split")
    integers_of(table, "clip_id", path)
    integers_of(table, "seed", path)
    table = in_order(table.drop_columns(["split"]), "seed", "clip_id")
    seeds = integers_of(table, "seed", path)
    means: dict[tuple[str, int], Floats] = {}
    parts = {
        int(seed): table.slice(int(np.argmax(seeds == seed)), int((seeds == seed).sum())) for seed in np.unique(seeds)
    }
    first = next(iter(parts.values()))
    clip_ids = integers_of(first, "clip_id", path)
    for seed, part in parts.items():
        part_ids = integers_of(part, "clip_id", path)
        check_ids_once(part_ids, path)
        if not np.array_equal(part_ids, clip_ids):
            raise RunError(f"{path}: seed {seed} lists other clips than seed {min(parts)}; the file is damaged")
        for modality in MODALITIES:
            if part.column(f"{modality}_mean").null_count < part.num_rows:
                means[modality, seed] = _checked_mean(part, modality, path)
    return Confidences(
        folder=folder,
        clip_ids=clip_ids,
        keys=first.column("key").combine_chunks(),
        labels=integers_of(first, "label", path),
        planted={modality: floats_of(first, f"planted_{modality}") for modality in MODALITIES},
        means=means,
    )


def _checked_mean(part: pa.Table, modality: str, path: Path) -> Floats:
    """Mean confidences, NaN for null only: a NaN that was written is damage, not a clip that nobody saw."""
    values = floats_of(part, f"{modality}_mean")
    recorded = ~part.column(f"{modality}_mean").is_null().to_numpy()
    _check_values(values, recorded, integers_of(part, "clip_id", path), f"{path}: the {modality} confidence")
    return values


def _check_values(values: Floats, recorded: NDArray[np.bool_], clip_ids: Ids, what: str) -> None:
    check_confidences(
        values,
        recorded,
        text=lambda row, count: (
            f"{what} of clip {clip_ids[row]} is {values[row]}, not a probability ({count} such values); "
            "that run diverged or the file is damaged: train it again"
        ),
    )


def check_against_predictions(confidences: Sequence[Confidences], predictions: Predictions, split: str) -> None:
    """Raises RunError where confidences and predictions are of different clips or labels."""
    for table in confidences:
        path = RunFolder(table.folder).confidence
        recorded = np.zeros(len(table.clip_ids), bool)
        for values in table.means.values():
            recorded |= ~np.isnan(values)
        strangers = np.setdiff1d(predictions.clip_ids, table.clip_ids)
        unpredicted = np.setdiff1d(table.clip_ids[recorded], predictions.clip_ids)
        for odd, where, elsewhere in ((strangers, predictions.path, path), (unpredicted, path, predictions.path)):
            if len(odd):
                raise RunError(
                    f"{where} and {elsewhere} name different clips of the {split} split: {len(odd)} are in the former "
                    f"only, the first is clip {odd[0]}; both must come from one finished training"
                )
        rows = np.searchsorted(table.clip_ids, predictions.clip_ids)
        _check_labels(table, rows, predictions)
    check_same_list(confidences, split)


def _check_labels(table: Confidences, rows: Ids, predictions: Predictions) -> None:
    """rows: of the table's clips, which are predicted."""
    said = (
        f"{table.folder / 'confidence.parquet'} and {predictions.path} give different labels to the same clips; "
        "train the run again"
    )
    check_same_labels(table.labels[rows], predictions.labels, text=lambda row, count: said)


def check_same_list(confidences: Sequence[Confidences], split: str) -> None:
    """Raises RunError where two folders list different clips."""
    for table in confidences:
        if not np.array_equal(table.clip_ids, confidences[0].clip_ids):
            raise RunError(
                f"{confidences[0].folder} and {table.folder} list different clips of the {split} split; "
                f"evaluate them apart"
            )


def confidence_by_seed(
    confidences: Sequence[Confidences], predictions: Sequence[Predictions], epochs: Epochs, split: str
) -> dict[str, dict[int, Floats]]:
    """Per modality and seed, the mean confidence over the chosen epochs."""
    found: dict[str, dict[int, Floats]] = {modality: {} for modality in MODALITIES}
    owners: dict[tuple[str, int], Path] = {}
    for table in confidences:
        for (modality, seed), mean in table.means.items():
            owner = owners.setdefault((modality, seed), table.folder)
            if owner is not table.folder:
                raise RunError(
                    f"{owner} and {table.folder} both recorded the {modality} confidence with seed {seed}; "
                    f"leave one out (a network that is only to stand beside is of a class with confidence_of = None)"
                )
            if epochs == "all":
                found[modality][seed] = mean
                continue
            first, last = _best_epoch(predictions, table.folder, modality, seed) if epochs == "best" else epochs
            found[modality][seed] = _average_of_history(
                RunFolder(table.folder).history, modality, seed, (first, last), table.clip_ids
            )
    for modality, by_seed in found.items():
        if not any((~np.isnan(values)).any() for values in by_seed.values()):
            where = ", ".join(str(RunFolder(table.folder).confidence) for table in confidences)
            raise RunError(
                f"{where}: no {modality} confidence of the {split} split was recorded; train the {modality} network "
                f"(--methods {modality}) or choose another --split"
            )
    return found


def _best_epoch(predictions: Sequence[Predictions], folder: Path, modality: str, seed: int) -> tuple[int, int]:
    """The epoch that the unimodal network's predictions come from, chosen by validation accuracy, as a range."""
    candidates = [
        table
        for table in predictions
        if (table.confidence_of, table.seed) == (modality, seed) and table.path.is_relative_to(folder)
    ]
    if len(candidates) != 1:
        raise RunError(
            f"{folder}: has {len(candidates)} {modality} networks with seed {seed}, so `--confidence-epochs best` "
            f"names no epoch; give FIRST:LAST"
        )
    return candidates[0].epoch, candidates[0].epoch


def _average_of_history(folder: Path, modality: str, seed: int, epochs: tuple[int, int], clip_ids: Ids) -> Floats:
    """Mean over an inclusive range of recorded epochs, for these clips."""
    parts: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        match = _HISTORY_PART.fullmatch(path.name)
        if match and match["modality"] == modality and int(match["seed"]) == seed:
            parts.setdefault(int(match["epoch"]), []).append(path)
    if not parts:
        raise RunError(f"{folder}: holds no history of {modality}, seed {seed}; use `--confidence-epochs all`")
    missing = [epoch for epoch in range(epochs[0], min(epochs[1], max(parts) + 1) + 1) if epoch not in parts]
    if missing or epochs[0] > max(parts):
        raise UsageError(
            f"--confidence-epochs {epochs[0]}:{epochs[1]}: {modality}, seed {seed} has no epoch "
            f"{(missing or epochs)[0]}; {folder} holds epochs {min(parts)} to {max(parts)}"
        )
    return average_over_epochs(_epochs_of(parts, epochs, clip_ids))


def _epochs_of(parts: Mapping[int, Sequence[Path]], epochs: tuple[int, int], clip_ids: Ids) -> Iterator[Floats]:
    for epoch in range(epochs[0], epochs[1] + 1):
        values = np.full(len(clip_ids), np.nan)
        for path in parts[epoch]:
            table = read_table(path, HISTORY_SCHEMA)
            part_ids, confidence = integers_of(table, "clip_id", path), floats_of(table, "confidence")
            _check_values(confidence, np.ones(len(part_ids), bool), part_ids, f"{path}: the confidence")
            ours = np.isin(part_ids, clip_ids)
            rows = np.searchsorted(clip_ids, part_ids[ours])
            if len(np.unique(rows)) < len(rows) or not np.isnan(values[rows]).all():
                raise RunError(
                    f"{path}: epoch {epoch} holds some clips twice; the history is damaged, train the run again"
                )
            values[rows] = confidence[ours]
        yield values


def is_recorded(seeds: Mapping[str, Mapping[int, Floats]]) -> NDArray[np.bool_]:
    """Whether a clip has a confidence of each modality."""
    return ~np.isnan(np.sum([average_over_seeds(by_seed) for by_seed in seeds.values()], axis=0))


def check_kept(listed: Confidences, kept: NDArray[np.bool_], split: str, paths: Sequence[Path]) -> None:
    """Raises RunError where no clip is left to be evaluated, or only clips of one class."""
    where = ", ".join(map(str, paths))
    if not kept.any():
        raise RunError(
            f"{where}: no clip of the {split} split has an audio and a visual confidence; nothing to evaluate"
        )
    check_two_classes(
        listed.labels[kept],
        where=where,
        which=f"evaluated clip of the {split} split",
        named=lambda number: f"number {number}",
        way_out=f"pack a {split} split with two classes or more",
    )


def planted_discrepancy(listed: Confidences, kept: NDArray[np.bool_]) -> Floats | None:
    """The true discrepancy of the kept clips, (N,); None where no clip has one."""
    values = difference(listed.planted["audio"], listed.planted["visual"])[kept]
    return None if np.isnan(values).all() else values
