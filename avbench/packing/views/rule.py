"""All that is asked of a view, read from what a user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avbench.packing.views.files import NamedClips, file_as_json, read_classes, read_clips, read_map
from avbench.packing.views.quality_rule import Drop, parse_drop


@dataclass(frozen=True)
class Rule:
    """What a view takes of its clips, in this order.

    renamed: new class names by old ones, "" for a class that is dropped. classes: to be taken, by their new names; ()
    for all. keys: clips to be taken, and their splits where the file says them; without_keys: clips to be left out.
    drops: clips to be left out by their quality. splits: new splits of clips that are taken.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    keys: NamedClips | None = None
    without_keys: NamedClips | None = None
    drops: tuple[Drop, ...] = ()
    splits: NamedClips | None = None

    @property
    def lists(self) -> dict[str, NamedClips]:
        """The files that name clips, by their options."""
        given = {"--keys": self.keys, "--without-keys": self.without_keys, "--splits": self.splits}
        return {option: clips for option, clips in given.items() if clips is not None}


@dataclass(frozen=True)
class RuleFiles:
    """The files and rules that a user names; None and () for what is not asked."""

    classes: Path | None = None
    keys: Path | None = None
    without_keys: Path | None = None
    map: Path | None = None
    splits: Path | None = None
    drop: Sequence[str] = ()

    def read(self) -> Rule:
        """Raises UsageError or RecipeError for a file or a rule that cannot be used."""
        return Rule(
            renamed={} if self.map is None else read_map(self.map),
            classes=() if self.classes is None else read_classes(self.classes),
            keys=None if self.keys is None else read_clips(self.keys, option="--keys"),
            without_keys=(
                None if self.without_keys is None else read_clips(self.without_keys, option="--without-keys")
            ),
            drops=tuple(map(parse_drop, self.drop)),
            splits=None if self.splits is None else read_clips(self.splits, option="--splits", needs_split=True),
        )


def rule_as_json(rule: Rule, files: RuleFiles, missing: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """As dataset.json keeps it: files by name and SHA-256, classes in full, of clips how many were named and missing.

    missing: by option, the names that no clip has.
    """
    told: dict[str, Any] = {}
    if files.map is not None:
        told["map"] = {**file_as_json(files.map), "old_and_new": [list(pair) for pair in rule.renamed.items()]}
    if files.classes is not None:
        told["classes"] = {**file_as_json(files.classes), "names": list(rule.classes)}
    for option, clips in rule.lists.items():
        name = option.removeprefix("--").replace("-", "_")
        counts = {"named": len(clips.splits), "missing": len(missing.get(option, ()))}
        told[name] = {**file_as_json(clips.path), **counts}
    if rule.drops:
        told["drop"] = [drop.text for drop in rule.drops]
    return told
