"""What runs have counted, and whether each goes on after an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from avbench.batch import Clock
from avbench.errors import Interrupted
from avbench.loading.loader import Loader
from avbench.training.audit import Audit, Count, said_of
from avbench.training.background import Background
from avbench.training.checkpoint import Checkpoints
from avbench.training.closing import divergence
from avbench.training.journal import Journal
from avbench.training.passes import Passes
from avbench.training.run import Run, Taken, collect_tallies


@dataclass
class Judging:
    """Collects the numbers of all runs, and evaluates those that train.

    loaders: by split. epochs, patience: as in TrainerConfig. began: when training did, all launches together, on the
    clock of `time.monotonic`.
    """

    runs: Sequence[Run]
    loaders: dict[str, Loader]
    passes: Passes
    audit: Audit
    background: Background
    checkpoints: Checkpoints
    journal: Journal
    epochs: int
    patience: int
    began: float

    def training_runs(self) -> list[Run]:
        """Those that take part in the next step."""
        return [run for run in self.runs if run.is_training]

    def judge(self, epoch: int) -> None:
        """Evaluate, commit the confidences of the epoch, and let each run stop or go on; after `collect`."""
        runs = self.training_runs()
        training = {run.name: _means(run.progress.open_epoch) for run in runs}
        clock = Clock(epoch, runs[0].progress.step if runs else 0, self.epochs)
        before = [{name: buffer.clone() for name, buffer in run.buffers().items()} for run in runs]
        for run in runs:
            run.engine.average_buffers()
        try:
            validation = self._evaluate("val", runs, clock)
            # Test clips are looked at for their confidence only: no number of theirs is shown or chosen by.
            self._evaluate("test", [run for run in self.training_runs() if run.store is not None], clock)
        except Interrupted:
            # They are averaged again when the epoch is judged after all, to the same bits.
            for run, buffers in zip(runs, before, strict=True):
                for name, buffer in run.buffers().items():
                    buffer.copy_(buffers[name])
            raise
        for run in self.training_runs():
            audited = self._audited(run, epoch)
            run.progress.close_epoch()
            if run.store is not None:
                # To their ranks and to the history beside the next epoch, and before the checkpoint that holds it.
                self.background.do(run.store.committing(epoch))
            numbers = {**training[run.name], **{f"val_{name}": value for name, value in validation[run.name].items()}}
            if run.progress.judge(epoch=epoch, accuracy=numbers["val_accuracy"], patience=self.patience):
                self.checkpoints.save_best(run)
            self.journal.epoch(epoch, run=run, numbers=numbers, audited=audited)
            if not run.is_training:
                run.release()
                self.journal.event(f"{run.name} stopped after epoch {epoch}: {run.progress.finished}", run=run)

    def collect(self) -> dict[str, dict[str, float]]:
        """Each training run's means since last asked, its sums added to its open epoch; says so when one diverges."""
        means = {}
        for run, taken in self._tallies_of(self.training_runs()):
            run.progress.count(taken)
            if taken.totals[-1]:  # else no clip was its own since then
                means[run.name] = {**_means(taken.totals), "learning_rate": run.learning_rate, **taken.log}
        return means

    def _tallies_of(self, runs: Sequence[Run]) -> list[tuple[Run, Taken]]:
        """What the runs have counted, of those that did not diverge; the others stop here."""
        for run in runs:
            run.progress.seconds = monotonic() - self.began
        tallies = list(zip(runs, collect_tallies(runs), strict=True))
        for run in runs:
            if not run.is_training:
                run.release()
                text = f"{run.name} stopped: {run.progress.finished}, {divergence(run)}"
                self.journal.event(text, run=run, **(run.progress.diverged or {}))
        return [(run, taken) for run, taken in tallies if run.is_training]

    def _audited(self, run: Run, epoch: int) -> dict[str, Any]:
        """What the epoch's record says of the clips that the run has counted."""
        counted = run.progress.counted
        record = self.audit.record(
            run.trains_on, None if counted is None else Count(*counted), left_out=self.passes.left_out
        )
        if text := said_of(run.name, epoch, record):
            self.journal.event(text, run=run, epoch=epoch)
        return record

    def _evaluate(self, split: str, runs: Sequence[Run], clock: Clock) -> dict[str, dict[str, float]]:
        if not runs:
            return {}
        self.passes.evaluate(self.loaders[split], runs, clock=clock)
        return {run.name: _means(taken.totals) for run, taken in self._tallies_of(runs)}


def _means(totals: Sequence[float]) -> dict[str, float]:
    loss, correct, clips = totals
    return {"loss": loss / max(clips, 1.0), "accuracy": correct / max(clips, 1.0), "clips": clips}
