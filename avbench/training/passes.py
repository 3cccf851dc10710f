"""Networks over a split, in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch

from avbench.batch import Batch, Clock
from avbench.distributed import sum_over_ranks
from avbench.loading.loader import Loader
from avbench.training.parallel import SideBySide, longest_first
from avbench.training.run import Run, modalities_read


def prepare(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch without clips whose bytes were bad, in the run's precision where that is float64.

    Spectrograms, which the loader gives as a view with the other axis first, are laid out as encoders read them: once,
    and not by each run for itself.
    """
    if not bool(batch.valid.all()):
        batch = batch.select(batch.valid)
    if batch.audio is not None:
        batch = replace(batch, audio=batch.audio.contiguous(memory_format=torch.channels_last))
    if dtype != torch.float64:
        return batch
    return replace(
        batch,
        audio=None if batch.audio is None else batch.audio.double(),
        frames=None if batch.frames is None else batch.frames.double(),
    )


def counted(batch: Batch) -> Batch | None:
    """A prepared batch with the valid clips of all ranks counted; None where no rank has one. A collective."""
    return counted_each([batch])[0]


def counted_each(batches: Sequence[Batch]) -> list[Batch | None]:
    """Each of some prepared batches with the valid clips of all ranks counted; None where no rank has one.

    One collective for all of them; every rank gives as many, on the same device.
    """
    # Filled in on the device: a tensor made of a number is copied to a GPU while the processor waits.
    own = [torch.full((), len(batch), dtype=torch.int64, device=batch.label.device) for batch in batches]
    counts = sum_over_ranks(torch.stack(own)).unbind()
    # Only a rank without clips looks whether there is nothing to learn.
    return [
        replace(batch, global_valid=count) if len(batch) or int(count) else None
        for batch, count in zip(batches, counts, strict=True)
    ]


@dataclass(frozen=True)
class Passes:
    """How runs go over batches without training on them.

    dtype: what they compute in. left_out: ids of clips that are known to be bad; it may grow meanwhile.
    """

    dtype: torch.dtype
    side_by_side: SideBySide
    left_out: Collection[int]

    def each(self, loader: Loader, runs: Sequence[Run], action: Callable[..., None]) -> None:
        """`action(run, batch=batch)` for every run on every batch of a loader, side by side, in evaluation mode."""
        for batch in self.batches(loader, runs):
            if len(batch):
                self.side_by_side.each(longest_first(runs), partial(action, batch=batch))

    def evaluate(self, loader: Loader, runs: Sequence[Run], *, clock: Clock) -> None:
        """Pass over a loader's clips once, every run tallying (and recording) what it makes of them."""
        self.each(loader, runs, partial(Run.evaluate, clock=clock))

    def batches(self, loader: Loader, runs: Sequence[Run]) -> Iterator[Batch]:
        """The loader's batches once, decoded for what these runs read, with their networks in evaluation mode."""
        with ExitStack() as stack:
            for run in runs:
                stack.enter_context(run.engine.evaluating())
            for batch in loader.epoch(0, modalities=modalities_read(runs), left_out=self.left_out):
                yield prepare(batch, self.dtype)
