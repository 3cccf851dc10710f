"""The run folder: where everything that one training leaves behind lies, for those who write it and who read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

METRICS = "metrics.jsonl"
BEST = "best"  # within the folder of checkpoints: the best network of each run


class _Place:
    """A file or folder of a run folder, as an attribute: its path."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __get__(self, folder: RunFolder, kind: type[RunFolder]) -> Path:
        return folder.path.joinpath(*self._names)


@dataclass(frozen=True)
class RunFolder:
    """Names of the files in a run folder, whether they are there or not."""

    path: Path

    config = _Place("config.toml")  # makes it a run folder
    settings = _Place("settings.json")  # the settings that move numbers
    dataset = _Place("dataset.json")  # a copy of the dataset's description
    runs = _Place("runs.json")
    environment = _Place("environment.json")
    metrics = _Place(METRICS)
    tensorboard = _Place("tensorboard")
    profile = _Place("profile")
    checkpoints = _Place("checkpoints")
    best = _Place("checkpoints", BEST)
    history = _Place("confidence", "history")
    confidence = _Place("confidence.parquet")
    predictions = _Place("predictions")
    lock = _Place("lock.json")
    interrupted = _Place("interrupted.json")
    finished = _Place("finished.json")
    diverged = _Place("diverged.json")

    def prediction_file(self, run: str, seed: int, split: str) -> Path:
        """Predictions of one run on one split."""
        return self.predictions / f"{run}-seed{seed}-{split}.parquet"

    def prediction_files(self, split: str = "*") -> list[Path]:
        """The files of predictions that are there, of one split or of all, by name."""
        return sorted(self.predictions.glob(f"*-{split}.parquet" if split != "*" else "*.parquet"))
