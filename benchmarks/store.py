"""What does the ConfidenceStore cost an epoch, and what would it cost a billion clips on a thousand ranks?

    python benchmarks/store.py [--json FILE]                       200 thousand, 20 million and 200 million clips
    python benchmarks/store.py --clips 20000000 --rounds 5         one size

On real processes joined by gloo on this machine, for each number of clips N: every rank records its slices of an epoch
whose order is shuffled (`--batch-size` clips a call, as a training step does), with no exchange before the epoch's end,
which is the worst case. Then:

* exchange: what was recorded goes to the ranks that own the clips.
* commit: the epoch is folded into the totals; in every second epoch its history is written too (Parquet, to the disk).
* save, load: 32 bytes a clip to a file a rank, flushed to the disk; and back, most likely from the page cache.

Timed: from a barrier to the end of the call, on every rank; shown are wall time of the slowest rank and, in brackets,
CPU time (user and system, all threads) of the busiest, medians over rounds of two epochs, a save and a load. Other work
moves CPU time least. `record` is the sum of the calls. Not timed: making up the numbers. The first exchange, which also
touches the memory of the rows for the first time, counts as any other. Memory: the most that a rank ever held by the
kernel's count (VmHWM) over what it held once all was imported and the process group joined. Sent: bytes to other ranks
in one exchange.

Extrapolation, all of it computed from what was measured in the same run (`--target-clips`, `--target-ranks`):

* CPU time and memory of a rank hang on N / W alone: between measured sizes they are interpolated, beyond the largest
  they grow in proportion to N / W, below the smallest they are the smallest's.
* An exchange takes, beside, CPU time a round, as much as one of a single clip a rank takes here, times W / (ranks
  here), for a round is some messages to every other rank; too much, since part of it has nothing to do with messages.
  Rounds: N / W over the values that a block holds.
* The bytes that leave a rank go through `--network-gbit` each way. Those of a save and a load of all ranks go through
  `--storage-gbyte` together. What a step does not overlap with another: their times are added up.
* Not in it: latency (a round's messages are under way together), connections (gloo joins every rank with every other,
  which a thousand ranks will not want; NCCL does not), and ranks that wait for a slow one.

Answer: benchmarks/README.md.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing
import tyro
from rich.console import Console
from rich.table import Table

from avbench.benchmarking.results import run_script, write_results
from avbench.confidence import store as store_module
from avbench.confidence.store import PENDING_BYTES, ROW, ConfidenceStore
from avbench.distributed import all_to_all, barrier, current_world, process_group
from avbench.errors import UsageError

PHASES = ("record", "exchange", "commit", "commit with history", "save", "load")
PACKAGES = ("torch", "numpy", "pyarrow", "xxhash")
ALLOWED_OVER_ROWS = 200e6  # the requirement: most memory of a rank over the imports, beside 32 bytes x N / W
_BATCHES_AT_ONCE = 256  # made up at a time
_SMALL_EXCHANGES = 50


@dataclass(frozen=True)
class Config:
    """What to measure.

    clips: sizes N, ascending. ranks: processes on this machine. batch_size: clips that a rank records at a time.
    rounds: of two epochs, a save and a load. buffer_mib: of the exchange. network_gbit: of each rank, a second and way;
    storage_gbyte: of all ranks together, a second. json: where to write the results.
    """

    clips: tuple[int, ...] = (200_000, 20_000_000, 200_000_000)
    ranks: int = 2
    batch_size: int = 64
    rounds: int = 3
    buffer_mib: int = 64
    target_clips: int = 1_000_000_000
    target_ranks: tuple[int, ...] = (8, 64, 1000)
    network_gbit: float = 25.0
    storage_gbyte: float = 10.0
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print two tables, write JSON."""
    if list(config.clips) != sorted(set(config.clips)):
        raise UsageError(f"--clips {' '.join(map(str, config.clips))}: expected ascending sizes")
    console = Console()
    results = []
    for clips in config.clips:
        with tempfile.TemporaryDirectory() as folder:
            refuse_what_does_not_fit(clips, config, Path(folder))
            with console.status(f"{clips:,} clips on {config.ranks} ranks"):
                results.append(measured(clips, config, Path(folder)))
    console.print(measured_table(results, config))
    forecasts = [forecast(results, ranks, config) for ranks in config.target_ranks]
    console.print(forecast_table(forecasts, config))
    write_results(config, **about(), results=results, forecasts=forecasts)


def refuse_what_does_not_fit(clips: int, config: Config, folder: Path) -> None:
    """UsageError where memory or disk would run out."""
    memory = clips * (ROW.itemsize + PENDING_BYTES) + config.ranks * (config.buffer_mib << 20) + config.ranks * 400e6
    disk = clips * (4 + 2 * ROW.itemsize + 8)  # the order, two saves for a moment, an epoch's history
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    for what, needed, there in (
        ("memory", memory, int(line.split()[1]) * 1024),
        (f"space in {folder.parent}", disk, shutil.disk_usage(folder).free),
    ):
        if needed > there:
            raise UsageError(
                f"{clips:,} clips need {needed / 1e9:.1f} GB of {what}, there is {there / 1e9:.1f} GB: use --clips"
            )


# Measuring


def measured(clips: int, config: Config, folder: Path) -> dict[str, Any]:
    """One size on fresh processes: medians over rounds, the slowest, busiest or largest rank of each."""
    order = np.arange(clips, dtype=np.uint32)
    np.random.default_rng(0).shuffle(order)
    order.tofile(folder / "order")
    del order
    torch.multiprocessing.start_processes(
        measure_rank, (clips, config, folder, free_port()), nprocs=config.ranks, start_method="spawn"
    )
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(config.ranks)]

    def median_of_worst(phase: str, kind: int) -> float:
        by_round = zip(*(rank["phases"][phase] for rank in ranks), strict=True)
        return statistics.median(max(times[kind] for times in of_ranks) for of_ranks in by_round)

    return {
        "clips": clips,
        "ranks": config.ranks,
        "wall_seconds": {phase: median_of_worst(phase, 0) for phase in PHASES},
        "cpu_seconds": {phase: median_of_worst(phase, 1) for phase in PHASES},
        "peak_bytes": max(rank["peak_bytes"] for rank in ranks),
        "sent_bytes": max(rank["sent_bytes"] for rank in ranks),
        "block_values": ranks[0]["block_values"],
        "saved_bytes": ranks[0]["saved_bytes"],
        "history_bytes": ranks[0]["history_bytes"],
        "small_exchange_seconds": max(rank["small_exchange_seconds"] for rank in ranks),
        "of_ranks": ranks,
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measure_rank(rank: int, clips: int, config: Config, folder: Path, port: int) -> None:
    """Body of one rank's process; writes its measurements."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(config.ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    with process_group(device=torch.device("cpu")):
        barrier()
        held = memory_bytes("VmRSS")
        result = rounds_of(clips, config, folder)
        result["peak_bytes"] = memory_bytes("VmHWM") - held
        (folder / f"rank{rank}.json").write_text(json.dumps(result))


def rounds_of(clips: int, config: Config, folder: Path) -> dict[str, Any]:
    """All rounds of one rank: (wall, CPU) seconds of each phase, bytes sent and written."""
    phases: dict[str, list[tuple[float, float]]] = {phase: [] for phase in PHASES}
    sent = count_bytes_sent()
    store = ConfidenceStore(clips, modality="audio", seed=0, buffer_bytes=config.buffer_mib << 20)
    for number in range(config.rounds):
        for phase, history in (("commit", None), ("commit with history", folder / "history")):
            store.history = history
            phases["record"].append(record_epoch(store, config, folder / "order"))
            sent.clear()
            phases["exchange"].append(timed(store.exchange))
            sent_bytes = sum(sent)
            phases[phase].append(timed(lambda: store.commit(store.epochs)))
        phases["save"].append(timed(lambda: store.save(folder / "saved")))
        store.history = None
        phases["load"].append(timed(lambda: store.load(folder / "saved")))
        history_bytes = size_of(folder / "history") // (number + 1)
    return {
        "phases": phases,
        "sent_bytes": sent_bytes,
        "block_values": store.block_values,
        "saved_bytes": size_of(folder / "saved"),
        "history_bytes": history_bytes,
        "small_exchange_seconds": small_exchange_seconds(store),
    }


def record_epoch(store: ConfidenceStore, config: Config, order: Path) -> tuple[float, float]:
    """Record this rank's slice of every batch of an epoch; (wall, CPU) seconds of the calls."""
    wall = cpu = 0.0
    position = 0
    barrier()
    for clips, floats, correct in slices(store, config, order):
        wall_before, cpu_before = time.perf_counter(), cpu_seconds()
        for start in range(0, len(clips), config.batch_size):
            stop = start + config.batch_size
            store.record(clips[start:stop], floats[start:stop], correct[start:stop], position=position)
            position += 1
        wall += time.perf_counter() - wall_before
        cpu += cpu_seconds() - cpu_before
    return wall, cpu


def slices(store: ConfidenceStore, config: Config, order: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Clip ids, confidences and correctness of this rank's slices, of many batches at a time."""
    world = store.world
    generator = np.random.default_rng([store.epochs, world.rank])
    with order.open("rb") as file:
        while len(batches := np.fromfile(file, np.uint32, _BATCHES_AT_ONCE * world.size * config.batch_size)):
            places = np.arange(len(batches)) // config.batch_size % world.size
            clips = batches[places == world.rank].astype(np.int64)
            floats = generator.random(len(clips), np.float32)
            yield clips, floats, floats > 0.5


def count_bytes_sent() -> list[int]:
    """A list to which every all-to-all of the stores in this process adds the bytes that it sends to other ranks."""
    sent: list[int] = []

    def counting(outgoing: Sequence[np.ndarray]) -> list[np.ndarray]:
        sent.extend(piece.nbytes for rank, piece in enumerate(outgoing) if rank != current_world().rank)
        return all_to_all(outgoing)

    store_module.all_to_all = counting
    return sent


def small_exchange_seconds(store: ConfidenceStore) -> float:
    """CPU seconds of an exchange of one clip a rank, mean of many; leaves the open epoch dirty."""
    seconds = []
    for position in range(_SMALL_EXCHANGES):
        store.record(np.array([position % store.clips]), np.array([0.5]), np.array([True]), position=position)
        seconds.append(timed(store.exchange)[1])
    return statistics.mean(seconds)


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds of a collective, which all ranks begin together."""
    barrier()
    wall, cpu = time.perf_counter(), cpu_seconds()
    action()
    return time.perf_counter() - wall, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """User and system time of this process, all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory_bytes(field: str) -> int:
    """A line of /proc/self/status. (The peak that getrusage tells begins with that of the parent process.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def size_of(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir())


# Extrapolating


def forecast(results: Sequence[dict[str, Any]], ranks: int, config: Config) -> dict[str, Any]:
    """What `target_clips` on so many ranks would take, by the model in the docstring."""
    owned = config.target_clips / ranks
    measured_at = [result["clips"] / result["ranks"] for result in results]
    largest = results[-1]

    def of_rank(values: Sequence[float]) -> float:
        if owned > measured_at[-1]:
            return values[-1] * owned / measured_at[-1]
        return float(np.interp(owned, measured_at, values))

    cpu = {phase: of_rank([result["cpu_seconds"][phase] for result in results]) for phase in PHASES}
    # Of what a rank records, 1 / W is its own: the rest leaves.
    sent_here = largest["sent_bytes"] / measured_at[-1]
    leaving = (1 - 1 / ranks) / (1 - 1 / largest["ranks"]) if largest["ranks"] > 1 else 1 - 1 / ranks
    sent = sent_here * leaving * owned
    rounds = math.ceil(owned / largest["block_values"])
    round_seconds = statistics.median(result["small_exchange_seconds"] for result in results) * ranks / config.ranks
    saved = largest["saved_bytes"] / largest["clips"] * config.target_clips
    disk = saved / (config.storage_gbyte * 1e9)
    return {
        "clips": config.target_clips,
        "ranks": ranks,
        "clips_a_rank": owned,
        "rounds": rounds,
        "exchange_seconds": {
            "processor": cpu["exchange"],
            "rounds": rounds * round_seconds,
            "network": sent / (config.network_gbit * 1e9 / 8),
        },
        "commit_seconds": cpu["commit"],
        "commit_with_history_seconds": cpu["commit with history"],
        "save_seconds": cpu["save"] + disk,
        "load_seconds": cpu["load"] + disk,
        "sent_bytes": sent,
        "peak_bytes": of_rank([result["peak_bytes"] for result in results]),
        "saved_bytes": saved,
    }


# Showing


def measured_table(results: Sequence[dict[str, Any]], config: Config) -> Table:
    """A column a size."""
    title = f"{config.ranks} ranks, {config.batch_size} clips a call of record, medians of {config.rounds} rounds"
    table = Table(title=title, title_justify="left")
    table.add_column("wall s (CPU s)")
    for result in results:
        table.add_column(f"{result['clips']:,} clips", justify="right")
    for phase in PHASES:
        times = [(result["wall_seconds"][phase], result["cpu_seconds"][phase]) for result in results]
        table.add_row(phase, *(f"{wall:.3f} ({cpu:.3f})" for wall, cpu in times))
    allowed = [ROW.itemsize * result["clips"] / result["ranks"] + ALLOWED_OVER_ROWS for result in results]
    for name, sizes in (
        ("sent, MB a rank", [result["sent_bytes"] for result in results]),
        ("peak, MB a rank", [result["peak_bytes"] for result in results]),
        ("  32 N / W + 200 MB", allowed),
        ("saved, MB in all", [result["saved_bytes"] for result in results]),
        ("history, MB an epoch", [result["history_bytes"] for result in results]),
    ):
        table.add_row(name, *(f"{size / 1e6:,.1f}" for size in sizes))
    return table


def forecast_table(forecasts: Sequence[dict[str, Any]], config: Config) -> Table:
    """A column a number of ranks."""
    title = f"{config.target_clips:,} clips by the model; {config.network_gbit:g} Gbit/s, {config.storage_gbyte:g} GB/s"
    table = Table(title=title, title_justify="left")
    table.add_column("seconds")
    for row in forecasts:
        table.add_column(f"{row['ranks']:,} ranks", justify="right")
    exchanges = [row["exchange_seconds"] for row in forecasts]
    for name, values in (
        ("exchange", [sum(exchange.values()) for exchange in exchanges]),
        *((f"  of it {part}", [exchange[part] for exchange in exchanges]) for part in exchanges[0]),
        ("commit", [row["commit_seconds"] for row in forecasts]),
        ("commit with history", [row["commit_with_history_seconds"] for row in forecasts]),
        ("save", [row["save_seconds"] for row in forecasts]),
        ("load", [row["load_seconds"] for row in forecasts]),
        ("sent, MB a rank", [row["sent_bytes"] / 1e6 for row in forecasts]),
        ("peak memory, MB a rank", [row["peak_bytes"] / 1e6 for row in forecasts]),
    ):
        table.add_row(name, *(f"{value:,.2f}" for value in values))
    return table


def about() -> dict[str, Any]:
    """What a result means nothing without."""
    return {
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
