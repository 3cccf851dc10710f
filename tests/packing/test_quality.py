"""Silent, cancelled, still and squeezed clips are packed, counted and named."""

import json
import math
import shutil
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.packing.media import ClipMedia
from avbench.packing.pictures import frozen_seconds
from avbench.packing.quality import SECONDS as COLUMNS
from avbench.packing.quality import is_frozen, quality_line, quality_of, silence_seconds
from avbench.packing.sound import lost_samples
from avbench.packing.verify import verify
from tests.packing.make_video import HEIGHT, WIDTH, click_track, make_video, numbered_frame

RATE = 48000
SECONDS = 3.0


def tone(*levels, seconds=SECONDS):
    """float32 [channels, S]: 1 kHz with these amplitudes; a negative one is the tone turned upside down."""
    return np.outer(levels, np.sin(2 * np.pi * 1000 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def grey(level):
    return np.full((HEIGHT, WIDTH, 3), round(level), np.uint8)


def noise(*_):
    """The same noise each time."""
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


ALL_ZERO = np.zeros((1, round(SECONDS * RATE)), np.float32)
# Sound and pictures of each clip, and what is to be said of it.
CLIPS = {
    "plain": ({}, set()),
    "stereo": ({"sound": tone(0.5, 0.3)}, set()),
    "quiet": ({"sound": tone(0.00125)}, set()),  # -58 dBFS
    "hushed": ({"sound": tone(0.0008)}, {"silent"}),  # -62 dBFS
    "mute": ({"sound": ALL_ZERO}, {"silent"}),
    "one ear": ({"sound": tone(0.5, 0.0)}, set()),  # the mix is 3 dB down
    "opposite": ({"sound": tone(0.5, -0.5)}, {"silent", "anti_phase"}),
    "nearly opposite": ({"sound": tone(0.5, -0.48)}, {"anti_phase"}),  # 34 dB down, and yet not silent
    "half opposite": ({"sound": tone(0.5, -0.4)}, set()),  # 19 dB down
    "six": ({"sound": tone(0.5, -0.5, 0.3, 0.2, -0.3, -0.2)}, {"silent", "anti_phase"}),
    "still": ({"picture": noise}, {"frozen"}),
    "breathing": ({"picture": lambda number: grey(100 + number / 5)}, set()),  # 2 of 255 a second
    "squeezed": ({"pixel_aspect": Fraction(16, 11)}, {"non_square_pixels"}),
    "mute and still": ({"sound": ALL_ZERO, "picture": lambda _: grey(90)}, {"silent", "frozen"}),
}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality") / "media"
    for number, (name, (options, _)) in enumerate(CLIPS.items()):
        sound = options.get("sound", click_track(SECONDS, RATE, 1.0))
        path = folder / f"{number % 2}" / f"{name}.mov"
        make_video(
            path, **{**options, "seconds": SECONDS, "sound": sound, "fps": 10, "audio_codec": "pcm_s16le"},
            options={"crf": "5"},
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def packed(media):
    out = media.parent / "out"
    none = ("--val-fraction", "0", "--test-fraction", "0", "--clips-per-shard", "5", "--workers", "1")
    main(["pack", "folder", "--media", str(media), "--out", str(out), *none])
    return out


def flagged(description_or_row):
    return {name for name in ("silent", "anti_phase", "frozen", "non_square_pixels") if description_or_row[name]}


def test_each_clip_is_told_by_what_is_odd_about_it(packed):
    table = pq.read_table(packed / "quality.parquet").to_pylist()
    found = {row["key"].partition("%2F")[2].replace("%20", " "): flagged(row) for row in table}
    assert found == {name: flags for name, (_, flags) in CLIPS.items()}


def test_clip_ids_are_rows_of_the_index(packed):
    dataset = Dataset(packed)
    rows = pq.read_table(packed / "quality.parquet").to_pylist()
    assert [row["clip_id"] for row in rows] == list(range(len(dataset))) == list(range(len(CLIPS)))
    assert [row["key"] for row in rows] == [dataset.key(row["clip_id"]) for row in rows]


def test_levels_are_those_of_the_sound(packed):
    rows = {row["key"].partition("%2F")[2]: row for row in pq.read_table(packed / "quality.parquet").to_pylist()}
    expected = {
        "quiet": (20 * math.log10(0.00125), 0.0),
        "stereo": (20 * math.log10(0.4), 20 * math.log10(0.4 / math.sqrt((0.5**2 + 0.3**2) / 2))),
        "one%20ear": (20 * math.log10(0.25), -3.01),
        "nearly%20opposite": (-40.0, 20 * math.log10(0.01 / math.sqrt((0.5**2 + 0.48**2) / 2))),
    }
    for key, (peak, mix) in expected.items():
        assert rows[key]["peak_dbfs"] == pytest.approx(peak, abs=0.2), key
        assert rows[key]["mix_db"] == pytest.approx(mix, abs=0.05), key
    assert rows["mute"]["peak_dbfs"] == -math.inf and rows["mute"]["mix_db"] is None
    assert rows["opposite"]["peak_dbfs"] == -math.inf and rows["opposite"]["mix_db"] < -90
    assert rows["squeezed"]["pixel_aspect"] == pytest.approx(16 / 11, abs=1e-6)


def test_pack_and_dataset_say_how_many(media, packed, tmp_path, capsys):
    none = ("--val-fraction", "0", "--test-fraction", "0", "--workers", "1")
    main(["pack", "folder", "--media", str(media), "--out", str(tmp_path / "out"), *none])
    expected = {"silent": 5, "anti_phase": 3, "frozen": 2, "non_square_pixels": 1}
    line = (
        "of the clips 5 are silent, 3 have channels that cancel each other, 2 show a still picture, "
        "1 has non-square pixels, stored as coded and so squeezed; see quality.parquet"
    )
    assert line in capsys.readouterr().out.splitlines()
    for out in (packed, tmp_path / "out"):
        assert json.loads((out / "dataset.json").read_text())["quality"] == expected
    assert verify(packed, workers=1) == []


def test_a_dataset_with_nothing_odd_says_nothing():
    assert quality_line({"quality": {"silent": 0, "anti_phase": 0, "frozen": 0, "non_square_pixels": 0}}) == ""
    assert quality_line({}) == ""  # packed before quality was looked at
    assert quality_line({"quality": {"silent": 1}}) == "of the clips 1 is silent; see quality.parquet"


def test_a_changed_quality_file_is_a_problem(packed, tmp_path):
    copy = shutil.copytree(packed, tmp_path / "copy")
    file = copy / "quality.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    assert [line for line in verify(copy, workers=1) if "quality.parquet" in str(line)]
    file.unlink()
    assert [line for line in verify(copy, workers=1) if "quality.parquet is missing" in str(line)]


def jpegs(*pictures):
    return [
        simplejpeg.encode_jpeg(picture, quality=100, colorspace="RGB", colorsubsampling="444") for picture in pictures
    ]


def test_pictures_are_still_unless_two_differ_by_more_than_one_of_255():
    assert is_frozen(jpegs(grey(100), grey(101), grey(100)))
    assert not is_frozen(jpegs(grey(100), grey(102)))
    # The first lies between the others: none differs from it by more, but they do from each other.
    assert not is_frozen(jpegs(grey(101), grey(100), grey(102)))
    assert is_frozen(jpegs(grey(101), grey(100), grey(100)))
    # A small thing that moves on a still ground: 2 % of the picture, by far.
    moved = grey(100)
    moved[:8, :20] = 255
    assert not is_frozen(jpegs(grey(100), moved))
    assert not is_frozen(jpegs(*map(numbered_frame, range(3))))


def test_one_picture_shows_nothing_about_stillness():
    assert not is_frozen(jpegs(grey(100))) and not is_frozen([])


def test_the_loudest_sample_may_be_the_most_negative():
    wave = np.zeros(RATE, np.int16)
    wave[7] = -32768
    clip = ClipMedia(wave, jpegs(grey(1)), WIDTH, HEIGHT, 1.0, 0.0, 1.0)
    assert quality_of(clip, sample_rate_hz=RATE)["peak_dbfs"] == 0.0
    clip = ClipMedia(np.zeros(0, np.int16), jpegs(grey(1)), WIDTH, HEIGHT, 1.0, None, 1.0)
    assert quality_of(clip, sample_rate_hz=RATE)["silent"]


def seconds_by_key(packed):
    rows = pq.read_table(packed / "quality.parquet").to_pylist()
    return {row["key"].partition("%2F")[2].replace("%20", " "): {name: row[name] for name in COLUMNS} for row in rows}


def test_silent_and_frozen_seconds_are_those_of_the_clip(packed):
    found = seconds_by_key(packed)
    for name, (_, flags) in CLIPS.items():
        assert found[name]["silence_seconds"] == pytest.approx(SECONDS if "silent" in flags else 0, abs=0.01), name
        assert found[name]["frozen_seconds"] == (SECONDS if "frozen" in flags else 0), name
        assert found[name]["lost_seconds"] == 0 and found[name]["sound_past_video_seconds"] == 0, name


def pack_one(folder, name="clip.mkv", **video):
    make_video(folder / "media" / "one" / name, **{"fps": 10, **video})
    make_video(folder / "media" / "two" / "other.mkv", seconds=1.2, fps=10)
    none = ("--val-fraction", "0", "--test-fraction", "0", "--workers", "1")
    main(["pack", "folder", "--media", str(folder / "media"), "--out", str(folder / "out"), *none])
    return seconds_by_key(folder / "out")[name.rpartition(".")[0]]


def test_a_pause_and_an_early_end_of_the_sound_are_silence(tmp_path):
    sound = tone(0.5, seconds=4.0)
    sound[:, RATE : round(2.35 * RATE)] = 0
    found = pack_one(tmp_path, seconds=6.0, sound=sound, audio_codec="pcm_s16le")
    assert found["silence_seconds"] == pytest.approx(1.3 + 2.0, abs=0.06)
    assert found["frozen_seconds"] == found["lost_seconds"] == 0


def test_a_still_picture_with_sound_counts_while_it_stands(tmp_path):
    moving = lambda number: numbered_frame(number % 256) if number >= 40 else grey(90)  # noqa: E731
    found = pack_one(tmp_path, seconds=7.0, picture=moving)
    assert found["frozen_seconds"] == 4.0


def test_sound_that_lasts_longer_than_the_pictures_is_measured(tmp_path):
    found = pack_one(tmp_path, seconds=2.0, sound=tone(0.5, seconds=5.0), audio_codec="pcm_s16le")
    assert found["sound_past_video_seconds"] == pytest.approx(3.0, abs=0.06)


def test_sound_that_is_missing_in_the_middle_is_lost(tmp_path):
    def edit(packet):
        is_in_hole = (
            packet.stream.type == "audio" and packet.pts is not None and 1 <= packet.pts * packet.time_base < 1.3
        )
        return None if is_in_hole else packet

    found = pack_one(tmp_path, seconds=3.0, sound=tone(0.5), audio_codec="pcm_s16le", edit=edit)
    assert found["lost_seconds"] == pytest.approx(0.3, abs=0.03)
    assert found["silence_seconds"] == pytest.approx(0.3, abs=0.11)


def test_silence_is_counted_in_tenths_and_a_rest():
    wave = np.full(1050, 1000, np.int16)  # 10.5 blocks of 100 samples
    wave[200:400] = 32  # below 32.8
    wave[500:550] = 0  # half a block
    wave[1000:] = -32
    assert silence_seconds(wave, 1000) == pytest.approx(0.25)
    assert silence_seconds(np.full(300, -32768, np.int16), 1000) == 0
    assert silence_seconds(np.zeros(0, np.int16), 1000) == 0


def test_frozen_seconds_are_those_of_runs_of_two_or_more():
    a, b, c = grey(90), grey(92), grey(94)
    assert frozen_seconds([a, b, c]) == 0
    assert frozen_seconds([a, a, b, c, c, c]) == 5
    assert frozen_seconds([a]) == frozen_seconds([]) == 0
    # Each differs by 1 from the one before, so the third no longer shows what the first did.
    assert frozen_seconds([grey(90), grey(91), grey(92)]) == 2


def test_what_comes_before_the_first_sound_or_after_the_clip_is_not_lost():
    assert lost_samples([100, 200, 350], [100, 100, 50], 400) == 50
    assert lost_samples([-200, 50], [100, 100], 150) == 50  # a gap over the clip's start
    assert lost_samples([0, 500], [100, 100], 300) == 200
    assert lost_samples([0, 50, 250], [200, 20, 50], 300) == 50  # one piece within another
    assert lost_samples([], [], 0) == 0
