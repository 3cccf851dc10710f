"""Whether every network counted each clip of its own part of train exactly once in every epoch, and how it is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from avbench.wording import first_of

Verdict = Literal["each once", "not recorded", "wrong"]

# Clips, and problems of one run, that a sentence names.
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Audited:
    """One run under one seed. training: its run folder, as it is told apart from the others.

    part: of train, that it is trained on. epochs: how many were trained; checked: of these, how many have a record of
    their clips. clips: that each checked epoch must count, and left_out: of its part, those that were left out; both of
    the last checked epoch, None without one. problems: what is wrong, a few words each; () where nothing is.
    """

    training: str
    run: str
    seed: int
    part: str
    epochs: int
    checked: int
    clips: int | None
    left_out: int | None
    problems: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether it is proved, disproved or not known."""
        if self.problems:
            return "wrong"
        return "each once" if self.checked else "not recorded"


@dataclass(frozen=True, slots=True)
class Audit:
    """All runs of all run folders. left_out: by training the keys of clips of any split that were left out there."""

    runs: tuple[Audited, ...]
    left_out: Mapping[str, tuple[str, ...]]

    @property
    def wrong(self) -> tuple[Audited, ...]:
        """The runs whose numbers are not to be trusted."""
        return tuple(one for one in self.runs if one.problems)

    @property
    def sentence(self) -> str:
        """What was found, for people; "" where there is no run."""
        parts = [*self._found(), *self._left_out()]
        return " ".join(parts)

    @property
    def warning(self) -> str:
        """One sentence where something is wrong, else ""."""
        if not self.wrong:
            return ""
        first = self.wrong[0]
        more = f" (and {len(self.wrong) - 1} more, see the audit)" if len(self.wrong) > 1 else ""
        return (
            f"{first.run} (seed {first.seed}, {first.training}){more} did not count each clip of its part of train "
            f"exactly once in every epoch: {first.problems[0]}. Its numbers are not to be trusted; train it again."
        )

    def _found(self) -> Iterator[str]:
        proved = [one for one in self.runs if one.verdict == "each once"]
        if self.warning:
            yield self.warning
        if proved:
            epochs = sum(one.checked for one in proved)
            others = "Each of the other" if self.wrong else "Each of the"
            who = f"{others} {len(proved)} networks" if len(proved) > 1 else f"The network {proved[0].run}"
            yield (
                f"{who} counted every clip of its part of train exactly once in every recorded epoch ({epochs:,} "
                f"epochs in all), over all ranks and launches."
            )
        missing = sum(one.epochs - one.checked for one in self.runs)
        if missing or any(one.verdict == "not recorded" for one in self.runs):
            yield (
                f"Not recorded, as in run folders of earlier versions: {missing:,} epochs of "
                f"{_listed({one.run for one in self.runs if one.checked < one.epochs or not one.epochs})}."
            )

    def _left_out(self) -> Iterator[str]:
        for training, keys in self.left_out.items():
            yield (
                f"Left out of {training}, of any split, for bad bytes ({len(keys):,}): {first_of(keys, _MOST_NAMED)}."
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
