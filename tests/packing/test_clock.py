"""A file's clock may begin anywhere, run over, and start again: the clip is what a player would show."""

from fractions import Fraction

import av
import numpy as np
import pytest
import simplejpeg

from avbench.packing.clock import clock_of
from avbench.packing.media import PictureSettings, Reason, Reject, read_clip, seconds_of
from tests.packing.make_video import click_track, make_video, number_shown, numbered_frame, shifted

RATE = 48000
MPEG_2 = {"video_codec": "mpeg2video", "audio_codec": "mp2"}


def read(path, *, start=0.0, seconds=None):
    return read_clip(path, start_seconds=start, seconds=seconds, sample_rate_hz=RATE, pictures=PictureSettings())


def numbers(clip):
    return [number_shown(simplejpeg.decode_jpeg(frame)) for frame in clip.frames]


def clicks(clip):
    """When each click begins, in seconds."""
    loud = np.flatnonzero(np.abs(clip.waveform.astype(int)) > 8000) / RATE
    return [loud[0], *loud[1:][np.diff(loud) > 0.2]]


def part(path, seconds, first, *, click=0.5, **options):
    """A video whose pictures are numbered from `first` on, 10 a second, with a click at half a second."""

    sound = click_track(options.pop("sound_seconds", seconds), RATE, click)
    make_video(
        path, seconds=seconds, fps=10, sound=sound, picture=lambda number: numbered_frame(first + number), **options
    )
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.ts", "a.flv", "a.mp4"])
def test_a_file_may_begin_at_any_time(tmp_path, name):
    codecs = {"video_codec": "libvpx", "audio_codec": "libopus"} if name.endswith("webm") else {}
    path = make_video(tmp_path / name, seconds=4.0, edit=shifted(100.0), **codecs)
    clip = read(path)
    assert numbers(clip) == [0, 25, 50, 75]
    assert clicks(clip) == [pytest.approx(1.0, abs=0.004)]
    assert clip.seconds == pytest.approx(4.0, abs=0.03)
    assert seconds_of(path) == pytest.approx(4.0, abs=0.1)
    assert numbers(read(path, start=2.0, seconds=2.0)) == [50, 75]


def ebml_float_at(data, identity):
    """Where the eight bytes of a Matroska element lie."""
    at = data.index(identity)
    assert data[at + len(identity)] == 0x88
    return at + len(identity) + 1


@pytest.mark.parametrize("counts_from", ["zero", "the first time stamp"])
def test_a_matroska_that_begins_late_and_is_cut_is_still_rejected(tmp_path, counts_from):
    path = make_video(tmp_path / "a.mkv", seconds=8.0, edit=shifted(3.0))
    data = bytearray(path.read_bytes())
    if counts_from != "zero":  # as mkvmerge writes it
        at = ebml_float_at(data, b"\x44\x89")
        data[at : at + 8] = np.array([8000.0], ">f8").tobytes()
    path.write_bytes(data)
    assert len(read(path).frames) == 8
    path.write_bytes(data[: int(len(data) * 0.8)])
    with pytest.raises(Reject) as caught:
        read(path)
    assert caught.value.reason == Reason.TRUNCATED


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_pictures_that_an_edit_list_leaves_out_are_not_missing(tmp_path, codec):
    options = {"avoid_negative_ts": "disabled"}
    path = make_video(
        tmp_path / "a.mp4",
        seconds=5.0,
        video_codec=codec,
        options={"x265-params": "log-level=none"} if codec == "libx265" else None,
        sound=click_track(5.0, RATE, 3.0),
        edit=shifted(-1.04),
        container_options=options,
    )
    clip = read(path)
    assert numbers(clip) == [26, 51, 76, 101]
    assert clicks(clip) == [pytest.approx(1.96, abs=0.004)]


@pytest.mark.parametrize(("name", "options"), [("a.ts", {}), ("a.mpg", MPEG_2)])
@pytest.mark.parametrize("before_seconds", [80.0, 2.5, 0.02])
def test_a_clock_of_33_bits_may_run_over(tmp_path, name, options, before_seconds):
    delay = 1.4 if name == "a.ts" else 0.5  # that the muxer adds
    begins = 2**33 / 90000 - before_seconds - delay
    path = make_video(tmp_path / name, seconds=4.0, edit=shifted(begins), **options)
    clip = read(path)
    assert numbers(clip) == [0, 25, 50, 75]
    assert clicks(clip) == [pytest.approx(1.0, abs=0.03)]  # MPEG-1's priming is 10 ms
    assert numbers(read(path, start=2.0, seconds=2.0)) == [50, 75]


def test_a_clock_that_starts_again_goes_on_after_what_came_before(tmp_path):
    one = part(tmp_path / "one.ts", 3.0, 0)
    two = part(tmp_path / "two.ts", 2.0, 100)
    path = tmp_path / "joined.ts"
    path.write_bytes(one + two + one + two)
    clip = read(path)
    assert numbers(clip) == [0, 10, 20, 100, 110, 0, 10, 20, 100, 110]
    assert clicks(clip) == pytest.approx([0.5, 3.5, 5.5, 8.5], abs=0.01)
    assert seconds_of(path) == pytest.approx(10.0, abs=0.05)
    assert numbers(read(path, start=4.0, seconds=3.0)) == [110, 0, 10]
    assert len(clock_of(path).shifts) == 4


@pytest.mark.parametrize("late", ["sound", "pictures"])
def test_sound_and_pictures_stay_in_step_where_one_restarts_later(tmp_path, late):
    def edit(packet):
        is_late = packet.stream.type == ("audio" if late == "sound" else "video")
        return shifted(0.3)(packet) if is_late else packet

    one = part(tmp_path / "one.ts", 3.0, 0)
    two = part(tmp_path / "two.ts", 3.0, 100, edit=edit)
    path = tmp_path / "joined.ts"
    path.write_bytes(one + two)
    clip = read(path)
    first, second = clicks(clip)
    assert first == pytest.approx(0.5, abs=0.01)
    # The click is due half a second into the part, 0.3 s later or earlier against the pictures.
    shown = number_shown(simplejpeg.decode_jpeg(clip.frames[4]))
    part_began = 4.0 - (shown - 100) / 10
    assert second - part_began == pytest.approx(0.8 if late == "sound" else 0.2, abs=0.11)


@pytest.mark.parametrize("begins", [30.0, 1000.0])
def test_a_clock_that_falls_by_more_than_ten_seconds_goes_on(tmp_path, begins):
    one = part(tmp_path / "one.ts", 2.0, 0, edit=shifted(begins))
    two = part(tmp_path / "two.ts", 2.0, 100, edit=shifted(5.0))
    path = tmp_path / "joined.ts"
    path.write_bytes(one + two)
    clip = read(path)
    assert numbers(clip) == [0, 10, 100, 110]
    assert clicks(clip) == pytest.approx([0.5, 2.5], abs=0.01)


def test_a_clock_that_only_one_stream_starts_again_is_rejected(tmp_path):
    one = part(tmp_path / "one.ts", 3.0, 0)
    two = part(tmp_path / "two.ts", 3.0, 100, edit=lambda packet: packet if packet.stream.type == "audio" else None)
    path = tmp_path / "joined.ts"
    path.write_bytes(one + two)
    with pytest.raises(Reject) as caught:
        read(path)
    assert caught.value.reason == Reason.GAP


def test_a_plain_file_has_one_clock(tmp_path):
    for name in ("a.ts", "a.mkv", "a.mp4", "a.flv"):
        path = make_video(tmp_path / name, seconds=2.0)
        assert clock_of(path).shifts == (Fraction(0),)
        with av.open(str(path)) as container:
            assert len(container.streams) == 2
