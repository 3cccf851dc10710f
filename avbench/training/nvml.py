"""What NVML says of one GPU between two moments: use, how full its multiprocessors are, memory, energy."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pynvml
import torch

# The driver keeps the newest samples alone, of several a second for some twenty seconds.
_POLL_SECONDS = 5.0
# Of GPM, which Hopper and later have: how much of the GPU works, where NVML's "use" counts any kernel alike.
_GPM_METRICS = {
    "gpu_sm_activity_share": pynvml.NVML_GPM_METRIC_SM_UTIL,
    "gpu_sm_occupancy_share": pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    "gpu_tensor_share": pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
}


class Gpu:
    """Counts from `restart` on. Raises NVMLError where NVML cannot be asked of the device; later it only says less.

    device: a GPU of torch's.
    """

    def __init__(self, device: torch.device) -> None:
        pynvml.nvmlInit()
        self._handle = handle_of(device)
        self._samples = _Samples(self._handle)
        self._gpm = _Gpm(self._handle)

    @property
    def joules(self) -> float | None:
        """Energy of the GPU since its driver was loaded; None where it has no counter, as before Volta."""
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3  # NVML counts millijoules
        except pynvml.NVMLError:
            return None

    def restart(self) -> None:
        """Forget what was before."""
        self._samples.restart()
        self._gpm.take()

    def poll(self) -> None:
        """To be called often: takes in what the driver sampled before it forgets, every few seconds."""
        self._samples.poll()

    def report(self) -> dict[str, Any]:
        """Shares since `restart`, in [0, 1], and bytes now, by name; what the GPU does not tell is left out.

        gpu_use_share: of time in which any kernel ran, the mean of the driver's samples. gpu_sm_activity_share: of the
        multiprocessors that were busy, on average over time; gpu_sm_occupancy_share: of the warps that they could hold;
        gpu_tensor_share: of time on tensor cores.
        """
        said: dict[str, Any] = {}
        with suppress(pynvml.NVMLError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
            said |= {"gpu_memory_bytes": int(memory.used), "gpu_memory_total_bytes": int(memory.total)}
        with suppress(pynvml.NVMLError):
            said["gpu_use_share"] = self._samples.mean_share()
        return said | self._gpm.shares()


def handle_of(device: torch.device) -> Any:
    """NVML's handle of one of torch's GPUs, or of a part of one (MIG). Raises NVMLError."""
    # By UUID: CUDA_VISIBLE_DEVICES renumbers torch's devices, never NVML's. Torch gives it without the prefix.
    identifier = torch.cuda.get_device_properties(device).uuid
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identifier}")
    except pynvml.NVMLError as error:
        with suppress(pynvml.NVMLError):
            return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{identifier}")
        raise error


class _Samples:
    """The driver's samples of how much of its last sixth of a second, or second, a GPU ran some kernel."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._newest = 0  # microseconds, by the driver's clock
        self._sum = self._count = 0
        self._polled = 0.0
        self.restart()

    def restart(self) -> None:
        self._take()
        self._sum = self._count = 0

    def poll(self) -> None:
        if time.monotonic() - self._polled >= _POLL_SECONDS:
            self._take()

    def mean_share(self) -> float:
        """Raises NVMLError where the GPU has no samples."""
        self._take()
        if self._count:
            return self._sum / self._count / 100.0
        # Too soon for a new one: the one before is of just now.
        return float(pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu) / 100.0

    def _take(self) -> None:
        self._polled = time.monotonic()
        with suppress(pynvml.NVMLError):  # not found: none since
            _, samples = pynvml.nvmlDeviceGetSamples(self._handle, pynvml.NVML_GPU_UTILIZATION_SAMPLES, self._newest)
            fresh = [sample for sample in samples if sample.timeStamp > self._newest]
            self._sum += sum(sample.sampleValue.uiVal for sample in fresh)
            self._count += len(fresh)
            self._newest = max((sample.timeStamp for sample in fresh), default=self._newest)


class _Gpm:
    """GPU performance monitoring: counters of which the difference between two moments says what was in between."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._parent: Any = None  # of a part of a GPU, whose number then is
        self._part = 0
        self._is_there = self._is_begun = False
        with suppress(pynvml.NVMLError):
            if pynvml.nvmlDeviceIsMigDeviceHandle(handle):
                self._part = pynvml.nvmlDeviceGetGpuInstanceId(handle)
                self._parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            whole = handle if self._parent is None else self._parent
            if pynvml.nvmlGpmQueryDeviceSupport(whole).isSupportedDevice:
                self._before, self._after = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
                self._is_there = True

    def take(self) -> None:
        """Count from here."""
        self._is_begun = False
        if self._is_there:
            with suppress(pynvml.NVMLError):
                self._sample(self._before)
                self._is_begun = True

    def shares(self) -> dict[str, float]:
        """Since `take`, by name."""
        if not (self._is_there and self._is_begun):
            return {}
        with suppress(pynvml.NVMLError):
            self._sample(self._after)
            asked = pynvml.c_nvmlGpmMetricsGet_t()
            asked.version = pynvml.NVML_GPM_METRICS_GET_VERSION
            asked.sample1, asked.sample2 = self._before, self._after
            asked.numMetrics = len(_GPM_METRICS)
            for place, metric in enumerate(_GPM_METRICS.values()):
                asked.metrics[place].metricId = metric
            pynvml.nvmlGpmMetricsGet(asked)
            return {
                name: asked.metrics[place].value / 100.0
                for place, name in enumerate(_GPM_METRICS)
                if asked.metrics[place].nvmlReturn == pynvml.NVML_SUCCESS
            }
        return {}

    def _sample(self, sample: Any) -> None:
        if self._parent is None:
            pynvml.nvmlGpmSampleGet(self._handle, sample)
        else:
            pynvml.nvmlGpmMigSampleGet(self._parent, self._part, sample)
