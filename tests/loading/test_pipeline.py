"""The DALI graphs against torchaudio, torchvision and PIL, on the same bytes."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import soundfile
import torch
import torchaudio
from PIL import Image

from avbench.errors import UsageError
from avbench.loading import reference
from avbench.loading.feeds import AudioFeed, VisualFeed, window_samples
from avbench.loading.pipeline import (
    Buffers,
    audio_buffers,
    audio_pipeline,
    finish_audio,
    finish_frames,
    resampling_of,
    visual_pipeline,
)
from avbench.loading.presets import PRESETS, AudioPreset, FilterBank, PowerSpectrogram, Stft, VisualPreset, preset
from avbench.loading.reference import audio_oracle, largest_difference, log_oracle, picture_oracle, stft_oracle
from avbench.loading.transforms import filter_bank, power_spectrogram
from tests.synthetic import CODECS, picture, waveform

STFT = sorted(name for name in PRESETS if isinstance(PRESETS[name].audio.transform, Stft))
CPU = {"threads": 1, "device": torch.device("cpu"), "depth": 1}


def encoded(sound: np.ndarray, sample_rate: int, suffix: str = "flac") -> np.ndarray:
    container, subtype = CODECS[suffix]
    file = io.BytesIO()
    soundfile.write(file, sound, sample_rate, format=container, subtype=subtype)
    return np.frombuffer(file.getvalue(), np.uint8)


def decoded(data: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(soundfile.read(io.BytesIO(data.tobytes()), dtype="float32")[0])


def feed_of(
    data: list[np.ndarray], sample_rates: list[int], preset: AudioPreset, *, starts: list[int] | None = None
) -> AudioFeed:
    samples = np.array([len(decoded(component)) for component in data])
    return AudioFeed(data, np.array(sample_rates), samples, np.array(starts or [0] * len(data)), preset)


def decoded_of(feed: AudioFeed) -> torch.Tensor:
    resampling = resampling_of(feed.sample_rates_hz, feed.preset.sample_rate_hz)
    pipeline = audio_pipeline(feed.preset, resampling=resampling, max_batch_size=len(feed.encoded), **CPU)
    pipeline.feed(feed)
    return pipeline.take()


def powers_of(data: list[np.ndarray], sample_rates: list[int], preset: AudioPreset) -> torch.Tensor:
    return decoded_of(feed_of(data, sample_rates, preset))


def seen_of(feed: AudioFeed) -> torch.Tensor:
    """What the network sees, [B, 1, *shape]."""
    buffers = audio_buffers(feed.preset, len(feed.encoded))
    return finish_audio(decoded_of(feed), feed, buffers=buffers)


def pictures_of(
    data: list[np.ndarray], boxes: np.ndarray, flips: np.ndarray, preset: VisualPreset, *, frames: int = 1
) -> torch.Tensor:
    pipeline = visual_pipeline(preset, max_batch_size=len(data), **CPU)
    pipeline.feed(VisualFeed(data, boxes, flips))
    return finish_frames(pipeline.take(), frames=frames)


def sounds(sample_rate: int, lengths: list[float]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        waveform(number, seconds=seconds, sample_rate=sample_rate, generator=generator)
        for number, seconds in enumerate(lengths)
    ]


@pytest.mark.parametrize("name", STFT)
@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg"])
def test_spectrograms_equal_torchaudios_before_and_after_the_logarithm(name, suffix):
    audio = PRESETS[name].audio
    # Exactly as long as the preset's, shorter (zero-padded or repeated) and longer (cut).
    lengths = [audio.seconds, 0.3 * audio.seconds, audio.seconds + 0.7]
    data = [encoded(sound, audio.sample_rate_hz, suffix) for sound in sounds(audio.sample_rate_hz, lengths)]
    feed = feed_of(data, [audio.sample_rate_hz] * 3, audio)
    powers = decoded_of(feed)
    ours = (powers if audio.transform.mel_bins else powers.sqrt()).transpose(1, 2)
    result = finish_audio(powers, feed, buffers=audio_buffers(audio, 3))
    assert result.shape == (3, 1, *audio.shape) and result.dtype == torch.float32
    for row, component in enumerate(data):
        expected = stft_oracle(decoded(component), audio)
        assert expected.shape == audio.shape
        assert (ours[row] - expected).abs().max() <= 1e-5 * expected.max()
        loud = expected > 1e-3  # below, float32's FFT noise is no longer small beside the value
        assert loud.any()
        torch.testing.assert_close(result[row, 0][loud], log_oracle(expected, audio.transform)[loud], rtol=0, atol=1e-3)


# Seconds: shorter than a window of the transform, than a second, than every preset's audio, than some; longer than all.
LENGTHS = [0.02, 0.7, 4.3, 7.9, 11.3]


def assert_equal_but_for_float32(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Of normalized logarithms: a quiet one beside a loud tone holds the noise of a float32 FFT, which is rare."""
    error = (ours.double() - expected.double()).abs()
    assert error.max() <= 1e-3 and error.mean() <= 1e-5


@pytest.mark.parametrize("name", ["kinetics-sound-ogm", "vggsound-official"])
def test_transforms_that_dali_lacks_equal_torchaudios_and_scipys_on_clips_of_any_length(name):
    audio = PRESETS[name].audio
    data = [encoded(sound + 0.01, audio.sample_rate_hz) for sound in sounds(audio.sample_rate_hz, LENGTHS)]
    seen = seen_of(feed_of(data, [audio.sample_rate_hz] * len(data), audio))
    assert seen.shape == (len(data), 1, *audio.shape) and seen.dtype == torch.float32
    for row, component in zip(seen[1:], data[1:], strict=True):
        expected = audio_oracle(decoded(component).double(), audio)
        assert_equal_but_for_float32(row[0], expected)


def test_a_clip_shorter_than_a_window_is_all_padding_in_the_filter_bank():
    audio = preset("kinetics-sound-ogm").audio
    seen = seen_of(feed_of([encoded(sounds(16_000, [0.02])[0], 16_000)], [16_000], audio))
    torch.testing.assert_close(seen, torch.full_like(seen, 4.503877 / (2 * 5.141276)))


@pytest.mark.parametrize("name", ["kinetics-sound-ogm", "vggsound-official"])
def test_numpy_and_torch_give_the_same_transform(name):
    audio = PRESETS[name].audio
    waveforms = np.stack(sounds(audio.sample_rate_hz, [audio.seconds] * 2))
    steps = np.array([audio.steps, 100])
    if isinstance(audio.transform, FilterBank):
        batch = filter_bank(torch.from_numpy(waveforms), steps, audio.transform, audio.sample_rate_hz)
        each = [
            filter_bank(*pair, audio.transform, audio.sample_rate_hz) for pair in zip(waveforms, steps, strict=True)
        ]
    else:
        assert isinstance(audio.transform, PowerSpectrogram)
        batch = power_spectrogram(torch.from_numpy(waveforms), audio.transform, audio.sample_rate_hz)
        each = [power_spectrogram(waveform, audio.transform, audio.sample_rate_hz) for waveform in waveforms]
    assert batch.shape == (2, audio.steps, audio.transform.bins) and batch.dtype == torch.float32
    assert_equal_but_for_float32(batch, torch.from_numpy(np.stack(each)))


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        *((name, [16_000, 44_100, 48_000]) for name in sorted(PRESETS)),
        # Multiples of the preset's: decimated.
        *((name, [16_000, 32_000, 48_000]) for name in sorted(PRESETS) if PRESETS[name].audio.sample_rate_hz == 16_000),
    ],
)
def test_clips_of_every_length_and_rate_equal_the_oracle_after_resampling(name, rates):
    audio = PRESETS[name].audio
    cases = [(rate, sound) for rate in rates for sound in sounds(rate, [0.5, 0.6 * audio.seconds, audio.seconds + 1.3])]
    data = [encoded(sound, rate) for rate, sound in cases]
    samples = np.array([len(sound) for _, sound in cases])
    windows = window_samples(audio, np.array([rate for rate, _ in cases]))
    # Windows inside the long clips: one just after the start, where no whole margin precedes it, and later ones.
    latest = np.maximum(samples - windows, 0) if audio.window == "random" else np.zeros(len(cases), np.int64)
    starts = [int(place * share) for place, share in zip(latest, [0, 0, 0.001, 0, 0, 0.5, 0, 0, 1], strict=True)]
    feed = feed_of(data, [rate for rate, _ in cases], audio, starts=starts)
    seen = seen_of(feed)[:, 0]
    for row, component, (rate, _), start in zip(seen, data, cases, starts, strict=True):
        # Position `start` need not fall on a sample of the new rate: cut first, with what precedes it as context.
        waveform = resampled_from(decoded(component), rate, audio.sample_rate_hz, start=start)
        expected = audio_oracle(waveform.double(), audio)
        assert row.shape == expected.shape
        error = (row.double() - expected).abs()
        if name in ("paper", "vggsound-ogm"):
            # Above the file's highest frequency there is only what either low-pass filter lets through.
            held = int(0.9 * min(1, rate / audio.sample_rate_hz) * len(expected))
            error = error[:held][expected[:held] > np.log(1e-3)]
        elif name == "balanced-av":
            error /= expected.max()
        assert error.numel() > 1000
        assert error.median() < 1e-3 and error.mean() < 1e-2, (rate, start)


def resampled_from(waveform: torch.Tensor, rate: int, wanted: int, *, start: int) -> torch.Tensor:
    """The waveform at the wanted rate from file sample `start` on; the filter sees the samples before it."""
    if rate == wanted:
        return waveform[start:]
    before = -(-start // rate) * rate  # whole seconds are whole samples at both rates
    padded = torch.nn.functional.pad(waveform, (before - start, 0))
    resampled = torchaudio.functional.resample(padded, rate, wanted, lowpass_filter_width=16)
    return resampled[before * wanted // rate :]


def test_preset_shapes_are_those_of_the_table():
    assert {name: PRESETS[name].audio.shape for name in PRESETS} == {
        "paper": (257, 1001),
        "vggsound-ogm": (129, 626),
        "kinetics-sound-ogm": (1024, 128),
        "vggsound-official": (257, 1004),
        "balanced-av": (257, 1003),
        "tiny": (64, 101),
    }


def golden_waveform(sample_rate: int, seconds: float) -> torch.Tensor:
    """Two tones and a chirp, float64 [samples]: what the published code was run on."""
    time = torch.arange(round(sample_rate * seconds), dtype=torch.float64) / sample_rate
    phases = (440 * time, 3000 * time, 50 * time**2)
    return sum(share * torch.sin(2 * torch.pi * phase) for share, phase in zip((0.5, 0.25, 0.1), phases, strict=True))


@pytest.fixture(scope="module")
def published(golden: Path) -> dict:
    cases = json.loads((golden / "audio_preprocessing.json").read_text())["cases"]
    return {case["name"]: case for case in cases}


# Preset, sample rate, case and entry; then the tolerance of the oracles, and of DALI's float32. librosa and SciPy were
# run in float64, torchaudio in float32. librosa 0.11 reflects the last window of vggsound-ogm a little differently.
PUBLISHED = [
    ("vggsound-ogm", 16_000, "ogm_vggsound_5s_16k_pad_reflect", "spec", 5e-4, 1e-3),
    ("kinetics-sound-ogm", 16_000, "ks_kaldi_fbank_10s_16k", "fbank", 2e-4, 1e-3),
    ("vggsound-official", 16_000, "vggsound_official_spectrogram_10s_16k", "normalised", 1e-10, 1e-5),
    ("balanced-av", 44_100, "av_preprocess_tool_10s_44100", "spec", 1e-10, 1e-4),
    ("balanced-av", 48_000, "av_preprocess_tool_10s_48000", "spec", 1e-10, 1e-4),
]


def assert_published(ours: torch.Tensor, expected: dict, *, tolerance: float, quietest: float = -np.inf) -> None:
    assert list(ours.shape) == expected["shape"]
    for row, column, value in expected["samples"]:
        if value > quietest:
            assert float(ours[row, column]) == pytest.approx(value, abs=tolerance)
    assert float(ours.max()) == pytest.approx(expected["max"], abs=tolerance)
    if quietest == -np.inf:
        assert float(ours.mean()) == pytest.approx(expected["mean"], abs=tolerance)
        assert float(ours.std(correction=0)) == pytest.approx(expected["std"], abs=tolerance)  # NumPy's


@pytest.mark.parametrize(("name", "sample_rate", "case", "entry", "tolerance", "_"), PUBLISHED)
def test_oracles_equal_the_published_code(published, name, sample_rate, case, entry, tolerance, _):
    audio = replace(PRESETS[name].audio, sample_rate_hz=sample_rate)
    sound = golden_waveform(sample_rate, 5 if name == "vggsound-ogm" else 10)
    assert_published(audio_oracle(sound, audio), published[case][entry], tolerance=tolerance)


@pytest.mark.parametrize(("name", "sample_rate", "case", "entry", "_", "tolerance"), PUBLISHED)
def test_dali_equals_the_published_code(published, name, sample_rate, case, entry, _, tolerance):
    audio = replace(PRESETS[name].audio, sample_rate_hz=sample_rate)
    sound = golden_waveform(sample_rate, 5 if name == "vggsound-ogm" else 10).numpy()
    file = io.BytesIO()
    soundfile.write(file, sound, sample_rate, format="WAV", subtype="FLOAT")  # without the rounding to 16 bit
    feed = feed_of([np.frombuffer(file.getvalue(), np.uint8)], [sample_rate], audio)
    ours = seen_of(feed)[0, 0].double()
    # The logarithms of magnitudes 2,000 times below the largest and less are those of float32's noise.
    quietest = published[case][entry]["max"] - 8 if name == "vggsound-ogm" else -np.inf
    assert_published(ours, published[case][entry], tolerance=tolerance, quietest=quietest)


SILENCE = {
    "paper": np.log(1e-7),
    "vggsound-ogm": np.log(1e-7),
    "kinetics-sound-ogm": (np.log(2.0**-23) + 4.503877) / (2 * 5.141276),
    "vggsound-official": 0.0,
    "balanced-av": 0.0,
    "tiny": np.log(1e-5),
}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_silence_has_one_known_value(name):
    audio = preset(name).audio
    data = [encoded(np.zeros(11 * audio.sample_rate_hz, np.float32), audio.sample_rate_hz)]
    seen = seen_of(feed_of(data, [audio.sample_rate_hz], audio))
    torch.testing.assert_close(seen, torch.full_like(seen, SILENCE[name]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sample_rate", [48_000, 44_100, 22_050, 8_000])
def test_audio_of_another_rate_is_resampled_and_stays_aligned(sample_rate):
    audio = preset("tiny").audio
    sound = sounds(sample_rate, [2.6])[0]  # noise up to the old Nyquist rate: above the new one it must not fold back
    click = round(1.24 * sample_rate)
    sound[click : click + sample_rate // 500] = 0.9
    data = encoded(sound, sample_rate)
    ours = powers_of([data], [sample_rate], audio)[0].T
    expected = stft_oracle(
        torchaudio.functional.resample(decoded(data), sample_rate, audio.sample_rate_hz, lowpass_filter_width=16), audio
    )
    assert (ours - expected).abs().max() <= 2e-3 * expected.max()
    # The click's energy, in the bins above the tone, is in the frame at 1.24 s; a clip's ends are no part of this.
    above = ours[10:40, 2:-2].sum(0)
    assert int(above.argmax()) + 2 == 62 and above.max() > 1.5 * above.median()


def test_rates_may_differ_within_a_batch_and_equal_ones_come_out_as_without_resampling():
    audio = preset("tiny").audio
    data = [encoded(sounds(rate, [2.0])[0], rate) for rate in (16_000, 48_000)]
    mixed = powers_of(data, [16_000, 48_000], audio)
    alone = powers_of(data[:1], [16_000], audio)
    torch.testing.assert_close(mixed[0], alone[0], rtol=0, atol=float(1e-5 * alone.max()))


def test_stereo_is_mixed_down_to_the_mean():
    audio = preset("tiny").audio
    left, right = (sound[: 2 * 16_000] for sound in sounds(16_000, [2.0, 2.0]))
    data = encoded(np.stack([left, right], axis=1), 16_000, "wav")
    ours = powers_of([data], [16_000], audio)[0].T
    expected = stft_oracle(decoded(data).mean(1), audio)
    assert (ours - expected).abs().max() <= 1e-5 * expected.max()


def photo(size: tuple[int, int]) -> np.ndarray:
    """Stripes and a slow gradient in colour, with the grain of a photograph."""
    return picture(1, size=size, generator=np.random.default_rng(size[0]), noise=6.0)


# Left, top, width, height: whole pictures, enlarged, reduced, odd offsets, thin.
BOXES = [(0, 0, 340, 256), (13, 27, 180, 201), (101, 55, 60, 70), (0, 0, 341, 200), (77, 3, 223, 251), (5, 9, 300, 90)]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_crops_equal_torchvisions_on_pil_images(name):
    visual = PRESETS[name].visual
    data = np.frombuffer(
        simplejpeg.encode_jpeg(photo((341, 257)), quality=90, colorspace="RGB", colorsubsampling="420"), np.uint8
    )
    flips = np.arange(len(BOXES)) % 2 == 1
    ours = pictures_of([data] * len(BOXES), np.array(BOXES), flips, visual)
    decoded = np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))
    deviation = torch.tensor(visual.deviation)[:, None, None]
    for row, box in enumerate(BOXES):
        expected = picture_oracle(decoded, visual, box=np.array(box), flip=flips[row])
        error = ((ours[row, 0] - expected) * deviation).abs()
        assert error.mean() <= 1 / 255
        # At a crop's border the decoder has no neighbours to interpolate colour from; two source pixels wide.
        top, left = (
            int(np.ceil(2 * full / cut)) + 1 for full, cut in ((visual.height, box[3]), (visual.width, box[2]))
        )
        assert error[:, top:-top, left:-left].max() <= 4 / 255


def test_frames_are_channels_last_and_fold_into_the_batch_as_a_view():
    visual = preset("tiny").visual
    data = np.frombuffer(simplejpeg.encode_jpeg(photo((64, 48)), colorspace="RGB"), np.uint8)
    frames = pictures_of([data] * 6, np.array([[0, 0, 64, 48]] * 6), np.array([0, 0, 0, 1, 1, 1]), visual, frames=3)
    assert frames.shape == (2, 3, 3, 64, 64)
    folded = frames.flatten(0, 1)
    assert folded.is_contiguous(memory_format=torch.channels_last) and folded.data_ptr() == frames.data_ptr()
    torch.testing.assert_close(frames[0, 0], frames[1, 2].flip(-1), rtol=0, atol=1e-6)


def test_a_batch_that_was_handed_out_is_not_overwritten():
    visual = preset("tiny").visual
    pipeline = visual_pipeline(visual, max_batch_size=1, **{**CPU, "depth": 2})
    taken, copies = [], []
    for shade in range(0, 250, 10):
        data = np.frombuffer(simplejpeg.encode_jpeg(np.full((16, 16, 3), shade, np.uint8), colorspace="RGB"), np.uint8)
        pipeline.feed(VisualFeed([data], np.array([[0, 0, 16, 16]]), np.zeros(1)))
        taken.append(pipeline.take())
        copies.append(taken[-1].clone())
    for tensor, copy in zip(taken, copies, strict=True):
        assert torch.equal(tensor, copy)
    assert len({float(tensor[0, 0, 0, 0]) for tensor in taken}) == 25


def test_a_buffer_is_used_again_only_after_the_last_tensor_that_shares_it():
    buffers = Buffers((2, 3))
    tensor = torch.from_numpy(buffers.take(2))
    place, part = tensor.data_ptr(), tensor.view(3, 2).transpose(0, 1)[1:]
    del tensor
    while_in_use = [buffers.take(2) for _ in range(10)]
    assert place not in {array.ctypes.data for array in while_in_use}
    del part
    assert buffers.take(1).ctypes.data == place


def test_an_unknown_preset_names_the_near_ones():
    with pytest.raises(UsageError, match=r"unknown preset 'papper'; did you mean 'paper'\?"):
        preset("papper")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_difference_that_doctor_shows_is_that_to_the_oracle(name, monkeypatch):
    audio = PRESETS[name].audio
    found = largest_difference(audio, torch.device("cpu"))
    assert 0 < found < 1e-3
    monkeypatch.setattr(reference, "audio_oracle", lambda waveform, preset: audio_oracle(waveform, preset) + 1.0)
    assert largest_difference(audio, torch.device("cpu")) == pytest.approx(1.0, abs=2 * found)
