"""Frames shown at each second, sound in step with them, and a reason for every file that cannot be used."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import simplejpeg
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from avbench.packing.media import (
    PictureSettings,
    Reason,
    Reject,
    encode_audio,
    nearest_shown,
    read_clip,
    scaled_size,
    seconds_of,
)
from tests.packing.make_video import click_track, make_video, number_shown

# Container, video codec, audio codec, rate: what people have. B-frames with H.264; edit lists and priming with MP4.
FORMATS = {
    "mp4": ("clip.mp4", "libx264", "aac", 44100),
    "mkv": ("clip.mkv", "libx264", "aac", 48000),
    "webm": ("clip.webm", "libvpx", "libopus", 48000),
    "vp9": ("clip.webm", "libvpx-vp9", "libopus", 48000),
    "ts": ("clip.ts", "libx264", "aac", 48000),
    "avi": ("clip.avi", "mpeg4", "pcm_s16le", 44100),
    "mov": ("clip.mov", "mpeg4", "pcm_s16le", 22050),
    "flv": ("clip.flv", "libx264", "aac", 44100),
}


def read(path, *, start=0.0, seconds=None, **pictures):
    return read_clip(
        path, start_seconds=start, seconds=seconds, sample_rate_hz=48000, pictures=PictureSettings(**pictures)
    )


def reason(path, **options):
    with pytest.raises(Reject) as caught:
        read(path, **options)
    return caught.value.reason


def numbers(clip):
    return [number_shown(simplejpeg.decode_jpeg(frame)) for frame in clip.frames]


def click_seconds(clip):
    """When the click begins: half its height, as codecs smear it."""
    loud = np.abs(clip.waveform.astype(float))
    return int(np.argmax(loud > loud.max() / 2)) / 48000


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("start", [0.0, 2.5])
def test_click_and_flash_of_a_known_second_are_within_20_ms_in_every_container(tmp_path, format_name, start):
    name, video_codec, audio_codec, rate = FORMATS[format_name]
    sound = click_track(5.0, rate, 3.5)
    path = make_video(
        tmp_path / name, seconds=5.0, fps=50, video_codec=video_codec, audio_codec=audio_codec, rate=rate, sound=sound
    )
    clip = read(path, start=start, seconds=2.0 if start else None, phase_seconds=0.5 if not start else 0.0)
    # Frames of 20 ms: the one that begins at 3.5 s is the "flash"; 3.5 s is second 3 + phase, or 1 s into the window.
    at = 3 if not start else 1
    assert numbers(clip)[at] == 175
    assert click_seconds(clip) + start == pytest.approx(3.5, abs=0.004)


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
@pytest.mark.parametrize("start", [0.0, 0.5, 1.5])
def test_sound_that_starts_late_stays_in_step(tmp_path, name, start):
    # The stream's own time 1.3 s is the video's 2.0 s.
    path = make_video(tmp_path / name, seconds=4.0, fps=50, sound=click_track(3.3, 48000, 1.3), sound_starts=0.7)
    clip = read(path, start=start, seconds=2.0)
    assert numbers(clip) == [round(50 * start), round(50 * (start + 1))]
    assert click_seconds(clip) + start == pytest.approx(2.0, abs=0.004)
    if start == 0.0:
        assert np.abs(clip.waveform[: round(0.65 * 48000)]).max() == 0  # silence before it starts


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(30000, 1001), 25, 12, 7])
def test_frames_are_within_half_a_frame_of_each_second(tmp_path, fps):
    path = make_video(tmp_path / "a.mp4", seconds=8.0, fps=fps)
    shown = [number / fps for number in numbers(read(path))]
    assert len(shown) == 8
    assert max(abs(time - second) for second, time in enumerate(shown)) <= 1 / (2 * Fraction(fps))


def test_a_long_slide_is_not_left_early():
    slides = [Fraction(0), Fraction(14, 10), Fraction(5)]
    assert [nearest_shown(slides, Fraction(second)) for second in (0, 1, 2, 4, 5, 9)] == [
        slides[index] for index in (0, 0, 1, 1, 2, 2)
    ]


def test_a_video_that_begins_after_its_sound_shows_its_first_frame():
    assert nearest_shown([Fraction(1), Fraction(2)], Fraction(0)) == 1


@given(times=st.sets(st.integers(0, 5000), min_size=1), due=st.integers(0, 6000))
def test_the_nearest_frame_is_shown_or_comes_within_half_its_distance(times, due):
    ordered = [Fraction(time, 1000) for time in sorted(times)]
    chosen = nearest_shown(ordered, Fraction(due, 1000))
    shown = max((time for time in ordered if time <= Fraction(due, 1000)), default=ordered[0])
    assert chosen == shown or (chosen - Fraction(due, 1000) < Fraction(due, 1000) - shown)


@pytest.mark.parametrize(("name", "codec"), [("a.mov", "pcm_s16le"), ("a.mkv", "flac"), ("a.mp4", "aac")])
def test_a_window_equals_that_part_of_the_whole(tmp_path, name, codec):
    sound = 0.4 * np.sin(800 * np.cumsum(np.linspace(0, 1, 6 * 48000) % 0.3) / 480)[None].astype(np.float32)
    options = {"g": "40", "bf": "2"}
    path = make_video(tmp_path / name, seconds=6.0, audio_codec=codec, sound=sound, options=options)
    whole, window = read(path), read(path, start=3.0, seconds=2.0)
    assert window.frames == whole.frames[3:5]
    part = whole.waveform[3 * 48000 : 5 * 48000]
    assert len(window.waveform) == 96000
    if codec == "aac":  # its decoder fills some bands with random noise
        assert np.corrcoef(window.waveform, part)[0, 1] > 0.9999
    else:
        assert (window.waveform == part).all()


def test_frames_of_real_clips_equal_those_of_a_full_decode(real_clips):
    # The clip with B-frames at 1280 x 720, and the one with odd 29.97 frames a second: leaving out frames changes none.
    for name in ("anlS-uikLj4_222", "gyEX3QusCtU_278"):
        path = real_clips / f"{name}.mp4"
        clip = read(path, jpeg_quality=100)
        due = 0
        with av.open(str(path)) as container:
            frames = list(container.decode(container.streams.video[0]))
        times = [float(frame.pts * frame.time_base) for frame in frames]
        for due, data in enumerate(clip.frames):
            nearest = frames[int(np.argmin([abs(time - due) for time in times]))]
            picture = nearest.to_ndarray(format="rgb24", width=clip.width, height=clip.height, interpolation="BICUBIC")
            # swscale without exact rounding, and JPEG at quality 100 with halved chroma: a few grey levels.
            assert np.abs(simplejpeg.decode_jpeg(data).astype(int) - picture).mean() < 2.5
        assert due == 9


def test_channels_are_averaged(tmp_path):
    rate = 44100
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate).astype(np.float32)
    both = read(make_video(tmp_path / "a.mov", rate=rate, audio_codec="pcm_s16le", sound=np.stack([tone, tone])))
    left = read(make_video(tmp_path / "b.mov", rate=rate, audio_codec="pcm_s16le", sound=np.stack([tone, 0 * tone])))
    six = np.stack([tone] + [0 * tone] * 5)
    sixth = read(make_video(tmp_path / "c.mov", rate=rate, audio_codec="pcm_s16le", sound=six))
    for clip, level in ((both, 0.5), (left, 0.25), (sixth, 0.5 / 6)):
        assert clip.waveform[4800:91200].max() / 32768 == pytest.approx(level, rel=0.01)


def test_resampled_sound_is_the_same_sound(tmp_path):
    rate = 44100
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate).astype(np.float32)
    clip = read(make_video(tmp_path / "a.mov", rate=rate, audio_codec="pcm_s16le", sound=tone[None]))
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(96000) / 48000)
    assert len(clip.waveform) == 96000
    assert np.abs(clip.waveform / 32768 - expected)[480:-480].max() < 1e-3


@pytest.mark.parametrize(
    ("size", "expected"), [((1280, 720), (455, 256)), ((144, 256), (144, 256)), ((720, 1280), (256, 455))]
)
def test_the_shorter_side_is_scaled_down_and_never_up(size, expected):
    assert scaled_size(*size, 256) == expected


def test_pictures_are_scaled_without_aliasing(tmp_path):
    # A checkerboard of single pixels is grey at a quarter of the size; skipping pixels would leave it black or white.
    path = tmp_path / "a.mp4"
    board = np.broadcast_to(((np.indices((512, 512)).sum(axis=0) % 2) * 255).astype(np.uint8)[..., None], (512, 512, 3))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=5, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = 512, 512, "yuv420p"
        audio = container.add_stream("aac", rate=48000, layout="mono")
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(board), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 5)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 57600), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    picture = simplejpeg.decode_jpeg(read(path, short_side=128).frames[0])
    assert picture.shape == (128, 128, 3)
    assert picture[8:-8, 8:-8].std() < 8


def test_rotation_in_the_header_is_applied(tmp_path):
    path = make_video(tmp_path / "a.mp4", fps=10)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the first track is the video; its matrix follows 40 bytes of header (version 0)
    assert struct.unpack_from(">9i", data, at) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, at, 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)  # a quarter turn clockwise
    path.write_bytes(data)
    clip = read(path)
    assert (clip.width, clip.height) == (64, 128)
    upright = np.rot90(simplejpeg.decode_jpeg(clip.frames[1]))  # turned back counter-clockwise
    assert number_shown(upright) == 10


def test_a_clip_without_sound_or_pictures_is_rejected_by_name(tmp_path):
    assert reason(make_video(tmp_path / "a.mp4", has_sound=False)) == Reason.NO_AUDIO
    assert reason(make_video(tmp_path / "b.mp4", has_pictures=False)) == Reason.NO_VIDEO
    assert reason(make_video(tmp_path / "c.mp4", seconds=0.8)) == Reason.SHORT
    short_sound = click_track(0.5, 48000, 0.2)
    assert reason(make_video(tmp_path / "d.mp4", sound=short_sound)) == Reason.SHORT
    assert reason(tmp_path / "none.mp4") == Reason.MISSING
    assert reason(tmp_path) == Reason.UNREADABLE
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 50)
    assert reason(tmp_path / "text.mp4") == Reason.NOT_A_VIDEO
    (tmp_path / "empty.mp4").touch()
    assert reason(tmp_path / "empty.mp4") == Reason.NOT_A_VIDEO


@pytest.mark.parametrize("kept", [0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("moov", ["front", "end"])
def test_a_truncated_mp4_is_rejected_wherever_its_index_lies(tmp_path, kept, moov):
    options = {"movflags": "+faststart"} if moov == "front" else {}
    noise = 0.3 * np.random.default_rng(1).standard_normal((1, 6 * 48000)).astype(np.float32)
    path = make_video(tmp_path / "a.mp4", seconds=6.0, sound=noise, container_options=options)
    assert len(read(path).frames) == 6
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert reason(path) == Reason.TRUNCATED


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_a_truncated_matroska_is_rejected(tmp_path, name):
    codecs = {"video_codec": "libvpx", "audio_codec": "libopus"} if name.endswith("webm") else {}
    path = make_video(tmp_path / name, seconds=6.0, **codecs)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert reason(path) == Reason.TRUNCATED


@pytest.mark.parametrize("kept", [0.4, 0.7])
@pytest.mark.parametrize("name", ["a.wmv", "a.asf", "a.avi", "a.flv"])
def test_other_truncated_files_whose_header_says_how_long_they_are_are_rejected(tmp_path, name, kept):
    video_codec = "wmv2" if name.endswith("wmv") else "mpeg4" if name != "a.flv" else "flv"
    rate = 44100
    path = make_video(
        tmp_path / name, seconds=6.0, video_codec=video_codec, audio_codec="libmp3lame", rate=rate,
        sound=click_track(6.0, rate, 1.0),
    )  # fmt: skip
    assert len(read(path).frames) == 6
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert reason(path) == Reason.TRUNCATED
    if kept == 0.7:
        assert len(read(path, seconds=2.0).frames) == 2


def test_a_window_before_the_cut_of_a_truncated_video_is_kept(tmp_path):
    path = make_video(tmp_path / "a.mkv", seconds=6.0)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert len(read(path, seconds=2.0).frames) == 2
    assert reason(path, start=4.0, seconds=2.0) in (Reason.TRUNCATED, Reason.SHORT)


def test_broken_sound_is_rejected_and_not_packed_as_noise(tmp_path):
    path = make_video(tmp_path / "a.mp4", seconds=3.0)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        middle = packets[len(packets) // 2 : len(packets) // 2 + 5]
        places = [(packet.pos, packet.size) for packet in middle]
    for at, size in places:
        data[at : at + size] = b"\xff" * size
    path.write_bytes(data)
    assert reason(path) == Reason.UNDECODABLE


def test_length_is_read_from_the_header(tmp_path):
    assert seconds_of(make_video(tmp_path / "a.mp4", seconds=3.0)) == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize(("suffix", "exact"), [("flac", True), ("wav", True), ("ogg", False)])
def test_encoded_audio_keeps_every_sample_and_is_the_same_every_time(suffix, exact):
    waveform = (3000 * np.sin(np.arange(48123) / 20)).astype(np.int16)
    data = encode_audio(waveform, 48000, suffix=suffix)
    assert data == encode_audio(waveform, 48000, suffix=suffix)
    read_back, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == 48000 and read_back.shape == waveform.shape
    assert np.abs(read_back.astype(int) - waveform).max() <= (0 if exact else 300)
