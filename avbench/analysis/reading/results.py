"""What was read, as arrays: the records that every measure takes its numbers from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avbench.analysis.measures.accuracy import Scores
from avbench.analysis.measures.discrepancy import Floats, discrepancy
from avbench.analysis.reading.stored import Ids
from avbench.errors import UsageError
from avbench.run_folder import RunFolder

Epochs = Literal["all", "best"] | tuple[int, int]

# group -> name -> (epochs, values): a panel a group, a line a name.
Diagnostics = Mapping[str, Mapping[str, tuple[Floats, Floats]]]


@dataclass(frozen=True, slots=True)
class ReadFolder:
    """What a run folder says of itself: dataset.json, config.toml (its text), environment, runs.json, metrics.jsonl.

    runs: per run name, its method, network, modalities, options, and the modality whose confidence it is; {} in folders
        of earlier versions.
    events: what the training had to tell (early stops, divergence, clips left out), in order.
    performance: its records of that kind, in order.
    settings: of config.toml what decides numbers, by name, such as "optimizer.momentum".
    """

    path: Path
    dataset: Mapping[str, Any]
    config: str
    environment: Mapping[str, Any]
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    performance: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> RunFolder:
        """Where its files lie."""
        return RunFolder(self.path)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What became of the clips of a split: listed = evaluated + unrecorded + unpredicted.

    unrecorded: predicted, but some network recorded no confidence of them. unpredicted: neither (bad bytes or
    quarantine).
    """

    listed: int
    evaluated: int
    unrecorded: int
    unpredicted: int


@dataclass(frozen=True, slots=True)
class Results:
    """The evaluated clips of a split, in ascending order of id, N of them, and what every run made of them.

    folders: the run folders; none where only files of somebody's own are evaluated. dataset: its name.
    classes: names, in the order of label numbers. key_column: (N,) strings. labels: (N,) class numbers.
    confidence: per modality (N,) mean over epochs, then over seeds; no NaN.
    confidence_by_seed: per modality and seed (N,), of which `confidence` is the mean.
    planted: true discrepancy of planted clips, (N,), NaN for a clip that has none; None where no clip has one.
    networks: per run, what its network is; "" where nobody said. options: per run, the options of its method.
    diagnostics: per (run, seed) what its method logged while training: per group a curve a name, as (epochs, values),
        two arrays (M,); epochs are fractions, 1.5 is the middle of the second epoch; values are finite.
    confidence_source: the file of somebody's own that the confidences are from; "" for the run folders.
    confidence_content: index_sha256 and fingerprint of the dataset that this file is of; empty where nothing says so.
    rejects: why how many clips were rejected while packing. events: per run folder, what the training had to tell.
    """

    folders: tuple[ReadFolder, ...]
    dataset: str
    classes: tuple[str, ...]
    split: str
    clip_ids: Ids
    key_column: pa.Array
    labels: Ids
    confidence: Mapping[str, Floats]
    confidence_by_seed: Mapping[str, Mapping[int, Floats]]
    scores: tuple[Scores, ...]
    planted: Floats | None
    coverage: Coverage
    networks: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    diagnostics: Mapping[tuple[str, int], Diagnostics] = field(default_factory=dict)
    rejects: Mapping[str, int] = field(default_factory=dict)
    confidence_source: str = ""
    confidence_content: Mapping[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> NDArray[np.object_]:
        """The clips' keys, (N,); made anew each time, for Python's strings take much memory."""
        return self.key_column.to_numpy(zero_copy_only=False)

    @property
    def seeds(self) -> Mapping[str, tuple[int, ...]]:
        """Per modality, which seeds its mean confidence is over."""
        return {modality: tuple(sorted(by_seed)) for modality, by_seed in self.confidence_by_seed.items()}

    @property
    def events(self) -> Mapping[str, tuple[str, ...]]:
        """Per run folder, what the training had to tell."""
        return {str(folder.path): folder.events for folder in self.folders}

    @property
    def performance(self) -> Mapping[str, tuple[Mapping[str, Any], ...]]:
        """Per run folder its performance records, by `training_names`."""
        names = training_names([folder.path for folder in self.folders])
        return {names[folder.path]: folder.performance for folder in self.folders}

    @property
    def discrepancies(self) -> Floats:
        """Estimated modality discrepancy of each evaluated clip, (N,)."""
        return discrepancy(self.confidence["audio"], self.confidence["visual"])


def parse_epochs(text: str) -> Epochs:
    """`all`, `best` or `FIRST:LAST` (both inclusive, counted from 0). Raises UsageError for anything else."""
    if text == "all" or text == "best":
        return text  # type: ignore[return-value]
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise UsageError(f"--confidence-epochs {text!r}: expected all, best or FIRST:LAST, epochs from 0, such as 5:9")
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise UsageError(
            f"--confidence-epochs {text}: the first epoch comes after the last; did you mean {last}:{first}?"
        )
    return first, last


def training_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Each run folder by its name, or by its path where two have one name."""
    counts = Counter(path.name for path in paths)
    return {path: path.name if path.name and counts[path.name] == 1 else str(path) for path in paths}
