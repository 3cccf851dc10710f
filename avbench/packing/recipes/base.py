"""What a source of clips is: its options, and the clips that it finds in a media folder.

A source is a file of its own that imports nothing heavy, so that `avbench pack NAME --help` shows its options at once:
what needs PyAV or NumPy is imported by the functions that use it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from avbench.packing.clips import Clip
from avbench.packing.recipes.left_out import LeftOut


@dataclass(frozen=True)
class NotUsed:
    """A row of a published list that becomes no clip. why: a name of left_out.REASONS."""

    clip: Clip
    why: str


@dataclass(frozen=True)
class Found:
    """What a source finds in a media folder.

    clips: whole videos or parts of them, in the source's own order; the split is None where the source does not say it.
    left_out: what lies in the folder and becomes no clip. notes: what a user should hear before anything is decoded.
    not_used: rows of a list.
    """

    clips: tuple[Clip, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    not_used: tuple[NotUsed, ...] = ()


class Source(ABC):
    """Where the clips of a recipe come from.

    The first line of a source's docstring says in its help what it packs.
    """

    kind: ClassVar[str]
    """A recipe of this source says `kind = "..."`."""
    Config: ClassVar[type]
    """The options: a frozen dataclass of numbers, texts and tuples of them, with a text below each field. It raises
    RecipeError for values that make no sense."""
    media_default: ClassVar[str] = ""
    """What help calls the media folder where none is given; empty: one must be given."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def table(cls) -> str:
        """The table of a recipe file that holds the options; empty where they stand among the recipe's own fields."""
        return cls.kind

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names in order where the options alone decide them; else empty."""
        return ()

    def default_media(self, out: Path) -> Path | None:
        """The media folder of the dataset folder `out` where none is given; None where one must be given."""
        return None

    def prepare(self, media: Path, *, workers: int) -> None:  # noqa: B027  most have nothing to prepare
        """Make what must lie in the media folder before clips are found there. Raises RecipeError where it cannot."""

    @abstractmethod
    def clips(self, media: Path) -> Found:
        """The clips in a media folder, in an order that the source states; no video is decoded.

        A listed clip without a file is among them and says in `looked_for` what was looked for. Raises RecipeError
        where folder or list cannot become clips.
        """

    def about(self) -> str:
        """What it packs, in a line, for the help of its recipes."""
        return (type(self).__doc__ or "").strip().split("\n")[0]

    def stored(self) -> dict[str, Any]:
        """The options as dataset.json has them, beside the recipe's own fields."""
        return {self.kind: asdict(self.config)}
