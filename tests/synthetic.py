"""Packed datasets from made-up arrays: everything a packed folder holds, in a second, without a video.

The tar shards are written with Python's own tarfile, so these folders are also a second opinion on the format that
`avbench.packing` writes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg
import soundfile

from avbench.dataset import (
    DESCRIPTION_FILE,
    FORMAT,
    FORMAT_VERSION,
    INDEX_FILE,
    INDEX_SCHEMA,
    REJECTS_FILE,
    checksum,
    sha256_of,
    shard_name,
)
from avbench.loading.presets import preset
from avbench.loading.stored_spectrogram import stored_spectrogram
from avbench.vocabulary import SPLITS

CODECS = {"flac": ("FLAC", "PCM_16"), "wav": ("WAV", "PCM_16"), "ogg": ("OGG", "VORBIS")}
STORED = stored_spectrogram(preset("paper"))
Size = tuple[int, int]


def make_dataset(
    path: Path,
    *,
    classes: int = 3,
    clips: Mapping[str, int] | None = None,
    seconds: float | Sequence[float] = 2.0,
    sample_rate: int = 48000,
    size: Size | Sequence[Size] = (64, 48),
    audio_suffix: str = "flac",
    learnable: bool = True,
    seed: int = 0,
    clips_per_shard: int = 8,
    quality: int = 90,
    prefix: str = "",
) -> Path:
    """Write a dataset folder and return its path.

    clips: how many a split, by default 24 train, 12 val, 12 test; labels go round the classes, so each split has them
        all. seconds, size (width, height): one value, or several that the clips go round. A clip has a frame at 0 s,
        1 s, ... before its end. learnable: a class has a tone and a pattern of its own; otherwise labels mean nothing.
    prefix: of all keys. audio_suffix: of CODECS, or "stft" for preset `paper`'s spectrogram of what a flac would hold.
    """
    clips = {"train": 24, "val": 12, "test": 12} if clips is None else clips
    generator = np.random.default_rng(seed)
    made = [
        _clip(
            f"{prefix}{split}-{number:04d}",
            label=number % classes,
            split=split,
            seconds=seconds if isinstance(seconds, float | int) else seconds[number % len(seconds)],
            size=_one_size(size, number),
            sample_rate=sample_rate,
            audio_suffix=audio_suffix,
            pattern=number % classes if learnable else int(generator.integers(classes)),
            quality=quality,
            generator=generator,
        )
        for split in SPLITS
        for number in range(clips.get(split, 0))
    ]
    return write_dataset(
        path, made, classes=classes, clips_per_shard=clips_per_shard, seed=seed, audio_suffix=audio_suffix
    )


def write_dataset(
    path: Path,
    made: Sequence[dict[str, Any]],
    *,
    classes: int,
    clips_per_shard: int = 8,
    seed: int = 0,
    audio_suffix: str = "flac",
) -> Path:
    """Write a dataset folder of clips that `encoded_clip` made with this suffix, and return its path."""
    path.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    shards: list[dict[str, Any]] = []
    for split in SPLITS:
        of_split = [clip for clip in made if SPLITS[clip["split"]] == split]
        for first in range(0, len(of_split), clips_per_shard):
            part = of_split[first : first + clips_per_shard]
            rows += _write_shard(path, len(shards), part)
            shards.append(_shard_entry(path, len(shards), split, len(part)))
    _write_index(path / INDEX_FILE, rows)
    (path / REJECTS_FILE).write_text("", encoding="utf-8")
    description = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": "synthetic",
        "classes": [f"class-{label}" for label in range(classes)],
        "audio_suffix": audio_suffix,
        "clips": {split: sum(SPLITS[clip["split"]] == split for clip in made) for split in SPLITS},
        "clips_per_class": {
            split: [sum(row["label"] == label and row["split"] == number for row in rows) for label in range(classes)]
            for number, split in enumerate(SPLITS)
        },
        "shards": shards,
        "recipe": {"kind": "synthetic", "seed": seed},
        "frame_phase_seconds": 0.0,
        "rejects": {},
        "index_sha256": sha256_of(path / INDEX_FILE),
    }
    if audio_suffix == "stft":
        description["spectrogram"] = asdict(STORED)
    (path / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1), encoding="utf-8")
    return path


def waveform(
    pattern: int, *, seconds: float, sample_rate: int, generator: np.random.Generator, noise: float = 0.05
) -> np.ndarray:
    """A class's tone (a fifth above the one before) with noise, float32 [samples] within [-1, 1]."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    tone = 0.3 * np.sin(2 * np.pi * (300.0 * 1.5**pattern * time + generator.random()))
    return np.clip(tone + generator.normal(0, noise, len(time)), -1, 1).astype(np.float32)


def picture(pattern: int, *, size: Size, generator: np.random.Generator, noise: float = 12.0) -> np.ndarray:
    """A class's stripes (direction and tint) at a random phase with noise, uint8 [height, width, 3]."""
    width, height = size
    y, x = np.mgrid[:height, :width] / min(width, height)
    angle = np.pi * (pattern * 0.618 % 1)
    stripes = np.sin(2 * np.pi * (4 * (x * np.cos(angle) + y * np.sin(angle)) + generator.random()))
    tint = 0.5 + 0.5 * np.cos(2 * np.pi * (pattern * 0.382 + np.arange(3) / 3))
    image = 128 + 60 * stripes[..., None] + 50 * (tint - 0.5) + generator.normal(0, noise, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def _one_size(size: Size | Sequence[Size], number: int) -> Size:
    sizes: Sequence[Any] = [size] if isinstance(size[0], int) else size
    return sizes[number % len(sizes)]


def _clip(
    key: str,
    *,
    label: int,
    split: str,
    seconds: float,
    size: Size,
    sample_rate: int,
    audio_suffix: str,
    pattern: int,
    quality: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    """A clip of a pattern's sound and pictures."""
    sound = waveform(pattern, seconds=seconds, sample_rate=sample_rate, generator=generator)
    images = [picture(pattern, size=size, generator=generator) for _ in range(max(1, int(np.ceil(seconds))))]
    made = {"label": label, "split": split, "sample_rate": sample_rate, "audio_suffix": audio_suffix}
    return encoded_clip(key, sound, images, quality=quality, **made)


def encoded_clip(
    key: str,
    sound: np.ndarray,
    images: Sequence[np.ndarray],
    *,
    label: int,
    split: str,
    sample_rate: int = 16000,
    audio_suffix: str = "flac",
    quality: int = 90,
) -> dict[str, Any]:
    """One clip's index row without its places, and its encoded components.

    sound: float32 or int16 [samples]. images: uint8 [height, width, 3], one a second.
    """
    container, subtype = CODECS["flac" if audio_suffix == "stft" else audio_suffix]
    audio = io.BytesIO()
    soundfile.write(audio, sound, sample_rate, format=container, subtype=subtype)
    encoded = audio.getvalue()
    if audio_suffix == "stft":
        encoded = STORED.encode(soundfile.read(io.BytesIO(encoded), dtype="int16")[0])
    frames = [
        simplejpeg.encode_jpeg(image, quality=quality, colorspace="RGB", colorsubsampling="420") for image in images
    ]
    return {
        "key": key,
        "label": label,
        "split": SPLITS.index(split),
        "source": f"{key}.mp4",
        "start_seconds": 0.0,
        "samples": len(sound),
        "sample_rate": sample_rate,
        "width": images[0].shape[1],
        "height": images[0].shape[0],
        "planted_audio": None,
        "planted_visual": None,
        "audio_suffix": audio_suffix,
        "audio": encoded,
        "frames": frames,
    }


def _write_shard(path: Path, number: int, made: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write one tar and its DALI index; returns the index rows of its clips."""
    rows, lines = [], [f"v1.2 {len(made)}"]
    with tarfile.open(path / shard_name(number), "w", format=tarfile.USTAR_FORMAT) as tar:
        for clip in made:
            components = _components(clip)
            places = [_add(tar, f"{clip['key']}.{suffix}", data) for suffix, data in components]
            lines.append(
                " ".join(
                    f"{suffix} {offset} {len(data)} {clip['key']}.{suffix}"
                    for (suffix, data), offset in zip(components, places, strict=True)
                )
            )
            row = {name: clip[name] for name in INDEX_SCHEMA.names if name in clip}
            rows.append(
                row
                | {
                    "shard": number,
                    "audio_offset": places[1],
                    "audio_size": len(clip["audio"]),
                    "audio_checksum": checksum(clip["audio"]),
                    "frame_offset": places[2:],
                    "frame_size": [len(data) for data in clip["frames"]],
                    "frame_checksum": [checksum(data) for data in clip["frames"]],
                }
            )
    (path / shard_name(number)).with_suffix(".idx").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rows


def _components(clip: dict[str, Any]) -> list[tuple[str, bytes]]:
    about = {
        "label": f"class-{clip['label']}",
        "split": SPLITS[clip["split"]],
        "source": clip["source"],
        "start_seconds": clip["start_seconds"],
        "duration_seconds": clip["samples"] / clip["sample_rate"],
        "frames": len(clip["frames"]),
        "width": clip["width"],
        "height": clip["height"],
        "sample_rate_hz": clip["sample_rate"],
    }
    return [
        ("json", json.dumps(about).encode()),
        (clip["audio_suffix"], clip["audio"]),
        *((f"{number:03d}.jpg", data) for number, data in enumerate(clip["frames"])),
    ]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member; returns the offset of its data."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    offset = tar.offset + tarfile.BLOCKSIZE  # a USTAR header is one block
    tar.addfile(member, io.BytesIO(data))
    return offset


def _write_index(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(list(rows), schema=INDEX_SCHEMA).combine_chunks()
    with pa.ipc.new_file(str(path), INDEX_SCHEMA) as writer:
        writer.write_table(table)


def _shard_entry(path: Path, number: int, split: str, clips: int) -> dict[str, Any]:
    file = path / shard_name(number)
    return {
        "name": file.name,
        "split": split,
        "clips": clips,
        "size_bytes": file.stat().st_size,
        "sha256": sha256_of(file),
    }
