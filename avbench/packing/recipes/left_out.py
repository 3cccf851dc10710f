"""What lies in a media folder and becomes no clip, and how it is said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# Why something is left out: of one, of several.
REASONS = {
    "suffix": ("file has not the suffix of a video", "files have not the suffix of a video"),
    "no class": ("video lies beside the class folders", "videos lie beside the class folders"),
    "empty class": ("class folder holds no video", "class folders hold no video"),
    "no pictures": (
        "file holds no pictures and has the name of one that does",
        "files hold no pictures and have the names of others that do",
    ),
    "hidden": ("video is hidden (its name begins with a dot)", "videos are hidden (their names begin with a dot)"),
    "hidden folder": ("folder is hidden", "folders are hidden"),
    "link": (
        "linked folder leads back, or to a folder that is taken already",
        "linked folders lead back, or to folders that are taken already",
    ),
    "unreadable": ("folder cannot be read", "folders cannot be read"),
    "not UTF-8": ("name is not UTF-8; rename it", "names are not UTF-8; rename them"),
    "dead link": ("link leads nowhere", "links lead nowhere"),
    "special": ("is no regular file", "are no regular files"),
    "compressed": (
        "archive is compressed and is not read; `tar -xf NAME` unpacks it",
        "archives are compressed and are not read; `tar -xf NAME` unpacks one",
    ),
    "compressed member": (
        "video is compressed in its zip file and is not read; `unzip NAME` unpacks that",
        "videos are compressed in their zip files and are not read; `unzip NAME` unpacks one",
    ),
    "odd member": (
        "member of an archive is no regular file, or lies outside of it",
        "members of archives are no regular files, or lie outside of them",
    ),
    "damaged archive": ("archive is damaged or cut off", "archives are damaged or cut off"),
    "unpacked": (
        "video in an archive lies in the folder, too, and is taken from there",
        "videos in archives lie in the folder, too, and are taken from there",
    ),
    "not listed": ("video is not in the list", "videos are not in the list"),
    "no label": ("row of the list has no label", "rows of the list have no label"),
    "other class": (
        "row of the list has a class that the recipe does not keep",
        "rows of the list have classes that the recipe does not keep",
    ),
}


@dataclass(frozen=True)
class LeftOut:
    """What lies in the media folder, or stands in a published list, and becomes no clip, for one reason.

    why: a name of REASONS. first: the first names, relative to the media folder, or of rows. suffixes: how many files
    of each suffix, lower case, where the suffix is the reason.
    """

    why: str
    count: int
    first: tuple[str, ...]
    suffixes: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = ", ".join(f"{suffix or 'no suffix'} {count}" for suffix, count in self.suffixes.items())
        names = ", ".join([*self.first, *(["..."] if self.count > len(self.first) else [])])
        reason = REASONS[self.why][self.count > 1]
        return f"{self.count} {reason}{f' ({counts})' if counts else ''}: {names}"

    def as_json(self) -> dict[str, Any]:
        """As dataset.json has it."""
        return {
            "why": self.why,
            "count": self.count,
            "first": list(self.first),
            **({"suffixes": self.suffixes} if self.suffixes else {}),
        }


def left_out_from_json(entries: Iterable[dict[str, Any]]) -> list[LeftOut]:
    """What `as_json` wrote."""
    return [LeftOut(one["why"], one["count"], tuple(one["first"]), one.get("suffixes", {})) for one in entries]
