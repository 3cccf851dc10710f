"""Music and noise as arrays: each number gives another piece, and the same one every time."""

import numpy as np

RATE_HZ = 16_000
MAJOR = (0, 2, 4, 5, 7, 9, 11)


def music(number: int, seconds: float) -> np.ndarray:
    """int16 [S]: a melody over chords in a major key, with a drum on each beat, at one of many tempi."""
    generator = np.random.default_rng((number, 0))
    sound = np.zeros(round(seconds * RATE_HZ), np.float32)
    key, beat = generator.integers(40, 64), 60 / generator.integers(70, 160)
    partials, decay = int(generator.integers(2, 6)), generator.uniform(1, 8)
    for number_of_beat in range(int(seconds / beat) + 1):
        at = number_of_beat * beat
        for voice in range(3 if number_of_beat % 4 == 0 else 1):
            degree = int(generator.integers(0, 14))
            pitch = 440 * 2 ** ((key + MAJOR[degree % 7] + 12 * (degree // 7) - 69) / 12)
            _add(sound, at, _note(pitch, 2 * beat if voice else beat, partials, decay), 0.15)
        _add(sound, at, generator.standard_normal(1600).astype(np.float32) * np.exp(-np.arange(1600) / 300), 0.1)
    return _as_int16(sound)


def noise(number: int, seconds: float) -> np.ndarray:
    """int16 [S]: noise with a random slope of its spectrum, whose loudness may go up and down."""
    generator = np.random.default_rng((number, 1))
    samples = round(seconds * RATE_HZ)
    spectrum = np.fft.rfft(generator.standard_normal(samples).astype(np.float32))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -generator.uniform(0, 1)
    wave = np.fft.irfft(spectrum, samples)
    swell = 1 + generator.uniform(0, 0.9) * np.sin(2 * np.pi * generator.uniform(0.2, 4) * np.arange(samples) / RATE_HZ)
    return _as_int16(0.1 * swell * wave / wave.std())


def _note(pitch: float, seconds: float, partials: int, decay: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE_HZ), dtype=np.float32) / RATE_HZ
    tone = sum(np.sin(np.float32(2 * np.pi * pitch * part) * time) / part for part in range(1, partials + 1))
    return tone * np.exp(-decay * time)


def _add(sound: np.ndarray, at: float, part: np.ndarray, level: float) -> None:
    first = round(at * RATE_HZ)
    end = min(len(sound), first + len(part))
    if first < end:
        sound[first:end] += level * part[: end - first]


def _as_int16(sound: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(sound * 32767), -32768, 32767).astype(np.int16)
