"""What a training leaves for the analysis when it has ended: confidences, and predictions of the best networks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from avbench.confidence.export import export
from avbench.distributed import on_main
from avbench.loading.loader import Loader
from avbench.records import write_json
from avbench.training.checkpoint import Checkpoints
from avbench.training.closing import divergences, end
from avbench.training.decoding import Decoding
from avbench.training.held_folder import HeldFolder
from avbench.training.journal import Journal
from avbench.training.passes import Passes
from avbench.training.predictions import write_predictions
from avbench.training.replacement import Means, feature_means, is_joint
from avbench.training.run import DIVERGED, Run, modalities_read
from avbench.training.training import Training
from avbench.vocabulary import SPLITS


@dataclass(frozen=True)
class Ending:
    """The end of a training whose runs are all done. loaders: by split."""

    training: Training
    folder: HeldFolder
    runs: Sequence[Run]
    loaders: dict[str, Loader]
    decoding: Decoding
    passes: Passes
    checkpoints: Checkpoints
    journal: Journal

    def write(self) -> None:
        """Write all of it, and at last that the training has ended. A collective."""
        runs = [run for run in self.runs if run.progress.finished != DIVERGED and run.progress.best_epoch >= 0]
        self._remove_stale(runs)
        self._write_confidences(runs)
        for run in runs:
            self.checkpoints.load_best(run, self.training.device)
        self._write_predictions(runs)
        if all_diverged_of(self.runs):
            self.journal.write({"kind": "event", "text": "no run is left: all diverged"})
            on_main(str(self.folder.path), lambda: write_json(self.folder.diverged, divergences(self.runs)))
            return
        self.journal.write({"kind": "event", "text": "finished"})
        config = self.training.config
        on_main(
            str(self.folder.path),
            lambda: end(self.folder, epochs=config.epochs, keep_checkpoints=config.keep_checkpoints),
        )

    def _remove_stale(self, runs: Sequence[Run]) -> None:
        """A network that diverged is in no table and cuts no subset: not even with what it left when it was trained for
        fewer epochs.
        """
        stale = [] if any(run.store for run in runs) else [self.folder.confidence]
        for run in self.runs:
            if run not in runs:
                stale += [self.folder.prediction_file(run.spec.name, run.seed, split) for split in SPLITS]

        def remove() -> None:
            for path in stale:
                path.unlink(missing_ok=True)

        on_main(str(self.folder.path), remove)

    def _write_confidences(self, runs: Sequence[Run]) -> None:
        stores = [run.store for run in runs if run.store is not None]
        if not stores:
            return
        dataset, bad = self.training.dataset, len(self.passes.left_out)
        missed = export(self.folder.confidence, stores=stores, dataset=dataset)
        unused = len(dataset) - len(dataset.quarantined) - sum(map(len, self.training.clip_ids.values()))
        for store, clips in missed.items():
            if clips:
                self.journal.event(_missing_text(store, clips, unused=unused, bad=bad))

    def _write_predictions(self, runs: Sequence[Run]) -> None:
        means = self._feature_means([run for run in runs if is_joint(run)])
        for run in runs:
            if is_joint(run) and run.name not in means:
                text = "is not predicted without a modality: its feature modules were not called"
                self.journal.event(f"{run.name} {text}", run=run)
        for split in ("val", "test"):
            if runs:
                write_predictions(
                    self.loaders[split],
                    runs,
                    means=means,
                    dataset=self.training.dataset,
                    split=split,
                    paths=[self.folder.prediction_file(run.spec.name, run.seed, split) for run in runs],
                    passes=self.passes,
                )

    def _feature_means(self, runs: Sequence[Run]) -> dict[str, Means]:
        """What replaces a modality's features: their mean over train, as evaluation sees it."""
        if not runs:
            return {}
        train, modalities = self.training.clip_ids["train"], modalities_read(runs)
        with closing(self.decoding.loader("train, for means", train, 0, False, modalities)) as loader:
            return feature_means(loader, runs, self.passes)


def all_diverged_of(runs: Sequence[Run]) -> bool:
    """Whether no run is left."""
    return all(run.progress.finished == DIVERGED for run in runs)


def _missing_text(store: str, clips: int, *, unused: int, bad: int) -> str:
    """Why so many clips have no confidence: what --classes and --fraction leave out, and of the others bad bytes.

    bad: clips that were found bad in any epoch, so some of them may have a confidence of an epoch before.
    """
    bad = min(bad, clips - unused)
    reasons = [
        (unused, "not used, since --classes or --fraction leaves them out"),
        (bad, "with bad bytes"),
        (clips - unused - bad, "that no epoch recorded"),
    ]
    parts = ", ".join(f"{count} {why}" for count, why in reasons if count)
    return f"{clips} clip{' has' if clips == 1 else 's have'} no {store} confidence: {parts}"
