"""Fixtures shared by all tests."""

import multiprocessing
import os
from pathlib import Path

import pytest

# Spinning threads on shared cores are 15 times slower than one thread; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ranks of processes.py and workers of packing are forked from one server, so it must know at once what both import.
multiprocessing.set_forkserver_preload(["tests.preloaded"])

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("AVBENCH_TEST_DATA", REPOSITORY.parent / "shared"))


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"needs the folder {name} under AVBENCH_TEST_DATA")
    return path


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """A folder of real videos with labels.csv."""
    return _shared("clips")


@pytest.fixture(scope="session")
def annotations() -> Path:
    """A folder of published lists."""
    return _shared("annotations")


@pytest.fixture(scope="session")
def golden() -> Path:
    """A folder of numbers produced by published code."""
    return _shared("golden")


@pytest.fixture(scope="session")
def cases() -> Path:
    """A folder of small videos of odd kinds."""
    return _shared("cases")
