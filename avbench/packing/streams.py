"""PyAV, with its failures turned into verdicts: a file's best sound and pictures, their packets, what is decoded.

A time here is a Fraction of seconds on the file's own clock, as exact as its time stamps are.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
from av.container import InputContainer
from av.stream import Disposition

from avbench.packing.archives import opened_bytes, size_and_time, url_of

# Containers whose clock may be cut anywhere and joined to another: their demuxers call what follows corrupt.
_BROADCAST = ("mpegts", "mpeg")


# Earlier than any time stamp (of 64 bits in microseconds).
BEFORE_ALL = Fraction(-(10**14))


class Reason(StrEnum):
    """Why a clip is left out of a dataset."""

    MISSING = "missing file"
    UNREADABLE = "cannot be read"
    NOT_A_VIDEO = "not a video"
    NO_AUDIO = "no audio stream"
    NO_VIDEO = "no video stream"
    SHORT = "shorter than a second"
    SINGLE_PICTURE = "single picture"
    GAP = "gap"
    TRUNCATED = "truncated"
    UNDECODABLE = "cannot be decoded"
    UNKNOWN_LABEL = "unknown label"
    # Of a process that reads the clip and nothing else.
    CRASH = "crash"
    KILLED = "killed"
    TOO_LONG = "too long to read"


class Reject(Exception):  # noqa: N818 - a verdict on a clip, not a fault of the program
    """A clip that cannot become part of a dataset; the pack goes on without it."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Unsure(Exception):  # noqa: N818
    """This way of reading a file cannot be relied on: a seek landed too late, or packets do not say what is shown."""


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """A video file, open for demuxing. Raises Reject where it is none."""
    try:
        container = av.open(url_of(path), metadata_errors="replace")
    except FileNotFoundError:
        raise Reject(Reason.MISSING) from None
    except OSError as error:
        raise Reject(Reason.UNREADABLE, error.strerror or "") from None
    except av.FFmpegError as error:
        raise Reject(*_why_not_opened(path, error)) from None
    with container:
        yield container


def _why_not_opened(path: Path, error: av.FFmpegError) -> tuple[Reason, str]:
    with opened_bytes(path) as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":  # an MP4 whose table of contents, at its end, is gone
        return Reason.TRUNCATED, "an MP4 file without its end"
    return Reason.NOT_A_VIDEO, "an empty file" if not head else str(error.strerror)


def best_streams(container: InputContainer) -> tuple[av.AudioStream, av.VideoStream]:
    """The best audio and video stream, decoding with one thread each. Cover pictures are no video."""
    if not container.streams.audio and _video(container) is None:
        raise Reject(Reason.NOT_A_VIDEO, f"{container.format.long_name}, neither audio nor video in it")
    return best_audio(container), best_video(container)


def best_audio(container: InputContainer) -> av.AudioStream:
    """The best audio stream, decoding with one thread."""
    audio = cast("av.AudioStream | None", container.streams.best("audio"))
    if audio is None:
        raise Reject(Reason.NO_AUDIO)
    _with_one_thread(audio)
    return audio


def best_video(container: InputContainer) -> av.VideoStream:
    """The best video stream, decoding with one thread. Cover pictures are no video."""
    video = _video(container)
    if video is None:
        raise Reject(Reason.NO_VIDEO)
    _with_one_thread(video)
    return video


def _video(container: InputContainer) -> av.VideoStream | None:
    video = cast("av.VideoStream | None", container.streams.best("video"))
    return None if video is not None and Disposition.attached_pic in video.disposition else video


def _with_one_thread(stream: av.AudioStream | av.VideoStream) -> None:
    if stream.codec_context is None:
        raise Reject(Reason.UNDECODABLE, f"no decoder for its {stream.type}")
    stream.codec_context.thread_count = 1  # each worker process has one core


def packets_of(container: InputContainer, streams: tuple[av.AudioStream | av.VideoStream, ...]) -> Iterator[av.Packet]:
    """Every packet of these streams as the file has them, and at the end an empty one for each."""
    # A transport stream calls a packet corrupt after any lost one; elsewhere its data is not all there.
    marks_what_is_cut = container.format.name not in _BROADCAST
    try:
        for packet in container.demux(streams):
            if packet.is_corrupt and marks_what_is_cut:
                raise Reject(Reason.TRUNCATED, f"in the middle of a packet of {packet.stream.type}")
            yield packet
    except av.FFmpegError as error:
        raise Reject(Reason.TRUNCATED, f"reading stops: {error.strerror}") from None


def decoded(packet: av.Packet, *, required: bool) -> list[Any]:
    """The frames that come out of the decoder with this packet; none where it fails on a packet not required."""
    try:
        return packet.decode()
    except av.FFmpegError as error:
        if required:
            raise Reject(Reason.UNDECODABLE, f"{packet.stream.type}: {error.strerror}") from None
        return []


def seconds(ticks: int | None, of: av.Packet | av.AudioFrame | av.VideoFrame | av.stream.Stream) -> Fraction:
    """A time in the ticks of its packet, frame or stream, in seconds; 0 where there is none."""
    if not ticks or of.time_base is None:
        return Fraction(0)
    return ticks * of.time_base


def is_format(container: InputContainer, *names: str) -> bool:
    """Whether the demuxer goes by one of these names (it may have several: "matroska,webm")."""
    return not set(names).isdisjoint(container.format.name.split(","))


_EBML_HEADER, _SEGMENT = 0x1A45DFA3, 0x18538067


def is_matroska_cut(path: Path) -> bool:
    """Whether a Matroska file is shorter than its one segment says; not where the segment's size is left open."""
    with opened_bytes(path) as file:
        while True:
            identity, size, is_open = _ebml_number(file, keeps_mark=True)[0], *_ebml_number(file, keeps_mark=False)
            if identity == _SEGMENT:
                return not is_open and file.tell() + size > size_and_time(path)[0]
            if identity != _EBML_HEADER or is_open:
                return False
            file.seek(size, io.SEEK_CUR)


def _ebml_number(file: BinaryIO, *, keeps_mark: bool) -> tuple[int, bool]:
    """A number of RFC 8794, section 4, with or without its leading mark of length, and whether it means "unknown"."""
    first = file.read(1)
    length = 9 - first[0].bit_length() if first else 0
    number = int.from_bytes(first + file.read(max(0, length - 1)))
    mark = 1 << 7 * length
    return (number if keeps_mark else number & (mark - 1)), number & (mark - 1) == mark - 1


_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_FIELDS = struct.Struct("<16x8x16x Q 8x 8x Q 8x Q I")  # size, play duration (100 ns), preroll (ms), flags
_ASF_BROADCAST = 1  # size and duration mean nothing


def cut_seconds(path: Path, container: InputContainer) -> Fraction | None:
    """How long an ASF (WMV) or AVI file lasts by its header, where it has fewer bytes than its header says; else None.

    FFmpeg does not believe the header of such a file, so it would not know that it is cut.
    """
    if is_format(container, "asf"):
        return _cut_asf_seconds(path)
    if not is_format(container, "avi"):
        return None
    with opened_bytes(path) as file:
        riff, size, _ = struct.unpack("<4sI4s", file.read(12))
    if riff != b"RIFF" or size_and_time(path)[0] >= size:
        return None
    return max((seconds(stream.frames, stream) for stream in container.streams.video), default=None)


def _cut_asf_seconds(path: Path) -> Fraction | None:
    with opened_bytes(path) as file:
        head = file.read(1 << 16)
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or at + _ASF_FIELDS.size > len(head):
        return None
    size, play, preroll, flags = _ASF_FIELDS.unpack_from(head, at)
    if flags & _ASF_BROADCAST or size_and_time(path)[0] >= size:
        return None
    return Fraction(play, 10**7) - Fraction(preroll, 1000)
