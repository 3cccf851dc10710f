"""Sound that lies beside a video is that of the clip, in step with its pictures; where it is missing, that is said."""

import io
import json
import shutil

import numpy as np
import pytest
import soundfile

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.packing.media import PictureSettings, Reason, Reject, read_clip
from tests.packing.make_video import click_track, make_video
from tests.packing.test_media import click_seconds, numbers

NONE = ("--val-fraction", "0", "--test-fraction", "0", "--workers", "1")


def read(video, sound, *, start=0.0, seconds=None):
    pictures = PictureSettings()
    return read_clip(
        video, sound_path=sound, start_seconds=start, seconds=seconds, sample_rate_hz=48000, pictures=pictures
    )


def wav(path, *, seconds=4.0, click=2.5, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, click_track(seconds, rate, click)[0], rate, subtype="PCM_16")
    return path


@pytest.mark.parametrize("name", ["v.flv", "v.mp4", "v.mkv", "v.ts", "v.avi"])
@pytest.mark.parametrize("has_sound", [True, False])
@pytest.mark.parametrize("start", [0.0, 1.5])
def test_the_sound_is_the_other_files_and_in_step(tmp_path, name, has_sound, start):
    codec = {"video_codec": "mpeg4", "audio_codec": "pcm_s16le"} if name == "v.avi" else {}
    video = make_video(tmp_path / name, seconds=4.0, fps=50, has_sound=has_sound, **codec)
    clip = read(video, wav(tmp_path / "v.wav"), start=start, seconds=2.0 if start else None)
    assert numbers(clip) == [round(50 * (start + second)) for second in range(2 if start else 4)]
    # The video's own click, if it has one, is at 1 s.
    assert click_seconds(clip) + start == pytest.approx(2.5, abs=0.002)
    assert len(clip.waveform) == (2 if start else 4) * 48000


def test_the_clip_lasts_as_long_as_the_longer_of_both(tmp_path):
    video = make_video(tmp_path / "v.mp4", seconds=2.0, fps=10)
    clip = read(video, wav(tmp_path / "v.wav", seconds=5.0))
    assert clip.seconds == 5.0 and len(clip.frames) == 2 and clip.sound_past_video_seconds == pytest.approx(3.0)


def test_a_sound_that_cannot_be_used_rejects_the_clip_and_is_named(tmp_path):
    video, sound = make_video(tmp_path / "v.mp4", seconds=3.0, fps=10), wav(tmp_path / "v.wav")
    cut = tmp_path / "cut.wav"
    cut.write_bytes(sound.read_bytes()[:60000])
    (tmp_path / "text.wav").write_text("no sound")
    short = wav(tmp_path / "short.wav", seconds=0.5, click=0.2)
    for path, reason, text in (
        (cut, Reason.TRUNCATED, "cut.wav: in the middle of a packet"),
        (tmp_path / "text.wav", Reason.NOT_A_VIDEO, "text.wav: "),
        (tmp_path / "gone.wav", Reason.MISSING, "gone.wav"),
        (make_video(tmp_path / "mute.mp4", has_sound=False), Reason.NO_AUDIO, "mute.mp4"),
        (short, Reason.SHORT, "0.50 s of sound"),
    ):
        with pytest.raises(Reject) as caught:
            read(video, path)
        assert caught.value.reason == reason and text in caught.value.detail, path


@pytest.mark.parametrize("has_sound", [True, False])
def test_a_video_that_is_cut_off_is_rejected_all_the_same(tmp_path, has_sound):
    whole = make_video(tmp_path / "v.mkv", seconds=4.0, fps=10, has_sound=has_sound, options={"crf": "5"})
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(Reject) as caught:
        read(cut, wav(tmp_path / "v.wav"))
    assert caught.value.reason == Reason.TRUNCATED


@pytest.fixture
def crema_d(tmp_path):
    """Words of a command that packs three clips, whose videos and sounds lie in folders of their own."""
    names = ("1001_DFA_ANG_XX", "1002_IEO_NEU_X", "1003_IOM_SAD_LO")
    for number, name in enumerate(names):
        make_video(tmp_path / "CREMA-D" / "VideoFlash" / f"{name}.flv", seconds=2.0, fps=10)
        wav(tmp_path / "CREMA-D" / "AudioWAV" / f"{name}.wav", seconds=2.0, click=0.5 + 0.25 * number)
    (tmp_path / "train.csv").write_text("".join(f"{name},{name[9:12]}\n" for name in names))
    words = ("pack", "crema_d", "--list", str(tmp_path / "train.csv"), "--media", str(tmp_path / "CREMA-D"))
    return [*words, *NONE, "--out"]


def clicks(out):
    dataset = Dataset(out)
    found = {}
    for clip in range(len(dataset)):
        waveform = soundfile.read(io.BytesIO(dataset.audio_bytes(clip).tobytes()), dtype="int16")[0]
        loud = np.abs(waveform.astype(float))
        found[dataset.key(clip)] = round(int(np.argmax(loud > loud.max() / 2)) / 48000, 2)
    return found


def test_crema_d_takes_the_sound_from_its_wav_files(crema_d, tmp_path, capsys):
    main([*crema_d, str(tmp_path / "out")])
    expected = {"1001_DFA_ANG_XX": 0.5, "1002_IEO_NEU_X": 0.75, "1003_IOM_SAD_LO": 1.0}
    assert clicks(tmp_path / "out") == pytest.approx(expected, abs=0.01)
    # Wherever the folder lies in the media folder.
    shutil.move(tmp_path / "CREMA-D" / "AudioWAV", tmp_path / "CREMA-D" / "sounds")
    main([*crema_d, str(tmp_path / "again")])
    assert clicks(tmp_path / "again") == clicks(tmp_path / "out")
    assert "the sound is" not in capsys.readouterr().err


def test_a_row_without_its_sound_is_rejected_and_without_any_it_is_the_videos(crema_d, tmp_path, capsys):
    (tmp_path / "CREMA-D" / "AudioWAV" / "1002_IEO_NEU_X.wav").unlink()
    main([*crema_d, str(tmp_path / "out")])
    (reject,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
    assert reject["reason"] == "missing file"
    assert reject["detail"] == "looked for its sound, 'AudioWAV/1002_IEO_NEU_X.wav'"
    shutil.rmtree(tmp_path / "CREMA-D" / "AudioWAV")
    capsys.readouterr()
    main([*crema_d, str(tmp_path / "own")])
    said = "no file AudioWAV/1001_DFA_ANG_XX.wav is there, so the sound is the videos' own"
    assert said in capsys.readouterr().err
    assert set(clicks(tmp_path / "own").values()) == {1.0}  # of the template of all videos here


def test_sounds_of_another_length_than_their_videos_and_two_of_one_name_are_said(crema_d, tmp_path, capsys):
    wav(tmp_path / "CREMA-D" / "AudioWAV" / "1003_IOM_SAD_LO.wav", seconds=5.0)
    main([*crema_d, str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert "1 of 3 sounds last longer or shorter than their videos: 1003_IOM_SAD_LO.flv first" in error
    assert "its sound 5.0 s" in error
    shutil.copytree(tmp_path / "CREMA-D" / "AudioWAV", tmp_path / "CREMA-D" / "copy")
    shutil.move(tmp_path / "CREMA-D" / "AudioWAV", tmp_path / "CREMA-D" / "first")
    with pytest.raises(SystemExit) as ended:
        main([*crema_d, str(tmp_path / "two")])
    assert ended.value.code == 2
    assert "could be copy/1001_DFA_ANG_XX.wav and first/1001_DFA_ANG_XX.wav" in capsys.readouterr().err


def test_a_pack_that_was_begun_with_other_sound_is_not_gone_on_with(crema_d, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as broken:
        broken.setattr("avbench.packing.pack._finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            main([*crema_d, str(tmp_path / "out")])
    shutil.rmtree(tmp_path / "CREMA-D" / "AudioWAV")
    with pytest.raises(SystemExit) as ended:
        main([*crema_d, str(tmp_path / "out")])
    assert ended.value.code == 2 and "unfinished pack" in capsys.readouterr().err
