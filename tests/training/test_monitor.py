"""What a pass says of its speed, and of its ranks'."""

import ast
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from avbench.batch import Batch
from avbench.distributed import current_world
from avbench.training.display import _speed_text
from avbench.training.monitor import Monitor, _across, _together, plotted
from tests.methods.steps import batch_of
from tests.processes import run_on_ranks

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_the_slowest_and_the_fastest_rank_and_each_machines_gpus_are_named() -> None:
    ranks = [
        {"step_seconds": 0.2, "data_wait_share": 0.5, "gpu_use_share": 0.4},
        {"step_seconds": 0.4, "data_wait_share": 0.1, "gpu_use_share": 0.8},
        {"step_seconds": 0.3, "data_wait_share": 0.0, "gpu_use_share": 0.9},
        {"step_seconds": 0.1, "data_wait_share": 0.2},
    ]
    assert _across(ranks, ["a", "a", "b", "c"]) == {
        "slowest_rank": 1,
        "slowest_step_seconds": 0.4,
        "fastest_rank": 3,
        "fastest_step_seconds": 0.1,
        "most_waiting_rank": 0,
        "most_data_wait_share": 0.5,
        "least_data_wait_share": 0.0,
        "gpu_use_share_of_a": (0.4 + 0.8) / 2,
        "gpu_use_share_of_b": 0.9,
    }


def test_the_display_names_a_rank_that_lags() -> None:
    speed = {"clips_per_second": 10.0, "data_wait_share": 0.0, "slowest_rank": 2, "fastest_rank": 0}
    lags = _speed_text({**speed, "slowest_step_seconds": 0.4, "fastest_step_seconds": 0.1})
    assert lags.endswith("rank 2 takes 4.0 times as long as rank 0")
    assert "rank" not in _speed_text({**speed, "slowest_step_seconds": 0.11, "fastest_step_seconds": 0.1})


def watch() -> dict[str, float]:
    """Rank 1 works longer on each of four batches, and rank 0 waits for it."""
    monitor = Monitor(CPU, world_size=2, writing_seconds=lambda: 0.0)
    batches: list[Batch] = [batch_of(2)] * 4
    for _ in monitor.watch(iter(batches)):
        time.sleep(0.3 if current_world().rank == 1 else 0.05)
        with monitor.waiting_for_others():
            torch.distributed.barrier()
    return monitor.report()


def test_waiting_for_others_is_no_rank_s_own_time() -> None:
    reports = run_on_ranks(2, watch)
    for report in reports:
        assert report["slowest_rank"] == 1 and report["fastest_rank"] == 0
        assert report["slowest_step_seconds"] > 0.3 > report["fastest_step_seconds"] > 0.05
    assert reports[0]["clips_per_second"] < 2 * 2 * 4 / 1.2 + 1
    of_ranks = reports[0]["clips_per_second_by_rank"]
    assert len(of_ranks) == 2 and sum(of_ranks) == reports[0]["clips_per_second"] == reports[1]["clips_per_second"]
    assert len(reports[1]["cpu_use_share_by_rank"]) == 2


def test_what_the_ranks_use_is_added_up_and_a_clips_joules_are_those_of_all_gpus_over_all_clips() -> None:
    ranks = [
        {"clips_per_second": 100.0, "cpu_cores_busy": 1.5, "gpu_power_watts": 300.0, "joules_per_clip": 3.0},
        {"clips_per_second": 300.0, "cpu_cores_busy": 2.0, "gpu_power_watts": 500.0, "storage_bytes_per_second": 7.0},
    ]
    assert _together(ranks) == {
        "clips_per_second": 400.0,
        "cpu_cores_busy": 3.5,
        "gpu_power_watts": 800.0,
        "storage_bytes_per_second": 7.0,
        "joules_per_clip": 2.0,
    }


def test_a_busy_processor_and_bytes_from_storage_are_counted(tmp_path: Path) -> None:
    read = _bytes_from_storage(tmp_path / "file")
    monitor = Monitor(CPU, world_size=1, writing_seconds=lambda: 0.0)
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    read_bytes = read()
    begun = monitor._started
    report = monitor.report()
    elapsed = monitor._started - begun
    assert 0.3 <= report["cpu_cores_busy"] * elapsed < 3.0
    assert 0.0 < report["cpu_use_share"] <= 1.05
    if read_bytes:
        assert read_bytes * 0.9 <= report["storage_bytes_per_second"] * elapsed < read_bytes + 50e6
    assert monitor.report()["cpu_cores_busy"] < 50.0  # counted from the report before


def _bytes_from_storage(path: Path) -> Any:
    """A function that reads a file of 8 MB that is on storage alone, and says how many bytes storage was asked for."""
    path.write_bytes(os.urandom(8 << 20))
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def read() -> int:
        def counted() -> int:
            return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["read_bytes"])

        before = counted()
        os.read(descriptor, 8 << 20)
        os.close(descriptor)
        return counted() - before  # 0 on a file system in memory

    return read


def test_each_rank_has_a_curve_of_its_own_where_they_are_few() -> None:
    report = {"clips_per_second": 3.0, "clips_per_second_by_rank": [1.0, 2.0], "joules_per_clip_by_rank": [None, 4.0]}
    assert plotted(report) == {
        "clips_per_second": 3.0,
        "clips_per_second_by_rank/0": 1.0,
        "clips_per_second_by_rank/1": 2.0,
        "joules_per_clip_by_rank/1": 4.0,
    }
    assert len(plotted({"clips_per_second_by_rank": [1.0] * 1000})) == 16


class _NVML:
    """A GPU that has used so many millijoules, and was busy as its driver sampled: (microseconds, percent) each.

    It keeps the newest ten samples. gpm: percent of multiprocessors that were busy, None where it does not count them.
    """

    NVML_GPU_UTILIZATION_SAMPLES = 1
    NVML_SUCCESS, NVML_GPM_METRICS_GET_VERSION = 0, 1

    class NVMLError(Exception):
        pass

    def __init__(self, *, uuid: str = "GPU-1", gpm: float | None = None) -> None:
        self.uuid, self.gpm = uuid, gpm
        self.millijoules = 5_000_000
        self.samples: list[tuple[int, int]] = [(1, 90)]
        self.taken: list[object] = []

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != self.uuid:
            raise self.NVMLError(f"no {uuid}")
        return f"handle of {uuid}"

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: object) -> int:
        return self.millijoules

    def nvmlDeviceGetMemoryInfo(self, gpu: object) -> object:
        raise self.NVMLError

    def nvmlDeviceGetUtilizationRates(self, gpu: object) -> object:
        return SimpleNamespace(gpu=self.samples[-1][1])

    def nvmlDeviceGetSamples(self, gpu: object, kind: int, newest: int) -> tuple[int, list[object]]:
        assert kind == self.NVML_GPU_UTILIZATION_SAMPLES
        later = [
            SimpleNamespace(timeStamp=stamp, sampleValue=SimpleNamespace(uiVal=percent))
            for stamp, percent in self.samples[-10:]
            if stamp > newest
        ]
        if not later:
            raise self.NVMLError("Not Found")
        return 1, later

    def nvmlDeviceIsMigDeviceHandle(self, gpu: str) -> bool:
        return "MIG" in gpu

    def nvmlDeviceGetGpuInstanceId(self, gpu: str) -> int:
        return 3

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, gpu: str) -> str:
        return "the whole GPU"

    def nvmlGpmQueryDeviceSupport(self, gpu: str) -> object:
        return SimpleNamespace(isSupportedDevice=int(self.gpm is not None))

    def nvmlGpmSampleAlloc(self) -> object:
        return object()

    def nvmlGpmSampleGet(self, gpu: str, sample: object) -> None:
        self.taken.append(gpu)

    def nvmlGpmMigSampleGet(self, gpu: str, part: int, sample: object) -> None:
        self.taken.append((gpu, part))

    def c_nvmlGpmMetricsGet_t(self) -> object:
        return SimpleNamespace(metrics=[SimpleNamespace() for _ in range(9)])

    def nvmlGpmMetricsGet(self, asked: Any) -> None:
        assert asked.version == 1 and asked.numMetrics == 3 and asked.sample1 is not asked.sample2
        for metric in asked.metrics[: asked.numMetrics]:
            # What the GPU does not have is refused one by one.
            metric.nvmlReturn, metric.value = (0, self.gpm) if metric.metricId == 2 else (3, 0.0)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> _NVML:
    """In place of the library."""
    fake = _NVML()
    for module in ("nvml", "monitor"):
        monkeypatch.setattr(f"avbench.training.{module}.pynvml", fake)
    properties = SimpleNamespace(uuid="1")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return fake


def test_a_gpus_use_is_the_mean_of_all_samples_since_the_last_report(nvml, monkeypatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("avbench.training.nvml.time", SimpleNamespace(monotonic=lambda: clock.now))
    monitor = Monitor(GPU, world_size=1, writing_seconds=lambda: 0.0)
    for number, _ in enumerate(monitor.watch(iter([batch_of(2)] * 30))):
        clock.now += 1.0
        nvml.samples.append((10 + number, 100 if number < 6 else 25))
    # All thirty, though the driver keeps ten; not the 90 % from before.
    assert monitor.report()["gpu_use_share"] == pytest.approx((6 * 1.0 + 24 * 0.25) / 30)
    assert monitor.report()["gpu_use_share"] == 0.25  # none since: that of just now
    nvml.samples += [(50, 40), (51, 60)]
    assert monitor.report()["gpu_use_share"] == 0.5


def test_how_full_a_gpu_is_is_said_where_it_counts_that(nvml) -> None:
    assert "gpu_sm_activity_share" not in Monitor(GPU, world_size=1, writing_seconds=lambda: 0.0).report()
    nvml.gpm = 62.5
    report = Monitor(GPU, world_size=1, writing_seconds=lambda: 0.0).report()
    assert report["gpu_sm_activity_share"] == 0.625 and "gpu_tensor_share" not in report
    assert set(nvml.taken) == {"handle of GPU-1"}
    assert "GPU 90%, SMs 62%, " in _speed_text({**report, "gpu_power_watts": 1.0, "joules_per_clip": 1.0})


def test_a_part_of_a_gpu_is_found_by_its_own_kind_of_identifier(nvml) -> None:
    nvml.uuid, nvml.gpm = "MIG-1", 50.0
    monitor = Monitor(GPU, world_size=1, writing_seconds=lambda: 0.0)
    assert monitor.no_gpu_numbers == ""
    assert monitor.report()["gpu_sm_activity_share"] == 0.5
    assert set(nvml.taken) == {("the whole GPU", 3)}
    nvml.uuid = "GPU-2"
    said = Monitor(GPU, world_size=1, writing_seconds=lambda: 0.0).no_gpu_numbers
    assert said.startswith("NVML does not answer (no GPU-1)")


def test_the_real_library_has_all_that_is_asked_of_it() -> None:
    from avbench.training import nvml

    asked = pynvml.c_nvmlGpmMetricsGet_t()
    for place, metric in enumerate(nvml._GPM_METRICS.values()):
        asked.metrics[place].metricId = metric
    assert {"value", "nvmlReturn"} <= {name for name, _ in pynvml.c_nvmlGpmMetric_t._fields_}
    source = ast.parse(Path(nvml.__file__).read_text())
    names = {node.attr for node in ast.walk(source) if isinstance(node, ast.Attribute) and _is_pynvml(node.value)}
    assert len(names) > 15 and all(hasattr(pynvml, name) for name in names)
    with pytest.raises(pynvml.NVMLError):
        nvml.Gpu(GPU)


def _is_pynvml(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "pynvml"


def test_a_gpus_energy_becomes_power_and_joules_a_clip(nvml) -> None:
    monitor = Monitor(GPU, world_size=1, writing_seconds=lambda: 0.0)
    for _ in monitor.watch(iter([batch_of(2), batch_of(3)])):
        nvml.millijoules += 10_000
    report = monitor.report()
    assert abs(report["joules_per_clip"] - 20.0 / 5) < 1e-9
    assert report["gpu_power_watts"] == report["joules_per_clip"] * report["clips_per_second"]
    assert "gpu_memory_bytes" not in report  # NVML did not say


def test_the_display_says_processor_reading_and_power() -> None:
    speed = {"clips_per_second": 10.0, "data_wait_share": 0.0, "cpu_use_share": 0.5, "storage_bytes_per_second": 2.5e6}
    assert _speed_text(speed).endswith("CPU 50%, 2.5 MB/s read")
    assert "310 W, 0.41 J/clip" in _speed_text({**speed, "gpu_power_watts": 310.0, "joules_per_clip": 0.41})
    assert "read" not in _speed_text({**speed, "storage_bytes_per_second": 10.0})
