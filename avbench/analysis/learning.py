"""How each run learnt: loss and accuracies by epoch, the epoch that was chosen, and why it stopped; from metrics.jsonl.

The chosen epoch is the one of the highest validation accuracy, the earliest of equals: its network makes the
predictions that every table is of. Epochs are counted from 0, as in every file of a run folder.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from avbench.analysis.discrepancy import Counts, Floats
from avbench.analysis.evaluation import listed
from avbench.analysis.runs import METRICS_FILE, RunFolder
from avbench.records import read_metrics

# What an epoch record holds and a curve is drawn of.
CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")
Ending = Literal["early stop", "end", "diverged", "not finished"]

# Events that end a run, as the trainer words them.
_STOPPED = re.compile(r"-seed-?\d+ stopped(?: after epoch \d+)?: *(?P<why>.+)", re.DOTALL)


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


def read_learning(folders: Sequence[RunFolder]) -> tuple[Learning, ...]:
    """Every run and seed that these folders' metrics tell of, those that diverged too, in order of their records."""
    names = training_names([folder.path for folder in folders])
    return tuple(one for folder in folders for one in _of_folder(folder, names[folder.path]))


def training_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Each run folder by its name, or by its path where two have one name."""
    counts = Counter(path.name for path in paths)
    return {path: path.name if path.name and counts[path.name] == 1 else str(path) for path in paths}


def by_run(found: Iterable[Learning], order: Iterable[str]) -> dict[str, list[Learning]]:
    """The seeds of each run; the runs that `order` names first, then the others (which diverged in every seed)."""
    runs: dict[str, list[Learning]] = {run: [] for run in order}
    for one in found:
        runs.setdefault(one.run, []).append(one)
    return {run: seeds for run, seeds in runs.items() if seeds}


def untold(runs: Iterable[str], found: Sequence[Learning]) -> str:
    """One sentence on those of the evaluated runs of which nobody knows how they learnt; "" where there is none."""
    told = {one.run for one in found}
    names = [run for run in runs if run not in told]
    if not names:
        return ""
    whose = "these networks" if len(names) > 1 else "this network"
    return (
        f"Not known of {listed(names)}: predictions that come from a file, and run folders without {METRICS_FILE}, do "
        f"not say how {whose} learnt."
    )


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


# Reading


def _of_folder(folder: RunFolder, name: str) -> list[Learning]:
    metrics = folder.path / METRICS_FILE
    if not metrics.exists():
        return []
    epochs: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
    stopped: dict[tuple[str, int], str] = {}
    finished = False
    for record in read_metrics(metrics, kinds=("epoch", "event")):
        text = str(record.get("text", ""))
        if record["kind"] == "event" and "run" not in record:
            finished = finished or text == "finished"
            continue
        if "run" not in record or "seed" not in record:
            continue
        key = (str(record["run"]), int(record["seed"]))
        of_run = epochs.setdefault(key, {}) if record["kind"] == "epoch" else {}
        if record["kind"] == "epoch":
            of_run[int(record["epoch"])] = record
        elif match := _STOPPED.search(text):
            epochs.setdefault(key, {})
            stopped[key] = match["why"].strip()
    planned = _planned_epochs(folder.config)
    return [
        _learning(name, run, seed, of_run, why=stopped.get((run, seed), ""), planned=planned, finished=finished)
        for (run, seed), of_run in epochs.items()
    ]


def _learning(
    training: str,
    run: str,
    seed: int,
    records: Mapping[int, Mapping[str, Any]],
    *,
    why: str,
    planned: int | None,
    finished: bool,
) -> Learning:
    numbers = sorted(records)
    curves = {name: np.array([_number(records[epoch].get(name)) for epoch in numbers], np.float64) for name in CURVES}
    ending, words = _ending(why, len(numbers), planned=planned, finished=finished)
    clips = [_number(records[epoch].get("val_clips")) for epoch in numbers]
    return Learning(
        training,
        run,
        seed,
        np.array(numbers, np.int64),
        curves,
        ending,
        words,
        val_clips=int(np.nanmax(clips)) if np.isfinite(clips).any() else 0,
    )


def _ending(why: str, trained: int, *, planned: int | None, finished: bool) -> tuple[Ending, str]:
    if "diverged" in why.lower():
        return "diverged", why
    if why:
        return "early stop", f"early stop: {why}"
    if planned is not None and trained < planned and not finished:
        return "not finished", f"not finished: {trained} of {planned} epochs"
    return "end", "end of the training"


def _number(value: object) -> float:
    """A number of a record, which writes those that are not finite as words; NaN where it is none or not finite."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")
    return number if np.isfinite(number) else float("nan")


def _planned_epochs(config: str) -> int | None:
    training = tomllib.loads(config).get("training", {})
    epochs = training.get("epochs") if isinstance(training, dict) else None
    return epochs if isinstance(epochs, int) else None
