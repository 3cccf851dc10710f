"""Run folders written by hand: every file that `avbench evaluate` reads, from arrays that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from avbench.records import CONFIDENCE_SCHEMA, HISTORY_SCHEMA, predictions_schema, write_json, write_table, write_text

CLASSES = ("cat", "dog", "rain")
Values = Sequence[float | None]


def make_run(
    folder: Path,
    *,
    labels: Sequence[int],
    audio: Mapping[int, Values],
    visual: Mapping[int, Values],
    correct: Mapping[tuple[str, str, int], Sequence[bool]],
    planted: Mapping[str, Values] | None = None,
    split: str = "test",
    epochs: Mapping[str, int] | None = None,
    fingerprint: str = "5e" * 32,
    predicted: Sequence[int] | None = None,
    first_clip: int = 100,
) -> Path:
    """Write a run folder and return it. Clips are numbered from `first_clip`, one a label.

    audio, visual: mean confidence of each clip, by seed; None where nothing was recorded; {} where not trained.
    correct: by (run, method, seed), whether each clip is predicted right.
    epochs: by method, the epoch of the checkpoint (0 where not named). predicted: rows that have predictions (all).
    """
    clips = len(labels)
    clip_ids = np.arange(first_clip, first_clip + clips)
    write_text(folder / "config.toml", 'dataset = "pets"\nmethods = ["audio", "visual", "baseline"]\n')
    write_json(folder / "environment.json", {"python": "3.11", "torch": "2.11.0", "gpus": []})
    write_json(folder / "dataset.json", _summary(clips, fingerprint))
    seeds = sorted({*audio, *visual})
    rows = [
        _confidence_row(row, clip_ids, labels, split, seed, {"audio": audio, "visual": visual}, planted)
        for seed in seeds
        for row in range(clips)
    ]
    write_table(folder / "confidence.parquet", pa.Table.from_pylist(rows, CONFIDENCE_SCHEMA))
    for (run, method, seed), right in correct.items():
        write_predictions(
            folder,
            run=run,
            method=method,
            seed=seed,
            split=split,
            clip_ids=clip_ids,
            labels=labels,
            correct=right,
            epoch=(epochs or {}).get(method, 0),
            rows=range(clips) if predicted is None else predicted,
        )
    return folder


def write_predictions(
    folder: Path,
    *,
    run: str,
    method: str,
    seed: int,
    split: str,
    clip_ids: np.ndarray,
    labels: Sequence[int],
    correct: Sequence[bool],
    epoch: int = 0,
    rows: Sequence[int] | None = None,
    replaced_correct: Mapping[str, Sequence[bool]] | None = None,
    parts: Mapping[str, Sequence[int]] | None = None,
    parts_alone: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write one predictions table.

    replaced_correct: by modality, whether each clip is right with it replaced; by default all are wrong without audio.
    parts: by modality, the class that the network's own part says; parts_alone: with the other modality replaced.
    """
    table = []
    without = {"audio": [False] * len(labels)} if replaced_correct is None else replaced_correct
    for row in reversed(range(len(labels)) if rows is None else rows):
        for replaced in ("none", *without):
            right = correct[row] if replaced == "none" else without[replaced][row]
            prediction = labels[row] if right else (labels[row] + 1) % len(CLASSES)
            said = parts if parts and replaced == "none" else {}
            if parts_alone and replaced != "none":
                said = {modality: classes for modality, classes in parts_alone.items() if modality != replaced}
            table.append(
                {
                    "clip_id": int(clip_ids[row]),
                    "key": f"clip{row}",
                    "split": split,
                    "label": labels[row],
                    "run": run,
                    "method": method,
                    "seed": seed,
                    "epoch": epoch,
                    "replaced": replaced,
                    "prediction": prediction,
                    "probabilities": [float(name == prediction) for name in range(len(CLASSES))],
                    "uncertainty": None,
                    **{f"{modality}_prediction": classes[row] for modality, classes in said.items()},
                }
            )
    path = folder / "predictions" / f"{run}-seed{seed}-{split}.parquet"
    write_table(path, pa.Table.from_pylist(table, predictions_schema(len(CLASSES))))


def write_history(
    folder: Path, modality: str, *, seed: int, epoch: int, confidence: Mapping[int, float], rank: int = 0
) -> Path:
    """Write the part of one epoch's history that one rank keeps; `confidence` by clip id."""
    path = folder / "confidence" / "history" / f"{modality}-seed{seed}-epoch{epoch:04d}-rank{rank:04d}.parquet"
    rows = [{"clip_id": clip, "confidence": value, "correct": value > 0.5} for clip, value in confidence.items()]
    write_table(path, pa.Table.from_pylist(rows, HISTORY_SCHEMA))
    return path


def _summary(clips: int, fingerprint: str) -> dict[str, Any]:
    return {
        "format": "avbench-dataset",
        "version": 1,
        "name": "pets",
        "classes": list(CLASSES),
        "clips": {"train": 90, "val": 10, "test": clips},
        "clips_per_class": {"train": [30, 30, 30], "val": [4, 3, 3], "test": [clips, 0, 0]},
        "recipe": {"kind": "folder"},
        "rejects": {"no audio stream": 2},
        "index_sha256": fingerprint,
        "path": "pets",
        "quarantined": 1,
    }


def _confidence_row(
    row: int,
    clip_ids: np.ndarray,
    labels: Sequence[int],
    split: str,
    seed: int,
    means: Mapping[str, Mapping[int, Values]],
    planted: Mapping[str, Values] | None,
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "clip_id": int(clip_ids[row]),
        "key": f"clip{row}",
        "split": split,
        "label": labels[row],
        "seed": seed,
    }
    for modality, by_seed in means.items():
        mean = by_seed[seed][row] if seed in by_seed else None
        record |= {
            f"{modality}_mean": mean,
            f"{modality}_std": None if mean is None else 0.0,
            f"{modality}_epochs": 0 if mean is None else 3,
            f"{modality}_correct_epochs": 0,
            f"planted_{modality}": None if planted is None else planted[modality][row],
        }
    return record
