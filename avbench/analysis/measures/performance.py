"""How fast trainings ran, from the performance records of metrics.jsonl alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from avbench.analysis.measures.discrepancy import Floats

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of a performance record, and how it is told.

    together: what stands for all ranks: the record's own number, where that is a sum over them, or the mean or the
    highest of the ranks' numbers. scale: what the number is multiplied by to be shown, with so many `digits`.
    """

    name: str
    heading: str
    together: Literal["as written", "mean", "highest"]
    scale: float = 1.0
    digits: int = 1


QUANTITIES = (
    Quantity("clips_per_second", "clips/s", "as written"),
    Quantity("data_wait_share", "waiting for data (%)", "mean", 100),
    Quantity("gpu_use_share", "GPU use (%)", "mean", 100),
    Quantity("gpu_sm_activity_share", "GPU multiprocessors busy (%)", "mean", 100),
    Quantity("gpu_memory_bytes", "GPU memory (GiB)", "highest", 2**-30),
    Quantity("gpu_power_watts", "GPU power (W)", "as written", digits=0),
    Quantity("joules_per_clip", "J/clip", "as written", digits=2),
    Quantity("cpu_use_share", "CPU use (%)", "mean", 100),
    Quantity("peak_memory_bytes", "host memory (GiB)", "highest", 2**-30, 2),
    Quantity("storage_bytes_per_second", "read (MB/s)", "as written", 1e-6),
)

# What the figure shows, one panel below the other.
DRAWN = ("clips_per_second", "data_wait_share", "gpu_use_share")


@dataclass(frozen=True, slots=True)
class Speed:
    """Medians over the logging intervals that one training had with so many ranks.

    training: its run folder. rank: whose numbers these are; None for all ranks together. intervals: how many the
    medians are over. values: by Quantity.name, those that there are; of peak memory the last, since it only grows.
    slowest_rank: which was it most often, and how many times as long as the fastest rank's its step took; None of a
    single rank and for one rank's numbers.
    """

    training: str
    ranks: int
    rank: int | None
    intervals: int
    values: Mapping[str, float]
    slowest_rank: int | None = None
    slowest_over_fastest: float | None = None


# By Quantity.name, for each launch that had any (epochs, values), (M,) each: the end of each interval in epochs, with
# fraction, and the number.
Course = Mapping[str, Sequence[tuple[Floats, Floats]]]


def speeds(trainings: Mapping[str, Sequence[Record]]) -> tuple[Speed, ...]:
    """Of each training all ranks together and, where there are several, each rank; once for each number of ranks.

    trainings: per run folder its performance records. Of each launch the first interval is left out: the pipelines
    start in it, and the page cache may be cold.
    """
    found = []
    for training, records in trainings.items():
        intervals = [record for launch in _launches(records) for record in launch]
        for ranks in sorted({_ranks(record) for record in intervals}):
            alike = [record for record in intervals if _ranks(record) == ranks]
            found.append(_speed(training, alike, ranks=ranks, rank=None))
            found += [_speed(training, alike, ranks=ranks, rank=rank) for rank in range(ranks) if ranks > 1]
    return tuple(found)


def course(records: Sequence[Record]) -> Course:
    """What is DRAWN, over epochs, all ranks together; the first interval of each launch is left out."""
    batches = max((int(record["batch"]) for record in records), default=1)
    lines: dict[str, list[tuple[Floats, Floats]]] = {}
    for launch in _launches(records):
        for quantity in QUANTITIES:
            points = [
                (record["epoch"] + record["batch"] / batches, value)
                for record in launch
                if (value := _value(record, quantity, rank=None)) is not None
            ]
            if points and quantity.name in DRAWN:
                x, values = np.array(points, np.float64).T
                lines.setdefault(quantity.name, []).append((x, values * quantity.scale))
    return lines


def _launches(records: Sequence[Record]) -> list[list[Record]]:
    """The logging intervals of each launch without its first one; records of before-epoch passes are no intervals.

    Versions that did not count launches are taken for one.
    """
    launches: dict[int, list[Record]] = {}
    for record in records:
        if "clips_per_second" in record:
            launches.setdefault(record.get("launch", 1), []).append(record)
    return [intervals[1:] for intervals in launches.values()]


def _ranks(record: Record) -> int:
    return len(record.get("clips_per_second_by_rank", (None,)))


def _speed(training: str, records: Sequence[Record], *, ranks: int, rank: int | None) -> Speed:
    values = {}
    for quantity in QUANTITIES:
        numbers = [value for record in records if (value := _value(record, quantity, rank=rank)) is not None]
        if numbers:
            only_grows = quantity.name == "peak_memory_bytes"
            values[quantity.name] = max(numbers) if only_grows else float(np.median(numbers))
    slowest, ratio = (None, None) if rank is not None or ranks == 1 else _slowest(records)
    return Speed(training, ranks, rank, len(records), values, slowest, ratio)


def _value(record: Record, quantity: Quantity, *, rank: int | None) -> float | None:
    """None where the record does not say; numbers that are not finite are written as strings, and are none either."""
    of_ranks = record.get(f"{quantity.name}_by_rank")
    if rank is not None:
        return _number(of_ranks[rank]) if of_ranks is not None else None
    if quantity.together == "as written" or of_ranks is None:
        return _number(record.get(quantity.name))
    numbers = [number for value in of_ranks if (number := _number(value)) is not None]
    if not numbers:
        return None
    return max(numbers) if quantity.together == "highest" else math.fsum(numbers) / len(numbers)


def _slowest(records: Sequence[Record]) -> tuple[int | None, float | None]:
    named = [record for record in records if _number(record.get("fastest_step_seconds"))]
    if not named:
        return None, None
    ratios = [record["slowest_step_seconds"] / record["fastest_step_seconds"] for record in named]
    ((rank, _),) = Counter(record["slowest_rank"] for record in named).most_common(1)
    return rank, float(np.median(ratios))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
