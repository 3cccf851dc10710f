"""Runs a function on real ranks: processes of their own, joined in a gloo process group, for any test.

    def total(number):
        return sum_over_ranks(torch.tensor(number)).item()

    assert run_on_ranks(3, total, 2) == [6, 6, 6]

The function and its arguments are pickled, so the function is one of a module, not a closure. Processes are forked from
one server that has imported torch already, so that a rank starts in some 20 ms and not in 2 s. The rendezvous store is
the parent's, the way torchrun does it, so no port has to be guessed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from avbench.distributed import process_group

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the server starts: it imports torch once for all (conftest.py)
_CONTEXT = multiprocessing.get_context("forkserver")

# After the first failure the other ranks get this long to fail by themselves, so that their tracebacks are seen too.
GRACE_SECONDS = 5.0


class RanksFailed(AssertionError):  # noqa: N818  a statement, as assertions are
    """Some ranks raised, died or did not end in time. `causes`: rank -> last line of what happened."""

    def __init__(self, causes: dict[int, str], text: str) -> None:
        super().__init__(text)
        self.causes = causes


def run_on_ranks(
    world_size: int,
    function: Callable[..., Any],
    *arguments: Any,
    timeout_seconds: float = 120.0,
    environment: dict[str, str] | None = None,
    is_joined: bool = True,
) -> list[Any]:
    """`function(*arguments)` on every rank at once; the results in rank order.

    environment: variables set in every rank beside RANK and its kin. is_joined: within a process group; without, the
    function makes its own, as commands do. Raises RanksFailed, with every rank's traceback
    and what it printed, where one raises, dies ("killed by SIGKILL") or is not done after `timeout_seconds`.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    variables = {
        **os.environ,
        **(environment or {}),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        # The two by which torchrun tells its workers that the store is not theirs to open.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, f"rank{rank}.log") for rank in range(world_size)]
        processes, connections = [], []
        for rank in range(world_size):
            ours, theirs = _CONTEXT.Pipe(duplex=False)
            ranked = {**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = _CONTEXT.Process(
                target=_rank,
                args=(theirs, ranked, logs[rank], timeout_seconds if is_joined else None, function, arguments),
            )
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
        outcomes = _collect(processes, connections, timeout_seconds)
        failures = {rank: text for rank, (text, _) in enumerate(outcomes) if text}
        if failures:
            text = "\n".join(_describe(rank, failure, logs[rank]) for rank, failure in failures.items())
            raise RanksFailed({rank: failure.strip().splitlines()[-1] for rank, failure in failures.items()}, text)
    return [result for _, result in outcomes]


def avbench_on_ranks(world_size: int, *words: str, timeout_seconds: float = 600.0) -> None:
    """`avbench WORDS` on ranks that share nothing but their rendezvous, without torchrun; raises as run_on_ranks does.

    A rank under torchrun takes seconds to import what the server has: launch/ and faults are tried under torchrun,
    what ranks compute is not.
    """
    run_on_ranks(world_size, _avbench, words, timeout_seconds=timeout_seconds, is_joined=False)


def _avbench(words: tuple[str, ...]) -> None:
    from avbench.cli import main

    main([*words])


def _rank(
    connection: Connection,
    variables: dict[str, str],
    log: Path,
    timeout_seconds: float | None,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Body of one rank's process: sends ("", result) or (traceback, None)."""
    os.environ.update(variables)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    try:
        cpu, seconds = torch.device("cpu"), timeout_seconds
        with nullcontext() if seconds is None else process_group(device=cpu, timeout_seconds=seconds):
            outcome = ("", function(*arguments))
    except BaseException:
        outcome = (traceback.format_exc(), None)
    connection.send(outcome)
    connection.close()


def _collect(
    processes: Sequence[BaseProcess], connections: Sequence[Connection], timeout_seconds: float
) -> list[tuple[str, Any]]:
    """Every rank's (failure text, result), in rank order; no process is left behind."""
    outcomes: dict[int, tuple[str, Any]] = {}
    deadline = time.monotonic() + timeout_seconds
    try:
        while len(outcomes) < len(processes) and (left := deadline - time.monotonic()) > 0:
            waiting = [rank for rank in range(len(processes)) if rank not in outcomes]
            ready = wait([connections[rank] for rank in waiting], timeout=left)
            for rank in (rank for rank in waiting if connections[rank] in ready):
                outcomes[rank] = _received(connections[rank], processes[rank])
                if outcomes[rank][0]:
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    finally:
        for rank, process in enumerate(processes):
            if rank in outcomes:
                process.join(GRACE_SECONDS)
            process.kill()
            process.join()
            connections[rank].close()
    return [outcomes.get(rank, ("did not end in time", None)) for rank in range(len(processes))]


def _received(connection: Connection, process: BaseProcess) -> tuple[str, Any]:
    try:
        return connection.recv()
    except EOFError:  # it died without a word
        process.join()
        code = process.exitcode or 0
        return (f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}", None)


def _describe(rank: int, failure: str, log: Path) -> str:
    printed = log.read_text(errors="replace")[-4000:] if log.exists() else ""
    return f"--- rank {rank}\n{failure.rstrip()}" + (f"\n--- rank {rank} printed\n{printed}" if printed else "")
