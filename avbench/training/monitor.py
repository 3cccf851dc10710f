"""How fast a pass goes and where its time goes: clips/s, waiting for data, GPU by NVML, memory."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pynvml
import torch

from avbench.batch import Batch
from avbench.distributed import gather_objects


class Monitor:
    """Counts clips and seconds between reports, and reads the GPU where there is one.

    world_size: ranks that take as many clips. device: what this rank computes on; on a GPU its use and memory are read
    by NVML (`pynvml`). writing_seconds: how long checkpoints have been written beside training so far. Making one is a
    collective.
    """

    def __init__(self, device: torch.device, *, world_size: int, writing_seconds: Callable[[], float]) -> None:
        self._world_size = world_size
        self._writing_seconds = writing_seconds
        self._gpu = _open_gpu(device)
        self._started = self._waited = self._waited_for_others = 0.0
        self._clips = self._steps = 0
        self._written = 0.0
        self._machines = gather_objects(socket.gethostname())
        self.restart()

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, with the time spent waiting for each counted."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            self._clips += len(batch) * self._world_size  # slices differ by one clip at most
            self._steps += 1
            yield batch

    @contextmanager
    def waiting_for_others(self) -> Iterator[None]:
        """Time spent in here is no time of this rank's step: it waits until every rank has its batch."""
        begun = time.perf_counter()
        yield
        self._waited_for_others += time.perf_counter() - begun

    def report(self) -> dict[str, Any]:
        """Since the last report: clips a second over all ranks, share of time waiting for data; memory and GPU now.

        Where there are several ranks, also the slowest and the fastest one's seconds a step (without the waiting for
        data and for other ranks' data), the largest and least share of time waiting for data, and each machine's mean
        use of its GPUs. A collective, of a few numbers.
        """
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        working = elapsed - self._waited - self._waited_for_others
        own = {
            "step_seconds": working / max(self._steps, 1),
            "data_wait_share": self._waited / elapsed,
            **self._read_gpu(),
        }
        report = {
            "clips_per_second": self._clips / elapsed,
            "checkpoint_writing_share": (self._writing_seconds() - self._written) / elapsed,
            # Linux counts the peak in KiB.
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            **own,
        }
        if self._world_size > 1:
            report.update(_across(gather_objects(own), self._machines))
        self.restart()
        return report

    def restart(self) -> None:
        """Count from here: what went before was not training."""
        self._started = time.perf_counter()
        self._waited = self._waited_for_others = 0.0
        self._clips = self._steps = 0
        self._written = self._writing_seconds()

    def _read_gpu(self) -> dict[str, Any]:
        if self._gpu is None:
            return {}
        # A GPU that stops answering NVML is no reason to stop training on it.
        with suppress(pynvml.NVMLError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(self._gpu)
            return {
                "gpu_use_share": pynvml.nvmlDeviceGetUtilizationRates(self._gpu).gpu / 100.0,
                "gpu_memory_bytes": int(memory.used),
                "gpu_memory_total_bytes": int(memory.total),
            }
        return {}


def _across(ranks: Sequence[dict[str, Any]], machines: Sequence[str]) -> dict[str, Any]:
    """What the ranks' numbers say of their differences; each rank's machine by name."""
    seconds = [of_rank["step_seconds"] for of_rank in ranks]
    waits = [of_rank["data_wait_share"] for of_rank in ranks]
    across: dict[str, Any] = {
        "slowest_rank": seconds.index(max(seconds)),
        "slowest_step_seconds": max(seconds),
        "fastest_rank": seconds.index(min(seconds)),
        "fastest_step_seconds": min(seconds),
        "most_waiting_rank": waits.index(max(waits)),
        "most_data_wait_share": max(waits),
        "least_data_wait_share": min(waits),
    }
    for machine in sorted(set(machines)):
        uses = [
            of_rank["gpu_use_share"]
            for of_rank, name in zip(ranks, machines, strict=True)
            if name == machine and "gpu_use_share" in of_rank
        ]
        if uses:
            across[f"gpu_use_share_of_{machine}"] = sum(uses) / len(uses)
    return across


def _open_gpu(device: torch.device) -> Any | None:
    if device.type != "cuda":
        return None
    try:
        pynvml.nvmlInit()
        # By UUID: CUDA_VISIBLE_DEVICES renumbers torch's devices, never NVML's.
        identifier = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return pynvml.nvmlDeviceGetHandleByUUID(identifier)
    except pynvml.NVMLError:
        return None
