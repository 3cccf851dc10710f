"""Recipes: how a folder of videos and its labels become clips, in which splits.

A recipe is a TOML file of plain numbers and names under shards/; `Recipe` documents each. Everything here is about
names and lists: no video is decoded, only headers are read where videos are cut into windows.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from avbench import shipped
from avbench.errors import RecipeError, UsageError, unknown
from avbench.packing.media import AUDIO_SUFFIXES, Reject, seconds_of
from avbench.packing.planted import PlantedConfig, render
from avbench.records import SPLITS

KINDS = ("folder", "planted")
STFT_SUFFIX = "stft"  # of sound that is kept as a preset's spectrogram, see loading/stored_spectrogram.py
VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in ("3gp", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "ts", "webm")
)
# A tar header has room for 100 bytes of name; a frame's suffix takes 8.
LONGEST_KEY = 90
# The last window of a video may lack this share of its seconds: 9.98 s still make five windows of 2 s.
_WINDOW_TOLERANCE = 0.05


@dataclass(frozen=True)
class Recipe:
    """The numbers and names that turn a media folder into a dataset.

    kind: "folder" or "planted". name: the dataset's. labels: the list, relative to the media folder.
    classes: names in order; empty: the labels found, sorted. window_seconds: 0 keeps videos whole.
    stft_preset: whose spectrogram is kept in the place of sound, where audio_suffix is "stft"; else empty.
    val_fraction, test_fraction: share of the videos for a split that the list does not have.
    planted: the numbers of a planted recipe, its table [planted].
    """

    kind: str = "folder"
    name: str = "folder"
    labels: str = "labels.csv"
    classes: tuple[str, ...] = ()
    window_seconds: float = 0.0
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    audio_suffix: str = "flac"
    stft_preset: str = ""
    sample_rate_hz: int = 48000
    short_side: int = 256
    jpeg_quality: int = 90
    frame_phase_seconds: float = 0.0
    clips_per_shard: int = 64
    seed: int = 0
    planted: PlantedConfig | None = None


@dataclass(frozen=True)
class Clip:
    """One clip to be packed: `seconds` of the video at `path` from `start_seconds` on (all the rest where None).

    key: unique in the dataset, fit for a tar member. source: the video's name; windows of one video share it.
    split: None until the splits are cut. planted_audio, planted_visual: true qualities in [0, 1] of a planted clip.
    """

    key: str
    label: str
    split: str | None
    path: Path
    source: str
    start_seconds: float = 0.0
    seconds: float | None = None
    planted_audio: float | None = None
    planted_visual: float | None = None


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
            raise RecipeError(f"{path.name}: {unknown('field', name, known)}")
    planted = _planted(values, path)
    classes = _class_names(values.get("classes", ()), path)
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

    A planted recipe renders its videos into `media` first, where they are not there yet. Raises RecipeError where the
    media folder or its list cannot become clips.
    """
    if recipe.planted is not None:
        render(recipe.planted, media, workers=workers)
    if not media.is_dir():
        raise RecipeError(f"{media}: no such media folder; --media names the folder that holds the videos")
    videos = (
        _listed(media, recipe.labels) if (media / recipe.labels).is_file() else _class_folders(media, recipe.labels)
    )
    videos = _with_splits(videos, recipe)
    clips = list(_windows(videos, recipe.window_seconds)) if recipe.window_seconds else videos
    clips.sort(key=lambda clip: clip.key)
    for one, other in pairwise(clips):
        if one.key == other.key:
            raise RecipeError(
                f"{media}: {one.source!r} and {other.source!r} both become the key {one.key!r}; rename one"
            )
    return clips


def classes_of(recipe: Recipe, clips: Sequence[Clip]) -> tuple[str, ...]:
    """The dataset's class names in order: the recipe's, or the labels found, sorted."""
    return recipe.classes or tuple(sorted({clip.label for clip in clips}))


def check_splits(clips_per_class: Mapping[str, Sequence[int]], classes: Sequence[str], *, where: str) -> None:
    """Raise RecipeError where there are no clips at all, or the test split holds clips of one class only.

    clips_per_class: for each split the number of clips of each class, as in dataset.json. where: names the dataset.
    """
    if not sum(sum(counts) for counts in clips_per_class.values()):
        raise RecipeError(f"{where}: no clips are left; rejects.jsonl says why each was left out")
    present = [name for name, count in zip(classes, clips_per_class.get("test", ()), strict=False) if count]
    if len(present) == 1:
        raise RecipeError(
            f"{where}: the test split has clips of one class only, {present[0]!r}; accuracies need two or more: "
            f"give more videos, or a split column in the list, and pack with --overwrite"
        )


def encoded_key(name: str) -> str:
    """A name as a key: all but letters, digits, "-", "_" and "~" percent-encoded; a long one cut, with a hash."""
    key = quote(name, safe="").replace(".", "%2E")
    if len(key) <= LONGEST_KEY:
        return key
    return f"{key[: LONGEST_KEY - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def cut_parts(labels: Mapping[str, str], fractions: Mapping[str, float]) -> dict[str, str]:
    """Which videos go to which part, by a hash of their names: {name: part}; the rest is in no part.

    labels: the label of each video. fractions: the share of each part, e.g. {"test": 0.1, "val": 0.1}. A class with
    three videos or more gives each part its share, and at least one video; the videos of smaller classes are pooled and
    cut together. Whatever is cut, something is left. The order of `labels` does not matter.
    """
    by_class: dict[str | None, list[str]] = defaultdict(list)
    sizes: dict[str, int] = defaultdict(int)
    for label in labels.values():
        sizes[label] += 1
    for name, label in labels.items():
        by_class[label if sizes[label] >= _LEAST_OF_A_CLASS else None].append(name)
    parts: dict[str, str] = {}
    for names in by_class.values():
        ordered = iter(sorted(names, key=lambda name: (hashlib.sha256(name.encode()).digest(), name)))
        if len(names) <= len(fractions):
            continue
        for part, fraction in fractions.items():
            count = max(1, math.floor(len(names) * fraction + 0.5)) if fraction else 0
            parts.update((name, part) for name in islice(ordered, count))
    return parts


_LEAST_OF_A_CLASS = 3  # one video for each split


# The list, or folders that are classes.


def _listed(media: Path, labels: str) -> list[Clip]:
    """The videos of a list, in its order."""
    path = media / labels
    found = _videos(media)
    clips: list[Clip] = []
    line_of: dict[str, int] = {}
    for line, row in _rows(path):
        name = _without_suffix(row["key"])
        if name in line_of:
            raise RecipeError(
                f"{path}: line {line} has the key {row['key']!r} again, of line {line_of[name]}; keep one"
            )
        line_of[name] = line
        files = found.get(name, [media / name])
        if len(files) > 1:
            names = " and ".join(sorted(file.name for file in files))
            raise RecipeError(f"{path}: line {line}: {row['key']!r} could be {names}; remove or rename one")
        clips.append(
            Clip(
                key=encoded_key(name),
                label=row["label"],
                split=row["split"] or None,
                path=files[0],
                source=name,
                planted_audio=_quality(path, line, "planted_audio", row),
                planted_visual=_quality(path, line, "planted_visual", row),
            )
        )
    return clips


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a list; every row has key, label, split, planted_audio and planted_visual, stripped."""
    known = ("key", "label", "split", "planted_audio", "planted_visual")
    empty = True
    split_given = False
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets write a byte-order mark
            reader = csv.DictReader(file, restkey="", restval="", strict=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            for name in ("key", "label"):
                if name not in header:
                    columns = ", ".join(header) or "none"
                    raise RecipeError(
                        f"{path}: no column {name!r} (columns: {columns}); the first line must be key,label"
                    )
            reader.fieldnames = header
            for read in reader:
                line = reader.line_num
                if "" in read:
                    raise RecipeError(f"{path}: line {line} has more values than columns; quote what holds a comma")
                row = {name: (read.get(name) or "").strip() for name in known}
                for name in ("key", "label"):
                    if not row[name]:
                        raise RecipeError(f"{path}: line {line} has no {name}; give one or remove the line")
                if row["split"] and row["split"] not in SPLITS:
                    raise RecipeError(f"{path}: line {line}: {unknown('split', row['split'], SPLITS)}")
                if not empty and bool(row["split"]) != split_given:
                    raise RecipeError(f"{path}: line {line}: give every line a split, or none")
                empty, split_given = False, bool(row["split"])
                yield line, row
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise RecipeError(f"{path}: line {reader.line_num} is no CSV: {error}") from None
    if empty:
        raise RecipeError(f"{path}: lists no videos")


def _quality(path: Path, line: int, name: str, row: Mapping[str, str]) -> float | None:
    if not row[name]:
        return None
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise RecipeError(f"{path}: line {line}: {name} is {row[name]!r}; expected a number from 0 to 1")
    return value


def _class_folders(media: Path, labels: str) -> list[Clip]:
    """The videos in the folders of `media`: the folder's name is the label."""
    folders = [folder for folder in media.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    clips = []
    for folder in folders:
        for name, files in _videos(folder).items():
            if len(files) > 1:
                names = " and ".join(sorted(file.name for file in files))
                raise RecipeError(f"{folder}: {names} have the same name; remove or rename one")
            source = f"{folder.name}/{name}"
            clips.append(Clip(encoded_key(source), folder.name, None, files[0], source))
    if not clips:
        raise RecipeError(f"{media}: neither a list {labels} nor a folder of videos for each class")
    return clips


def _videos(folder: Path) -> dict[str, list[Path]]:
    """Every video below a folder by its name: the path from there on, without the suffix."""
    found: dict[str, list[Path]] = defaultdict(list)
    for directory, _, names in os.walk(folder):
        for name in names:
            path = Path(directory, name)
            if path.suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                found[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return found


def _without_suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in VIDEO_SUFFIXES else name


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
        for video, length in zip(videos, executor.map(lambda video: _length(video.path), videos), strict=True):
            count = max(1, math.floor(length / seconds + _WINDOW_TOLERANCE))
            for number in range(count):
                yield replace(
                    video,
                    key=encoded_key(f"{video.source}-{number:03d}"),
                    start_seconds=number * seconds,
                    seconds=seconds,
                )


def _length(path: Path) -> float:
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


def _class_names(value: object, path: Path) -> tuple[str, ...]:
    """Class names from a list, or from a file with one a line."""
    if isinstance(value, str):
        file = Path(value)
        try:
            value = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path.name}: classes names the file {file}, which cannot be read: {error}") from None
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise RecipeError(f"{path.name}: classes is {value!r}; expected a list of names, or a file with one a line")
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
    from avbench.loading.features import preset  # torch: a second, for this alone
    from avbench.loading.stored_spectrogram import stored_spectrogram

    try:
        wanted_hz = stored_spectrogram(preset(recipe.stft_preset)).sample_rate_hz
    except UsageError as error:
        raise RecipeError(f"{path.name}: stft_preset: {error}") from None
    if recipe.sample_rate_hz != wanted_hz:
        raise RecipeError(
            f"{path.name}: sample_rate_hz is {recipe.sample_rate_hz}; preset {recipe.stft_preset} is of {wanted_hz} Hz"
        )
