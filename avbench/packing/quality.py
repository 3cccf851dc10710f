"""What to know of a dataset's clips: silence, lost sound, channels that cancel each other, still and squeezed pictures.

Such clips are packed like any other; they are counted in dataset.json ("quality") and in pack's last line, and
quality.parquet, beside the index, has one row for each clip:

    clip_id             int64   row in index.arrow
    key                 string  the clip's key
    peak_dbfs           double  the largest sample of the stored sound, dB of full scale; -inf where all are zero
    mix_db              double  level of the mono mix, dB of the mean power of its channels: 0 for mono, about -3 for
                                two unlike channels, far below where they cancel; null where all are silent
    pixel_aspect        double  width of a pixel over its height, as the file says it of its coded pictures (before a
                                turn); frames keep the coded pixels, so they look squeezed or stretched by it
    silent              bool    peak_dbfs is below -60
    anti_phase          bool    mix_db is below -30
    frozen              bool    there are two stored pictures or more, and no two differ by more than 1 of 255, the mean
                                absolute difference of their red, green and blue values
    non_square_pixels   bool    pixel_aspect is off 1 by more than a hundredth
    silence_seconds     double  the clip's tenths of a second whose samples all lie below -60 dBFS, and what it lasts
                                after its sound has ended
    frozen_seconds      double  stored pictures, a second each, that show the same as one beside them: a run of two or
                                more that differ from its first by no more than 1 of 255, as decoded from the video
    lost_seconds        double  silence in the place of sound that the file does not have, in gaps after its first sound
    sound_past_video_seconds    double  by how much sound outlasts the pictures

Levels are rounded to a hundredth of a decibel, and seconds to a thousandth. Datasets that were packed before this file
existed have none; those that were packed before the seconds existed have no columns of them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import simplejpeg

from avbench.dataset import DESCRIPTION_FILE, QUALITY_FILE, sha256_of
from avbench.integrity import file_problem
from avbench.packing.media import ClipMedia
from avbench.packing.pictures import FROZEN_DIFFERENCE
from avbench.records import atomic_path

SILENT_PEAK_DBFS = -60.0
_SILENT_PEAK = 32768 * 10 ** (SILENT_PEAK_DBFS / 20)  # of a sample
ANTI_PHASE_MIX_DB = -30.0
SQUARE_TOLERANCE = 0.01

_SILENCE_BLOCK_SECONDS = 0.1  # silence that is shorter is a pause between two strokes

# In the order in which they are said.
FLAGS = ("silent", "anti_phase", "frozen", "non_square_pixels")
SECONDS = ("silence_seconds", "frozen_seconds", "lost_seconds", "sound_past_video_seconds")

SCHEMA = pa.schema(
    [
        ("clip_id", pa.int64()),
        ("key", pa.string()),
        ("peak_dbfs", pa.float64()),
        ("mix_db", pa.float64()),
        ("pixel_aspect", pa.float64()),
        *((flag, pa.bool_()) for flag in FLAGS),
        *((name, pa.float64()) for name in SECONDS),
    ]
)


def quality_of(media: ClipMedia, *, sample_rate_hz: int) -> dict[str, Any]:
    """One clip's row of quality.parquet, without clip_id and key: plain values that survive JSON."""
    peak = _peak_dbfs(media.waveform)
    silence = silence_seconds(media.waveform, sample_rate_hz)
    after_sound = max(0.0, media.seconds - len(media.waveform) / sample_rate_hz)
    return {
        "peak_dbfs": round(peak, 2),
        "mix_db": None if media.mix_db is None else round(media.mix_db, 2),
        "pixel_aspect": media.pixel_aspect,
        "silent": peak < SILENT_PEAK_DBFS,
        "anti_phase": media.mix_db is not None and media.mix_db < ANTI_PHASE_MIX_DB,
        "frozen": is_frozen(media.frames),
        "non_square_pixels": abs(media.pixel_aspect - 1) > SQUARE_TOLERANCE,
        "silence_seconds": round(silence + after_sound, 3),
        "frozen_seconds": round(media.frozen_seconds, 3),
        "lost_seconds": round(media.lost_seconds, 3),
        "sound_past_video_seconds": round(media.sound_past_video_seconds, 3),
    }


def is_complete(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these rows, of an unfinished pack, have all columns: an older version may have begun it."""
    return all(name in row for row in rows for name in SCHEMA.names[2:])


def silence_seconds(waveform: np.ndarray, sample_rate_hz: int) -> float:
    """How much of a waveform, int16 [S], lies in blocks of a tenth of a second that are below -60 dBFS throughout."""
    block = round(_SILENCE_BLOCK_SECONDS * sample_rate_hz)
    whole = len(waveform) // block
    blocks = waveform[: whole * block].reshape(whole, block)
    # The most negative sample has no positive counterpart in 16 bits.
    peaks = np.maximum(blocks.max(axis=1).astype(np.int32), -blocks.min(axis=1).astype(np.int32))
    silent = int((peaks < _SILENT_PEAK).sum()) * block
    rest = waveform[whole * block :].astype(np.int32)
    if len(rest) and np.abs(rest).max() < _SILENT_PEAK:
        silent += len(rest)
    return silent / sample_rate_hz


def is_frozen(jpegs: Sequence[bytes]) -> bool:
    """Whether no two of a clip's stored pictures differ by more than 1 of 255 on average; one picture shows nothing."""
    if len(jpegs) < 2:
        return False
    # Equal bytes are equal pictures. All others are compared with the first; two of them can only differ by more than
    # the limit where their own differences from the first add up to more.
    distinct = list(dict.fromkeys(jpegs))
    first = _decoded(distinct[0])
    away = [0.0]
    for jpeg in distinct[1:]:
        away.append(_difference(first, _decoded(jpeg)))
        if away[-1] > FROZEN_DIFFERENCE:
            return False
    far = sorted(range(len(distinct)), key=away.__getitem__, reverse=True)
    for place, one in enumerate(far):
        picture = _decoded(distinct[one])
        for other in far[place + 1 :]:
            if away[one] + away[other] <= FROZEN_DIFFERENCE:
                break
            if _difference(picture, _decoded(distinct[other])) > FROZEN_DIFFERENCE:
                return False
    return True


def write_quality(out: Path, shards: Iterable[tuple[pa.ChunkedArray, Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """Write quality.parquet; returns what dataset.json says of it.

    shards: of each shard, in order, its clips' keys and their rows as `quality_of` made them.
    """
    tables = [SCHEMA.empty_table()]
    clips = 0
    for keys, rows in shards:
        ids = pa.array(range(clips, clips + len(rows)), pa.int64())
        measured = pa.Table.from_pylist(list(rows), pa.schema(list(SCHEMA)[2:]))
        tables.append(pa.table([ids, keys, *measured.columns], SCHEMA))
        clips += len(rows)
    return write_quality_table(out, pa.concat_tables(tables).combine_chunks())


def write_quality_table(out: Path, table: pa.Table) -> dict[str, Any]:
    """Write quality.parquet, a row a clip; returns what dataset.json says of it."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    with atomic_path(out / QUALITY_FILE) as partial:
        partial.write_bytes(buffer.getbuffer())
    return {"quality": _counts(table), "quality_sha256": sha256_of(out / QUALITY_FILE)}


def quality_line(description: Mapping[str, Any]) -> str:
    """What pack says of its clips in the end: empty where there is nothing to say."""
    counts = description.get("quality", {})
    said = {
        "silent": ("is silent", "are silent"),
        "anti_phase": ("has channels that cancel each other", "have channels that cancel each other"),
        "frozen": ("shows a still picture", "show a still picture"),
        "non_square_pixels": (
            "has non-square pixels, stored as coded and so squeezed",
            "have non-square pixels, stored as coded and so squeezed",
        ),
    }
    parts = [f"{counts[flag]} {said[flag][counts[flag] != 1]}" for flag in FLAGS if counts.get(flag)]
    return f"of the clips {', '.join(parts)}; see {QUALITY_FILE}" if parts else ""


def quality_problems(path: Path, description: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a dataset's quality.parquet; nothing for a dataset that was packed without one."""
    packed = description.get("quality_sha256")
    if packed is None:
        return
    file = path / QUALITY_FILE
    if problem := file_problem(file, packed):
        yield problem
        return
    counts = _counts(pq.read_table(file))
    if counts != description.get("quality"):
        yield f"clips by quality: {QUALITY_FILE} has {counts}, {DESCRIPTION_FILE} says {description.get('quality')}"


def _counts(table: pa.Table) -> dict[str, int]:
    return {flag: pc.sum(table.column(flag)).as_py() or 0 for flag in FLAGS}


def _peak_dbfs(waveform: np.ndarray) -> float:
    peak = int(np.abs(waveform.astype(np.int32)).max(initial=0))
    return 20 * math.log10(peak / 32768) if peak else -math.inf


def _decoded(jpeg: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(jpeg).astype(np.int16)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean(dtype=np.float64))
