"""Batches for one rank: reads, checks, decodes ahead of the consumer.

A thread of the loader's own goes through the epoch: it asks the order for the clips, checks their bytes against the
index, feeds the memory-mapped bytes to DALI, and puts finished batches into a short queue. It alone talks to DALI.
"""

from __future__ import annotations

import ctypes
import os
import traceback
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from avbench.batch import Batch
from avbench.dataset import Dataset
from avbench.distributed import World
from avbench.errors import DatasetError, UsageError, unknown
from avbench.loading.feeds import AudioFeed, window_samples
from avbench.loading.gpu import JPEG_ENGINE_SHARE, first_line, is_out_of_memory
from avbench.loading.order import (
    EpochOrder,
    SequentialOrder,
    ShardWindows,
    crop_boxes,
    flips,
    middle_frames,
    middle_windows,
    random_frames,
    random_windows,
)
from avbench.loading.pipeline import (
    Resampling,
    audio_buffers,
    audio_pipeline,
    finish_audio,
    finish_frames,
    resampling_of,
    visual_pipeline,
)
from avbench.loading.pool import DecodingPipeline, PipelinePool, pool_sizes
from avbench.loading.presets import Preset, VisualPreset
from avbench.loading.reading import UNDECODABLE, Crops, Prepared, Reader
from avbench.loading.stored_spectrogram import (
    SpectrogramFeed,
    SpectrogramPipeline,
    StoredSpectrogram,
    spectrogram_of,
)
from avbench.loading.transforms import on_device
from avbench.loading.worker import Worker
from avbench.vocabulary import MODALITIES, Modality

DEFAULT_PREFETCH = 2
_SLICES_AT_ONCE = 32  # batches whose clips are computed together, see EpochOrder.rank_slices
_STALLS_KEPT = 100  # events before those that are over are added up
_CPU = torch.device("cpu")
_ALONE = World()


class Loader:
    """Yields this rank's slices of the batches of a dataset's clips.

    clip_ids: which clips, int64; not copied when training. batch_size: of the global batch. seed: the order seed,
        shared by all runs of a pass. device: where batches end up, and DALI works.
    training: shuffled, with random crop, flip and frame, all keyed by (seed, epoch, clip id); otherwise ascending ids
        and the test transform.
    modalities: what an epoch decodes unless it is told otherwise; of a modality that nobody reads no byte is touched.
    threads: of DALI, all its pools together, each of which has at least one. prefetch: batches worked on ahead of the
        consumer; one more waits finished.
    dtype: of audio and frames, rounded to it when all else is done. cores: that the loader's threads and DALI's keep
        to; None: those of the thread that asks for an epoch.
    shuffle_shards: 0 shuffles over the whole epoch; a number restricts shuffling to windows of that many whole shards,
        for slow storage.
    pool: whose pipelines are used, by loaders that take turns; None: one of the loader's own.
    jpeg_engine_share: see loading.gpu.JPEG_ENGINE_SHARE.

    A clip whose bytes do not fit their checksum, or cannot be decoded, is replaced by a stock silent clip and picture,
    has `valid` False, and is named in `bad_clips` (clip id -> what was wrong).
    before_batch: called with (epoch, position) before each batch is handed on; what it raises ends the epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        clip_ids: np.ndarray,
        *,
        preset: Preset,
        batch_size: int,
        seed: int,
        training: bool,
        modalities: Sequence[Modality] = MODALITIES,
        device: torch.device = _CPU,
        world: World = _ALONE,
        threads: int = 1,
        prefetch: int = DEFAULT_PREFETCH,
        dtype: torch.dtype = torch.float32,
        cores: Collection[int] | None = None,
        shuffle_shards: int = 0,
        pool: PipelinePool | None = None,
        jpeg_engine_share: float = JPEG_ENGINE_SHARE,
        before_batch: Callable[[int, int], None] | None = None,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("threads", threads), ("prefetch", prefetch)):
            if value < 1:
                raise UsageError(f"{name} is {value}; the loader needs at least 1")
        if not len(clip_ids):
            raise DatasetError(f"{dataset.path}: no clips to load; the split is empty or all of it is quarantined")
        self.dataset = dataset
        self.preset = preset
        self.batch_size = batch_size
        self.seed = seed
        self.training = training
        # With its number: another thread has another current device.
        self.device = torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device
        self.world = world
        self.threads = threads
        self.prefetch = prefetch
        self.dtype = dtype
        self.cores = cores
        self.bad_clips: dict[int, str] = {}
        self._before_batch = before_batch
        self._clip_ids = clip_ids if training else np.sort(clip_ids)
        self._windows = ShardWindows.of(dataset.shards[clip_ids], shards=shuffle_shards) if shuffle_shards else None
        self._spectrogram: StoredSpectrogram | None = None
        self._own_pool = PipelinePool()
        self._pool = self._own_pool if pool is None else pool
        self._jpeg_engine_share = jpeg_engine_share
        self._pipelines: dict[Modality, DecodingPipeline] = {}  # of the epoch that is under way
        self._audio_buffers = audio_buffers(preset.audio, -(-batch_size // world.size))
        self._position = {"epoch": 0, "batch": 0}
        self._worker: Worker | None = None
        # Of its own: on the default one it would wait for training's kernels. One for all epochs, since torch keeps
        # memory by stream.
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        # Before and after each wait of the consumer's stream; those that are over are added up.
        self._stalls: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._stalled_milliseconds = 0.0
        self.modalities = self._checked(modalities)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self._clip_ids) // self.batch_size)

    def _checked(self, modalities: Sequence[Modality]) -> tuple[Modality, ...]:
        """Modalities in their order, where the dataset has what the preset takes of them."""
        for modality in modalities:
            if modality not in MODALITIES:
                raise UsageError(unknown("modality", modality, MODALITIES))
        if "visual" in modalities:
            _check_frame_phase(self.dataset, self.preset)
        if "audio" in modalities:
            self._spectrogram = spectrogram_of(self.dataset, self.preset)
        return tuple(modality for modality in MODALITIES if modality in modalities)

    def state_dict(self) -> dict[str, int]:
        """The next batch to come: `epoch(state["epoch"], first_batch=state["batch"])` goes on from here.

        After the last batch of an epoch, batch is `len(self)` of that epoch.
        """
        return dict(self._position)

    def epoch(
        self,
        epoch: int,
        *,
        first_batch: int = 0,
        modalities: Sequence[Modality] | None = None,
        left_out: Collection[int] = (),
    ) -> Iterator[Batch]:
        """The batches of an epoch from `first_batch` on; earlier ones are neither read nor decoded.

        modalities: what is decoded of it; None: the loader's. left_out: ids of clips that are replaced as bad ones are,
        without a look at their bytes. `Batch.position` is the batch's number. A slice is empty ([0, ...] tensors) where
        a global batch has fewer clips than there are ranks. One epoch at a time: starting another ends this one.
        """
        self.close_epoch()
        self._position = {"epoch": epoch, "batch": first_batch}
        wanted = self.modalities if modalities is None else self._checked(modalities)
        worker = self._worker = Worker(self._work(epoch, first_batch, wanted, frozenset(left_out)))
        try:
            for finished in worker:
                self.bad_clips.update(finished.bad)
                if self._before_batch is not None:
                    self._before_batch(epoch, finished.batch.position)
                self._position = {"epoch": epoch, "batch": finished.batch.position + 1}
                yield self._handed_over(finished)
                if worker is not self._worker:
                    raise RuntimeError("this epoch ended early: the loader was closed or another epoch was started")
        finally:
            worker.stop()

    def take_stalled_seconds(self) -> float:
        """How long the consumer's stream on a GPU waited for batches that it was handed, since last asked.

        To be asked when the stream is done with the last of them.
        """
        milliseconds = self._stalled_milliseconds + sum(before.elapsed_time(after) for before, after in self._stalls)
        self._stalls.clear()
        self._stalled_milliseconds = 0.0
        return milliseconds / 1e3

    def _handed_over(self, finished: _Finished) -> Batch:
        """The batch for the consumer's stream, which waits until it is complete; the consumer itself does not.

        Its memory on a GPU is kept from reuse until that stream is done with it.
        """
        batch = finished.batch
        if finished.ready is not None:
            stream = torch.cuda.current_stream(self.device)
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record(stream)
            stream.wait_event(finished.ready)
            after.record(stream)
            self._stalls.append((before, after))
            while len(self._stalls) > _STALLS_KEPT and self._stalls[0][1].query():
                begun, over = self._stalls.popleft()
                self._stalled_milliseconds += begun.elapsed_time(over)
            for tensor in (batch.audio, batch.frames, batch.label, batch.clip_id):
                if tensor is not None:
                    tensor.record_stream(stream)
        return batch

    def close_epoch(self) -> None:
        """Stop working ahead, if an epoch is under way."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def close(self) -> None:
        """Stop working ahead and let go of DALI's memory and threads; a later `epoch()` builds them again.

        Those of a pool that was given stay, for the other loaders.
        """
        self.close_epoch()
        self._own_pool.close()

    def _work(
        self, epoch: int, first_batch: int, modalities: tuple[Modality, ...], left_out: frozenset[int]
    ) -> Iterator[_Finished]:
        """The epoch's batches; runs in the worker's thread."""
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)  # of this thread, and of those that it starts
        ahead: deque[Prepared] = deque()
        with torch.cuda.stream(self._stream):  # of this thread; None: as it is
            try:
                for modality in modalities:
                    build = partial(self._build, modality, modalities)
                    self._pipelines[modality] = self._pool.borrow(modality, self._kind(modality, modalities), build)
                reader = Reader(self.dataset, self.preset, modalities, left_out=left_out, spectrogram=self._spectrogram)
                for prepared in self._prepare(reader, epoch, first_batch):
                    for modality, feed in prepared.feeds.items():
                        self._pipelines[modality].feed(feed)
                    ahead.append(prepared)
                    if len(ahead) == self.prefetch:
                        yield self._finish(ahead, reader, epoch)
                while ahead:
                    yield self._finish(ahead, reader, epoch)
            finally:
                self._drain(modalities)
                _return_freed_memory()

    def _drain(self, modalities: tuple[Modality, ...]) -> None:
        """Leave the pipelines empty for the next epoch; one that failed is built anew then."""
        while self._pipelines:
            modality, pipeline = self._pipelines.popitem()
            with suppress(RuntimeError):
                pipeline.drain()
                self._pool.give_back(modality, self._kind(modality, modalities), pipeline)

    def _prepare(self, reader: Reader, epoch: int, first_batch: int) -> Iterator[Prepared]:
        """Choose this rank's clips and check their bytes, batch by batch."""
        order = self._order(epoch)
        for first in range(first_batch, len(order), _SLICES_AT_ONCE):
            positions = range(first, min(first + _SLICES_AT_ONCE, len(order)))
            slices = order.rank_slices(positions, self.world.rank, self.world.size)
            for position, clip_ids in zip(positions, slices, strict=True):
                yield self._prepared(reader, epoch, position, clip_ids)

    def _prepared(self, reader: Reader, epoch: int, position: int, clip_ids: np.ndarray) -> Prepared:
        return reader.prepare(position, clip_ids, self._starts(clip_ids, epoch), self._crops(clip_ids, epoch))

    def _order(self, epoch: int) -> EpochOrder | SequentialOrder:
        if self.training:
            return EpochOrder(self._clip_ids, self.seed, epoch, self.batch_size, windows=self._windows)
        return SequentialOrder(self._clip_ids, self.batch_size)

    def _starts(self, clip_ids: np.ndarray, epoch: int) -> np.ndarray:
        """The first sample of each clip's audio to use, int64 [B]."""
        if self.preset.audio.window == "first":
            return np.zeros(len(clip_ids), np.int64)
        lengths = self.dataset.samples[clip_ids]
        windows = window_samples(self.preset.audio, self.dataset.sample_rates[clip_ids])
        if not self.training:
            return middle_windows(lengths, windows)
        return random_windows(clip_ids, lengths, windows, seed=self.seed, epoch=epoch)

    def _crops(self, clip_ids: np.ndarray, epoch: int) -> Crops:
        """Which frames of these clips, and which part of them."""
        counts = self.dataset.frame_counts(clip_ids)
        widths, heights = self.dataset.widths[clip_ids], self.dataset.heights[clip_ids]
        if not self.training:
            nothing = np.zeros(len(clip_ids), np.int64)
            whole = np.stack([nothing, nothing, widths, heights], axis=1)
            return Crops(middle_frames(counts, count=self.preset.visual.frames), whole, nothing.astype(bool))
        visual: VisualPreset = self.preset.visual
        key = {"seed": self.seed, "epoch": epoch}
        return Crops(
            random_frames(clip_ids, counts, count=visual.frames, **key),
            crop_boxes(clip_ids, widths, heights, scale=visual.scale, ratio=visual.ratio, **key),
            flips(clip_ids, **key),
        )

    @property
    def _clips_at_most(self) -> int:
        """In a slice."""
        return -(-self.batch_size // self.world.size)

    @property
    def _resampling(self) -> Resampling:
        return resampling_of(self.dataset.distinct_sample_rates, self.preset.audio.sample_rate_hz)

    def _threads_of(self, modality: Modality, modalities: tuple[Modality, ...]) -> int:
        """Of the modality's pipeline beside those of the others."""
        by_dali = [each for each in modalities if each == "visual" or self._spectrogram is None]
        return pool_sizes(self.threads, by_dali, on_gpu=self.device.type == "cuda").get(modality, 0)

    def _kind(self, modality: Modality, modalities: tuple[Modality, ...]) -> Hashable:
        """What tells the modality's pipeline from others."""
        machine = self.device, self.prefetch, self._threads_of(modality, modalities), frozenset(self.cores or ())
        if modality == "visual":
            return self.preset.visual, self._clips_at_most, self._jpeg_engine_share, machine
        # The one for stored spectrograms writes to the loader's own buffers.
        source = self._resampling if self._spectrogram is None else self._audio_buffers
        return self.preset.audio, self._clips_at_most, source, machine

    def _build(self, modality: Modality, modalities: tuple[Modality, ...], *, alone: bool = False) -> DecodingPipeline:
        """alone: for one clip at a time."""
        clips = 1 if alone else self._clips_at_most
        options = {
            "threads": 1 if alone else self._threads_of(modality, modalities),
            "device": self.device,
            "depth": 1 if alone else self.prefetch,
        }
        if modality == "visual":
            return visual_pipeline(
                self.preset.visual,
                max_batch_size=clips * self.preset.visual.frames,
                jpeg_engine_share=self._jpeg_engine_share,
                **options,
            )
        if self._spectrogram is not None:
            return SpectrogramPipeline(self._spectrogram, buffers=self._audio_buffers, device=self.device)
        return audio_pipeline(self.preset.audio, resampling=self._resampling, max_batch_size=clips, **options)

    @property
    def resampling_text(self) -> str:
        """What could be spared where sound is packed at a higher rate than the preset's; else empty."""
        wanted_hz = self.preset.audio.sample_rate_hz
        rates_hz = self.dataset.distinct_sample_rates
        higher = rates_hz[rates_hz > wanted_hz]
        if self._spectrogram is not None or not len(higher):
            return ""
        rates = ", ".join(map(str, higher))
        return (
            f"sound is brought from {rates} to {wanted_hz} Hz for every batch; packed with "
            f"--sample-rate-hz {wanted_hz} it would cost half as much processor time, or less"
        )

    def _finish(self, ahead: deque[Prepared], reader: Reader, epoch: int) -> _Finished:
        """Wait for DALI and make the Batch of the first that is ahead."""
        taken: dict[Modality, torch.Tensor] = {}
        for modality in reader.modalities:
            try:
                taken[modality] = self._take(modality, ahead[0])
            except RuntimeError as error:
                # DALI names neither the clip nor goes on after an error.
                del self._pipelines[modality]
                traceback.clear_frames(error.__traceback__)  # they hold its memory
                if is_out_of_memory(error):
                    raise UsageError(
                        f"not enough GPU memory to decode {len(ahead[0].clip_ids)} clips ({first_line(error)}); "
                        f"use a smaller --batch-size or --prefetch, or fewer --methods in one pass"
                    ) from None
                undecodable = self._undecodable(ahead[0], modality)
                if not undecodable:
                    raise
                reader.undecodable.update(dict.fromkeys(undecodable, f"{modality} {UNDECODABLE}"))
                self._feed_anew(modality, ahead, reader, epoch)
                taken[modality] = self._take(modality, ahead[0])
        prepared = ahead.popleft()
        batch = Batch(
            audio=taken.get("audio"),
            frames=taken.get("visual"),
            label=on_device(self.dataset.labels[prepared.clip_ids].astype(np.int64), self.device),
            clip_id=on_device(prepared.clip_ids, self.device),
            valid=torch.from_numpy(prepared.valid),  # stays on the CPU: to ask it must not wait for a GPU
            position=prepared.position,
            rows=torch.from_numpy(prepared.clip_ids),
        )
        return _Finished(batch, prepared.bad, ready=None if self._stream is None else self._stream.record_event())

    def _feed_anew(self, modality: Modality, ahead: deque[Prepared], reader: Reader, epoch: int) -> None:
        """Give a new pipeline all that was lost with one that failed, with stock clips for those that failed it."""
        for place, prepared in enumerate(ahead):
            if not reader.undecodable.keys().isdisjoint(prepared.clip_ids.tolist()):
                ahead[place] = self._prepared(reader, epoch, prepared.position, prepared.clip_ids)
        self._pipelines[modality] = self._build(modality, tuple(reader.modalities))
        for prepared in ahead:
            if prepared.feeds:
                self._pipelines[modality].feed(prepared.feeds[modality])

    def _take(self, modality: Modality, prepared: Prepared) -> torch.Tensor:
        """The modality's tensor of the batch."""
        visual = self.preset.visual
        if not prepared.feeds:
            rows, columns = self.preset.audio.shape
            shape = (1, rows, columns) if modality == "audio" else (visual.frames, 3, visual.height, visual.width)
            return torch.empty((0, *shape), dtype=self.dtype, device=self.device)
        taken = self._pipelines[modality].take()
        feed = prepared.feeds[modality]
        if isinstance(feed, AudioFeed):
            return finish_audio(taken, feed, buffers=self._audio_buffers).to(self.dtype)
        if isinstance(feed, SpectrogramFeed):
            return taken.to(self.dtype)
        return finish_frames(taken, frames=visual.frames).to(self.dtype)

    def _undecodable(self, prepared: Prepared, modality: Modality) -> list[int]:
        """Decode the clips of a failed batch one by one; the ids of those that fail.

        None of them where not even a stock clip can be decoded: that is no fault of the clips.
        """
        failed: list[int] = []
        try:
            alone = self._tried(modality)
            for row, clip_id in enumerate(prepared.clip_ids.tolist()):
                try:
                    alone.feed(prepared.feeds[modality].of_clip(row, clips=len(prepared.clip_ids)))
                    alone.take()
                except RuntimeError:
                    failed.append(clip_id)
                    alone = self._tried(modality)  # the one before is of no use after a failure
        except RuntimeError:
            return []
        return failed

    def _tried(self, modality: Modality) -> DecodingPipeline:
        """A pipeline for one clip at a time that has decoded a stock clip. Raises RuntimeError where that fails."""
        pipeline = self._build(modality, (modality,), alone=True)  # DALI's are tried when they are built
        if modality == "audio" and self._spectrogram is not None:
            pipeline.feed(SpectrogramFeed([self._spectrogram.silence()]))
            pipeline.take()
        if self._stream is not None:
            self._stream.synchronize()
        return pipeline


def _check_frame_phase(dataset: Dataset, preset: Preset) -> None:
    wanted, packed = preset.visual.frame_phase_seconds, dataset.description["frame_phase_seconds"]
    if wanted is not None and packed != wanted:
        raise DatasetError(
            f"{dataset.path}: its frames were taken {packed:g} s into each second, preset {preset.name} wants them at "
            f"{wanted:g} s; pack with `frame_phase_seconds = {wanted:g}` in the recipe"
        )


def _return_freed_memory() -> None:
    """Give the memory that is free within the C library's heaps back to the system, where the library can.

    DALI's batches are tens of megabytes. Once some have been freed, glibc no longer maps such blocks one by one but
    puts them into its heaps, one a thread, where small blocks in between keep them from being given back: in epochs of
    a few batches a process of 500 MB grew by another 250.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@dataclass(frozen=True, slots=True)
class _Finished:
    """A batch, and what was wrong with its invalid clips. ready: on a GPU, reached when the batch is complete."""

    batch: Batch
    bad: Mapping[int, str]
    ready: torch.cuda.Event | None
