"""One stream's sound: decoded, mixed to mono, and laid out in time as its stamps say.

Stamps are rounded, and some stray: in WebM those of Vorbis by 11 ms at each switch of block size, those of a live
recording by more. The decoder's samples belong in one run all the same. So, as in FFmpeg's resampler, only a jump of
100 ms is followed at once; a smaller one is followed if the stamps do not come back to the run, because sound is then
missing (or repeated) for good. The first stamp of a run may stray as well: most of the first half second decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from avbench.packing.streams import BEFORE_ALL, Reason, Reject, decoded, seconds

# Decoding starts this long before a window: overlapping transforms (AAC, Opus) and MP3's bit reservoir need a run-up.
RUN_UP = Fraction(1)
# Sound that is missing for longer inside a file makes the clip another one than was recorded.
_LONGEST_GAP = Fraction(1, 2)
# FFmpeg's min_hard_comp: a jump of the stamps by more is followed at once.
_JUMP_SECONDS = 0.1
# Stamps that stray by less are rounding (Matroska's milliseconds, FLV's).
_ROUNDING_SECONDS = 0.01
# Stamps that stray by more than rounding are believed if they stay away from the run for this long (or to the end,
# if that is at least the shorter time away).
_AWAY_SECONDS = 10.0
_LEAST_AWAY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Waveform:
    """Sound from the clip's begin on.

    samples: float32 [S], mono, at rate_hz. mix_db: the level of the mix relative to the mean power of its channels;
    0 for mono, about -3 for stereo of two unlike channels, and far below where channels cancel each other; None where
    every channel is silent. lost_seconds: how much of it is silence in the place of sound that the file does not have,
    after its first sound.
    """

    samples: np.ndarray
    rate_hz: int
    mix_db: float | None
    lost_seconds: float = 0.0

    @property
    def seconds(self) -> Fraction:
        """How long it lasts."""
        return Fraction(len(self.samples), self.rate_hz)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One decoded frame. stamp: where it belongs, in samples from the clip's begin; None where the file is silent."""

    stamp: int | None
    mono: np.ndarray
    channel_energy: float  # mean over the channels of the sum of squares


class Sound:
    """Collects one stream's sound from `begin` on, to `end` if that is not None (seconds on the file's clock)."""

    def __init__(self, begin: Fraction, end: Fraction | None) -> None:
        self.begin, self.end = begin, end
        self.first: Fraction | None = None  # of the first packet
        self.reached = BEFORE_ALL  # no later packet starts before this
        self.ends = BEFORE_ALL
        self.is_unstamped = False  # whether some packet does not say where it belongs
        self._rate = 0
        self._pieces: list[_Piece] = []
        self._last: tuple[Fraction, Fraction, int] | None = None  # time, end and part of the last packet
        self._decoded: tuple[Fraction, int] | None = None  # end and part of the last frame

    def take(self, packet: av.Packet, part: int) -> None:
        """Decode one packet, of that part of the file's clock. Raises Reject where sound is missing before it."""
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None:  # the decoder's last frames, or a stream without time stamps: as it comes
            self.is_unstamped |= packet.size > 0
            for frame in decoded(packet, required=False):
                self._add(frame, part)
            return
        time, duration = seconds(stamp, packet), seconds(packet.duration, packet)
        self.first = time if self.first is None else self.first
        self.reached = time
        self.ends = max(self.ends, time + duration)
        if not packet.is_discard:
            self._check_no_gap(time, duration, part)
        if time >= self.begin - RUN_UP and (self.end is None or time < self.end):
            for frame in decoded(packet, required=time >= self.begin):
                self._add(frame, part)

    def began_late(self, stream: av.AudioStream) -> bool:
        """Whether the first packet lies so late that the window's start lacks its run-up."""
        opening = seconds(stream.start_time, stream)
        return self.first is None or self.first > max(self.begin - RUN_UP / 4, opening)

    def waveform(self, end: Fraction | None) -> Waveform:
        """What was collected, up to `end` where that is not None; no samples where the sound ended before `begin`."""
        rate = self._rate or 48000
        lengths = [len(piece.mono) for piece in self._pieces]
        starts = places([piece.stamp for piece in self._pieces], lengths, rate)
        limit = None if end is None else max(0, round((end - self.begin) * rate))
        samples = laid_out([piece.mono for piece in self._pieces], starts, limit)
        kept = [
            piece
            for piece, start, length in zip(self._pieces, starts, lengths, strict=True)
            if start + length > 0 and (limit is None or start < limit)
        ]
        return Waveform(samples, rate, _mix_db(kept), lost_samples(starts, lengths, len(samples)) / rate)

    def _check_no_gap(self, time: Fraction, duration: Fraction, part: int) -> None:
        """Raise Reject where, in the clip, this packet lies well after or before the end of the one before it."""
        if self._last is None:
            self._last = (time, time + duration, part)
            return
        last_time, last_end, last_part = self._last
        # Some containers give no durations; a packet then lasts about as long as the one before.
        self._last = (time, time + (duration or min(max(Fraction(0), time - last_time), _LONGEST_GAP)), part)
        goes_on = time if self.end is None else min(time, self.end)
        if part != last_part:
            return
        self._check_nothing_missing(last_end, time)
        if last_time - time > _LONGEST_GAP and last_end > self.begin and time == goes_on:
            at = float(last_end - self.begin)
            raise Reject(Reason.GAP, f"the sound's clock goes back by {float(last_end - time):.2f} s at {at:.2f} s")

    def _check_nothing_missing(self, stops: Fraction, goes_on: Fraction) -> None:
        """Raise Reject where there is no sound from `stops` to `goes_on`, that is long, and lies in the clip."""
        first, last = max(stops, self.begin), goes_on if self.end is None else min(goes_on, self.end)
        if goes_on - stops > _LONGEST_GAP and last > first:
            at = float(first - self.begin)
            raise Reject(Reason.GAP, f"no sound for {float(goes_on - stops):.2f} s from {at:.2f} s of the clip on")

    def _check_frame(self, frame: av.AudioFrame, part: int) -> None:
        """Raise Reject where sound is missing before this frame: in MP4 the packet before a hole lasts through it."""
        last = self._decoded
        time = seconds(frame.pts, frame) if frame.pts is not None else (last[0] if last is not None else None)
        if time is None:
            return
        if last is not None and last[1] == part:
            self._check_nothing_missing(last[0], time)
        self._decoded = (time + Fraction(frame.samples, frame.sample_rate), part)

    def _add(self, frame: av.AudioFrame, part: int) -> None:
        self._check_frame(frame, part)
        if self._rate not in (0, frame.sample_rate):
            raise Reject(Reason.UNDECODABLE, f"the sample rate changes from {self._rate} to {frame.sample_rate} Hz")
        self._rate = frame.sample_rate
        channels = _channels(frame)
        stamp = None if frame.pts is None else round((seconds(frame.pts, frame) - self.begin) * self._rate)
        self._pieces.append(_Piece(stamp, channels.mean(axis=0, dtype=np.float32), _energy(channels) / len(channels)))


def places(stamps: list[int | None], lengths: list[int], rate_hz: int) -> list[int]:
    """Where each piece of sound starts: right after the one before, unless its stamp says otherwise and means it.

    stamps: in samples; None where a piece has none. lengths: in samples. A stamp is followed that jumps by more than
    100 ms, or that strays by more than 10 ms and does not come back within ten seconds.
    """
    # What a stamp is ahead of the run without any gap: constant in a file without jitter.
    before = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]) if lengths else np.zeros(0, np.int64)
    ahead = np.array([0 if stamp is None else stamp for stamp in stamps], np.int64) - before
    has_stamp = np.array([stamp is not None for stamp in stamps], bool)
    shifts = np.zeros(len(stamps), np.int64)
    shift: int | None = None  # of the run that is being laid out
    home = -1  # the piece with which straying stamps come back
    for number in np.flatnonzero(has_stamp).tolist():
        off = 0 if shift is None else int(ahead[number]) - shift
        is_far = abs(off) > _JUMP_SECONDS * rate_hz
        if abs(off) > _ROUNDING_SECONDS * rate_hz and not is_far and number > home:
            back = _comes_back(ahead, shift or 0, has_stamp, before, number, rate_hz)
            is_far = back is None
            home = home if back is None else back
        if shift is None or is_far:
            begins = 0 if shift is None else number  # what has no stamp before the first one, belongs right before it
            shift = _said_of_run(ahead, has_stamp, before, number, rate_hz)
            shifts[begins:] = shift
    return (shifts + before).tolist()


def _said_of_run(ahead: np.ndarray, has_stamp: np.ndarray, before: np.ndarray, number: int, rate_hz: int) -> int:
    """How far a run that begins with this piece lies ahead: as its own stamp says, unless most others say otherwise.

    The first stamp may stray like any other, so those of the next half second, up to a jump, are asked too.
    """
    last = int(np.searchsorted(before, before[number] + _LEAST_AWAY_SECONDS * rate_hz))
    said = ahead[number:last][has_stamp[number:last]]
    own = int(ahead[number])
    jumps = np.flatnonzero(np.abs(said - own) > _JUMP_SECONDS * rate_hz)
    ordered = sorted(said[: jumps[0]] if len(jumps) else said)
    most = min(ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2], key=lambda one: abs(one - own))
    return own if abs(most - own) <= _ROUNDING_SECONDS * rate_hz else int(most)


def _comes_back(
    ahead: np.ndarray, shift: int, has_stamp: np.ndarray, before: np.ndarray, number: int, rate_hz: int
) -> int | None:
    """The piece with which stamps that stray from this one on are back at the run, or cross it; None if they stay away.

    ahead - shift is by how much each stamp is off, in samples. before: the samples before each piece.
    """
    last = int(np.searchsorted(before, before[number] + _AWAY_SECONDS * rate_hz))
    later = np.arange(number + 1, min(last, len(ahead)))
    later = later[has_stamp[later]]
    toward = (ahead[later] - shift) * np.sign(ahead[number] - shift)
    back = later[toward <= _ROUNDING_SECONDS * rate_hz]
    if len(back):
        return int(back[0])
    seen = (before[-1] - before[number]) / rate_hz
    return len(ahead) if seen < _LEAST_AWAY_SECONDS else None


def laid_out(pieces: list[np.ndarray], starts: list[int], limit: int | None) -> np.ndarray:
    """float32 [S]: the pieces from sample 0 to `limit`, silence in between; of two that overlap, the first."""
    parts: list[np.ndarray] = []
    length = 0
    for mono, start in zip(pieces, starts, strict=True):
        gap = start - length
        if gap > 0:
            gap = gap if limit is None else min(gap, max(0, limit - length))
            parts.append(np.zeros(gap, np.float32))
            length += gap
        kept = mono[max(0, -gap) :]  # without what lies before the clip's start, and sound that came twice
        parts.append(kept)
        length += len(kept)
    joined = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return joined[:limit]


def lost_samples(starts: list[int], lengths: list[int], samples: int) -> int:
    """How many of a clip's samples lie in gaps between pieces of sound; what comes before the first is not lost.

    starts, lengths: of the pieces as `places` lays them out. samples: of the clip.
    """
    lost = 0
    reached: int | None = None  # the end of the sound so far; None before the first piece
    for start, length in zip(starts, lengths, strict=True):
        if reached is not None:
            lost += max(0, min(start, samples) - max(reached, 0))
        reached = max(start + length, start if reached is None else reached)
    return lost


def resampled(mono: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """int16 at another rate, by libswresample; sample 0 stays at time 0."""
    if from_hz == to_hz:
        return np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(mono[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = from_hz, 0, Fraction(1, from_hz)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=to_hz)
    return np.concatenate([out.to_ndarray()[0] for out in (*resampler.resample(frame), *resampler.resample(None))])


def _channels(frame: av.AudioFrame) -> np.ndarray:
    """float32 [channels, S] in [-1, 1]."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) / 128 - 1
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / 2 ** (8 * samples.itemsize - 1)
    return samples.astype(np.float32, copy=False)


def _energy(samples: np.ndarray) -> float:
    return float(np.square(samples).sum(dtype=np.float64))


def _mix_db(pieces: list[_Piece]) -> float | None:
    channels = sum(piece.channel_energy for piece in pieces)
    if not channels > 0:
        return None
    mix = sum(_energy(piece.mono) for piece in pieces)
    return 10 * math.log10(mix / channels) if mix > 0 else -math.inf
