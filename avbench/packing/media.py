"""One video file -> a mono waveform and one picture a second (PyAV), and the bytes that shards keep of them.

Time zero of a file is its presentation start: the container's start time, so a transport stream that begins at 1.4 s
begins at zero here, and sound that starts after the pictures keeps its distance from them. A file is read twice: first
the sound and the time stamps of the pictures, then the few pictures that are wanted. Seeking is only a shortcut:
where it lands too late, the file is read from its start.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import simplejpeg
import soundfile
from av.container import InputContainer

from avbench.packing.clock import Clock, clock_of, on_one_clock
from avbench.packing.pictures import (
    Found,
    PictureSettings,
    Shown,
    decode_counted,
    decode_stamped,
    frozen_seconds,
    is_stamped_in_order,
    nearest_shown,
    scaled_size,
)
from avbench.packing.sound import RUN_UP, Sound, Waveform, resampled
from avbench.packing.streams import (
    Reason,
    Reject,
    Unsure,
    best_audio,
    best_streams,
    best_video,
    cut_seconds,
    is_format,
    is_matroska_cut,
    opened,
    packets_of,
    seconds,
)

__all__ = [
    "ClipMedia",
    "PictureSettings",
    "Reason",
    "Reject",
    "encode_audio",
    "nearest_shown",
    "read_clip",
    "scaled_size",
    "seconds_of",
]

# Sound and pictures must both last this long. A second, less one AAC frame (1,024 samples at 44.1 kHz), by which a
# sound track of "one second" may fall short.
SHORTEST_SECONDS = Fraction(1) - Fraction(1024, 44100)
# A second gets its picture if the clip shows at least half of it, so 10.01 s (300 frames at 29.97) make 10 pictures.
_LEAST_OF_A_SECOND = Fraction(1, 2)
# A stream that ends this long before its declared end was cut; muxers err by less.
_TRUNCATED_SECONDS = Fraction(1, 2)
_LONGEST_PRIMING = Fraction(1, 10)
# Containers whose duration runs to the last time stamp, from zero on, wherever the first one is.
_COUNTS_FROM_ZERO = ("matroska", "asf", "nut", "flv", "ogg")


@dataclass(frozen=True, slots=True)
class ClipMedia:
    """What is kept of one clip.

    waveform: int16 [S], mono, its first sample at the clip's start; it may end before the pictures do.
    frames: one JPEG for each second, from the clip's start (plus the phase) on.
    width, height: of every frame, pixels. seconds: the longer of sound and pictures.
    mix_db: level of the mono mix relative to the mean power of its channels, None where all are silent.
    pixel_aspect: width of a pixel over its height, as the file says (1 where it does not).
    frozen_seconds: of pictures that show the same as those before or after. lost_seconds: of silence in the place of
    sound that the file does not have. sound_past_video_seconds: by how much sound outlasts the pictures.
    """

    waveform: np.ndarray
    frames: list[bytes]
    width: int
    height: int
    seconds: float
    mix_db: float | None
    pixel_aspect: float
    frozen_seconds: float = 0.0
    lost_seconds: float = 0.0
    sound_past_video_seconds: float = 0.0


def read_clip(
    path: Path,
    *,
    start_seconds: float,
    seconds: float | None,
    sample_rate_hz: int,
    pictures: PictureSettings,
    sound_path: Path | None = None,
) -> ClipMedia:
    """Decode one clip: `seconds` from `start_seconds` on, or all the rest where `seconds` is None.

    sound_path: the file that has the sound, whose first sample belongs to the video's time zero; None: the video.

    Sound is the mean of its channels. The picture of second k is the one shown at start + k + phase, or the next one if
    that is nearer. Pixels are taken as square. Raises Reject where this cannot be done.
    """
    start, length = _exact(start_seconds), None if seconds is None else _exact(seconds)
    scan, wanted, found = _read(path, sound_path, start, length, pictures)
    height, width = found[wanted[0]].shape[:2]
    if any(image.shape != (height, width, 3) for image in found.values()):
        raise Reject(Reason.UNDECODABLE, "the picture's size changes within the clip")
    jpegs = {
        time: simplejpeg.encode_jpeg(image, quality=pictures.jpeg_quality, colorspace="RGB", colorsubsampling="420")
        for time, image in found.items()
    }
    return ClipMedia(
        waveform=resampled(scan.sound.samples, scan.sound.rate_hz, sample_rate_hz),
        frames=[jpegs[time] for time in wanted],
        width=width,
        height=height,
        seconds=float(max(scan.sound.seconds, scan.picture_seconds)),
        mix_db=scan.sound.mix_db,
        pixel_aspect=scan.pixel_aspect,
        frozen_seconds=min(frozen_seconds([found[time] for time in wanted]), float(scan.picture_seconds)),
        lost_seconds=scan.sound.lost_seconds,
        sound_past_video_seconds=float(max(Fraction(0), scan.sound.seconds - scan.picture_seconds)),
    )


def seconds_of(path: Path) -> float:
    """How long a video lasts, from its header; by reading it through where the header does not say. Raises Reject."""
    with opened(path) as container:
        ends = _declared_ends(path, container)
        is_clear = _start(container) < _TRUNCATED_SECONDS or not is_format(container, *_COUNTS_FROM_ZERO)
        is_clear &= not ends or max(ends) - min(ends) < _TRUNCATED_SECONDS
        # Of a transport stream FFmpeg finds the length by its first and last time stamp.
        is_clear &= not is_format(container, "mpegts", "mpeg") or clock_of(path).is_one
        if container.duration is not None and is_clear:
            return container.duration / av.time_base
    for way in _WHOLE:
        try:
            scan = _scan(path, Fraction(0), None, way, clock_of(path))
            return float(max(scan.sound.seconds, scan.picture_seconds))
        except Unsure:
            continue
    raise Reject(Reason.UNDECODABLE, "its pictures have no time stamps")


def encode_audio(waveform: np.ndarray, sample_rate_hz: int, *, suffix: str) -> bytes:
    """The bytes of a mono int16 waveform as flac, wav (both exact) or ogg (Vorbis); the same bytes every time."""
    buffer = io.BytesIO()
    subtype = "VORBIS" if suffix == "ogg" else "PCM_16"
    soundfile.write(buffer, waveform, sample_rate_hz, format=suffix.upper(), subtype=subtype)
    return _with_serial_zero(buffer.getvalue()) if suffix == "ogg" else buffer.getvalue()


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _with_serial_zero(ogg: bytes) -> bytes:
    """An Ogg stream with the serial number 0 in place of libsndfile's random one (RFC 3533, section 6)."""
    data = bytearray(ogg)
    page = 0
    while page < len(data):
        end = page + 27 + data[page + 26]
        end += sum(data[page + 27 : end])
        data[page + 14 : page + 18] = data[page + 22 : page + 26] = bytes(4)
        # Ogg's CRC is zlib's with mirrored bits and registers that start and end uninverted.
        mirrored = zlib.crc32(data[page:end].translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        data[page + 22 : page + 26] = mirrored.to_bytes(4, "big").translate(_MIRRORED)
        page = end
    return bytes(data)


# How a file is read: the quickest way first, and a surer one where that turns out wrong.


@dataclass(frozen=True, slots=True)
class _Way:
    """Whether reading starts shortly before the clip or at the file's start, and what tells when pictures are shown."""

    seeks: bool
    decodes: bool  # every picture is decoded for its time; else the packets are believed


_WHOLE = (_Way(seeks=False, decodes=False), _Way(seeks=False, decodes=True))


def _read(
    path: Path, sound_path: Path | None, start: Fraction, length: Fraction | None, pictures: PictureSettings
) -> tuple[_Scan, list[Fraction], Found]:
    """What the first reading found, the times of the wanted pictures, and those pictures as uint8 [H, W, 3]."""
    clock = clock_of(path, with_sound=sound_path is None)
    beside = None if sound_path is None else _sound_of(sound_path, start, length)
    ways = [_Way(seeks=True, decodes=False)] if start > RUN_UP and clock.can_seek else []
    for way in (*ways, *_WHOLE):
        try:
            if beside is None:
                scan = _scan(path, start, length, way, clock)
            else:
                scan = _scan_pictures(path, beside, start, length, way, clock)
            _check_length(scan)
            wanted = [
                nearest_shown(scan.picture_times, due) for due in _due_times(scan, _exact(pictures.phase_seconds))
            ]
            return scan, wanted, _decode_pictures(path, set(wanted), scan, pictures.short_side, way, clock)
        except Unsure:
            continue
    raise Reject(Reason.UNDECODABLE, "a picture that the file lists does not come out of the decoder")


def _packets(
    container: InputContainer, streams: tuple[av.AudioStream | av.VideoStream, ...], clock: Clock, *, seeks: bool
) -> Iterator[tuple[av.Packet, int]]:
    packets = packets_of(container, streams)
    return on_one_clock(_from_a_key_picture(packets) if seeks else packets, clock, container)


def _from_a_key_picture(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """The packets without the pictures before the first that needs no other.

    In a transport stream a seek lands anywhere, and some decoders (MPEG-4) make up what they do not have.
    """
    is_there = False
    for packet in packets:
        is_there |= packet.stream.type == "video" and packet.is_keyframe
        if is_there or packet.stream.type != "video" or not packet.size:
            yield packet


# The first reading: sound, and when each picture is shown.


@dataclass(frozen=True, slots=True)
class _Scan:
    """What the first reading found. Times are seconds on the file's own clock."""

    begin: Fraction
    sound: Waveform
    picture_times: list[Fraction]  # ascending
    picture_seconds: Fraction  # from `begin` to the last picture's end
    order: list[Fraction] | None  # when the n-th picture out of the decoder is shown, where its stamp does not say
    pixel_aspect: float


def _scan(path: Path, start: Fraction, length: Fraction | None, way: _Way, clock: Clock) -> _Scan:
    with opened(path) as container:
        audio, video = best_streams(container)
        begin = _origin(container, video) + start
        end = None if length is None else begin + length
        headers_ends = _declared_ends(path, container) if clock.is_one else ()
        if way.seeks:
            _seek(container, video, begin - RUN_UP)
        sound = Sound(begin, max(headers_ends, default=None) if end is None else end)
        shown = Shown(video, decodes=way.decodes)
        is_all = True
        for packet, part in _packets(container, (audio, video), clock, seeks=way.seeks):
            if packet.stream is audio:
                sound.take(packet, part)
            else:
                shown.take(packet)
            if end is not None and min(sound.reached, shown.reached) >= end:
                is_all = False
                break
        if way.seeks and (sound.began_late(audio) or shown.began_late(video, begin)):
            raise Unsure
        if shown.is_order_made_up and not way.decodes and not is_stamped_in_order(path):
            raise Unsure
        if start and sound.is_unstamped:
            raise Reject(Reason.UNDECODABLE, "sound without time stamps, of which no window can be taken")
        declared = _the_nearest(headers_ends, max(sound.ends, shown.latest))
        picture_ends = shown.ends(declared)
        _check_ends(max(sound.ends, picture_ends), declared, end, "the file")
        if is_all and len(shown.times) == 1 and not (way.seeks and shown.times[0] > seconds(video.start_time, video)):
            raise Reject(Reason.SINGLE_PICTURE, f"one picture for {float(sound.ends - begin + start):.2f} s of sound")
        if clock.is_one:
            _check_ends(sound.ends, _stream_end(audio, declared), end, "audio")
            _check_ends(picture_ends, _stream_end(video, declared), end, "video")
        return _Scan(
            begin=begin,
            sound=sound.waveform(declared if end is None else end),
            picture_times=sorted(set(shown.times)),
            picture_seconds=max(Fraction(0), (picture_ends if end is None else min(end, picture_ends)) - begin),
            order=sorted(shown.times) if way.decodes and shown.is_order_made_up else None,
            pixel_aspect=float(video.sample_aspect_ratio or 1),
        )


def _scan_pictures(
    path: Path, sound: Waveform, start: Fraction, length: Fraction | None, way: _Way, clock: Clock
) -> _Scan:
    """As `_scan`, for a video whose sound is another file's."""
    with opened(path) as container:
        video = best_video(container)
        begin = _origin(container, video) + start
        end = None if length is None else begin + length
        if way.seeks:
            _seek(container, video, begin - RUN_UP)
        shown = Shown(video, decodes=way.decodes)
        headers_ends = _declared_ends(path, container) if clock.is_one else ()
        ends = begin  # of the video's own sound, which is not decoded, but may be what the file lasts for
        streams: tuple[av.AudioStream | av.VideoStream, ...] = (*container.streams.audio[:1], video)
        for packet, _ in _packets(container, streams, clock, seeks=way.seeks):
            if packet.stream is video:
                shown.take(packet)
            elif packet.pts is not None:
                ends = max(ends, seconds(packet.pts, packet) + seconds(packet.duration, packet))
            if end is not None and shown.reached >= end:
                break
        if way.seeks and shown.began_late(video, begin):
            raise Unsure
        if shown.is_order_made_up and not way.decodes and not is_stamped_in_order(path):
            raise Unsure
        declared = _the_nearest(headers_ends, max(ends, shown.latest))
        picture_ends = shown.ends(declared)
        _check_ends(max(ends, picture_ends), declared, end, "the file")
        if clock.is_one:
            _check_ends(picture_ends, _stream_end(video, declared), end, "video")
        return _Scan(
            begin=begin,
            sound=sound,
            picture_times=sorted(set(shown.times)),
            picture_seconds=max(Fraction(0), (picture_ends if end is None else min(end, picture_ends)) - begin),
            order=sorted(shown.times) if way.decodes and shown.is_order_made_up else None,
            pixel_aspect=float(video.sample_aspect_ratio or 1),
        )


def _sound_of(path: Path, start: Fraction, length: Fraction | None) -> Waveform:
    """The sound of a file that lies beside its video. Raises Reject, naming the file."""
    try:
        with opened(path) as container:
            audio = best_audio(container)
            begin = _start(container) + start
            end = None if length is None else begin + length
            declared = _stream_end(audio, None)
            sound = Sound(begin, declared if end is None else end)
            for packet in packets_of(container, (audio,)):
                sound.take(packet, 0)
                if end is not None and sound.reached >= end:
                    break
            _check_ends(sound.ends, declared, end, "audio")
            return sound.waveform(end)
    except Reject as reject:
        raise Reject(reject.reason, ": ".join(filter(None, [path.name, reject.detail]))) from None


def _due_times(scan: _Scan, phase: Fraction) -> list[Fraction]:
    """When each picture is due, on the file's clock: one for every second of which enough is shown, at least one."""
    count = max(1, int(scan.picture_seconds + 1 - _LEAST_OF_A_SECOND))
    return [scan.begin + second + phase for second in range(count)]


def _check_length(scan: _Scan) -> None:
    for name, lasts in (("sound", scan.sound.seconds), ("video", scan.picture_seconds)):
        if lasts < SHORTEST_SECONDS:
            raise Reject(Reason.SHORT, f"{float(lasts):.2f} s of {name}")


def _check_ends(found: Fraction, declared: Fraction | None, end: Fraction | None, what: str) -> None:
    """Raise Reject where something stops well before the header says it ends (or before the clip's end)."""
    if declared is None:
        return
    due = declared if end is None else min(end, declared)
    if found < due - _TRUNCATED_SECONDS:
        raise Reject(Reason.TRUNCATED, f"{what} ends at {float(found):.2f} s of {float(declared):.2f} s")


# The second reading: the wanted pictures.


def _decode_pictures(path: Path, wanted: set[Fraction], scan: _Scan, short_side: int, way: _Way, clock: Clock) -> Found:
    """The pictures shown from these times on, uint8 [H, W, 3] RGB, scaled and upright.

    Raises Unsure where one is missing.
    """
    with opened(path) as container:
        video = best_video(container)
        if way.seeks:
            _seek(container, video, scan.begin)
        packets = (packet for packet, _ in _packets(container, (video,), clock, seeks=way.seeks))
        if scan.order is not None:
            return decode_counted(packets, wanted, scan.order, short_side)
        return decode_stamped(packets, wanted, video, short_side, skips=not way.decodes)


# What a container's header says.


def _start(container: InputContainer) -> Fraction:
    return Fraction(container.start_time or 0, av.time_base)


def _origin(container: InputContainer, video: av.VideoStream) -> Fraction:
    """Time zero on the file's clock: when it starts to be shown.

    Sound that begins just before the first picture is its encoder's priming (AAC 21 to 46 ms), which only MP4 marks.
    A clock of 33 bits that is about to run over begins below zero.
    """
    start = _start(container)
    first_picture = seconds(video.start_time, video)
    return first_picture if first_picture - start < _LONGEST_PRIMING else start


def _declared_ends(path: Path, container: InputContainer) -> tuple[Fraction, ...]:
    """When the file ends by its header, on its own clock: none if it does not say, several if it may mean any."""
    duration = cut_seconds(path, container)
    if duration:
        return (duration, max(Fraction(0), _start(container)) + duration)
    if container.duration is None:
        return ()
    duration = Fraction(container.duration, av.time_base)
    start = max(Fraction(0), _start(container))
    if not is_format(container, *_COUNTS_FROM_ZERO):
        return (_start(container) + duration,)
    # Where streams have durations, from zero on too (ASF, Ogg), FFmpeg adds the time at which each of them starts.
    ends = [seconds(stream.duration, stream) for stream in container.streams if stream.duration]
    if ends:
        return (duration, start + duration, max(ends))
    if start < _TRUNCATED_SECONDS:
        return (duration,)
    # Some muxers count from the first time stamp all the same. Of a file that is cut, the later end is due.
    if is_format(container, "matroska") and is_matroska_cut(path):
        return (start + duration,)
    return (duration, start + duration)


def _the_nearest(ends: tuple[Fraction, ...], found: Fraction) -> Fraction | None:
    return min(ends, key=lambda end: abs(end - found), default=None)


def _stream_end(stream: av.AudioStream | av.VideoStream, file_ends: Fraction | None) -> Fraction | None:
    """When a stream ends by its header; not after the file, since an edit list may leave some of the stream out."""
    if stream.duration is None:
        return None
    own = seconds((stream.start_time or 0) + stream.duration, stream)
    return own if file_ends is None else min(own, file_ends)


def _seek(container: InputContainer, stream: av.VideoStream, time: Fraction) -> None:
    try:
        container.seek(int(time / seconds(1, stream)), stream=stream)
    except av.FFmpegError:
        raise Unsure from None


def _exact(value: float) -> Fraction:
    return Fraction(value).limit_denominator(10**6)
