"""A video as somebody else would upload it: other bit rates, another size, cut at another moment."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def reencode(
    video: Path, out: Path, *, shift_seconds: float = 0.0, size: tuple[int, int] = (48, 48), audio_codec: str = "aac"
) -> Path:
    """Write `video` from `shift_seconds` on, its sound at half its bit rate, its pictures scaled and coarser."""
    with av.open(str(video)) as given, av.open(str(out), "w") as made:
        sound, film = given.streams.audio[0], given.streams.video[0]
        audio = made.add_stream(audio_codec, rate=48000 if audio_codec == "libopus" else sound.rate, layout="mono")
        audio.bit_rate = (sound.bit_rate or 128_000) // 2
        pictures = made.add_stream("libx264", rate=film.average_rate, options={"crf": "30", "preset": "ultrafast"})
        (pictures.width, pictures.height), pictures.pix_fmt = size, "yuv420p"
        first = shift_seconds
        for frame in given.decode(film):
            if frame.time >= first - 1e-6:
                scaled = frame.reformat(*size, format="yuv420p")
                scaled.pts, scaled.time_base = round((frame.time - first) * 1000), Fraction(1, 1000)
                made.mux(pictures.encode(scaled))
        made.mux(pictures.encode(None))
        _encode_sound(given, made, audio, first)
    return out


def _encode_sound(given, made, audio, first: float) -> None:
    given.seek(0)
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=audio.rate)
    decoded = [piece for frame in given.decode(audio=0) for piece in resampler.resample(frame)]
    samples = np.concatenate([piece.to_ndarray()[0] for piece in (*decoded, *resampler.resample(None))])
    block = av.AudioFrame.from_ndarray(samples[None, round(first * audio.rate) :].copy(), format="fltp", layout="mono")
    block.sample_rate, block.pts, block.time_base = audio.rate, 0, Fraction(1, audio.rate)
    pieces = av.AudioResampler(format=audio.format, layout="mono", rate=audio.rate, frame_size=960)
    for piece in (*pieces.resample(block), *pieces.resample(None)):
        made.mux(audio.encode(piece))
    made.mux(audio.encode(None))
