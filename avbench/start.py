"""The one call that trains: `avbench.start(config)`, for the command line, notebooks, sweeps and servers alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from avbench.config import TrainConfig, check_resumed, load_config
from avbench.dataset import Dataset
from avbench.distributed import current_world, on_main, process_group, together, world_from_environment
from avbench.engine.precision import pick_precision
from avbench.errors import AllDiverged, UsageError
from avbench.integrity import check_contents, leftovers
from avbench.loading.gpu import check_driver, why_unused
from avbench.loading.presets import preset
from avbench.methods.choice import RunSpec, parse_methods
from avbench.training.clips import check_clips, select_clips
from avbench.training.closing import all_diverged
from avbench.training.fit import train
from avbench.training.held_folder import HeldFolder
from avbench.training.training import Training
from avbench.training.tuning import tuned
from avbench.vocabulary import MODALITIES


def start(
    config: TrainConfig,
    *,
    resume: bool = False,
    auto_resume: bool = False,
    overwrite: bool = False,
    tune: bool = False,
) -> str:
    """Train as the configuration says, to the end. A collective: under torchrun every rank calls it.

    resume: go on with the run in config.out. auto_resume: go on with it if there is one, else start it. overwrite:
    replace it. tune: measure the loader first, and choose its threads and its depth where they are not given.
    Returns what a person wants to read at the end, the same on every rank.
    Raises UsageError, RunError or DatasetError for a mistake, with the run folder as it was; Interrupted after a
    signal, with all progress saved; AllDiverged where no run is left.
    """
    if auto_resume and (resume or overwrite):
        raise UsageError(f"--auto-resume and --{'resume' if resume else 'overwrite'} exclude each other")
    specs = parse_methods(config.methods)
    device = device_of_this_rank()
    if device.type == "cuda":
        check_driver()
    elif world_from_environment().is_main and (why := why_unused()):
        print(f"avbench: {why}", file=sys.stderr)
    # What "auto" means is decided once: a run resumed on another machine computes as it began.
    precision = pick_precision(config.engine.precision, device)
    config = replace(config, engine=replace(config.engine, precision=precision))
    folder = HeldFolder(config.out)
    # The watchdog, which knows who hangs, is to speak before the process group, which knows not.
    with process_group(device=device, timeout_seconds=max(1800.0, 2 * config.training.hang_seconds)):
        if resume:
            on_main(str(config.out), lambda: _check_begun(folder, config))
        if auto_resume:
            if text := on_main(str(config.out), lambda: all_diverged(folder)):
                raise AllDiverged(text)
            # Rank 0 looks, for all: a moment later its own config.toml is there.
            resume = on_main(str(config.out), lambda: _is_begun(folder, config))
            if resume and on_main(str(config.out), lambda: folder.is_finished(epochs=config.training.epochs)):
                return f"{config.out}: finished already"
        dataset = _opened(config.dataset, resume=folder if resume else None)
        clip_ids = select_clips(dataset, classes=config.classes, fraction=config.fraction)
        if tune:
            config = _tuned(config, dataset, clip_ids, specs, device=device, resume=resume, overwrite=overwrite)
        training = Training(
            dataset,
            clip_ids,
            specs,
            config.seeds,
            preset(config.preset),
            config.training,
            config.optimizer,
            config.engine,
            device,
        )
        return train(training, folder, save_config=config.save, resume=resume, overwrite=overwrite)


def _opened(path: Path, *, resume: HeldFolder | None) -> Dataset:
    """The dataset of a training that starts, its files checked by rank 0 for all. A collective.

    resume: the folder of the run that is gone on with. Raises RunError, on every rank, where the run was begun with
    another dataset; RunError or DatasetError where the dataset is missing or not as it was packed.
    """

    def opened() -> Dataset:
        if resume is not None and not path.exists():
            raise UsageError(
                f"{path}: no such dataset folder; if it was moved, name its new place: "
                f"`avbench train NEW-PLACE --out {resume.path} --resume`"
            )
        return Dataset(path)

    dataset = together(str(path), opened)
    on_main(str(path), dataset.check_shards)
    if resume is not None:
        on_main(str(resume.path), lambda: resume.check_dataset(dataset))
    on_main(str(path), lambda: check_contents(dataset))
    # It takes reading some of the index, which one rank does for all.
    dataset.fingerprint = on_main(str(path), lambda: dataset.fingerprint)
    for text in on_main(str(path), lambda: leftovers(dataset)):
        if current_world().is_main:
            print(f"avbench: {dataset.path}: {text}", file=sys.stderr)
    return dataset


def _tuned(
    config: TrainConfig,
    dataset: Dataset,
    clip_ids: dict[str, np.ndarray],
    specs: Sequence[RunSpec],
    *,
    device: torch.device,
    resume: bool,
    overwrite: bool,
) -> TrainConfig:
    """The configuration with what was measured, once nothing about the run folder can refuse it. A collective."""
    folder, training = HeldFolder(config.out), config.training
    if resume:
        saved = load_config(folder.config).training
        training = replace(
            training,
            loader_threads=training.loader_threads or saved.loader_threads,
            prefetch=training.prefetch or saved.prefetch,
        )
    on_main(str(config.out), folder.check_resumable if resume else partial(folder.check_new, overwrite=overwrite))
    check_clips(dataset, clip_ids)
    training, text = tuned(
        training,
        dataset,
        clip_ids["train"],
        preset=preset(config.preset),
        modalities=[name for name in MODALITIES if any(name in spec.method.modalities for spec in specs)],
        computed_in=getattr(torch, config.engine.precision),
        device=device,
    )
    if current_world().is_main:
        print(text, flush=True)
    return replace(config, training=training)


def _check_begun(folder: HeldFolder, config: TrainConfig) -> None:
    """Raises RunError where there is no run to go on with, UsageError where it is another than is asked for."""
    folder.check_resumable()
    check_resumed(load_config(folder.config), config)


def _is_begun(folder: HeldFolder, config: TrainConfig) -> bool:
    """Whether there is a run to go on with; UsageError where it is another than the one that is asked for."""
    if not folder.config.exists():
        return False
    check_resumed(load_config(folder.config), config)
    return True


def device_of_this_rank() -> torch.device:
    """This rank's GPU, or the CPU where there is none. Raises UsageError where ranks would share one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank = world_from_environment().local_rank
    if local_rank >= torch.cuda.device_count():
        if torch.cuda.device_count() == 1 and "RANK" not in os.environ:
            return torch.device("cuda", 0)  # Slurm bound one GPU to each task
        raise UsageError(
            f"local rank {local_rank} has no GPU of its own ({torch.cuda.device_count()} here); "
            f"start at most one rank a GPU, or hide them for CPU training: CUDA_VISIBLE_DEVICES="
        )
    return torch.device("cuda", local_rank)


class _Callable(ModuleType):
    """This module, callable like its function: `avbench.start` is the module as soon as anybody has imported it."""

    def __call__(self, *arguments: Any, **options: Any) -> str:
        return start(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
