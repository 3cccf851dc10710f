"""The loop: one batch, many runs.

Every rank computes; rank 0 writes. All runs of a pass see the same batches in the same order, each clip decoded once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import torch
from torch.profiler import record_function

from avbench.batch import Batch, Clock
from avbench.distributed import current_world, on_main
from avbench.engine.precision import pick_precision
from avbench.engine.random_state import random_state, set_random_state
from avbench.errors import AllDiverged, Interrupted, RunError
from avbench.loading.gpu import JPEG_ENGINE_SHARE
from avbench.methods.base import Part
from avbench.records import write_json
from avbench.training.audit import Audit
from avbench.training.background import Background
from avbench.training.bad_clips import BadClips, TooManyBadClips, clips_of, limit_of
from avbench.training.before_epoch import View
from avbench.training.checkpoint import Checkpoints, Position, Within
from avbench.training.clips import check_clips, fingerprint_of
from avbench.training.closing import (
    all_diverged,
    closing_table,
    next_command,
    what_is_kept,
)
from avbench.training.decoding import Decoding
from avbench.training.ending import Ending, all_diverged_of
from avbench.training.held_folder import HeldFolder
from avbench.training.interruption import Stop, resume_command
from avbench.training.journal import Journal
from avbench.training.judging import Judging
from avbench.training.monitor import Monitor
from avbench.training.origin import describe_environment, record_launch
from avbench.training.out_of_memory import fits, largest_that_fits, too_large
from avbench.training.parallel import SideBySide, longest_first
from avbench.training.parts import OwnClips, parts_for
from avbench.training.passes import Passes, prepare
from avbench.training.profile import Profiler
from avbench.training.run import Run, modalities_read
from avbench.training.stores import stores_for
from avbench.training.training import Training, runs_of
from avbench.training.watchdog import Watchdog
from avbench.vocabulary import SPLITS


class Trainer:
    """One pass that trains every run; call `fit` once.

    A step, in order:
    1. The loader hands a batch over; before that the watchdog's beat has all ranks agree to go on.
    2. Clips with bad bytes are dropped, and the others are laid out as networks read them (`prepare`).
    3. The valid clips of all ranks are counted, for each part of train that some run trains on (`OwnClips.of`).
    4. Every run takes its step, side by side with the others: forward, loss, backward, what its method does with the
       gradients, optimizer (`Run.train_step`). It tallies on the device, and nothing waits for it.
    5. After --log-steps the tallies of all runs come to the processor in one copy, and are written (`_log_steps`).
    6. After --checkpoint-steps all of it is saved, in the background (`_save`).
    After an epoch's last step the runs are evaluated, and each goes on or stops (judging.py).
    """

    def __init__(self, training: Training, folder: HeldFolder) -> None:
        self.world = current_world()
        self.training, self.folder = training, folder
        config, engine, device, dataset = training.config, training.engine, training.device, training.dataset
        self.config, self.device, self.dataset, self.clip_ids = config, device, dataset, training.clip_ids
        self.dtype: torch.dtype = getattr(torch, pick_precision(engine.precision, device))
        if device.type == "cuda":
            # Reproducible, and float32 where float32 is asked for: by default convolutions would be TF32.
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.allow_tf32 = False
        self.decoding = Decoding(
            dataset,
            preset=training.preset,
            config=config,
            device=device,
            computed_in=self.dtype,
            beat=lambda text: self.watchdog.beat(text),
        )
        check_clips(dataset, training.clip_ids)
        self.stores = stores_for(
            training.specs,
            training.seeds,
            dataset=dataset,
            folder=folder,
            buffer_bytes=config.exchange_megabytes << 20,
        )
        self.runs = runs_of(training, dtype=self.dtype, stores=self.stores)
        self.bad_clips = BadClips(
            dataset,
            folder.path,
            found=self.decoding.bad_clips,
            limit=limit_of(config.bad_clips_limit, clips_of(training.clip_ids)),
        )
        # (epoch, batches): that were trained on, that were logged, that the newest checkpoint holds.
        self.done = self.logged = self.saved = (0, 0)
        # The passes before an epoch that are under way, and how many runs are done with theirs.
        self.preparing: tuple[View, int] | None = None
        self.is_trained = False  # predictions are what is left
        self.loaders = {
            split: self.decoding.loader(
                split, training.clip_ids[split], config.order_seed, split == "train", modalities_read(self.runs)
            )
            for split in SPLITS
        }
        self.parts = parts_for(self.runs, dataset, training.clip_ids["train"])
        self.own_clips = OwnClips(self.parts, clips=len(dataset))
        self.audit = Audit(self.parts)
        self.background = Background("avbench-background")
        self.checkpoints = Checkpoints(
            folder.checkpoints,
            background=self.background,
            keep=max(1, config.keep_checkpoints),
            identity={
                "dataset": dataset.fingerprint,
                "runs": [run.name for run in self.runs],
                "files of own methods": {spec.name: spec.checksum for spec in training.specs if spec.checksum},
                "share of pictures for JPEG engines": JPEG_ENGINE_SHARE,
            },
            formerly={"dataset": (dataset.index_sha256,)},
            clips=fingerprint_of(training.clip_ids),
            may_publish=folder.check_held,
        )
        self.watchdog = Watchdog(
            hang_seconds=config.hang_seconds,
            failed=lambda: self.background.failed,
            on_failure=self.background.wait,
            has_news=self.bad_clips.has_news,
            on_news=self._take_in_bad_clips,
        )
        self.journal = Journal(
            folder, epochs=config.epochs, steps_per_epoch=len(self.loaders["train"]), is_main=self.world.is_main
        )

    def fit(self, *, resume: bool, save_config: Callable[[Path], None]) -> str:
        """Train to the end, write predictions and confidences; returns what is said at the end. A collective.

        Raises Interrupted, on every rank, where a signal asked for it; what was trained is saved by then. Raises
        AllDiverged, on every rank, where no run is left.
        """
        with ExitStack() as stack:
            if not resume:
                # Before anything else is written: from here on there is a run to be resumed.
                on_main(str(self.folder.path), lambda: self._describe_launch(save_config))
            stack.enter_context(self.journal)
            self.side_by_side = stack.enter_context(
                SideBySide(
                    threads=self.config.compute_threads,
                    device=self.device,
                    streams=self.config.streams,
                    compiles=self.training.engine.compile,
                )
            )
            self.passes = Passes(self.dtype, self.side_by_side, self.bad_clips)
            self.judging = Judging(
                self.runs,
                self.loaders,
                self.passes,
                self.audit,
                self.background,
                self.checkpoints,
                self.journal,
                epochs=self.config.epochs,
                patience=self.config.patience,
                began=time.monotonic(),
            )
            for loader in self.loaders.values():
                stack.callback(loader.close)
            stack.callback(self.decoding.close)
            stack.callback(self.background.close)
            stack.enter_context(self.watchdog)
            position = Position(0, 0, 0, {})
            if resume:
                position = self._go_on()
                on_main(str(self.folder.path), lambda: self._describe_launch(save_config))
            self.monitor = Monitor(
                self.device,
                world_size=self.world.size,
                writing_seconds=lambda: self.background.worked_seconds,
                stalled_seconds=self.loaders["train"].take_stalled_seconds,
            )
            self._say_what_makes_it_slower()
            self.profiler = stack.enter_context(
                Profiler(
                    self.folder.profile / f"rank-{self.world.rank}.json",
                    steps=self.config.profile,
                    device=self.device,
                    say=self.journal.event,
                )
            )
            self.journal.draw_from(position.epoch * len(self.loaders["train"]) + position.batch, is_resumed=resume)
            try:
                self._train(position)
                self._finish()
            except Interrupted as interrupted:
                raise self._stopped(interrupted) from None
        # All that was open is closed: what follows is the last word.
        if all_diverged_of(self.runs):
            raise AllDiverged(on_main(str(self.folder.path), lambda: all_diverged(self.folder)))
        return on_main(str(self.folder.path), self._closing_words)

    def _closing_words(self) -> str:
        table = closing_table(self.runs, epochs=self.config.epochs)
        return "\n".join([table, what_is_kept(self.folder), next_command(self.folder)])

    def _say_what_makes_it_slower(self) -> None:
        """Once a launch, so that nothing is slower than it could be without a word."""
        modalities = modalities_read(self.runs)
        texts = [self.loaders["train"].resampling_text] if "audio" in modalities else []
        if self.device.type == "cuda":
            texts += [self.decoding.nearby.text, self.monitor.no_gpu_numbers]
        for text in filter(None, texts):
            self.journal.say(text)

    def _train(self, position: Position) -> None:
        for epoch in range(position.epoch, self.config.epochs):
            if not any(run.is_training for run in self.runs):
                break
            first_batch = position.batch if epoch == position.epoch else 0
            self.done = self.logged = self.saved = (epoch, first_batch)
            if first_batch == 0:
                self._prepare_epoch(epoch, position if epoch == position.epoch else Position(epoch, 0, 0, {}))
            self._train_epoch(epoch, first_batch=first_batch)
            self.judging.collect()
            self._take_in_bad_clips()  # those of this epoch are expected nowhere
            self.judging.judge(epoch)
            self.bad_clips.take_back(self.journal, epoch=epoch + 1)
            self._save(epoch + 1, 0)

    def _stopped(self, interrupted: Interrupted) -> Interrupted | RunError:
        """Save what was done since the last checkpoint, and say where it goes on. A collective."""
        epoch, done = self.done
        if self.done != self.logged:
            self._log_steps(epoch, done)
        if self.done != self.saved:
            self._save(epoch, done)
        within, is_kept = None, True
        if self.preparing is not None:
            view, prepared = self.preparing
            within, is_kept = view.within, view.run.method.resumes_passes
            if is_kept and not view.is_saved:
                self._save(epoch, 0, prepared=prepared, within=within)
        self.watchdog.at("writing the last checkpoint")
        self.background.wait()
        batches = len(self.loaders["train"])
        stop = Stop(interrupted.signal, epoch, done, batches, within, is_kept, is_trained=self.is_trained)
        if isinstance(interrupted, TooManyBadClips):
            # No interrupted.json: nothing is to start it again before somebody has looked.
            place, lost = stop.place()
            self.journal.write(
                {"kind": "event", "text": f"stopped {place}: too many bad clips ({len(self.bad_clips)})"}
            )
            way_out = f"{self.bad_clips.text()}; then `{resume_command(self.folder.path)}`"
            return RunError(f"{self.folder.path}: stopped {place}; {lost}. {way_out}")
        self.journal.write({"kind": "event", "text": f"interrupted by {stop.signal}", "epoch": epoch, "batch": done})
        on_main(str(self.folder.path), lambda: write_json(self.folder.interrupted, stop.marker()))
        return Interrupted(stop.signal, stop.text(self.folder.path))

    def _prepare_epoch(self, epoch: int, position: Position) -> None:
        """Let each method do what it wants done before an epoch; what took passes over data is saved at once.

        position: gone on from; what runs did before it is not done again.
        """
        for number, run in enumerate(self.judging.training_runs()):
            if number >= position.prepared:
                within = position.within if number == position.prepared else None
                self._prepare_run(run, epoch, prepared=number, within=within or Within(run.name))

    def _prepare_run(self, run: Run, epoch: int, *, prepared: int, within: Within) -> None:
        before = random_state(self.device)

        def save() -> None:
            # What the run's own training goes on with; passes draw no number from torch's global generators.
            inside = random_state(self.device)
            set_random_state(before, self.device)
            self._save(epoch, 0, prepared=prepared, within=view.within)
            set_random_state(inside, self.device)

        view = self._view(run, Clock(epoch, run.progress.step, self.config.epochs), within=within, save=save)
        try:
            self.preparing = view, prepared
            with closing(view):
                run.method.before_epoch(view)
        finally:
            set_random_state(before, self.device)
        self.preparing = None
        run.forget_forks()
        if view.passes:
            done = view.within
            numbers = {"before_epoch_seconds": done.seconds, "passes": done.passes, "clips": done.clips}
            self.journal.write({"kind": "performance", **run.key, "epoch": epoch, "batch": 0, **numbers})
            self._save(epoch, 0, prepared=prepared + 1)

    def _view(self, run: Run, clock: Clock, *, within: Within, save: Callable[[], None]) -> View:
        return View(
            run,
            clock,
            parts=self.parts,
            decoding=self.decoding,
            optimizer=self.training.optimizer,
            steps_per_epoch=len(self.loaders["train"]),
            passes=self.passes,
            display=self.journal.display,
            say=lambda text, numbers: self.journal.event(f"{run.name}: {text}", run=run, epoch=clock.epoch, **numbers),
            within=within,
            save=save,
        )

    def _train_epoch(self, epoch: int, *, first_batch: int) -> None:
        self.monitor.restart()
        done = first_batch
        while done < len(self.loaders["train"]) and self.judging.training_runs():
            done = self._train_batches(epoch, first_batch=done)

    def _train_batches(self, epoch: int, *, first_batch: int) -> int:
        """Train to the epoch's end, or until less needs to be decoded than at the start; returns the batches done."""
        loader, modalities = self.loaders["train"], modalities_read(self.judging.training_runs())
        # A clip that was left out stays so, though its bad bytes may be of a modality that nobody reads any more.
        batches = loader.epoch(epoch, first_batch=first_batch, modalities=modalities, left_out=self.bad_clips)
        for batch in self.monitor.watch(self.profiler.watch(batches)):
            self._train_batch(batch, epoch)
            done = batch.position + 1
            self.done = (epoch, done)
            is_due = done % self.config.checkpoint_steps == 0 and done < len(loader)
            # A checkpoint holds no half interval, so one ends with it.
            if is_due or done % self.config.log_steps == 0 or done == len(loader):
                self._log_steps(epoch, done)
            if is_due:
                self._save(epoch, done)
            if modalities_read(self.judging.training_runs()) != modalities:
                return done
        return len(loader)

    def _train_batch(self, batch: Batch, epoch: int) -> None:
        prepared = prepare(batch, self.dtype)
        with self.monitor.waiting_for_others():
            ready = self.own_clips.of(prepared, self.judging.training_runs())
        epochs = self.config.epochs
        total_steps = epochs * len(self.loaders["train"])

        def step(run: Run, ready: Mapping[Part, Batch] = ready) -> None:
            self.watchdog.at(f"epoch {epoch}, batch {batch.position} of train, {run.name}")
            with record_function(run.name):
                run.train_step(ready[run.trains_on], epoch=epoch, epochs=epochs, total_steps=total_steps)

        runs = longest_first(run for run in self.judging.training_runs() if run.trains_on in ready)

        def step_on(clips: int) -> None:
            # What the runs learn of it is lost: this training ends here.
            few = self.own_clips.of(prepared.select(slice(clips)), runs)
            self.side_by_side.each([run for run in runs if run.trains_on in few], partial(step, ready=few))

        if not fits(lambda: self.side_by_side.each(runs, step)):
            clips, ranks = len(prepared), self.world.size
            # A step is a collective, and the others are in the middle of this one.
            largest = largest_that_fits(step_on, too_many=clips) if ranks == 1 else None
            raise too_large(clips, largest=largest, ranks=ranks, accumulation=self.training.engine.accumulation)

    def _log_steps(self, epoch: int, done: int) -> None:
        self.logged = (epoch, done)
        means = self.judging.collect()
        self.journal.steps(epoch, done, runs=self.runs, means=means, speed=self.monitor.report())

    def _save(self, epoch: int, batch: int, *, prepared: int = 0, within: Within | None = None) -> None:
        self.bad_clips.collect(self.journal, epoch=self.done[0])
        position = Position(epoch, batch, self.journal.flushed(), dict(self.bad_clips.reasons), prepared, within)
        self.saved = (epoch, batch)
        self.watchdog.at(f"copying checkpoint {position.name}")
        self.checkpoints.save(position, runs=self.runs, stores=list(self.stores.values()))

    def _go_on(self) -> Position:
        on_main(str(self.folder.path), lambda: self.folder.check_dataset(self.dataset))
        path, complaints = on_main(str(self.folder.checkpoints), self.checkpoints.newest)
        for complaint in complaints:
            self.journal.say(f"not resumed from {complaint}")
        if path is None:
            position = Position(0, 0, 0, {})
            self.journal.say("no checkpoint was made yet: starting from the beginning")
        else:
            on_main(str(self.folder.checkpoints), lambda: self.checkpoints.set_newer_aside(path))
            position = self.checkpoints.load(
                path, runs=self.runs, stores=list(self.stores.values()), device=self.device
            )
            self.journal.say(f"resumed from {path.name}")
        for run in self.runs:
            if not run.is_training:
                self.journal.say(f"{run.name} had stopped and stays so: {run.progress.finished}")
        self.bad_clips.go_on_with(position.bad_clips, self.journal)
        if not position.batch and position.within is None:
            self.bad_clips.take_back(self.journal, epoch=position.epoch)
        self.judging.began -= max(run.progress.seconds for run in self.runs)
        self.journal.cut_back(position.metrics_offset)
        return position

    def _finish(self) -> None:
        """Write what the analysis reads: confidences, and predictions of each run's best epoch."""
        self.done = self.logged = self.saved
        self.is_trained = True
        self.background.wait()
        self.watchdog.at("writing confidence.parquet")
        Ending(
            self.training,
            self.folder,
            self.runs,
            self.loaders,
            self.decoding,
            self.passes,
            self.checkpoints,
            self.journal,
        ).write()
        self.bad_clips.collect(self.journal, epoch=self.done[0])  # of its last batches

    def _describe_launch(self, save_config: Callable[[Path], None]) -> None:
        self.folder.interrupted.unlink(missing_ok=True)
        self.folder.finished.unlink(missing_ok=True)
        save_config(self.folder.config)
        write_json(self.folder.dataset, self.dataset.summary())
        write_json(self.folder.runs, {run.spec.name: run.describe() for run in self.runs})
        environment = describe_environment(
            world_size=self.world.size, device=self.device, dtype=self.dtype, clip_ids=self.clip_ids
        )
        self.journal.launch = record_launch(self.folder, environment)

    def _take_in_bad_clips(self) -> None:
        """Make those that any rank has found known to all; raises TooManyBadClips, on every rank. A collective."""
        self.bad_clips.collect(self.journal, epoch=self.done[0])
        self.bad_clips.check()
