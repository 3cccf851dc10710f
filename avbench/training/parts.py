"""The parts of train: what estimates train on, what they hold out, and which of them each run itself is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from avbench.batch import Batch
from avbench.dataset import Dataset
from avbench.errors import DatasetError
from avbench.methods.base import Part
from avbench.packing.splits import cut_parts
from avbench.training.passes import counted_each
from avbench.training.run import Run

HELD_OUT = 0.1  # share of each class's videos


def parts_of_train(dataset: Dataset, clip_ids: np.ndarray) -> dict[Part, np.ndarray]:
    """Ids of the clips of train and of the two parts that it is cut into, ascending.

    clip_ids: of train, those that are used. The held-out part is 10 % of each class's videos, chosen by a hash of the
    video's name; clips of one video stay together, as when a split is cut. Raises DatasetError where a part is empty.
    """
    sources = dataset.column("source", clip_ids).to_pylist()
    labels = dict(zip(sources, map(str, dataset.labels[clip_ids].tolist()), strict=True))
    held_out = cut_parts(labels, {"held-out": HELD_OUT})
    is_held_out = np.array([source in held_out for source in sources], bool)
    parts: dict[Part, np.ndarray] = {
        "train": clip_ids,
        "estimation": clip_ids[~is_held_out],
        "held-out": clip_ids[is_held_out],
    }
    for name, ids in parts.items():
        if not len(ids):
            raise DatasetError(
                f"{dataset.path}: train has {len(labels)} {'video' if len(labels) == 1 else 'videos'}, too few to cut "
                f"off a {name} part as one of the methods needs; leave that method out or pack more videos"
            )
    return parts


def parts_for(runs: Sequence[Run], dataset: Dataset, clip_ids: np.ndarray) -> dict[Part, np.ndarray]:
    """Ids of the parts that these runs read or are trained on: of train alone where none asks for more.

    clip_ids: of train, those that are used. Raises DatasetError where train is too small to be cut.
    """
    asked = {part for run in runs for part in (*run.method.parts, run.trains_on)}
    return {"train": clip_ids} if asked <= {"train"} else parts_of_train(dataset, clip_ids)


class OwnClips:
    """What each run makes of a batch: its own part's clips, for all runs of one pass over train.

    The batches themselves are those of all of train, whoever takes part, so what a run is trained on hangs on no other.
    parts: ids of each part's clips. clips: of the whole dataset.
    """

    def __init__(self, parts: Mapping[Part, np.ndarray], *, clips: int) -> None:
        self._members: dict[Part, np.ndarray] = {}
        for part, ids in parts.items():
            self._members[part] = np.zeros(clips, bool)
            self._members[part][ids] = True

    def of(self, batch: Batch, runs: Iterable[Run]) -> dict[Part, Batch]:
        """By part that one of these runs is trained on, this rank's clips of it, counted over all ranks.

        batch: of valid clips of train. A part of which no rank has a clip is left out: its runs make no step. A
        collective, one for all parts.
        """
        wanted = list(dict.fromkeys(run.trains_on for run in runs))
        ready = counted_each([self._cut(batch, part) for part in wanted])
        return {part: own for part, own in zip(wanted, ready, strict=True) if own is not None}

    def _cut(self, batch: Batch, part: Part) -> Batch:
        if part == "train":
            return batch
        is_own = self._members[part][batch.rows.numpy()]
        return batch if is_own.all() else batch.select(torch.from_numpy(is_own))
