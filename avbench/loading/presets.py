"""The feature presets as numbers.

The DALI graphs of pipeline.py are built from these numbers; reference.py says what the graphs must compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from avbench.errors import UsageError, unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Stft:
    """Short-time Fourier transform, centred with reflected ends, under a periodic Hann window of n_fft samples.

    mel_bins 0: magnitudes |X| of n_fft / 2 + 1 bins. Otherwise: powers |X|^2 through that many triangular filters (peak
    1, HTK's mel scale) from 0 to mel_high_hz. Last the natural logarithm of (value + log_offset); log_offset None:
    values stay as they are.
    """

    n_fft: int
    hop_length: int
    log_offset: float | None
    mel_bins: int = 0
    mel_high_hz: float = 0.0

    @property
    def bins(self) -> int:
        """Frequencies of the result."""
        return self.mel_bins or self.n_fft // 2 + 1

    def steps(self, samples: int) -> int:
        """Time steps that so many samples give."""
        return samples // self.hop_length + 1


@dataclass(frozen=True, slots=True)
class PowerSpectrogram:
    """SciPy's `signal.spectrogram`: power density of windows that lie inside the signal.

    Each window of n_fft samples loses its mean and is weighted by a periodic Tukey window, of which `taper` is tapered.
    Then the natural logarithm of (density + log_offset), minus the clip's mean, divided by (its deviation +
    deviation_offset).
    """

    n_fft: int
    hop_length: int
    taper: float
    log_offset: float
    deviation_offset: float

    @property
    def bins(self) -> int:
        """Frequencies of the result."""
        return self.n_fft // 2 + 1

    def steps(self, samples: int) -> int:
        """Time steps that so many samples give."""
        return _windows_inside(samples, self.n_fft, self.hop_length)


@dataclass(frozen=True, slots=True)
class FilterBank:
    """Kaldi's logarithmic filter bank, of windows that lie inside the signal.

    Each window of window_length samples loses its mean, is pre-emphasized (x[i] - preemphasis x[i - 1]), weighted by a
    symmetric Hann window and zero-padded to n_fft. Powers go through mel_bins triangular filters on Kaldi's mel scale
    from mel_low_hz to mel_high_hz; then the natural logarithm of max(energy, floor). Steps after a clip's end are 0.
    Last (value - mean) / (2 deviation).

    The published code first takes the mean off the whole clip. That changes nothing: each window loses its own.
    """

    window_length: int
    hop_length: int
    n_fft: int
    mel_bins: int
    mel_low_hz: float
    mel_high_hz: float
    preemphasis: float
    floor: float
    mean: float
    deviation: float

    @property
    def bins(self) -> int:
        """Frequencies of the result."""
        return self.mel_bins

    def steps(self, samples: int) -> int:
        """Time steps that so many samples give."""
        return _windows_inside(samples, self.window_length, self.hop_length)


def _windows_inside(samples: int, window_length: int, hop_length: int) -> int:
    return max(0, (samples - window_length) // hop_length + 1)


@dataclass(frozen=True, slots=True)
class AudioPreset:
    """`seconds` of a clip's audio at one sample rate, and the transform that makes them a picture.

    window: "first" is the clip's first `seconds`. "random" is any that lie inside the clip while training, the middle
        ones in evaluation. Windows are placed on the samples of the file, before resampling.
    short: a clip that is shorter is followed by "zeros", or is said again as often as it takes ("repeat").
    """

    sample_rate_hz: int
    seconds: float
    transform: Stft | PowerSpectrogram | FilterBank
    window: Literal["first", "random"] = "first"
    short: Literal["zeros", "repeat"] = "zeros"

    @property
    def samples(self) -> int:
        """Samples that enter the transform."""
        return round(self.seconds * self.sample_rate_hz)

    @property
    def steps(self) -> int:
        """Time steps of the result."""
        return self.transform.steps(self.samples)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the result: frequencies and time steps; time steps and frequencies of a FilterBank."""
        if isinstance(self.transform, FilterBank):
            return self.steps, self.transform.bins
        return self.transform.bins, self.steps


@dataclass(frozen=True, slots=True)
class VisualPreset:
    """`frames` pictures a clip, each from one of as many equal parts of it, resized to height x width.

    Training: a random frame of each part, one random resized crop and flip for all frames of the clip. Evaluation: the
    middle frame of each part, the whole picture resized. A clip with fewer frames repeats some. Pixels in [0, 1] are
    normalized by mean and deviation; resizing is bilinear, with PIL's antialiasing.

    frame_phase_seconds: where in each second the dataset's frames must have been taken; None: anywhere.
    """

    frames: int
    height: int
    width: int
    scale: tuple[float, float] = (0.08, 1.0)  # torchvision's RandomResizedCrop
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION
    frame_phase_seconds: float | None = None


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
            AudioPreset(48_000, 10.0, Stft(n_fft=512, hop_length=480, log_offset=1e-7)),
            VisualPreset(frames=1, height=224, width=224),
        ),
        # OGM-GE (Peng et al. 2022), published code's VGGSoundDataset.py. Its ends are librosa's default, which were
        # reflected before version 0.10. It repeats clips below 10 s and then starts anywhere in the first 5 s, also in
        # evaluation, so its windows may run over a clip's end; ours lie inside the clip.
        Preset(
            "vggsound-ogm",
            AudioPreset(16_000, 5.0, Stft(n_fft=256, hop_length=128, log_offset=1e-7), window="random", short="repeat"),
            VisualPreset(frames=3, height=224, width=224),
        ),
        # OGM-GE's process_audio.py for Kinetics-Sound; mean and deviation are those of AudioSet in AST (Gong et al.
        # 2021). 1,024 windows of 25 ms, 10 ms apart, are 10.255 s.
        Preset(
            "kinetics-sound-ogm",
            AudioPreset(
                16_000,
                10.255,
                FilterBank(
                    window_length=400,
                    hop_length=160,
                    n_fft=512,
                    mel_bins=128,
                    mel_low_hz=20.0,
                    mel_high_hz=8_000.0,
                    preemphasis=0.97,
                    floor=2.0**-23,  # float32's epsilon, as in Kaldi
                    mean=-4.503877,
                    deviation=5.141276,
                ),
            ),
            VisualPreset(frames=3, height=224, width=224),
        ),
        # VGG-Sound's own audio classifier (Chen et al. 2020), published code's dataloader.py, which repeats short
        # clips. It says 353 of overlap. It has no pictures: for joint methods they are as in `paper`.
        Preset(
            "vggsound-official",
            AudioPreset(
                16_000,
                10.0,
                PowerSpectrogram(n_fft=512, hop_length=512 - 353, taper=0.25, log_offset=1e-7, deviation_offset=1e-9),
                short="repeat",
            ),
            VisualPreset(frames=1, height=224, width=224),
        ),
        # The balanced dataset's tool (GeWu-Lab/AV_preprocess_tool), audio_2_frames.py and video_2_frame.py. It fills a
        # clip that is short with its last part of a second; ours with zeros.
        Preset(
            "balanced-av",
            AudioPreset(44_100, 10.0, Stft(n_fft=512, hop_length=440, log_offset=None)),
            VisualPreset(frames=1, height=224, width=224, frame_phase_seconds=0.5),
        ),
        # Small enough to train on a CPU in minutes.
        Preset(
            "tiny",
            AudioPreset(
                16_000, 2.0, Stft(n_fft=512, hop_length=320, log_offset=1e-5, mel_bins=64, mel_high_hz=8_000.0)
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
