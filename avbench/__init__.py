"""avbench: audiovisual modality imbalance, measured."""

from importlib import import_module
from pathlib import Path
from typing import Any


def shipped(folder: str) -> Path:
    """Where a folder that is shipped with the code lies (shards, launch, benchmarks): in a checkout or in a wheel."""
    package = Path(__file__).parent
    inside = package / "shipped" / folder
    return inside if inside.is_dir() else package.parent / folder


def installed_version() -> str | None:
    """The version of the installed package; None where it is not installed (run from a checkout, say)."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("avbench")
    except PackageNotFoundError:
        return None


def __getattr__(name: str) -> Any:
    """`avbench.start(config)` without another import, and without waiting for torch where nothing is trained."""
    if name == "start":
        return import_module("avbench.start")
    raise AttributeError(f"module 'avbench' has no attribute {name!r}")
