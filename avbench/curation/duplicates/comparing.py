"""Two clips compared by checksums and fingerprints, and which are worth it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from avbench.curation.duplicates import looks, sounds
from avbench.curation.duplicates.looks import LookPrint
from avbench.curation.duplicates.prints import Prints
from avbench.curation.duplicates.search import candidates
from avbench.curation.duplicates.sounds import STEP_SECONDS, SoundPrint
from avbench.vocabulary import SPLITS

# Clips of val and test that a training clip of the same group is compared with.
_COMPARED_IN_GROUP = 8
# A pair of words that is alike by chance shows so at once: a share of bits, at the shift that the words agree on.
_TOO_DIFFERENT = 0.4
_TRAIN = SPLITS.index("train")


@dataclass(frozen=True, slots=True)
class Match:
    """What two clips have in common, in sound or in pictures.

    is_same: the stored bytes are equal. alike: the share of the fingerprint's bits (sound; unrelated ones have a half)
    or of the pictures that agree. shift_seconds: a moment of the first clip is so much later in the other.
    """

    is_same: bool
    alike: float
    shift_seconds: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Two clips that are alike, by their numbers: the first is of the earlier split, and so of train where one is."""

    one: int
    other: int
    sound: Match | None
    pictures: Match | None


Numbers = tuple[int, int]
_SAME = Match(is_same=True, alike=1.0, shift_seconds=0.0)


class Comparison:
    """Clips with what is known of them.

    splits: of each clip, int64 [N]. sound_sums, picture_sums: what identifies the bytes, uint64 [N]. clips: those that
    have fingerprints, ascending; prints: theirs. exact: only equal bytes count.
    """

    def __init__(
        self,
        splits: np.ndarray,
        sums: tuple[np.ndarray, np.ndarray],
        clips: np.ndarray,
        prints: Prints,
        *,
        exact: bool,
    ) -> None:
        self._splits, self._sums, self._clips, self._prints = splits, sums, clips, prints
        self._exact = exact
        self._place = np.full(len(splits), -1, np.int64)
        self._place[clips] = np.arange(len(clips))
        self._first_step = np.concatenate([[0], np.cumsum(prints.steps)])
        self._first_picture = np.concatenate([[0], np.cumsum(prints.pictures)])
        self._proves = (prints.audible, prints.moving)

    def equal(self) -> set[Numbers]:
        """Of the clips with equal bytes each with the first of them, which is of val or test where one is."""
        found = set()
        for sums, proves in zip(self._sums, self._proves, strict=True):
            for group in groups_of(sums):
                if proves[self._place[group]].any():
                    first, *others = sorted(group.tolist(), key=self._worst_first)
                    found |= {self._in_order(first, other) for other in others}
        return found

    def candidates(self) -> set[Numbers]:
        """Clips that have several parts of their sound or several pictures in common, at one shift; none if exact."""
        found = set[Numbers]()
        if self._exact:
            return found
        clips = self._representatives(self._sums[0])
        words, steps = zip(*(sounds.words_of(self._sound(clip)) for clip in clips), strict=True)
        for one, other, shift in candidates(words, steps, radius=16, votes=3, slack=1):
            one, other = clips[one], clips[other]
            near = range(shift - 1, shift + 2)
            if min(sounds.different(self._sound(one), self._sound(other), at)[0] for at in near) < _TOO_DIFFERENT:
                found.add(self._in_order(one, other))
        clips = self._representatives(self._sums[1])
        words, seconds = zip(*(looks.words_of(self._pictures(clip)) for clip in clips), strict=True)
        for one, other, _ in candidates(words, seconds, radius=looks.ALIKE_BITS, votes=2, slack=0):
            found.add(self._in_order(clips[one], clips[other]))
        return found

    def compared(self, one: int, other: int) -> Pair | None:
        """What two clips have in common; None where that is nothing."""
        sound, pictures = self._by_sound(one, other), self._by_pictures(one, other)
        return Pair(one, other, sound, pictures) if sound or pictures else None

    def completed(self, pairs: Mapping[Numbers, Pair]) -> dict[Numbers, Pair]:
        """The pairs of train with val and test that follow from others: if A is as B, and B as C, then A may be as C.

        The search meets only some pairs of clips that come many times. Each training clip that is in a group with clips
        of val or test, and in no pair with one, is compared with a few of them.
        """
        crossing = {one for one, other in pairs if self._splits[one] == _TRAIN != self._splits[other]}
        found: dict[Numbers, Pair] = {}
        for group in groups_by(pairs, len(self._splits)):
            judged = [clip for clip in group if self._splits[clip] != _TRAIN][:_COMPARED_IN_GROUP]
            for clip in group:
                if self._splits[clip] == _TRAIN and clip not in crossing:
                    made = [pair for other in judged if (pair := self.compared(clip, other)) is not None]
                    found |= {(pair.one, pair.other): pair for pair in made}
        return found

    def _by_sound(self, one: int, other: int) -> Match | None:
        if self._sums[0][one] == self._sums[0][other]:
            return _SAME if self._prints.audible[self._place[[one, other]]].any() else None
        at = None if self._exact else sounds.alike_at(self._sound(one), self._sound(other))
        return None if at is None else Match(is_same=False, alike=at[0], shift_seconds=at[1] * STEP_SECONDS)

    def _by_pictures(self, one: int, other: int) -> Match | None:
        if self._sums[1][one] == self._sums[1][other]:
            return _SAME if self._prints.moving[self._place[[one, other]]].any() else None
        at = None if self._exact else looks.alike_at(self._pictures(one), self._pictures(other))
        return None if at is None else Match(is_same=False, alike=at[0], shift_seconds=float(at[1]))

    def _representatives(self, sums: np.ndarray) -> list[int]:
        """Of the clips with equal bytes one, which stands for all; and all others."""
        others = [sorted(group.tolist(), key=self._worst_first)[1:] for group in groups_of(sums)]
        left_out = {clip for group in others for clip in group}
        return [clip for clip in self._clips.tolist() if clip not in left_out]

    def _worst_first(self, clip: int) -> tuple[int, int]:
        return -int(self._splits[clip]), clip

    def _in_order(self, one: int, other: int) -> Numbers:
        first, second = sorted((one, other), key=lambda clip: (self._splits[clip], clip))
        return first, second

    def _sound(self, clip: int) -> SoundPrint:
        place = self._place[clip]
        first, end = self._first_step[place : place + 2]
        prints = self._prints
        return SoundPrint(prints.bits[first:end], prints.active[first:end], int(prints.bands[place]))

    def _pictures(self, clip: int) -> LookPrint:
        first, end = self._first_picture[self._place[clip] : self._place[clip] + 2]
        return LookPrint(self._prints.looks[first:end], self._prints.shows[first:end])


def groups_of(sums: np.ndarray) -> Iterator[np.ndarray]:
    """The clips that have a checksum in common, ascending, for each checksum that several have."""
    order = np.argsort(sums, kind="stable")
    starts = np.flatnonzero(np.diff(sums[order], prepend=~sums[order[:1]]))
    sizes = np.diff(starts, append=len(order))
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield order[start : start + size]


def groups_by(pairs: Mapping[Numbers, Pair], clips: int) -> list[list[int]]:
    """The clips that are connected by pairs, ascending, by their first clip. clips: how many there are in all."""
    if not pairs:
        return []
    ones, others = np.array(list(pairs), np.int64).T
    _, group_of = connected_components(coo_array((np.ones(len(ones)), (ones, others)), shape=(clips, clips)))
    members: dict[int, list[int]] = defaultdict(list)
    for clip in np.unique(np.concatenate([ones, others])).tolist():
        members[int(group_of[clip])].append(clip)
    return sorted(members.values())
