"""What does a clip cost, in CPU time, on its way from a packed dataset to tensors, beside what people use today?

    python benchmarks/loader.py DATASET [--media VIDEOS] [--json FILE]     the comparison
    python benchmarks/loader.py DATASET --memory-epochs 20                 growth and peak of memory over epochs

`avbench bench loader` runs it too. DATASET is a packed dataset of clips of about ten seconds (its codec is the codec of
all contenders but the last). Contenders, each with preset `paper`'s outputs in batches of 32 (a 257 x 1001
log-magnitude spectrogram; one random frame, random resized crop to 224 x 224, flip, normalized): avbench's Loader,
checksums included, and the peers of benchmarks/peers/, whose docstrings say how each is set up. One that is not
installed is left out with a line that says so. torchcodec wants the original videos, `--media`.

Checked before anything is timed: every contender gives every clip once, of the right shape, and the mean magnitudes of
the clips' spectrograms are ours, to 1 % (torchcodec's, of AAC and not of the packed 16 bits, to 10 %).

Timed: one epoch, from the request for the first batch to the last batch as tensors in the consuming process; and what a
contender then does ahead for its next epoch, as DALI's iterator does, which has begun this one in the last. CPU time is
user and system time of the contender's process, which loads for nobody else, its threads and its children: the measure
that other work on the machine moves least. Not timed: starting workers, building pipelines and a first epoch, which
warms the page cache; looking whether it still works ahead. A case's contenders are interleaved, round after round, and
medians over the rounds are shown. Each has one worker (a process, a thread, or DALI's one thread beside the loader's
own). A DataLoader's worker process sends its tensors through shared memory, so those peers are shown a second time,
"no worker", loading in the consuming process, which takes less CPU time and lets training wait.

Answers: benchmarks/RESULTS.md and benchmarks/README.md.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from peers import PEERS, Epoch, Task, make, peers_of, why_left_out
from peers.tensors import AUDIO_SHAPE, FRAME_SHAPE, PRESET
from rich.console import Console
from rich.table import Table
from torch import Tensor

from avbench.arguments import comma_list
from avbench.benchmarking.results import run_script, write_results
from avbench.dataset import Dataset
from avbench.errors import AvbenchError, DatasetError
from avbench.loading.loader import Loader
from avbench.machine import describe, summary
from avbench.progress import tracked
from avbench.vocabulary import MODALITIES, Modality

OURS = "avbench"
CASES: dict[str, tuple[Modality, ...]] = {"audio + visual": MODALITIES, "audio": ("audio",), "visual": ("visual",)}
# Nobody works any more once so many looks in a row, so many seconds apart, find every thread asleep.
_QUIET_LOOKS, _LOOK_SECONDS = 5, 0.01
_STOP_SECONDS = 10
# Fields of /proc/self/status.
RESIDENT = {"anonymous": "RssAnon", "file": "RssFile"}
PACKAGES = ("librosa", "pillow", "webdataset", "spdl", "litdata", "mosaicml-streaming", "torchcodec")


@dataclass(frozen=True)
class Config:
    """What to measure.

    dataset: a packed dataset; its clips are repeated to make `clips` an epoch. media: the videos that it was packed
    from, for torchcodec. peers: which to compare with. json: where to write the results.
    memory_epochs: measure the growth and the peak of our memory over so many epochs, and nothing else.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    media: Path | None = None
    peers: Annotated[tuple[str, ...], comma_list(str, "DALI,SPDL")] = tuple(PEERS)
    clips: int = 480
    batch_size: int = 32
    rounds: int = 5
    json: Path | None = None
    memory_epochs: int = 0


@dataclass(frozen=True)
class Measurement:
    """One epoch of one contender."""

    case: str
    contender: str
    clips: int
    wall_seconds: float
    cpu_seconds: float


def main(config: Config) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(1)
    config = replace(config, peers=peers_of(config.peers))
    dataset = Dataset(config.dataset)
    console = Console()
    machine = describe(PACKAGES)
    left_out: list[str] = []
    if config.memory_epochs:
        results: Any = memory_growth(dataset, config)
        for name in RESIDENT:
            sizes = [size[name] / 1e6 for size in results]
            console.print(f"{name} memory after epoch 1 {sizes[0]:.0f} MB, then growth by epoch, MB:")
            console.print(" ".join(f"{size - sizes[0]:+.1f}" for size in sizes[1:]))
        peak, held = results[-1]["peak"] / 1e6, results[-1]["file"] / 1e6
        console.print(
            f"peak over what the imports take, batches of {config.batch_size}: {peak:.0f} MB, pages of mapped files "
            f"included (now {held:.0f} MB, libraries' too)",
            soft_wrap=True,
        )
    else:
        _check_comparable(dataset)
        with tempfile.TemporaryDirectory() as folder:
            measured = list(measure(dataset, config, Path(folder), left_out))
        console.print(table(measured, dataset))
        console.print(summary(machine), soft_wrap=True)
        results = [asdict(measurement) for measurement in measured]
    about = {"clips_of_dataset": len(dataset), "audio_suffix": dataset.audio_suffix, "preset": PRESET.name}
    write_results(config, machine=machine, **about, left_out=left_out, results=results)


def _check_comparable(dataset: Dataset) -> None:
    """The peers do not resample, and want sound."""
    if "spectrogram" in dataset.description:
        raise DatasetError(
            f"{dataset.path}: its sound is kept as a spectrogram, and peers make their own; pack with --audio-suffix "
            f"flac (what is kept has a benchmark of its own, packing_options.py)"
        )
    rates = sorted({int(rate) for rate in dataset.sample_rates})
    if rates != [PRESET.audio.sample_rate_hz]:
        raise DatasetError(
            f"{dataset.path}: audio of {', '.join(map(str, rates))} Hz; peers do not resample, so pack it at "
            f"{PRESET.audio.sample_rate_hz} Hz (avbench pack ... --sample-rate-hz {PRESET.audio.sample_rate_hz})"
        )


def measure(dataset: Dataset, config: Config, folder: Path, left_out: list[str]) -> Iterator[Measurement]:
    """Every case and contender, `rounds` times, interleaved. left_out gets a line for each peer that cannot run."""
    names = [OURS]
    for name in config.peers:
        reason = why_left_out(name, media=config.media)
        if reason:
            left_out.append(reason)
            print(reason, file=sys.stderr)
        else:
            names.append(name)
    for case, modalities in CASES.items():
        contenders: list[Contender] = []
        try:
            for number, name in enumerate(names):
                place = folder / f"{case} {number}".replace(" ", "-")
                task = Task(dataset, tiled(dataset, config.clips), config.batch_size, modalities, place, config.media)
                contenders.append(Contender(name, task))
                examined = contenders[-1].examine()
                if name == OURS:
                    expected = examined
                compare(name, case, examined, expected)
            for _ in tracked(range(config.rounds), f"rounds, {case}"):
                for contender in contenders:
                    yield Measurement(case, contender.name, *contender.epoch())
        finally:
            for contender in contenders:
                contender.stop()


class Contender:
    """One that loads, in a process of its own, so that nothing of another is in its CPU time."""

    def __init__(self, name: str, task: Task) -> None:
        self.name = name
        # Forked, before this process has any thread: to import everything again takes seconds.
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, name, task), name=name)
        self._process.start()
        theirs.close()

    def examine(self) -> tuple[int, np.ndarray]:
        """Of its first epoch, what `examine` says; raises the AvbenchError that making it ready raised."""
        return self._received()

    def epoch(self) -> tuple[int, float, float]:
        """Clips, wall seconds and CPU seconds of one more."""
        self._connection.send(True)
        return self._received()

    def stop(self) -> None:
        """End it, workers and all."""
        with suppress(BrokenPipeError):
            self._connection.send(False)
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _received(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"{self.name}: ended, see above") from None
        if isinstance(answer, AvbenchError):
            raise answer
        return answer


def serve(connection: Connection, name: str, task: Task) -> None:
    """What a contender's process does: make ready, then an epoch whenever it is told to."""
    torch.set_num_threads(1)
    try:
        epoch = avbench_loader(task) if name == OURS else make(name, task)
        connection.send(examine(epoch()))
    except AvbenchError as error:
        connection.send(error)
        return
    while told_to_go_on(connection):
        cpu, wall = cpu_seconds(), time.perf_counter()
        clips = consume(epoch())
        cpu_after, wall_after = settled()
        connection.send((clips, wall_after - wall, cpu_after - cpu))


def told_to_go_on(connection: Connection) -> bool:
    """Waits for the next word; False too where whoever would say it is gone, killed say."""
    while not connection.poll(1.0):
        if os.getppid() != multiprocessing.parent_process().pid:
            return False
    return connection.recv()


def settled() -> tuple[float, float]:
    """CPU and wall time as they were when the last thread stopped working: see "Timed"."""
    own = time.thread_time()

    def cpu_but_for_looking() -> float:
        return cpu_seconds() - (time.thread_time() - own)  # a third of a millisecond a look

    cpu, wall, quiet = cpu_but_for_looking(), time.perf_counter(), 0
    while quiet < _QUIET_LOOKS:
        time.sleep(_LOOK_SECONDS)
        if any_thread_works():
            cpu, wall, quiet = cpu_but_for_looking(), time.perf_counter(), 0
        else:
            quiet += 1
            cpu = cpu_but_for_looking() if quiet == 1 else cpu
    return cpu, wall


def any_thread_works() -> bool:
    """Whether a thread but the calling one runs, waits for a core (on a busy machine, for long) or for a disk."""
    for task in threads():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            # After the name, which may hold anything but is in brackets.
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            if state in "RD" and int(task.name) != threading.get_native_id():
                return True
    return False


def threads() -> Iterator[Path]:
    """Folders of all threads of this process and of its living children in /proc."""
    for task in Path("/proc/self/task").iterdir():
        yield task
        for pid in children(task):
            yield from Path(f"/proc/{pid}/task").glob("*")


def children(task: Path) -> list[str]:
    """Numbers of the processes that a thread, named by its folder in /proc, has started; none where it has ended."""
    try:
        return (task / "children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def examine(batches: Iterable[tuple[Tensor | None, Tensor | None]]) -> tuple[int, np.ndarray]:
    """Clips, and the mean magnitude of each one's spectrogram, ascending; shapes and ranges are asserted."""
    clips, magnitudes = 0, []
    for audio, frames in batches:
        if audio is not None:
            assert (tuple(audio.shape[1:]), audio.dtype) == (AUDIO_SHAPE, torch.float32), audio.shape
            magnitudes.append(audio.exp().mean(dim=(1, 2, 3)).numpy())
            clips += 0 if frames is not None else len(audio)
        if frames is not None:
            frames = frames.reshape(-1, *frames.shape[-3:])  # ours has an axis of frames a clip
            assert (tuple(frames.shape[1:]), frames.dtype) == (FRAME_SHAPE, torch.float32), frames.shape
            assert -2.2 < float(frames.min()) <= float(frames.max()) < 2.7, "not normalized"
            clips += len(frames)
    return clips, np.sort(np.concatenate(magnitudes)) if magnitudes else np.empty(0)


def compare(name: str, case: str, got: tuple[int, np.ndarray], expected: tuple[int, np.ndarray]) -> None:
    """Asserts that a peer gave the clips that ours gave."""
    assert got[0] == expected[0], f"{name}, {case}: {got[0]} clips, expected {expected[0]}"
    tolerance = 0.1 if name == "torchcodec" else 0.01
    np.testing.assert_allclose(got[1], expected[1], rtol=tolerance, atol=1e-5, err_msg=f"{name}, {case}")


def consume(batches: Iterable[tuple[Tensor | None, Tensor | None]]) -> int:
    """Go through the batches, looking at each; returns the number of clips."""
    clips = 0
    for audio, frames in batches:
        present = [tensor for tensor in (audio, frames) if tensor is not None]
        assert all(bool(torch.isfinite(tensor[0]).all()) for tensor in present)
        clips += len(present[0])
    return clips


def cpu_seconds() -> float:
    """User and system time of this process and of its living children, all their threads."""
    total = time.process_time()
    for task in Path("/proc/self/task").iterdir():
        for pid in children(task):
            # Nanoseconds on a processor; /proc/PID/stat has ticks of 10 ms only.
            for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                total += 1e-9 * int(thread.read_text().split()[0])
    return total


def tiled(dataset: Dataset, count: int) -> np.ndarray:
    """Clip ids of all splits, repeated to the wanted number."""
    return np.resize(np.arange(len(dataset)), count)


def avbench_loader(task: Task) -> Epoch:
    """Our own."""
    loader = Loader(
        task.dataset,
        task.clip_ids,
        preset=PRESET,
        batch_size=task.batch_size,
        seed=0,
        training=True,
        modalities=task.modalities,
    )
    epochs = iter(range(1_000_000))

    def epoch() -> Iterator[tuple[Tensor | None, Tensor | None]]:
        for batch in loader.epoch(next(epochs)):
            yield batch.audio, batch.frames

    return epoch


def median(measured: list[Measurement], case: str, contender: str) -> tuple[float, float, float]:
    """CPU milliseconds a clip, their spread (half the range, as a share), and clips/s of wall time."""
    chosen = [one for one in measured if (one.case, one.contender) == (case, contender)]
    costs = [1e3 * one.cpu_seconds / one.clips for one in chosen]
    cost = statistics.median(costs)
    speed = statistics.median(one.clips / one.wall_seconds for one in chosen)
    return cost, (max(costs) - min(costs)) / 2 / max(cost, 1e-9), speed


def table(measured: list[Measurement], dataset: Dataset) -> Table:
    """A row a case and contender, with our share of its CPU time and what it must be at most."""
    title = f"{dataset.audio_suffix}, preset {PRESET.name}, medians; CPU ms a clip, and avbench's as a share of it"
    result = Table(title=title, title_justify="left")
    for column in ("case", "contender", "CPU ms", "spread", "clips/s", "share", "at most"):
        result.add_column(column, justify="left" if column in ("case", "contender") else "right")
    for case in CASES:
        ours, _, _ = median(measured, case, OURS)
        for name in dict.fromkeys(one.contender for one in measured):
            cost, spread, speed = median(measured, case, name)
            share, allowed = "", ""
            if name != OURS:
                share, allowed = f"{ours / cost:.2f}", str(PEERS[name].allowed.get(case, ""))
            result.add_row(case, name, f"{cost:.2f}", f"{spread:.0%}", f"{speed:.0f}", share, allowed)
    return result


def memory_growth(dataset: Dataset, config: Config) -> list[dict[str, int]]:
    """Resident bytes of this process after each epoch of our loader, both modalities.

    anonymous: its own memory. file: pages of mapped files (libraries, shards), which the page cache shares out and
    takes back as it likes. peak: the most of both together so far, less what there was before the loader was made.
    """
    after_imports = status_bytes("VmRSS")
    epoch = avbench_loader(
        Task(dataset, tiled(dataset, config.clips), config.batch_size, MODALITIES, folder=Path(), media=None)
    )
    sizes = []
    for _ in tracked(range(config.memory_epochs), "epochs"):
        consume(epoch())
        sizes.append({name: status_bytes(field) for name, field in RESIDENT.items()})
        sizes[-1]["peak"] = status_bytes("VmHWM") - after_imports
    return sizes


def status_bytes(field: str) -> int:
    """Of this process, from /proc/self/status, which counts KiB."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields[field].split()[0])


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, description=__doc__)))
