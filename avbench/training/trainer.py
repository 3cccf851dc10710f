"""The loop: one batch, many runs.

Every rank computes; rank 0 writes. All runs of a pass see the same batches in the same order, each clip decoded once.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.profiler import record_function
from torch.utils.tensorboard import SummaryWriter

from avbench.batch import Batch, Clock, Modality
from avbench.confidence import ConfidenceStore, export
from avbench.dataset import Dataset, checksum
from avbench.distributed import (
    current_world,
    gather_objects,
    on_main,
    ranks_on_this_node,
)
from avbench.engine import EngineConfig, OptimizerConfig, Precision, pick_precision, random_state, set_random_state
from avbench.errors import AllDiverged, DatasetError, Interrupted, RunError, UsageError, unknown
from avbench.loading.cores import Nearby, cores_near
from avbench.loading.features import Preset
from avbench.loading.gpu import JPEG_ENGINE_SHARE
from avbench.loading.loader import DEFAULT_PREFETCH, Loader
from avbench.loading.pool import PipelinePool
from avbench.methods import RunSpec
from avbench.methods.base import Part
from avbench.models.resnet import WIDTH
from avbench.records import SPLITS, MetricsWriter, write_json
from avbench.training.audit import Audit, Count, said_of
from avbench.training.background import Background
from avbench.training.checkpoint import Checkpoints, Position, Within
from avbench.training.closing import (
    all_diverged,
    closing_table,
    divergence,
    divergences,
    end,
    is_without_checkpoints,
    next_command,
    tidied,
    what_is_kept,
)
from avbench.training.display import Display
from avbench.training.folder import RunFolder, describe_environment, record_launch
from avbench.training.interruption import Stop
from avbench.training.memory import fits, largest_that_fits, memory_refused_in_one_line, too_large
from avbench.training.monitor import Monitor, plotted
from avbench.training.parallel import SideBySide, longest_first
from avbench.training.parts import OwnClips, parts_for
from avbench.training.predict import evaluate, prepare
from avbench.training.profile import Profiler
from avbench.training.pulse import Pulse
from avbench.training.replacement import Means, feature_means, is_joint
from avbench.training.run import DIVERGED, Run, Taken, modalities_read, take_tallies
from avbench.training.tables import write_predictions
from avbench.training.view import View

# Of fewer channels, channels last, the gradient of a strided 1 x 1 convolution in float32 ended the process with a
# segmentation fault or a corrupted heap (torch 2.11 on a CPU with AVX2; 9, 12 and 16 ran).
_LEAST_WIDTH = 8


@dataclass(frozen=True)
class TrainerConfig:
    """How a pass trains; the same for all its runs."""

    epochs: int = 100
    """Passes over the training clips; a run ends earlier by --patience."""
    batch_size: int = 64
    """Clips in a global batch, over all ranks."""
    patience: int = 10
    """Epochs without a better validation accuracy after which a run stops; 0: never."""
    order_seed: int = 0
    """Of the order of clips and their augmentation, shared by all runs."""
    precision: Precision = "auto"
    """auto: bfloat16 where the processor has it, else float32."""
    width: int = WIDTH
    """Channels of every ResNet-18's first stage, at least 8. 64 is the published network; fewer make a quick trial on a
    laptop."""
    batch_norm: Literal["local", "global"] = "local"
    """local: each rank's own batch, as published; global: over all ranks."""
    checkpoint_steps: int = 1000
    """Steps between checkpoints within an epoch; one is always made at each epoch's end."""
    keep_checkpoints: int = 2
    """The newest ones are kept, so many; 0: while training the newest one, at the end none, only the best networks."""
    log_steps: int = 20
    """Steps between records in metrics.jsonl."""
    loader_threads: int = 0
    """Decoding threads of each rank, for sound and pictures together; 0: its share of the cores."""
    prefetch: int = 0
    """Batches that each rank decodes ahead; 0: two. More help where decoding is uneven, and each takes memory."""
    loader_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What batches are rounded to. auto: on a GPU to bfloat16 where networks compute in it, which changes no number and
    halves the batches' memory; else float32."""
    hang_seconds: float = 600.0
    """Seconds without a step after which a rank says who hangs and where, and exits."""
    exchange_megabytes: int = 64
    """Most that an exchange of confidences between ranks takes of each rank's memory, beside what is kept there."""
    compute_threads: int = 1
    """Torch's threads for each run on a CPU; runs go side by side on the cores there are. Sums of floats hang on it,
    so it is a number of its own, not the machine's."""
    streams: int = 1
    """CUDA streams that the runs of one process are spread over: what one leaves of a GPU another may use. Each keeps
    memory for a whole step of its own."""
    profile: int = 0
    """Steps to trace, the first ones after two; the trace goes to OUT/profile, its three largest costs are said."""

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "checkpoint_steps",
            "log_steps",
            "compute_threads",
            "streams",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected at least 1")
        if self.width < _LEAST_WIDTH:
            raise UsageError(f"width is {self.width}, expected at least {_LEAST_WIDTH}")
        if self.exchange_megabytes < 1:
            raise UsageError(f"exchange-megabytes is {self.exchange_megabytes}, expected at least 1")
        if not 1.0 <= self.hang_seconds < math.inf:
            raise UsageError(f"hang-seconds is {self.hang_seconds}, expected at least 1")
        for name in ("patience", "keep_checkpoints", "loader_threads", "prefetch", "order_seed", "profile"):
            if not 0 <= getattr(self, name) < 2**63:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected at least 0")


def pick_loader_dtype(wanted: str, *, computed_in: torch.dtype, device: torch.device) -> torch.dtype:
    """What batches are rounded to. Raises UsageError for bfloat16 where networks compute in more: it would be lost."""
    if wanted == "bfloat16" and computed_in != torch.bfloat16:
        raise UsageError(
            f"loader-precision is bfloat16, but networks compute in {str(computed_in).removeprefix('torch.')}; "
            f"leave it out, or add --precision bfloat16"
        )
    is_rounded = wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda")
    return torch.bfloat16 if is_rounded and computed_in == torch.bfloat16 else torch.float32


def cores_of_a_rank() -> int:
    """This rank's share of the cores that it may use."""
    return max(1, len(os.sched_getaffinity(0)) // ranks_on_this_node())


def is_finished(folder: RunFolder, *, epochs: int) -> bool:
    """Whether a training of so many epochs has ended in this folder, predictions and all."""
    try:
        return json.loads(folder.finished.read_text("utf-8"))["epochs"] == epochs
    except FileNotFoundError:
        return False


def train(
    dataset: Dataset,
    *,
    clip_ids: dict[str, np.ndarray],
    specs: Sequence[RunSpec],
    seeds: Sequence[int],
    preset: Preset,
    config: TrainerConfig,
    optimizer: OptimizerConfig,
    engine: EngineConfig,
    folder: RunFolder,
    device: torch.device,
    save_config: Callable[[Path], None],
    resume: bool = False,
    overwrite: bool = False,
) -> str:
    """Train every run in one pass, into a run folder that is new or, with `resume`, interrupted. A collective.

    save_config writes config.toml. overwrite: an earlier run in the folder is removed, once nothing can refuse the new.
    Returns what a person wants to read at the end: a table of the runs, what is kept, what to do next.
    Raises RunError, UsageError or DatasetError, on every rank, with the folder as it was; AllDiverged, with it
    complete, where no run is left.
    """
    where = str(folder.path)
    on_main(where, folder.check_resumable if resume else partial(folder.check_new, overwrite=overwrite))
    if resume and (text := on_main(where, lambda: all_diverged(folder))):
        raise RunError(text)
    keep = config.keep_checkpoints
    if resume and on_main(where, lambda: is_without_checkpoints(folder, epochs=config.epochs, keep_checkpoints=keep)):
        return on_main(where, lambda: tidied(folder, epochs=config.epochs, save_config=save_config))
    with ExitStack() as stack:
        stack.enter_context(memory_refused_in_one_line())
        trainer = Trainer(
            dataset,
            clip_ids=clip_ids,
            specs=specs,
            seeds=seeds,
            preset=preset,
            config=config,
            optimizer=optimizer,
            engine=engine,
            folder=folder,
            device=device,
        )
        on_main(where, lambda: stack.enter_context(folder.locked()))
        if overwrite and not resume:
            on_main(where, folder.clear)
        return trainer.fit(resume=resume, save_config=save_config)
    raise AssertionError("the stack swallows no exception")


class Trainer:
    """One pass over a dataset that trains every run.

    clip_ids: per split ("train", "val", "test") the ids to use. Call `fit` once.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        clip_ids: dict[str, np.ndarray],
        specs: Sequence[RunSpec],
        seeds: Sequence[int],
        preset: Preset,
        config: TrainerConfig,
        optimizer: OptimizerConfig,
        engine: EngineConfig,
        folder: RunFolder,
        device: torch.device,
    ) -> None:
        self.world = current_world()
        self.dataset, self.clip_ids, self.config, self.folder, self.device = dataset, clip_ids, config, folder, device
        self.dtype: torch.dtype = getattr(torch, pick_precision(config.precision, device))
        if device.type == "cuda":
            # Reproducible, and float32 where float32 is asked for: by default convolutions would be TF32.
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.allow_tf32 = False
        self.nearby = cores_near(device) if device.type == "cuda" else Nearby(None, "")
        self.loader_dtype = pick_loader_dtype(config.loader_precision, computed_in=self.dtype, device=device)
        check_clips(dataset, clip_ids)
        self.stores = _stores(
            specs, seeds, dataset=dataset, folder=folder, buffer_bytes=config.exchange_megabytes << 20
        )
        self.runs = [
            Run(
                spec,
                seed=seed,
                classes=len(dataset.classes),
                optimizer=optimizer,
                engine=engine,
                device=device,
                dtype=self.dtype,
                batch_norm=config.batch_norm,
                width=config.width,
                store=self.stores.get((spec.name, seed)),
            )
            for seed in seeds
            for spec in specs
        ]
        self.preset, self.optimizer = preset, optimizer
        self.accumulation, self.compiles = engine.accumulation, engine.compile
        self.bad_clips: dict[int, str] = {}  # of all ranks
        # (epoch, batches): that were trained on, that were logged, that the newest checkpoint holds.
        self.done = self.logged = self.saved = (0, 0)
        # The passes before an epoch that are under way, and how many runs are done with theirs.
        self.preparing: tuple[View, int] | None = None
        self.is_trained = False  # predictions are what is left
        self.began = time.monotonic()  # all launches together
        self.pool = PipelinePool()  # of all loaders: they take turns
        self.loaders = {
            split: self._loader(split, clip_ids[split], config.order_seed, split == "train", modalities_read(self.runs))
            for split in SPLITS
        }
        self.parts = parts_for(self.runs, dataset, clip_ids["train"])
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
                "files of own methods": {spec.name: spec.checksum for spec in specs if spec.checksum},
                "share of pictures for JPEG engines": JPEG_ENGINE_SHARE,
            },
            clips=_fingerprint_of(clip_ids),
            may_publish=folder.check_held,
        )
        self.pulse = Pulse(
            hang_seconds=config.hang_seconds,
            failed=lambda: self.background.failed,
            on_failure=self.background.wait,
        )
        self.latest: dict[str, dict[str, Any]] = {}  # per run name its newest numbers, for the display
        self.launch = 0  # which of the folder's, from 1; of rank 0
        self.metrics: MetricsWriter | None = None  # of rank 0
        self.board: SummaryWriter | None = None

    def fit(self, *, resume: bool, save_config: Callable[[Path], None]) -> str:
        """Train to the end, write predictions and confidences; returns what is said at the end. A collective.

        Raises Interrupted, on every rank, where a signal asked for it; what was trained is saved by then. Raises
        AllDiverged, on every rank, where no run is left.
        """
        with ExitStack() as stack:
            if not resume:
                # Before anything else is written: from here on there is a run to be resumed.
                on_main(str(self.folder.path), lambda: self._describe_launch(save_config))
            if self.world.is_main:
                self.metrics = stack.enter_context(closing(MetricsWriter(self.folder.metrics)))
            self.side_by_side = stack.enter_context(
                SideBySide(
                    threads=self.config.compute_threads,
                    device=self.device,
                    streams=self.config.streams,
                    compiles=self.compiles,
                )
            )
            self.display = stack.enter_context(Display(epochs=self.config.epochs, shown=self.world.is_main))
            for loader in self.loaders.values():
                stack.callback(loader.close)
            stack.callback(self.pool.close)
            stack.callback(self.background.close)
            stack.enter_context(self.pulse)
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
                    say=self._event,
                )
            )
            if self.world.is_main:
                step = position.epoch * len(self.loaders["train"]) + position.batch
                # What was logged at this step itself was logged before the checkpoint, and is not logged again.
                board = SummaryWriter(str(self.folder.tensorboard), purge_step=step + 1 if resume else None)
                self.board = stack.enter_context(board)
            try:
                self._train(position)
                self._finish()
            except Interrupted as interrupted:
                raise self._interrupted(interrupted) from None
        # All that was open is closed: what follows is the last word.
        if self._all_diverged():
            raise AllDiverged(on_main(str(self.folder.path), lambda: all_diverged(self.folder)))
        return on_main(str(self.folder.path), self._closing_words)

    def _closing_words(self) -> str:
        table = closing_table(self.runs, epochs=self.config.epochs)
        return "\n".join([table, what_is_kept(self.folder), next_command(self.folder)])

    def _all_diverged(self) -> bool:
        return all(run.progress.finished == DIVERGED for run in self.runs)

    def _say_what_makes_it_slower(self) -> None:
        """Once a launch, so that nothing is slower than it could be without a word."""
        modalities = modalities_read(self.runs)
        texts = [self.loaders["train"].resampling_text] if "audio" in modalities else []
        if self.device.type == "cuda":
            texts += [self.nearby.text, self.monitor.no_gpu_numbers]
        for text in filter(None, texts):
            self.display.say(text)  # not in the metrics: a resumed run would have it twice

    def _train(self, position: Position) -> None:
        for epoch in range(position.epoch, self.config.epochs):
            if not any(run.is_training for run in self.runs):
                break
            first_batch = position.batch if epoch == position.epoch else 0
            self.done = self.logged = self.saved = (epoch, first_batch)
            if first_batch == 0:
                self._prepare_epoch(epoch, position if epoch == position.epoch else Position(epoch, 0, 0, {}))
            self._train_epoch(epoch, first_batch=first_batch)
            self._judge_epoch(epoch)
            self._save(epoch + 1, 0)

    def _interrupted(self, interrupted: Interrupted) -> Interrupted:
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
        self.pulse.at("writing the last checkpoint")
        self.background.wait()
        batches = len(self.loaders["train"])
        stop = Stop(interrupted.signal, epoch, done, batches, within, is_kept, is_trained=self.is_trained)
        self._write({"kind": "event", "text": f"interrupted by {stop.signal}", "epoch": epoch, "batch": done})
        on_main(str(self.folder.path), lambda: write_json(self.folder.interrupted, stop.marker()))
        return Interrupted(stop.signal, stop.text(self.folder.path))

    def _prepare_epoch(self, epoch: int, position: Position) -> None:
        """Let each method do what it wants done before an epoch; what took passes over data is saved at once.

        position: gone on from; what runs did before it is not done again.
        """
        for number, run in enumerate(self._training()):
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
            self._write({"kind": "performance", **_key(run), "epoch": epoch, "batch": 0, **numbers})
            self._save(epoch, 0, prepared=prepared + 1)

    def _view(self, run: Run, clock: Clock, *, within: Within, save: Callable[[], None]) -> View:
        return View(
            run,
            clock,
            parts=self.parts,
            loader=self._loader,
            order_seed=self.config.order_seed,
            optimizer=self.optimizer,
            steps_per_epoch=len(self.loaders["train"]),
            dtype=self.dtype,
            side_by_side=self.side_by_side,
            display=self.display,
            say=lambda text, numbers: self._event(f"{run.name}: {text}", run=run, epoch=clock.epoch, **numbers),
            within=within,
            save=save,
            save_batches=self.config.checkpoint_steps,
        )

    def _train_epoch(self, epoch: int, *, first_batch: int) -> None:
        self.monitor.restart()
        done = first_batch
        while done < len(self.loaders["train"]) and self._training():
            done = self._train_batches(epoch, first_batch=done)

    def _train_batches(self, epoch: int, *, first_batch: int) -> int:
        """Train to the epoch's end, or until less needs to be decoded than at the start; returns the batches done."""
        loader = self.loaders["train"]
        loader.modalities = modalities_read(self._training())
        # A clip that was left out stays so, though its bad bytes may be of a modality that nobody reads any more.
        for each in self.loaders.values():
            each.left_out = self.bad_clips
        for batch in self.monitor.watch(self.profiler.watch(loader.epoch(epoch, first_batch=first_batch))):
            self._train_batch(batch, epoch)
            done = batch.position + 1
            self.done = (epoch, done)
            is_due = done % self.config.checkpoint_steps == 0 and done < len(loader)
            # A checkpoint holds no half interval, so one ends with it.
            if is_due or done % self.config.log_steps == 0 or done == len(loader):
                self._log_steps(epoch, done)
            if is_due:
                self._save(epoch, done)
            if modalities_read(self._training()) != loader.modalities:
                return done
        return len(loader)

    def _train_batch(self, batch: Batch, epoch: int) -> None:
        prepared = prepare(batch, self.dtype)
        with self.monitor.waiting_for_others():
            ready = self.own_clips.of(prepared, self._training())
        epochs = self.config.epochs
        total_steps = epochs * len(self.loaders["train"])

        def step(run: Run, ready: Mapping[Part, Batch] = ready) -> None:
            self.pulse.at(f"epoch {epoch}, batch {batch.position} of train, {run.name}")
            with record_function(run.name):
                run.train_step(ready[run.trains_on], epoch=epoch, epochs=epochs, total_steps=total_steps)

        runs = longest_first(run for run in self._training() if run.trains_on in ready)

        def step_on(clips: int) -> None:
            # What the runs learn of it is lost: this training ends here.
            few = self.own_clips.of(prepared.select(slice(clips)), runs)
            self.side_by_side.each([run for run in runs if run.trains_on in few], partial(step, ready=few))

        if not fits(lambda: self.side_by_side.each(runs, step)):
            clips, ranks = len(prepared), self.world.size
            # A step is a collective, and the others are in the middle of this one.
            largest = largest_that_fits(step_on, too_many=clips) if ranks == 1 else None
            raise too_large(clips, largest=largest, ranks=ranks, accumulation=self.accumulation)

    def _take_tallies(self) -> dict[str, dict[str, float]]:
        """Each training run's means since last asked, its sums added to its open epoch; says so when one diverges."""
        means = {}
        for run, taken in self._tallies_of(self._training()):
            run.progress.count(taken)
            if taken.totals[-1]:  # else no clip was its own since then
                means[run.name] = {**_means(taken.totals), "learning_rate": run.learning_rate, **taken.log}
        return means

    def _tallies_of(self, runs: Sequence[Run]) -> list[tuple[Run, Taken]]:
        """What the runs have counted, of those that did not diverge; the others stop here."""
        for run in runs:
            run.progress.seconds = time.monotonic() - self.began
        tallies = list(zip(runs, take_tallies(runs), strict=True))
        for run in runs:
            if not run.is_training:
                run.release()
                text = f"{run.name} stopped: {run.progress.finished}, {divergence(run)}"
                self._event(text, run=run, **(run.progress.diverged or {}))
        return [(run, taken) for run, taken in tallies if run.is_training]

    def _log_steps(self, epoch: int, done: int) -> None:
        self.logged = (epoch, done)
        taken = self._take_tallies()
        speed = self.monitor.report()
        step = epoch * len(self.loaders["train"]) + done
        self._write({"kind": "performance", "launch": self.launch, "epoch": epoch, "batch": done, **speed})
        self._plot("performance", plotted(speed), step)
        for run in self.runs:
            if run.name in taken:
                numbers = taken[run.name]
                self.latest.setdefault(run.name, {}).update(numbers)
                self._write({"kind": "step", **_key(run), "epoch": epoch, "batch": done, **numbers})
                self._plot(run.name, numbers, step)
        self.display.update(self.runs, self.latest, done=epoch + done / len(self.loaders["train"]), speed=speed)

    def _judge_epoch(self, epoch: int) -> None:
        """Evaluate, commit the confidences of the epoch, and let each run stop or go on."""
        self._take_tallies()
        self._collect_bad_clips()  # those of this epoch are expected nowhere
        runs = self._training()
        training = {run.name: _means(run.progress.open_epoch) for run in runs}
        clock = Clock(epoch, runs[0].progress.step if runs else 0, self.config.epochs)
        before = [{name: buffer.clone() for name, buffer in run.buffers().items()} for run in runs]
        for run in runs:
            run.engine.average_buffers()
        try:
            validation = self._evaluate("val", runs, clock)
            # Test clips are looked at for their confidence only: no number of theirs is shown or chosen by.
            self._evaluate("test", [run for run in self._training() if run.store is not None], clock)
        except Interrupted:
            # They are averaged again when the epoch is judged after all, to the same bits.
            for run, buffers in zip(runs, before, strict=True):
                for name, buffer in run.buffers().items():
                    buffer.copy_(buffers[name])
            raise
        for run in self._training():
            audited = self._audited(run, epoch)
            run.progress.close_epoch()
            if run.store is not None:
                # To their ranks and to the history beside the next epoch, and before the checkpoint that holds it.
                self.background.do(run.store.committing(epoch))
            numbers = {**training[run.name], **{f"val_{name}": value for name, value in validation[run.name].items()}}
            if run.progress.judge(epoch=epoch, accuracy=numbers["val_accuracy"], patience=self.config.patience):
                self.checkpoints.save_best(run)
            self.latest.setdefault(run.name, {}).update(numbers)
            self._write({"kind": "epoch", **_key(run), "epoch": epoch, **numbers, **audited})
            step = (epoch + 1) * len(self.loaders["train"])
            self._plot(run.name, {f"epoch_{name}": value for name, value in numbers.items()}, step)
            if not run.is_training:
                run.release()
                self._event(f"{run.name} stopped after epoch {epoch}: {run.progress.finished}", run=run)

    def _audited(self, run: Run, epoch: int) -> dict[str, Any]:
        """What the epoch's record says of the clips that the run has counted."""
        counted = run.progress.counted
        record = self.audit.record(
            run.trains_on, None if counted is None else Count(*counted), left_out=self.bad_clips.keys()
        )
        if text := said_of(run.name, epoch, record):
            self._event(text, run=run, epoch=epoch)
        return record

    def _evaluate(self, split: str, runs: Sequence[Run], clock: Clock) -> dict[str, dict[str, float]]:
        if not runs:
            return {}
        evaluate(self.loaders[split], runs, clock=clock, dtype=self.dtype, side_by_side=self.side_by_side)
        return {run.name: _means(taken.totals) for run, taken in self._tallies_of(runs)}

    def _save(self, epoch: int, batch: int, *, prepared: int = 0, within: Within | None = None) -> None:
        self._collect_bad_clips()
        if self.board is not None:
            self.board.flush()  # what a resumed run does not log again
        offset = self.metrics.offset() if self.metrics is not None else 0
        position = Position(epoch, batch, offset, dict(self.bad_clips), prepared, within)
        self.saved = (epoch, batch)
        self.pulse.at(f"copying checkpoint {position.name}")
        self.checkpoints.save(position, runs=self.runs, stores=list(self.stores.values()))

    def _go_on(self) -> Position:
        on_main(str(self.folder.path), lambda: self.folder.check_dataset(self.dataset))
        path, complaints = on_main(str(self.folder.checkpoints), self.checkpoints.newest)
        for complaint in complaints:
            self.display.say(f"not resumed from {complaint}")
        if path is None:
            position = Position(0, 0, 0, {})
            self.display.say("no checkpoint was made yet: starting from the beginning")
        else:
            on_main(str(self.folder.checkpoints), lambda: self.checkpoints.set_newer_aside(path))
            position = self.checkpoints.load(
                path, runs=self.runs, stores=list(self.stores.values()), device=self.device
            )
            self.display.say(f"resumed from {path.name}")
        for run in self.runs:
            if not run.is_training:
                self.display.say(f"{run.name} had stopped and stays so: {run.progress.finished}")
        self.bad_clips = position.bad_clips
        self.began -= max(run.progress.seconds for run in self.runs)
        if self.metrics is not None:
            self.metrics.cut_back(position.metrics_offset)
        return position

    def _finish(self) -> None:
        """Write what the analysis reads: confidences, and predictions of each run's best epoch."""
        self.done = self.logged = self.saved
        self.is_trained = True
        self.background.wait()
        self.pulse.at("writing confidence.parquet")
        runs = [run for run in self.runs if run.progress.finished != DIVERGED and run.progress.best_epoch >= 0]
        # A network that diverged is in no table, and cuts no subset either: not even with what it left when it was
        # trained for fewer epochs.
        stores = [run.store for run in runs if run.store is not None]
        stale = [] if stores else [self.folder.confidence]
        for run in self.runs:
            if run not in runs:
                stale += [self.folder.prediction_file(run.spec.name, run.seed, split) for split in SPLITS]
        on_main(str(self.folder.path), lambda: [path.unlink(missing_ok=True) for path in stale])
        if stores:
            missed = export(self.folder.confidence, stores=stores, dataset=self.dataset)
            unused = len(self.dataset) - len(self.dataset.quarantined) - sum(map(len, self.clip_ids.values()))
            for store, clips in missed.items():
                if clips:
                    self._event(_missing_text(store, clips, unused=unused, bad=len(self.bad_clips)))
        for run in runs:
            self.checkpoints.load_best(run, self.device)
        means = self._feature_means([run for run in runs if is_joint(run)])
        for run in runs:
            if is_joint(run) and run.name not in means:
                text = "is not predicted without a modality: its feature modules were not called"
                self._event(f"{run.name} {text}", run=run)
        for split in ("val", "test"):
            if runs:
                paths = [self.folder.prediction_file(run.spec.name, run.seed, split) for run in runs]
                write_predictions(
                    self.loaders[split],
                    runs,
                    means=means,
                    dataset=self.dataset,
                    split=split,
                    paths=paths,
                    dtype=self.dtype,
                    side_by_side=self.side_by_side,
                )
        if self._all_diverged():
            self._write({"kind": "event", "text": "no run is left: all diverged"})
            on_main(str(self.folder.path), lambda: write_json(self.folder.diverged, divergences(self.runs)))
            return
        self._write({"kind": "event", "text": "finished"})
        epochs, keep = self.config.epochs, self.config.keep_checkpoints
        on_main(str(self.folder.path), lambda: end(self.folder, epochs=epochs, keep_checkpoints=keep))

    def _feature_means(self, runs: Sequence[Run]) -> dict[str, Means]:
        """What replaces a modality's features: their mean over train, as evaluation sees it."""
        if not runs:
            return {}
        modalities = modalities_read(runs)
        with closing(self._loader("train, for means", self.clip_ids["train"], 0, False, modalities)) as loader:
            return feature_means(loader, runs, dtype=self.dtype, side_by_side=self.side_by_side)

    def _describe_launch(self, save_config: Callable[[Path], None]) -> None:
        self.folder.interrupted.unlink(missing_ok=True)
        self.folder.finished.unlink(missing_ok=True)
        save_config(self.folder.config)
        write_json(self.folder.dataset, self.dataset.summary())
        write_json(self.folder.runs, {run.spec.name: run.describe() for run in self.runs})
        environment = describe_environment(
            world_size=self.world.size, device=self.device, dtype=self.dtype, clip_ids=self.clip_ids
        )
        self.launch = record_launch(self.folder, environment)

    def _collect_bad_clips(self) -> None:
        """Make every rank's newly found bad clips known to all, and say so once for each."""
        found = {clip: reason for loader in self.loaders.values() for clip, reason in loader.bad_clips.items()}
        for of_rank in gather_objects(found):
            for clip, reason in of_rank.items():
                if clip not in self.bad_clips:
                    self.bad_clips[clip] = reason
                    text = f"clip {self.dataset.key(clip)} is left out: {reason}"
                    self._event(text, clip_id=clip, epoch=self.done[0])

    def _training(self) -> list[Run]:
        return [run for run in self.runs if run.is_training]

    def _loader(
        self, name: str, clip_ids: np.ndarray, seed: int, training: bool, modalities: tuple[Modality, ...]
    ) -> Loader:
        """A loader of these clips, whose every batch is a beat. name: of the clips, said where a rank hangs."""
        loader = Loader(
            self.dataset,
            clip_ids,
            preset=self.preset,
            batch_size=self.config.batch_size,
            seed=seed,
            training=training,
            modalities=modalities,
            device=self.device,
            world=self.world,
            threads=self.config.loader_threads or cores_of_a_rank(),
            prefetch=self.config.prefetch or DEFAULT_PREFETCH,
            dtype=self.loader_dtype,
            cores=self.nearby.cores,
            pool=self.pool,
        )
        loader.left_out = self.bad_clips
        loader.before_batch = lambda epoch, batch: self.pulse.beat(f"epoch {epoch}, batch {batch} of {name}")
        return loader

    def _write(self, record: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(record)

    def _event(self, text: str, *, run: Run | None = None, **numbers: float) -> None:
        self._write({"kind": "event", **(_key(run) if run else {}), "text": text, **numbers})
        self.display.say(text)

    def _plot(self, group: str, numbers: dict[str, Any], step: int) -> None:
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(f"{group}/{name}", float(value), step)


def select_clips(dataset: Dataset, *, classes: Sequence[str], fraction: float) -> dict[str, np.ndarray]:
    """Per split the ids to use: of these classes only (all where none is named), and of train this share of each class.

    A dataset is packed in a random order, so the first clips of a class are a random choice that grows with `fraction`.
    Raises UsageError for a class that the dataset does not have.
    """
    if len(set(classes)) < len(classes):
        raise UsageError(f"--classes names one twice: {', '.join(classes)}")
    for name in classes:
        if name not in dataset.classes:
            raise UsageError(unknown(f"class of {dataset.path}", name, dataset.classes))
    if len(classes) == 1:
        raise UsageError(f"--classes names {classes[0]!r} alone; there is nothing to tell apart with less than two")
    wanted = [dataset.classes.index(name) for name in classes] or range(len(dataset.classes))
    selected = {}
    for split in SPLITS:
        ids = dataset.clip_ids(split)
        share = fraction if split == "train" else 1.0
        of_class = [ids[dataset.labels[ids] == label] for label in wanted]
        selected[split] = np.sort(np.concatenate([part[: math.ceil(share * len(part))] for part in of_class]))
    return selected


def check_clips(dataset: Dataset, clip_ids: dict[str, np.ndarray]) -> None:
    """Raises DatasetError where a split has no clips, or the test split has one class only."""
    for split in SPLITS:
        if len(clip_ids[split]) == 0:
            raise DatasetError(f"{dataset.path}: the {split} split has no clips; pack it again with some")
    if len(np.unique(dataset.labels[clip_ids["test"]])) < 2:
        raise DatasetError(
            f"{dataset.path}: the test split has clips of one class only, so every accuracy would be meaningless; "
            f"pack it again with more classes in it"
        )


def _stores(
    specs: Sequence[RunSpec], seeds: Sequence[int], *, dataset: Dataset, folder: RunFolder, buffer_bytes: int
) -> dict[tuple[str, int], ConfidenceStore]:
    """A store for each unimodal run. Raises UsageError where two runs would feed one."""
    feeding: dict[str, str] = {}
    for spec in specs:
        modality = spec.method.confidence_of
        if modality in feeding:
            raise UsageError(
                f"--methods: runs {feeding[modality]!r} and {spec.name!r} would both be the {modality} confidence; "
                f"train one of them into another run folder"
            )
        if modality is not None:
            feeding[modality] = spec.name
    return {
        (spec.name, seed): ConfidenceStore(
            len(dataset),
            modality=spec.method.confidence_of,
            seed=seed,
            history=folder.history,
            buffer_bytes=buffer_bytes,
            key_of=dataset.key,
        )
        for seed in seeds
        for spec in specs
        if spec.method.confidence_of is not None
    }


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


def _fingerprint_of(clip_ids: dict[str, np.ndarray]) -> str:
    joined = np.concatenate([np.append(np.int64(len(clip_ids[split])), clip_ids[split]) for split in SPLITS])
    return f"{checksum(joined):016x}"


def _key(run: Run) -> dict[str, Any]:
    return {"run": run.spec.name, "method": run.spec.method.name, "seed": run.seed}


def _means(totals: Sequence[float]) -> dict[str, float]:
    loss, correct, clips = totals
    return {"loss": loss / max(clips, 1.0), "accuracy": correct / max(clips, 1.0), "clips": clips}
