"""How each run learnt, from metrics.jsonl."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avbench.analysis.measures.learning import CURVES, Ending, Learning
from avbench.analysis.reading.results import ReadFolder, training_names
from avbench.records import read_metrics

# Events that end a run, as the trainer words them.
_STOPPED = re.compile(r"-seed-?\d+ stopped(?: after epoch \d+)?: *(?P<why>.+)", re.DOTALL)


def read_learning(folders: Sequence[ReadFolder]) -> tuple[Learning, ...]:
    """Every run and seed that these folders' metrics tell of, those that diverged too, in order of their records."""
    names = training_names([folder.path for folder in folders])
    return tuple(one for folder in folders for one in _of_folder(folder, names[folder.path]))


def _of_folder(folder: ReadFolder, name: str) -> list[Learning]:
    metrics = folder.files.metrics
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
