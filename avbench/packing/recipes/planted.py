"""Planted clips: rendered videos whose true modality discrepancy is known.

Each class has a look and a sound (CLASSES). Each clip has an audio quality and a visual quality in [0, 1], drawn
independently of each other and of the class. A modality's signal is a sum of three parts, each scaled to unit power
before it is weighted:

    x = q s_class + (1 - q) d s_other + n noise                                                         (1)

* s_class is the class's pattern (picture) or sound, with jittered position, scale, phase, drift and colour, or jittered
  pitch, tempo and phase;
* s_other is the pattern or sound of a class drawn uniformly from all classes, whatever the label: something else is
  seen or heard, as when the sounding thing is off screen. d is `distractor`;
* noise is smooth coloured noise with a random tint, or coloured noise with a random spectral slope. n is `audio_noise`
  or `visual_noise`.

The sum is scaled to unit power, then by a loudness or a contrast drawn for the clip, so neither tells the quality.

So quality is an amplitude: the signal-to-noise ratio is 20 log10(q / n) dB, and the class's own signal is
20 log10(q / ((1 - q) d)) dB over the other one. At q = 0 the first part vanishes, and what remains does not depend on
the label: the clip carries no evidence in that modality. Evidence grows smoothly from there.

Qualities follow Beta(c (1 + b), c (1 - b)) for audio and Beta(c (1 - b), c (1 + b)) for pictures, with b the `bias`
and c the `concentration`. Their means are (1 + b) / 2 and (1 - b) / 2, so the bias is the expected planted discrepancy.
At b = 0, c = 1 is the uniform distribution, and a smaller c makes qualities near 0 and near 1 more frequent: most clips
are then good in both modalities, in one, or in none.

Everything about a clip follows from (seed, clip number): each of its random parts has a generator of its own, so files
are the same whatever the number of workers, and a clip's noise is the same whatever its class.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import av
import numpy as np

from avbench.errors import RecipeError, UsageError
from avbench.packing.workers import Beat, WorkerDied, run_tasks
from avbench.records import SPLITS, atomic_path, write_json, write_text

SAMPLE_RATE_HZ = 16_000
FRAMES_PER_SECOND = 10
LABELS_FILE = "labels.csv"
SETTINGS_FILE = "planted.json"
COLUMNS = ("key", "label", "split", "planted_audio", "planted_visual")

# Which random part of a clip a generator is for; the number is part of its seed.
_QUALITY, _SOUND, _OTHER_SOUND, _AUDIO_NOISE, _LOOK, _OTHER_LOOK, _VISUAL_NOISE, _ORDER = range(8)


@dataclass(frozen=True)
class Sound:
    """Additive synthesis: partials over a pitch that may sweep, under an envelope of decaying strokes."""

    pitch_hz: float
    partials: tuple[float, ...]  # multiples of the pitch; partial k has amplitude 1 / k**rolloff, counted from 1
    rolloff: float = 1.0
    sweep_octaves: float = 0.0  # the pitch moves up and down by this much
    sweep_hz: float = 0.0
    strokes_per_second: float = 0.0  # 0: sustained
    decay_per_second: float = 0.0


@dataclass(frozen=True)
class Look:
    """A drifting pattern in one colour against its complement. Patterns survive mirroring and zooming in."""

    pattern: Literal["bars", "stripes", "checks", "dots", "rings", "lattice", "waves", "rays"]
    hue_degrees: float


@dataclass(frozen=True)
class PlantedClass:
    """What a class looks and sounds like."""

    name: str
    look: Look
    sound: Sound


CLASSES = (
    PlantedClass(
        "bars-bell",
        Look("bars", 0.0),
        Sound(520.0, (1.0, 2.76, 5.4, 8.93), 0.7, strokes_per_second=2.0, decay_per_second=5.0),
    ),
    PlantedClass("stripes-siren", Look("stripes", 60.0), Sound(800.0, (1, 2, 3), 1.0, sweep_octaves=0.5, sweep_hz=1.0)),
    PlantedClass("checks-buzz", Look("checks", 120.0), Sound(120.0, tuple(range(1, 13)), 0.5)),
    PlantedClass("dots-whistle", Look("dots", 180.0), Sound(2200.0, (1.0, 2.0), 2.0, sweep_octaves=0.06, sweep_hz=6.0)),
    PlantedClass(
        "rings-drum",
        Look("rings", 240.0),
        Sound(90.0, (1.0, 1.6, 2.14, 2.65, 3.5, 4.2), 0.5, strokes_per_second=5.0, decay_per_second=18.0),
    ),
    PlantedClass("lattice-organ", Look("lattice", 300.0), Sound(300.0, (1, 3, 5, 7, 9, 11), 0.8)),
    PlantedClass(
        "waves-chirp",
        Look("waves", 30.0),
        Sound(1700.0, (1.0, 2.0), 1.0, sweep_octaves=0.4, sweep_hz=4.0, strokes_per_second=8.0, decay_per_second=8.0),
    ),
    PlantedClass(
        "rays-rattle",
        Look("rays", 210.0),
        Sound(3600.0, (1.0, 1.13, 1.31, 1.52), 0.2, strokes_per_second=11.0, decay_per_second=40.0),
    ),
)


@dataclass(frozen=True)
class PlantedConfig:
    """Which clips are rendered; the defaults are the demonstration's."""

    classes: int = 5
    """How many classes: the first so many of eight."""
    train: int = 480
    """Clips of the training split."""
    val: int = 100
    """Clips of the validation split."""
    test: int = 500
    """Clips of the test split."""
    seconds: float = 2.0
    """The length of each clip."""
    size: int = 64
    """Width and height in pixels."""
    seed: int = 0
    """Decides every random part of the clips."""
    bias: float = 0.0
    """The discrepancy that is expected, from -1 (all evidence in the pictures) to 1 (all in the sound)."""
    concentration: float = 0.5
    """How alike the qualities are: 1 spreads them evenly (without bias), less makes more of them extreme."""
    distractor: float = 0.4
    """How loud and visible another class is where the own one is not: d of equation (1) in planted.py."""
    audio_noise: float = 0.5
    """Noise in the sound: n of equation (1)."""
    visual_noise: float = 0.35
    """Noise in the pictures: n of equation (1)."""

    def __post_init__(self) -> None:
        """Raises RecipeError for values that cannot be rendered."""
        checks = (
            ("classes", 2 <= self.classes <= len(CLASSES), f"2 to {len(CLASSES)}"),
            ("train", self.train >= 0, "0 or more clips"),
            ("val", self.val >= 0, "0 or more clips"),
            ("test", self.test >= 0, "0 or more clips"),
            ("seconds", 1.0 <= self.seconds <= 600.0, "1 to 600 seconds: a shorter clip would not be packed"),
            ("size", 16 <= self.size <= 1024 and self.size % 2 == 0, "an even number of pixels from 16 to 1024"),
            ("seed", self.seed >= 0, "0 or more"),
            ("bias", -1.0 <= self.bias <= 1.0, "-1 to 1"),
            ("concentration", 0.0 < self.concentration <= 1000.0, "above 0, at most 1000"),
            ("distractor", 0.0 <= self.distractor <= 10.0, "0 to 10"),
            ("audio_noise", 0.0 <= self.audio_noise <= 10.0, "0 to 10"),
            ("visual_noise", 0.0 <= self.visual_noise <= 10.0, "0 to 10"),
        )
        for name, fits, expected in checks:
            if not fits:
                raise RecipeError(f"planted clips: {name} is {getattr(self, name)}; expected {expected}")
        if self.train + self.val + self.test == 0:
            raise RecipeError("planted clips: train, val and test are all 0; ask for at least one clip")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order."""
        return tuple(kind.name for kind in CLASSES[: self.classes])


@dataclass(frozen=True, slots=True)
class PlantedClip:
    """One clip to render. number: from 0, over all splits. label: number in CLASSES. Qualities are in [0, 1]."""

    number: int
    split: str
    label: int
    audio_quality: float
    visual_quality: float

    @property
    def key(self) -> str:
        """The clip's key and the stem of its file name."""
        return f"planted-{self.number:06d}"


def plan(config: PlantedConfig) -> list[PlantedClip]:
    """Every clip of the configuration: train, then val, then test.

    Within a split the classes' counts differ by one at most and their order is random.
    """
    clips: list[PlantedClip] = []
    for part, (split, count) in enumerate(zip(SPLITS, (config.train, config.val, config.test), strict=True)):
        labels = np.random.default_rng((config.seed, part, _ORDER)).permutation(np.arange(count) % config.classes)
        for label in labels.tolist():
            audio, visual = _qualities(config, len(clips))
            clips.append(PlantedClip(len(clips), split, label, audio, visual))
    return clips


def waveform(config: PlantedConfig, clip: PlantedClip) -> np.ndarray:
    """The sound of a clip by equation (1): float32 [samples] in [-1, 1], mono, at SAMPLE_RATE_HZ."""
    samples = round(config.seconds * SAMPLE_RATE_HZ)
    own_generator, other_generator, noise_generator = (
        _generator(config, clip.number, part) for part in (_SOUND, _OTHER_SOUND, _AUDIO_NOISE)
    )
    other_sound = CLASSES[other_generator.integers(config.classes)].sound
    level = 0.05 * 4.0 ** noise_generator.random()  # root mean square, -26 to -14 dB of full scale
    mixed = _mix(
        _sound_wave(CLASSES[clip.label].sound, samples, own_generator),
        _sound_wave(other_sound, samples, other_generator),
        _coloured_noise(samples, noise_generator),
        quality=clip.audio_quality,
        distractor=config.distractor,
        noise_level=config.audio_noise,
    )
    return np.clip(level * mixed, -1.0, 1.0).astype(np.float32)


def pictures(config: PlantedConfig, clip: PlantedClip) -> np.ndarray:
    """The frames of a clip by equation (1): uint8 [frames, size, size, 3], RGB, at FRAMES_PER_SECOND."""
    times = np.arange(round(config.seconds * FRAMES_PER_SECOND)) / FRAMES_PER_SECOND
    own_generator, other_generator, noise_generator = (
        _generator(config, clip.number, part) for part in (_LOOK, _OTHER_LOOK, _VISUAL_NOISE)
    )
    other_look = CLASSES[other_generator.integers(config.classes)].look
    contrast, brightness = noise_generator.uniform(35.0, 55.0), noise_generator.uniform(110.0, 145.0)
    mixed = _mix(
        _look_frames(CLASSES[clip.label].look, times, config.size, own_generator),
        _look_frames(other_look, times, config.size, other_generator),
        _smooth_noise(times, config.size, noise_generator),
        quality=clip.visual_quality,
        distractor=config.distractor,
        noise_level=config.visual_noise,
    )
    return np.clip(brightness + contrast * mixed + 0.5, 0.0, 255.0).astype(np.uint8)


def encode(sound: np.ndarray, frames: np.ndarray) -> bytes:
    """An MP4 file of H.264 (yuv420p) and AAC from `waveform` and `pictures`; the same bytes for the same input."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        assert isinstance(video, av.VideoStream)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        # One thread: x264's output depends on how many there are.
        video.options = {"preset": "superfast", "crf": "18", "threads": "1"}
        audio = container.add_stream(
            "aac", rate=SAMPLE_RATE_HZ, layout="mono", options={"b": "64k", "aac_coder": "fast"}
        )
        assert isinstance(audio, av.AudioStream)
        audio.options = {"b": "64k", "aac_coder": "fast"}  # the default coder takes three times as long
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_SECOND)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(sound[None, :], format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = SAMPLE_RATE_HZ, 0, Fraction(1, SAMPLE_RATE_HZ)
        container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    return buffer.getvalue()


def render(config: PlantedConfig, folder: Path, *, workers: int) -> None:
    """Write KEY.mp4 of every clip into `folder` and then labels.csv, with the columns of COLUMNS.

    Files appear whole under their names, and labels.csv last. A render that was killed, started again, goes on with the
    clips that are missing and ends with the same files; one that is complete does nothing. Raises RecipeError where
    `folder` holds clips of another configuration, and UsageError for fewer than one worker.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; expected 1 or more")
    _claim(config, folder)
    clips = plan(config)
    if (folder / LABELS_FILE).exists():
        return
    missing = [clip for clip in clips if not _path(folder, clip).exists()]
    chunks = [missing[first : first + _CLIPS_A_TASK] for first in range(0, len(missing), _CLIPS_A_TASK)]
    try:
        task = partial(_render_clips, config, folder)
        units = [len(chunk) for chunk in chunks]
        for _ in run_tasks(task, chunks, units=units, workers=workers, title="planting", unit="clips"):
            pass
    except WorkerDied:
        raise RecipeError(f"{folder}: a rendering process was killed (out of memory?); run again to go on") from None
    write_text(folder / LABELS_FILE, _labels(config, clips))


def _generator(config: PlantedConfig, number: int, part: int) -> np.random.Generator:
    return np.random.default_rng((config.seed, len(SPLITS) + number, part))


def _qualities(config: PlantedConfig, number: int) -> tuple[float, float]:
    generator = _generator(config, number, _QUALITY)
    audio, visual = config.concentration * (1.0 + config.bias), config.concentration * (1.0 - config.bias)
    if audio == 0.0 or visual == 0.0:  # the limit of the distribution at bias -1 or 1
        return float(audio > 0.0), float(visual > 0.0)
    return float(generator.beta(audio, visual)), float(generator.beta(visual, audio))


def _mix(
    own: np.ndarray, other: np.ndarray, noise: np.ndarray, *, quality: float, distractor: float, noise_level: float
) -> np.ndarray:
    """Equation (1), scaled to unit power whatever the quality, so that loudness and contrast say nothing of it."""
    weights = (quality, (1.0 - quality) * distractor, noise_level)
    scale = 1.0 / max(math.hypot(*weights), 1e-6)
    return scale * (weights[0] * own + weights[1] * other + weights[2] * noise)


def _unit_power(values: np.ndarray) -> np.ndarray:
    values = values - values.mean()
    return values / max(float(np.sqrt(np.square(values).mean())), 1e-6)


def _sound_wave(sound: Sound, samples: int, generator: np.random.Generator) -> np.ndarray:
    """A class's sound: [samples], unit power.

    Pitch (a sixth of an octave either way), tempo and phases are jittered.
    """
    octaves, sweep_phase, stroke_phase = generator.uniform(-1 / 6, 1 / 6), *generator.random(2)
    tempo = generator.uniform(0.8, 1.25)
    partial_phases = generator.random(16)
    time_seconds = (np.arange(samples) / SAMPLE_RATE_HZ).astype(np.float32)
    sweep_turns = np.float32(tempo * sound.sweep_hz) * time_seconds + np.float32(sweep_phase)
    swept = np.float32(0.5 * sound.sweep_octaves) * np.sin(np.float32(2 * np.pi) * sweep_turns)
    pitch = np.float32(sound.pitch_hz) * np.exp2(np.float32(octaves) + swept)
    # Cycles, in float64: a float32 sum would drift over minutes.
    cycles = np.cumsum(pitch, dtype=np.float64) / SAMPLE_RATE_HZ
    wave = np.zeros(samples, np.float32)
    for number, multiple in enumerate(sound.partials):
        if multiple * pitch.max() < 0.475 * SAMPLE_RATE_HZ:  # what would fold back is left out
            turns = multiple * cycles + partial_phases[number]
            turns -= np.floor(turns)  # so that float32 is precise enough for the sine
            wave += np.sin(np.float32(2 * np.pi) * turns.astype(np.float32)) / np.float32((number + 1) ** sound.rolloff)
    if sound.strokes_per_second:
        rate = tempo * sound.strokes_per_second
        strokes = np.float32(rate) * time_seconds + np.float32(stroke_phase)
        age_seconds = (strokes - np.floor(strokes)) / np.float32(rate)
        attack = np.minimum(age_seconds / np.float32(0.003), np.float32(1.0))
        wave *= attack * np.exp(np.float32(-sound.decay_per_second) * age_seconds)
    return _unit_power(wave)


def _coloured_noise(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Gaussian noise whose power falls as frequency**-slope, slope uniform in 0 to 1.5: [samples], unit power."""
    slope = generator.uniform(0.0, 1.5)
    spectrum = np.fft.rfft(generator.standard_normal(samples, dtype=np.float32))
    hertz = np.fft.rfftfreq(samples, 1.0 / SAMPLE_RATE_HZ)
    shape = np.maximum(hertz, 50.0) ** (-0.5 * slope)
    return _unit_power(np.fft.irfft(spectrum * shape, samples).astype(np.float32))


def _look_frames(look: Look, times: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """A class's look, drifting: float32 [frames, size, size, 3], unit power.

    Position, scale (a third either way), rotation (12 degrees either way), hue (15 degrees either way) and drift are
    jittered.
    """
    centre, drift = generator.uniform(-0.5, 0.5, 2), generator.uniform(-0.2, 0.2, 2)  # in pictures, and a second
    cycles = 5.0 * 1.33 ** generator.uniform(-1.0, 1.0)  # across the picture
    angle = np.radians(generator.uniform(-12.0, 12.0))
    hue_degrees = look.hue_degrees + generator.uniform(-15.0, 15.0)
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x = grid[None, None, :] - (centre[0] + drift[0] * times).astype(np.float32)[:, None, None]
    y = grid[None, :, None] - (centre[1] + drift[1] * times).astype(np.float32)[:, None, None]
    turned_x = np.float32(2 * np.pi * cycles) * (np.float32(np.cos(angle)) * x - np.float32(np.sin(angle)) * y)
    turned_y = np.float32(2 * np.pi * cycles) * (np.float32(np.sin(angle)) * x + np.float32(np.cos(angle)) * y)
    pattern = _unit_power(_PATTERNS[look.pattern](turned_x, turned_y))
    return (_PATTERN_AMPLITUDE * pattern[..., None] + _TINT_AMPLITUDE) * _colour(hue_degrees)


# A look is a pattern on a tinted ground; together they have unit power.
_TINT_AMPLITUDE = np.float32(0.7)
_PATTERN_AMPLITUDE = np.float32(math.sqrt(0.51))

_PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "bars": lambda u, v: np.sin(u),
    "stripes": lambda u, v: np.sin(v),
    "checks": lambda u, v: np.tanh(4.0 * np.sin(u) * np.sin(v)),
    "dots": lambda u, v: np.exp(2.5 * (np.cos(u) + np.cos(v) - 2.0)),
    "rings": lambda u, v: np.sin(np.hypot(u, v)),
    "lattice": lambda u, v: np.maximum(np.exp(6.0 * (np.cos(u) - 1.0)), np.exp(6.0 * (np.cos(v) - 1.0))),
    "waves": lambda u, v: np.sin(v + 1.5 * np.sin(0.7 * u)),
    "rays": lambda u, v: np.sin(8.0 * np.arctan2(v, u)),
}


def _colour(hue_degrees: float) -> np.ndarray:
    """Direction in RGB of a hue, half as much brightness as colour: float32 [3], unit power."""
    hue = np.cos(np.radians(hue_degrees - np.array([0.0, 120.0, 240.0])))
    direction = hue + 0.35
    return (direction / np.sqrt(np.square(direction).mean())).astype(np.float32)


def _smooth_noise(times: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Clouds that turn into other clouds, with a tint: float32 [frames, size, size, 3], unit power.

    Amplitude falls as 1 / frequency, so every octave has as much power.
    """
    white = generator.standard_normal((2, size, size, 3), dtype=np.float32)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]) * size
    shape = 1.0 / np.maximum(frequency, 1.0)
    clouds = np.fft.irfft2(np.fft.rfft2(white, axes=(1, 2)) * shape[:, :, None], (size, size), axes=(1, 2))
    clouds = (clouds / clouds.std()).astype(np.float32)
    turn = (0.5 * np.pi * times / max(times[-1], 1.0)).astype(np.float32)[:, None, None, None]
    tint = 0.4 * generator.standard_normal(3, dtype=np.float32)
    mixed = np.cos(turn) * clouds[0] + np.sin(turn) * clouds[1] + tint
    return mixed / np.sqrt(np.square(mixed).mean())


def _claim(config: PlantedConfig, folder: Path) -> None:
    """Note in `folder` what is rendered there; RecipeError where it was something else."""
    path, settings = folder / SETTINGS_FILE, asdict(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise RecipeError(f"{folder}: is not a folder; choose another for the planted clips") from None
    if not path.exists():
        if any(folder.iterdir()):
            raise RecipeError(f"{folder}: holds other files; choose an empty or new folder for the planted clips")
        write_json(path, settings)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RecipeError(f"{path}: not the settings of planted clips; remove {folder} or choose another folder")
    for name, value in settings.items():
        if found.get(name) != value:
            raise RecipeError(
                f"{folder}: holds clips planted with {name} {found.get(name)!r}, not {value!r}; "
                f"remove it or choose another folder"
            )
    for leftover in folder.glob(".*.partial"):  # of a render that was killed
        leftover.unlink(missing_ok=True)


def _path(folder: Path, clip: PlantedClip) -> Path:
    return folder / f"{clip.key}.mp4"


_CLIPS_A_TASK = 16  # few enough that the last worker does not work alone for long


def _render_clips(config: PlantedConfig, folder: Path, clips: Sequence[PlantedClip], beat: Beat) -> None:
    for clip in clips:
        beat()
        data = encode(waveform(config, clip), pictures(config, clip))
        with atomic_path(_path(folder, clip)) as unfinished:
            unfinished.write_bytes(data)


def _labels(config: PlantedConfig, clips: Iterable[PlantedClip]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    names = config.class_names
    for clip in clips:
        # repr of a float reads back as the same float.
        writer.writerow((clip.key, names[clip.label], clip.split, repr(clip.audio_quality), repr(clip.visual_quality)))
    return text.getvalue()
