"""What the benchmarks measure on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avbench.machine import usable_cores


@dataclass(frozen=True)
class Data:
    """A packed dataset, and the videos that it was packed from; None where not at hand or not wanted."""

    dataset: Path | None
    media: Path | None


def made_up(folder: Path, *, quick: bool) -> Data:
    """Planted clips in VGG-Sound's format: ten seconds, 48 kHz, 256 px, packed into a folder (quick: two seconds)."""
    # PyAV and all, which scripts that are given a dataset need not wait for.
    from avbench.packing.pack import pack
    from avbench.packing.recipes.reading import load_recipe

    clips = {"train": 4, "val": 3, "test": 3} if quick else {"train": 24, "val": 3, "test": 3}
    planted = {**clips, "classes": 3, "seconds": 2.0 if quick else 10.0, "size": 256}
    overrides = {f"planted.{name}": value for name, value in planted.items()}
    recipe = load_recipe("planted", {**overrides, "sample_rate_hz": 48_000})
    media = folder / "videos"
    pack(recipe, media, out=folder / "dataset", workers=usable_cores(), overwrite=False)
    return Data(folder / "dataset", media)
