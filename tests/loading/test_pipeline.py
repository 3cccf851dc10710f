"""The DALI graphs against torchaudio, torchvision and PIL, on the same bytes."""

import io

import numpy as np
import pytest
import simplejpeg
import soundfile
import torch
import torchaudio
from PIL import Image
from synthetic import CODECS, picture, waveform

from avbench.errors import UsageError
from avbench.loading.features import (
    PRESETS,
    AudioPreset,
    VisualPreset,
    log_oracle,
    picture_oracle,
    preset,
    spectrogram_oracle,
)
from avbench.loading.pipeline import (
    AudioFeed,
    Buffers,
    VisualFeed,
    audio_pipeline,
    finish_audio,
    finish_frames,
    visual_pipeline,
)

CPU = {"threads": 1, "device": torch.device("cpu"), "depth": 1}


def encoded(sound: np.ndarray, sample_rate: int, suffix: str = "flac") -> np.ndarray:
    container, subtype = CODECS[suffix]
    file = io.BytesIO()
    soundfile.write(file, sound, sample_rate, format=container, subtype=subtype)
    return np.frombuffer(file.getvalue(), np.uint8)


def decoded(data: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(soundfile.read(io.BytesIO(data.tobytes()), dtype="float32")[0])


def powers_of(data: list[np.ndarray], sample_rates: list[int], preset: AudioPreset, *, resample: bool) -> torch.Tensor:
    pipeline = audio_pipeline(preset, resample=resample, max_batch_size=len(data), **CPU)
    pipeline.feed(AudioFeed(data, np.array(sample_rates), preset.sample_rate_hz))
    return pipeline.take()


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


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg"])
def test_spectrograms_equal_torchaudios_before_and_after_the_logarithm(name, suffix):
    audio = PRESETS[name].audio
    # Exactly as long as the preset's, shorter (zero-padded) and longer (cut).
    lengths = [audio.seconds, 0.3 * audio.seconds, audio.seconds + 0.7]
    data = [encoded(sound, audio.sample_rate_hz, suffix) for sound in sounds(audio.sample_rate_hz, lengths)]
    powers = powers_of(data, [audio.sample_rate_hz] * 3, audio, resample=False)
    ours = (powers if audio.mel_bins else powers.sqrt()).transpose(1, 2)
    result = finish_audio(powers, audio, buffers=Buffers(powers.shape))
    assert result.shape == (3, 1, *audio.shape) and result.dtype == torch.float32
    for row, component in enumerate(data):
        expected = spectrogram_oracle(decoded(component), audio)
        assert expected.shape == audio.shape
        assert (ours[row] - expected).abs().max() <= 1e-5 * expected.max()
        loud = expected > 1e-3  # below, float32's FFT noise is no longer small beside the value
        assert loud.any()
        torch.testing.assert_close(result[row, 0][loud], log_oracle(expected, audio)[loud], rtol=0, atol=1e-3)


def test_preset_shapes_are_those_of_the_table():
    assert preset("paper").audio.shape == (257, 1001)
    assert preset("tiny").audio.shape == (64, 101)


def test_silence_has_the_value_of_the_logs_offset():
    audio = preset("paper").audio
    powers = powers_of([encoded(np.zeros(1000, np.float32), 48_000)], [48_000], audio, resample=False)
    result = finish_audio(powers, audio, buffers=Buffers(powers.shape))
    torch.testing.assert_close(result, torch.full_like(result, np.log(1e-7)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sample_rate", [48_000, 44_100, 22_050, 8_000])
def test_audio_of_another_rate_is_resampled_and_stays_aligned(sample_rate):
    audio = preset("tiny").audio
    sound = sounds(sample_rate, [2.6])[0]  # noise up to the old Nyquist rate: above the new one it must not fold back
    click = round(1.24 * sample_rate)
    sound[click : click + sample_rate // 500] = 0.9
    data = encoded(sound, sample_rate)
    ours = powers_of([data], [sample_rate], audio, resample=True)[0].T
    expected = spectrogram_oracle(
        torchaudio.functional.resample(decoded(data), sample_rate, audio.sample_rate_hz, lowpass_filter_width=16), audio
    )
    assert (ours - expected).abs().max() <= 2e-3 * expected.max()
    # The click's energy, in the bins above the tone, is in the frame at 1.24 s; a clip's ends are no part of this.
    above = ours[10:40, 2:-2].sum(0)
    assert int(above.argmax()) + 2 == 62 and above.max() > 1.5 * above.median()


def test_rates_may_differ_within_a_batch_and_equal_ones_come_out_as_without_resampling():
    audio = preset("tiny").audio
    data = [encoded(sounds(rate, [2.0])[0], rate) for rate in (16_000, 48_000)]
    mixed = powers_of(data, [16_000, 48_000], audio, resample=True)
    alone = powers_of(data[:1], [16_000], audio, resample=False)
    torch.testing.assert_close(mixed[0], alone[0], rtol=0, atol=float(1e-5 * alone.max()))


def test_stereo_is_mixed_down_to_the_mean():
    audio = preset("tiny").audio
    left, right = (sound[: 2 * 16_000] for sound in sounds(16_000, [2.0, 2.0]))
    data = encoded(np.stack([left, right], axis=1), 16_000, "wav")
    ours = powers_of([data], [16_000], audio, resample=False)[0].T
    expected = spectrogram_oracle(decoded(data).mean(1), audio)
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
