"""The bytes of clips: read from shards, checked, and stock ones in place of the bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avbench.dataset import Dataset, checksum
from avbench.loading.feeds import AudioFeed, Feed, VisualFeed, stock_audio, stock_box, stock_picture
from avbench.loading.presets import Preset
from avbench.loading.stored_spectrogram import SpectrogramFeed, StoredSpectrogram
from avbench.vocabulary import MODALITIES, Modality

AnyFeed = Feed | SpectrogramFeed
UNDECODABLE = "is as it was packed but cannot be decoded"


@dataclass(frozen=True, slots=True)
class Crops:
    """frames: which of each clip, int64 [B, K]. boxes: left, top, width, height, int64 [B, 4]. flips: bool [B]."""

    frames: np.ndarray
    boxes: np.ndarray
    flips: np.ndarray


@dataclass(frozen=True, slots=True)
class Prepared:
    """A rank's slice of one batch, checked and ready for DALI; no feeds where the slice is empty."""

    position: int
    clip_ids: np.ndarray
    feeds: Mapping[Modality, AnyFeed]
    valid: np.ndarray
    bad: Mapping[int, str]


class Reader:
    """Checked bytes of clips, with stock ones in place of the bad."""

    def __init__(
        self,
        dataset: Dataset,
        preset: Preset,
        modalities: Sequence[Modality],
        *,
        left_out: frozenset[int],
        spectrogram: StoredSpectrogram | None,
    ) -> None:
        self.dataset = dataset
        self.left_out = left_out
        self.undecodable: dict[int, str] = {}  # what the loader has found to be so, by clip id
        self.modalities = modalities
        self._spectrogram = spectrogram
        silence = stock_audio(preset.audio) if spectrogram is None else spectrogram.silence()
        self._stock = Encoded(silence, [stock_picture()] * preset.visual.frames)
        self._preset = preset.audio

    def prepare(self, position: int, clip_ids: np.ndarray, starts: np.ndarray, crops: Crops) -> Prepared:
        """Check the chosen bytes of these clips; a clip of which anything is bad is replaced whole."""
        bad: dict[int, str] = {}
        clips = []
        for clip_id, frames in zip(clip_ids.tolist(), crops.frames.tolist(), strict=True):
            try:
                clips.append(self._stock if clip_id in self.left_out else self._read(clip_id, frames))
            except _BadBytesError as error:
                bad[clip_id] = str(error)
                clips.append(self._stock)
        # Clip by clip: of all that is left out an array would have to be made for every batch.
        valid = np.array([clip not in bad and clip not in self.left_out for clip in clip_ids.tolist()], bool)
        return Prepared(position, clip_ids, self._feeds(clip_ids, clips, starts, crops, valid), valid, bad)

    def _read(self, clip_id: int, frames: Sequence[int]) -> Encoded:
        if clip_id in self.undecodable:
            raise _BadBytesError(self.undecodable[clip_id])
        return _read(self.dataset, clip_id, self.modalities, frames)

    def _feeds(
        self,
        clip_ids: np.ndarray,
        clips: Sequence[Encoded],
        starts: np.ndarray,
        crops: Crops,
        valid: np.ndarray,
    ) -> dict[Modality, AnyFeed]:
        feeds: dict[Modality, AnyFeed] = {}
        if len(clips) and "audio" in self.modalities and self._spectrogram is not None:
            feeds["audio"] = SpectrogramFeed([clip.audio for clip in clips])
        elif len(clips) and "audio" in self.modalities:
            audio = self._preset
            feeds["audio"] = AudioFeed(
                [clip.audio for clip in clips],
                np.where(valid, self.dataset.sample_rates[clip_ids], audio.sample_rate_hz).astype(np.int64),
                np.where(valid, self.dataset.samples[clip_ids], audio.samples),
                np.where(valid, starts, 0),
                audio,
            )
        if len(clips) and "visual" in self.modalities:
            boxes = np.where(valid[:, None], crops.boxes, stock_box())
            count = crops.frames.shape[1]
            feeds["visual"] = VisualFeed(
                [picture for clip in clips for picture in clip.pictures],
                np.repeat(boxes, count, axis=0),
                np.repeat(crops.flips, count),
            )
        return feeds


def _read(dataset: Dataset, clip_id: int, modalities: Sequence[Modality], frames: Sequence[int]) -> Encoded:
    """The clip's bytes of these modalities; raises _BadBytesError where some are not as packed."""
    shard = dataset.shard_path(int(dataset.shards[clip_id]))
    # Reading a mapped file beyond its end kills the process: a shard cut short since it was opened must show here.
    shard_size = _size_bytes(shard)
    audio, pictures = _NOTHING, []
    if "audio" in modalities:
        end = int(dataset.audio_offsets[clip_id]) + int(dataset.audio_sizes[clip_id])
        _check_end(end, shard, shard_size, what="audio")
        audio = dataset.audio_bytes(clip_id)
        _check(audio, int(dataset.audio_checksums[clip_id]), what="audio")
    if "visual" in modalities:
        for frame in frames:
            row = int(dataset.frames.first[clip_id]) + frame
            end = int(dataset.frames.offset[row]) + int(dataset.frames.size[row])
            _check_end(end, shard, shard_size, what=f"frame {frame}")
            picture = dataset.frame_bytes(clip_id, frame)
            _check(picture, dataset.frame_checksum(clip_id, frame), what=f"frame {frame}")
            pictures.append(picture)
    return Encoded(audio, pictures)


def is_whole_again(dataset: Dataset, clip_id: int, reason: str) -> bool:
    """Whether all bytes of a clip are now as they were packed. reason: what was wrong with it.

    One that could not be decoded had the packed bytes already.
    """
    every_frame = range(int(dataset.frame_counts(np.array([clip_id]))[0]))
    try:
        _read(dataset, clip_id, MODALITIES, every_frame)
    except (_BadBytesError, OSError):
        return False
    return UNDECODABLE not in reason


_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A clip's bytes as they go into DALI: views of the mapped shard; empty for a modality that nobody reads."""

    audio: np.ndarray
    pictures: Sequence[np.ndarray]


class _BadBytesError(Exception):
    """A component of a clip is not as it was packed."""


def _size_bytes(shard: Path) -> int:
    try:
        return shard.stat().st_size
    except OSError as error:
        raise _BadBytesError(f"{shard.name} cannot be read ({error.strerror})") from None


def _check_end(end: int, shard: Path, shard_size: int, *, what: str) -> None:
    if end > shard_size:
        raise _BadBytesError(f"{what} ends at byte {end} of {shard.name}, which has {shard_size}")


def _check(data: np.ndarray, packed: int, *, what: str) -> None:
    found = checksum(data)
    if found != packed:
        raise _BadBytesError(f"{what} has checksum {found:016x}, was packed with {packed:016x}")
