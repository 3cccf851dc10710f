"""What each transform must compute: an oracle of each, in the words of the published code.

The oracles of sound are torchaudio's and SciPy's, that of pictures is torchvision's on PIL images. Tests and
`avbench doctor` call them, nothing that trains does, so each imports its library when it is called.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from avbench.loading.feeds import AudioFeed
from avbench.loading.pipeline import audio_buffers, audio_pipeline, finish_audio, resampling_of
from avbench.loading.presets import AudioPreset, FilterBank, PowerSpectrogram, Stft, VisualPreset


def fit_oracle(waveform: Tensor, preset: AudioPreset, *, start: int = 0) -> Tensor:
    """The samples that enter the transform, of a waveform [samples] at the preset's rate."""
    window = waveform[start : start + preset.samples]
    if preset.short == "repeat":
        window = window.repeat(-(-preset.samples // len(window)))[: preset.samples]
    return torch.nn.functional.pad(window, (0, preset.samples - len(window)))


def audio_oracle(waveform: Tensor, preset: AudioPreset, *, start: int = 0) -> Tensor:
    """What the network sees of a waveform [samples] at the preset's rate: `preset.shape`, in the waveform's precision.

    By torchaudio and SciPy, in the words of the published code.
    """
    transform = preset.transform
    if isinstance(transform, FilterBank):
        return _filter_bank_oracle(waveform, preset, transform)
    if isinstance(transform, PowerSpectrogram):
        return _power_oracle(fit_oracle(waveform, preset, start=start), preset, transform)
    return log_oracle(stft_oracle(waveform, preset, start=start), transform)


def stft_oracle(waveform: Tensor, preset: AudioPreset, *, start: int = 0) -> Tensor:
    """The spectrogram of an Stft before the logarithm, [F, T], of a waveform [samples] at the preset's rate."""
    import torchaudio

    transform = preset.transform
    assert isinstance(transform, Stft)
    stft: dict[str, Any] = {"n_fft": transform.n_fft, "hop_length": transform.hop_length}
    stft["wkwargs"] = {"dtype": waveform.dtype}  # of the window
    if not transform.mel_bins:
        spectrogram = torchaudio.transforms.Spectrogram(**stft, power=1.0)
    else:
        spectrogram = torchaudio.transforms.MelSpectrogram(
            preset.sample_rate_hz, **stft, n_mels=transform.mel_bins, f_min=0.0, f_max=transform.mel_high_hz
        )
    return spectrogram.to(waveform.dtype)(fit_oracle(waveform, preset, start=start))


def log_oracle(spectrogram: Tensor, transform: Stft) -> Tensor:
    """The last step of an Stft."""
    return spectrogram if transform.log_offset is None else torch.log(spectrogram + transform.log_offset)


def _power_oracle(window: Tensor, preset: AudioPreset, transform: PowerSpectrogram) -> Tensor:
    from scipy import signal

    _, _, density = signal.spectrogram(
        window.numpy(),
        preset.sample_rate_hz,
        window=("tukey", transform.taper),
        nperseg=transform.n_fft,
        noverlap=transform.n_fft - transform.hop_length,
    )
    log = np.log(density + transform.log_offset)
    return torch.from_numpy((log - log.mean()) / (log.std() + transform.deviation_offset))


def _filter_bank_oracle(waveform: Tensor, preset: AudioPreset, transform: FilterBank) -> Tensor:
    import torchaudio

    milliseconds = 1000 / preset.sample_rate_hz
    values = torchaudio.compliance.kaldi.fbank(
        (waveform - waveform.mean())[None],
        htk_compat=True,
        sample_frequency=preset.sample_rate_hz,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=transform.mel_bins,
        dither=0.0,
        frame_length=transform.window_length * milliseconds,
        frame_shift=transform.hop_length * milliseconds,
    )[: preset.steps]
    padded = torch.nn.functional.pad(values, (0, 0, 0, preset.steps - len(values)))
    return (padded - transform.mean) / (2 * transform.deviation)


def picture_oracle(picture: np.ndarray, preset: VisualPreset, *, box: np.ndarray, flip: bool) -> Tensor:
    """A decoded picture (uint8 [height, width, 3]) as the network sees it, [3, H, W]; by torchvision on PIL images.

    box: left, top, width, height in pixels.
    """
    from PIL import Image
    from torchvision.transforms import functional as transforms

    left, top, width, height = (int(number) for number in box)
    size = [preset.height, preset.width]
    resized = transforms.resized_crop(Image.fromarray(picture), top, left, height, width, size)  # bilinear
    tensor = transforms.to_tensor(transforms.hflip(resized) if flip else resized)
    return transforms.normalize(tensor, list(preset.mean), list(preset.deviation))


def largest_difference(preset: AudioPreset, device: torch.device) -> float:
    """The largest difference between what the loader's graph makes of noise on a device, and what the oracle says.

    In the units of what the network sees; the noise is as long as the preset's sound, at its rate.
    """
    noise = np.random.default_rng(0).normal(0.0, 0.1, preset.samples).clip(-1, 1)
    sound = np.round(noise * 32767).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, sound, preset.sample_rate_hz, format="WAV", subtype="PCM_16")
    rates, samples = np.array([preset.sample_rate_hz]), np.array([preset.samples])
    encoded = np.frombuffer(file.getvalue(), np.uint8)
    feed = AudioFeed([encoded], rates, samples, np.zeros(1, np.int64), preset)
    resampling = resampling_of(rates, preset.sample_rate_hz)
    pipeline = audio_pipeline(preset, resampling=resampling, max_batch_size=1, threads=1, device=device, depth=1)
    pipeline.feed(feed)
    seen = finish_audio(pipeline.take(), feed, buffers=audio_buffers(preset, 1))[0, 0].cpu().double()
    expected = audio_oracle(torch.from_numpy(sound.astype(np.float64) / 32768), preset)
    return float((seen - expected.double()).abs().max())
