"""A pool whose workers die without a word says where that was, and goes on with others."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import pytest

from avbench.packing.workers import (
    OUT_OF_MEMORY,
    TOO_LONG,
    Pool,
    WorkerDied,
    died_text,
    run_tasks,
)
from tests.conftest import REPOSITORY
from tests.packing.make_video import make_labelled_folder

UNITS = 3


def work(task, beat):
    """A task of three units; (what, unit) is what happens in which."""
    what, at = task
    for unit in range(UNITS):
        beat()
        if unit == at:
            _happen(what)
    beat.rest()
    if what == "after":
        os._exit(3)
    return task


def _happen(what):
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "crash":
        ctypes.string_at(0)
    if what == "hang":
        time.sleep(1000)
    if what == "memory":
        raise MemoryError
    if what == "error":
        raise ValueError("a mistake")


def outcomes(tasks, *, workers, unit_seconds=60.0):
    found = {}
    waiting = list(enumerate(tasks))
    with Pool(work, workers=workers, unit_seconds=unit_seconds) as pool:
        while len(found) < len(tasks):
            while pool.is_free and waiting:
                pool.start(*waiting.pop(0))
            found.update({ended.number: ended for ended in pool.ended()})
    return [found[number] for number in range(len(tasks))]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_that_dies_is_replaced_and_it_is_known_what_it_was_at(workers):
    ways = ["fine", "kill", "crash", "memory", "after", "fine"]
    tasks = [(way, number % UNITS) for number, way in enumerate(ways)]
    found = outcomes(tasks, workers=workers)
    assert [one.result for one in found] == [task if task[0] == "fine" else None for task in tasks]
    deaths = [(one.death.unit, one.death.begun, one.death.cause) for one in found if one.death]
    assert deaths == [(1, 2, "SIGKILL"), (2, 3, "SIGSEGV"), (0, 1, OUT_OF_MEMORY), (None, 3, "status 3")]


def test_a_unit_may_not_take_longer_than_it_is_given():
    slow, fine = outcomes([("hang", 1), ("fine", 0)], workers=2, unit_seconds=1.0)
    assert (slow.death.unit, slow.death.cause) == (1, TOO_LONG) and fine.result == ("fine", 0)


def test_a_worker_that_is_killed_while_it_waits_is_replaced():
    with Pool(work, workers=1) as pool:
        pool.start(0, ("fine", 0))
        while not pool.ended():
            pass
        os.kill(pool._places[0]._process.pid, signal.SIGKILL)
        found = []
        pool.start(1, ("fine", 1))
        while not found:
            found = pool.ended()
    (one,) = found
    assert one.number == 1 and (one.result == ("fine", 1) or one.death.unit is None)


def test_run_tasks_raises_what_a_task_raises_with_its_place_and_says_where_a_worker_died():
    with pytest.raises(ValueError, match="a mistake") as caught:
        list(run_tasks(work, [("fine", 0), ("error", 1)], units=[UNITS] * 2, workers=2, title="", unit=""))
    assert "in _happen" in str(caught.value.__cause__)
    with pytest.raises(WorkerDied) as died:
        list(run_tasks(work, [("fine", 0), ("kill", 1)], units=[UNITS] * 2, workers=2, title="", unit=""))
    assert died.value.begun == {1: 2}
    assert died_text("reading", []) == "a reading process was killed or crashed (out of memory?) at its start"


SCRIPT = """
from pathlib import Path
from avbench.packing.pack import pack
from avbench.packing.recipes.recipe import Recipe
pack(Recipe(short_side=32, val_fraction=0.0, test_fraction=0.0), Path("media"), out=Path("out"), workers=1)
"""


def test_a_script_without_a_guard_ends_at_once_and_says_what_it_lacks(tmp_path):
    make_labelled_folder(tmp_path / "media", {"a": "x", "b": "y"})
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 1
    assert "needs `if __name__ == '__main__':` around it" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("at its start (status 1); the lines above say why")
