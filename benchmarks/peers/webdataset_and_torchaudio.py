"""WebDataset in a torch DataLoader over tar files: soundfile, torchaudio's Spectrogram, torchvision's JPEG decoder.

Fair: for one modality its tars hold only that modality; transforms work on uint8 tensors, its decoder is called only on
the chosen picture; one worker process that lives on. It reads all pictures of a clip, since a tar is read in sequence.
Shuffled in a buffer of a hundred clips.
"""

from __future__ import annotations

import webdataset
from torch.utils.data import DataLoader

from peers import Epoch, Task
from peers.tensors import SHUFFLE_BUFFER, ClipTensors, samples_of


def make(task: Task) -> Epoch:
    """A tar of the dataset's own bytes, and a DataLoader over it."""
    path = str(task.folder / "clips.tar")
    with webdataset.TarWriter(path) as tar:
        for number, sample in enumerate(samples_of(task)):
            tar.write({"__key__": f"{number:06d}", **sample})
    clips = webdataset.WebDataset(path, shardshuffle=False, empty_check=False)
    decoded = clips.shuffle(SHUFFLE_BUFFER).map(ClipTensors())
    loader = DataLoader(decoded, task.batch_size, **task.processes)
    return lambda: ((item.get("audio"), item.get("frames")) for item in loader)
