"""How fast a pass goes and where its time goes: clips/s, waiting for data, GPU by NVML, memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pynvml
import torch

from avbench.batch import Batch


class Monitor:
    """Counts clips and seconds between reports, and reads the GPU where there is one.

    world_size: ranks that take as many clips. device: what this rank computes on; on a GPU its use and memory are read
    by NVML (`pynvml`).
    """

    def __init__(self, device: torch.device, *, world_size: int) -> None:
        self._world_size = world_size
        self._gpu = _open_gpu(device)
        self._started = self._waited = 0.0
        self._clips = 0
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
            yield batch

    def report(self) -> dict[str, Any]:
        """Since the last report: clips a second over all ranks, share of time waiting for data; memory and GPU now."""
        now = time.perf_counter()
        elapsed = max(now - self._started, 1e-9)
        report = {
            "clips_per_second": self._clips / elapsed,
            "data_wait_share": self._waited / elapsed,
            # Linux counts the peak in KiB.
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            **self._read_gpu(),
        }
        self.restart()
        return report

    def restart(self) -> None:
        """Count from here: what went before was not training."""
        self._started, self._waited, self._clips = time.perf_counter(), 0.0, 0

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
