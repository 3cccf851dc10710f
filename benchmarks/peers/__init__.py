"""What people load audiovisual clips with today, one module each, all doing the same task.

A module has `make(task) -> Epoch`; its docstring says how it is set up and why that is fair. What all share: the clips
of the same packed dataset, their very bytes; preset `paper`'s outputs; batches of one size; one worker (a process, a
thread or DALI's one thread), and where that is a process, a second time without it; clips in a shuffled order, as far
as the peer can; no checksums, no exact resume. What differs in kind, the bytes that a peer must read beyond the ones it
wants say, is in its docstring.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from avbench.dataset import Dataset
from avbench.errors import UsageError, unknown
from avbench.vocabulary import Modality

Epoch = Callable[[], Iterator[tuple[Tensor | None, Tensor | None]]]


@dataclass(frozen=True)
class Task:
    """What to load: clips of `dataset`, by id and possibly repeated, `batch_size` at a time, only these modalities.

    folder: empty or missing, for whatever a peer keeps its clips in. media: the videos that the dataset was packed
    from, where they are at hand. workers: processes of a DataLoader, of peers that have one; 0: the consumer's own.
    """

    dataset: Dataset
    clip_ids: np.ndarray
    batch_size: int
    modalities: tuple[Modality, ...]
    folder: Path
    media: Path | None
    workers: int = 1

    @property
    def processes(self) -> dict[str, Any]:
        """What a DataLoader is told of them."""
        return {"num_workers": self.workers, "persistent_workers": self.workers > 0}


@dataclass(frozen=True)
class Peer:
    """module: of this package. packages: import names that it needs. allowed: our CPU time as a share of its, at most,
    by case; the requirement. workers: see Task; None: it has no such processes."""

    module: str
    packages: tuple[str, ...]
    allowed: dict[str, float]
    needs_media: bool = False
    workers: int | None = None


# One modality is required only of the best of them that reads only what it needs; said of each, since the best is one.
_PYTHON = {"audio + visual": 0.6, "audio": 0.65, "visual": 0.5}
# How people run a DataLoader; a clip's tensors then go through shared memory.
_ONE_WORKER = {
    "librosa + PIL": Peer("librosa_and_pil", ("librosa", "PIL"), _PYTHON, workers=1),
    "webdataset": Peer("webdataset_and_torchaudio", ("webdataset",), _PYTHON, workers=1),
    "LitData": Peer("litdata_chunks", ("litdata",), _PYTHON, workers=1),
    "MosaicML Streaming": Peer("mosaicml_streaming", ("streaming",), _PYTHON, workers=1),
    "torchcodec": Peer("torchcodec_from_video", ("torchcodec",), _PYTHON, needs_media=True, workers=1),
}
NO_WORKER = ", no worker"
PEERS = {
    "DALI": Peer("plain_dali", ("nvidia.dali",), {"audio + visual": 0.9}),
    "DALI, tuned": Peer("tuned_dali", ("nvidia.dali",), {}),  # no requirement: it decodes as we do
    "SPDL": Peer("spdl_threads", ("spdl",), _PYTHON),
    **{
        f"{name}{way}": replace(peer, workers=workers)
        for name, peer in _ONE_WORKER.items()
        for way, workers in (("", 1), (NO_WORKER, 0))
        if workers or not peer.needs_media  # beside decoding video, sending a tensor is nothing
    },
}


def peers_of(words: Iterable[str]) -> tuple[str, ...]:
    """Names of peers from a list that was cut at its commas, which some names have, too. Raises UsageError."""
    names: list[str] = []
    for word in words:
        joined = f"{names[-1]}, {word}" if names else word
        if names and joined in PEERS:
            names[-1] = joined
        elif word in PEERS:
            names.append(word)
        else:
            raise UsageError(unknown("peer", word, PEERS))
    return tuple(dict.fromkeys(names))


def why_left_out(name: str, *, media: Path | None) -> str | None:
    """One line where a peer cannot take part here; None where it can. media: as in Task."""
    peer = PEERS[name]
    missing = [package for package in peer.packages if find_spec(package) is None]
    if missing:
        return f"{name}: left out, {' and '.join(missing)} not installed; pip install 'avbench[peers]'"
    if peer.needs_media and media is None:
        return f"{name}: left out, it reads the videos that the dataset was packed from; name them with --media FOLDER"
    try:
        importlib.import_module(f"peers.{peer.module}")
    except (ImportError, RuntimeError, OSError) as error:
        # torchcodec without FFmpeg's libraries, a compiled package for another torch.
        reason = str(error).strip().splitlines()[0].removesuffix(" Likely causes:")
        return f"{name}: left out, does not load here: {reason}"
    return None


def make(name: str, task: Task) -> Epoch:
    """A peer made ready: a call starts an epoch of (audio, frames) batches."""
    task.folder.mkdir(parents=True)
    peer = PEERS[name]
    if peer.workers is not None:
        task = replace(task, workers=peer.workers)
    return cast(Epoch, importlib.import_module(f"peers.{peer.module}").make(task))
