"""Pictures as a player shows them: in order, upright, and for as long as they are shown."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import simplejpeg

from avbench.packing.media import PictureSettings, Reason, Reject, nearest_shown, read_clip, seconds_of
from avbench.packing.pictures import displayed
from tests.packing.make_video import HEIGHT, WIDTH, click_track, make_video, number_shown, shifted

RATE = 48000
# Where a player shows which corner of an upright picture (top left, top right, bottom left, bottom right) for the
# display matrices of ISO 14496-12 that a player can obey without a filter: (a, b, c, d) and the corners in its places.
MATRICES = {
    "as it is": ((1, 0, 0, 1), "0123"),
    "a quarter turn clockwise": ((0, 1, -1, 0), "2031"),
    "half a turn": ((-1, 0, 0, -1), "3210"),
    "a quarter turn counter-clockwise": ((0, -1, 1, 0), "1302"),
    "mirrored left to right": ((-1, 0, 0, 1), "1032"),
    "mirrored top to bottom": ((1, 0, 0, -1), "2301"),
    "transposed": ((0, 1, 1, 0), "0213"),
    "transposed along the other diagonal": ((0, -1, -1, 0), "3120"),
}


def read(path, *, start=0.0, seconds=None, **pictures):
    return read_clip(
        path, start_seconds=start, seconds=seconds, sample_rate_hz=RATE, pictures=PictureSettings(**pictures)
    )


def images(clip):
    return [simplejpeg.decode_jpeg(frame) for frame in clip.frames]


def numbers(clip):
    return [number_shown(image) for image in images(clip)]


def clicks(clip):
    """When each click begins, in seconds."""
    loud = np.flatnonzero(np.abs(clip.waveform.astype(int)) > 8000) / RATE
    return [loud[0], *loud[1:][np.diff(loud) > 0.2]]


def levels(clip):
    """The brightness of each picture, in steps of a second of the shared cases: 23.3 grey levels."""
    return [round(image.mean() / (70 / 3)) for image in images(clip)]


B_FRAMES = {
    "a.mkv": ("libx264", {"bf": "3", "b_strategy": "0"}),
    "a.mp4": ("libx264", {"bf": "2", "b_strategy": "0"}),
    "a.ts": ("libx264", {"bf": "3", "b_strategy": "0"}),
    "a.flv": ("libx264", {"bf": "2", "b_strategy": "0"}),
    "a.mpg": ("mpeg2video", {"bf": "2"}),
}
B_FRAMES_IN_AVI = [
    ("libx264", {"bf": "0"}),
    ("libx264", {"bf": "2", "b_strategy": "0"}),
    ("libx264", {"bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=none"}),
    ("mpeg4", {"bf": "0"}),
    ("mpeg4", {"bf": "1"}),
    ("mpeg4", {"bf": "2"}),
]


@pytest.mark.parametrize("name", B_FRAMES)
def test_pictures_that_are_stored_out_of_order_are_shown_in_order(tmp_path, name):
    codec, options = B_FRAMES[name]
    sound_codec = "mp2" if name.endswith("mpg") else "aac"
    path = make_video(tmp_path / name, seconds=6.0, video_codec=codec, audio_codec=sound_codec, options=options)
    for phase in (0.0, 0.44):
        due = round(25 * phase)
        assert numbers(read(path, phase_seconds=phase)) == [25 * second + due for second in range(6)]
        assert numbers(read(path, start=3.0, seconds=2.0, phase_seconds=phase)) == [75 + due, 100 + due]


@pytest.mark.parametrize(("codec", "options"), B_FRAMES_IN_AVI)
def test_pictures_that_are_stored_out_of_order_in_avi_are_shown_in_order(tmp_path, codec, options):
    path = make_video(tmp_path / "a.avi", seconds=6.0, video_codec=codec, audio_codec="libmp3lame", options=options)
    # AVI counts what is stored, so every picture is late by those that the decoder must wait for.
    late = [25 * second - number for second, number in enumerate(numbers(read(path)))]
    assert late[0] == 0 and set(late[1:]) <= {0, 1, 2} and len(set(late[1:])) == 1
    assert numbers(read(path, start=3.0, seconds=2.0)) == [75 - late[3], 100 - late[4]]
    assert numbers(read(path, phase_seconds=0.44)) == [25 * second + 11 - late[1] for second in range(6)]


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "libx264"])
def test_no_window_of_a_transport_stream_begins_with_a_picture_that_the_decoder_made_up(tmp_path, codec):
    options = {"g": "40", "bf": "0"}
    path = make_video(tmp_path / "a.ts", seconds=6.0, video_codec=codec, audio_codec="mp2", options=options)
    for first in (36, 50, 79, 90):
        assert numbers(read(path, start=first / 25, seconds=2.0)) == [first, first + 25]


def four_corners(_):
    """Grey levels 20, 80, 140 and 200: top left, top right, bottom left, bottom right."""
    levels = np.repeat(np.repeat(np.array([[20, 80], [140, 200]], np.uint8), HEIGHT // 2, 0), WIDTH // 2, 1)
    return np.repeat(levels[..., None], 3, 2)


def corners(image):
    """Which corner of `four_corners` lies top left, top right, bottom left and bottom right."""
    height, width = image.shape[:2]
    levels = [image[y * height // 4, x * width // 4].mean() for y in (1, 3) for x in (1, 3)]
    return "".join(str(round((level - 20) / 60)) for level in levels)


def with_matrix(path, matrix):
    """Write (a, b, c, d) into the header of the first track, which is the video."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # 40 bytes of header before it (version 0)
    assert struct.unpack_from(">9i", data, at) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    a, b, c, d = (round(65536 * one) for one in matrix)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("size", [1, 0.5])
def test_pictures_are_turned_and_mirrored_as_the_file_asks(tmp_path, name, size):
    matrix, expected = MATRICES[name]
    path = make_video(tmp_path / "a.mov", seconds=1.2, fps=10, picture=four_corners)
    with_matrix(path, [size * one for one in matrix])
    clip = read(path, short_side=32)
    (image,) = images(clip)
    assert corners(image) == expected
    assert image.shape[:2] == (clip.height, clip.width) == ((32, 64) if matrix[0] else (64, 32))
    remuxed = tmp_path / "a.mkv"
    with av.open(str(path)) as source, av.open(str(remuxed), "w") as container:
        streams = {stream.index: container.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
    assert corners(images(read(remuxed, short_side=32))[0]) == expected


def test_a_turn_that_is_not_quite_a_quarter_is_taken_as_the_nearest():
    board = np.arange(6, dtype=np.uint8).reshape(2, 3)
    nearly = (65536 * np.array([[0.1, 1, 0], [-1, 0.1, 0], [0, 0, 1]])).astype(np.int32)
    assert np.array_equal(displayed(board, nearly), np.rot90(board, -1))


TIMED = {
    "a.mkv": ("libx264", "aac"),
    "a.flv": ("libx264", "aac"),
    "a.mp4": ("libx264", "aac"),
    "a.mov": ("libx264", "pcm_s16le"),
    "a.ts": ("libx264", "aac"),
    "a.webm": ("libvpx", "libopus"),
}


def timed_video(path, times, *, seconds, click=0.5):
    video_codec, audio_codec = TIMED[path.name]
    return make_video(
        path, times=times, sound=click_track(seconds, RATE, click), video_codec=video_codec, audio_codec=audio_codec
    )


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("frames", [30, 31])
def test_a_last_picture_without_duration_lasts_as_long_as_those_before(tmp_path, name, frames):
    rate = 30000 / 1001
    path = timed_video(tmp_path / name, [number / rate for number in range(frames)], seconds=frames / rate + 0.01)
    clip = read(path)
    assert len(clip.frames) == 1
    assert clip.seconds == pytest.approx(frames / rate, abs=0.045)


@pytest.mark.parametrize("name", TIMED)
def test_slides_are_shown_to_the_end_of_the_last_one(tmp_path, name):
    path = timed_video(tmp_path / name, [0, 2, 4, 6], seconds=8.0)
    assert numbers(read(path)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert numbers(read(path, start=3.0, seconds=4.0)) == [1, 2, 2, 3]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.webm", "a.ts"])
def test_at_a_variable_rate_the_picture_of_a_second_is_the_one_shown_then(tmp_path, name):
    distances = np.random.default_rng(1).choice([0.02, 0.033, 0.1, 0.5, 1.7], size=60, p=[0.4, 0.3, 0.2, 0.07, 0.03])
    times = [0.0, *np.round(np.cumsum(distances), 3).tolist()]
    path = timed_video(tmp_path / name, times, seconds=times[-1] + 1.0, click=3.5)
    clip = read(path)
    exact = [Fraction(round(1000 * time), 1000) for time in times]
    assert numbers(clip) == [exact.index(nearest_shown(exact, Fraction(second))) for second in range(len(clip.frames))]
    assert len(clip.frames) >= int(times[-1])
    assert clicks(clip) == [pytest.approx(3.5, abs=0.004)]


LATE_SOUND = {
    "a.wmv": ("wmv2", "libmp3lame"),
    "a.ogv": ("libvpx", "libopus"),
    "a.nut": ("libx264", "pcm_s16le"),
    "a.webm": ("libvpx", "libopus"),
    "a.flv": ("libx264", "aac"),
}


@pytest.mark.parametrize("name", LATE_SOUND)
@pytest.mark.parametrize("late", [0.3, 2.0])
@pytest.mark.parametrize("begins", [0.0, 3600.0])
def test_sound_that_starts_late_makes_no_file_truncated(tmp_path, name, late, begins):
    video_codec, audio_codec = LATE_SOUND[name]
    path = make_video(
        tmp_path / name, seconds=5.0, video_codec=video_codec, audio_codec=audio_codec, edit=shifted(begins),
        sound=click_track(5.0 - late, RATE, 3.5 - late), sound_starts=late, options={"bf": "0"},
    )  # fmt: skip
    clip = read(path)
    assert numbers(clip) == [0, 25, 50, 75, 100]
    assert clicks(clip) == [pytest.approx(3.5, abs=0.004)]
    assert seconds_of(path) == pytest.approx(5.0, abs=0.35)  # FFmpeg may add what the sound is late


ONE_PICTURE = {
    "a.mp4": ("libx264", "aac"),
    "a.mov": ("mpeg4", "pcm_s16le"),
    "a.mkv": ("libx264", "aac"),
    "a.webm": ("libvpx", "libopus"),
    "a.flv": ("libx264", "aac"),
    "a.avi": ("mpeg4", "libmp3lame"),
    "a.ts": ("libx264", "aac"),
    "a.wmv": ("wmv2", "libmp3lame"),
    "a.nut": ("mpeg4", "libmp3lame"),
    "a.mpg": ("mpeg2video", "mp2"),
    "a.3gp": ("mpeg4", "aac"),
    "a.mxf": ("mpeg2video", "pcm_s16le"),
}


@pytest.mark.parametrize("name", ONE_PICTURE)
def test_one_picture_with_ten_seconds_of_sound_is_a_single_picture(tmp_path, name):
    video_codec, audio_codec = ONE_PICTURE[name]
    path = make_video(
        tmp_path / name, seconds=10.0, frames=1, video_codec=video_codec, audio_codec=audio_codec, options={"bf": "0"}
    )
    for start, seconds in ((0.0, None), (4.0, 2.0)):
        with pytest.raises(Reject) as caught:
            read(path, start=start, seconds=seconds)
        assert caught.value.reason == Reason.SINGLE_PICTURE, caught.value.detail


def test_two_pictures_are_no_single_picture(tmp_path):
    assert numbers(read(timed_video(tmp_path / "a.mkv", [0, 5], seconds=10.0))) == [0] * 5 + [1] * 5


# Files that others made, with the right values of their README.


def test_shared_pictures_with_made_up_stamps_are_in_order(cases):
    assert levels(read(cases / "b_frames.avi")) == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]  # AVI shows each a little late


def test_shared_mirrored_pictures_are_mirrored(cases):
    with av.open(str(cases / "mirrored.mp4")) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    shown = images(read(cases / "mirrored.mp4", short_side=stored.shape[0]))[0].astype(int)
    assert np.abs(shown - stored[:, ::-1]).mean() < 3 < 30 < np.abs(shown - stored).mean()


def test_a_shared_file_with_a_hole_in_the_middle_is_rejected(cases):
    with pytest.raises(Reject) as caught:
        read(cases / "hole_in_the_middle.mkv")
    assert caught.value.reason == Reason.GAP


def test_a_shared_file_that_starts_at_two_seconds_is_whole(cases):
    clip = read(cases / "starts_at_2s.mkv")
    assert levels(clip) == list(range(10))
    assert clip.seconds == pytest.approx(10.0, abs=0.05)


def test_a_shared_file_whose_clock_restarts_has_both_parts(cases):
    clip = read(cases / "clock_restarts.ts")
    assert len(clip.frames) == 6 and clip.seconds == pytest.approx(6.0, abs=0.1)
