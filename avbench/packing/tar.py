"""A shard's tar file: fixed owner, mode and time, so the same clips are the same bytes.

Written with the standard library alone. webdataset's writer makes the same bytes, but importing it imports torch, which
would cost every packing process half a gigabyte.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import BinaryIO

_BLOCK = 512  # a member's header, which lies before its data


class TarShard:
    """A tar file under construction, to be closed before the file is."""

    def __init__(self, file: BinaryIO) -> None:
        self._hashing = _Hashing(file)
        self._tar = tarfile.TarFile(fileobj=self._hashing, mode="w")  # type: ignore[arg-type]

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the byte offset of its data."""
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = len(data), 0o644, 0
        offset = self._tar.offset + _BLOCK
        self._tar.addfile(member, io.BytesIO(data))
        return offset

    def close(self) -> str:
        """Write the file's end; returns the SHA-256 of all of it, in hexadecimal."""
        self._tar.close()
        return self._hashing.hexdigest()


def members_of(tar: Path) -> tuple[dict[str, tuple[int, int]], str]:
    """Byte offset and size of each member's data by its name, in their order, and what is wrong with the file, if
    anything. Reads headers only. Raises OSError where the file cannot be read.
    """
    members: dict[str, tuple[int, int]] = {}
    reached, end = -1, 0
    with tar.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as reader:
                for member in reader:
                    if member.offset <= reached:  # a damaged size can be negative, and lead round in a circle
                        return members, f"is no whole tar file: it goes back at byte {reached}"
                    reached = member.offset
                    members[member.name] = (member.offset_data, member.size)
                    end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
            # tarfile takes a damaged header for the end.
            file.seek(end)
            if file.read(_BLOCK) != bytes(_BLOCK):
                return members, f"is no whole tar file: what follows byte {end} is neither a header nor the end"
        except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
            return members, f"is no whole tar file: {error}"
    return members, ""


class _Hashing:
    """A file to write to that knows the SHA-256 of what was written. tarfile asks no more of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
