"""The tensors of a checkpoint: found in nested states, copied, shared out among ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_TENSOR = "the tensor"  # the one key of a dictionary that stands for a tensor


def copies(tensors: Mapping[str, Tensor], *, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, in memory of the last ones where it fits; from a GPU by way of page-locked memory."""
    copies = {}
    for name, tensor in tensors.items():
        copy = kept.get(name)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)
        copies[name] = copy.copy_(tensor.detach(), non_blocking=True)
    if any(tensor.is_cuda for tensor in tensors.values()):
        torch.cuda.current_stream().synchronize()
    return copies


def take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value with each tensor moved to `tensors` and its name, wrapped, in its place."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {key: take_tensors(item, f"{name}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [take_tensors(item, f"{name}/{number}", tensors) for number, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The reverse of `take_tensors`."""
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: put_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(put_tensors(item, tensors) for item in value)
    return value


def share_of(tensors: Mapping[str, Tensor], rank: int, ranks: int) -> list[str]:
    """Names of the tensors that a rank copies and writes, of those that all ranks have; about as many bytes each."""
    filled = [0] * ranks
    share = []
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].numel() * item[1].element_size(), item[0])):
        least = filled.index(min(filled))
        filled[least] += max(tensor.numel() * tensor.element_size(), 1)
        if least == rank:
            share.append(name)
    return share
