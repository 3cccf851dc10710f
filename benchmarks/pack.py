"""How fast do videos become shards, and what of it is decoding?

    python benchmarks/pack.py VIDEOS [--json FILE]      (a folder with labels.csv, as `avbench pack folder` takes it)

`avbench bench pack` runs it too. The folder's first `clips` clips are packed with one worker and with one a core, at
the folder recipe's defaults (FLAC at 48 kHz, a picture a second, shorter side 256), into a temporary folder. Timed: the
whole of `pack`, from the list to the finished dataset, worker processes' start included; wall time, and CPU time of the
process and of its finished children. Floor: the same videos, every packet of sound and pictures decoded by PyAV
(FFmpeg's own decoders) on one thread, and nothing done with them.

Answer: benchmarks/RESULTS.md.
"""

from __future__ import annotations

import csv
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Annotated, Any

import av
import tyro
from rich.console import Console
from rich.table import Table

from avbench.benchmarking.results import run_script, write_results
from avbench.errors import RecipeError
from avbench.machine import describe, summary, usable_cores
from avbench.packing.pack import pack
from avbench.packing.recipes.reading import load_recipe


@dataclass(frozen=True)
class Config:
    """What to measure. media: videos with labels.csv. clips: of them, at most. json: where to write the results."""

    media: Annotated[Path, tyro.conf.Positional]
    clips: int = 20
    rounds: int = 1
    json: Path | None = None


def main(config: Config) -> None:
    """Measure, print a table, write JSON."""
    machine = describe()
    cores = usable_cores()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        videos = some_of(config.media, Path(folder) / "videos", config.clips)
        for number in range(config.rounds):
            results.append(measured("decoding alone", len(videos), lambda: decode(videos)))
            for workers in sorted({1, cores}):
                out = Path(folder) / f"{workers}-{number}"
                action = lambda out=out, workers=workers: pack(  # noqa: E731
                    load_recipe("folder"), Path(folder) / "videos", out=out, workers=workers
                )
                results.append(measured(f"pack, {workers} worker{'s' * (workers > 1)}", len(videos), action))
                shutil.rmtree(out)
    console = Console()
    console.print(table(results))
    console.print(summary(machine), soft_wrap=True)
    write_results(config, machine=machine, results=results)


def some_of(media: Path, folder: Path, count: int) -> list[Path]:
    """Links to the first videos of a folder, and their list, in a folder of their own."""
    listed = media / "labels.csv"
    if not listed.exists():
        raise RecipeError(f"{listed}: missing; name a folder of videos that `avbench pack folder` takes")
    with listed.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:count]
    files = {path.stem: path for path in sorted(media.iterdir()) if path.suffix not in (".csv", ".json")}
    folder.mkdir()
    videos = []
    for row in rows:
        if row["key"] not in files:
            raise RecipeError(f"{listed}: no video {row['key']!r} in {media}")
        link = folder / files[row["key"]].name
        link.symlink_to(files[row["key"]].resolve())
        videos.append(link)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["key", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return videos


def decode(videos: list[Path]) -> None:
    """All of them."""
    for path in videos:
        with av.open(str(path)) as container:
            for stream in container.streams:
                stream.codec_context.thread_count = 1
            for packet in container.demux():
                packet.decode()


def measured(what: str, clips: int, action: Callable[[], object]) -> dict[str, Any]:
    """Wall and CPU seconds of an action, children included."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    action()
    return {
        "what": what,
        "clips": clips,
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": cpu_seconds() - cpu,
    }


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended.

    Workers are children of a server, so that is ended first; the next pack starts another, which is part of its cost.
    """
    forkserver._forkserver._stop()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def table(results: list[dict[str, Any]]) -> Table:
    """A row a measurement."""
    shown = Table(title="Packing", title_justify="left")
    for column in ("", "clips", "CPU s/clip", "clips/s"):
        shown.add_column(column, justify="right" if column else "left")
    for row in results:
        clips = row["clips"]
        cells = (f"{row['cpu_seconds'] / clips:.3f}", f"{clips / row['wall_seconds']:.2f}")
        shown.add_row(row["what"], str(clips), *cells)
    return shown


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
