"""What rank 0 writes and shows while a pass trains: metrics.jsonl, TensorBoard's curves, a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from avbench.records import MetricsWriter
from avbench.training.display import Display
from avbench.training.held_folder import HeldFolder
from avbench.training.monitor import plotted
from avbench.training.run import Run


class Journal:
    """The journal of a pass, which is given the numbers that it writes; on other ranks it writes nothing.

    A context manager. steps_per_epoch: batches of train in an epoch.
    """

    def __init__(self, folder: HeldFolder, *, epochs: int, steps_per_epoch: int, is_main: bool) -> None:
        self.display = Display(epochs=epochs, shown=is_main)
        self.launch = 0  # which of the folder's, from 1; of rank 0
        self._folder, self._steps_per_epoch, self._is_main = folder, steps_per_epoch, is_main
        self._latest: dict[str, dict[str, Any]] = {}  # per run name its newest numbers, for the display
        self._metrics: MetricsWriter | None = None
        self._board: SummaryWriter | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Journal:
        if self._is_main:
            self._metrics = self._stack.enter_context(closing(MetricsWriter(self._folder.metrics)))
        self._stack.enter_context(self.display)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def draw_from(self, step: int, *, is_resumed: bool) -> None:
        """Begin TensorBoard's curves, of a resumed run after this step.

        What was logged at this step itself was logged before the checkpoint, and is not logged again.
        """
        if self._is_main:
            board = SummaryWriter(str(self._folder.tensorboard), purge_step=step + 1 if is_resumed else None)
            self._board = self._stack.enter_context(board)

    def say(self, text: str) -> None:
        """A line for whoever watches, and no record: a resumed run would have it twice."""
        self.display.say(text)

    def event(self, text: str, *, run: Run | None = None, **numbers: float) -> None:
        """A line for whoever watches, and a record."""
        self.write({"kind": "event", **(run.key if run else {}), "text": text, **numbers})
        self.display.say(text)

    def write(self, record: dict[str, Any]) -> None:
        """A record in metrics.jsonl."""
        if self._metrics is not None:
            self._metrics.write(record)

    def steps(
        self,
        epoch: int,
        done: int,
        *,
        runs: Sequence[Run],
        means: Mapping[str, dict[str, float]],
        speed: dict[str, Any],
    ) -> None:
        """The means of a logging interval, per run name, that ended with so many batches of an epoch."""
        step = epoch * self._steps_per_epoch + done
        self.write({"kind": "performance", "launch": self.launch, "epoch": epoch, "batch": done, **speed})
        self._plot("performance", plotted(speed), step)
        for run in runs:
            if run.name in means:
                numbers = means[run.name]
                self._latest.setdefault(run.name, {}).update(numbers)
                self.write({"kind": "step", **run.key, "epoch": epoch, "batch": done, **numbers})
                self._plot(run.name, numbers, step)
        self.display.update(runs, self._latest, done=epoch + done / self._steps_per_epoch, speed=speed)

    def epoch(self, epoch: int, *, run: Run, numbers: dict[str, float], audited: dict[str, Any]) -> None:
        """What a run's epoch came to. audited: which clips it has counted."""
        self._latest.setdefault(run.name, {}).update(numbers)
        self.write({"kind": "epoch", **run.key, "epoch": epoch, **numbers, **audited})
        step = (epoch + 1) * self._steps_per_epoch
        self._plot(run.name, {f"epoch_{name}": value for name, value in numbers.items()}, step)

    def flushed(self) -> int:
        """The length of metrics.jsonl, once TensorBoard's curves are on disk: what a resumed run does not log again."""
        if self._board is not None:
            self._board.flush()
        return self._metrics.offset() if self._metrics is not None else 0

    def cut_back(self, offset: int) -> None:
        """Drop what was written after metrics.jsonl had this length."""
        if self._metrics is not None:
            self._metrics.cut_back(offset)

    def _plot(self, group: str, numbers: dict[str, Any], step: int) -> None:
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(f"{group}/{name}", float(value), step)
