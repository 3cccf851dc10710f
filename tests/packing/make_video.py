"""Small real videos for tests: every frame shows its own number, and a click sounds at a known second."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 128, 64
BITS = 8


def numbered_frame(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 [H, W, 3]: eight upright bars, white where the number's bit is set, the lowest bit leftmost."""
    bars = np.array([(number >> bit) & 1 for bit in range(BITS)], np.uint8) * 200 + 20
    return np.broadcast_to(np.repeat(bars, width // BITS)[None, :, None], (height, width, 3)).copy()


def number_shown(image: np.ndarray) -> int:
    """The number of a decoded `numbered_frame`, of any size."""
    height, width = image.shape[:2]
    middles = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    bars = image[height // 2, middles].mean(axis=1) > 120
    return int(sum(1 << bit for bit in range(BITS) if bars[bit]))


def click_track(seconds: float, rate: int, click_seconds: float, channels: int = 1) -> np.ndarray:
    """float32 [channels, S]: quiet noise and a click of 1 ms."""
    samples = round(seconds * rate)
    track = 0.002 * np.random.default_rng(0).standard_normal((channels, samples)).astype(np.float32)
    at = round(click_seconds * rate)
    track[:, at : at + rate // 1000] = 0.8
    return track


def make_video(
    path: Path,
    *,
    seconds: float = 2.0,
    fps: Fraction | int = 25,
    width: int = WIDTH,
    height: int = HEIGHT,
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    rate: int = 48000,
    sound: np.ndarray | None = None,
    sound_starts: float = 0.0,
    has_sound: bool = True,
    has_pictures: bool = True,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    frames: int | None = None,
    picture: Callable[[int], np.ndarray] | None = None,
    pixel_aspect: Fraction | None = None,
    times: Sequence[float] | None = None,
    edit: Callable[[av.Packet], av.Packet | None] = lambda packet: packet,
) -> Path:
    """Write one video. Returns the path.

    sound: float32 [channels, S], at `rate`; a click at 1 s where None. frames: how many; as many as fit where None.
    picture: uint8 [height, width, 3] of each; `numbered_frame` where None. times: when each picture is shown, seconds,
    in the place of fps; the file then says nothing of how long one lasts (1 ms at best). edit: changes each packet that
    is written, or leaves it out (None).
    """

    def write(packets: list[av.Packet]) -> None:
        container.mux([packet for packet in map(edit, packets) if packet is not None])

    path.parent.mkdir(parents=True, exist_ok=True)
    if sound is None:
        sound = click_track(seconds, rate, min(1.0, seconds / 2))
    with av.open(str(path), "w", options=container_options or {}) as container:
        if has_pictures:
            rates = Fraction(fps) if times is None else Fraction(1000)
            video = container.add_stream(video_codec, rate=rates, options={"g": "250", **(options or {})})
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            video.codec_context.thread_count = 1
            if pixel_aspect is not None:
                video.codec_context.sample_aspect_ratio = pixel_aspect
        if has_sound:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            audio = container.add_stream(audio_codec, rate=rate, layout=layout)
        if has_pictures:
            draw = picture or (lambda number: numbered_frame(number % 256, width, height))
            count = len(times or ()) or (round(seconds * fps) if frames is None else frames)
            for number in range(count):
                frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24")
                frame.pts = number if times is None else round(1000 * times[number])
                frame.time_base = 1 / rates
                write(video.encode(frame))
            write(video.encode(None))
        if has_sound:
            # In the order that a player would read it where it matters; muxers interleave.
            block = 1024 if audio_codec in ("aac", "libmp3lame") else rate // 50
            resampler = av.AudioResampler(format=audio.format, layout=layout, rate=rate, frame_size=block)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), format="fltp", layout=layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round(sound_starts * rate)
            for piece in (*resampler.resample(frame), *resampler.resample(None)):
                write(audio.encode(piece))
            write(audio.encode(None))
    return path


def shifted(seconds: float) -> Callable[[av.Packet], av.Packet]:
    """An `edit` that moves every time stamp."""

    def edit(packet: av.Packet) -> av.Packet:
        ticks = round(seconds / packet.time_base)
        packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return packet

    return edit


def make_labelled_folder(
    folder: Path, labels: dict[str, str], *, seconds: float = 1.2, header: str = "key,label"
) -> Path:
    """One small video a key, and their labels.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    template = make_video(folder / "template.mp4", seconds=seconds, fps=10, width=32, height=32)
    data = template.read_bytes()
    template.unlink()
    for key in labels:
        (folder / f"{key}.mp4").write_bytes(data)
    lines = [header, *(f"{key},{label}" for key, label in labels.items())]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder
