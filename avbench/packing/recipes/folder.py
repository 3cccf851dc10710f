"""The source `folder`: videos with a list of labels, or with one folder a class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from avbench.errors import RecipeError
from avbench.packing.recipes.base import Found, Source


@dataclass(frozen=True)
class FolderConfig:
    """Where the labels are."""

    labels: str = "labels.csv"
    """The list of videos, relative to the media folder; where there is none, each folder is a class."""

    def __post_init__(self) -> None:
        """Raises RecipeError for an empty name."""
        if not self.labels:
            raise RecipeError("labels is ''; expected a file name")


class FolderSource(Source):
    """Videos of your own, with a list (labels.csv: key,label[,split,source,start,end]) or with one folder a class.

    Clips are in the list's order, or by the names of their folders and files.
    """

    kind = "folder"
    Config = FolderConfig

    @classmethod
    def table(cls) -> str:
        """Its one option stands among the recipe's own fields, where it was before there were other sources."""
        return ""

    def clips(self, media: Path) -> Found:
        """The videos of the list, or of the class folders."""
        from avbench.packing.recipes.files import class_folders
        from avbench.packing.recipes.labels import listed

        labels = self.config.labels
        if (media / labels).is_file():
            return listed(media, labels)
        is_missed = labels != FolderConfig.labels
        notes = (f"there is no list {media / labels}, so each folder is a class",) if is_missed else ()
        return replace(class_folders(media, labels), notes=notes)

    def stored(self) -> dict[str, Any]:
        """As every version has written it: with the table of the other source that there was."""
        return {"labels": self.config.labels, "planted": None}
