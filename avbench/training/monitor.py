"""How fast a pass goes and where its time goes: clips/s, waiting for data, processor, reading, GPU by NVML, memory."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
import torch

from avbench.batch import Batch
from avbench.distributed import gather_objects, open_group, over, ranks_on_this_node
from avbench.machine import usable_cores
from avbench.training.nvml import Gpu

# What a rank says of itself and all of them together: the numbers are listed by rank where there are several.
_BY_RANK = (
    "clips_per_second",
    "data_wait_share",
    "gpu_data_wait_share",
    "cpu_use_share",
    "storage_bytes_per_second",
    "peak_memory_bytes",
    "gpu_use_share",
    "gpu_sm_activity_share",
    "gpu_memory_bytes",
    "gpu_power_watts",
    "joules_per_clip",
)
_TOTALS = ("clips_per_second", "cpu_cores_busy", "storage_bytes_per_second", "gpu_power_watts")
_IO = Path("/proc/self/io")
# TensorBoard draws a curve a rank of no more ranks than these; metrics.jsonl has them all.
_MOST_CURVES = 16


@dataclass(frozen=True, slots=True)
class _Counters:
    """What only grows while a process runs; the difference of two tells what was used between.

    cpu_seconds: user and system, of all threads. storage_bytes: that storage was asked for, memory-mapped pages
    included, what the page cache held not; None where the system does not say. gpu_joules: of the whole GPU; None
    without one, or where it does not count them.
    """

    cpu_seconds: float
    storage_bytes: int | None
    gpu_joules: float | None


class Monitor:
    """Counts clips and seconds between reports, and reads the GPU where there is one.

    world_size: ranks that take as many clips. device: what this rank computes on; on a GPU its use, memory and energy
    are read by NVML (`pynvml`). writing_seconds: how long checkpoints and confidences have been written beside training
    so far. stalled_seconds: how long the GPU has waited for data that this rank had been handed, since last asked.
    Making one is a collective.
    `no_gpu_numbers`: why those of the GPU are missing, where there is one; else empty.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        world_size: int,
        writing_seconds: Callable[[], float],
        stalled_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._world_size = world_size
        self._device = device
        self._writing_seconds, self._stalled_seconds = writing_seconds, stalled_seconds
        self.no_gpu_numbers = ""
        try:
            self._gpu = Gpu(device) if device.type == "cuda" else None
        except pynvml.NVMLError as error:
            self._gpu = None
            self.no_gpu_numbers = f"NVML does not answer ({error}): no GPU use, memory, power or joules a clip"
        self._started = self._waited = self._waited_for_others = 0.0
        self._clips = self._steps = 0
        self._written = 0.0
        self._group = open_group()  # among processors: numbers of theirs are no reason to wait for a GPU
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
            self._clips += len(batch)
            if self._gpu is not None:
                self._gpu.poll()
            self._steps += 1
            yield batch

    @contextmanager
    def waiting_for_others(self) -> Iterator[None]:
        """Time spent in here is no time of this rank's step: it waits until every rank has its batch."""
        begun = time.perf_counter()
        yield
        self._waited_for_others += time.perf_counter() - begun

    def report(self) -> dict[str, Any]:
        """Since the last report: clips a second over all ranks, shares of time and of cores, bytes read; memory now.

        cpu_cores_busy, storage_bytes_per_second, gpu_power_watts: summed over ranks. cpu_use_share: of the cores that
        are a rank's. joules_per_clip: of the GPUs alone, over all ranks. Where there are several, also the numbers of
        each rank by rank (`..._by_rank`, None where a rank lacks one), the slowest and the fastest one's seconds a step
        (without the waiting for data and for other ranks' data), the largest and least share of time waiting for data,
        and each machine's mean use of its GPUs. A collective, of a few numbers.
        """
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        own = self._own(elapsed)
        with over(self._group):
            ranks = gather_objects(own) if self._world_size > 1 else [own]
        report: dict[str, Any] = {
            **own,
            **_together(ranks),
            "checkpoint_writing_share": (self._writing_seconds() - self._written) / elapsed,
        }
        if self._world_size > 1:
            report.update(_across(ranks, self._machines))
            report.update(
                {
                    f"{name}_by_rank": [of_rank.get(name) for of_rank in ranks]
                    for name in _BY_RANK
                    if any(name in of_rank for of_rank in ranks)
                }
            )
        self.restart()
        return report

    def _own(self, elapsed: float) -> dict[str, Any]:
        """What this rank says of itself; what it cannot know is left out."""
        now, before = self._counters(), self._before
        working = elapsed - self._waited - self._waited_for_others
        cpu_cores_busy = (now.cpu_seconds - before.cpu_seconds) / elapsed
        own = {
            "clips_per_second": self._clips / elapsed,
            "step_seconds": working / max(self._steps, 1),
            "data_wait_share": self._waited / elapsed,
            "cpu_cores_busy": cpu_cores_busy,
            "cpu_use_share": cpu_cores_busy * ranks_on_this_node() / usable_cores(),
            # Linux counts the peak in KiB.
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            **(self._gpu.report() if self._gpu is not None else {}),
        }
        if self._device.type == "cuda":
            # What `data_wait_share` does not see: the processor goes on with a batch that is still being decoded.
            own["gpu_data_wait_share"] = self._stalled_seconds() / elapsed
        if now.storage_bytes is not None and before.storage_bytes is not None:
            own["storage_bytes_per_second"] = (now.storage_bytes - before.storage_bytes) / elapsed
        if now.gpu_joules is not None and before.gpu_joules is not None:
            joules = now.gpu_joules - before.gpu_joules
            own["gpu_power_watts"] = joules / elapsed
            own["joules_per_clip"] = joules / max(self._clips, 1)
        return own

    def restart(self) -> None:
        """Count from here: what went before was not training."""
        self._started = time.perf_counter()
        self._waited = self._waited_for_others = 0.0
        self._clips = self._steps = 0
        self._written = self._writing_seconds()
        if self._gpu is not None:
            self._gpu.restart()
        self._before = self._counters()

    def _counters(self) -> _Counters:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return _Counters(used.ru_utime + used.ru_stime, _storage_bytes(), self._gpu.joules if self._gpu else None)


def plotted(report: dict[str, Any]) -> dict[str, float]:
    """A report as curves: `clips_per_second`, and by rank `clips_per_second_by_rank/0` and so on."""
    curves: dict[str, float] = {}
    for name, value in report.items():
        if isinstance(value, list):
            curves |= {f"{name}/{rank}": one for rank, one in enumerate(value[:_MOST_CURVES]) if one is not None}
        else:
            curves[name] = value
    return curves


def _together(ranks: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The ranks' numbers that add up, added up; the joules of a clip are those of all GPUs over all clips."""
    totals = {
        name: sum(of_rank.get(name, 0.0) for of_rank in ranks)
        for name in _TOTALS
        if any(name in of_rank for of_rank in ranks)
    }
    if "gpu_power_watts" in totals and totals["clips_per_second"] > 0:
        totals["joules_per_clip"] = totals["gpu_power_watts"] / totals["clips_per_second"]
    return totals


def _storage_bytes() -> int | None:
    """Bytes that this process made the system read from storage so far."""
    try:
        fields = dict(line.split(": ") for line in _IO.read_text().splitlines())
        return int(fields["read_bytes"])
    except (OSError, KeyError, ValueError):
        return None  # no such accounting in this kernel, or not for us to read


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
