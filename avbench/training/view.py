"""What a run's method may ask for before an epoch: passes over parts of train, the schedule's rate, other cores.

Nothing of it touches what the run trains on: the parts have loaders and random streams of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from avbench.batch import Batch, Clock, Modality
from avbench.dataset import Dataset, checksum
from avbench.engine import OptimizerConfig
from avbench.errors import DatasetError
from avbench.loading.loader import Loader
from avbench.methods.base import Part
from avbench.packing.splits import cut_parts
from avbench.training.display import Display
from avbench.training.parallel import SideBySide
from avbench.training.predict import counted, prepare
from avbench.training.run import Run, check_log

T = TypeVar("T")

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


class View:
    """One run before one epoch; methods.base.RunView says what each member is for. Close it afterwards.

    loader: makes a loader of clips, given (name, clip_ids, seed, training, modalities). passes: how many were made.
    """

    def __init__(
        self,
        run: Run,
        clock: Clock,
        *,
        parts: Mapping[Part, np.ndarray],
        loader: Callable[[str, np.ndarray, int, bool, tuple[Modality, ...]], Loader],
        order_seed: int,
        optimizer: OptimizerConfig,
        steps_per_epoch: int,
        dtype: torch.dtype,
        side_by_side: SideBySide,
        display: Display,
        say: Callable[[str, dict[str, float]], None],
    ) -> None:
        self.engine = run.engine
        self.clock = clock
        self.steps_per_epoch = steps_per_epoch
        self.passes = 0
        self.clips: Tensor | int = 0  # over all ranks
        self._run = run
        self._parts = parts
        self._make_loader = loader
        self._order_seed = order_seed
        self._optimizer = optimizer
        self._dtype = dtype
        self._side_by_side = side_by_side
        self._display = display
        self._say = say
        self._loaders: dict[tuple[Part, bool], Loader] = {}
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the view was made."""
        return time.perf_counter() - self._started

    def batches(self, part: Part, *, epoch: int, training: bool) -> Iterator[Batch]:
        """A pass over a part's clips."""
        loader = self._loader(part, training=training)
        self.passes += 1
        for batch in loader.epoch(epoch):
            self._display.note(
                f"{self._run.name}, before epoch {self.clock.epoch}: pass {self.passes}, over the {part} part, "
                f"batch {batch.position + 1}/{len(loader)}"
            )
            ready = counted(prepare(batch, self._dtype))
            if ready is not None:
                assert ready.global_valid is not None
                self.clips = self.clips + ready.global_valid
                yield ready

    def learning_rate_at(self, *, step: int, epoch: int) -> float:
        """The rate of the run's own schedule."""
        total_steps = self.clock.epochs * self.steps_per_epoch
        return self._optimizer.learning_rate_at(step, total_steps=total_steps, epoch=epoch)

    def each(self, items: Iterable[T], action: Callable[[T], None]) -> None:
        """Side by side where there are cores for it."""
        self._side_by_side.each(items, action)

    def say(self, text: str, **numbers: float) -> None:
        """An event of the run. Raises UsageError for a number of another name than group/name."""
        check_log(numbers, self._run.spec.text)
        self._say(text, numbers)

    def close(self) -> None:
        """Let go of the loaders."""
        for loader in self._loaders.values():
            loader.close()

    def _loader(self, part: Part, *, training: bool) -> Loader:
        if (part, training) not in self._loaders:
            # Another stream than training's for every part: a method that knew the order to come would not be probing.
            seed = checksum(f"{part} {self._order_seed}".encode()) >> 1
            modalities = tuple(self._run.method.modalities)
            name = f"{self._run.name}, {part} part"
            self._loaders[part, training] = self._make_loader(name, self._parts[part], seed, training, modalities)
        return self._loaders[part, training]
