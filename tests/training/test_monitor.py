"""What a pass says of its speed, and of its ranks'."""

import time

import torch

from avbench.batch import Batch
from avbench.distributed import current_world
from avbench.training.display import _speed_text
from avbench.training.monitor import Monitor, _across
from tests.methods.steps import batch_of
from tests.processes import run_on_ranks

CPU = torch.device("cpu")


def test_the_slowest_and_the_fastest_rank_and_each_machines_gpus_are_named() -> None:
    ranks = [
        {"step_seconds": 0.2, "data_wait_share": 0.5, "gpu_use_share": 0.4},
        {"step_seconds": 0.4, "data_wait_share": 0.1, "gpu_use_share": 0.8},
        {"step_seconds": 0.3, "data_wait_share": 0.0, "gpu_use_share": 0.9},
        {"step_seconds": 0.1, "data_wait_share": 0.2},
    ]
    assert _across(ranks, ["a", "a", "b", "c"]) == {
        "slowest_rank": 1,
        "slowest_step_seconds": 0.4,
        "fastest_rank": 3,
        "fastest_step_seconds": 0.1,
        "most_waiting_rank": 0,
        "most_data_wait_share": 0.5,
        "least_data_wait_share": 0.0,
        "gpu_use_share_of_a": (0.4 + 0.8) / 2,
        "gpu_use_share_of_b": 0.9,
    }


def test_the_display_names_a_rank_that_lags() -> None:
    speed = {"clips_per_second": 10.0, "data_wait_share": 0.0, "slowest_rank": 2, "fastest_rank": 0}
    lags = _speed_text({**speed, "slowest_step_seconds": 0.4, "fastest_step_seconds": 0.1})
    assert lags.endswith("rank 2 takes 4.0 times as long as rank 0")
    assert "rank" not in _speed_text({**speed, "slowest_step_seconds": 0.11, "fastest_step_seconds": 0.1})


def watch() -> dict[str, float]:
    """Rank 1 works longer on each of four batches, and rank 0 waits for it."""
    monitor = Monitor(CPU, world_size=2, writing_seconds=lambda: 0.0)
    batches: list[Batch] = [batch_of(2)] * 4
    for _ in monitor.watch(iter(batches)):
        time.sleep(0.3 if current_world().rank == 1 else 0.05)
        with monitor.waiting_for_others():
            torch.distributed.barrier()
    return monitor.report()


def test_waiting_for_others_is_no_rank_s_own_time() -> None:
    reports = run_on_ranks(2, watch)
    for report in reports:
        assert report["slowest_rank"] == 1 and report["fastest_rank"] == 0
        assert report["slowest_step_seconds"] > 0.3 > report["fastest_step_seconds"] > 0.05
    assert reports[0]["clips_per_second"] < 2 * 2 * 4 / 1.2 + 1
