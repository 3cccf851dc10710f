"""What a choice is to keep to, and which wishes contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from avbench.errors import UsageError, unknown

BIN = 0.01
"""Width of a bin of discrepancy: that of the heatmap."""


@dataclass(frozen=True)
class Constraints:
    """What is wanted of a choice.

    low, high: range of discrepancy over which it is to be uniform; clips outside are dropped. size: most clips in all,
    or None: as many as possible. minimum, maximum: clips of each class; maximum may be None. overall, of_class:
    Kolmogorov-Smirnov distance from uniform, of all clips and of those of each class, at the edges of bins. shares:
    least and most share of pools, by name, of all kept clips; a pool that is not named may have any. noise: clips both
    of whose confidences are below it are dropped; 0 drops none.
    """

    low: float = -0.6
    high: float = 0.6
    size: int | None = None
    minimum: int = 1
    maximum: int | None = None
    overall: float = 0.05
    of_class: float = 0.15
    shares: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    noise: float = 0.0

    @property
    def bins(self) -> int:
        """How many bins the range has."""
        return round((self.high - self.low) / BIN)

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins, float64 [bins + 1], rounded to what is written: 0.29 and not 0.29000000000000004."""
        return np.round(self.low + BIN * np.arange(self.bins + 1), 9)

    def check(self, *, classes: int, pools: tuple[str, ...]) -> None:
        """Raise UsageError for a value out of bounds or two that contradict each other, with the nearest that hold."""
        self._check_range()
        self._check_values()
        self._check_counts(classes)
        self._check_shares(pools)

    def _check_range(self) -> None:
        if not -1 <= self.low < self.high <= 1:
            raise UsageError(f"range {self.low:g}:{self.high:g}: expected two ascending numbers in [-1, 1]")
        if abs(self.low + self.bins * BIN - self.high) > 1e-9:
            near = f"{self.low:g}:{self.low + self.bins * BIN:g}"
            raise UsageError(f"range {self.low:g}:{self.high:g} is not a whole number of bins of {BIN:g}; {near} is")

    def _check_values(self) -> None:
        for name, value in (("overall", self.overall), ("class", self.of_class)):
            if not 0 < value <= 1:
                raise UsageError(f"the {name} distance {value:g}: expected a number over 0 and up to 1")
        if not 0 <= self.noise <= 1:
            raise UsageError(f"the noise bound {self.noise:g}: expected a confidence, in [0, 1]")
        for name, count, least in (("size", self.size, 1), ("minimum", self.minimum, 0), ("maximum", self.maximum, 1)):
            if count is not None and count < least:
                raise UsageError(f"{name} {count}: expected {least} or more clips")

    def _check_counts(self, classes: int) -> None:
        if self.maximum is not None and self.minimum > self.maximum:
            raise UsageError(
                f"at least {self.minimum:,} and at most {self.maximum:,} clips of a class contradict each other; "
                f"a minimum of {self.maximum:,} holds, or a maximum of {self.minimum:,}"
            )
        if self.size is not None and classes * self.minimum > self.size:
            raise UsageError(
                f"at least {self.minimum:,} clips of each of {classes:,} classes and at most {self.size:,} in all "
                f"contradict each other; a minimum of {self.size // classes:,} holds, or a size of "
                f"{classes * self.minimum:,}"
            )

    def _check_shares(self, pools: tuple[str, ...]) -> None:
        for name, (least, most) in self.shares.items():
            if name not in pools:
                raise UsageError(unknown("pool", name, pools))
            if not 0 <= least <= most <= 1:
                raise UsageError(
                    f"shares {least:g}:{most:g} of pool {name!r}: expected two ascending numbers in [0, 1]"
                )
        least, most = (sum(bound) for bound in zip(*(self.share_of(name) for name in pools), strict=True))
        if least > 1 + 1e-9:
            nearest = " ".join(f"{name} {share[0] / least:.3g}" for name, share in self.shares.items())
            raise UsageError(
                f"the least shares of pools add up to {least:g}, over 1, and contradict each other; in the same "
                f"proportion these hold: {nearest}"
            )
        if most < 1 - 1e-9:
            nearest = " ".join(f"{name} {share[1] / most:.3g}" for name, share in self.shares.items())
            raise UsageError(
                f"the most shares of pools add up to {most:g}, under 1, and contradict each other; in the same "
                f"proportion these hold: {nearest}"
            )

    def share_of(self, pool: str) -> tuple[float, float]:
        """Least and most share of a pool."""
        return self.shares.get(pool, (0.0, 1.0))
