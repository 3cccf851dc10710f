"""The feature presets as numbers, and a torch oracle of each transform.

The DALI graphs of pipeline.py are built from these numbers; the oracles say, with torchaudio and torchvision, what the
graphs must compute. Only tests call the oracles, so only the oracles import the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avbench.errors import UsageError, unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class AudioPreset:
    """A log-spectrogram: audio of `seconds` from a clip's start, zero-padded where the clip is shorter, then an STFT.

    The STFT is centred with reflected ends and a periodic Hann window of n_fft samples. mel_bins 0: magnitudes |X| of
    n_fft / 2 + 1 bins. Otherwise: powers |X|^2 through that many triangular filters (peak 1, HTK's mel scale) from 0 to
    mel_high_hz. Last the natural logarithm of (value + log_offset).
    """

    sample_rate_hz: int
    seconds: float
    n_fft: int
    hop_length: int
    log_offset: float
    mel_bins: int = 0
    mel_high_hz: float = 0.0

    @property
    def samples(self) -> int:
        """Samples that enter the STFT."""
        return round(self.seconds * self.sample_rate_hz)

    @property
    def shape(self) -> tuple[int, int]:
        """Frequency bins and time steps of the result."""
        return self.mel_bins or self.n_fft // 2 + 1, self.samples // self.hop_length + 1


@dataclass(frozen=True, slots=True)
class VisualPreset:
    """`frames` pictures a clip, each from one of as many equal parts of it, resized to height x width.

    Training: a random frame of each part, one random resized crop and flip for all frames of the clip. Evaluation: the
    middle frame of each part, the whole picture resized. A clip with fewer frames repeats some. Pixels in [0, 1] are
    normalized by mean and deviation; resizing is bilinear, with PIL's antialiasing.
    """

    frames: int
    height: int
    width: int
    scale: tuple[float, float] = (0.08, 1.0)  # torchvision's RandomResizedCrop
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION


@dataclass(frozen=True, slots=True)
class Preset:
    """What a network sees of a clip."""

    name: str
    audio: AudioPreset
    visual: VisualPreset


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        # Xia et al. 2023 (arXiv 2302.10912), appendix, on VGG-Sound.
        Preset(
            "paper",
            AudioPreset(sample_rate_hz=48_000, seconds=10.0, n_fft=512, hop_length=480, log_offset=1e-7),
            VisualPreset(frames=1, height=224, width=224),
        ),
        # Small enough to train on a CPU in minutes.
        Preset(
            "tiny",
            AudioPreset(
                sample_rate_hz=16_000,
                seconds=2.0,
                n_fft=512,
                hop_length=320,
                log_offset=1e-5,
                mel_bins=64,
                mel_high_hz=8_000.0,
            ),
            VisualPreset(frames=1, height=64, width=64),
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset of this name; raises UsageError with the near names for one that is not known."""
    if name not in PRESETS:
        raise UsageError(unknown("preset", name, PRESETS))
    return PRESETS[name]


def spectrogram_oracle(waveform: Tensor, preset: AudioPreset) -> Tensor:
    """The spectrogram before the logarithm, [F, T], of a waveform [samples] at the preset's rate; by torchaudio."""
    import torchaudio

    fitted = torch.nn.functional.pad(waveform[: preset.samples], (0, max(0, preset.samples - len(waveform))))
    if not preset.mel_bins:
        return torchaudio.transforms.Spectrogram(preset.n_fft, hop_length=preset.hop_length, power=1.0)(fitted)
    return torchaudio.transforms.MelSpectrogram(
        preset.sample_rate_hz,
        preset.n_fft,
        hop_length=preset.hop_length,
        n_mels=preset.mel_bins,
        f_min=0.0,
        f_max=preset.mel_high_hz,
    )(fitted)


def log_oracle(spectrogram: Tensor, preset: AudioPreset) -> Tensor:
    """The last step of the audio transform."""
    return torch.log(spectrogram + preset.log_offset)


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
