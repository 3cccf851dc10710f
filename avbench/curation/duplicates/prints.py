"""Fingerprints of a dataset's clips, made by several processes from the shards' bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import xxhash

from avbench.curation.duplicates.looks import LookPrint, look_print
from avbench.curation.duplicates.sounds import RATE_HZ, SoundPrint, sound_print
from avbench.dataset import Dataset, checksum
from avbench.packing.quality import is_frozen, silence_seconds
from avbench.packing.sound import resampled
from avbench.packing.workers import Beat
from avbench.records import atomic_path

_VERSION = 1  # of the fingerprints: kept ones of another version are made anew
# Sound that is heard for less proves nothing.
_LEAST_AUDIBLE_SECONDS = 0.5
_KEPT_SPECTROGRAM = "stft"


@dataclass(frozen=True, slots=True)
class Prints:
    """Fingerprints of N clips, one after the other.

    bits, active: of all steps of all sounds (see SoundPrint). steps: how many each clip has, int64 [N]. bands: uint32
    [N]. looks, shows: of all pictures (see LookPrint). pictures: how many each clip has, int64 [N]. audible, moving:
    whether sound and pictures prove anything, bool [N]. bad: why a clip's bytes cannot be read, empty for all others.
    """

    bits: np.ndarray
    active: np.ndarray
    steps: np.ndarray
    bands: np.ndarray
    looks: np.ndarray
    shows: np.ndarray
    pictures: np.ndarray
    audible: np.ndarray
    moving: np.ndarray
    bad: np.ndarray


@dataclass(frozen=True, slots=True)
class PrintTask:
    """Some clips of one dataset. call: of the search, so that nothing that an earlier one opened is taken.

    kept_in: a folder for fingerprints, where they are looked for and put; None: nowhere.
    """

    path: Path
    call: str
    clip_ids: tuple[int, ...]
    kept_in: Path | None


@dataclass(frozen=True, slots=True)
class _ClipPrint:
    sound: SoundPrint
    pictures: LookPrint
    audible: bool
    moving: bool
    bad: str = ""


_NO_SOUND = SoundPrint(np.zeros(0, np.uint32), np.zeros(0, bool), 0)
_NO_PICTURES = LookPrint(np.zeros(0, np.uint64), np.zeros(0, bool))


def make_prints(task: PrintTask, beat: Beat) -> Prints:
    """The fingerprints of a task's clips, in their order; those that were kept are taken as they are."""
    dataset = _opened(task.path, task.call)
    kept = None if task.kept_in is None else task.kept_in / f"{_contents(dataset, task.clip_ids)}.npz"
    if kept is not None and (found := _kept(kept)) is not None:
        for _ in task.clip_ids:
            beat()
        return found
    clips = []
    for clip_id in task.clip_ids:
        beat()
        clips.append(_clip_print(dataset, clip_id))
    made = _joined_clips(clips)
    if kept is not None and not made.bad.any():  # what is damaged now may be mended later
        with atomic_path(kept) as partial, partial.open("wb") as file:
            np.savez(file, **{field.name: getattr(made, field.name) for field in fields(Prints)})
    return made


def has_sound(dataset: Dataset) -> bool:
    """Whether clips have sound of which fingerprints are made, and not a spectrogram that was kept in its place."""
    return dataset.audio_suffix != _KEPT_SPECTROGRAM


def joined(parts: Sequence[Prints]) -> Prints:
    """The fingerprints of several tasks, one after the other."""
    return Prints(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Prints)))


@lru_cache(maxsize=8)
def _opened(path: Path, call: str) -> Dataset:
    return Dataset(path, shards_may_be_damaged=True)


def _contents(dataset: Dataset, clip_ids: Sequence[int]) -> str:
    """Identifies these clips' bytes, in whatever dataset they are."""
    digest = xxhash.xxh3_128(f"{_VERSION}/{dataset.audio_suffix}".encode())
    for clip_id in clip_ids:
        first, end = dataset.frames.first[clip_id : clip_id + 2].tolist()
        pictures = np.asarray(dataset.frames.checksum[np.arange(first, end)], np.uint64)
        digest.update(np.array([dataset.audio_checksums[clip_id], len(pictures)], np.uint64).tobytes())
        digest.update(pictures.tobytes())
    return digest.hexdigest()


def _kept(path: Path) -> Prints | None:
    try:
        with np.load(path) as file:
            return Prints(*(file[field.name] for field in fields(Prints)))
    except (OSError, ValueError, KeyError):  # none, or a damaged one
        return None


def _clip_print(dataset: Dataset, clip_id: int) -> _ClipPrint:
    try:
        audio = _whole(dataset.audio_bytes(clip_id), int(dataset.audio_checksums[clip_id]), "sound")
        count = int(dataset.frame_counts(np.array([clip_id]))[0])
        jpegs = [
            _whole(dataset.frame_bytes(clip_id, frame), dataset.frame_checksum(clip_id, frame), f"picture {frame}")
            for frame in range(count)
        ]
        sound, audible = _heard(audio, dataset.audio_suffix)
        pictures = look_print(jpegs)
        moving = len(jpegs) > 1 and bool(pictures.shows.any()) and not is_frozen(jpegs)
    except (OSError, ValueError, RuntimeError) as error:
        return _ClipPrint(_NO_SOUND, _NO_PICTURES, audible=False, moving=False, bad=str(error) or type(error).__name__)
    return _ClipPrint(sound, pictures, audible=audible, moving=moving)


def _whole(data: np.ndarray, packed: int, what: str) -> bytes:
    """The bytes, where they are as they were packed. Raises ValueError where they are not."""
    if checksum(data) != packed:
        raise ValueError(f"{what} is not as it was packed")
    return data.tobytes()


def _heard(audio: bytes, suffix: str) -> tuple[SoundPrint, bool]:
    """The fingerprint of a clip's sound, and whether there is enough of it to prove anything.

    A kept spectrogram gives none: only equal bytes are found, which prove nothing where all are one value.
    """
    if suffix == _KEPT_SPECTROGRAM:
        return _NO_SOUND, len(set(audio)) > 1
    waveform, rate_hz = soundfile.read(io.BytesIO(audio), dtype="int16")
    heard = len(waveform) / rate_hz - silence_seconds(waveform, rate_hz)
    if heard < _LEAST_AUDIBLE_SECONDS:
        return _NO_SOUND, False
    return sound_print(resampled(waveform.astype(np.float32) / 32768, rate_hz, RATE_HZ)), True


def _joined_clips(clips: Sequence[_ClipPrint]) -> Prints:
    return Prints(
        bits=np.concatenate([clip.sound.bits for clip in clips]),
        active=np.concatenate([clip.sound.active for clip in clips]),
        steps=np.array([len(clip.sound.bits) for clip in clips], np.int64),
        bands=np.array([clip.sound.bands for clip in clips], np.uint32),
        looks=np.concatenate([clip.pictures.looks for clip in clips]),
        shows=np.concatenate([clip.pictures.shows for clip in clips]),
        pictures=np.array([len(clip.pictures.looks) for clip in clips], np.int64),
        audible=np.array([clip.audible for clip in clips], bool),
        moving=np.array([clip.moving for clip in clips], bool),
        bad=np.array([clip.bad for clip in clips], np.str_),
    )
