"""One stream's pictures: when each is shown, and the few that are wanted, upright and scaled."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.reformatter import Interpolation

from avbench.packing.archives import size_and_time
from avbench.packing.streams import (
    BEFORE_ALL,
    Reason,
    Reject,
    Unsure,
    best_video,
    decoded,
    is_format,
    opened,
    packets_of,
    seconds,
)

# A picture may be taken this long before it is due at most, however slow the video.
_LONGEST_LOOK_AHEAD = Fraction(1, 20)
# A decoder that puts pictures in order gives one out this long after its packet at most (16 pictures at 16 a second).
REORDERING = Fraction(1)
# Containers that count pictures in the order in which they are stored, whatever the codec does with it.
_COUNTS_PICTURES = ("avi", "asf")
_TRIED_PICTURES = 300
# swscale widens its filter with the scale, so bicubic does not alias; the flags make its rounding exact everywhere.
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """How pictures are kept: shorter side (never enlarged), JPEG quality, and when in each second they are taken."""

    short_side: int = 256
    jpeg_quality: int = 90
    phase_seconds: float = 0.0


class Shown:
    """Collects when the pictures of one stream are shown."""

    def __init__(self, stream: av.VideoStream, *, decodes: bool) -> None:
        self.reached = BEFORE_ALL  # no later packet's picture is shown before this
        self.times: list[Fraction] = []  # as they come: of packets, or out of the decoder
        self._decodes = decodes
        self._reorders = stream.codec_context.has_b_frames
        self._latest_stamp: int | None = None
        self._stamps_descend = False
        self.latest = BEFORE_ALL  # of the times
        self._last_duration = Fraction(0)  # of the picture that is shown then
        rate = stream.average_rate or stream.guessed_rate
        self._usual = 1 / Fraction(rate) if rate else Fraction(0)

    def take(self, packet: av.Packet) -> None:
        """Note when the packet's picture is shown, or the pictures that come out of the decoder with it."""
        if packet.pts is not None:
            self._stamps_descend |= self._latest_stamp is not None and packet.pts < self._latest_stamp
            self._latest_stamp = packet.pts
        if self._decodes:
            for frame in decoded(packet, required=False):
                self._note(shown_at(frame), seconds(frame.duration, frame))
        elif packet.size and not packet.is_discard:
            if packet.pts is None:
                raise Unsure
            self._note(seconds(packet.pts, packet), seconds(packet.duration, packet))
        if packet.dts is not None:
            self.reached = seconds(packet.dts, packet) - (REORDERING if self._decodes else 0)

    def began_late(self, stream: av.VideoStream, begin: Fraction) -> bool:
        """Whether the first picture comes after the clip's start although the stream has earlier ones."""
        opening = seconds(stream.start_time, stream)
        return not self.times or min(self.times) > max(begin, opening)

    @property
    def is_order_made_up(self) -> bool:
        """Whether the codec reorders pictures and yet every packet's stamp comes after the one before it.

        So it is where a container only counts its pictures (AVI) and FFmpeg makes their stamps up. It is so, too, where
        a codec that may reorder never does.
        """
        return self._reorders and not self._stamps_descend

    def ends(self, file_ends: Fraction | None) -> Fraction:
        """When the last picture ends. file_ends: what the header says of the file, if it does.

        A last picture whose duration is missing (FFmpeg then makes one up, often of a millisecond) lasts as long as the
        ones before it, though not beyond the file's end.
        """
        if not self.times:
            return BEFORE_ALL
        ordered = sorted(set(self.times))
        own = self._last_duration or self._usual
        distances = sorted(other - one for one, other in pairwise(ordered))
        if distances and own < (usual := distances[len(distances) // 2]) / 2:
            known_end = ordered[-1] + usual if file_ends is None else file_ends
            return max(ordered[-1] + own, min(ordered[-1] + usual, known_end))
        return ordered[-1] + own

    def _note(self, time: Fraction, duration: Fraction) -> None:
        if not self.times or time >= self.latest:
            self.latest, self._last_duration = time, duration
        self.times.append(time)


def is_stamped_in_order(path: Path) -> bool:
    """Whether the first few hundred pictures come out of the decoder in the order of their time stamps."""
    return _is_stamped_in_order(path, *size_and_time(path))


@lru_cache(maxsize=64)  # windows of one video follow each other
def _is_stamped_in_order(path: Path, size_bytes: int, modified_ns: int) -> bool:
    with opened(path) as container:
        if is_format(container, *_COUNTS_PICTURES):
            return False
        video = best_video(container)
        shown = Shown(video, decodes=True)
        for packet in packets_of(container, (video,)):
            shown.take(packet)
            if len(shown.times) >= _TRIED_PICTURES:
                break
        return all(one <= other for one, other in pairwise(shown.times))


def shown_at(frame: av.VideoFrame) -> Fraction:
    """When a decoded picture is shown, by its time stamp."""
    time = frame.pts if frame.pts is not None else frame.dts
    if time is None:
        raise Reject(Reason.UNDECODABLE, "pictures without time stamps")
    return seconds(time, frame)


def nearest_shown(times: Sequence[Fraction], due: Fraction) -> Fraction:
    """Which of the ascending `times` belongs to the picture at `due`: the last one shown, or the next if it is nearer.

    At a constant frame rate this is within half a frame's duration; a slide that is shown for long is not left early.
    """
    shown = bisect_right(times, due) - 1
    if shown < 0:
        return times[0]
    if shown + 1 < len(times):
        half = (times[shown + 1] - times[shown]) / 2
        if times[shown + 1] - due < min(half, _LONGEST_LOOK_AHEAD):
            return times[shown + 1]
    return times[shown]


def decode_counted(
    packets: Iterable[av.Packet], wanted: set[Fraction], times: Sequence[Fraction], short_side: int
) -> Found:
    """The wanted pictures of a stream that is decoded from its start: picture n to come out is shown at times[n].

    Raises Unsure where one is missing.
    """
    found: Found = {}
    number = 0
    for packet in packets:
        for frame in decoded(packet, required=False):
            if number < len(times) and times[number] in wanted and times[number] not in found:
                found[times[number]] = upright(frame, short_side)
            number += 1
        if len(found) == len(wanted):
            return found
    raise Unsure


def decode_stamped(
    packets: Iterable[av.Packet], wanted: set[Fraction], stream: av.VideoStream, short_side: int, *, skips: bool
) -> Found:
    """The wanted pictures by the time stamps that they come out of the decoder with.

    Raises Unsure where one is missing. skips: whether pictures that no other needs may be left undecoded.
    """
    found: Found = {}
    # In H.264 a picture that no other refers to (nal_ref_idc 0) can be left out without changing any other.
    skips = skips and stream.codec_context.name == "h264"
    for packet in packets:
        if skips and packet.size:
            is_wanted = seconds(packet.pts, packet) in wanted
            stream.codec_context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
        for frame in decoded(packet, required=False):
            time = shown_at(frame)
            if time in wanted and time not in found:
                found[time] = upright(frame, short_side)
        if len(found) == len(wanted):
            return found
    raise Unsure


Found = dict[Fraction, np.ndarray]  # uint8 [H, W, 3] RGB, by when each is shown


FROZEN_DIFFERENCE = 1.0  # of 255: pictures that differ by no more, on average, show the same
_SPARSE = 4  # every so many pixels, each way, tell whether a picture has changed


def frozen_seconds(pictures: Sequence[np.ndarray]) -> int:
    """How many of these pictures, one a second, belong to a run of two or more that show the same.

    pictures: uint8 [H, W, 3], all of one size. Each picture of a run is compared with its first.
    """
    lengths, first = [0], None
    for picture in pictures:
        sparse = picture[::_SPARSE, ::_SPARSE].astype(np.int16)
        if first is None or np.abs(sparse - first).mean(dtype=np.float64) > FROZEN_DIFFERENCE:
            first = sparse
            lengths.append(0)
        lengths[-1] += 1
    return sum(length for length in lengths if length > 1)


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height with the shorter side scaled down to `short_side`; as they are where it is no longer."""
    shorter = min(width, height)
    if shorter <= short_side:
        return width, height
    return tuple(max(1, (2 * side * short_side + shorter) // (2 * shorter)) for side in (width, height))  # type: ignore[return-value]


def upright(frame: av.VideoFrame, short_side: int) -> np.ndarray:
    """uint8 [H, W, 3] RGB, scaled, and turned and mirrored as the file asks players to."""
    width, height = scaled_size(frame.width, frame.height, short_side)
    image = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=_SCALING)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        image = displayed(image, np.frombuffer(bytes(cast("SideData", matrix)), np.int32).reshape(3, 3))
    return np.ascontiguousarray(image)


def displayed(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """An image [H, W, ...] as a display matrix shows it, to the nearest of the eight turns and reflections.

    matrix: int32 [3, 3] of ISO 14496-12, section 6.2.2: a pixel at (x, y) is shown at (a x + c y, b x + d y), with
    (a, b) and (c, d) the beginnings of its first two rows; only signs and relative sizes count here.
    """
    (a, b), (c, d) = matrix[:2, :2].astype(np.int64).tolist()
    turns = abs(b) + abs(c) > abs(a) + abs(d)  # x is shown along y
    if turns:
        image = image.swapaxes(0, 1)
    x_by, y_by = (c, b) if turns else (a, d)
    return image[:: -1 if y_by < 0 else 1, :: -1 if x_by < 0 else 1]
