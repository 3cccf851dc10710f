"""Reading run folders: predictions and confidences of one split, checked against each other, as arrays.

Every mistake that files can hold is found here, so that what follows only computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avbench.analysis.measures.accuracy import Scores
from avbench.analysis.measures.discrepancy import Floats, average_over_seeds
from avbench.analysis.reading.confidences import (
    Confidences,
    check_against_predictions,
    check_kept,
    check_same_list,
    confidence_by_seed,
    is_recorded,
    planted_discrepancy,
    read_recorded,
)
from avbench.analysis.reading.diagnostics import read_diagnostics
from avbench.analysis.reading.folders import read_folders
from avbench.analysis.reading.predictions import (
    Predictions,
    check_run_names,
    check_same_clips,
    check_unimodal,
    read_predictions,
)
from avbench.analysis.reading.results import Coverage, Epochs, ReadFolder, Results
from avbench.records import release_memory
from avbench.run_folder import RunFolder
from avbench.vocabulary import SPLITS


def read_runs(paths: Sequence[Path], *, split: str, epochs: Epochs) -> Results:
    """Read one split of these run folders together, as if one training had left them.

    Raises UsageError for an unknown split or no folder; RunError for a folder that is none, files that are missing,
    damaged or contradict each other, and where audio or visual network or its confidences are missing.
    """
    folders = read_folders(paths, split)
    by_folder = {folder.path: read_predictions(folder, split) for folder in folders}
    predictions = [table for tables in by_folder.values() for table in tables]
    check_run_names(predictions)
    check_unimodal(predictions, paths)
    check_same_clips(predictions)
    confidences = [
        read_recorded(folder.path, split)
        for folder in folders
        if any(table.confidence_of is not None for table in by_folder[folder.path])
    ]
    check_against_predictions(confidences, predictions[0], split)
    listed = confidences[0]
    seeds = confidence_by_seed(confidences, predictions, epochs, split)
    predicted, recorded = np.isin(listed.clip_ids, predictions[0].clip_ids), is_recorded(seeds)
    kept = predicted & recorded
    check_kept(listed, kept, split, paths)
    coverage = Coverage(
        listed=len(kept),
        evaluated=int(kept.sum()),
        unrecorded=int((predicted & ~recorded).sum()),
        unpredicted=int((~predicted).sum()),
    )
    scores = tuple(table.scores(listed.clip_ids[kept]) for table in predictions)
    release_memory()
    return _results(folders, listed, seeds, kept=kept, split=split, coverage=coverage, scores=scores)


def read_confidences(paths: Sequence[Path], *, split: str, epochs: Epochs) -> Results:
    """The clips of a split and their confidences alone, such as of train, which nothing predicts: `scores` is ().

    Raises as `read_runs` does, but that predictions are looked at only for `epochs` "best".
    """
    folders = read_folders(paths, split)
    with_table = [folder for folder in folders if folder.files.confidence.exists()] or folders[:1]
    confidences = [read_recorded(folder.path, split) for folder in with_table]
    check_same_list(confidences, split)
    predictions = [table for folder in with_table for table in _any_predictions(folder)] if epochs == "best" else []
    seeds = confidence_by_seed(confidences, predictions, epochs, split)
    kept = is_recorded(seeds)
    check_kept(confidences[0], kept, split, paths)
    coverage = Coverage(len(kept), evaluated=int(kept.sum()), unrecorded=int((~kept).sum()), unpredicted=0)
    return _results(folders, confidences[0], seeds, kept=kept, split=split, coverage=coverage, scores=())


def is_predicted(paths: Sequence[Path], split: str) -> bool:
    """Whether some run folder holds predictions of a split."""
    return any(RunFolder(Path(path)).prediction_files(split) for path in paths)


def _any_predictions(folder: ReadFolder) -> list[Predictions]:
    """Predictions of the first split that there are any of; their networks are those of every split."""
    for split in SPLITS:
        if is_predicted([folder.path], split):
            return read_predictions(folder, split)
    return []


def _results(
    folders: tuple[ReadFolder, ...],
    listed: Confidences,
    seeds: Mapping[str, Mapping[int, Floats]],
    *,
    kept: NDArray[np.bool_],
    split: str,
    coverage: Coverage,
    scores: tuple[Scores, ...],
) -> Results:
    """All that is told of the kept clips. seeds: per modality and seed, confidences of all listed clips."""
    return Results(
        folders=folders,
        dataset=folders[0].dataset["name"],
        classes=tuple(folders[0].dataset["classes"]),
        split=split,
        clip_ids=listed.clip_ids[kept],
        key_column=listed.keys if kept.all() else listed.keys.filter(pa.array(kept)),
        labels=listed.labels[kept],
        confidence={modality: average_over_seeds(by_seed)[kept] for modality, by_seed in seeds.items()},
        confidence_by_seed={
            modality: {seed: by_seed[seed][kept] for seed in sorted(by_seed)} for modality, by_seed in seeds.items()
        },
        scores=scores,
        planted=planted_discrepancy(listed, kept),
        coverage=coverage,
        networks={name: str(run.get("network", "")) for folder in folders for name, run in folder.runs.items()},
        options={name: run.get("options", {}) for folder in folders for name, run in folder.runs.items()},
        diagnostics={key: curves for folder in folders for key, curves in read_diagnostics(folder.path).items()},
        rejects=folders[0].dataset.get("rejects", {}),
    )
