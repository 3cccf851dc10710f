"""What lies in a media folder: videos by their suffixes, through linked folders too, and all that is left out.

Nothing that a user put there is passed over silently: what does not become a clip is counted, and the first are named.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import av
from av.stream import Disposition

from avbench.dataset import DESCRIPTION_FILE
from avbench.errors import RecipeError
from avbench.packing import archives
from avbench.packing.archives import Archive, archive_of
from avbench.packing.clips import Clip, encoded_key
from avbench.packing.media import Reject, seconds_of
from avbench.packing.recipes.base import Found
from avbench.packing.recipes.left_out import REASONS, LeftOut


def suffixes(text: str) -> frozenset[str]:
    """Suffixes with their dots, from words without."""
    return frozenset(f".{word}" for word in text.split())


# Containers that FFmpeg reads and that hold sound and moving pictures. No raw streams of one codec but MPEG's, which
# are files of cameras and discs, no still or animated images, no text and no playlists.
VIDEO_SUFFIXES = suffixes(
    "3g2 3gp 3gp2 3gpp amv asf avi dav divx dv dvr-ms evo f4v flv gxf ismv kux m1v m2p m2t m2ts m2v m4v mj2 mk3d "
    "mkv mod mov mp2v mp4 mp4v mpe mpeg mpg mpv mqv mts mxf nsv nut nuv ogg ogm ogv ogx qt rm rmvb tod tp trp ts "
    "vob vro webm wm wmv wtv y4m"
)
# Never opened, not even where a list names them: playlists and manifests, which open other files, text, still images.
NO_VIDEO_SUFFIXES = suffixes(
    "asx concat ffcat ffconcat ism ismc m3u m3u8 mpd pls ram sdp smi smil wax wpl wvx xspf "
    "ass csv htm html ini json jsonl log lrc md nfo py srt ssa sub tsv txt vtt xml yaml yml "
    "apng avif bmp dpx exr gif heic heif ico j2k jfif jp2 jpe jpeg jpg jxl pbm pgm png pnm ppm psd svg tga tif "
    "tiff webp"
)
WORK_FOLDER = ".packing"  # in a dataset, while it is packed
_SHOWN = 3  # names of each kind of what is left out


class Tally:
    """Counts what is left out, by reason."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = defaultdict(list)
        self._counts: Counter[str] = Counter()
        self._suffixes: Counter[str] = Counter()

    def add(self, why: str, names: Iterable[str], *, within: str = "") -> None:
        """Count these names, relative to the folder `within` of the media folder."""
        for name in names:
            self._counts[why] += 1
            if why == "suffix":
                self._suffixes[suffix_of(name)] += 1
            if len(self._names[why]) < _SHOWN:
                # A name that is no UTF-8 could go into no file that we write.
                shown = f"{within}{name}".rstrip("/") or "."
                self._names[why].append(shown.encode(errors="backslashreplace").decode())

    def entries(self) -> tuple[LeftOut, ...]:
        """All of it, in the order of REASONS; suffixes with the most files first."""
        counts = dict(sorted(self._suffixes.items(), key=lambda item: (-item[1], item[0])))
        return tuple(
            LeftOut(why, self._counts[why], tuple(self._names[why]), counts if why == "suffix" else {})
            for why in REASONS
            if self._counts[why]
        )


def suffix_of(name: str) -> str:
    """The suffix in lower case, with its dot; empty where there is none."""
    return posixpath.splitext(name)[1].lower()


def stem_of(name: str) -> str:
    """The name without its suffix, folders included."""
    return posixpath.splitext(name)[0]


@dataclass
class Walked:
    """What lies below a folder. Names are relative to it, with "/" between their parts, and sorted within a folder."""

    videos: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    archives: list[str] = field(default_factory=list)  # whose members are yet to be added
    inside: dict[str, Path] = field(default_factory=dict)  # of each video in an archive, its path (see archives)
    links: dict[str, str] = field(default_factory=dict)  # real path of each linked folder that was followed: its name

    def by_stem(self) -> dict[str, list[str]]:
        """The videos by their names without suffix."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.videos:
            found[stem_of(name)].append(name)
        return found

    def path(self, folder: Path, name: str) -> Path:
        """Where a video lies. folder: the one that was walked."""
        return self.inside.get(name) or folder / name

    def add_archives(self, folder: Path) -> None:
        """Add the members of all archives, called as if each had been unpacked in the folder in which it lies.

        An archive without a video is a file like any other. Raises RecipeError where two archives hold one video.
        """
        unpacked = set(self.videos)
        for archive in self.archives:
            try:
                found = archive_of(folder / archive)
            except OSError:
                self.left_out["damaged archive"].append(archive)
                continue
            if found.damage:
                self.left_out["damaged archive"].append(archive)
            if any(suffix_of(name) in VIDEO_SUFFIXES for name in found.members):
                self._add_members(folder, archive, found, unpacked)
            elif not found.damage:
                self.left_out["suffix"].append(archive)
        self.archives.clear()
        self.videos.sort()

    def _add_members(self, folder: Path, archive: str, found: Archive, unpacked: Set[str]) -> None:
        self.left_out["odd member"] += (f"{archive}/{name}" for name in found.odd)
        for member, place in found.members.items():
            name = posixpath.join(posixpath.dirname(archive), member)
            why = _why_by_name(name) or ("compressed member" if place.start is None else "")
            if why:
                self.left_out[why].append(name)
            elif name in unpacked:
                self.left_out["unpacked"].append(f"{archive}/{member}")
            elif name in self.inside:
                other = self.inside[name].as_posix().removesuffix(f"/{member}")
                raise RecipeError(f"{folder / archive}: holds {member}, as does {other}; remove one, or unpack them")
            else:
                self.videos.append(name)
                self.inside[name] = folder / archive / member


def walk(folder: Path, *, within: Path | None = None) -> Walked:
    """Every file below a folder, through linked folders too; each real folder once, whatever leads to it.

    within: a folder around it, into which no link is followed either. A folder's own files count before those that
    lead there by a link, so the names of files that can be reached without one are those without.
    """
    walked = Walked()
    root = os.path.realpath(folder)
    above = {root, *_parents(root)}
    if within is not None:
        around = os.path.realpath(within)
        above |= {around, *_parents(around)}
    taken: set[str] = set()
    pending, links = [("", root)], list[str]()
    while pending or links:
        if not pending:
            link = links.pop(0)
            real = os.path.realpath(folder / link)
            if real in above or real in taken:
                walked.left_out["link"].append(link)
                continue
            walked.links[real] = link
            pending.append((link, real))
        name, real = pending.pop()
        if real in taken:  # behind a link, the folder of one that was followed before
            walked.left_out["link"].append(name)
            continue
        taken.add(real)
        pending += reversed(_sort_entries(folder, name, real, walked, links))
    walked.add_archives(folder)
    return walked


def _sort_entries(folder: Path, name: str, real: str, walked: Walked, links: list[str]) -> list[tuple[str, str]]:
    """Put one folder's entries where they belong; returns its real subfolders, each with its real path."""
    folders = []
    try:
        with os.scandir(folder / name) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        walked.left_out["unreadable"].append(name)
        return []
    for entry in entries:
        inner = f"{name}/{entry.name}" if name else entry.name
        if _is_folder(entry):
            if entry.is_symlink():
                links.append(inner)
            else:
                folders.append((inner, os.path.join(real, entry.name)))  # noqa: PTH118  a million of them
        else:
            why = _why_no_video(entry)
            if why == "suffix" and suffix_of(entry.name) in archives.SUFFIXES and entry.is_file():
                walked.archives.append(inner)
            else:
                (walked.left_out[why] if why else walked.videos).append(inner)
    return folders


def _why_no_video(entry: os.DirEntry[str]) -> str:
    why = _why_by_name(entry.path)
    if why in ("suffix", "compressed") and entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
        return "dead link"
    if why:
        return why
    # A link that leads nowhere stays, to be rejected with its reason.
    return "" if entry.is_file() or entry.is_symlink() else "special"


def _why_by_name(path: str) -> str:
    """Why a file of this name is no video; empty where it may be one."""
    name = posixpath.basename(path)
    is_video = suffix_of(name) in VIDEO_SUFFIXES
    if any("\ud800" <= letter <= "\udfff" for letter in path):
        return "not UTF-8"
    if name.startswith("."):
        return "hidden" if is_video else "ignored"  # .DS_Store and the like were not given by anybody
    if not is_video:
        return "compressed" if name.lower().endswith(archives.COMPRESSED) else "suffix"
    return ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _parents(path: str) -> list[str]:
    return [str(parent) for parent in Path(path).parents]


def with_pictures(path_of: Callable[[str], Path], names: Sequence[str]) -> list[str]:
    """Those of several files that hold moving pictures, or that cannot be opened, so that nobody knows.

    path_of: where a name lies. Where none does, the first, so that it is rejected with its reason.
    """
    kept = [name for name in names if _competes(path_of(name))]
    return kept or list(names[:1])


def _competes(path: Path) -> bool:
    """Whether a file, by its header, may be a video; a cover picture makes it none."""
    try:
        with av.open(archives.url_of(path), metadata_errors="replace") as container:
            return any(Disposition.attached_pic not in stream.disposition for stream in container.streams.video)
    except (OSError, av.FFmpegError):
        return True


def class_folders(media: Path, labels: str) -> Found:
    """The videos in the folders of `media`, whose names are the labels, and what is left out.

    labels: the list that is not there. Raises RecipeError where two videos of a class have one name.
    """
    tally = Tally()
    clips: list[Clip] = []
    top = Walked()
    links = list[str]()
    real = os.path.realpath(media)
    folders = {name for name, _ in _sort_entries(media, "", real, top, links)} | {*links}
    in_archives = _by_folder(top, media)
    for name in sorted(folders | in_archives.keys()):
        if _is_dataset(media / name):  # packed into the folder of its own videos
            continue
        if name.startswith("."):
            tally.add("hidden folder", [name])
        elif any("\ud800" <= letter <= "\udfff" for letter in name):
            tally.add("not UTF-8", [name])
        else:
            clips += _clips_of_class(media, name, tally, in_archives.get(name, {}))
    tally.add("no class", top.videos)
    _count(tally, top)
    if not clips:
        found = "; ".join(str(one) for one in tally.entries())
        raise RecipeError(
            f"{media}: neither a list {labels} nor a folder of videos for each class{f' ({found})' if found else ''}"
        )
    return Found(tuple(clips), tally.entries())


def _is_dataset(folder: Path) -> bool:
    """Whether a folder is a packed dataset, or one that is being packed."""
    # os.path: no error where the folder cannot be read.
    return any(os.path.exists(folder / name) for name in (DESCRIPTION_FILE, WORK_FOLDER))  # noqa: PTH110


def _by_folder(top: Walked, media: Path) -> dict[str, dict[str, Path]]:
    """The videos of the archives beside the class folders, by the folder that they would lie in; by name their paths.

    Those that would lie in none stay among the videos of `top`.
    """
    top.add_archives(media)
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, path in top.inside.items():
        folder, _, inner = name.partition("/")
        if inner:
            found[folder][inner] = path
    top.videos = [name for name in top.videos if "/" not in name]
    return found


def _clips_of_class(media: Path, label: str, tally: Tally, in_archives: Mapping[str, Path]) -> list[Clip]:
    """The clips of a class folder. in_archives: those of archives beside it, by their names in the folder."""
    folder = media / label
    real = os.path.realpath(media)
    if os.path.realpath(folder) in (real, *_parents(real)):
        tally.add("link", [label])
        return []
    walked = walk(folder, within=media) if os.path.lexists(folder) else Walked()
    tally.add("unpacked", (name for name in in_archives if name in walked.videos), within=f"{label}/")
    fresh = {name: path for name, path in in_archives.items() if name not in walked.videos}
    walked.videos = sorted([*walked.videos, *fresh])
    walked.inside |= fresh
    clips = []
    path_of = partial(walked.path, folder)
    for stem, names in walked.by_stem().items():
        kept = with_pictures(path_of, names) if len(names) > 1 else names
        if len(kept) > 1:
            raise RecipeError(f"{folder}: {' and '.join(kept)} have the same name; remove or rename one")
        tally.add("no pictures", (name for name in names if name not in kept), within=f"{label}/")
        source = f"{label}/{stem}"
        clips.append(Clip(encoded_key(source), label, None, path_of(kept[0]), source))
    _count(tally, walked, within=f"{label}/")
    if not clips and "" not in walked.left_out["unreadable"]:
        tally.add("empty class", [label])
    return clips


def _count(tally: Tally, walked: Walked, *, within: str = "") -> None:
    for why, names in walked.left_out.items():
        if why != "ignored":
            tally.add(why, names, within=within)


def lengths_of(paths: Sequence[Path]) -> list[float]:
    """The durations of videos in seconds, from their headers; 0 where one cannot be told."""
    # Threads: reading headers waits for the disk.
    with ThreadPoolExecutor(max_workers=8) as executor:
        return list(executor.map(_length, paths))


def _length(path: Path) -> float:
    if suffix_of(path.name) in NO_VIDEO_SUFFIXES:
        return 0.0
    try:
        return seconds_of(path)
    except Reject:
        return 0.0
