"""What a person sees while a pass trains: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from avbench.progress import NowAndThen, duration
from avbench.training.run import Run

_WORTH_SAYING = 1.5  # how much slower than the fastest rank the slowest is
_WORTH_SAYING_BYTES = 1e5  # read a second: with all in the page cache there is nothing to say


class Display:
    """Rank 0's view of a pass; on other ranks it shows nothing. A context manager."""

    def __init__(self, *, epochs: int, shown: bool) -> None:
        self._epochs = epochs
        self._shown = shown
        self._console = Console(stderr=True, soft_wrap=True)
        self._live: Live | None = None
        self._latest: Group | None = None
        self._line = NowAndThen()
        self._started = time.monotonic()
        self._done_at_start: float | None = None

    def __enter__(self) -> Display:
        if self._shown and self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._shown:
            self._console.print(text, highlight=False, markup=False)

    def note(self, text: str) -> None:
        """What goes on between steps, as often as there is something to say; shown now and then."""
        if not self._shown:
            return
        if self._live is not None:
            self._live.update(Group(self._latest, text) if self._latest is not None else text)
        elif self._line.is_due():
            self.say(text)

    def update(
        self, runs: Sequence[Run], latest: dict[str, dict[str, Any]], *, done: float, speed: dict[str, Any]
    ) -> None:
        """Show where the pass is.

        latest: per run name its newest numbers. done: epochs trained, with fraction. speed: Monitor.report().
        """
        if not self._shown:
            return
        status = (
            f"epoch {min(int(done) + 1, self._epochs)}/{self._epochs}, {_speed_text(speed)}, {self._time_left(done)}"
        )
        if self._live is not None:
            bar = ProgressBar(total=self._epochs, completed=done)
            self._latest = Group(_table(runs, latest, title=status), bar)
            self._live.update(self._latest)
        elif self._line.is_due():
            numbers = "; ".join(f"{run.name} {_run_text(latest.get(run.name, {}))}" for run in runs if run.is_training)
            self.say(f"{status}: {numbers}" if numbers else status)

    def _time_left(self, done: float) -> str:
        if self._done_at_start is None:
            self._done_at_start, self._started = done, time.monotonic()
        gained = done - self._done_at_start
        if gained <= 0:
            return "time left unknown"
        return f"{duration((time.monotonic() - self._started) / gained * (self._epochs - done))} left"


def _table(runs: Sequence[Run], latest: dict[str, dict[str, Any]], *, title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="")
    table.add_column("run")
    for name in ("loss", "train acc.", "val acc.", "best"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for run in runs:
        numbers = latest.get(run.name, {})
        best = f"{100 * run.progress.best_accuracy:.1f} %" if run.progress.best_epoch >= 0 else ""
        table.add_row(
            run.name,
            _number(numbers.get("loss"), "{:.4f}"),
            _number(numbers.get("accuracy"), "{:.1%}"),
            _number(numbers.get("val_accuracy"), "{:.1%}"),
            best,
            run.progress.finished or "training",
        )
    return table


def _run_text(numbers: dict[str, Any]) -> str:
    parts = [f"loss {_number(numbers.get('loss'), '{:.4f}')}", f"train {_number(numbers.get('accuracy'), '{:.1%}')}"]
    if "val_accuracy" in numbers:
        parts.append(f"val {_number(numbers['val_accuracy'], '{:.1%}')}")
    return " ".join(parts)


def _speed_text(speed: dict[str, Any]) -> str:
    parts = [f"{speed['clips_per_second']:,.0f} clips/s", f"{speed['data_wait_share']:.0%} waiting for data"]
    if "cpu_use_share" in speed:
        parts.append(f"CPU {speed['cpu_use_share']:.0%}")
    if speed.get("storage_bytes_per_second", 0.0) >= _WORTH_SAYING_BYTES:
        parts.append(f"{speed['storage_bytes_per_second'] / 1e6:,.1f} MB/s read")
    if "gpu_use_share" in speed:
        parts.append(f"GPU {speed['gpu_use_share']:.0%}")
    if "gpu_sm_activity_share" in speed:
        parts.append(f"SMs {speed['gpu_sm_activity_share']:.0%}")
    if "gpu_memory_bytes" in speed:
        parts.append(f"{speed['gpu_memory_bytes'] / 2**30:.1f} GiB")
    if "gpu_power_watts" in speed:
        parts.append(f"{speed['gpu_power_watts']:,.0f} W, {speed['joules_per_clip']:.2f} J/clip")
    if speed.get("slowest_step_seconds", 0.0) > _WORTH_SAYING * speed.get("fastest_step_seconds", 0.0):
        ratio = speed["slowest_step_seconds"] / max(speed["fastest_step_seconds"], 1e-9)
        parts.append(f"rank {speed['slowest_rank']} takes {ratio:.1f} times as long as rank {speed['fastest_rank']}")
    return ", ".join(parts)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
