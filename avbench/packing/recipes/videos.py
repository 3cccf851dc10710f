"""The videos and clips of a recipe: found by its source, in splits, cut into windows.

Everything here is about names and lists: no video is decoded, only headers are read where videos are cut into windows.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from unicodedata import normalize

from avbench.class_names import in_order
from avbench.errors import RecipeError
from avbench.packing.clips import Clip, encoded_key
from avbench.packing.recipes.base import NotUsed
from avbench.packing.recipes.files import lengths_of
from avbench.packing.recipes.left_out import LeftOut
from avbench.packing.recipes.recipe import Recipe, source_of
from avbench.packing.splits import cut_parts, per_class
from avbench.vocabulary import SPLITS

# The last window of a video may lack this share of its seconds: 9.98 s still make five windows of 2 s.
_WINDOW_TOLERANCE = 0.05


@dataclass(frozen=True)
class Videos:
    """The videos of a recipe, each a clip that is not yet cut into windows, and what else lies in the media folder.

    classes: the dataset's class names in order. notes: what a user should hear before anything is decoded. not_used:
    rows of a list.
    """

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...] = ()
    not_used: tuple[NotUsed, ...] = ()

    def clips_per_class(self) -> dict[str, list[int]]:
        """How many videos are planned for each split and class, as in dataset.json."""
        counts = Counter((clip.split or "train", clip.label) for clip in self.clips)
        return per_class(counts, self.classes)


def clips_of(recipe: Recipe, media: Path, *, workers: int = 1) -> list[Clip]:
    """Every clip of the recipe, sorted by key, each with its split; those that cannot be decoded are still among them.

    Raises RecipeError where the media folder or its list cannot become clips.
    """
    return cut_clips(videos_of(recipe, media, workers=workers), recipe, media)


def videos_of(recipe: Recipe, media: Path, *, workers: int = 1) -> Videos:
    """Every video of the recipe with its split; none is opened but to tell which of two files of one name is meant.

    What the source must make first, such as planted clips, it makes in `media`. Raises RecipeError where the media
    folder or its list cannot become clips.
    """
    source = source_of(recipe)
    source.prepare(media, workers=workers)
    if not media.is_dir():
        raise RecipeError(f"{media}: no such media folder; --media names the folder that holds the videos")
    found = source.clips(media)
    clips = _with_labels_of_one_form(found.clips, recipe.classes)
    notes = (*found.notes, *_torn(clips))
    return Videos(tuple(_with_splits(clips, recipe)), classes_of(recipe, clips), found.left_out, notes, found.not_used)


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
    train = [video for video in videos if video.split in (None, "train") and video.label in classes]
    # A group, such as an actor, has clips of all classes, so groups cannot be cut by class.
    parts = cut_parts({video.group or video.source: "" if video.group else video.label for video in train}, fractions)
    # A clip keeps the split that its list gives it, even where another clip of its source is cut from train.
    return [
        replace(
            video,
            split=parts.get(video.group or video.source, "train") if video.split in (None, "train") else video.split,
        )
        for video in videos
    ]


def _torn(videos: Sequence[Clip]) -> list[str]:
    """Which videos have clips in several splits of a list that says its splits; they stay as published."""
    splits: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        if video.split:
            splits[video.source].add(video.split)
    torn = {source: found for source, found in splits.items() if len(found) > 1}
    if not torn:
        return []
    first, found = next(iter(torn.items()))
    names = " and ".join(split for split in SPLITS if split in found)
    has = "video has" if len(torn) == 1 else "videos have"
    return [f"{len(torn)} {has} clips in several splits of the list itself, {first!r} first, in {names}"]


def _windows(videos: Sequence[Clip], seconds: float) -> Iterator[Clip]:
    """Each video cut into windows; one that cannot be read stays as one clip, to be rejected with its reason."""
    for video, length in zip(videos, lengths_of([video.path for video in videos]), strict=True):
        end = min(length, math.inf if video.seconds is None else video.start_seconds + video.seconds)
        count = max(1, math.floor((end - video.start_seconds) / seconds + _WINDOW_TOLERANCE))
        for number in range(count):
            yield replace(
                video,
                key=encoded_key(f"{video.name or video.source}-{number:03d}"),
                start_seconds=video.start_seconds + number * seconds,
                seconds=seconds,
            )
