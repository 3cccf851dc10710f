"""What this machine has: cores, memory, GPUs, and the versions of what is installed."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pynvml

# Whose versions numbers may hang on.
PACKAGES = (
    "avbench",
    "torch",
    "torchaudio",
    "torchvision",
    "nvidia-dali-cuda120",
    "deepspeed",
    "webdataset",
    "numpy",
    "scipy",
    "pyarrow",
    "av",
    "soundfile",
    "simplejpeg",
)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Python's version, and those of packages, by PyPI name, that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def describe(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Processor, cores, memory, GPUs, load and versions, for JSON. packages: others whose versions count, by PyPI name.

    `gpus` is empty, and `why_no_gpu` says why, where NVML has none. `load` is the mean number of running processes in
    the minute before: beyond the benchmark's own, others were at work.
    """
    gpus, why_not = _gpus()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor_name(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load": round(os.getloadavg()[0], 1),
        "gpus": gpus,
        **({"why_no_gpu": why_not} if why_not else {}),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions((*PACKAGES, *packages)),
    }


def summary(machine: dict[str, Any]) -> str:
    """`describe`'s result in one line for a table's title."""
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    memory = machine["memory_bytes"] / 2**30
    return f"{machine['processor']}, {machine['cores']} cores, {memory:.0f} GiB, {gpus}, load {machine['load']}"


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model; its architecture where the system does not say."""
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _gpus() -> tuple[list[dict[str, Any]], str | None]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], f"NVML: {error}"
    driver = pynvml.nvmlSystemGetDriverVersion()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    return [
        {
            "name": pynvml.nvmlDeviceGetName(handle),
            "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            "driver": driver,
        }
        for handle in handles
    ], None
