"""How runs were configured: what may not differ where seeds are averaged, and what a reader is told where it does."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avbench.analysis.reading.results import ReadFolder
from avbench.errors import RunError
from avbench.run_folder import RunFolder
from avbench.settings import moved

# The settings' own classes say which of them move numbers, and settings.json of a run folder holds those. These
# moved none when run folders had no such file: where things lie, what is kept how often, and who waits how long. Which
# runs and seeds there are is said beside their numbers; the order's seed is a seed as well; threads and engines move a
# last bit.
_MOVED_NO_NUMBER = frozenset(
    {
        "dataset",
        "out",
        "methods",
        "seeds",
        "training.order_seed",
        "training.checkpoint_steps",
        "training.keep_checkpoints",
        "training.log_steps",
        "training.loader_threads",
        "training.hang_seconds",
        "training.exchange_megabytes",
        "training.profile",
        "training.compute_threads",
        "training.prefetch",
        "training.loader_precision",
        "training.streams",
        "engine.engine",
        "engine.deepspeed_config",
    }
)


def read_settings(folder: Path, config: str) -> dict[str, Any]:
    """The settings of a run folder that move numbers, for all its runs: by name, such as "optimizer.momentum".

    config: the text of its config.toml. Raises OSError, or ValueError for a file that is not what it should be.
    """
    try:
        settings = json.loads(RunFolder(folder).settings.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _settings_of(moved(tomllib.loads(config)))
    if not isinstance(settings, dict):
        raise ValueError(f"{RunFolder(folder).settings.name} holds no settings")
    return settings


def _settings_of(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _settings_of(value, f"{prefix}{name}.")
        elif f"{prefix}{name}" not in _MOVED_NO_NUMBER:
            found[f"{prefix}{name}"] = value
    return found


def check_alike(folders: Sequence[ReadFolder]) -> None:
    """Seeds of one run are averaged, and those of one modality's confidence: each must be of one configuration.

    A setting that one of two folders does not say is not compared: it was written by another version. Raises RunError.
    """
    first: dict[str, tuple[ReadFolder, Mapping[str, Any]]] = {}
    for folder in folders:
        for name, run in folder.runs.items():
            for what, way_out in _averaged(name, run):
                before, other = first.setdefault(what, (folder, run))
                differ = [] if before is folder else [*_unlike_runs(other, run), *_unlike_folders(before, folder)]
                if differ:
                    raise RunError(
                        f"{before.path} and {folder.path} trained the {what}, whose seeds would be averaged, with "
                        f"different {', '.join(differ)}; evaluate them apart, or {way_out}"
                    )


def unlike_settings(folders: Sequence[ReadFolder]) -> tuple[str, ...]:
    """Each setting in which folders differ, with who has which value, in words."""
    found = []
    for name in dict.fromkeys(name for folder in folders for name in folder.settings):
        values: dict[str, list[str]] = {}
        for folder in folders:
            if name in folder.settings:
                values.setdefault(_shown(folder.settings[name]), []).append(str(folder.path))
        if len(values) > 1:
            each = ", ".join(f"{value} in {' and '.join(paths)}" for value, paths in values.items())
            found.append(f"{_as_option(name)} is {each}")
    return tuple(found)


def _averaged(name: str, run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the seeds of a run are averaged as, and what to do where they may not be."""
    yield f"run {name!r}", f"train one under another name (--methods NAME={run.get('method', name)})"
    if run.get("confidence_of"):
        yield f"{run['confidence_of']} network", "train one again as the other was"


def _unlike_runs(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What runs.json says differently of two runs; an option that only one of them has differs too."""
    names = [name for name in ("method", "network", "modalities") if name in one and name in other]
    # What it was trained on is said apart, and was all of train before there was a choice.
    options = [{**run.get("options", {}), "trains_on": run.get("trains_on", "train")} for run in (one, other)]
    return [
        *_unlike(names, one, other),
        *(f"option {text}" for text in _unlike(sorted({*options[0], *options[1]}), *options)),
    ]


def _unlike_folders(one: ReadFolder, other: ReadFolder) -> list[str]:
    """What config.toml says differently of the runs of two folders."""
    return _unlike(sorted(one.settings.keys() & other.settings.keys()), one.settings, other.settings)


def _unlike(names: Sequence[str], one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Those of these names under which two say different things, each with both values."""
    return [
        f"{_as_option(name)} ({_shown(one.get(name))} and {_shown(other.get(name))})"
        for name in names
        if one.get(name) != other.get(name)
    ]


def _as_option(name: str) -> str:
    """As the command line calls it."""
    return name.rpartition(".")[2].replace("_", "-")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "all"
    return "not said" if value is None else str(value)
