"""Which clips a rule takes, with which classes and splits: from arrays alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from avbench.class_names import in_order
from avbench.errors import UsageError
from avbench.packing.views.files import NamedClips
from avbench.packing.views.names import Named, clips_named, few, near_text
from avbench.packing.views.rule import Rule
from avbench.vocabulary import SPLITS

_MOST_KEPT = 5  # keys of clips that are left out for one reason


@dataclass(frozen=True)
class Candidates:
    """The clips that a view may take, one place each.

    keys, sources: texts. labels: numbers in `classes`, int (N,). splits: numbers in SPLITS, int (N,). is_set_aside:
    bool (N,). quality: their rows of quality.parquet; None where there is none.
    """

    keys: pa.ChunkedArray
    sources: pa.ChunkedArray
    labels: np.ndarray
    splits: np.ndarray
    is_set_aside: np.ndarray
    classes: tuple[str, ...]
    quality: pa.Table | None = None


@dataclass(frozen=True)
class LeftOut:
    """Clips that are not taken for one reason, and the keys of the first."""

    why: str
    count: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        more = ["..."] if self.count > len(self.first) else []
        return f"{self.count} left out ({self.why}): {', '.join([*self.first, *more])}"


@dataclass(frozen=True)
class Choice:
    """What a rule takes: places among the candidates, ascending, int64 (M,), and each one's label and split.

    left_out: by reason, in the order in which they were asked. missing: by option the names that no clip has. notes:
    what a user should hear.
    """

    rows: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    classes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def choose(candidates: Candidates, rule: Rule) -> Choice:
    """The clips that a rule takes. Raises UsageError where it names a class or a column that is not there, or where
    `--keys` or `--splits` names no clip at all, or gives one clip two splits.
    """
    return _Choosing(candidates, rule).choose()


class _Choosing:
    """One choice under way: `taken` gets smaller step by step, and what each step leaves out is noted."""

    def __init__(self, candidates: Candidates, rule: Rule) -> None:
        self._candidates, self._rule = candidates, rule
        self._taken = np.ones(len(candidates.keys), bool)
        self._splits = np.array(candidates.splits, np.int8)
        self._left_out: list[LeftOut] = []
        self._missing: dict[str, tuple[str, ...]] = {}
        self._notes: list[str] = []

    def choose(self) -> Choice:
        self._keep(~self._candidates.is_set_aside, "in quarantine where they were packed")
        classes, labels = self._classes()
        self._keys()
        self._drops()
        self._new_splits()
        rows = np.flatnonzero(self._taken)
        return Choice(
            rows,
            labels[rows],
            self._splits[rows],
            classes,
            tuple(self._left_out),
            self._missing,
            tuple(self._notes),
        )

    def _keep(self, is_kept: np.ndarray, why: str) -> None:
        gone = np.flatnonzero(self._taken & ~is_kept)
        self._taken &= is_kept
        if len(gone):
            first = tuple(self._candidates.keys[row].as_py() for row in gone[:_MOST_KEPT].tolist())
            self._left_out.append(LeftOut(why, len(gone), first))

    def _classes(self) -> tuple[tuple[str, ...], np.ndarray]:
        """The view's classes in order, and each candidate's label among them; -1 where it is not taken."""
        rule, old = self._rule, self._candidates.classes
        if unknown := [name for name in rule.renamed if name not in old]:
            raise UsageError(f"--map: {_no_classes(unknown, old)}")
        renamed = [rule.renamed.get(name, name) for name in old]
        names = {name for name in renamed if name}
        if unknown := [name for name in rule.classes if name not in names]:
            raise UsageError(f"--classes: {_no_classes(unknown, sorted(names))}")
        wanted = names & set(rule.classes) if rule.classes else names
        classes = in_order(wanted) if rule.renamed else tuple(name for name in old if name in wanted)
        numbers = np.array([classes.index(name) if name in wanted else -1 for name in renamed], np.int32)
        labels = numbers[self._candidates.labels]
        is_dropped = np.array([not name for name in renamed])
        self._keep(~is_dropped[self._candidates.labels], "of a class that --map drops")
        self._keep(labels >= 0, "of a class that --classes does not name")
        return classes, labels

    def _keys(self) -> None:
        if (clips := self._rule.keys) is not None:
            named = self._named("--keys", clips)
            self._keep(named.is_named, "not among --keys")
            self._assign(named, clips)
        if (clips := self._rule.without_keys) is not None:
            self._keep(~self._named("--without-keys", clips).is_named, "among --without-keys")

    def _drops(self) -> None:
        for drop in self._rule.drops:
            quality = self._candidates.quality
            if quality is None:
                raise UsageError(f"--drop {drop.text}: the dataset has no quality.parquet; pack it again to get one")
            if unsaid := drop.unsaid(quality):
                self._notes.append(f"--drop {drop.text}: of {unsaid} clips {drop.column} is not known, so they stay")
            self._keep(~drop.matches(quality), f"by --drop {drop.text}")

    def _new_splits(self) -> None:
        if (clips := self._rule.splits) is None:
            return
        named = self._named("--splits", clips)
        before = self._splits.copy()
        self._assign(named, clips)
        if self._rule.keys is not None and any(self._rule.keys.splits.values()):
            self._check_one_split(named, before)

    def _check_one_split(self, named: Named, before: np.ndarray) -> None:
        """Of a clip that both files name, both have to say the same."""
        keys = self._rule.keys
        assert keys is not None
        said = clips_named(list(keys.splits), self._candidates.keys, self._candidates.sources)
        says = np.array([split is not None for split in keys.splits.values()] + [False])[said.name_of]
        unlike = np.flatnonzero(self._taken & says & named.is_named & (before != self._splits))
        if len(unlike):
            key = self._candidates.keys[int(unlike[0])].as_py()
            one, other = SPLITS[before[unlike[0]]], SPLITS[self._splits[unlike[0]]]
            raise UsageError(
                f"{key} is to be in {one} by --keys and in {other} by --splits ({len(unlike)} such clips); "
                f"let one of the files say it"
            )

    def _named(self, option: str, clips: NamedClips) -> Named:
        """The clips of a file. What is missing is noted, and an error of --keys and --splits where it is all."""
        names = list(clips.splits)
        named = clips_named(names, self._candidates.keys, self._candidates.sources)
        self._missing[option] = named.missing
        if named.missing:
            near = near_text(named.missing[0], self._candidates.keys.to_pylist())
            text = f"{option} {clips.path}: {len(named.missing)} of {len(names)} names are no clip here: "
            text += f"{few(named.missing)}{near}"
            if len(named.missing) == len(names) and option != "--without-keys":
                raise UsageError(f"{text}; name keys of the dataset (`avbench info DATASET --export-keys` lists them)")
            self._notes.append(text)
        if named.videos:
            self._notes.append(f"{option} {clips.path}: {named.videos} names are of videos, and mean all their clips")
        if clips.twice:
            self._notes.append(f"{option} {clips.path}: {clips.twice} names stand in it more than once")
        if clips.unused:
            self._notes.append(f"{option} {clips.path}: not used, the columns {', '.join(clips.unused)}")
        return named

    def _assign(self, named: Named, clips: NamedClips) -> None:
        """Give the named clips the splits that their file says."""
        numbers = [-1 if split is None else SPLITS.index(split) for split in clips.splits.values()]
        of_clip = np.array([*numbers, -1], np.int8)[named.name_of]
        self._splits = np.where(of_clip >= 0, of_clip, self._splits)


def _no_classes(unknown: list[str], known: tuple[str, ...] | list[str]) -> str:
    names = "no class has the name" if len(unknown) == 1 else f"{len(unknown)} names are of no class:"
    return f"{names} {few(unknown)}{near_text(unknown[0], known)}; `avbench info DATASET` lists the classes"
