"""Sound is what the decoder gives, in one run, wherever its time stamps do not mean a hole."""

import io
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from avbench.packing.media import PictureSettings, Reason, Reject, read_clip
from avbench.packing.sound import places
from tests.packing.make_video import HEIGHT, WIDTH, click_track, make_video, numbered_frame

RATE = 44100
# A Vorbis packet at a switch from long blocks (2048) to short ones (256) is stamped this much later than its sound.
STRAY = (2048 - 256) // 4


def clicks_and_silence(seconds):
    """float32 [S]: near silence, so long blocks, with a burst of 20 samples every fifth of a second, so short ones."""
    random = np.random.default_rng(0)
    track = 1e-4 * random.standard_normal(round(seconds * RATE))
    for at in range(RATE // 10, len(track), RATE // 5):
        track[at : at + 20] += 0.8 * random.standard_normal(20)
    return track.clip(-1, 1).astype(np.float32)


def vorbis_video(path, *, first_packet=0, seconds=4.0):
    """A video whose sound libvorbis encoded; its packets come unchanged, those before `first_packet` are left out."""
    ogg = io.BytesIO()
    soundfile.write(ogg, clicks_and_silence(seconds), RATE, format="OGG", subtype="VORBIS")
    ogg.seek(0)
    with av.open(ogg) as source, av.open(str(path), "w") as container:
        video = container.add_stream("libvpx", rate=10)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream_from_template(source.streams.audio[0])
        for number in range(round(seconds * 10)):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number, packet in enumerate(source.demux(source.streams.audio[0])):
            if packet.size and number >= first_packet:
                packet.stream = audio
                container.mux(packet)
    return path


def plainly_decoded(path):
    """int16 [S] of all frames in order; the first one's time from the first picture on, and stamps less samples."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        video = container.streams.video[0]
        starts = float(frames[0].pts * frames[0].time_base - video.start_time * video.time_base)
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    before = np.cumsum([0, *(frame.samples for frame in frames[:-1])])
    ahead = [frame.pts * frame.time_base * RATE - count for frame, count in zip(frames, before, strict=True)]
    return np.rint(samples * 32768).clip(-32768, 32767).astype(np.int16), starts, np.array(ahead, float)


def waveform(path, *, start=0.0, seconds=None):
    return read_clip(
        path, start_seconds=start, seconds=seconds, sample_rate_hz=RATE, pictures=PictureSettings()
    ).waveform


@pytest.mark.parametrize("name", ["a.webm", "a.mkv"])
def test_vorbis_of_switching_blocks_is_the_decoders_samples_in_one_run(tmp_path, name):
    path = vorbis_video(tmp_path / name)
    expected, starts, ahead = plainly_decoded(path)
    assert (np.abs(ahead - np.median(ahead)) > 0.01 * RATE).sum() >= 10  # else there is nothing to be tested
    assert starts == 0
    assert np.array_equal(waveform(path), expected)
    assert np.array_equal(waveform(path, seconds=2.0), expected[: 2 * RATE])


def test_a_window_of_vorbis_begins_where_its_second_does(tmp_path):
    path = vorbis_video(tmp_path / "a.webm", seconds=6.0)
    expected, _, _ = plainly_decoded(path)
    window = waveform(path, start=3.0, seconds=2.0)
    assert len(window) == 2 * RATE
    # Where the run lies is known to 5 ms, the rounding of stamps; within it nothing is missing or put in.
    at = next(
        at for at in range(3 * RATE - 441, 3 * RATE + 442) if np.array_equal(window, expected[at : at + 2 * RATE])
    )
    assert abs(at - 3 * RATE) < 0.005 * RATE


@pytest.mark.parametrize("name", ["a.webm", "a.mkv"])
def test_a_first_stamp_that_strays_leaves_the_sound_whole_and_in_step(tmp_path, name):
    path = vorbis_video(tmp_path / name, first_packet=4)
    expected, starts, ahead = plainly_decoded(path)
    off = ahead[0] - np.median(ahead[1:])
    assert off > 0.01 * RATE  # the first, and so what is believed of the others
    found = waveform(path)
    lead = int(np.flatnonzero(found)[0])
    assert lead == pytest.approx(starts * RATE - STRAY, abs=0.001 * RATE)
    assert np.array_equal(found[lead:], expected[: len(found) - lead])
    assert len(found) == 4 * RATE


HOLES = {
    "a.mp4": ("libx264", "aac"),
    "a.mov": ("libx264", "aac"),
    "a.mkv": ("libx264", "flac"),
    "a.webm": ("libvpx", "libopus"),
    "a.ts": ("libx264", "aac"),
    "a.flv": ("libx264", "libmp3lame"),
    "a.wmv": ("wmv2", "libmp3lame"),
}


@pytest.mark.parametrize("name", HOLES)
@pytest.mark.parametrize("missing", [0.3, 0.8])
def test_sound_that_is_missing_for_longer_than_half_a_second_rejects_the_clip(tmp_path, name, missing):
    def edit(packet):
        time = packet.pts * packet.time_base
        return None if packet.stream.type == "audio" and 2 <= time < 2 + missing else packet

    video_codec, audio_codec = HOLES[name]
    rate = RATE if name == "a.flv" else HZ
    path = make_video(
        tmp_path / name, seconds=6.0, video_codec=video_codec, audio_codec=audio_codec, rate=rate,
        sound=click_track(6.0, rate, 4.5), edit=edit,
    )  # fmt: skip
    if missing > 0.5:
        with pytest.raises(Reject) as caught:
            waveform(path)
        assert caught.value.reason == Reason.GAP and "from 2.0" in caught.value.detail
        with pytest.raises(Reject):
            waveform(path, start=2.4, seconds=1.5)
    else:
        assert int(np.argmax(np.abs(waveform(path).astype(int)) > 8000)) / RATE == pytest.approx(4.5, abs=0.03)
    assert len(waveform(path, start=3.0, seconds=2.0)) == 2 * RATE
    assert len(waveform(path, seconds=1.9)) == pytest.approx(1.9 * RATE, abs=1)


# Stamps as they might be: pieces of 20 ms at 48 kHz.

PIECE, HZ = 960, 48000


def milliseconds(number):
    return number * HZ // 1000


def laid(*off_ms, missing=()):
    """By how many ms each piece lies later than in one run from 0, for stamps that are off by so many ms."""
    stamps = [None if at in missing else at * PIECE + milliseconds(off) for at, off in enumerate(off_ms)]
    starts = places(stamps, [PIECE] * len(stamps), HZ)
    return [(start - at * PIECE) * 1000 / HZ for at, start in enumerate(starts)]


@pytest.mark.parametrize("off", [11, -11, 40, -90, 99])
def test_jitter_that_comes_back_is_no_gap(off):
    assert laid(*[0] * 50, *[off] * 7, *[0] * 50) == [0] * 107
    assert laid(*[0] * 50, *[off] * 400, -off, *[0] * 50) == [0] * 501  # for eight seconds
    assert laid(*[0] * 50, *[off] * 7) == [0] * 57  # the end comes too early to tell


@given(st.lists(st.sampled_from([0, 0, 0, 11, -11]), min_size=200, max_size=300))
def test_stamps_that_stray_both_ways_and_come_back_leave_one_run(off):
    off[:30] = [0] * 30
    assert laid(*off) == [0] * len(off)


@pytest.mark.parametrize("off", [101, -101, 400, -400])
def test_a_jump_of_more_than_100_ms_is_followed_at_once(off):
    assert laid(*[0] * 50, *[off] * 50, *[0] * 50) == [0] * 50 + [off] * 50 + [0] * 50
    assert laid(*[0] * 50, off) == [0] * 50 + [off]


@pytest.mark.parametrize("off", [11, -11, 60, -60])
def test_stamps_that_stay_away_are_followed_because_sound_is_missing_or_came_twice(off):
    assert laid(*[0] * 50, *[off] * 600) == [0] * 50 + [off] * 600
    assert laid(*[0] * 50, *[off] * 30) == [0] * 50 + [off] * 30  # more than half a second, up to the end
    assert laid(*[0] * 50, *[off] * 550, 0) == [0] * 50 + [off] * 550 + [off]  # back only after eleven seconds


def test_a_slow_drift_is_followed_in_steps_that_are_rounding():
    found = laid(*(at // 50 for at in range(5000)))  # 1 ms a second, as between two clocks
    assert max(abs(one - at // 50) for at, one in enumerate(found)) <= 11
    steps = [other - one for one, other in pairwise(found) if other != one]
    assert max(steps) <= 11 and len(steps) < 12


@pytest.mark.parametrize("off", [11, -11, 40, -90])
@pytest.mark.parametrize("count", [1, 5])
def test_first_stamps_that_stray_are_not_believed_against_those_that_follow(off, count):
    assert laid(*[off] * count, *[0] * 600) == [0] * (600 + count)
    assert laid(*[off] * count, *[0] * 60, off, *[0] * 60, off, *[0] * 600) == [0] * (722 + count)  # nor if more do
    # After a jump a run begins anew.
    assert laid(*[0] * 50, *[500 + off] * count, *[500] * 600) == [0] * 50 + [500] * (600 + count)
    # And where sound is missing for good.
    if 10 < 60 + off <= 100:
        assert laid(*[0] * 50, *[60 + off] * count, *[60] * 600) == [0] * 50 + [60] * (600 + count)


def test_a_first_piece_that_is_followed_by_a_jump_stays_where_it_is():
    assert laid(0, *[155] * 100) == [0] + [155] * 100


def test_pieces_without_stamps_follow_the_one_before_and_those_before_the_first_precede_it():
    assert laid(*[0] * 10, *[150] * 10, missing=(3, 4, 10, 15)) == [0] * 11 + [150] * 9
    assert laid(*[70] * 30, missing=(0, 1)) == [70] * 30
    assert laid(0, 0, 0, missing=(0, 1, 2)) == [0] * 3
    assert places([], [], HZ) == []
