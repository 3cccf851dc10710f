"""Recipes: how a folder of videos and its labels become clips, in which splits.

A recipe is a TOML file of plain numbers and names under shards/; `Recipe` documents each. Everything here is about
names and lists: no video is decoded, only headers are read where videos are cut into windows.
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unicodedata import normalize

from avbench import shipped
from avbench.class_names import in_order
from avbench.errors import RecipeError, UsageError, unknown
from avbench.packing.clips import Clip, encoded_key
from avbench.packing.media import AUDIO_SUFFIXES, Reject, seconds_of
from avbench.packing.recipes.files import NO_VIDEO_SUFFIXES, LeftOut, class_folders, suffix_of
from avbench.packing.recipes.labels import listed
from avbench.packing.recipes.planted import PlantedConfig, plan, render
from avbench.packing.splits import check_splits, cut_parts, per_class

KINDS = ("folder", "planted")
STFT_SUFFIX = "stft"  # of sound that is kept as a preset's spectrogram, see loading/stored_spectrogram.py
# The last window of a video may lack this share of its seconds: 9.98 s still make five windows of 2 s.
_WINDOW_TOLERANCE = 0.05


@dataclass(frozen=True)
class Recipe:
    """The numbers and names that turn a media folder into a dataset."""

    kind: str = "folder"
    """folder: videos and their labels, as they are found; planted: videos that are rendered first."""
    name: str = "folder"
    """The dataset's name."""
    labels: str = "labels.csv"
    """The list of videos, relative to the media folder; where there is none, each folder is a class."""
    classes: tuple[str, ...] = ()
    """Class names in order; empty: the labels that are found, sorted, whole numbers by their value."""
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
    planted: PlantedConfig | None = None
    """The numbers of a planted recipe, its table [planted]."""


@dataclass(frozen=True)
class Videos:
    """The videos of a recipe, each a clip that is not yet cut into windows, and what else lies in the media folder.

    classes: the dataset's class names in order.
    """

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    def clips_per_class(self) -> dict[str, list[int]]:
        """How many videos are planned for each split and class, as in dataset.json."""
        counts = Counter((clip.split or "train", clip.label) for clip in self.clips)
        return per_class(counts, self.classes)


def load_recipe(name_or_path: str, overrides: Mapping[str, object] | None = None) -> Recipe:
    """A shipped recipe by name, or any TOML file by path, with some fields overridden.

    Fields of the table [planted] are overridden as "planted.NAME". Raises RecipeError on an unknown recipe or field
    and on a value that makes no sense.
    """
    path = _recipe_file(name_or_path)
    values = _read_toml(path)
    for name, value in (overrides or {}).items():
        table, _, inner = name.partition(".")
        if inner:
            values[table] = {**_table(values.get(table, {}), table, path), inner: value}
        else:
            values[name] = value
    known = [one.name for one in fields(Recipe)]
    for name in values:
        if name not in known:
            text = _planted_field(name, values)
            raise RecipeError(f"{path.name}: {f'no field {name!r}{text}' if text else unknown('field', name, known)}")
    planted = _planted(values, path)
    classes = _class_names(values.get("classes", ()), path, hint=_planted_field("classes", values))
    defaults = asdict(Recipe())
    plain = {
        name: _as(type(defaults[name]), name, value, path)
        for name, value in values.items()
        if name not in ("classes", "planted")
    }
    if planted is not None and not classes:
        classes = planted.class_names
    recipe = Recipe(**plain, classes=classes, planted=planted)
    _check(recipe, path)
    return recipe


def clips_of(recipe: Recipe, media: Path, *, workers: int = 1) -> list[Clip]:
    """Every clip of the recipe, sorted by key, each with its split; those that cannot be decoded are still among them.

    Raises RecipeError where the media folder or its list cannot become clips.
    """
    return cut_clips(videos_of(recipe, media, workers=workers), recipe, media)


def videos_of(recipe: Recipe, media: Path, *, workers: int = 1) -> Videos:
    """Every video of the recipe with its split; none is opened but to tell which of two files of one name is meant.

    A planted recipe renders its videos into `media` first, where they are not there yet and its splits make sense.
    Raises RecipeError where the media folder or its list cannot become clips.
    """
    if recipe.planted is not None:
        counts = Counter((clip.split, recipe.planted.class_names[clip.label]) for clip in plan(recipe.planted))
        check_splits(per_class(counts, recipe.planted.class_names), recipe.planted.class_names, where=str(media))
        render(recipe.planted, media, workers=workers)
    if not media.is_dir():
        raise RecipeError(f"{media}: no such media folder; --media names the folder that holds the videos")
    find = listed if (media / recipe.labels).is_file() else class_folders
    found, left_out = find(media, recipe.labels)
    found = _with_labels_of_one_form(found, recipe.classes)
    return Videos(tuple(_with_splits(found, recipe)), classes_of(recipe, found), left_out)


def cut_clips(videos: Videos, recipe: Recipe, media: Path) -> list[Clip]:
    """The videos, cut into windows where the recipe says so, sorted by key. Raises RecipeError where two keys are one.

    media: the folder, for the message.
    """
    clips = list(_windows(videos.clips, recipe.window_seconds)) if recipe.window_seconds else list(videos.clips)
    clips.sort(key=lambda clip: clip.key)
    for one, other in pairwise(clips):
        if one.key == other.key:
            raise RecipeError(
                f"{media}: {one.source!r} and {other.source!r} both become the key {one.key!r}; rename one"
            )
    return clips


def classes_of(recipe: Recipe, clips: Sequence[Clip]) -> tuple[str, ...]:
    """The dataset's class names in order: the recipe's, or the labels found, sorted; whole numbers by their value."""
    return recipe.classes or in_order(clip.label for clip in clips)


def _with_labels_of_one_form(videos: Sequence[Clip], classes: Sequence[str]) -> list[Clip]:
    """The videos, labels that look the same (é as one character or as two) made one: the class, or the shorter form."""
    forms: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        forms[normalize("NFC", video.label)].add(video.label)
    meant = {normalize("NFC", name): name for name in reversed(classes)}
    one_form = {
        label: meant.get(form, form)
        for form, labels in forms.items()
        if len(labels) > 1 or form in meant
        for label in labels
        if label not in classes
    }
    return [replace(video, label=one_form.get(video.label, video.label)) for video in videos]


# Splits and windows.


def _with_splits(videos: Sequence[Clip], recipe: Recipe) -> list[Clip]:
    """The videos with a split each: those of the list, and what it lacks of val and test cut from train.

    Videos of a label that is no class are rejected later and take no part in the cut.
    """
    given = {video.split for video in videos}
    fractions = {
        split: fraction
        for split, fraction in (("test", recipe.test_fraction), ("val", recipe.val_fraction))
        if split not in given
    }
    classes = set(classes_of(recipe, videos))
    train = {video.source: video.label for video in videos if video.split in (None, "train") and video.label in classes}
    parts = cut_parts(train, fractions)
    return [replace(video, split=parts.get(video.source, video.split or "train")) for video in videos]


def _windows(videos: Sequence[Clip], seconds: float) -> Iterator[Clip]:
    """Each video cut into windows; one that cannot be read stays as one clip, to be rejected with its reason."""
    # Threads: reading headers waits for the disk.
    with ThreadPoolExecutor(max_workers=8) as executor:
        lengths = executor.map(lambda video: _length(video.path), videos)
        for video, length in zip(videos, lengths, strict=True):
            count = max(1, math.floor(length / seconds + _WINDOW_TOLERANCE))
            for number in range(count):
                yield replace(
                    video,
                    key=encoded_key(f"{video.source}-{number:03d}"),
                    start_seconds=number * seconds,
                    seconds=seconds,
                )


def _length(path: Path) -> float:
    """In seconds; 0 where it cannot be told."""
    if suffix_of(path.name) in NO_VIDEO_SUFFIXES:
        return 0.0
    try:
        return seconds_of(path)
    except Reject:
        return 0.0


# Recipe files.


def _recipe_file(name_or_path: str) -> Path:
    """The file of a shipped recipe (in a checkout or inside the installed package), or the path as given."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise RecipeError(f"{path}: no such recipe file")
        return path
    recipes = {file.stem: file for file in sorted(shipped("shards").glob("*.toml"))}
    if name_or_path not in recipes:
        raise RecipeError(f"{unknown('recipe', name_or_path, recipes)}; or give the path of a .toml file")
    return recipes[name_or_path]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: no TOML file: {error}") from None


def _table(value: object, name: str, path: Path) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{path.name}: {name} is {value!r}; expected a table [{name}]")
    return dict(value)


def _planted(values: Mapping[str, object], path: Path) -> PlantedConfig | None:
    if values.get("kind") != "planted":
        if "planted" in values:
            raise RecipeError(
                f"{path.name}: [planted] is for recipes of kind 'planted', this one is {values.get('kind')!r}"
            )
        return None
    table = _table(values.get("planted", {}), "planted", path)
    known = [one.name for one in fields(PlantedConfig)]
    for name in table:
        if name not in known:
            raise RecipeError(f"{path.name}: {unknown('field of [planted]', name, known)}")
    defaults = asdict(PlantedConfig())
    return PlantedConfig(
        **{name: _as(type(defaults[name]), f"planted.{name}", value, path) for name, value in table.items()}
    )


def _planted_field(name: str, values: Mapping[str, object]) -> str:
    """A hint at the field of [planted] that has the name of one of the recipe's, where that may have been meant."""
    is_one = values.get("kind") == "planted" and name in [one.name for one in fields(PlantedConfig)]
    return f"; that of the planted clips is --planted.{name.replace('_', '-')}" if is_one else ""


def _class_names(value: object, path: Path, *, hint: str) -> tuple[str, ...]:
    """Class names from a list, or from a file with one a line. hint: the end of what is said of another value."""
    if isinstance(value, str):
        file = Path(value)
        try:
            value = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"{path.name}: classes names the file {file}, which cannot be read: {error}; a list is written "
                f'["dog", "cat"]'
            ) from None
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise RecipeError(
            f"{path.name}: classes is {value!r}; expected a list of names in quotes, or a file with one a line{hint}"
        )
    for name, count in Counter(value).items():
        if count > 1:
            raise RecipeError(f"{path.name}: classes has {name!r} {count} times; keep one")
    return tuple(value)


def _as(kind: type, name: str, value: object, path: Path) -> Any:
    """The value as `kind`; whole numbers pass for floats, and nothing else for anything else."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise RecipeError(f"{path.name}: {name} is {value!r}; expected {_KIND_NAMES[kind]}")
    return value


_KIND_NAMES = {int: "a whole number", float: "a number", str: "a text"}


def _check(recipe: Recipe, path: Path) -> None:
    if recipe.kind not in KINDS:
        raise RecipeError(f"{path.name}: {unknown('kind', recipe.kind, KINDS)}")
    if recipe.audio_suffix not in (suffixes := (*AUDIO_SUFFIXES, STFT_SUFFIX)):
        raise RecipeError(f"{path.name}: {unknown('audio_suffix', recipe.audio_suffix, suffixes)}")
    expectations = {
        "name": (bool(recipe.name.strip()), "a name"),
        "labels": (bool(recipe.labels), "a file name"),
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
            raise RecipeError(f"{path.name}: {name} is {getattr(recipe, name)!r}; expected {expected}")
    if recipe.val_fraction + recipe.test_fraction >= 1:
        raise RecipeError(f"{path.name}: val_fraction and test_fraction leave nothing for train; lower them")
    _check_stft(recipe, path)


def _check_stft(recipe: Recipe, path: Path) -> None:
    """Whether audio_suffix, stft_preset and sample_rate_hz fit each other."""
    if recipe.audio_suffix != STFT_SUFFIX:
        if recipe.stft_preset:
            raise RecipeError(
                f"{path.name}: stft_preset is {recipe.stft_preset!r}, but audio_suffix is {recipe.audio_suffix!r}; "
                f"it takes audio_suffix {STFT_SUFFIX!r}"
            )
        return
    from avbench.loading.presets import preset  # torch: a second, for this alone
    from avbench.loading.stored_spectrogram import stored_spectrogram

    try:
        wanted_hz = stored_spectrogram(preset(recipe.stft_preset)).sample_rate_hz
    except UsageError as error:
        raise RecipeError(f"{path.name}: stft_preset: {error}") from None
    if recipe.sample_rate_hz != wanted_hz:
        raise RecipeError(
            f"{path.name}: sample_rate_hz is {recipe.sample_rate_hz}; preset {recipe.stft_preset} is of {wanted_hz} Hz"
        )
