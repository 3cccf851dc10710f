"""A proof, kept beside the numbers, that an epoch counted every clip of a run's own part exactly once.

Every clip id that a run's training step has taken in is mixed to 64 bits, and the mixed ids are added up modulo 2^64:
over batches and ranks, in any order. The sum over the ids of the run's part, without those left out for bad bytes, is
what it must come to; a clip that was counted twice, or not at all, changes it (but for one case in 2^64).

Records of kind "epoch" in metrics.jsonl have, of each run: `counted_clips`, `counted_hash` (16 hexadecimal digits),
what they must be, `expected_clips`, `expected_hash`, and `left_out_clips`, so many of its part as were left out. Which
these are, records of kind "event" say: those with a `clip_id` were left out from their `epoch` on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_AT_ONCE = 1 << 20  # ids that are mixed together: 8 MB and as much again
_MODULUS = 1 << 64


@dataclass(frozen=True, slots=True)
class Count:
    """How many clips, and the sum of their mixed ids modulo 2^64."""

    clips: int = 0
    mixed: int = 0

    @classmethod
    def of(cls, clip_ids: np.ndarray) -> Count:
        """Of these ids, int64 [N]."""
        mixed = 0
        for first in range(0, len(clip_ids), _AT_ONCE):
            mixed += int(mix(clip_ids[first : first + _AT_ONCE]).sum(dtype=np.uint64))
        return cls(len(clip_ids), mixed % _MODULUS)

    def __add__(self, other: Count) -> Count:
        return Count(self.clips + other.clips, (self.mixed + other.mixed) % _MODULUS)

    def __sub__(self, other: Count) -> Count:
        return Count(self.clips - other.clips, (self.mixed - other.mixed) % _MODULUS)

    @property
    def hash(self) -> str:
        """The sum, 16 hexadecimal digits."""
        return f"{self.mixed:016x}"

    def words(self) -> tuple[float, float, float]:
        """As floats whose sums over up to two million ranks are exact: see `from_words`."""
        return float(self.clips), float(self.mixed >> 32), float(self.mixed & 0xFFFFFFFF)

    @classmethod
    def from_words(cls, clips: float, high: float, low: float) -> Count:
        """From `words`, or their sums over ranks."""
        return cls(int(clips), ((int(high) << 32) + int(low)) % _MODULUS)


def mix(clip_ids: np.ndarray) -> np.ndarray:
    """Ids as 64 well-mixed bits each, uint64 [N]: SplitMix64's output function (Steele, Lea, Flood, OOPSLA 2014)."""
    bits = clip_ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class Audit:
    """What each part of train must come to. parts: by name the ids of its clips, ascending."""

    def __init__(self, parts: Mapping[Any, np.ndarray]) -> None:
        self._parts = parts
        self._whole: dict[Any, Count] = {}  # counted when first asked for

    def record(self, part: Any, counted: Count | None, *, left_out: Collection[int]) -> dict[str, Any]:
        """What the epoch's record says of a run of this part.

        counted: over all ranks; None where that is not known (an epoch begun by an avbench that did not count), then
        nothing is said. left_out: of all splits, clips that were left out for bad bytes.
        """
        if counted is None:
            return {}
        expected, missing = self._expected(part, left_out)
        return {
            "counted_clips": counted.clips,
            "counted_hash": counted.hash,
            "expected_clips": expected.clips,
            "expected_hash": expected.hash,
            "left_out_clips": missing,
        }

    def _expected(self, part: Any, left_out: Collection[int]) -> tuple[Count, int]:
        ids = self._parts[part]
        if part not in self._whole:
            self._whole[part] = Count.of(ids)
        out = np.intersect1d(ids, np.fromiter(left_out, np.int64, len(left_out)))
        return self._whole[part] - Count.of(out), len(out)


def said_of(name: str, epoch: int, record: Mapping[str, Any]) -> str:
    """What is said where a run has not counted each clip once; empty where it has."""
    if not record or (record["counted_clips"], record["counted_hash"]) == (
        record["expected_clips"],
        record["expected_hash"],
    ):
        return ""
    return (
        f"{name} counted {record['counted_clips']} clips in epoch {epoch} (hash {record['counted_hash']}) where each "
        f"of {record['expected_clips']} was to be counted once (hash {record['expected_hash']}): this is a defect of "
        f"avbench, its numbers are not to be trusted; please report it"
    )
