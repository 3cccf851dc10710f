"""Cores near a GPU, by a made-up sysfs."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from avbench.dataset import Dataset
from avbench.loading.cores import cores_near, parse_cores
from avbench.loading.loader import Loader
from avbench.loading.presets import preset
from tests.synthetic import make_dataset

GPU = torch.device("cuda", 0)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nodes of four cores, a GPU at the second; this process may use all eight."""
    files = {
        "devices/system/cpu/online": "0-7",
        "bus/pci/devices/0001:3b:00.0/numa_node": "1",
        "devices/system/node/node0/cpulist": "0-1,4-5",
        "devices/system/node/node1/cpulist": "2-3,6-7",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    gpu = SimpleNamespace(pci_domain_id=1, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    return tmp_path


def test_the_cores_of_the_gpus_node_are_found(system: Path) -> None:
    near = cores_near(GPU, system=system)
    assert near.cores == {2, 3, 6, 7}
    assert near.text == "loader threads keep to the 4 cores of NUMA node 1, which GPU 0001:3b:00.0 is at"


def test_what_a_launcher_has_bound_stays_so(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    near = cores_near(GPU, system=system)
    assert near.cores is None and "the 3 cores that the launcher gave" in near.text


@pytest.mark.parametrize("node", ["-1", "", None])
def test_where_the_node_is_not_known_nothing_is_pinned(system: Path, node: str | None) -> None:
    file = system / "bus/pci/devices/0001:3b:00.0/numa_node"
    file.unlink() if node is None else file.write_text(node)
    near = cores_near(GPU, system=system)
    assert near.cores is None and "the NUMA node of GPU 0001:3b:00.0 is not known" in near.text


def test_lists_of_cores_are_read_as_linux_writes_them() -> None:
    assert parse_cores("0-3,8,10-11\n") == {0, 1, 2, 3, 8, 10, 11}
    with pytest.raises(ValueError, match="invalid literal"):
        parse_cores("")


def test_the_loaders_threads_keep_to_its_cores_and_no_other_thread_does(tmp_path: Path) -> None:
    data = Dataset(make_dataset(tmp_path / "data", clips={"train": 8}, seconds=1.0))
    before = os.sched_getaffinity(0)
    core = max(before)
    known = {task.name for task in Path("/proc/self/task").iterdir()}
    loader = Loader(
        data,
        data.clip_ids("train"),
        preset=preset("tiny"),
        batch_size=4,
        seed=0,
        training=True,
        threads=2,
        cores=[core],
    )
    batches = loader.epoch(0)
    next(batches)
    (worker,) = [thread for thread in threading.enumerate() if thread.name == "avbench-loader"]
    started = [task.name for task in Path("/proc/self/task").iterdir() if task.name not in known]
    assert str(worker.native_id) in started and len(started) >= 3  # DALI's own among them
    assert all(os.sched_getaffinity(int(task)) == {core} for task in started)
    assert os.sched_getaffinity(0) == before
    loader.close()
