"""One video file -> a mono waveform and one picture a second (PyAV), and the bytes that shards keep of them.

Time zero of a file is its presentation start: the container's start time, so a transport stream that begins at 1.4 s
begins at zero here, and sound that starts after the pictures keeps its distance from them. A file is read twice: first
the sound and the time stamps of the pictures, then the few pictures that are wanted. Seeking is only a shortcut:
where it lands too late, the file is read from its start.
"""

from __future__ import annotations

import io
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import simplejpeg
import soundfile
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import Interpolation

AUDIO_SUFFIXES = ("flac", "wav", "ogg")

# Sound and pictures must both last this long. A second, less one AAC frame (1,024 samples at 44.1 kHz), by which a
# sound track of "one second" may fall short.
SHORTEST_SECONDS = Fraction(1) - Fraction(1024, 44100)
# A second gets its picture if the clip shows at least half of it, so 10.01 s (300 frames at 29.97) make 10 pictures.
_LEAST_OF_A_SECOND = Fraction(1, 2)
# Decoding starts this long before a window: overlapping transforms (AAC, Opus) and MP3's bit reservoir need a run-up.
_RUN_UP = Fraction(1)
# A stream that ends this long before its declared end was cut; muxers err by less.
_TRUNCATED_SECONDS = Fraction(1, 2)
# Time stamps that stray by less are rounding (Matroska's milliseconds, FLV's); by more, sound is missing or repeated.
_JITTER_SECONDS = Fraction(1, 100)
_LONGEST_PRIMING = Fraction(1, 10)
# A picture may be taken this long before it is due at most, however slow the video.
_LONGEST_LOOK_AHEAD = Fraction(1, 20)
# swscale widens its filter with the scale, so bicubic does not alias; the flags make its rounding exact everywhere.
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT


class Reason(StrEnum):
    """Why a clip is left out of a dataset."""

    MISSING = "missing file"
    UNREADABLE = "cannot be read"
    NOT_A_VIDEO = "not a video"
    NO_AUDIO = "no audio stream"
    NO_VIDEO = "no video stream"
    SHORT = "shorter than a second"
    TRUNCATED = "truncated"
    UNDECODABLE = "cannot be decoded"
    UNKNOWN_LABEL = "unknown label"


class Reject(Exception):  # noqa: N818 - a verdict on a clip, not a fault of the program
    """A clip that cannot become part of a dataset; the pack goes on without it."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ClipMedia:
    """What is kept of one clip.

    waveform: int16 [S], mono, its first sample at the clip's start; it may end before the pictures do.
    frames: one JPEG for each second, from the clip's start (plus the phase) on.
    width, height: of every frame, pixels. seconds: the longer of sound and pictures.
    """

    waveform: np.ndarray
    frames: list[bytes]
    width: int
    height: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """How pictures are kept: shorter side (never enlarged), JPEG quality, and when in each second they are taken."""

    short_side: int = 256
    jpeg_quality: int = 90
    phase_seconds: float = 0.0


def read_clip(
    path: Path, *, start_seconds: float, seconds: float | None, sample_rate_hz: int, pictures: PictureSettings
) -> ClipMedia:
    """Decode one clip: `seconds` from `start_seconds` on, or all the rest where `seconds` is None.

    Sound is the mean of its channels. The picture of second k is the one shown at start + k + phase, or the next one if
    that is nearer. Pixels are taken as square. Raises Reject where this cannot be done.
    """
    start, length = _exact(start_seconds), None if seconds is None else _exact(seconds)
    scan, wanted, decoded = _read(path, start, length, pictures)
    height, width = decoded[wanted[0]].shape[:2]
    if any(image.shape != (height, width, 3) for image in decoded.values()):
        raise Reject(Reason.UNDECODABLE, "the picture's size changes within the clip")
    jpegs = {
        time: simplejpeg.encode_jpeg(image, quality=pictures.jpeg_quality, colorspace="RGB", colorsubsampling="420")
        for time, image in decoded.items()
    }
    return ClipMedia(
        waveform=_resampled(scan.sound, scan.sound_rate_hz, sample_rate_hz),
        frames=[jpegs[time] for time in wanted],
        width=width,
        height=height,
        seconds=float(max(scan.sound_seconds, scan.picture_seconds)),
    )


def seconds_of(path: Path) -> float:
    """How long a video lasts, from its header; by reading it through where the header does not say. Raises Reject."""
    with _opened(path) as container:
        if container.duration is not None:
            return container.duration / av.time_base
    scan = _scan(path, Fraction(0), None, _Way(seeks=False, decodes=False))
    return float(max(scan.sound_seconds, scan.picture_seconds))


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


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height with the shorter side scaled down to `short_side`; as they are where it is no longer."""
    shorter = min(width, height)
    if shorter <= short_side:
        return width, height
    return tuple(max(1, (2 * side * short_side + shorter) // (2 * shorter)) for side in (width, height))  # type: ignore[return-value]


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


class _Unsure(Exception):  # noqa: N818
    """This way of reading a file cannot be relied on: a seek landed too late, or packets do not say what is shown."""


def _read(
    path: Path, start: Fraction, seconds: Fraction | None, pictures: PictureSettings
) -> tuple[_Scan, list[Fraction], dict[Fraction, np.ndarray]]:
    """What the first reading found, the times of the wanted pictures, and those pictures as uint8 [H, W, 3]."""
    ways = [_Way(seeks=True, decodes=False)] if start > _RUN_UP else []
    ways += [_Way(seeks=False, decodes=False), _Way(seeks=False, decodes=True)]
    for way in ways:
        try:
            scan = _scan(path, start, seconds, way)
            _check_length(scan)
            wanted = [
                nearest_shown(scan.picture_times, due) for due in _due_times(scan, _exact(pictures.phase_seconds))
            ]
            return scan, wanted, _decode_pictures(path, set(wanted), scan, pictures.short_side, way)
        except _Unsure:
            continue
    raise Reject(Reason.UNDECODABLE, "a picture that the file lists does not come out of the decoder")


# The first reading: sound, and when each picture is shown.


@dataclass(frozen=True, slots=True)
class _Scan:
    """What the first reading found. Times are seconds on the file's own clock."""

    begin: Fraction
    sound: np.ndarray  # float32 [S], mono at its own rate, from `begin` on
    sound_rate_hz: int
    sound_seconds: Fraction  # from `begin` to the sound's end
    picture_times: list[Fraction]  # ascending
    picture_seconds: Fraction  # from `begin` to the last picture's end


def _scan(path: Path, start: Fraction, seconds: Fraction | None, way: _Way) -> _Scan:
    with _opened(path) as container:
        audio, video = _streams(container)
        begin = _origin(container, video) + start
        end = None if seconds is None else begin + seconds
        if way.seeks:
            _seek(container, video, begin - _RUN_UP)
        sound = _Sound(begin, _latest_end(container, begin - start, end))
        shown = _Shown(video, decodes=way.decodes)
        for packet in _packets(container, (audio, video)):
            (sound if packet.stream is audio else shown).take(packet)
            if end is not None and min(sound.reached, shown.reached) >= end:
                break
        if way.seeks and (sound.began_late(audio) or shown.began_late(video, begin)):
            raise _Unsure
        _check_not_truncated(container, end, {audio: sound.ends, video: shown.ends})
        waveform, rate = sound.waveform()
        return _Scan(
            begin=begin,
            sound=waveform,
            sound_rate_hz=rate,
            sound_seconds=Fraction(len(waveform), rate),
            picture_times=sorted(set(shown.times)),
            picture_seconds=max(Fraction(0), (shown.ends if end is None else min(end, shown.ends)) - begin),
        )


class _Sound:
    """Collects one stream's sound from `begin` on: mono, at its own rate, each piece where its time stamp puts it."""

    def __init__(self, begin: Fraction, end: Fraction | None) -> None:
        self.begin, self.end = begin, end
        self.first: Fraction | None = None  # of the first packet
        self.reached = Fraction(-1)  # no later packet starts before this
        self.ends = Fraction(0)
        self._rate = 0
        self._pieces: list[np.ndarray] = []
        self._length = 0  # samples collected
        self._next = 0  # where the next sample belongs if the stream has no gap
        self._started = False

    def take(self, packet: av.Packet) -> None:
        if packet.dts is None and packet.pts is None and packet.size:  # a stream without time stamps: as it comes
            time = self.reached
        elif packet.size == 0:
            time = self.reached  # the decoder's last frames
        else:
            time = _seconds(packet.pts if packet.pts is not None else packet.dts, packet)
            self.first = time if self.first is None else self.first
            self.reached = time
            self.ends = max(self.ends, time + _seconds(packet.duration, packet))
            if time < self.begin - _RUN_UP or (self.end is not None and time >= self.end):
                return
        for frame in _decoded(packet, required=time >= self.begin):
            self._add(frame)

    def began_late(self, stream: av.AudioStream) -> bool:
        """Whether the first packet lies so late that the window's start lacks its run-up."""
        opening = _seconds(stream.start_time, stream)
        return self.first is None or self.first > max(self.begin - _RUN_UP / 4, opening)

    def waveform(self) -> tuple[np.ndarray, int]:
        """float32 [S] from `begin` on (none of it where the sound ended before), and its rate in Hz."""
        rate = self._rate or 48000
        joined = np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.float32)
        if self.end is not None:
            joined = joined[: round((self.end - self.begin) * rate)]
        return joined, rate

    def _add(self, frame: av.AudioFrame) -> None:
        if self._rate not in (0, frame.sample_rate):
            raise Reject(Reason.UNDECODABLE, f"the sample rate changes from {self._rate} to {frame.sample_rate} Hz")
        self._rate = frame.sample_rate
        mono = _mono(frame)
        place = self._next
        if frame.pts is not None:
            stamped = round((_seconds(frame.pts, frame) - self.begin) * self._rate)
            if not self._started or abs(stamped - self._next) > _JITTER_SECONDS * self._rate:
                place = stamped
        self._started = True
        self._next = place + len(mono)
        gap = place - self._length
        if gap > 0:
            if self.end is not None:
                gap = min(gap, round((self.end - self.begin) * self._rate) - self._length)
            self._pieces.append(np.zeros(max(0, gap), np.float32))
        mono = mono[max(0, -gap) :]  # before the clip's start, or sound that came twice
        self._pieces.append(mono)
        self._length += max(0, gap) + len(mono)


class _Shown:
    """Collects when the pictures of one stream are shown."""

    def __init__(self, stream: av.VideoStream, *, decodes: bool) -> None:
        self.times: list[Fraction] = []
        self.reached = Fraction(-1)  # no later packet's picture is shown before this
        self.ends = Fraction(0)
        self._decodes = decodes
        rate = stream.average_rate or stream.guessed_rate
        self._usual = 1 / Fraction(rate) if rate else Fraction(0)

    def take(self, packet: av.Packet) -> None:
        if self._decodes:
            for frame in _decoded(packet, required=False):
                self._note(_shown_at(frame), self._usual)
        elif packet.size and not packet.is_discard:
            if packet.pts is None:
                raise _Unsure
            self._note(_seconds(packet.pts, packet), _seconds(packet.duration, packet) or self._usual)
        if packet.dts is not None:
            self.reached = _seconds(packet.dts, packet)

    def began_late(self, stream: av.VideoStream, begin: Fraction) -> bool:
        """Whether the first picture comes after the clip's start although the stream has earlier ones."""
        opening = _seconds(stream.start_time, stream)
        return not self.times or min(self.times) > max(begin, opening)

    def _note(self, time: Fraction, duration: Fraction) -> None:
        self.times.append(time)
        self.ends = max(self.ends, time + duration)


def _due_times(scan: _Scan, phase: Fraction) -> list[Fraction]:
    """When each picture is due, on the file's clock: one for every second of which enough is shown, at least one."""
    count = max(1, int(scan.picture_seconds + 1 - _LEAST_OF_A_SECOND))
    return [scan.begin + second + phase for second in range(count)]


def _check_length(scan: _Scan) -> None:
    for name, seconds in (("sound", scan.sound_seconds), ("video", scan.picture_seconds)):
        if seconds < SHORTEST_SECONDS:
            raise Reject(Reason.SHORT, f"{float(seconds):.2f} s of {name}")


def _check_not_truncated(
    container: InputContainer, end: Fraction | None, ends: Mapping[av.AudioStream | av.VideoStream, Fraction]
) -> None:
    """Raise Reject where the streams stop well before the header says they end (or before the clip's end)."""

    def check(found: Fraction, declared: Fraction, what: str) -> None:
        due = declared if end is None else min(end, declared)
        if found < due - _TRUNCATED_SECONDS:
            raise Reject(Reason.TRUNCATED, f"{what} ends at {float(found):.2f} s of {float(declared):.2f} s")

    for stream, found in ends.items():
        if stream.duration is not None:
            check(found, _seconds((stream.start_time or 0) + stream.duration, stream), stream.type)
    if container.duration is not None:  # Matroska says only how long the longest stream is
        start = Fraction(container.start_time or 0, av.time_base)
        check(max(ends.values()), start + Fraction(container.duration, av.time_base), "the file")


# The second reading: the wanted pictures.


def _decode_pictures(
    path: Path, wanted: set[Fraction], scan: _Scan, short_side: int, way: _Way
) -> dict[Fraction, np.ndarray]:
    """The pictures shown from these times on, uint8 [H, W, 3] RGB, scaled and upright.

    Raises _Unsure where one is missing.
    """
    pictures: dict[Fraction, np.ndarray] = {}
    with _opened(path) as container:
        _, video = _streams(container)
        if way.seeks:
            _seek(container, video, scan.begin)
        # In H.264 a picture that no other refers to (nal_ref_idc 0) can be left out without changing any other.
        skips = not way.decodes and video.codec_context.name == "h264"
        for packet in _packets(container, (video,)):
            if skips and packet.size:
                is_wanted = _seconds(packet.pts, packet) in wanted
                video.codec_context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
            for frame in _decoded(packet, required=False):
                time = _shown_at(frame)
                if time in wanted and time not in pictures:
                    pictures[time] = _picture(frame, short_side)
            if len(pictures) == len(wanted):
                return pictures
    raise _Unsure


def _picture(frame: av.VideoFrame, short_side: int) -> np.ndarray:
    width, height = scaled_size(frame.width, frame.height, short_side)
    image = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=_SCALING)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns))


# PyAV, with its failures turned into verdicts.


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    try:
        container = av.open(str(path), metadata_errors="replace")
    except FileNotFoundError:
        raise Reject(Reason.MISSING) from None
    except OSError as error:
        raise Reject(Reason.UNREADABLE, error.strerror or "") from None
    except av.FFmpegError as error:
        raise Reject(*_why_not_opened(path, error)) from None
    with container:
        yield container


def _why_not_opened(path: Path, error: av.FFmpegError) -> tuple[Reason, str]:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":  # an MP4 whose table of contents, at its end, is gone
        return Reason.TRUNCATED, "an MP4 file without its end"
    return Reason.NOT_A_VIDEO, "an empty file" if not head else str(error.strerror)


def _streams(container: InputContainer) -> tuple[av.AudioStream, av.VideoStream]:
    """The best audio and video stream, decoding with one thread each. Cover pictures are no video."""
    audio = cast("av.AudioStream | None", container.streams.best("audio"))
    video = cast("av.VideoStream | None", container.streams.best("video"))
    if video is not None and Disposition.attached_pic in video.disposition:
        video = None
    if audio is None and video is None:
        raise Reject(Reason.NOT_A_VIDEO, f"{container.format.long_name}, neither audio nor video in it")
    if audio is None:
        raise Reject(Reason.NO_AUDIO)
    if video is None:
        raise Reject(Reason.NO_VIDEO)
    for stream in (audio, video):
        if stream.codec_context is None:
            raise Reject(Reason.UNDECODABLE, f"no decoder for its {stream.type}")
        stream.codec_context.thread_count = 1  # each worker process has one core
    return audio, video


def _origin(container: InputContainer, video: av.VideoStream) -> Fraction:
    """Time zero on the file's clock: when it starts to be shown.

    Sound that begins just before the first picture is its encoder's priming (AAC 21 to 46 ms), which only MP4 marks.
    """
    start = Fraction(container.start_time or 0, av.time_base)
    first_picture = _seconds(video.start_time, video)
    return max(Fraction(0), first_picture if first_picture - start < _LONGEST_PRIMING else start)


def _latest_end(container: InputContainer, origin: Fraction, end: Fraction | None) -> Fraction | None:
    """Where sound is cut: at the clip's end, or the file's, after which AAC's last frame only has padding."""
    if end is not None or container.duration is None:
        return end
    return origin + Fraction(container.duration, av.time_base)


def _seek(container: InputContainer, stream: av.VideoStream, time: Fraction) -> None:
    try:
        container.seek(int(time / _seconds(1, stream)), stream=stream)
    except av.FFmpegError:
        raise _Unsure from None


def _packets(container: InputContainer, streams: tuple[av.AudioStream | av.VideoStream, ...]) -> Iterator[av.Packet]:
    """Every packet of these streams, and at the end an empty one for each."""
    # A transport stream calls a packet corrupt after any lost one; elsewhere its data is not all there.
    marks_what_is_cut = container.format.name not in ("mpegts", "mpeg")
    try:
        for packet in container.demux(streams):
            if packet.is_corrupt and marks_what_is_cut:
                raise Reject(Reason.TRUNCATED, f"in the middle of a packet of {packet.stream.type}")
            yield packet
    except av.FFmpegError as error:
        raise Reject(Reason.TRUNCATED, f"reading stops: {error.strerror}") from None


def _decoded(packet: av.Packet, *, required: bool) -> list[Any]:
    """The frames that come out of the decoder with this packet; none where it fails on a packet not required."""
    try:
        return packet.decode()
    except av.FFmpegError as error:
        if required:
            raise Reject(Reason.UNDECODABLE, f"{packet.stream.type}: {error.strerror}") from None
        return []


def _shown_at(frame: av.VideoFrame) -> Fraction:
    time = frame.pts if frame.pts is not None else frame.dts
    if time is None:
        raise Reject(Reason.UNDECODABLE, "pictures without time stamps")
    return _seconds(time, frame)


def _seconds(ticks: int | None, of: av.Packet | av.AudioFrame | av.VideoFrame | av.stream.Stream) -> Fraction:
    """A time in the ticks of its packet, frame or stream, in seconds; 0 where there is none."""
    if not ticks or of.time_base is None:
        return Fraction(0)
    return ticks * of.time_base


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """float32 [S] in [-1, 1]: the mean of the channels."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) / 128 - 1
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / 2 ** (8 * samples.itemsize - 1)
    return samples.mean(axis=0, dtype=np.float32)


def _resampled(mono: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """int16 at another rate, by libswresample; sample 0 stays at time 0."""
    if from_hz == to_hz:
        return np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(mono[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = from_hz, 0, Fraction(1, from_hz)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=to_hz)
    return np.concatenate([out.to_ndarray()[0] for out in (*resampler.resample(frame), *resampler.resample(None))])


def _exact(seconds: float) -> Fraction:
    return Fraction(seconds).limit_denominator(10**6)
