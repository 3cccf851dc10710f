"""Reading run folders: predictions and confidences of one split, checked against each other, as arrays.

Every mistake that files can hold is found here, so that what follows only computes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avbench.analysis.configuration import check_alike, read_settings
from avbench.analysis.discrepancy import (
    MODALITIES,
    Floats,
    average_over_epochs,
    average_over_seeds,
    difference,
    discrepancy,
)
from avbench.analysis.evaluation import Scores
from avbench.analysis.origin import check_same_data, check_same_view
from avbench.analysis.predictions import (
    Predictions,
    check_names,
    check_same_clips,
    check_unimodal,
    read_predictions,
)
from avbench.analysis.stored import Ids, check_ids_once, floats_of, in_order, integers_of
from avbench.errors import RunError, UsageError, unknown
from avbench.records import CONFIDENCE_SCHEMA, HISTORY_SCHEMA, SPLITS, read_metrics, read_table, release_memory

Epochs = Literal["all", "best"] | tuple[int, int]
# group -> name -> (epochs, values): a panel a group, a line a name.
Diagnostics = Mapping[str, Mapping[str, tuple[Floats, Floats]]]

RUNS_FILE = "runs.json"
METRICS_FILE = "metrics.jsonl"

# Columns of confidences that are read; `source`, which came later, is read where it is wanted.
_CONFIDENCES = pa.schema(
    [field for field in CONFIDENCE_SCHEMA if field.name != "source" and not field.name.endswith(("_std", "_epochs"))]
)

# What numbers of a method were called in folders of earlier versions: (method, old name) -> name.
_RENAMED = {
    **{
        ("greedy", f"{group}/{modality}"): f"{group}/{modality}_branch"
        for group in ("speed", "rebalancing")
        for modality in MODALITIES
    },
    ("greedy", "difference/speed"): "difference/audio_minus_visual_branch",
}

_KINDS = {"name": str, "classes": list, "index_sha256": str, "clips_per_class": dict, "recipe": dict, "rejects": dict}

_HISTORY_PART = re.compile(r"(?P<modality>[a-z]+)-seed(?P<seed>-?\d+)-epoch(?P<epoch>\d+)-rank\d+\.parquet")


@dataclass(frozen=True, slots=True)
class RunFolder:
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
    confidence_index: checksum of the index of the dataset that this file is of; "" where nothing says so.
    rejects: why how many clips were rejected while packing. events: per run folder, what the training had to tell.
    """

    folders: tuple[RunFolder, ...]
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
    confidence_index: str = ""

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
        """Per run folder its performance records, by the folder's name, or by its path where two have one name."""
        names = Counter(folder.path.name for folder in self.folders)
        return {
            folder.path.name
            if names[folder.path.name] == 1 and folder.path.name
            else str(folder.path): folder.performance
            for folder in self.folders
        }

    @property
    def discrepancies(self) -> Floats:
        """Estimated modality discrepancy of each evaluated clip, (N,)."""
        return discrepancy(self.confidence["audio"], self.confidence["visual"])


@dataclass(frozen=True, slots=True)
class _Confidences:
    """One folder's confidences of a split, by ascending clip id; NaN where nothing was recorded."""

    folder: Path
    clip_ids: Ids
    keys: pa.Array
    labels: Ids
    planted: Mapping[str, Floats]
    means: Mapping[tuple[str, int], Floats]  # by modality and seed; only those that recorded something


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


def read_runs(paths: Sequence[Path], *, split: str, epochs: Epochs) -> Results:
    """Read one split of these run folders together, as if one training had left them.

    Raises UsageError for an unknown split or no folder; RunError for a folder that is none, files that are missing,
    damaged or contradict each other, and where audio or visual network or its confidences are missing.
    """
    folders = _read_folders(paths, split)
    by_folder = {folder.path: read_predictions(folder, split) for folder in folders}
    predictions = [table for tables in by_folder.values() for table in tables]
    check_names(predictions)
    check_unimodal(predictions, paths)
    check_same_clips(predictions)
    confidences = [
        _read_confidences(folder.path, split)
        for folder in folders
        if any(table.confidence_of is not None for table in by_folder[folder.path])
    ]
    _check_against_predictions(confidences, predictions[0], split)
    listed = confidences[0]
    seeds = _seeds(confidences, predictions, epochs, split)
    predicted, recorded = np.isin(listed.clip_ids, predictions[0].clip_ids), _is_recorded(seeds)
    kept = predicted & recorded
    _check_kept(listed, kept, split, paths)
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
    folders = _read_folders(paths, split)
    with_table = [folder for folder in folders if (folder.path / "confidence.parquet").exists()] or folders[:1]
    confidences = [_read_confidences(folder.path, split) for folder in with_table]
    _check_same_list(confidences, split)
    predictions = [table for folder in with_table for table in _any_predictions(folder)] if epochs == "best" else []
    seeds = _seeds(confidences, predictions, epochs, split)
    kept = _is_recorded(seeds)
    _check_kept(confidences[0], kept, split, paths)
    coverage = Coverage(len(kept), evaluated=int(kept.sum()), unrecorded=int((~kept).sum()), unpredicted=0)
    return _results(folders, confidences[0], seeds, kept=kept, split=split, coverage=coverage, scores=())


def is_predicted(paths: Sequence[Path], split: str) -> bool:
    """Whether some run folder holds predictions of a split."""
    return any(True for path in paths for _ in (Path(path) / "predictions").glob(f"*-{split}.parquet"))


def _any_predictions(folder: RunFolder) -> list[Predictions]:
    """Predictions of the first split that there are any of; their networks are those of every split."""
    for split in SPLITS:
        if is_predicted([folder.path], split):
            return read_predictions(folder, split)
    return []


def _results(
    folders: tuple[RunFolder, ...],
    listed: _Confidences,
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
        planted=_planted_discrepancy(listed, kept),
        coverage=coverage,
        networks={name: str(run.get("network", "")) for folder in folders for name, run in folder.runs.items()},
        options={name: run.get("options", {}) for folder in folders for name, run in folder.runs.items()},
        diagnostics={key: curves for folder in folders for key, curves in _read_diagnostics(folder.path).items()},
        rejects=folders[0].dataset.get("rejects", {}),
    )


def _is_recorded(seeds: Mapping[str, Mapping[int, Floats]]) -> NDArray[np.bool_]:
    """Whether a clip has a confidence of each modality."""
    return ~np.isnan(np.sum([average_over_seeds(by_seed) for by_seed in seeds.values()], axis=0))


def _read_folders(paths: Sequence[Path], split: str) -> tuple[RunFolder, ...]:
    if split not in SPLITS:
        raise UsageError(unknown("split", split, SPLITS))
    if not paths:
        raise UsageError("no run folder given: `avbench evaluate RUN`")
    twice = [path for path, count in Counter(Path(path).resolve() for path in paths).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]}: given twice; give each run folder once")
    folders = tuple(_read_folder(Path(path)) for path in paths)
    check_same_data(folders)
    check_alike(folders)
    check_same_view(folders)
    return folders


def _read_folder(path: Path) -> RunFolder:
    if path.is_file():
        raise RunError(f"{path}: is a file, not a run folder; give a folder that `avbench train` wrote")
    if not path.is_dir():
        raise RunError(f"{path}: no such run folder; make one with `avbench train ... --out {path}`")
    try:
        config = (path / "config.toml").read_text(encoding="utf-8")
        settings = read_settings(path, config)
        dataset, environment = (
            json.loads((path / name).read_text(encoding="utf-8")) for name in ("dataset.json", "environment.json")
        )
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise RunError(
            f"{path}: not a run folder, it has no {missing}; give a folder that `avbench train` wrote"
        ) from None
    except (ValueError, OSError) as error:
        files = "config.toml, settings.json, dataset.json or environment.json"
        raise RunError(f"{path}: {files} cannot be read ({error})") from None
    for name in ("name", "classes", "index_sha256"):
        if not isinstance(dataset, dict) or name not in dataset:
            raise RunError(f"{path / 'dataset.json'}: has no {name!r}; it was not written by this version of avbench")
    _check_kinds(path, dataset, environment)
    told = _read_told(path)
    return RunFolder(
        path,
        dataset,
        config,
        environment,
        runs=_read_run_list(path),
        events=tuple(str(record.get("text", "")) for record in told if record["kind"] == "event"),
        performance=tuple(record for record in told if record["kind"] == "performance"),
        settings=settings,
    )


def _check_kinds(path: Path, dataset: Mapping[str, Any], environment: object) -> None:
    """Raises RunError where what numbers and sentences are made of is another kind of thing than training writes."""
    wrong = [name for name, kind in _KINDS.items() if name in dataset and not isinstance(dataset[name], kind)]
    if not wrong and not all(isinstance(name, str) for name in dataset["classes"]):
        wrong = ["classes"]
    if wrong:
        raise RunError(
            f"{path / 'dataset.json'}: {wrong[0]!r} is {str(dataset[wrong[0]])[:40]!r}, which training never writes; "
            "the file is damaged"
        )
    launches = environment.get("launches", []) if isinstance(environment, dict) else None
    if not isinstance(launches, list):
        raise RunError(f"{path / 'environment.json'}: holds no launches as avbench writes them; the file is damaged")


def _read_run_list(path: Path) -> dict[str, dict[str, Any]]:
    file = path / RUNS_FILE
    if not file.exists():
        return {}  # trained before there was one
    try:
        runs = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise RunError(f"{file}: cannot be read ({error})") from None
    if not isinstance(runs, dict) or not all(map(_is_run, runs.values())):
        raise RunError(f"{file}: holds no list of runs; it was not written by this version of avbench")
    return runs


def _is_run(said: object) -> bool:
    """Whether this is what runs.json says of a run, as far as numbers hang on it."""
    return (
        isinstance(said, dict)
        and said.get("confidence_of") in (None, *MODALITIES)
        and said.get("modalities", ["audio"]) in (["audio"], ["visual"], ["audio", "visual"], ["visual", "audio"])
        and isinstance(said.get("options", {}), dict)
    )


def _read_told(path: Path) -> list[dict[str, Any]]:
    metrics = path / METRICS_FILE
    return read_metrics(metrics, kinds=("event", "performance")) if metrics.exists() else []


def _read_diagnostics(path: Path) -> dict[tuple[str, int], Diagnostics]:
    """What methods logged under "group/name" at each logging interval; a value that is not finite is left out."""
    if not (path / METRICS_FILE).exists():
        return {}
    records = read_metrics(path / METRICS_FILE, kinds=("step",))
    # Every epoch's last batch is logged, so the largest number is how many batches an epoch has.
    batches = max((record["batch"] for record in records), default=1)
    points: dict[tuple[str, int], dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for record in records:
        epoch = record["epoch"] + record["batch"] / batches
        for place, value in record.items():
            group, slash, name = _RENAMED.get((str(record.get("method")), place), place).partition("/")
            if slash and isinstance(value, int | float):  # "nan" and "inf" are written as strings
                groups = points.setdefault((record["run"], record["seed"]), {})
                groups.setdefault(group, {}).setdefault(name, []).append((epoch, float(value)))
    return {
        key: {
            group: {name: (curve[:, 0], curve[:, 1]) for name, line in names.items() for curve in [np.array(line)]}
            for group, names in groups.items()
        }
        for key, groups in points.items()
    }


# Confidences


def _read_confidences(folder: Path, split: str) -> _Confidences:
    path = folder / "confidence.parquet"
    table = read_table(path, _CONFIDENCES, columns=_CONFIDENCES.names, filters=[("split", "==", split)])
    if table.num_rows == 0:
        raise RunError(f"{path}: holds no clip of the {split} split; choose another with --split")
    integers_of(table, "clip_id", path)
    integers_of(table, "seed", path)
    table = in_order(table.drop_columns(["split"]), "seed", "clip_id")
    seeds = integers_of(table, "seed", path)
    means: dict[tuple[str, int], Floats] = {}
    parts = {
        int(seed): table.slice(int(np.argmax(seeds == seed)), int((seeds == seed).sum())) for seed in np.unique(seeds)
    }
    first = next(iter(parts.values()))
    clip_ids = integers_of(first, "clip_id", path)
    for seed, part in parts.items():
        part_ids = integers_of(part, "clip_id", path)
        check_ids_once(part_ids, path)
        if not np.array_equal(part_ids, clip_ids):
            raise RunError(f"{path}: seed {seed} lists other clips than seed {min(parts)}; the file is damaged")
        for modality in MODALITIES:
            if part.column(f"{modality}_mean").null_count < part.num_rows:
                means[modality, seed] = _checked_mean(part, modality, path)
    return _Confidences(
        folder=folder,
        clip_ids=clip_ids,
        keys=first.column("key").combine_chunks(),
        labels=integers_of(first, "label", path),
        planted={modality: floats_of(first, f"planted_{modality}") for modality in MODALITIES},
        means=means,
    )


def _checked_mean(part: pa.Table, modality: str, path: Path) -> Floats:
    """Mean confidences, NaN for null only: a NaN that was written is damage, not a clip that nobody saw."""
    values = floats_of(part, f"{modality}_mean")
    recorded = ~part.column(f"{modality}_mean").is_null().to_numpy()
    _check_values(values, recorded, integers_of(part, "clip_id", path), f"{path}: the {modality} confidence")
    return values


def _check_values(values: Floats, recorded: NDArray[np.bool_], clip_ids: Ids, what: str) -> None:
    wrong = recorded & ~((values >= 0) & (values <= 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise RunError(
            f"{what} of clip {clip_ids[row]} is {values[row]}, not a probability ({int(wrong.sum())} such values); "
            f"that run diverged or the file is damaged: train it again"
        )


def _check_against_predictions(confidences: Sequence[_Confidences], predictions: Predictions, split: str) -> None:
    for table in confidences:
        path = table.folder / "confidence.parquet"
        recorded = np.zeros(len(table.clip_ids), bool)
        for values in table.means.values():
            recorded |= ~np.isnan(values)
        strangers = np.setdiff1d(predictions.clip_ids, table.clip_ids)
        unpredicted = np.setdiff1d(table.clip_ids[recorded], predictions.clip_ids)
        for odd, where, elsewhere in ((strangers, predictions.path, path), (unpredicted, path, predictions.path)):
            if len(odd):
                raise RunError(
                    f"{where} and {elsewhere} name different clips of the {split} split: {len(odd)} are in the former "
                    f"only, the first is clip {odd[0]}; both must come from one finished training"
                )
        rows = np.searchsorted(table.clip_ids, predictions.clip_ids)
        if not np.array_equal(table.labels[rows], predictions.labels):
            raise RunError(
                f"{path} and {predictions.path} give different labels to the same clips; train the run again"
            )
    _check_same_list(confidences, split)


def _check_same_list(confidences: Sequence[_Confidences], split: str) -> None:
    for table in confidences:
        if not np.array_equal(table.clip_ids, confidences[0].clip_ids):
            raise RunError(
                f"{confidences[0].folder} and {table.folder} list different clips of the {split} split; "
                f"evaluate them apart"
            )


def _seeds(
    confidences: Sequence[_Confidences], predictions: Sequence[Predictions], epochs: Epochs, split: str
) -> dict[str, dict[int, Floats]]:
    """Per modality and seed, the mean confidence over the chosen epochs."""
    found: dict[str, dict[int, Floats]] = {modality: {} for modality in MODALITIES}
    owners: dict[tuple[str, int], Path] = {}
    for table in confidences:
        for (modality, seed), mean in table.means.items():
            owner = owners.setdefault((modality, seed), table.folder)
            if owner is not table.folder:
                raise RunError(
                    f"{owner} and {table.folder} both recorded the {modality} confidence with seed {seed}; "
                    f"leave one out (a network that is only to stand beside is of a class with confidence_of = None)"
                )
            if epochs == "all":
                found[modality][seed] = mean
                continue
            first, last = _best_epoch(predictions, table.folder, modality, seed) if epochs == "best" else epochs
            found[modality][seed] = _average_of_history(
                table.folder / "confidence" / "history", modality, seed, (first, last), table.clip_ids
            )
    for modality, by_seed in found.items():
        if not any((~np.isnan(values)).any() for values in by_seed.values()):
            where = ", ".join(str(table.folder / "confidence.parquet") for table in confidences)
            raise RunError(
                f"{where}: no {modality} confidence of the {split} split was recorded; train the {modality} network "
                f"(--methods {modality}) or choose another --split"
            )
    return found


def _best_epoch(predictions: Sequence[Predictions], folder: Path, modality: str, seed: int) -> tuple[int, int]:
    """The epoch that the unimodal network's predictions come from, chosen by validation accuracy, as a range."""
    candidates = [
        table
        for table in predictions
        if (table.confidence_of, table.seed) == (modality, seed) and table.path.is_relative_to(folder)
    ]
    if len(candidates) != 1:
        raise RunError(
            f"{folder}: has {len(candidates)} {modality} networks with seed {seed}, so `--confidence-epochs best` "
            f"names no epoch; give FIRST:LAST"
        )
    return candidates[0].epoch, candidates[0].epoch


def _average_of_history(folder: Path, modality: str, seed: int, epochs: tuple[int, int], clip_ids: Ids) -> Floats:
    """Mean over an inclusive range of recorded epochs, for these clips."""
    parts: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        match = _HISTORY_PART.fullmatch(path.name)
        if match and match["modality"] == modality and int(match["seed"]) == seed:
            parts.setdefault(int(match["epoch"]), []).append(path)
    if not parts:
        raise RunError(f"{folder}: holds no history of {modality}, seed {seed}; use `--confidence-epochs all`")
    missing = [epoch for epoch in range(epochs[0], min(epochs[1], max(parts) + 1) + 1) if epoch not in parts]
    if missing or epochs[0] > max(parts):
        raise UsageError(
            f"--confidence-epochs {epochs[0]}:{epochs[1]}: {modality}, seed {seed} has no epoch "
            f"{(missing or epochs)[0]}; {folder} holds epochs {min(parts)} to {max(parts)}"
        )
    return average_over_epochs(_epochs_of(parts, epochs, clip_ids))


def _epochs_of(parts: Mapping[int, Sequence[Path]], epochs: tuple[int, int], clip_ids: Ids) -> Iterator[Floats]:
    for epoch in range(epochs[0], epochs[1] + 1):
        values = np.full(len(clip_ids), np.nan)
        for path in parts[epoch]:
            table = read_table(path, HISTORY_SCHEMA)
            part_ids, confidence = integers_of(table, "clip_id", path), floats_of(table, "confidence")
            _check_values(confidence, np.ones(len(part_ids), bool), part_ids, f"{path}: the confidence")
            ours = np.isin(part_ids, clip_ids)
            rows = np.searchsorted(clip_ids, part_ids[ours])
            if len(np.unique(rows)) < len(rows) or not np.isnan(values[rows]).all():
                raise RunError(
                    f"{path}: epoch {epoch} holds some clips twice; the history is damaged, train the run again"
                )
            values[rows] = confidence[ours]
        yield values


# The evaluated clips


def _check_kept(listed: _Confidences, kept: NDArray[np.bool_], split: str, paths: Sequence[Path]) -> None:
    where = ", ".join(map(str, paths))
    if not kept.any():
        raise RunError(
            f"{where}: no clip of the {split} split has an audio and a visual confidence; nothing to evaluate"
        )
    labels = np.unique(listed.labels[kept])
    if len(labels) < 2:
        raise RunError(
            f"{where}: every evaluated clip of the {split} split has the same class (number {labels[0]}); accuracies "
            f"mean nothing there: pack a {split} split with two classes or more"
        )


def _planted_discrepancy(listed: _Confidences, kept: NDArray[np.bool_]) -> Floats | None:
    values = difference(listed.planted["audio"], listed.planted["visual"])[kept]
    return None if np.isnan(values).all() else values
