"""Ranks, reductions and all-to-all, with real processes."""

import os
import signal
import time

import numpy as np
import pytest
import torch

from avbench.distributed import (
    World,
    all_to_all,
    barrier,
    broadcast_object,
    current_world,
    gather_objects,
    process_group,
    ranks_on_this_node,
    sum_over_ranks,
    world_from_environment,
)
from avbench.errors import UsageError
from tests.processes import RanksFailed, run_on_ranks

VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID"),
    *("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE", "SLURM_CPUS_PER_TASK"),
)
ADDRESS = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
PAIR = np.dtype([("clip", "<u4"), ("confidence", "<f4"), ("position", "<u4")])


@pytest.fixture
def environment(monkeypatch):
    """Sets exactly these of the variables that say rank and world size."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def setter(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return setter


def test_alone_there_is_one_rank_and_no_process_group(environment):
    assert world_from_environment() == World(0, 1, 0)
    with process_group(device=torch.device("cpu")) as world:
        assert world == current_world() == World(0, 1, 0)
        assert world.is_main
        assert not torch.distributed.is_initialized()
        assert sum_over_ranks(torch.tensor([1.5])).tolist() == [1.5]
        assert gather_objects("a") == ["a"]
        assert broadcast_object("a") == "a"
        barrier()
        assert [array.tolist() for array in all_to_all([np.arange(3)])] == [[0, 1, 2]]


def test_torchruns_variables_say_rank_and_world_size(environment):
    environment(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", **ADDRESS)
    assert world_from_environment() == World(rank=5, size=8, local_rank=1)
    assert not world_from_environment().is_main


def test_slurms_variables_say_rank_and_world_size_inside_a_job_step(environment):
    environment(SLURM_PROCID="3", SLURM_NTASKS="4", SLURM_LOCALID="1", SLURM_STEP_ID="0", **ADDRESS)
    assert world_from_environment() == World(rank=3, size=4, local_rank=1)


def test_a_shell_inside_an_allocation_is_alone(environment):
    environment(SLURM_PROCID="0", SLURM_NTASKS="4", SLURM_LOCALID="0", **ADDRESS)
    assert world_from_environment() == World()


def test_torchruns_variables_win_over_slurms(environment):
    environment(
        RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", SLURM_PROCID="0", SLURM_NTASKS="1", SLURM_STEP_ID="0", **ADDRESS
    )
    assert world_from_environment() == World(1, 2, 1)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2", **ADDRESS}, "RANK is 2 but WORLD_SIZE is 2"),
        ({"RANK": "one", "WORLD_SIZE": "2", **ADDRESS}, "RANK, WORLD_SIZE, LOCAL_RANK must be whole numbers"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}, "SLURM_NTASKS is 2 but MASTER_ADDR"),
    ],
)
def test_contradicting_variables_are_refused(environment, variables, message):
    environment(**variables)
    with pytest.raises(UsageError, match=message):
        world_from_environment()


@pytest.mark.parametrize(
    ("variables", "ranks"),
    [
        ({}, 1),
        ({"LOCAL_WORLD_SIZE": "4"}, 4),  # torchrun
        ({"LOCAL_SIZE": "4"}, 4),  # deepspeed
        ({"SLURM_NTASKS_PER_NODE": "4"}, 4),
        ({"SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "1"}, 4),  # this process may use more: nothing is bound
        ({"SLURM_NTASKS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "2"}, 1),
    ],
)
def test_ranks_that_share_cores_are_counted(environment, monkeypatch, variables, ranks):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    environment(**variables)
    assert ranks_on_this_node() == ranks


def _collectives():
    """What every collective gives on this rank, as plain values."""
    world = current_world()
    ragged = [np.arange(100 * world.rank + 10 * to, 100 * world.rank + 10 * to + to) for to in range(world.size)]
    odd = np.zeros(world.rank, PAIR)
    odd["clip"], odd["confidence"], odd["position"] = 2**32 - 1, np.nan, np.arange(world.rank)
    summand = torch.tensor([2.0**world.rank, 1.0], dtype=torch.float64)
    total = sum_over_ranks(summand)
    barrier()
    return {
        "world": world,
        "sum": total.tolist(),
        "summand": summand.tolist(),
        "gathered": gather_objects({"rank": world.rank}),
        "broadcast": broadcast_object(f"from {world.rank}"),
        "ragged": [array.tolist() for array in all_to_all(ragged)],
        "every other": [array.tolist() for array in all_to_all([np.arange(6)[::2] + world.rank] * world.size)],
        "odd": [array.tobytes() for array in all_to_all([odd] * world.size)],
        "nothing": [len(array) for array in all_to_all([np.empty(0, PAIR)] * world.size)],
    }


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_collectives_give_hand_computed_values(ranks):
    for rank, got in enumerate(run_on_ranks(ranks, _collectives)):
        assert got["world"] == World(rank, ranks, rank if ranks > 1 else 0)
        assert got["sum"] == [2.0**ranks - 1, ranks]
        assert got["summand"] == [2.0**rank, 1.0], "the summand itself is left alone"
        assert got["gathered"] == [{"rank": source} for source in range(ranks)]
        assert got["broadcast"] == "from 0"
        # Source s sends rank r the r numbers from 100 s + 10 r on: nothing at all to rank 0.
        first = [100 * source + 10 * rank for source in range(ranks)]
        assert got["ragged"] == [list(range(start, start + rank)) for start in first]
        assert got["every other"] == [[source, source + 2, source + 4] for source in range(ranks)]
        nan_pairs = [[(2**32 - 1, np.nan, position) for position in range(source)] for source in range(ranks)]
        assert got["odd"] == [np.array(pairs, PAIR).tobytes() for pairs in nan_pairs]
        assert got["nothing"] == [0] * ranks


def _too_few():
    with pytest.raises(ValueError, match="one array a rank, 2, and got 1"):
        all_to_all([np.arange(3)])


def test_all_to_all_wants_one_array_a_rank():
    run_on_ranks(2, _too_few)


def _fail(how):
    if current_world().rank == 1:
        if how == "raise":
            raise LookupError("no such thing on rank 1")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        print("rank 1 is asleep", flush=True)
        time.sleep(60)
    return "well"


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("raise", "LookupError: no such thing on rank 1"),
        ("kill", "killed by SIGKILL"),
        ("sleep", "did not end in time"),
    ],
)
def test_a_rank_that_fails_is_shown_and_the_others_end(how, cause):
    with pytest.raises(RanksFailed) as failed:
        run_on_ranks(2, _fail, how, timeout_seconds=5.0 if how == "sleep" else 60.0)
    assert failed.value.causes[1] == cause
    assert "--- rank 1" in str(failed.value)
    assert ("rank 1 is asleep" in str(failed.value)) == (how == "sleep")
