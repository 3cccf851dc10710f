"""The trace of a few steps, and what is said of it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F

from avbench.batch import Batch
from avbench.training.profile import WAITING, Profiler, costs_of, in_words
from tests.methods.steps import batch_of

CPU = torch.device("cpu")


def train(path: Path, *, steps: int, batches: int) -> tuple[list[str], int]:
    """Steps of a convolution in another thread, as runs side by side take them; what was said, and of steps taken."""
    said: list[str] = []
    kernel = torch.nn.Parameter(torch.randn(32, 32, 3, 3))
    optimizer = torch.optim.SGD([kernel], lr=0.1)

    def step() -> None:
        F.conv2d(torch.ones(8, 32, 32, 32), kernel).square().mean().backward()
        optimizer.step()

    taken = 0
    with Profiler(path, steps=steps, device=CPU, say=said.append) as profiler, ThreadPoolExecutor(1) as pool:
        for _ in profiler.watch(iter_of(batches)):
            pool.submit(step).result()
            taken += 1
    return said, taken


def iter_of(batches: int) -> Iterator[Batch]:
    return iter([batch_of(2)] * batches)


def names_in(path: Path) -> list[str]:
    return [event["name"] for event in json.loads(path.read_text())["traceEvents"] if "name" in event]


def test_a_trace_holds_the_steps_asked_for_and_its_costs_are_said_in_words(tmp_path: Path) -> None:
    path = tmp_path / "profile" / "rank-0.json"
    (said,), taken = train(path, steps=3, batches=8)
    assert taken == 8
    names = names_in(path)
    assert sum(name.startswith("Optimizer.step") for name in names) == 3
    assert names.count(WAITING) == 3
    assert names.count("aten::convolution_backward") == 3  # of another thread
    assert said.startswith("profile of 3 steps: convolutions, ") and said.endswith(str(path))
    assert said.count(" s)") == 3


def test_a_trace_ends_with_the_epoch_and_says_so(tmp_path: Path) -> None:
    (said,), _ = train(tmp_path / "trace.json", steps=10, batches=5)
    assert said.startswith("profile of 3 of 10 steps (the epoch ended)")
    assert sum(name.startswith("Optimizer.step") for name in names_in(tmp_path / "trace.json")) == 3


def test_nothing_is_traced_unasked(tmp_path: Path) -> None:
    assert train(tmp_path / "trace.json", steps=0, batches=4) == ([], 4)
    assert not (tmp_path / "trace.json").exists()


class Event:
    def __init__(self, name: str, microseconds: float, parent: "Event | None" = None, *, device: float = 0.0) -> None:
        self.name, self.cpu_parent = name, parent
        self.self_cpu_time_total, self.self_device_time_total = microseconds, device
        self.device_type = torch.autograd.DeviceType.CPU


def test_what_a_part_costs_belongs_to_the_whole_that_asked_for_it() -> None:
    optimizer = Event("Optimizer.step#SGD.step", 1e6)
    events = [
        optimizer,
        Event("aten::add_", 2e6, optimizer, device=5e6),
        Event("aten::add_", 3e6, device=1e6),
        Event(WAITING, 4e6),
        Event("a run", 5e5),
    ]
    assert costs_of(events, on_gpu=False) == {
        "waiting for data": 4.0,
        "optimizer": 3.0,
        "arithmetic element by element": 3.0,
        "Python and what else there is": 0.5,
    }
    assert costs_of(events, on_gpu=True) == {
        "optimizer": 5.0,
        "waiting for data": 4.0,
        "arithmetic element by element": 1.0,
        "Python and what else there is": 0.0,
    }
    assert in_words({"a": 3.0, "b": 1.0, "c": 0.5, "d": 0.5}) == "a 60% (3.00 s), b 20% (1.00 s), c 10% (0.50 s)"
