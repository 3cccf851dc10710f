"""A torch DataLoader over one audio file and a folder of JPEGs a clip, the way OGM-GE's published code reads VGG-Sound.

librosa.load (soundfile below), librosa.stft, PIL, torchvision's transforms on PIL images. Fair: it opens the one
picture that it has chosen and no other; one worker process that lives on from epoch to epoch. Unlike the published
code it does not resample, since all contenders make 48 kHz spectrograms of 48 kHz files.
"""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from avbench.vocabulary import Modality
from peers import Epoch, Task
from peers.tensors import LOG_OFFSET, PRESET, STFT, fitted, frame_count


class ClipFiles(Dataset):
    """Tensors of clips, by key."""

    def __init__(self, folder: Path, keys: list[str], suffix: str, modalities: tuple[Modality, ...]) -> None:
        self.folder = folder
        self.keys = keys
        self.suffix = suffix
        self.modalities = modalities
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(PRESET.visual.height),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(PRESET.visual.mean, PRESET.visual.deviation, inplace=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        key, item = self.keys[number], {}
        if "audio" in self.modalities:
            item["audio"] = self.spectrogram(self.folder / f"{key}.{self.suffix}")
        if "visual" in self.modalities:
            pictures = sorted((self.folder / key).iterdir())
            chosen = pictures[int(torch.randint(len(pictures), ()))]
            item["frames"] = self.transform(Image.open(chosen).convert("RGB"))
        return item

    def spectrogram(self, path: Path) -> Tensor:
        """[1, F, T]."""
        samples, _ = librosa.load(path, sr=None)
        magnitudes = np.abs(
            librosa.stft(fitted(samples), n_fft=STFT.n_fft, hop_length=STFT.hop_length, pad_mode="reflect")
        )
        return torch.from_numpy(np.log(magnitudes + np.float32(LOG_OFFSET)))[None]


def make(task: Task) -> Epoch:
    """Files of the dataset's own bytes, and a DataLoader over them."""
    dataset, folder = task.dataset, task.folder
    for clip_id in set(task.clip_ids.tolist()):
        key = dataset.key(clip_id)
        (folder / key).mkdir()
        (folder / f"{key}.{dataset.audio_suffix}").write_bytes(dataset.audio_bytes(clip_id).tobytes())
        for frame in range(frame_count(dataset, clip_id)):
            (folder / key / f"{frame:03d}.jpg").write_bytes(dataset.frame_bytes(clip_id, frame).tobytes())
    keys = [dataset.key(clip_id) for clip_id in task.clip_ids.tolist()]
    files = ClipFiles(folder, keys, dataset.audio_suffix, task.modalities)
    loader = DataLoader(files, task.batch_size, shuffle=True, **task.processes)
    return lambda: ((item.get("audio"), item.get("frames")) for item in loader)
