"""Rank, world size, reductions and all-to-all. With engine/ the only importer of torch.distributed.

Started by torchrun, the variables are RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; started by srun,
SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID with MASTER_ADDR and MASTER_PORT set by the job script. Alone, there is one
rank and no process group, and every function here works all the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from avbench.errors import AllDiverged, AvbenchError, Interrupted, RankLost, RunError, UsageError
from avbench.machine import usable_cores

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes what is written once."""
        return self.rank == 0


def world_from_environment() -> World:
    """Rank and world size from torchrun's variables or SLURM's; one rank where neither is set.

    Raises UsageError where they contradict each other or the address of rank 0 is missing.
    """
    names = (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if "RANK" in os.environ
        else ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    )
    # A shell inside `salloc` has SLURM_* of the allocation but is no task of a step.
    if names[0] not in os.environ or (names[0].startswith("SLURM") and "SLURM_STEP_ID" not in os.environ):
        return World()
    try:
        rank, size, local_rank = (int(os.environ.get(name, "0")) for name in names)
    except ValueError as error:
        raise UsageError(f"{', '.join(names)} must be whole numbers: {error}") from None
    if not 0 <= rank < max(size, 1):
        raise UsageError(f"{names[0]} is {rank} but {names[1]} is {size}; start with torchrun or srun, not by hand")
    if size > 1 and not (os.environ.get("MASTER_ADDR") and os.environ.get("MASTER_PORT")):
        raise UsageError(f"{names[1]} is {size} but MASTER_ADDR and MASTER_PORT are not set; see launch/README.md")
    return World(rank, max(size, 1), local_rank)


@contextmanager
def process_group(*, device: torch.device, timeout_seconds: float = 1800.0) -> Iterator[World]:
    """Join the process group that the environment describes (nccl on a GPU, gloo on a CPU), and leave it at the end."""
    world = world_from_environment()
    if world.size == 1:
        yield world
        return
    timeout = timedelta(seconds=timeout_seconds)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        store, *_ = next(dist.rendezvous("env://", world.rank, world.size, timeout=timeout))
        _refuse_a_shared_gpu(device, world, dist.PrefixStore("avbench/gpus", store))
        # With the device nccl connects now: what is wrong with the network shows here, not in the first step.
        joining: dict[str, Any] = {"backend": "nccl", "store": store, "device_id": device}
    else:
        joining = {"backend": "gloo"}
    dist.init_process_group(rank=world.rank, world_size=world.size, timeout=timeout, **joining)
    try:
        yield world
    except (AllDiverged, Interrupted):  # every rank's, at the same place
        dist.destroy_process_group()
        raise
    except RuntimeError as error:
        if not any(words in str(error) for words in _OF_A_LOST_RANK):
            raise
        first_line = str(error).strip().splitlines()[0]
        raise RankLost(
            f"rank {world.rank}: another rank is gone ({first_line}); what it printed says why. What was trained since "
            f"the last checkpoint is lost; go on with --resume"
        ) from error
    # Only at a good end: after an exception the others may be in a collective, and leaving would wait for them.
    dist.destroy_process_group()


def _refuse_a_shared_gpu(device: torch.device, world: World, store: dist.Store) -> None:
    """Raises UsageError, on every rank, where two compute on one GPU, as without Slurm's binding. A collective.

    store: by which the ranks find each other; nccl, which is not joined yet, would say it in its own words.
    """
    store.set(f"gpu of {world.rank}", str(torch.cuda.get_device_properties(device).uuid))
    of_ranks = [store.get(f"gpu of {rank}") for rank in range(world.size)]
    store.set(f"read by {world.rank}", "")
    if world.is_main:  # which holds the store, and would be gone with it
        store.wait([f"read by {rank}" for rank in range(world.size)])
    for identifier in of_ranks:
        sharing = [str(rank) for rank, each in enumerate(of_ranks) if each == identifier]
        if len(sharing) > 1:
            raise UsageError(
                f"ranks {', '.join(sharing)} would share one GPU; start at most one rank a GPU, each bound to its own "
                f"(srun --gpus-per-task=1 --gpu-bind=single:1), or hide them for CPU training: CUDA_VISIBLE_DEVICES="
            )


# What gloo and nccl say where a connection broke, each in a RuntimeError.
_OF_A_LOST_RANK = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited",
    "Connection refused",
)


def current_world() -> World:
    """This process in the joined process group; one rank where none was joined."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


def ranks_on_this_node() -> int:
    """How many ranks share the cores that this one may use, as torchrun, deepspeed or Slurm says; else one."""
    bound = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if bound.isdigit() and usable_cores() <= int(bound):
        return 1  # srun has bound cores to this task: they are its own
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"):
        if os.environ.get(name, "").isdigit():
            return max(int(os.environ[name]), 1)
    return 1


_thread = threading.local()


def current_group() -> Any | None:
    """The process group that this thread's collectives go over; None is the one that all joined."""
    return getattr(_thread, "group", None)


def open_group() -> Any | None:
    """A second process group over all ranks, on their CPUs (gloo); None where there is one rank. A collective.

    For a thread of its own, or for what must not wait behind the collectives of training: those of one group must come
    in one order on every rank, those of two need not.
    """
    return dist.new_group(backend="gloo") if current_world().size > 1 else None


@contextmanager
def over(group: Any | None) -> Iterator[None]:
    """Meanwhile this group is what this thread's `together`, `on_main`, `gather_objects`, `broadcast_object`, `barrier`
    and `all_to_all` go over; reductions do not.
    """
    before = current_group()
    _thread.group = group
    try:
        yield
    finally:
        _thread.group = before


class Flags:
    """Small numbers that any rank may raise and all ranks learn of at the same moment, without waiting for each other.

    An exchange that one `swap` starts is ended by the next, so between the two it costs nothing but is late by one.
    """

    def __init__(self) -> None:
        self._group = open_group()
        self._under_way: tuple[Any, Tensor] | None = None

    def swap(self, raised: Sequence[int]) -> list[int]:
        """Start to exchange what this rank raises; returns the largest of each over all ranks as of the last swap.

        raised: as many on every rank as ever; returned unchanged where there is one rank. A collective.
        """
        if self._group is None:
            return list(raised)
        agreed = self.wait() or [0] * len(raised)
        tensor = torch.tensor(raised, dtype=torch.int64)
        self._under_way = dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group, async_op=True), tensor
        return agreed

    def wait(self) -> list[int]:
        """End the exchange that is under way; what it said, nothing where there was none. A collective."""
        if self._under_way is None:
            return []
        (work, tensor), self._under_way = self._under_way, None
        work.wait()
        return tensor.tolist()


class Board:
    """Short texts that ranks pin up for each other, in the store by which they found each other.

    Not a collective: a rank that is stuck, or stopped, neither hinders the others nor is hindered. A connection of its
    own, so it may be used in another thread than training's.
    """

    def __init__(self, *, timeout_seconds: float = 10.0) -> None:
        self._store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=timeout_seconds),
        )

    def pin(self, rank: int, text: str) -> None:
        """Replace what the rank has pinned. Raises RuntimeError where the store does not answer."""
        self._store.set(f"avbench/{rank}", text)

    def read(self, rank: int) -> str:
        """What the rank has pinned; empty where it never has. Raises RuntimeError where the store does not answer."""
        key = f"avbench/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else ""


def barrier() -> None:
    """Wait until every rank is here."""
    if current_world().size > 1:
        dist.barrier(group=current_group())


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum of a tensor over ranks, as a new tensor; the tensor itself where there is one rank. A collective."""
    if current_world().size == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def gather_objects(value: T) -> list[T]:
    """Every rank's value, in rank order, on every rank. Small things only. A collective."""
    world = current_world()
    if world.size == 1:
        return [value]
    gathered: list[T] = [value] * world.size
    dist.all_gather_object(gathered, value, group=current_group())
    return gathered


def broadcast_object(value: T) -> T:
    """Rank 0's value, on every rank. Small things only. A collective."""
    if current_world().size == 1:
        return value
    held: list[T] = [value]
    dist.broadcast_object_list(held, src=0, group=current_group())
    return held[0]


def together(problem: str, action: Callable[[], T]) -> T:
    """What `action` gives on this rank; RunError on every rank where it fails on any, so that none waits for it.

    problem: begins the message where the operating system refused. A collective.
    """
    failure = None
    try:
        result = action()
    except AvbenchError as error:
        failure = str(error)
    except OSError as error:
        failure = f"{problem}: {error}"
    for first_failure in filter(None, gather_objects(failure)):
        raise RunError(first_failure)
    return result


def on_main(problem: str, action: Callable[[], T]) -> T:
    """What `action` gives on rank 0, which alone does it; where it fails, RunError on every rank. A collective."""
    result = together(problem, action if current_world().is_main else lambda: None)
    return broadcast_object(cast(T, result))


def all_to_all(outgoing: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Send `outgoing[r]` to rank r; returns what each rank sent here, in rank order. A collective.

    outgoing: one 1-D array a rank, any lengths, one dtype of fixed size (structured dtypes too). Only the bytes travel,
    so values arrive bit for bit.
    """
    world = current_world()
    if len(outgoing) != world.size:
        raise ValueError(f"all_to_all wants one array a rank, {world.size}, and got {len(outgoing)}")
    dtype = outgoing[0].dtype
    if world.size == 1:
        return [outgoing[0].copy()]
    group = current_group()
    device = torch.device("cuda") if dist.get_backend(group) == "nccl" else torch.device("cpu")
    sent_counts = torch.tensor([array.nbytes for array in outgoing], dtype=torch.int64, device=device)
    received_counts = torch.empty_like(sent_counts)
    dist.all_to_all_single(received_counts, sent_counts, group=group)
    sizes = received_counts.tolist()
    flat = np.concatenate([np.ascontiguousarray(array).view(np.uint8) for array in outgoing])
    received = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
    dist.all_to_all_single(received, torch.from_numpy(flat).to(device), sizes, sent_counts.tolist(), group=group)
    pieces = np.split(received.cpu().numpy(), np.cumsum(sizes)[:-1])
    return [piece.view(dtype) for piece in pieces]
