"""What networks compute in."""

from __future__ import annotations

import torch

from avbench.engine.config import Precision
from avbench.errors import UsageError


def pick_precision(wanted: Precision, device: torch.device) -> Precision:
    """What networks compute in; `auto` is bfloat16 where the processor has instructions for it, else float32.

    Raises UsageError for bfloat16 on a GPU that has none. A CPU without them emulates bf16, slowly: allowed when named.
    """
    if wanted == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    if wanted == "bfloat16" and device.type == "cuda" and not has_bfloat16(device):
        raise UsageError("precision is bfloat16, which this GPU does not have; use --precision float32")
    return wanted


def has_bfloat16(device: torch.device) -> bool:
    """Whether the processor computes in bf16 by itself (AVX512-BF16 or AMX on x86)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
