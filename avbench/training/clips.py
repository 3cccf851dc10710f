"""Which clips of a dataset a pass uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from avbench.dataset import Dataset, checksum
from avbench.errors import DatasetError, UsageError, unknown
from avbench.vocabulary import SPLITS


def select_clips(dataset: Dataset, *, classes: Sequence[str], fraction: float) -> dict[str, np.ndarray]:
    """Per split the ids to use: of these classes only (all where none is named), and of train this share of each class.

    A dataset is packed in a random order, so the first clips of a class are a random choice that grows with `fraction`.
    Raises UsageError for a class that the dataset does not have.
    """
    if len(set(classes)) < len(classes):
        raise UsageError(f"--classes names one twice: {', '.join(classes)}")
    for name in classes:
        if name not in dataset.classes:
            raise UsageError(unknown(f"class of {dataset.path}", name, dataset.classes))
    if len(classes) == 1:
        raise UsageError(f"--classes names {classes[0]!r} alone; there is nothing to tell apart with less than two")
    wanted = [dataset.classes.index(name) for name in classes] or range(len(dataset.classes))
    selected = {}
    for split in SPLITS:
        ids = dataset.clip_ids(split)
        share = fraction if split == "train" else 1.0
        of_class = [ids[dataset.labels[ids] == label] for label in wanted]
        selected[split] = np.sort(np.concatenate([part[: math.ceil(share * len(part))] for part in of_class]))
    return selected


def check_clips(dataset: Dataset, clip_ids: dict[str, np.ndarray]) -> None:
    """Raises DatasetError where a split has no clips, or the test split has one class only."""
    for split in SPLITS:
        if len(clip_ids[split]) == 0:
            raise DatasetError(f"{dataset.path}: the {split} split has no clips; pack it again with some")
    if len(np.unique(dataset.labels[clip_ids["test"]])) < 2:
        raise DatasetError(
            f"{dataset.path}: the test split has clips of one class only, so every accuracy would be meaningless; "
            f"pack it again with more classes in it"
        )


def fingerprint_of(clip_ids: dict[str, np.ndarray]) -> str:
    """A digest of the clips of each split, in their order, by which a checkpoint knows them again."""
    joined = np.concatenate([np.append(np.int64(len(clip_ids[split])), clip_ids[split]) for split in SPLITS])
    return f"{checksum(joined):016x}"
