"""Videos inside tar and zip files, read in place: such a file counts as the folder that unpacking it would make.

A video inside an archive has the path of the archive followed by the member's name: VIDEOS/train.tar/dog/1.mp4. Only
what is stored as it is can be read so: not a compressed tar, and no compressed member of a zip file.
"""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

SUFFIXES = (".tar", ".zip")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".7z", ".rar")
_LOCAL_HEADER = 30  # bytes of a zip member's own header before its name (APPNOTE.TXT, section 4.3.7)


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member's bytes lie in its archive; None for both where they are compressed."""

    start: int | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive's regular files by their names, as unpacking would call them; odd: what is none, or lies outside.

    damage: what is wrong with the archive's end, in words; its members up to there are whole.
    """

    members: dict[str, Member]
    odd: tuple[str, ...] = ()
    damage: str = ""


def archive_of(path: Path) -> Archive:
    """What is in an archive; headers only are read. Raises OSError where the file cannot be read."""
    state = path.stat()
    return _archive_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _archive_of(path: Path, size_bytes: int, modified_ns: int) -> Archive:
    found: dict[str, Member] = {}
    odd: list[str] = []
    damage = ""
    try:
        for name, member in _zip_members(path) if path.suffix.lower() == ".zip" else _tar_members(path):
            unpacked = posixpath.normpath(name)
            if member is None or unpacked.startswith(("../", "/")):
                odd.append(name)
            else:
                found[unpacked] = member  # of several the last, as when it is unpacked
    except (tarfile.TarError, zipfile.BadZipFile, ValueError, OverflowError, EOFError) as error:
        damage = str(error)
    return Archive(found, tuple(odd), damage)


def _tar_members(path: Path) -> Iterator[tuple[str, Member | None]]:
    with tarfile.open(path, "r:") as reader:
        for member in reader:
            if member.isreg() and not member.issparse():
                yield member.name, Member(member.offset_data, member.size)
            elif not member.isdir():
                yield member.name, None


def _zip_members(path: Path) -> Iterator[tuple[str, Member | None]]:
    with zipfile.ZipFile(path) as reader, path.open("rb") as file:
        for member in reader.infolist():
            is_stored = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1  # 1: encrypted
            if member.is_dir():
                continue
            if not is_stored:
                yield member.filename, Member(None, None)
                continue
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER)
            name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
            yield member.filename, Member(member.header_offset + _LOCAL_HEADER + name + extra, member.file_size)


@dataclass(frozen=True, slots=True)
class _Place:
    """A video's bytes: `size` from `start` on in a file."""

    file: Path
    start: int
    size: int
    modified_ns: int


def _inside(path: Path) -> tuple[Path, str] | None:
    """The archive that a path leads into, and the member's name; None for a file of its own."""
    if not any(suffix in str(path).lower() for suffix in SUFFIXES):  # as nearly always
        return None
    for parent in path.parents:
        if parent.suffix.lower() in SUFFIXES and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def _place(path: Path) -> _Place:
    """Where a video's bytes are. Raises OSError where there are none."""
    inside = _inside(path)
    if inside is None:
        state = path.stat()
        return _Place(path, 0, state.st_size, state.st_mtime_ns)
    archive, name = inside
    member = archive_of(archive).members.get(name)
    if member is None or member.start is None or member.size is None:
        raise FileNotFoundError(f"{archive} has no {name} that is stored as it is")
    return _Place(archive, member.start, member.size, archive.stat().st_mtime_ns)


def url_of(path: Path) -> str:
    """What FFmpeg opens for a video. Raises OSError where an archive cannot be read or has no such member."""
    if _inside(path) is None:
        return str(path)
    place = _place(path)
    # FFmpeg's protocol for a part of a file; the path begins after ",,:" whatever is in it.
    return f"subfile,,start,{place.start},end,{place.start + place.size},,:{place.file}"


def size_and_time(path: Path) -> tuple[int, int]:
    """Bytes of a video, and when its file, or the archive around it, was changed, ns. Raises OSError for none."""
    place = _place(path)
    return place.size, place.modified_ns


@contextmanager
def opened_bytes(path: Path) -> Iterator[BinaryIO]:
    """A video's bytes, to be read and sought in. Raises OSError where there are none."""
    place = _place(path)
    with place.file.open("rb") as file:
        if place.file == path:
            yield file
        else:
            yield io.BufferedReader(_Window(file, place.start, place.size))


class _Window(io.RawIOBase):
    """A part of a file, as if it were one."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's buffer has no length
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
