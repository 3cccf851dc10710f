"""Rendering planted clips: the pictures and sound of equation (1) of planted.py, as MP4 files and their list."""

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

import av
import numpy as np

from avbench.errors import RecipeError, UsageError
from avbench.packing.recipes.planted import CLASSES, LABELS_FILE, Look, PlantedConfig, Sound
from avbench.packing.workers import Beat, WorkerDied, died_text, run_tasks
from avbench.records import atomic_path, write_json, write_text
from avbench.vocabulary import SPLITS

SAMPLE_RATE_HZ = 16_000
FRAMES_PER_SECOND = 10
SETTINGS_FILE = "planted.json"
COLUMNS = ("key", "label", "split", "planted_audio", "planted_visual")

# Which random part of a clip a generator is for; the number is part of its seed.
_QUALITY, _SOUND, _OTHER_SOUND, _AUDIO_NOISE, _LOOK, _OTHER_LOOK, _VISUAL_NOISE, _ORDER = range(8)


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
    except WorkerDied as death:
        at = [chunks[number][0].key for number in death.begun]
        raise RecipeError(f"{folder}: {died_text('rendering', at)}; run again to go on") from None
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
