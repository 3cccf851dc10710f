"""torchcodec in a torch DataLoader over the original videos: no packing, both modalities decoded from the MP4.

Fair: only the clip's ten seconds of audio are decoded, at the preset's rate, and averaged over channels as packing does
(its own num_channels=1 is louder by 3 dB); of the pictures only a random second's, at the video's own size, from the
key frame before it on (seek_mode "approximate", so that no file is scanned first). One FFmpeg thread, one worker
process that lives on. torchcodec needs FFmpeg's shared libraries.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchcodec.decoders import AudioDecoder, VideoDecoder

from avbench.errors import UsageError
from avbench.vocabulary import Modality
from peers import Epoch, Task
from peers.tensors import PRESET, ClipTensors, frame_count


class VideoClips(Dataset):
    """Tensors of clips: (video, first second, seconds with a picture) each."""

    def __init__(self, clips: list[tuple[Path, float, int]], modalities: tuple[Modality, ...]) -> None:
        self.clips = clips
        self.modalities = modalities
        self.tensors = ClipTensors()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        path, start, pictures = self.clips[number]
        item = {}
        if "audio" in self.modalities:
            decoder = AudioDecoder(path, sample_rate=PRESET.audio.sample_rate_hz)
            played = decoder.get_samples_played_in_range(start, start + PRESET.audio.seconds)
            item["audio"] = self.tensors.spectrogram(played.data.mean(dim=0).numpy())
        if "visual" in self.modalities:
            video = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="approximate")
            second = start + int(torch.randint(pictures, ()))
            item["frames"] = self.tensors.picture(video.get_frame_played_at(second).data)
        return item


def make(task: Task) -> Epoch:
    """A DataLoader over the videos that the clips were cut from."""
    assert task.media is not None
    files = {path.stem: path for path in sorted(task.media.rglob("*")) if path.is_file()}
    sources = task.dataset.column("source", task.clip_ids).to_pylist()
    starts = task.dataset.column("start_seconds", task.clip_ids).to_pylist()
    clips = []
    for clip_id, source, start in zip(task.clip_ids.tolist(), sources, starts, strict=True):
        path = files.get(source) or files.get(Path(source).stem)
        if path is None:
            raise UsageError(f"{task.media}: holds no video {source!r}; --media is the folder that was packed")
        clips.append((path, start or 0.0, frame_count(task.dataset, clip_id)))
    loader = DataLoader(
        VideoClips(clips, task.modalities),
        task.batch_size,
        shuffle=True,
        **task.processes,
    )
    return lambda: ((item.get("audio"), item.get("frames")) for item in loader)
