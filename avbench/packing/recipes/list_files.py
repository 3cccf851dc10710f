"""Which file of a media folder is the video of a row, by the names that it may have, and what contradicts them."""

from __future__ import annotations

import math
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from avbench.errors import RecipeError
from avbench.packing.clips import Clip
from avbench.packing.recipes.files import lengths_of, stem_of, with_pictures
from avbench.packing.recipes.list_config import ListConfig
from avbench.packing.recipes.list_rows import Row, without_suffix
from avbench.packing.recipes.matching import MediaFiles

T = TypeVar("T")

_SHOWN = 3  # names of videos in an error
_COMPARED = 5000  # names among which the nearest is looked for
_LOOKED_AT = 64  # files whose duration is compared with the list
_LEAST_SECONDS = 1.0  # of a clip
_SLACK_SECONDS = 1.0  # by which a clip that was cut by somebody else may be longer


@dataclass(frozen=True)
class Place:
    """Where a row's video is. path: in the media folder, or where it would be. is_whole: it holds more than the clip.

    looked_for: in words, where there is none; else empty. sound: the file beside it that has its sound.
    """

    path: Path
    is_whole: bool
    looked_for: str = ""
    sound: Path | None = None


class Finder:
    """Finds the videos of rows in a media folder."""

    def __init__(self, config: ListConfig, media: Path) -> None:
        self._config = config
        self._media = media
        self.files = MediaFiles(media)

    def place(self, row: Row) -> Place:
        """The video of a row, by the first of its names that there is a file for.

        Raises RecipeError where several files have that name and no rule chooses.
        """
        for candidate in row.candidates:
            if names := self._names(candidate.path):
                return Place(self.files.path(self._one(names, row, candidate.path)), candidate.is_whole)
        first = row.candidates[0]
        anywhere = self._config.anywhere
        if len(row.candidates) == 1 and not anywhere:
            match = self.files.match(first.path)
            return Place(self._media / match.stem, first.is_whole, self.files.looked_for(match))
        tried = ", ".join(repr(posixpath.basename(one.path) if anywhere else one.path) for one in row.candidates)
        told = f"looked for {tried}, with the suffix of a video{' in any folder' if anywhere else ''}"
        return Place(self._media / without_suffix(first.path), first.is_whole, told)

    def with_sound(self, row: Row, place: Place) -> Place:
        """The place, with the file that has the row's sound.

        Raises RecipeError where several files have its name.
        """
        names = self.files.other_files(row.sound, anywhere=self._config.anywhere)
        if len(names) > 1:
            raise RecipeError(f"{row.where}: the sound {row.sound!r} could be {' and '.join(names)}; remove one")
        if names:
            return replace(place, sound=self._media / names[0])
        return replace(place, looked_for=place.looked_for or f"looked for its sound, {row.sound!r}")

    def none_fits(self, row: Row, count: int) -> str:
        """What is said where not one video of the list is there. row: the first. count: of all rows."""
        videos = self.files.videos
        names = ", ".join([*videos[:_SHOWN], *(["..."] if len(videos) > _SHOWN else [])])
        there = f"{len(videos)} {'video' if len(videos) == 1 else 'videos'}: {names}" if videos else "no video"
        made = " and ".join(repr(one.path) for one in row.candidates)
        path = self._config.path[0] if len(self._config.path) == 1 else [*self._config.path, *self._config.whole]
        near = self._nearest(row)
        return (
            f"{self._media}: holds none of the {count} listed videos; list.path {path!r} makes {made} of the first "
            f"row, and the folder holds {there}" + (f"; the nearest name is {near}" if near else "")
        )

    def _nearest(self, row: Row) -> str:
        """The file whose name is most like one that the row's video may have; empty where none is like it."""
        stems = {posixpath.basename(stem_of(name)): name for name in self.files.videos[:_COMPARED]}
        for candidate in row.candidates:
            wanted = posixpath.basename(without_suffix(candidate.path))
            if near := get_close_matches(wanted, stems, n=1):
                return stems[near[0]]
        return ""

    def _names(self, path: str) -> list[str]:
        """The files that a name fits."""
        if not self._config.anywhere:
            return self.files.match(path).names
        name = posixpath.basename(path)
        names = self._by_base.get(without_suffix(name)) or self._by_base.get(name) or []
        exact = [one for one in names if posixpath.basename(one) == name]
        return exact or names

    def _one(self, names: Sequence[str], row: Row, path: str) -> str:
        for part in self._config.prefer if len(names) > 1 else ():
            if chosen := [name for name in names if part in f"/{name}"]:
                names = chosen
                break
        if len(names) > 1:
            names = with_pictures(self.files.path, names)
        if len(names) > 1:
            of_one_folder = len({posixpath.dirname(name) for name in names}) == 1
            shown = " and ".join(sorted(map(posixpath.basename, names) if of_one_folder else names))
            raise RecipeError(f"{row.where}: {path!r} could be {shown}; remove one, or let list.prefer choose")
        return names[0]

    @cached_property
    def _by_base(self) -> dict[str, list[str]]:
        """The videos by the last part of their names, without suffix."""
        found = defaultdict(list)
        for name in self.files.videos:
            found[posixpath.basename(stem_of(name))].append(name)
        return found


def duration_notes(found: Sequence[tuple[Row, Clip, Place]]) -> list[str]:
    """What the durations of some files say against the list, in words; only headers are read.

    A whole video has to hold its clip, and a file that is cut already is not to be longer than it.
    """
    notes = []
    wholes = [one for one in found if one[2].is_whole and one[1].start_seconds]
    cut = [one for one in found if not one[2].is_whole and one[0].seconds is not None]
    short = [
        (clip, length)
        for (_, clip, _), length in _lengths(wholes)
        if length < clip.start_seconds + min(_LEAST_SECONDS, clip.seconds or _LEAST_SECONDS)
    ]
    if short:
        clip, length = short[0]
        notes.append(
            f"{len(short)} of {min(len(wholes), _LOOKED_AT)} files that should be whole videos, by their names, end "
            f"before their clips begin: {clip.path.name} first, which has {length:.1f} s, and its clip begins at "
            f"{clip.start_seconds:g} s; such rows are rejected (are these clips that are cut already?)"
        )
    long = [
        (row, clip, length)
        for (row, clip, _), length in _lengths(cut)
        if length > (row.seconds or math.inf) + _SLACK_SECONDS
    ]
    if long:
        row, clip, length = long[0]
        notes.append(
            f"{len(long)} of {min(len(cut), _LOOKED_AT)} files that should be cut already, by their names, are longer "
            f"than their clips: {clip.path.name} first, which has {length:.1f} s in the place of {row.seconds:g} s"
        )
    return notes


def sound_notes(clips: Sequence[Clip]) -> list[str]:
    """Where the sounds beside some videos last longer or shorter than these, in words; only headers are read."""
    chosen = _some(clips)
    videos = lengths_of([clip.path for clip in chosen])
    sounds = lengths_of([clip.sound for clip in chosen if clip.sound is not None])
    differ = [
        (clip, video, sound)
        for clip, video, sound in zip(chosen, videos, sounds, strict=True)
        if video and sound and abs(video - sound) > _SLACK_SECONDS
    ]
    if not differ:
        return []
    clip, video, sound = differ[0]
    return [
        f"{len(differ)} of {len(chosen)} sounds last longer or shorter than their videos: {clip.path.name} first, "
        f"which has {video:.1f} s, and its sound {sound:.1f} s"
    ]


def _lengths(found: Sequence[tuple[Row, Clip, Place]]) -> list[tuple[tuple[Row, Clip, Place], float]]:
    """Some of them, evenly spread, with their durations in seconds; those that cannot be read are left out."""
    chosen = _some(found)
    lengths = lengths_of([clip.path for _, clip, _ in chosen])
    return [(one, length) for one, length in zip(chosen, lengths, strict=True) if length]


def _some(found: Sequence[T]) -> list[T]:
    """So many that their headers are soon read, evenly spread."""
    count = min(len(found), _LOOKED_AT)
    return [found[number * len(found) // count] for number in range(count)]
