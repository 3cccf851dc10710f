"""Which clips may be alike: those of which several words are, at one distance in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from avbench.curation.duplicates.neighbours import neighbours


def candidates(
    words: Sequence[np.ndarray], places: Sequence[np.ndarray], *, radius: int, votes: int, slack: int
) -> Iterator[tuple[int, int, int]]:
    """Pairs of clips (one < other) with the shift that most words agree on: place k of one is k + shift of the other.

    words, places: of each clip, uint64 [W] and int [W]. radius: bits in which two words may differ. votes: pairs of
    words that must agree on a shift, give or take `slack` places.
    """
    owners = np.repeat(np.arange(len(words)), [len(one) for one in words])
    if not len(owners):
        return
    place = np.concatenate(places).astype(np.int64)
    first, second = neighbours(np.concatenate(words), owners, radius=radius)
    swapped = owners[first] > owners[second]
    first, second = np.where(swapped, second, first), np.where(swapped, first, second)
    # The same two words may have met in several orders of the bits: they have one vote.
    first, second = np.divmod(np.unique(first * len(owners) + second), len(owners))
    pair, shift = owners[first] * len(words) + owners[second], place[second] - place[first]
    order = np.lexsort((shift, pair))
    pair, shift = pair[order], shift[order]
    starts = np.flatnonzero(np.diff(pair, prepend=-1))
    for start, end in pairwise([*starts.tolist(), len(pair)]):
        if end - start >= votes:
            agreed, count = _most_agreed(shift[start:end], slack)
            if count >= votes:
                yield int(pair[start] // len(words)), int(pair[start] % len(words)), agreed


def _most_agreed(shifts: np.ndarray, slack: int) -> tuple[int, int]:
    """The shift with the most votes and how many; shifts: ascending."""
    within = np.searchsorted(shifts, shifts + slack, side="right") - np.searchsorted(shifts, shifts - slack)
    best = int(within.argmax())
    return int(shifts[best]), int(within[best])
