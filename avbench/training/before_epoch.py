"""What a run's method may ask for before an epoch: passes over parts of train, the schedule's rate, other cores.

Nothing of it touches what the run trains on: the parts have loaders and random streams of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from torch import Tensor, nn

from avbench.batch import Batch, Clock
from avbench.dataset import checksum
from avbench.engine.config import OptimizerConfig
from avbench.engine.optimizer import learning_rate_at
from avbench.engine.plain import Engine
from avbench.loading.loader import Loader
from avbench.methods.base import Part
from avbench.training.checkpoint import Within
from avbench.training.decoding import Decoding
from avbench.training.display import Display
from avbench.training.passes import Passes, counted, prepare
from avbench.training.run import Run, check_log

T = TypeVar("T")


class View:
    """One run before one epoch; methods.base.RunView says what each member is for. Close it afterwards.

    within: where the run was with its passes when it was saved. save: saves the run between two batches, each time that
    --checkpoint-steps of all passes are done; where the method cannot go on from there, nothing is saved.
    """

    def __init__(
        self,
        run: Run,
        clock: Clock,
        *,
        parts: Mapping[Part, np.ndarray],
        decoding: Decoding,
        optimizer: OptimizerConfig,
        steps_per_epoch: int,
        passes: Passes,
        display: Display,
        say: Callable[[str, dict[str, float]], None],
        within: Within,
        save: Callable[[], None],
    ) -> None:
        self.engine = run.engine
        self.clock = clock
        self.steps_per_epoch = steps_per_epoch
        self.run = run
        self.passes, self._batches = within.passes, within.batches
        self.saved_batches = within.batches
        self._clips: Tensor | int = within.clips  # over all ranks
        self._parts = parts
        self._decoding = decoding
        self._optimizer = optimizer
        self._how = passes
        self._display = display
        self._say = say
        self._loaders: dict[tuple[Part, bool], Loader] = {}
        self._save, self._save_batches = save, decoding.config.checkpoint_steps
        self._started = time.perf_counter() - within.seconds

    @property
    def within(self) -> Within:
        """How far the run is. Waits for the device."""
        return Within(self.run.name, self.passes, self._batches, int(self._clips), time.perf_counter() - self._started)

    @property
    def is_saved(self) -> bool:
        """Whether nothing was done since `save` was last called."""
        return self._batches == self.saved_batches

    def fork(self, name: str, part: Callable[[nn.Module], nn.Module]) -> Engine:
        """A fork of the run's engine, kept in what is saved."""
        return self.run.fork(name, part)

    def batches(self, part: Part, *, epoch: int, training: bool, first_batch: int = 0) -> Iterator[Batch]:
        """A pass over a part's clips."""
        loader = self._loader(part, training=training)
        for batch in loader.epoch(epoch, first_batch=first_batch, left_out=self._how.left_out):
            self.passes += batch.position == 0
            self._display.note(
                f"{self.run.name}, before epoch {self.clock.epoch}: pass {self.passes}, over the {part} part, "
                f"batch {batch.position + 1}/{len(loader)}"
            )
            ready = counted(prepare(batch, self._how.dtype))
            if ready is not None:
                assert ready.global_valid is not None
                self._clips = self._clips + ready.global_valid
                yield ready
            self._batches += 1
            if self.run.method.resumes_passes and self._batches % self._save_batches == 0:
                self.saved_batches = self._batches
                self._save()

    def learning_rate_at(self, *, step: int, epoch: int) -> float:
        """The rate of the run's own schedule."""
        total_steps = self.clock.epochs * self.steps_per_epoch
        return learning_rate_at(self._optimizer, step, total_steps=total_steps, epoch=epoch)

    def each(self, items: Iterable[T], action: Callable[[T], None]) -> None:
        """Side by side where there are cores for it."""
        self._how.side_by_side.each(items, action)

    def say(self, text: str, **numbers: float) -> None:
        """An event of the run. Raises UsageError for a number of another name than group/name."""
        check_log(numbers, self.run.spec.text)
        self._say(text, numbers)

    def close(self) -> None:
        """Let go of the loaders."""
        for loader in self._loaders.values():
            loader.close()

    def _loader(self, part: Part, *, training: bool) -> Loader:
        if (part, training) not in self._loaders:
            # Another stream than training's for every part: a method that knew the order to come would not be probing.
            seed = checksum(f"{part} {self._decoding.config.order_seed}".encode()) >> 1
            modalities = tuple(self.run.method.modalities)
            name = f"{self.run.name}, {part} part"
            self._loaders[part, training] = self._decoding.loader(name, self._parts[part], seed, training, modalities)
        return self._loaders[part, training]
