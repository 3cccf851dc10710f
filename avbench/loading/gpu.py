"""What of a GPU decoding hangs on: a driver that DALI can use, and an engine for JPEG."""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pynvml
import torch

from avbench.errors import UsageError

DALI_CUDA = 12  # the major version of CUDA that nvidia-dali-cuda120 is built for
JPEG_ENGINE_SHARE = 0.0
"""Of a batch, what is decoded by a GPU's engine for JPEG. 0: nothing, all is decoded by its cores. With a share between
0 and 1 two decoders, which round differently, would take turns by a picture's place in the batch, and that hangs on the
number of ranks."""
_OLDEST_DRIVER = "525"  # of CUDA 12
_WAY_OUT = "update the driver, or train on the CPU with CUDA_VISIBLE_DEVICES= (empty)"


def check_driver() -> None:
    """Raises UsageError where the driver is older than DALI's CUDA; one that NVML cannot tell of is let pass."""
    try:
        pynvml.nvmlInit()
        cuda, driver = pynvml.nvmlSystemGetCudaDriverVersion_v2(), pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return
    if cuda // 1000 < DALI_CUDA:
        raise UsageError(
            f"driver {driver} is for CUDA {cuda // 1000}.{cuda % 1000 // 10}, and DALI needs one for CUDA {DALI_CUDA} "
            f"({_OLDEST_DRIVER} or newer); {_WAY_OUT}"
        )


def why_unused() -> str:
    """Why a GPU that is here is not used by torch, in a line; empty where there is none, or it is hidden on purpose."""
    if torch.cuda.is_available() or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ""
    try:
        pynvml.nvmlInit()
        count, driver = pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return ""
    if not count:
        return ""
    if torch.version.cuda is None:
        reason = f"this torch, {torch.__version__}, was built without CUDA; install one with it"
    else:
        reason = (
            f"torch {torch.__version__} cannot use it with driver {driver}: it wants one for CUDA {torch.version.cuda}"
        )
    return f"everything runs on the CPU although there is a GPU: {reason}"


def jpeg_engines(device: torch.device) -> int | None:
    """How many engines for JPEG a GPU has. None where nvJPEG does not say."""
    try:
        with torch.cuda.device(device):
            return _engines(ctypes.CDLL(str(_nvjpeg())))
    except (OSError, AttributeError):  # no such library, or one older than the question
        return None


def jpeg_text(engines: int | None, *, share: float = JPEG_ENGINE_SHARE) -> str:
    """By what a GPU decodes JPEG, in words. share: see JPEG_ENGINE_SHARE."""
    if not share:
        spared = f"its {engines} JPEG engine(s) unused, " if engines else ""
        return f"by its cores, {spared}so that a picture is the same on every card and at every place in a batch"
    if engines is None:
        return "nvJPEG does not say whether this GPU has an engine for JPEG; without one its cores decode"
    return f"by {engines} JPEG engine(s)" if engines else "by its cores, beside training: it has no engine for JPEG"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU had not enough memory, as torch or DALI says it."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "CUDA allocation failed" in said or "bytes on device" in said


def first_line(error: RuntimeError) -> str:
    """What an error says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _nvjpeg() -> Path:
    """The library that DALI decodes with. Raises OSError where there is none."""
    spec = find_spec("nvidia.nvjpeg")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for library in (library for folder in folders for library in Path(folder, "lib").glob("libnvjpeg.so*")):
        return library
    raise OSError("no libnvjpeg.so")


def _engines(nvjpeg: Any) -> int | None:
    """By nvjpegGetHardwareDecoderInfo, which says 0 where there is none. Every call returns 0 for success."""
    handle, engines, cores = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint()
    if nvjpeg.nvjpegCreateSimple(ctypes.byref(handle)):
        return None
    try:
        failed = nvjpeg.nvjpegGetHardwareDecoderInfo(handle, ctypes.byref(engines), ctypes.byref(cores))
        return None if failed else engines.value
    finally:
        nvjpeg.nvjpegDestroy(handle)
