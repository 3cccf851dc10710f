"""How each run learnt: loss and accuracies by epoch, the epoch that was chosen, and why it stopped.

The chosen epoch is the one of the highest validation accuracy, the earliest of equals: its network makes the
predictions that every table is of. Epochs are counted from 0, as in every file of a run folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from avbench.analysis.measures.discrepancy import Counts, Floats

# What an epoch record holds and a curve is drawn of.
CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")
Ending = Literal["early stop", "end", "diverged", "not finished"]


@dataclass(frozen=True)
class Learning:
    """One run under one seed, epoch by epoch.

    training: the run folder, as it is told apart from the others. epochs: (M,) numbers from 0, ascending. curves: per
    name of CURVES (M,) numbers; losses are means over clips, accuracies fractions; NaN where the loss was not finite.
    ending: why it stopped, and `why` the same in words. val_clips: how many clips chose the epoch; 0 where not said.
    """

    training: str
    run: str
    seed: int
    epochs: Counts
    curves: Mapping[str, Floats]
    ending: Ending
    why: str
    val_clips: int = 0

    @property
    def best(self) -> int | None:
        """The chosen epoch; None where no epoch was validated."""
        values = self.curves["val_accuracy"]
        if not np.isfinite(values).any():
            return None
        return int(self.epochs[int(np.nanargmax(values))])

    @property
    def best_accuracy(self) -> float | None:
        """Validation accuracy of the chosen epoch."""
        return None if self.best is None else float(np.nanmax(self.curves["val_accuracy"]))


def by_run(found: Iterable[Learning], order: Iterable[str]) -> dict[str, list[Learning]]:
    """The seeds of each run; the runs that `order` names first, then the others (which diverged in every seed)."""
    runs: dict[str, list[Learning]] = {run: [] for run in order}
    for one in found:
        runs.setdefault(one.run, []).append(one)
    return {run: seeds for run, seeds in runs.items() if seeds}


def mean_and_spread(seeds: Sequence[Learning], curve: str) -> tuple[Counts, Floats, Floats]:
    """A curve over seeds: epochs (M,), the mean and the standard deviation (n - 1) over the seeds that got so far.

    The deviation is NaN where a single seed did; both are NaN where none had a finite value.
    """
    epochs = np.unique(np.concatenate([one.epochs for one in seeds]))
    values = np.full((len(seeds), len(epochs)), np.nan)
    for row, one in zip(values, seeds, strict=True):
        row[np.searchsorted(epochs, one.epochs)] = one.curves[curve]
    known = np.isfinite(values)
    count = known.sum(axis=0)
    mean = np.divide(np.where(known, values, 0).sum(axis=0), count, out=np.full(len(epochs), np.nan), where=count > 0)
    squares = np.where(known, (values - mean) ** 2, 0).sum(axis=0)
    spread = np.sqrt(np.divide(squares, count - 1, out=np.full(len(epochs), np.nan), where=count > 1))
    return epochs, mean, spread
