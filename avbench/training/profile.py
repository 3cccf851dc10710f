"""A trace of a few training steps, and in words what they spend their time on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from avbench.batch import Batch

WAITING = "avbench: waiting for data"
"""What the trace calls the time that a step waits for its batch."""
_WARM_UP_STEPS = 2  # the first ones choose kernels and fill caches
_SHOWN = 3

# In words, what an operation belongs to: the first of these whose mark is in its name or in that of anything it is a
# part of. So what an optimizer adds is the optimizer's.
_COSTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("waiting for data", (WAITING,)),
    ("optimizer", ("Optimizer.step",)),
    ("exchange between ranks", ("c10d::", "nccl", "gloo", "DistributedDataParallel")),
    ("random numbers", ("aten::normal_", "aten::uniform_", "aten::random_", "aten::bernoulli_")),
    ("convolutions, backward", ("aten::convolution_backward",)),
    ("convolutions, forward", ("aten::conv2d", "aten::convolution")),
    ("batch norm", ("batch_norm",)),
    ("pooling", ("pool2d",)),
    ("linear layers", ("aten::linear", "aten::addmm", "aten::mm")),
    ("copies and conversions", ("aten::copy_", "aten::_to_copy", "aten::to")),
    ("arithmetic element by element", ("aten::",)),
)
_OTHER = "Python and what else there is"


class Profiler:
    """Traces some training steps of this rank with torch.profiler, once. A context manager.

    path: the Chrome JSON to write. steps: how many; 0: none. say: is told of the largest costs. What is between epochs
    is never traced, so a trace that an epoch's end cuts off holds fewer steps.
    """

    def __init__(self, path: Path, *, steps: int, device: torch.device, say: Callable[[str], None]) -> None:
        self._path = path
        self._wanted = steps
        self._device = device
        self._say = say
        self._warm_up = _WARM_UP_STEPS
        self._traced = 0
        self._trace: profile | None = None

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._trace is not None:
            self._finish()

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches of an epoch's steps; a step goes from asking for its batch to asking for the next."""
        while True:
            self._begin_step()
            with record_function(WAITING):
                batch = next(batches, None)
            if batch is None:
                if self._trace is not None:
                    self._finish()
                return
            yield batch

    def _begin_step(self) -> None:
        if self._trace is not None:
            self._traced += 1
            if self._traced == self._wanted:
                self._finish()
        elif self._wanted and self._warm_up > 0:
            self._warm_up -= 1
        elif self._wanted:
            self._trace = _new_profile(self._device)
            self._trace.start()

    def _finish(self) -> None:
        assert self._trace is not None
        trace, self._trace = self._trace, None
        wanted, self._wanted = self._wanted, 0
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        trace.stop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        trace.export_chrome_trace(str(self._path))
        of = (
            f"{self._traced} steps" if self._traced == wanted else f"{self._traced} of {wanted} steps (the epoch ended)"
        )
        costs = costs_of(trace.events() or (), on_gpu=self._device.type == "cuda")
        self._say(f"profile of {of}: {in_words(costs)}; for https://ui.perfetto.dev: {self._path}")


def costs_of(events: Iterable[Any], *, on_gpu: bool) -> dict[str, float]:
    """Seconds by what they were spent on, the most first: of all traced threads, or of the GPU's kernels.

    events: of torch.profiler. Each operation counts without what it calls. Waiting for data is the processor's time in
    both.
    """
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type != DeviceType.CPU:  # a kernel: the operation that launched it counts it
            continue
        cost = _cost_of(event)
        is_waiting = cost == _COSTS[0][0]
        microseconds = event.self_device_time_total if on_gpu and not is_waiting else event.self_cpu_time_total
        seconds[cost] += microseconds / 1e6
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def in_words(costs: Mapping[str, float]) -> str:
    """The largest costs with their shares."""
    total = max(sum(costs.values()), 1e-12)
    largest = sorted(costs.items(), key=lambda item: -item[1])[:_SHOWN]
    return ", ".join(f"{name} {seconds / total:.0%} ({seconds:.2f} s)" for name, seconds in largest)


def _cost_of(event: Any) -> str:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    for cost, marks in _COSTS:
        if any(mark in name for name in names for mark in marks):
            return cost
    return _OTHER


def _new_profile(device: torch.device) -> profile:
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    # On a CPU runs are trained side by side, in threads of their own.
    threads = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    return profile(activities=activities, experimental_config=threads, acc_events=True)
