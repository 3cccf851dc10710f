"""One clock for a file whose own clock starts again: transport streams that were joined end to end.

Where a stream's time stamps go back by more than ten seconds, or to where they began, another recording begins. What
follows is moved behind what came before, sound and pictures by the same time, so they stay in step in every part. A
clock of 33 bits that runs over (after 26.5 hours) simply runs on. Smaller steps back are no new part: they are left to
whoever reads the sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
from av.container import InputContainer

from avbench.packing.archives import size_and_time
from avbench.packing.streams import Reason, Reject, best_streams, best_video, is_format, opened, packets_of, seconds

# FFmpeg's dts_delta_threshold: time stamps that go back by more belong to another recording.
_ANOTHER_RECORDING = Fraction(10)
# "To where they began": this close to a stream's first time stamp, and at least this far back.
_NEAR_THE_START = Fraction(1, 2)
# Sound and pictures of one place in a transport stream lie apart by less.
_INTERLEAVED = Fraction(5)
# Sound may overlap by this much where two parts meet: the encoder's padding before, and its priming after.
_PADDING = Fraction(1, 10)
# Containers in which times are counted, or added up from durations: they cannot go back.
_CANNOT_GO_BACK = ("mov", "mp4", "avi")
_TICKS_OF_33_BITS = 1 << 33


@dataclass(frozen=True, slots=True)
class Clock:
    """How a file's time stamps become one clock.

    shifts: for each part the seconds to add to its time stamps; one part, of shift 0, is a file like any other.
    starts: for each stream, by its index, the number of the packet (0 for the stream's first) that each part begins
    with. wraps: whether the stamps have 33 bits. can_seek: whether a place in the file is found by its time, and the
    stamps after it are the same as on the way from the start.
    """

    shifts: tuple[Fraction, ...] = (Fraction(0),)
    starts: dict[int, tuple[int, ...]] = field(default_factory=dict)
    wraps: bool = False
    can_seek: bool = True

    @property
    def is_one(self) -> bool:
        """Whether the file's own clock never starts again."""
        return len(self.shifts) == 1


def clock_of(path: Path, *, with_sound: bool = True) -> Clock:
    """How to read the clock of a video: by going through its packets, unless its container's clock cannot go back.

    with_sound: its sound is wanted, too. Raises Reject where the clock starts again in the sound or in the pictures
    only, so nobody knows what belongs together, and where the file cannot be opened.
    """
    try:
        size_bytes, modified_ns = size_and_time(path)
    except OSError:
        return Clock()  # opening it says what is wrong
    return _clock_of(path, size_bytes, modified_ns, with_sound)


@lru_cache(maxsize=64)  # windows of one video follow each other
def _clock_of(path: Path, size_bytes: int, modified_ns: int, with_sound: bool) -> Clock:
    with opened(path) as container:
        if is_format(container, *_CANNOT_GO_BACK):
            return Clock()
        streams = best_streams(container) if with_sound else (best_video(container),)
        wraps = is_format(container, "mpegts", "mpeg")
        # Seeking in a program stream lands amid a picture, and every stamp after it is given to the picture before.
        can_seek = not is_format(container, "mpeg")
        paths = {stream.index: _Path(wraps) for stream in streams}
        steps: list[_Step] = []
        try:
            for packet in packets_of(container, streams):
                step = paths[packet.stream.index].follow(packet)
                if step is not None:
                    steps.append(step)
        except Reject:
            pass  # whoever reads the file says that it is cut
        return replace(_joined(steps, paths), wraps=wraps, can_seek=can_seek and not any(_restarts(steps)))


def on_one_clock(
    packets: Iterator[av.Packet], clock: Clock, container: InputContainer
) -> Iterator[tuple[av.Packet, int]]:
    """The packets from the file's start, their time stamps changed to run on, each with the number of its part."""
    counts = dict.fromkeys(range(len(container.streams)), 0)
    wrapped = {index: _Wrapping() for index in counts}
    for packet in packets:
        index = packet.stream.index
        if clock.wraps:
            wrapped[index].mend(packet)
        starts = clock.starts.get(index, ())
        part = sum(first <= counts[index] for first in starts[1:])
        counts[index] += packet.size > 0
        shift = clock.shifts[part]
        if shift and packet.time_base is not None:
            ticks = round(shift / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        yield packet, part


class _Wrapping:
    """Brings the 33-bit stamps of one stream next to those before, whatever multiples of 2^33 libavformat added."""

    def __init__(self) -> None:
        self._last: int | None = None

    def mend(self, packet: av.Packet) -> None:
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            return
        if self._last is not None:
            off = _nearest(stamp, self._last) - stamp
            if off:
                packet.dts = None if packet.dts is None else packet.dts + off
                packet.pts = None if packet.pts is None else packet.pts + off
        self._last = stamp if self._last is None else _nearest(stamp, self._last)


def _nearest(stamp: int, to: int) -> int:
    """The stamp plus the multiple of 2^33 that brings it nearest."""
    half = _TICKS_OF_33_BITS // 2
    return to + (stamp - to + half) % _TICKS_OF_33_BITS - half


@dataclass(frozen=True, slots=True)
class _Step:
    """A step back in one stream. number: of the packet after it. before: the last time before it."""

    stream: int
    number: int
    before: Fraction
    is_restart: bool


@dataclass(slots=True)
class _Extent:
    """From when to when the packets between two steps back are presented."""

    first: Fraction
    end: Fraction


class _Path:
    """Follows the time stamps of one stream through the file."""

    def __init__(self, wraps: bool) -> None:
        self.extents: dict[int, _Extent] = {}  # by the number of the packet that begins each
        self._wrapping = _Wrapping() if wraps else None
        self._number = -1
        self._start = 0  # the packet after the last step back
        self._last: Fraction | None = None
        self._firsts: list[Fraction] = []

    def follow(self, packet: av.Packet) -> _Step | None:
        """Take the next packet; the step back that it makes, if any."""
        if packet.size == 0:
            return None
        self._number += 1
        if self._wrapping is not None:
            self._wrapping.mend(packet)
        # Pictures come in decoding order, so only their dts ascend; sound has one order.
        stamp = packet.dts if packet.dts is not None or packet.stream.type == "video" else packet.pts
        if stamp is None:
            return None
        time = seconds(stamp, packet)
        step = self._step_to(time, packet.stream.index)
        self._last = time
        shown = seconds(packet.pts, packet) if packet.pts is not None else time
        if step is not None:
            self._start = self._number
        extent = self.extents.setdefault(self._start, _Extent(shown, shown))
        extent.first = min(extent.first, shown)
        extent.end = max(extent.end, shown + seconds(packet.duration, packet))
        return step

    def _step_to(self, time: Fraction, stream: int) -> _Step | None:
        if self._last is None:
            self._firsts = [time]
            return None
        if time >= self._last - _NEAR_THE_START:
            return None
        to_a_start = time <= max(self._firsts[0], self._firsts[-1]) + _NEAR_THE_START
        self._firsts.append(time)
        return _Step(stream, self._number, self._last, to_a_start or time < self._last - _ANOTHER_RECORDING)


def _restarts(steps: list[_Step]) -> list[list[_Step]]:
    return [group for group in _groups(steps) if any(step.is_restart for step in group)]


def _joined(steps: list[_Step], paths: dict[int, _Path]) -> Clock:
    restarts = _restarts(steps)
    for group in restarts:
        if len(group) < len(paths):
            raise Reject(Reason.GAP, f"its clock starts again at {float(group[0].before):.2f} s in one stream only")
    starts = {index: [0] for index in paths}
    for group in restarts:
        for step in group:
            starts[step.stream].append(step.number)
    extents = {index: _extents(path, starts[index]) for index, path in paths.items()}
    *others, pictures = extents.values()
    sound = others[0] if others else pictures  # the sound may be another file's
    shifts = [Fraction(0)]
    for part in range(len(restarts)):
        moved = pictures[part].end - pictures[part + 1].first
        moved_by_sound = sound[part].end - sound[part + 1].first
        shifts.append(shifts[-1] + (moved if moved_by_sound <= moved + _PADDING else moved_by_sound))
    return Clock(tuple(shifts), {index: tuple(numbers) for index, numbers in starts.items()})


def _groups(steps: list[_Step]) -> Iterator[list[_Step]]:
    """Steps of both streams that belong to one place in the file: there, both have come to about the same time."""
    group: list[_Step] = []
    for step in steps:
        alike = group and step.stream != group[0].stream and abs(step.before - group[0].before) < _INTERLEAVED
        if alike and len(group) == 1:
            group.append(step)
            continue
        if group:
            yield group
        group = [step]
    if group:
        yield group


def _extents(path: _Path, starts: list[int]) -> list[_Extent]:
    """The extent of each part: of all that lies between two restarts, smaller steps back included."""
    parts: list[_Extent] = []
    for number, extent in sorted(path.extents.items()):
        if number in starts or not parts:
            parts.append(_Extent(extent.first, extent.end))
        else:
            parts[-1] = _Extent(min(parts[-1].first, extent.first), max(parts[-1].end, extent.end))
    return parts
