"""What a GPU machine lacks is handled or refused in one line, with fakes of torch.cuda, NVML and nvJPEG."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from avbench import distributed
from avbench.batch import Batch
from avbench.cli import main
from avbench.dataset import Dataset
from avbench.distributed import World
from avbench.engine.deepspeed import _join_process_group
from avbench.errors import UsageError
from avbench.loading import gpu
from avbench.loading.loader import Loader, _Finished
from avbench.loading.pipeline import FeaturePipeline
from avbench.loading.presets import preset
from avbench.start import device_of_this_rank
from avbench.training.monitor import Monitor
from avbench.training.out_of_memory import largest_that_fits, too_large
from avbench.training.parallel import SideBySide
from avbench.training.run import Run
from tests.synthetic import make_dataset

GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("gpu") / "data", clips={"train": 12, "val": 3, "test": 3}, seconds=1.0)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert not any("avbench" in line for line in progress)
    return error


def with_memory_for(clips: int) -> Callable[..., None]:
    """`Run.train_step` on a GPU that has memory for so many."""
    real = Run.train_step

    def train_step(run: Run, batch: Batch, **options: Any) -> None:
        if len(batch) > clips:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 is full.")
        real(run, batch, **options)

    return train_step


@pytest.mark.parametrize(
    ("memory_for", "said"),
    [
        (5, "for a step on 12 clips: 5 fit, as tried just now; use --batch-size 5, or --accumulation 3 for the same"),
        (0, "for a step on 12 clips, nor for one: train fewer --methods in one pass"),
    ],
)
def test_the_largest_batch_that_fits_is_named(
    memory_for: int,
    said: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Run, "train_step", with_memory_for(memory_for))
    flags = ("--preset", "tiny", "--width", "8", "--batch-size", "12", "--methods", "audio", "--epochs", "1")
    assert said in refused(capsys, "train", str(dataset), "--out", str(tmp_path / "run"), *flags)
    assert not list((tmp_path / "run" / "checkpoints").glob("*/*"))  # nothing of the attempts is kept


def test_memory_that_is_short_elsewhere_is_one_line_too(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(run: Run, batch: Batch, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB. GPU 0 has 1 GiB. A. Long. Story.")

    monkeypatch.setattr(Run, "evaluate", evaluate)
    flags = ("--preset", "tiny", "--width", "8", "--batch-size", "12", "--methods", "audio", "--epochs", "1")
    line = refused(capsys, "train", str(dataset), "--out", str(tmp_path / "run"), *flags)
    assert "not enough GPU memory (CUDA out of memory. Tried to allocate 2 MiB. GPU 0 has 1 GiB); use a sm" in line


def test_bisection_finds_every_size() -> None:
    for size in range(9):
        tried = []

        def attempt(clips: int, size: int = size, tried: list[int] = tried) -> None:
            tried.append(clips)
            if clips > size:
                raise torch.OutOfMemoryError

        assert largest_that_fits(attempt, too_many=9) == size
        assert len(tried) <= 4


def test_of_several_ranks_no_size_is_tried() -> None:
    error = too_large(32, largest=None, ranks=4, accumulation=2)
    assert str(error).endswith(
        "32 clips a rank: halve --batch-size, or add --accumulation 4 for the same batch in parts"
    )


@pytest.mark.parametrize("said", ["Can't allocate 268435456 bytes on device 0.", "CUDA allocation failed"])
def test_dalis_words_for_a_full_gpu_are_known(said: str) -> None:
    assert gpu.is_out_of_memory(RuntimeError(f"Error in GPU operator `nvidia.dali.fn.resize`:\n{said}"))
    assert not gpu.is_out_of_memory(RuntimeError("Can't allocate 268435456 bytes on host."))


def fake_nvml(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, f"nvml{name}", lambda answer=answer: answer)


def test_a_driver_too_old_for_dali_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, SystemGetCudaDriverVersion_v2=11080, SystemGetDriverVersion="520.61")
    with pytest.raises(UsageError, match=r"^driver 520.61 is for CUDA 11.8, and DALI needs one for CUDA 12 \(525 or"):
        gpu.check_driver()
    fake_nvml(monkeypatch, SystemGetCudaDriverVersion_v2=12020, SystemGetDriverVersion="535.1")
    gpu.check_driver()


def test_a_gpu_that_torch_cannot_use_is_said_once_and_one_that_is_hidden_is_not(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake_nvml(monkeypatch, DeviceGetCount=1, SystemGetDriverVersion="470.1")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    flags = ("--preset", "tiny", "--width", "8", "--batch-size", "12", "--methods", "audio", "--epochs", "1")
    main(["train", str(dataset), "--out", str(tmp_path / "run"), *flags])
    error = capsys.readouterr().err
    assert error.count("everything runs on the CPU although there is a GPU: torch ") == 1
    assert "cannot use it with driver 470.1: it wants one for CUDA 13.0" in error
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.why_unused() == ""


class NvJpeg:
    """The library, of a GPU with so many engines; None: it fails."""

    def __init__(self, engines: int | None) -> None:
        self.engines = engines
        self.open_handles = 0

    def nvjpegCreateSimple(self, handle: Any) -> int:
        self.open_handles += 1
        return 0

    def nvjpegGetHardwareDecoderInfo(self, handle: Any, engines: Any, cores: Any) -> int:
        ctypes.cast(engines, ctypes.POINTER(ctypes.c_uint)).contents.value = self.engines or 0
        return 0 if self.engines is not None else 7

    def nvjpegDestroy(self, handle: Any) -> int:
        self.open_handles -= 1
        return 0


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        (1, "by 1 JPEG engine(s)"),
        (0, "by its cores, beside training: it has no engine for JPEG"),
        (None, "does not say"),
    ],
)
def test_what_decodes_jpeg_on_a_gpu_is_said(engines: int | None, said: str) -> None:
    library = NvJpeg(engines)
    found = gpu._engines(library)
    assert found == engines and library.open_handles == 0
    assert said in gpu.jpeg_text(found, share=1.0)
    # As it is, engines decode nothing.
    assert gpu.jpeg_text(found).startswith("by its cores, ") and ("1 JPEG engine" in gpu.jpeg_text(found)) == bool(
        engines
    )


def test_the_nvjpeg_that_is_installed_answers() -> None:
    assert gpu._engines(ctypes.CDLL(str(gpu._nvjpeg()))) is None or torch.cuda.is_available()


def test_without_nvml_the_gpus_numbers_are_missing_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    monitor = Monitor(GPU, world_size=1, writing_seconds=lambda: 0.0)
    assert monitor.no_gpu_numbers.startswith("NVML does not answer (NVML Shared Library Not Found): no GPU use")
    assert {"gpu_use_share", "gpu_power_watts", "gpu_memory_bytes"}.isdisjoint(monitor.report())
    assert Monitor(torch.device("cpu"), world_size=1, writing_seconds=lambda: 0.0).no_gpu_numbers == ""


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {
        "RANK": "2",
        "WORLD_SIZE": "3",
        "LOCAL_RANK": "2",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UsageError, match=r"local rank 2 has no GPU of its own \(2 here\); start at most one rank a GPU"
    ):
        device_of_this_rank()


def test_ranks_that_were_bound_to_one_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of_ranks = {0: "a", 1: "b", 2: "a"}
    world = World(0, 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=of_ranks[0]))

    def store() -> torch.distributed.HashStore:
        """As the other ranks leave it."""
        store = torch.distributed.HashStore()
        for rank in (1, 2):
            store.set(f"gpu of {rank}", of_ranks[rank])
            store.set(f"read by {rank}", "")
        return store

    with pytest.raises(UsageError, match="ranks 0, 2 would share one GPU; start at most one rank a GPU"):
        distributed._refuse_a_shared_gpu(GPU, world, store())
    of_ranks[2] = "c"
    distributed._refuse_a_shared_gpu(GPU, world, store())


def test_nccl_is_joined_with_the_device_after_shared_gpus_were_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    done: list[Any] = []
    store = torch.distributed.HashStore()
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(("set", device)))
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda *where, **options: iter([(store, 0, 2)]))
    monkeypatch.setattr(
        distributed, "_refuse_a_shared_gpu", lambda device, world, store: done.append(("asked", device))
    )
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **joining: done.append(joining))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with distributed.process_group(device=GPU) as world:
        assert world == World(0, 2)
    assert done[:2] == [("set", GPU), ("asked", GPU)]
    (joining,) = done[2:]
    assert joining["backend"] == "nccl" and joining["device_id"] == GPU and joining["store"] is store
    assert (joining["rank"], joining["world_size"]) == (0, 2)


class Stream:
    """A CUDA stream that writes down what is done on which, in order."""

    def __init__(self, name: str, written: list[str]) -> None:
        self.name, self.written, self.device = name, written, GPU

    def wait_stream(self, other: "Stream") -> None:
        self.written.append(f"{self.name} waits for {other.name}")


def test_runs_on_streams_begin_after_the_batch_and_end_before_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    names = iter("ab")
    current = [Stream("main", written)]

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(next(names), written))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)
    with SideBySide(threads=1, device=GPU, streams=2) as side_by_side:
        side_by_side.each("xyz", lambda item: written.append(f"{item} on {current[-1].name}"))
    assert written == [
        "a waits for main", "x on a", "b waits for main", "y on b", "a waits for main", "z on a",
        "main waits for a", "main waits for b",
    ]  # fmt: skip


def test_dalis_output_is_copied_on_our_stream_before_it_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    stream = Stream("ours", written)

    class Pipeline:
        def share_outputs(self, cuda_stream: Stream) -> tuple[Any]:
            written.append(f"bound to {cuda_stream.name}")
            return (SimpleNamespace(as_tensor=lambda: SimpleNamespace(shape=lambda: [2, 3])),)

        def release_outputs(self) -> None:
            written.append("released")

    def feed_ndarray(output: Any, tensor: torch.Tensor, cuda_stream: Stream) -> torch.Tensor:
        written.append(f"copied on {cuda_stream.name}")
        return tensor

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, device, **options: empty(*shape, **options))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr("avbench.loading.pipeline.feed_ndarray", feed_ndarray)
    pipeline = object.__new__(FeaturePipeline)
    vars(pipeline).update(device=GPU, _finish=None, _pipeline=Pipeline(), _fed=[{}])
    pipeline._fed = SimpleNamespace(popleft=lambda: None)  # type: ignore[assignment]
    assert pipeline.take().shape == (2, 3)
    assert written == ["bound to ours", "copied on ours", "released"]


class Event:
    """A CUDA event of a GPU whose clock is the number of things that it has been given to do."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Any) -> None:
        stream.written.append("event")
        self.at = stream.seconds

    def query(self) -> bool:
        return True

    def elapsed_time(self, after: "Event") -> float:
        return 1e3 * (after.at - self.at)


def test_the_consumers_stream_waits_for_the_batch_and_the_wait_is_counted(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    stream = SimpleNamespace(written=written, seconds=0.0)

    def wait_event(event: str) -> None:
        written.append(f"waits for {event}")
        stream.seconds += 0.25

    stream.wait_event = wait_event
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: written.append("kept"))
    data = Dataset(dataset)
    loader = Loader(data, data.clip_ids("train"), preset=preset("tiny"), batch_size=6, seed=0, training=True)
    # As the worker of a loader on a GPU would have finished it.
    finish = loader._finish
    monkeypatch.setattr(loader, "_finish", lambda *of: replace(finish(*of), ready="the copy"))
    assert [len(batch) for batch in loader.epoch(0)] == [6, 6]
    assert written == ["event", "waits for the copy", "event", *4 * ["kept"]] * 2
    assert loader.take_stalled_seconds() == pytest.approx(0.5)
    assert loader.take_stalled_seconds() == 0.0
    monitor = Monitor(GPU, world_size=1, writing_seconds=lambda: 0.0, stalled_seconds=lambda: 1e-3)
    assert monitor.report()["gpu_data_wait_share"] > 0


def test_no_wait_is_forgotten_however_rarely_one_asks(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(written=[], seconds=0.0)

    def wait_event(event: str) -> None:
        stream.seconds += 0.25

    stream.wait_event = wait_event
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    data = Dataset(dataset)
    loader = Loader(data, data.clip_ids("train"), preset=preset("tiny"), batch_size=6, seed=0, training=True)
    batch = next(loader.epoch(0))
    for _ in range(1500):
        loader._handed_over(_Finished(batch, {}, ready="the copy"))  # type: ignore[arg-type]
    assert len(loader._stalls) <= 100  # nor does the list of events grow
    assert loader.take_stalled_seconds() == pytest.approx(1500 * 0.25)
    assert loader.take_stalled_seconds() == 0.0


def test_batches_are_rounded_when_all_else_is_done(dataset: Path) -> None:
    def batch_of(dtype: torch.dtype) -> Batch:
        data = Dataset(dataset)
        options: dict[str, Any] = {"preset": preset("tiny"), "batch_size": 6, "seed": 0, "training": True}
        return next(Loader(data, data.clip_ids("train"), dtype=dtype, **options).epoch(0))

    rounded, whole = batch_of(torch.bfloat16), batch_of(torch.float32)
    for name in ("audio", "frames"):
        expected = getattr(whole, name).to(torch.bfloat16)
        assert torch.equal(getattr(rounded, name), expected)
        assert getattr(rounded, name).stride() == expected.stride() == getattr(whole, name).stride()


def test_a_training_builds_one_pipeline_a_modality_and_stays_with_its_decoder(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[str] = []
    build = Loader._build

    def counting(self: Loader, modality: Any, *rest: Any, **options: Any) -> Any:
        built.append(modality)
        return build(self, modality, *rest, **options)

    monkeypatch.setattr(Loader, "_build", counting)
    flags = ("--preset", "tiny", "--batch-size", "6", "--methods", "baseline")
    words = ("train", str(dataset), "--out", str(tmp_path / "run"), *flags)
    main([*words, "--epochs", "1"])
    # For train, val, test, the means of train, and predictions.
    assert sorted(built) == ["audio", "visual"]
    capsys.readouterr()
    monkeypatch.setattr("avbench.training.trainer.JPEG_ENGINE_SHARE", 1.0)
    again = ("train", "--out", str(tmp_path / "run"), "--resume", "--epochs", "2")
    assert "share of pictures for JPEG engines 0.0, and this run has 1.0" in refused(capsys, *again)


def test_deepspeed_alone_joins_with_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[Any] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **how: joined.append((backend, how)))
    monkeypatch.setattr("avbench.engine.deepspeed.atexit.register", lambda action: None)
    monkeypatch.setenv("LOCAL_RANK", "0")
    for device in (GPU, torch.device("cpu")):
        _join_process_group(device)
    (nccl, of_gpu), (gloo, of_cpu) = joined
    assert (nccl, of_gpu["device_id"]) == ("nccl", GPU) and (gloo, of_cpu["device_id"]) == ("gloo", None)
