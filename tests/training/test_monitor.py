"""What a pass says of its speed, and of its ranks'."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from avbench.batch import Batch
from avbench.distributed import current_world
from avbench.training.display import _speed_text
from avbench.training.monitor import Monitor, _across, _together, plotted
from tests.methods.steps import batch_of
from tests.processes import run_on_ranks

CPU = torch.device("cpu")


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
    """A GPU that has used so many millijoules."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.millijoules = 5_000_000

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: object) -> int:
        return self.millijoules

    def nvmlDeviceGetMemoryInfo(self, gpu: object) -> object:
        raise self.NVMLError


def test_a_gpus_energy_becomes_power_and_joules_a_clip(monkeypatch) -> None:
    nvml = _NVML()
    monkeypatch.setattr("avbench.training.monitor.pynvml", nvml)
    monkeypatch.setattr("avbench.training.monitor._open_gpu", lambda device: "the GPU")
    monitor = Monitor(CPU, world_size=1, writing_seconds=lambda: 0.0)
    for _ in monitor.watch(iter([batch_of(2), batch_of(3)])):
        nvml.millijoules += 10_000
    report = monitor.report()
    assert abs(report["joules_per_clip"] - 20.0 / 5) < 1e-9
    assert report["gpu_power_watts"] == report["joules_per_clip"] * report["clips_per_second"]
    assert "gpu_use_share" not in report  # NVML did not say


def test_the_display_says_processor_reading_and_power() -> None:
    speed = {"clips_per_second": 10.0, "data_wait_share": 0.0, "cpu_use_share": 0.5, "storage_bytes_per_second": 2.5e6}
    assert _speed_text(speed).endswith("CPU 50%, 2.5 MB/s read")
    assert "310 W, 0.41 J/clip" in _speed_text({**speed, "gpu_power_watts": 310.0, "joules_per_clip": 0.41})
    assert "read" not in _speed_text({**speed, "storage_bytes_per_second": 10.0})
