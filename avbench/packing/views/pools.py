"""The datasets that a view takes its clips from, joined: their rows one after the other, over all of their shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from avbench.class_names import in_order
from avbench.dataset import QUALITY_FILE, Dataset
from avbench.errors import DatasetError, UsageError
from avbench.integrity import check_contents
from avbench.packing.quality import quality_problems
from avbench.packing.views.choice import Candidates
from avbench.shards import folder_of

# How bytes become samples; in one dataset it is the same for all clips.
_ONE_KIND = ("audio_suffix", "spectrogram", "frame_phase_seconds")


@dataclass(frozen=True)
class Shard:
    """A shard of a pool: the real path of its folder, and what it was packed with."""

    folder: Path
    name: str
    size_bytes: int
    sha256: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / self.name


class Pools:
    """Datasets of one kind of packing, opened and checked; `moved` says where folders of shards are now."""

    def __init__(self, datasets: Sequence[Dataset], moved: Mapping[Path, Path]) -> None:
        self.datasets = datasets
        self._moved = moved

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The one dataset's classes in its order; of several that name others, all in the order of names."""
        lists = {dataset.classes for dataset in self.datasets}
        return lists.pop() if len(lists) == 1 else in_order(name for names in lists for name in names)

    @cached_property
    def table(self) -> pa.Table:
        """The rows of all indexes; label and shard still have the numbers that they have there."""
        return pa.concat_tables([dataset.table.replace_schema_metadata(None) for dataset in self.datasets])

    def rows(self, places: np.ndarray) -> pa.Table:
        """The rows at these places, in this order, with the numbers that they have in their datasets.

        Record batch by record batch: Arrow would first join all of them, which takes long and may be too much for
        32-bit offsets.
        """
        batch = np.searchsorted(self._first_rows, places, side="right") - 1
        numbers = np.unique(batch)
        parts = [
            self._batches[number].take(pa.array(places[batch == number] - self._first_rows[number]))
            for number in numbers.tolist()
        ]
        joined = pa.Table.from_batches(parts)
        if len(numbers) == 1:
            return joined
        order = np.argsort(batch, kind="stable")
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return joined.combine_chunks().take(pa.array(back))

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        return self.table.to_batches()

    @cached_property
    def _first_rows(self) -> np.ndarray:
        return np.cumsum([0, *map(len, self._batches)])[:-1]

    def candidates(self) -> Candidates:
        """All clips, for a rule to choose from."""
        places = {name: number for number, name in enumerate(self.classes)}
        labels = [np.array([places[name] for name in one.classes], np.int32)[one.labels] for one in self.datasets]
        aside = [np.isin(np.arange(len(one)), one.quarantined) for one in self.datasets]
        return Candidates(
            self.table.column("key"),
            self.table.column("source"),
            np.concatenate(labels),
            np.concatenate([one.splits for one in self.datasets]),
            np.concatenate(aside),
            self.classes,
            self.quality,
        )

    @cached_property
    def quality(self) -> pa.Table | None:
        """The rows of quality.parquet of all clips; None where a dataset has none."""
        if any("quality_sha256" not in dataset.description for dataset in self.datasets):
            return None
        return pa.concat_tables([_quality_of(dataset) for dataset in self.datasets], promote_options="permissive")

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """Every shard once, by folder as they come first, in a folder in the order of their numbers."""
        found = {shard.path: shard for one in self.datasets for shard in self._shards_of(one)}
        folders = {folder: number for number, folder in enumerate(dict.fromkeys(one.folder for one in found.values()))}
        return tuple(sorted(found.values(), key=lambda one: (folders[one.folder], len(one.name), one.name)))

    @cached_property
    def shard_of_row(self) -> np.ndarray:
        """The number in `shards` of each row's shard, int32 (N,)."""
        places = {shard.path: number for number, shard in enumerate(self.shards)}
        numbers = [
            np.array([places[shard.path] for shard in self._shards_of(one)], np.int32)[one.shards]
            for one in self.datasets
        ]
        return np.concatenate(numbers)

    def _shards_of(self, dataset: Dataset) -> Iterator[Shard]:
        folders: dict[str, Path] = {}
        packed = dataset.packed_shards
        for place, size_bytes, sha256 in zip(packed.places, packed.size_bytes, packed.sha256, strict=True):
            folder = folders.get(folder_of(place))
            if folder is None:
                there = real_folder(dataset, folder_of(place))
                folder = folders[folder_of(place)] = self._moved.get(there, there)
            yield Shard(folder, PurePosixPath(place).name, size_bytes, sha256)


def opened(paths: Sequence[Path], shard_folders: Sequence[Path] = ()) -> Pools:
    """The datasets of these folders, their indexes and the sizes of their shards checked.

    shard_folders: where shards are now that are not where a dataset says. Raises DatasetError for what is no dataset,
    is damaged, or lacks shards, and UsageError for datasets of unlike packings or a folder without such shards.
    """
    datasets = [Dataset(path) for path in paths]
    moved: dict[Path, Path] = {}
    for dataset in datasets:
        check_contents(dataset)
        moved.update(_moved(dataset, shard_folders))
    for dataset in datasets:
        _check_kind(datasets[0], dataset)
        if not any(real_folder(dataset, folder) in moved for folder in dataset.shard_folders):
            dataset.check_shards()
    return Pools(datasets, moved)


def real_folder(dataset: Dataset, folder: str) -> Path:
    """The real path of a folder that the dataset's shards lie in, by its relative one; it need not exist."""
    # Links are followed: what a view says of a place is to hold without them.
    return Path(os.path.realpath(dataset.path / folder))


def _moved(dataset: Dataset, shard_folders: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Which folders of shards that are gone are which of those that a user names."""
    for folder in dataset.shard_folders if shard_folders else ():
        there = real_folder(dataset, folder)
        if there.is_dir():
            continue
        fitting = [new for new in shard_folders if _holds(new, dataset, folder)]
        if not fitting:
            raise UsageError(
                f"--shards {' '.join(map(str, shard_folders))}: none holds all shards that {dataset.path} has "
                f"in {there}, each of its size"
            )
        yield there, Path(os.path.realpath(fitting[0]))


def _holds(place: Path, dataset: Dataset, folder: str) -> bool:
    """Whether the shards that a dataset has in one folder lie in this one, each of its size."""
    packed = dataset.packed_shards
    for shard, size_bytes in zip(packed.places, packed.size_bytes, strict=True):
        file = place / PurePosixPath(shard).name
        if folder_of(shard) == folder and not (file.is_file() and file.stat().st_size == size_bytes):
            return False
    return True


def _check_kind(first: Dataset, other: Dataset) -> None:
    """Raises UsageError where two datasets were packed so that no view can hold clips of both."""
    told = [{name: one.description.get(name) for name in _ONE_KIND} for one in (first, other)]
    rates = [one.distinct_sample_rates.tolist() for one in (first, other)]
    told[0]["sample rates"], told[1]["sample rates"] = rates
    for name, value in told[0].items():
        if value != told[1][name]:
            raise UsageError(
                f"{first.path} and {other.path}: {name} is {_brief(value)} and {_brief(told[1][name])}; a view takes "
                f"clips that were packed in one way, so pack one of the datasets again"
            )


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"of preset {value.get('preset')}"
    return "none" if value is None else str(value)


def _quality_of(dataset: Dataset) -> pa.Table:
    problem = next(quality_problems(dataset.path, dataset.description), None)
    table = None if problem else pq.read_table(dataset.path / QUALITY_FILE)
    if table is not None and not table.column("key").equals(dataset.table_column("key")):
        problem = f"{QUALITY_FILE} is of other clips"
    if table is None or problem:
        raise DatasetError(f"{dataset.path}: {problem}; `avbench verify {dataset.path}` lists all that is wrong")
    return table
