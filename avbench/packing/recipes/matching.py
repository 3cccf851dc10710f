"""Which file of a media folder a list means by a name.

The name is as the list's author writes it: with or without suffix, with "./" before it, as an absolute path, with "\\"
between folders, in another Unicode normal form than the disk has. What is on the disk decides.
"""

from __future__ import annotations

import os
import posixpath
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unicodedata import normalize

from avbench.errors import RecipeError
from avbench.packing.clips import Clip
from avbench.packing.recipes.files import VIDEO_SUFFIXES, Tally, stem_of, suffix_of, suffixes, walk

_SHOWN = 3  # names of archives in an error
# What is counted of archives, whatever a list says.
OF_ARCHIVES = ("compressed", "compressed member", "odd member", "damaged archive", "unpacked")
# A row's key loses these suffixes, and no other: datasets packed before more were known keep their keys.
SUFFIXES_OUTSIDE_KEYS = suffixes("3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg ogv ts webm")


@dataclass(frozen=True)
class Match:
    """What a row's key may mean.

    stem, suffix: of the key, as far as its end is a suffix. names: the files that it fits, relative to the folder.
    is_exact: it is the whole name of the one that it fits.
    """

    stem: str
    suffix: str
    names: list[str]
    is_exact: bool


class MediaFiles:
    """The files below a media folder, to be found by whatever a list calls them."""

    def __init__(self, media: Path) -> None:
        self._media = media
        walked = walk(media)
        self._walked = walked
        self.videos = walked.videos
        self.compressed = walked.left_out["compressed"]
        self._names = set(walked.videos)
        self._stems = walked.by_stem()
        self._beside = defaultdict(list)  # files that are no videos, by their names without suffix
        for name in walked.left_out["suffix"]:
            self._beside[stem_of(name)].append(name)
        here = {os.path.abspath(media): "", os.path.realpath(media): ""}  # noqa: PTH100  keeps links
        self._roots = list({**walked.links, **here}.items())
        self._folders: dict[str, dict[str, list[str]]] = {}
        self._real_folders: dict[str, str] = {}

    def path(self, name: str) -> Path:
        """Where a file lies that `match` has found."""
        return self._walked.path(self._media, name)

    def tally(self, tally: Tally, taken: Set[Path]) -> None:
        """Count what lies in the folder and is not among the files that were taken."""
        for why in ("unreadable", *OF_ARCHIVES):
            tally.add(why, self._walked.left_out[why])
        tally.add("not listed", (name for name in self.videos if self.path(name) not in taken))

    def other_files(self, name: str, *, anywhere: bool) -> list[str]:
        """The files that are no videos and have this name; anywhere: or the last part of it, in any folder."""
        if name in self._others:
            return [name]
        return self._others_by_base.get(posixpath.basename(name), []) if anywhere else []

    def check_compressed(self, clips: Sequence[Clip]) -> None:
        """Raises RecipeError where videos are missing and there are compressed archives, which may hold them."""
        missing = [clip for clip in clips if clip.looked_for]
        if missing and self.compressed:
            names = " and ".join(self.compressed[:_SHOWN])
            raise RecipeError(
                f"{self._media}: {len(missing)} of {len(clips)} listed videos are not there, and archives that are "
                f"compressed are not read: {names}; unpack what is in them "
                f"(`tar -xf {shlex.quote(self.compressed[0])}`), or move them away"
            )

    def match(self, text: str) -> Match:
        """The files that a row's key may mean, by the first form of it that there is a file for."""
        is_plain = text in self._names or _by_stem(self._stems, text)  # as in nearly every list
        forms = [text] if is_plain else list(dict.fromkeys(self._forms(text)))
        for form in forms:
            if form in self._names:
                return _match(form, [form], is_exact=True)
        for form in forms:
            if names := _by_stem(self._stems, form):
                return _match(form, names)
        for form in forms:
            if names := self._normal_names.get(_normal(form), []):
                return _match(form, names, is_exact=True)
            if names := _by_stem(self._normal_stems, _normal(form)):
                return _match(form, names)
        for form in forms:
            if os.path.isfile(self._media / form):  # behind a link that was not followed, or outside  # noqa: PTH113
                return _match(form, [form], is_exact=True)
            if names := self._beside_it(form):
                return _match(form, names)
        return _match(next((form for form in forms[1:] if not form.startswith("/")), text), [])

    def looked_for(self, match: Match) -> str:
        """In words, for a row that no file was found for."""
        what = repr(match.stem + match.suffix)
        what += "" if match.suffix else ", as it is or with the suffix of a video"
        others = [*self._stems.get(match.stem, ()), *self._beside.get(match.stem, ())]
        others = others or self._folded_stems.get(match.stem.casefold(), [])  # to Windows, the same name
        return f"looked for {what}" + (f"; there is {' and '.join(sorted(others))}" if others else "")

    def _forms(self, text: str) -> Iterator[str]:
        """The names, relative to the media folder, that a key may be meant as; absolute where it lies elsewhere."""
        yield text
        for written in (text, text.replace("\\", "/")):
            climbs = ".." in written.split("/")
            if climbs or written.startswith("/"):
                real = self._real(written)
                for there in (real,) if climbs else (posixpath.normpath(written), real):
                    for root, name in self._roots:
                        if there.startswith(f"{root}/"):
                            yield posixpath.join(name, there[len(root) + 1 :])
                yield written if climbs else posixpath.normpath(written)
            else:
                yield posixpath.normpath(written)  # without "./", "//" and "/./"

    def _real(self, path: str) -> str:
        """The absolute path, no link in its folders; a link at its end stays, being the file's name here."""
        folder, name = posixpath.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(self._media / folder)
        return posixpath.join(self._real_folders[folder], name)

    def _beside_it(self, form: str) -> list[str]:
        """Videos that differ from `form` by a suffix only, in a folder that the walk did not see."""
        folder, name = posixpath.split(form)
        if folder not in self._folders:
            stems = self._folders[folder] = defaultdict(list)
            there = self._media / folder
            for other in sorted(os.listdir(there)) if os.path.isdir(there) else ():  # noqa: PTH112, PTH208
                if suffix_of(other) in VIDEO_SUFFIXES:
                    stems[stem_of(other)].append(other)
        return [posixpath.join(folder, other) for other in _by_stem(self._folders[folder], name)]

    @cached_property
    def _others(self) -> frozenset[str]:
        return frozenset(self._walked.left_out["suffix"]) - self._walked.inside.keys()

    @cached_property
    def _others_by_base(self) -> dict[str, list[str]]:
        return _grouped(map(posixpath.basename, sorted(self._others)), sorted(self._others))

    @cached_property
    def _folded_stems(self) -> dict[str, list[str]]:
        return _grouped((stem_of(name).casefold() for name in self.videos), self.videos)

    @cached_property
    def _normal_names(self) -> dict[str, list[str]]:
        return _grouped(self.videos, self.videos)

    @cached_property
    def _normal_stems(self) -> dict[str, list[str]]:
        return _grouped(map(stem_of, self.videos), self.videos)


def _match(form: str, names: list[str], *, is_exact: bool = False) -> Match:
    """The match of a form of a key: its end is a suffix, unless a file has another one behind it."""
    is_stem = any(_normal(stem_of(name)) == _normal(form) for name in names)
    stem = form if is_stem or suffix_of(form) not in VIDEO_SUFFIXES else stem_of(form)
    return Match(stem, form.removeprefix(stem), names, is_exact)


def _by_stem(stems: Mapping[str, list[str]], form: str) -> list[str]:
    """Files whose name without suffix is `form` without its own, or all of `form`."""
    stripped = stem_of(form) if suffix_of(form) in SUFFIXES_OUTSIDE_KEYS else form
    return stems.get(stripped) or stems.get(form) or []


def _normal(name: str) -> str:
    """One form of a name for all that look the same: macOS writes é as two characters, everybody else as one."""
    return normalize("NFC", name)


def _grouped(keys: Iterable[str], names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in zip(keys, names, strict=True):
        groups[_normal(key)].append(name)
    return groups
