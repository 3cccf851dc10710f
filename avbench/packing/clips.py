"""A clip that is to be packed, and its key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

# A tar header has room for 100 bytes of name; a frame's suffix takes 8.
LONGEST_KEY = 90


@dataclass(frozen=True)
class Clip:
    """One clip to be packed: `seconds` of the video at `path` from `start_seconds` on (all the rest where None).

    key: unique in the dataset, fit for a tar member. source: the video's name; windows of one video share it.
    split: None until the splits are cut. planted_audio, planted_visual: true qualities in [0, 1] of a planted clip.
    looked_for: where no file was found, what was looked for, in words. name: what the key was made of; empty: of the
    source. group: what clips share that are to come into one split; empty: the source.
    file_start_seconds: where in the source the file begins, which is a part of it. sound: the file that has the clip's
    sound, which begins with the video; None: the video itself.
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
    looked_for: str = ""
    name: str = ""
    file_start_seconds: float = 0.0
    group: str = ""
    sound: Path | None = None


def encoded_key(name: str) -> str:
    """A name as a key: all but letters, digits, "-", "_" and "~" percent-encoded; a long one cut, with a hash."""
    key = quote(name, safe="").replace(".", "%2E")
    if len(key) <= LONGEST_KEY:
        return key
    return f"{key[: LONGEST_KEY - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
