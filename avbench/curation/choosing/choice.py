"""From candidates to the clips that are kept, and how even they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from avbench.curation.choosing.candidates import Candidates, Dropped, Usable, taken, usable
from avbench.curation.choosing.constraints import Constraints
from avbench.curation.choosing.counting import count
from avbench.curation.choosing.evenness import Evenness, evenness
from avbench.curation.choosing.program import Limits
from avbench.errors import DatasetError

_NO_MORE_THAN_ROUNDING = 2e-6
"""Distances over a bound by less are not called loosened: the solver keeps bounds to a millionth."""


@dataclass(frozen=True)
class Loosened:
    """A bound that was loosened.

    bound: `minimum`, `overall`, `share` or `class`. name: of the class or pool, empty for all clips. asked, reached:
    the bound, and what the choice has; clips, a distance, or a share.
    """

    bound: str
    name: str
    asked: float
    reached: float

    def text(self) -> str:
        """One line."""
        if self.bound == "minimum":
            return f"minimum of class {self.name!r}: {self.reached:,.0f} clips in the place of {self.asked:,.0f}"
        if self.bound == "share":
            return f"share of pool {self.name!r}: {self.reached:.4f} in the place of {self.asked:g}"
        whom = f"of class {self.name!r}" if self.name else "overall"
        return f"Kolmogorov-Smirnov distance {whom}: {self.reached:.4f} in the place of {self.asked:g}"


@dataclass(frozen=True)
class Measured:
    """Evenness of all clips, and of each class by name."""

    overall: Evenness
    of_class: dict[str, Evenness]


@dataclass(frozen=True)
class Choice:
    """The clips that are kept.

    rows: of the candidates, ascending, int64. possible: the most clips that can be kept within the bounds that hold; no
    choice has more. loosened: the most important bounds first. before: of all candidates that may be chosen.
    """

    rows: np.ndarray
    possible: int
    dropped: Dropped
    loosened: tuple[Loosened, ...]
    before: Measured = field(repr=False)
    after: Measured = field(repr=False)


def choose(candidates: Candidates, constraints: Constraints, *, seed: int) -> Choice:
    """As many clips as possible whose discrepancies are uniform over the range, as far as the constraints say.

    Raises UsageError where constraints contradict each other, and DatasetError where candidates cannot be used.
    """
    constraints.check(classes=len(candidates.classes), pools=candidates.pools)
    candidates.check()
    found = usable(candidates, constraints)
    if not len(found.rows):
        raise DatasetError(f"no candidate is left: {found.dropped.text()}; widen the range or lower the noise bound")
    answer = count(found.cells, _limits(candidates, constraints))
    rows = taken(candidates, found, answer.counts, seed=seed)
    before = _measured(candidates, found, found.rows, constraints)
    after = _measured(candidates, found, rows, constraints)
    loosened = tuple(_loosened(candidates, constraints, rows, after))
    # The linear program is exact to a millionth of a clip.
    return Choice(rows, int(answer.possible + 1e-3), found.dropped, loosened, before, after)


def _limits(candidates: Candidates, constraints: Constraints) -> Limits:
    clips, classes = len(candidates.keys), len(candidates.classes)
    shares = np.array([constraints.share_of(name) for name in candidates.pools])
    return Limits(
        size=min(constraints.size or clips, clips),
        least=np.full(classes, constraints.minimum),
        most=np.full(classes, min(constraints.maximum or clips, clips)),
        overall=constraints.overall,
        of_class=np.full(classes, constraints.of_class),
        shares=shares if constraints.shares else None,
    )


def _measured(candidates: Candidates, found: Usable, rows: np.ndarray, constraints: Constraints) -> Measured:
    """Evenness of some of the usable rows."""
    values = found.discrepancies[np.searchsorted(found.rows, rows)]
    class_of = candidates.class_of[rows]
    order = np.argsort(class_of, kind="stable")
    ends = np.searchsorted(class_of[order], np.arange(1, len(candidates.classes)))
    by_class = np.split(values[order], ends)
    edges = constraints.edges
    each = {name: evenness(part, edges) for name, part in zip(candidates.classes, by_class, strict=True)}
    return Measured(evenness(values, edges), each)


def _loosened(
    candidates: Candidates, constraints: Constraints, rows: np.ndarray, after: Measured
) -> Iterator[Loosened]:
    """What the choice does not keep of what was asked for, the most important first."""
    for name, of_class in after.of_class.items():
        if of_class.clips < constraints.minimum:
            yield Loosened("minimum", name, constraints.minimum, of_class.clips)
    reached = after.overall.binned_kolmogorov_smirnov
    if reached > constraints.overall + _NO_MORE_THAN_ROUNDING:
        yield Loosened("overall", "", constraints.overall, reached)
    kept = np.bincount(candidates.pool_of[rows], minlength=len(candidates.pools)) / len(rows)
    for name, share in zip(candidates.pools, kept.tolist(), strict=True):
        least, most = constraints.share_of(name)
        if not least - _NO_MORE_THAN_ROUNDING <= share <= most + _NO_MORE_THAN_ROUNDING:
            yield Loosened("share", name, least if share < least else most, share)
    for name, of_class in after.of_class.items():
        if of_class.binned_kolmogorov_smirnov > constraints.of_class + _NO_MORE_THAN_ROUNDING:
            yield Loosened("class", name, constraints.of_class, of_class.binned_kolmogorov_smirnov)
