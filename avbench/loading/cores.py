"""Which cores lie near a GPU: decoding threads keep to them, so that no clip crosses the link between two sockets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_SYSTEM = Path("/sys")


@dataclass(frozen=True, slots=True)
class Nearby:
    """cores: of the GPU's NUMA node, None where nothing is to be pinned. text: what was found, for whoever watches."""

    cores: frozenset[int] | None
    text: str


def cores_near(device: torch.device, *, system: Path = _SYSTEM) -> Nearby:
    """The cores of a GPU's NUMA node that this process may use; None with the reason where they are not known, or
    where a launcher has bound the process already: it knows of the other ranks. system: where sysfs is mounted.
    """
    gpu: Any = torch.cuda.get_device_properties(device)
    address = f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0"
    allowed = os.sched_getaffinity(0)
    try:
        online = parse_cores((system / "devices/system/cpu/online").read_text("ascii"))
        if allowed < online:
            return Nearby(None, f"loader threads stay on the {len(allowed)} cores that the launcher gave")
        node = int((system / "bus/pci/devices" / address / "numa_node").read_text("ascii"))
        if node < 0:
            return Nearby(None, f"loader threads run on any core: the NUMA node of GPU {address} is not known")
        cores = parse_cores((system / f"devices/system/node/node{node}/cpulist").read_text("ascii")) & allowed
    except (OSError, ValueError) as error:
        return Nearby(None, f"loader threads run on any core: the NUMA node of GPU {address} is not known ({error})")
    if not cores:
        return Nearby(None, f"loader threads run on any core: NUMA node {node} of GPU {address} has none")
    return Nearby(
        cores, f"loader threads keep to the {len(cores)} cores of NUMA node {node}, which GPU {address} is at"
    )


def parse_cores(text: str) -> frozenset[int]:
    """Numbers of a list as Linux has it: `0-3,8,10-11`. Raises ValueError."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)
