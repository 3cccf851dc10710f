"""What a loader on a GPU asks of DALI, seen without one: graphs are defined for it, and never built."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from avbench.dataset import Dataset
from avbench.distributed import World
from avbench.errors import DatasetError
from avbench.loading import loader as loader_module
from avbench.loading import pipeline, reading, transforms
from avbench.loading.feeds import AudioFeed, VisualFeed
from avbench.loading.gpu import JPEG_ENGINE_SHARE
from avbench.loading.loader import Loader
from avbench.loading.pipeline import FeaturePipeline, _transformed, audio_pipeline, visual_pipeline
from avbench.loading.pool import PipelinePool, pool_sizes
from avbench.loading.presets import PRESETS, preset
from avbench.vocabulary import MODALITIES, SPLITS
from tests.synthetic import make_dataset

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
TINY = preset("tiny")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    clips = {"train": 9, "val": 3, "test": 3}
    return Dataset(make_dataset(tmp_path_factory.mktemp("graphs") / "data", clips=clips, seconds=1.0))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What DALI was asked for: threads of each pipeline, arguments of the JPEG decoder, the first batches."""
    seen = SimpleNamespace(threads=[], decoder={}, stock=[])
    decode, make = pipeline.fn.decoders.image_slice, pipeline.Pipeline

    def image_slice(encoded: Any, **options: Any) -> Any:
        seen.decoder = options
        return decode(encoded, **options)

    def made(**options: Any) -> Any:
        seen.threads.append(options["num_threads"])
        return make(**options)

    monkeypatch.setattr(pipeline.fn.decoders, "image_slice", image_slice)
    monkeypatch.setattr(pipeline, "Pipeline", made)
    monkeypatch.setattr(make, "build", lambda self: None)
    monkeypatch.setattr(FeaturePipeline, "_warm_up", lambda self, stock: seen.stock.append(stock))
    return seen


def test_the_first_batch_on_a_gpu_is_as_large_as_those_to_come(asked: SimpleNamespace) -> None:
    options: dict[str, Any] = {"max_batch_size": 8, "threads": 3, "device": GPU, "depth": 2}
    visual_pipeline(TINY.visual, **options)
    audio_pipeline(TINY.audio, resampling="none", **options)
    visual, audio = asked.stock
    assert isinstance(visual, VisualFeed) and isinstance(audio, AudioFeed)
    assert len(visual.encoded) == len(visual.inputs()["start"]) == len(visual.inputs()["flip"]) == 8
    assert len(audio.encoded) == len(audio.inputs()["start"]) == len(audio.inputs()["length"]) == 8


@pytest.mark.parametrize("resampling", ["none", "decimation", "interpolation"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_full_stock_batch_of_every_preset_is_decoded(name: str, resampling: Any) -> None:
    """On a CPU, one clip is; here as many as a GPU is given."""
    audio = PRESETS[name].audio
    built = audio_pipeline(audio, resampling=resampling, max_batch_size=2, threads=1, device=CPU, depth=1)
    stock = [pipeline.stock_audio(audio)] * 2
    rates_hz, samples = np.full(2, audio.sample_rate_hz), np.full(2, audio.samples)
    built.feed(AudioFeed(stock, rates_hz, samples, np.zeros(2, np.int64), audio))
    assert len(built.take()) == 2


def test_one_decoder_decodes_every_picture_of_a_batch_on_threads_that_are_not_bound(asked: SimpleNamespace) -> None:
    visual_pipeline(TINY.visual, max_batch_size=8, threads=3, device=GPU, depth=2)
    assert asked.decoder["device"] == "mixed"
    assert asked.decoder["hw_decoder_load"] == JPEG_ENGINE_SHARE and JPEG_ENGINE_SHARE in (0.0, 1.0)
    assert asked.decoder["affine"] is False
    # For 16 threads and 3 graphs: under 150 MB of each, where DALI's own would be 800.
    assert asked.decoder["device_memory_padding"] <= 2 << 20 and asked.decoder["host_memory_padding"] <= 1 << 20
    assert 256 <= asked.decoder["preallocate_width_hint"] <= 1024
    visual_pipeline(TINY.visual, max_batch_size=8, threads=3, device=GPU, depth=2, jpeg_engine_share=1.0)
    assert asked.decoder["hw_decoder_load"] == 1.0


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("threads", [3, 4, 8, 16, 48])
def test_all_pools_together_have_no_more_threads_than_the_loader(
    threads: int, device: torch.device, dataset: Dataset, asked: SimpleNamespace
) -> None:
    options: dict[str, Any] = {"preset": TINY, "batch_size": 4, "seed": 0, "training": True}
    loader = Loader(dataset, dataset.clip_ids("train"), threads=threads, **options)
    loader.device = device  # after: torch makes no stream without a GPU
    for modalities in (MODALITIES, ("audio",), ("visual",)):
        asked.threads.clear()
        for modality in modalities:
            loader._build(modality, modalities)
        pools = asked.threads + (asked.threads[-1:] if device == GPU and "visual" in modalities else [])
        assert min(pools) >= 1 and threads - 1 <= sum(pools) <= threads


def test_every_pool_has_a_thread_where_there_are_fewer_threads_than_pools() -> None:
    assert pool_sizes(1, MODALITIES, on_gpu=True) == {"audio": 1, "visual": 1}
    assert pool_sizes(1, ["visual"], on_gpu=True)["visual"] == 1
    assert pool_sizes(2, [], on_gpu=False) == {}


def built_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names what is built from here on."""
    built: list[str] = []
    build = Loader._build

    def counting(self: Loader, modality: Any, *rest: Any, **options: Any) -> Any:
        built.append(modality)
        return build(self, modality, *rest, **options)

    monkeypatch.setattr(Loader, "_build", counting)
    return built


def test_loaders_of_one_pool_build_a_pipeline_a_modality_between_them(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = built_by(monkeypatch)
    pool = PipelinePool()
    of_split = {}
    for split in SPLITS:
        clip_ids = dataset.clip_ids(split)
        options: dict[str, Any] = {"preset": TINY, "batch_size": 4, "seed": 0, "training": split == "train"}
        of_split[split] = Loader(dataset, clip_ids, pool=pool, **options), Loader(dataset, clip_ids, **options)
    alone = {split: list(own.epoch(0)) for split, (_, own) in of_split.items()}
    assert len(built) == 6
    built.clear()
    for _ in range(2):
        for split, (shared, _) in of_split.items():
            for batch, expected in zip(shared.epoch(0), alone[split], strict=True):
                assert torch.equal(batch.audio, expected.audio) and torch.equal(batch.frames, expected.frames)
            shared.close()  # the others' pipelines stay
    assert sorted(built) == ["audio", "visual"]


def test_two_epochs_at_once_have_pipelines_of_their_own(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    built = built_by(monkeypatch)
    pool = PipelinePool()
    options: dict[str, Any] = {"preset": TINY, "batch_size": 2, "seed": 0, "training": True, "pool": pool}
    one, other = (Loader(dataset, dataset.clip_ids("train"), **options) for _ in range(2))
    expected = list(one.epoch(0))
    for both in zip(expected, one.epoch(0), other.epoch(0), strict=True):
        assert torch.equal(both[0].audio, both[1].audio) and torch.equal(both[0].audio, both[2].audio)
    assert len(built) == 4
    # Of another kind: the idle one is let go of.
    larger = Loader(dataset, dataset.clip_ids("train"), **{**options, "batch_size": 4})
    next(larger.epoch(0))
    smaller = Loader(dataset, dataset.clip_ids("train"), **{**options, "batch_size": 4}, world=World(0, 2))
    next(smaller.epoch(0))  # two clips a slice, as at first, but those were let go of
    assert len(built) == 8


class Broken:
    """A pipeline of a GPU that decodes nothing."""

    def feed(self, feed: Any) -> None: ...

    def take(self) -> torch.Tensor:
        raise RuntimeError("Error in MIXED operator: CUDA error: an illegal memory access was encountered")

    def drain(self) -> None: ...


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_broken_gpu_is_not_blamed_on_the_clips(
    modality: Any, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pipeline fails in the middle of the epoch, and no later one can be built."""
    made: list[Any] = []

    def build(*preset: Any, **options: Any) -> Any:
        made.append(options)
        if len(made) > 1:
            raise RuntimeError("cudaErrorIllegalAddress")
        return Broken()

    monkeypatch.setattr(loader_module, f"{modality}_pipeline", build)
    options: dict[str, Any] = {"preset": TINY, "batch_size": 9, "seed": 0, "training": True}
    loader = Loader(dataset, dataset.clip_ids("train"), modalities=[modality], **options)
    with pytest.raises(RuntimeError, match="illegal memory access") as raised:
        list(loader.epoch(0))
    assert not isinstance(raised.value, DatasetError)
    assert len(made) == 2  # not one a clip


def test_one_pipeline_finds_a_bad_clip(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset(dataset.path)
    junk = np.frombuffer(b"\x01junk" * 9, np.uint8)
    whole = Dataset.audio_bytes

    def audio_bytes(self: Dataset, clip_id: int) -> np.ndarray:
        return junk if clip_id == 4 else whole(self, clip_id)

    monkeypatch.setattr(Dataset, "audio_bytes", audio_bytes)
    monkeypatch.setattr(reading, "_check", lambda data, packed, what: None)
    built = built_by(monkeypatch)
    options: dict[str, Any] = {"preset": TINY, "batch_size": 9, "seed": 0, "training": True, "modalities": ["audio"]}
    loader = Loader(data, data.clip_ids("train"), **options)
    batches = list(loader.epoch(0))
    assert loader.bad_clips == {4: "audio is as it was packed but cannot be decoded"}
    invalid = [batch.clip_id[~batch.valid].tolist() for batch in batches]
    assert [clip_id for clips in invalid for clip_id in clips] == [4]
    assert len(built) == 4  # of the epoch, for the search, after the one failure, and to go on with


@pytest.mark.parametrize("name", ["kinetics-sound-ogm", "vggsound-official"])
def test_constants_of_transforms_are_brought_to_a_device_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = PRESETS[name].audio
    brought: list[int] = []
    bring = transforms.on_device

    def on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
        brought.append(array.size)
        return bring(array, device)

    monkeypatch.setattr(transforms, "on_device", on_device)
    transforms._placed.cache_clear()
    waveforms = torch.zeros(2, audio.samples)
    first, again = (_transformed(waveforms, np.array([3, 4]), PRESETS[name].audio) for _ in range(2))
    assert torch.equal(first, again)
    of_batches = [size for size in brought if brought.count(size) > 1]  # which steps are a clip's own
    assert len(brought) - len(of_batches) == 2 and sum(of_batches) <= 2 * first[..., 0].numel()
