"""What run folders say of themselves: dataset.json, config.toml, environment.json, runs.json and metrics.jsonl."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from avbench.analysis.reading.checks import check_split
from avbench.analysis.reading.configuration import check_alike, read_settings
from avbench.analysis.reading.origin import check_same_data, check_same_view
from avbench.analysis.reading.results import ReadFolder
from avbench.errors import RunError, UsageError
from avbench.records import read_metrics
from avbench.run_folder import RunFolder
from avbench.vocabulary import MODALITIES

# What a run may read: one modality, or both in either order.
_READS = [[*some] for count in (1, 2) for some in permutations(MODALITIES, count)]
_KINDS = {"name": str, "classes": list, "index_sha256": str, "clips_per_class": dict, "recipe": dict, "rejects": dict}


def read_folders(paths: Sequence[Path], split: str) -> tuple[ReadFolder, ...]:
    """What each folder says of itself, once they are found to be of one dataset and configuration."""
    check_split(split)
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


def _read_folder(path: Path) -> ReadFolder:
    if path.is_file():
        raise RunError(f"{path}: is a file, not a run folder; give a folder that `avbench train` wrote")
    if not path.is_dir():
        raise RunError(f"{path}: no such run folder; make one with `avbench train ... --out {path}`")
    files = RunFolder(path)
    try:
        config = files.config.read_text(encoding="utf-8")
        settings = read_settings(path, config)
        dataset, environment = (
            json.loads(file.read_text(encoding="utf-8")) for file in (files.dataset, files.environment)
        )
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise RunError(
            f"{path}: not a run folder, it has no {missing}; give a folder that `avbench train` wrote"
        ) from None
    except (ValueError, OSError) as error:
        *names, last = (file.name for file in (files.config, files.settings, files.dataset, files.environment))
        raise RunError(f"{path}: {', '.join(names)} or {last} cannot be read ({error})") from None
    for name in ("name", "classes", "index_sha256"):
        if not isinstance(dataset, dict) or name not in dataset:
            raise RunError(f"{RunFolder(path).dataset}: has no {name!r}; it was not written by this version of avbench")
    _check_kinds(path, dataset, environment)
    told = _read_told(path)
    return ReadFolder(
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
            f"{RunFolder(path).dataset}: {wrong[0]!r} is {str(dataset[wrong[0]])[:40]!r}, which training never writes; "
            "the file is damaged"
        )
    launches = environment.get("launches", []) if isinstance(environment, dict) else None
    if not isinstance(launches, list):
        raise RunError(f"{RunFolder(path).environment}: holds no launches as avbench writes them; the file is damaged")


def _read_run_list(path: Path) -> dict[str, dict[str, Any]]:
    file = RunFolder(path).runs
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
        and said.get("modalities", ["audio"]) in _READS
        and isinstance(said.get("options", {}), dict)
    )


def _read_told(path: Path) -> list[dict[str, Any]]:
    metrics = RunFolder(path).metrics
    return read_metrics(metrics, kinds=("event", "performance")) if metrics.exists() else []
