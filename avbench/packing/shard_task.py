"""One shard that is to be made, and where its files lie meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avbench.dataset import shard_name
from avbench.packing.clips import Clip
from avbench.packing.recipes.files import WORK_FOLDER
from avbench.packing.recipes.recipe import Recipe

CLIP_SECONDS_LIMIT = 600.0


@dataclass(frozen=True)
class ShardTask:
    """One shard to be made: its number, split and planned clips.

    apart: keys of the clips to be read by processes of their own. clip_seconds_limit: for which a clip is read at most.
    """

    number: int
    split: str
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    recipe: Recipe
    out: Path
    clip_seconds_limit: float = CLIP_SECONDS_LIMIT
    apart: frozenset[str] = frozenset()

    @property
    def tar(self) -> Path:
        """Where the shard goes."""
        return self.out / shard_name(self.number)

    @property
    def note(self) -> Path:
        """Written when the shard is whole: its rows of the index; size, hash, rejects and quality in the metadata."""
        return self.out / WORK_FOLDER / f"{self.tar.stem}.arrow"

    @property
    def lock(self) -> Path:
        """Held by whoever makes the shard."""
        return self.note.with_suffix(".lock")

    @property
    def verdicts(self) -> Path:
        """Which clips have crashed, or hung, the process that read them: noted as soon as it is known."""
        return self.note.with_suffix(".verdicts.json")
