"""Which clips make up which batch, and every random choice for a clip: pure functions of numbers.

Nothing here keeps state between calls and no shuffled copy of the clip ids is made: the clip at a place of an epoch is
computed when it is asked for. So any rank, thread or resumed run can ask for any batch and gets the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, SplitMix64's step


class Stream(IntEnum):
    """What a random number is for. Numbers are part of every published order: never renumber, only add."""

    ORDER = 0
    FRAME = 1
    CROP = 2
    FLIP = 3
    WINDOW = 4


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): a bijection of uint64 that looks random."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _key(*numbers: np.ndarray | int) -> np.ndarray:
    """One uint64 for a tuple of integers (negative ones as two's complement), elementwise over arrays."""
    key: np.ndarray = np.zeros(1, np.uint64)
    for number in numbers:
        key = _mix((key + _GOLDEN) ^ np.atleast_1d(np.asarray(number, np.int64)).view(np.uint64))
    return key


def uniforms(clip_ids: np.ndarray, *, seed: int, epoch: int, stream: Stream, count: int) -> np.ndarray:
    """Random numbers in [0, 1) that belong to each clip: float64 [B, count].

    A counter-based generator keyed by (seed, epoch, clip id, stream): a clip's numbers do not depend on its batch, its
    rank or what was drawn before.
    """
    key = _key(seed, epoch, int(stream), np.asarray(clip_ids, np.int64))
    counter = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return (_mix(key[:, None] + counter) >> np.uint64(11)) * 2.0**-53


def rounds_for(size: int) -> int:
    """Rounds of `permute` for a domain of this size: 6 lg N, the authors' advice for small domains, and a few more."""
    return 6 * max(size - 1, 1).bit_length() + 6


def permute(places: np.ndarray, size: np.ndarray | int, key: np.ndarray, *, rounds: int) -> np.ndarray:
    """Where a keyed permutation of 0 .. size - 1 takes each place: int64, the shape of `places`.

    places: int64 in [0, size). size, key (uint64): one for all, or one each. A swap-or-not shuffle (Hoang, Morris and
    Rogaway 2012): each round pairs x with K - x mod size and swaps the pair or not, by a bit that both partners compute
    alike. Unlike a Feistel network it works on any size as it is, also on the smallest.
    """
    size = np.asarray(size, np.int64)
    x = places.astype(np.int64)
    if not x.size:
        return x
    round_keys = _mix(key[None, :] + np.arange(1, rounds + 1, dtype=np.uint64)[:, None] * _GOLDEN)
    reflections = (round_keys % size.astype(np.uint64)).astype(np.int64)
    for round_key, reflection in zip(round_keys, reflections, strict=True):
        partner = reflection - x
        partner += (partner < 0) * size
        x = np.where(_coin(np.maximum(x, partner), round_key), partner, x)
    return x


def _coin(value: np.ndarray, key: np.ndarray) -> np.ndarray:
    """A bit for each value under a key: two rounds of multiply and shift, enough for one bit."""
    mixed = (value.view(np.uint64) ^ key) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0x94D049BB133111EB)
    return mixed.view(np.int64) < 0


def part(number: int, *, parts: int, size: int) -> tuple[int, int]:
    """First and last (exclusive) of one of `parts` pieces of 0 .. size - 1, whose sizes differ by at most one."""
    return number * size // parts, (number + 1) * size // parts


@dataclass(frozen=True)
class ShardWindows:
    """A shuffle in two steps: shards over the epoch, then clips within each window of `shards` whole shards.

    starts: place in the list of clip ids where each shard begins, and the list's length, int64 [shards + 1].
    """

    starts: np.ndarray
    shards: int

    @classmethod
    def of(cls, shard_of_clip: np.ndarray, *, shards: int) -> ShardWindows:
        """Windows for a list of clips, given the shard of each; clips of one shard must stand together."""
        changes = np.flatnonzero(np.diff(shard_of_clip)) + 1
        return cls(np.concatenate([[0], changes, [len(shard_of_clip)]]).astype(np.int64), shards)

    def permute(self, places: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Where the shuffle takes each place, int64."""
        count = len(self.starts) - 1
        order = permute(np.arange(count), count, key, rounds=rounds_for(count))
        ends = np.concatenate([[0], np.cumsum(np.diff(self.starts)[order])])  # of the shuffled shards
        bounds = ends[np.minimum(np.arange(0, count + self.shards, self.shards), count)]  # of the windows
        window = np.searchsorted(bounds, places, side="right") - 1
        size = bounds[window + 1] - bounds[window]
        keys = _key(key.view(np.int64), window + 1)
        within = permute(places - bounds[window], size, keys, rounds=rounds_for(int(np.diff(bounds).max())))
        shuffled = bounds[window] + within
        shard = np.searchsorted(ends, shuffled, side="right") - 1
        return self.starts[order[shard]] + shuffled - ends[shard]


class _Order:
    """What both orders do: cut an epoch into batches and batches into ranks' slices."""

    clip_ids: range | np.ndarray
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.clip_ids) // self.batch_size)

    def batch(self, number: int) -> np.ndarray:
        """Clip ids of a global batch, int64."""
        return self.rank_slice(number, 0, 1)

    def rank_slice(self, number: int, rank: int, world_size: int) -> np.ndarray:
        """Clip ids of one rank's slice of a global batch, int64; slices differ by at most one clip and may be empty."""
        return self.rank_slices([number], rank, world_size)[0]

    def rank_slices(self, numbers: Sequence[int], rank: int, world_size: int) -> list[np.ndarray]:
        """`rank_slice` of several batches, computed together, which is much faster than one by one."""
        places = [np.arange(*self._bounds(number, rank, world_size)) for number in numbers]
        clips = self._clips(np.concatenate([np.empty(0, np.int64), *places]))
        return np.split(clips, np.cumsum([len(some) for some in places])[:-1]) if places else []

    def _bounds(self, number: int, rank: int, world_size: int) -> tuple[int, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of an epoch of {len(self)} batches")
        first, last = part(number, parts=len(self), size=len(self.clip_ids))
        start, stop = part(rank, parts=world_size, size=last - first)
        return first + start, first + stop

    def _clips(self, places: np.ndarray) -> np.ndarray:
        """The clips at these places of the epoch."""
        if isinstance(self.clip_ids, range):
            return self.clip_ids.start + self.clip_ids.step * self._permuted(places)
        return np.asarray(self.clip_ids[self._permuted(places)], np.int64)

    def _permuted(self, places: np.ndarray) -> np.ndarray:
        """The place in the list of clip ids for each place of the epoch."""
        raise NotImplementedError


@dataclass(frozen=True)
class SequentialOrder(_Order):
    """Clips in the order in which they are listed: for evaluation.

    clip_ids: a range, an array or a memory-mapped list; never copied. batch_size: clips of a global batch; an epoch has
    ceil(N / batch_size) batches whose sizes differ by at most one.
    """

    clip_ids: range | np.ndarray
    batch_size: int

    def _permuted(self, places: np.ndarray) -> np.ndarray:
        return places


@dataclass(frozen=True)
class EpochOrder(_Order):
    """Clips in the random order of one epoch: for training.

    The order is a function of (clip_ids, seed, epoch) and, with batch_size, so is every batch; world size, threads and
    the point where a run was resumed do not enter. Every clip is seen exactly once an epoch.

    windows: None shuffles over the whole epoch. For slow storage, `ShardWindows` shuffles the shards, and the clips
        only within groups of whole shards, so that a reader has few shards open at a time.
    """

    clip_ids: range | np.ndarray
    seed: int
    epoch: int
    batch_size: int
    windows: ShardWindows | None = None

    def _permuted(self, places: np.ndarray) -> np.ndarray:
        key = _key(self.seed, self.epoch, int(Stream.ORDER))
        if self.windows is None:
            return permute(places, len(self.clip_ids), key, rounds=rounds_for(len(self.clip_ids)))
        return self.windows.permute(places, key)


def crop_boxes(
    clip_ids: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    *,
    seed: int,
    epoch: int,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> np.ndarray:
    """A random resized crop's box for each clip, int64 [B, 4]: left, top, width, height in pixels.

    As torchvision's RandomResizedCrop defines it: of up to ten draws of an area (uniform in `scale`, as a share of the
    picture) and an aspect ratio (log-uniform in `ratio`) the first that fits, else the largest central box whose ratio
    is allowed.
    """
    tries = 10
    draws = uniforms(clip_ids, seed=seed, epoch=epoch, stream=Stream.CROP, count=2 * tries + 2)
    widths, heights = np.asarray(widths, np.int64), np.asarray(heights, np.int64)
    area = (widths * heights)[:, None] * (scale[0] + (scale[1] - scale[0]) * draws[:, :tries])
    low, high = np.log(ratio)
    aspect = np.exp(low + (high - low) * draws[:, tries : 2 * tries])
    width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (width > 0) & (width <= widths[:, None]) & (height > 0) & (height <= heights[:, None])
    chosen = np.argmax(fits, axis=1)[:, None]
    width, height = (np.take_along_axis(tried, chosen, axis=1)[:, 0] for tried in (width, height))
    left = np.floor(draws[:, -2] * (widths - width + 1)).astype(np.int64)
    top = np.floor(draws[:, -1] * (heights - height + 1)).astype(np.int64)
    boxes = np.stack([left, top, width, height], axis=1)
    return np.where(fits.any(axis=1)[:, None], boxes, _central_boxes(widths, heights, ratio))


def _central_boxes(widths: np.ndarray, heights: np.ndarray, ratio: Sequence[float]) -> np.ndarray:
    """The largest central box of an allowed aspect ratio, int64 [B, 4]."""
    width = np.minimum(widths, np.rint(heights * ratio[1]).astype(np.int64))
    height = np.minimum(heights, np.rint(widths / ratio[0]).astype(np.int64))
    return np.stack([(widths - width) // 2, (heights - height) // 2, width, height], axis=1)


def flips(clip_ids: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Whether each clip's pictures are mirrored, bool [B], with probability one half."""
    return uniforms(clip_ids, seed=seed, epoch=epoch, stream=Stream.FLIP, count=1)[:, 0] < 0.5


def random_frames(clip_ids: np.ndarray, frame_counts: np.ndarray, *, seed: int, epoch: int, count: int) -> np.ndarray:
    """One random frame from each of `count` equal parts of each clip, int64 [B, count]."""
    draws = uniforms(clip_ids, seed=seed, epoch=epoch, stream=Stream.FRAME, count=count)
    return _frames_at(np.arange(count) + draws, frame_counts, count)


def middle_frames(frame_counts: np.ndarray, *, count: int) -> np.ndarray:
    """The middle frame of each of `count` equal parts of each clip, int64 [B, count]."""
    return _frames_at(np.broadcast_to(np.arange(count) + 0.5, (len(frame_counts), count)), frame_counts, count)


def _frames_at(positions: np.ndarray, frame_counts: np.ndarray, count: int) -> np.ndarray:
    """Frames at these positions in [0, count) of a clip; where a clip has fewer than `count`, some come twice."""
    counts = np.asarray(frame_counts, np.int64)[:, None]
    return np.minimum(np.floor(positions * counts / count).astype(np.int64), counts - 1)


def random_windows(
    clip_ids: np.ndarray, lengths: np.ndarray, windows: np.ndarray, *, seed: int, epoch: int
) -> np.ndarray:
    """Where a random window of each clip starts, int64 [B]: any place where it lies inside the clip, else 0.

    lengths, windows: int64 [B], in samples of the clip's file.
    """
    draws = uniforms(clip_ids, seed=seed, epoch=epoch, stream=Stream.WINDOW, count=1)[:, 0]
    return np.floor(draws * (_places(lengths, windows) + 1)).astype(np.int64)


def middle_windows(lengths: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Where the middle window of each clip starts, int64 [B]; 0 where it is longer than the clip."""
    return _places(lengths, windows) // 2


def _places(lengths: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """The last sample at which a window may start, int64 [B]."""
    return np.maximum(np.asarray(lengths, np.int64) - windows, 0)
