"""Facts of launches that numbers come from: which of them differ, between run folders and between launches.

Other code, libraries or precision may change numbers; they are marked, not refused. What a folder of an earlier version
does not say is "not recorded", and is not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NOT_RECORDED = "not recorded"

# What may change numbers and is marked between run folders. Between launches of one folder all but the command is.
_MARKED_BETWEEN_FOLDERS = ("description", "version", "code", "libraries", "precision")
_NEVER_MARKED = ("started", "command")


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a launch says of itself.

    training: the run folder, as it is told apart from the others. launch: which of its launches, from 1, of `launches`.
    what: such as "dataset" or "code". value: in words; digest: SHA-256 or commit in full, "" where there is none.
    differs: whether it is marked, since other folders, or other launches of this one, say something else.
    """

    training: str
    launch: int
    launches: int
    what: str
    value: str
    digest: str = ""
    differs: bool = False

    @property
    def is_recorded(self) -> bool:
        """Whether the folder says it at all."""
        return self.value != NOT_RECORDED


def differences(facts: Sequence[Fact]) -> tuple[str, ...]:
    """What is marked, as a sentence for between folders and one for each folder that changed between launches."""
    found = []
    unlike = [what for what in _MARKED_BETWEEN_FOLDERS if _differs_between_folders(facts, what)]
    if unlike:
        found.append(
            f"The run folders differ in {_and(unlike)} (marked in the section Origin): their numbers may differ for "
            "that alone."
        )
    for training in dict.fromkeys(fact.training for fact in facts):
        changed = [what for what in _named(facts) if _changes(facts, training, what)]
        if changed:
            found.append(
                f"Between the launches of {training} {_and(changed)} changed (marked in the section Origin): its "
                "numbers are of both."
            )
    return tuple(found)


def with_changes(facts: Sequence[Fact]) -> list[Fact]:
    """Facts of one folder, those marked that are not the same in all of its launches."""
    changed = {what for what in _named(facts) if _changes(facts, facts[0].training, what)}
    return [_marked(fact, fact.what in changed) for fact in facts]


def with_differences(facts: Sequence[Fact]) -> list[Fact]:
    """The facts of all folders, those marked besides in which the folders differ."""
    unlike = {what for what in _MARKED_BETWEEN_FOLDERS if _differs_between_folders(facts, what)}
    return [_marked(fact, fact.differs or fact.what in unlike) for fact in facts]


def _marked(fact: Fact, differs: bool) -> Fact:
    return Fact(
        fact.training, fact.launch, fact.launches, fact.what, fact.value, fact.digest, differs and fact.is_recorded
    )


def _changes(facts: Sequence[Fact], training: str, what: str) -> bool:
    """Whether launches of a folder say different things; none is compared with one that says nothing."""
    mine = {_said(fact) for fact in facts if (fact.training, fact.what) == (training, what) and fact.is_recorded}
    return what not in _NEVER_MARKED and len(mine) > 1


def _differs_between_folders(facts: Sequence[Fact], what: str) -> bool:
    """Whether what one folder's launches say is not what another's do."""
    said: dict[str, set[tuple[str, str]]] = {}
    for fact in facts:
        if fact.what == what and fact.is_recorded:
            said.setdefault(fact.training, set()).add(_said(fact))
    return len({frozenset(values) for values in said.values()}) > 1


def _said(fact: Fact) -> tuple[str, str]:
    """What is compared: of code the sources alone, since two commits may differ in other files."""
    return ("", fact.digest) if fact.what == "code" and fact.digest else (fact.value, fact.digest)


def _named(facts: Sequence[Fact]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(fact.what for fact in facts))


def _and(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
