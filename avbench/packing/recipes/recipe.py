"""A recipe: where a dataset's clips come from, and what is kept of each."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from typing import Any

from avbench.errors import RecipeError, UsageError, unknown
from avbench.packing.recipes.base import Source
from avbench.packing.recipes.folder import FolderConfig
from avbench.packing.recipes.sources import source_class

AUDIO_SUFFIXES = ("flac", "wav", "ogg")
STFT_SUFFIX = "stft"  # of sound that is kept as a preset's spectrogram, see loading/stored_spectrogram.py


@dataclass(frozen=True)
class Recipe:
    """Where a dataset's clips come from, and what is kept of each: the numbers and names of a recipe file."""

    kind: str = "folder"
    """The source of the clips: a name of SOURCES, or of another package's source."""
    name: str = "folder"
    """The dataset's name."""
    classes: tuple[str, ...] = ()
    """Class names in order, such as '["dog", "cat"]', or a file with one a line; empty: the labels that are found,
    sorted, whole numbers by their value."""
    window_seconds: float = 0.0
    """Cut each video into windows of so many seconds; 0 keeps it whole."""
    val_fraction: float = 0.1
    """The share of videos for validation, where the list has no val split."""
    test_fraction: float = 0.1
    """The share of videos for testing, where the list has no test split."""
    audio_suffix: str = "flac"
    """How sound is kept: flac or wav (exact), ogg (smaller), stft (a preset's spectrogram in its place)."""
    stft_preset: str = ""
    """The preset whose spectrogram is kept where audio_suffix is stft, e.g. paper; else empty."""
    sample_rate_hz: int = 48000
    """Sound is kept at this rate, mono."""
    short_side: int = 256
    """Pictures are scaled down to so many pixels on their shorter side; never enlarged."""
    jpeg_quality: int = 90
    """Of the pictures, 1 to 100."""
    frame_phase_seconds: float = 0.0
    """When in each second its picture is taken, 0 to below 1."""
    clips_per_shard: int = 64
    """Clips in one tar file."""
    seed: int = 0
    """Decides the random order of the clips in the shards."""
    source: Any = field(default_factory=FolderConfig)
    """The source's own options, of its Config: in a recipe file a table that has the name of the kind."""


def source_of(recipe: Recipe) -> Source:
    """The source of the recipe's clips, with its options."""
    return source_class(recipe.kind)(recipe.source)


def stored(recipe: Recipe) -> dict[str, Any]:
    """The recipe as dataset.json and a half-packed folder have it, as JSON would read it back.

    The order is that of every version, so that what one of them packs has the bytes of another's.
    """
    kept = {one.name: getattr(recipe, one.name) for one in fields(Recipe) if one.name != "source"}
    options = source_of(recipe).stored()
    first = {name: kept.pop(name) for name in ("kind", "name")}
    if "labels" in options:
        first["labels"] = options.pop("labels")
    return json.loads(json.dumps({**first, **kept, **options}))


def check(recipe: Recipe, where: str) -> None:
    """Raise RecipeError where what is to be kept of a clip makes no sense. where: the recipe is from."""
    if recipe.audio_suffix not in (suffixes := (*AUDIO_SUFFIXES, STFT_SUFFIX)):
        raise RecipeError(f"{where}: {unknown('audio_suffix', recipe.audio_suffix, suffixes)}")
    expectations = {
        "name": (bool(recipe.name.strip()), "a name"),
        "window_seconds": (recipe.window_seconds == 0 or 1 <= recipe.window_seconds < math.inf, "0, or 1 or more"),
        "val_fraction": (0 <= recipe.val_fraction < 1, "a share from 0 to below 1"),
        "test_fraction": (0 <= recipe.test_fraction < 1, "a share from 0 to below 1"),
        "sample_rate_hz": (8000 <= recipe.sample_rate_hz <= 192000, "8000 to 192000"),
        "short_side": (16 <= recipe.short_side <= 4096, "16 to 4096 pixels"),
        "jpeg_quality": (1 <= recipe.jpeg_quality <= 100, "1 to 100"),
        "frame_phase_seconds": (0 <= recipe.frame_phase_seconds < 1, "a part of a second, 0 to below 1"),
        "clips_per_shard": (recipe.clips_per_shard >= 1, "1 or more"),
        "seed": (recipe.seed >= 0, "0 or more"),
    }
    for name, (holds, expected) in expectations.items():
        if not holds:
            raise RecipeError(f"{where}: {name} is {getattr(recipe, name)!r}; expected {expected}")
    if recipe.val_fraction + recipe.test_fraction >= 1:
        raise RecipeError(f"{where}: val_fraction and test_fraction leave nothing for train; lower them")
    _check_stft(recipe, where)


def _check_stft(recipe: Recipe, where: str) -> None:
    """Whether audio_suffix, stft_preset and sample_rate_hz fit each other."""
    if recipe.audio_suffix != STFT_SUFFIX:
        if recipe.stft_preset:
            raise RecipeError(
                f"{where}: stft_preset is {recipe.stft_preset!r}, but audio_suffix is {recipe.audio_suffix!r}; "
                f"it takes audio_suffix {STFT_SUFFIX!r}"
            )
        return
    from avbench.loading.presets import preset  # torch: a second, for this alone
    from avbench.loading.stored_spectrogram import stored_spectrogram

    try:
        wanted_hz = stored_spectrogram(preset(recipe.stft_preset)).sample_rate_hz
    except UsageError as error:
        raise RecipeError(f"{where}: stft_preset: {error}") from None
    if recipe.sample_rate_hz != wanted_hz:
        raise RecipeError(
            f"{where}: sample_rate_hz is {recipe.sample_rate_hz}; preset {recipe.stft_preset} is of {wanted_hz} Hz"
        )
