"""Pipelines that loaders take turns with, and how a rank's decoding threads are shared out among them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from torch import Tensor

from avbench.vocabulary import Modality


class DecodingPipeline(Protocol):
    """What makes numbers of a modality's bytes, batch by batch: DALI's, or our own for stored spectrograms."""

    def feed(self, feed: Any) -> None:
        """Start work on a batch."""

    def take(self) -> Tensor:
        """Wait for the oldest batch. Raises RuntimeError where it cannot be decoded."""

    def drain(self) -> None:
        """Throw away all that was fed."""


class PipelinePool:
    """Pipelines that no loader is using, at most one a modality.

    A pipeline holds threads, and on a GPU some hundred megabytes of it and of pinned memory; building one takes up to a
    second. Loaders of one rank that take turns, as those of train, val and test do, need one a modality between them.
    May be used from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[Modality, tuple[Hashable, DecodingPipeline]] = {}

    def borrow(self, modality: Modality, kind: Hashable, build: Callable[[], DecodingPipeline]) -> DecodingPipeline:
        """The idle pipeline of the modality where it is of this kind; else it is let go of, and one is built.

        kind: all that tells two pipelines of a modality apart.
        """
        with self._lock:
            found_kind, found = self._idle.pop(modality, (None, None))
        if found is not None and found_kind == kind:
            return found
        del found  # before the next one takes as much memory
        return build()

    def give_back(self, modality: Modality, kind: Hashable, pipeline: DecodingPipeline) -> None:
        """Let the next loader have a pipeline that has nothing left to do."""
        with self._lock:
            self._idle[modality] = kind, pipeline

    def close(self) -> None:
        """Let go of all that is idle."""
        with self._lock:
            self._idle.clear()


def pool_sizes(threads: int, modalities: Sequence[Modality], *, on_gpu: bool) -> dict[Modality, int]:
    """DALI's threads for each modality's pipeline; all pools together have at most `threads`, and each at least one.

    modalities: that DALI decodes. On a GPU the pipeline for pictures has two pools of its size: its own, and that of
    its decoder.
    """
    pools_of_visual = 2 if on_gpu else 1
    if "visual" not in modalities:
        return dict.fromkeys(modalities, threads)
    # A picture takes an eighth of the processor's time that a clip's FLAC takes.
    share = threads // 8 if "audio" in modalities else threads // pools_of_visual
    visual = max(1, share)
    return {"visual": visual, "audio": max(1, threads - pools_of_visual * visual)}
