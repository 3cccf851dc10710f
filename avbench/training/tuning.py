"""A short measurement of the loader, by which its threads and depth are chosen: no number of a training hangs on them.

The loader is measured alone, on all ranks at once, which share cores and storage in training, too. The fewest threads
are chosen that come close to the best: what is left is for training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import count

import numpy as np
import torch

from avbench.dataset import Dataset
from avbench.distributed import barrier, broadcast_object, gather_objects
from avbench.loading.loader import DEFAULT_PREFETCH, Loader
from avbench.loading.presets import Preset
from avbench.training.config import TrainerConfig
from avbench.training.decoding import Decoding, cores_of_a_rank
from avbench.vocabulary import Modality

_SECONDS = 1.5  # of each candidate
_WARM_UP_BATCHES = 3
_CLOSE = 0.95  # of the best: closer than so short a measurement tells apart
_PREFETCH = (DEFAULT_PREFETCH, 2 * DEFAULT_PREFETCH)


def tuned(
    config: TrainerConfig,
    dataset: Dataset,
    clip_ids: np.ndarray,
    *,
    preset: Preset,
    modalities: Sequence[Modality],
    computed_in: torch.dtype,
    device: torch.device,
) -> tuple[TrainerConfig, str]:
    """The configuration with loader_threads and prefetch chosen where they are 0, and what was measured, in a line.

    clip_ids: of train. Both are the same on every rank. A collective.
    """

    def clips_per_second(threads: int, prefetch: int) -> float:
        tried = replace(config, loader_threads=threads, prefetch=prefetch)
        decoding = Decoding(dataset, preset=preset, config=tried, device=device, computed_in=computed_in)
        loader = decoding.loader("train", clip_ids, config.order_seed, True, tuple(modalities))
        barrier()
        with closing(decoding), closing(loader):
            measured = _clips_per_second(loader, device)
        return min(gather_objects(measured))  # a step waits for the slowest

    said = []
    threads, prefetch = config.loader_threads, config.prefetch
    if not threads:
        candidates = broadcast_object(threads_to_try(cores_of_a_rank()))
        measured = {number: clips_per_second(number, prefetch or DEFAULT_PREFETCH) for number in candidates}
        threads = least_close_to_best(measured)
        noun = "decoding thread" if threads == 1 else "decoding threads"
        said.append(f"{threads} {noun} ({_in_words(measured)})")
    if not prefetch:
        measured = {number: clips_per_second(threads, number) for number in _PREFETCH}
        prefetch = least_close_to_best(measured)
        said.append(f"{prefetch} batches ahead ({_in_words(measured)})")
    chosen = replace(config, loader_threads=threads, prefetch=prefetch)
    return chosen, f"tuned: {', '.join(said)}" if said else "--tune: threads and prefetch are given, nothing to measure"


def threads_to_try(cores: int) -> list[int]:
    """Powers of two below the number of cores, and that number."""
    powers = [1 << power for power in range(cores.bit_length())]
    return [*(number for number in powers if number < cores), cores]


def least_close_to_best(clips_per_second: Mapping[int, float]) -> int:
    """The smallest candidate that is nearly as fast as the fastest."""
    best = max(clips_per_second.values())
    return min(number for number, speed in clips_per_second.items() if speed >= _CLOSE * best)


def _clips_per_second(loader: Loader, device: torch.device) -> float:
    """Of this rank, over as many epochs as it takes; the first batches, which wait for threads to start, left out."""
    wait: Callable[[], None] = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    batches = (batch for epoch in count() for batch in loader.epoch(epoch))
    for _ in range(_WARM_UP_BATCHES):
        next(batches)
    wait()
    begun, clips = time.perf_counter(), 0
    while time.perf_counter() - begun < _SECONDS:
        clips += len(next(batches))
    wait()
    batches.close()
    return clips / (time.perf_counter() - begun)


def _in_words(measured: Mapping[int, float]) -> str:
    return ", ".join(f"{number}: {speed:,.0f}" for number, speed in measured.items()) + " clips/s"
