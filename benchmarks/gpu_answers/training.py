"""Training that is fed: our own, in one pass and apart, and a DataLoader that feeds the plain loop."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from methods import synchronize, without_estimates
from peers import Task
from peers.tensors import ClipTensors, samples_of
from step import PlainLoop
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.loading.loader import Loader
from avbench.loading.presets import preset
from avbench.methods.choice import RunSpec, parse_methods
from avbench.records import read_metrics
from avbench.training.config import TrainerConfig
from avbench.training.decoding import cores_of_a_rank
from avbench.training.held_folder import HeldFolder
from avbench.training.trainer import Trainer
from avbench.training.training import Training
from avbench.vocabulary import MODALITIES
from gpu_answers import Row
from gpu_answers.setting import Setting

_REPORTED = (
    "clips_per_second",
    "data_wait_share",
    "gpu_data_wait_share",
    "gpu_use_share",
    "gpu_sm_activity_share",
    "gpu_sm_occupancy_share",
    "gpu_tensor_share",
    "gpu_memory_bytes",
    "gpu_power_watts",
    "joules_per_clip",
    "cpu_cores_busy",
)
_WORKER_SECONDS = 60.0  # without a batch from the workers: rather than wait for ever


def rows(setting: Setting) -> Iterator[Row]:
    """`training`."""
    baseline, together = parse_methods(["baseline"]), without_estimates(setting.specs)
    for codec in setting.codecs:
        yield Row("training", f"baseline, {codec}", 12, partial(trained, setting, codec, baseline))
    yield Row("training", "all methods, flac", 30, partial(trained, setting, "flac", together))
    words = f"all methods, flac, {len(together)} streams"
    yield Row("training", words, 30, partial(trained, setting, "flac", together, streams=len(together)))
    for precision in dict.fromkeys(("float32", setting.precision)):
        words = f"plain loop, DataLoader, {precision}"
        yield Row("training", words, 20, partial(fed_plain_loop, setting, precision))


def later_rows(setting: Setting) -> Iterator[Row]:
    """What is asked for last: other codecs in one pass, `apart`, `predictions`, `profile`."""
    together = without_estimates(setting.specs)
    yield Row("profile", "all methods", 35, partial(profiled, setting, together))
    for codec in setting.codecs[1:]:
        yield Row("training", f"all methods, {codec}", 30, partial(trained, setting, codec, together))
    yield Row("predictions", "baseline", 6, partial(predicted, setting))
    for spec in together:
        yield Row("apart", f"{spec.name}, flac", 12, partial(trained, setting, "flac", [spec]))


def trainer_of(
    setting: Setting,
    codec: str,
    folder: Path,
    *,
    specs: Sequence[RunSpec],
    epochs: int = 2,
    clips: int = 0,
    preset_name: str = "",
    batch_size: int = 0,
    **options: Any,
) -> Trainer:
    """As `avbench train` makes it, for an epoch of repeated clips."""
    dataset = setting.dataset(codec)
    splits = {split: dataset.clip_ids(split) for split in ("val", "test")}
    training = Training(
        dataset,
        clip_ids={"train": setting.tiled(codec, clips or setting.config.epoch_clips), **splits},
        specs=specs,
        seeds=(0,),
        preset=preset(preset_name or setting.config.preset),
        config=TrainerConfig(epochs=epochs, batch_size=batch_size or setting.config.batch_size, **options),
        optimizer=OptimizerConfig(),
        engine=EngineConfig(),
        device=setting.device,
    )
    return Trainer(training, HeldFolder(folder))


def fit(trainer: Trainer, *, resume: bool = False) -> None:
    """Train to the end."""
    with trainer.folder.locked():
        trainer.fit(resume=resume, save_config=lambda path: path.write_text(""))


def trained(setting: Setting, codec: str, specs: Sequence[RunSpec], *, streams: int = 1) -> dict[str, float]:
    """What metrics.jsonl has of the second epoch's steps; the first one warms up."""
    with tempfile.TemporaryDirectory(dir=setting.folder) as name:
        trainer = trainer_of(setting, codec, Path(name) / "run", specs=specs, log_steps=10_000, streams=streams)
        fit(trainer)
        records = read_metrics(trainer.folder.metrics, kinds=["performance"])
        (of_epoch,) = [one for one in records if one["epoch"] == 1 and "clips_per_second" in one]
        return {name: of_epoch[name] for name in _REPORTED if name in of_epoch}


def profiled(setting: Setting, specs: Sequence[RunSpec]) -> str:
    """The largest costs of three steps; the trace goes where `--trace` says."""
    with tempfile.TemporaryDirectory(dir=setting.folder) as name:
        clips = 8 * setting.config.batch_size
        trainer = trainer_of(setting, "flac", Path(name) / "run", specs=specs, epochs=1, clips=clips, profile=3)
        fit(trainer)
        if setting.config.trace:
            (trace,) = trainer.folder.profile.iterdir()
            with trace.open("rb") as whole, gzip.open(setting.config.trace, "wb") as packed:
                shutil.copyfileobj(whole, packed)
        said = [record["text"] for record in read_metrics(trainer.folder.metrics, kinds=["event"])]
        (costs,) = [text for text in said if text.startswith("profile of")]
        return costs.partition("; for ")[0]


def predicted(setting: Setting) -> float:
    """Clips a second of a network in evaluation mode, fed by the loader."""
    with tempfile.TemporaryDirectory(dir=setting.folder) as name:
        trainer = trainer_of(setting, "flac", Path(name) / "run", specs=parse_methods(["baseline"]))
        loader: Loader = setting.loader("flac")
        (run,) = trainer.runs
        try:
            with run.engine.evaluating():
                for epoch in range(2):  # the first one warms up
                    synchronize(setting.device)
                    begun, clips = time.perf_counter(), 0
                    for batch in loader.epoch(epoch):
                        run.predict(batch)
                        clips += len(batch)
                    synchronize(setting.device)
                    seconds = time.perf_counter() - begun
        finally:
            loader.close()
            trainer.decoding.close()
    return clips / seconds


class _Clips(Dataset):
    """Preset `paper`'s tensors of clips, by torch's own packages."""

    def __init__(self, setting: Setting, clips: int) -> None:
        dataset, clip_ids = setting.dataset("flac"), setting.tiled("flac", clips)
        self._task = Task(dataset, clip_ids, setting.config.batch_size, MODALITIES, setting.folder, None)
        self._labels = dataset.labels[clip_ids].tolist()
        self._tensors = ClipTensors()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> tuple[dict[str, Tensor], int]:
        (sample,) = samples_of(replace_ids(self._task, number))
        return self._tensors(sample), self._labels[number]


def replace_ids(task: Task, number: int) -> Task:
    """The task of one of its clips."""
    return Task(task.dataset, task.clip_ids[number : number + 1], task.batch_size, task.modalities, task.folder, None)


def fed_plain_loop(setting: Setting, precision: str) -> dict[str, float]:
    """Clips a second of the plain loop, each batch from a DataLoader with worker processes. Preset `paper`."""
    config, on_gpu = setting.config, setting.device.type == "cuda"
    workers = min(config.workers, cores_of_a_rank())
    step = PlainLoop("baseline", setting.batch())
    computing = torch.autocast(setting.device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
    loader: DataLoader[Any] = DataLoader(
        _Clips(setting, config.epoch_clips),
        config.batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=on_gpu,
        drop_last=True,
        persistent_workers=True,
        timeout=_WORKER_SECONDS,
    )
    speeds = []
    for _ in range(2):  # the first epoch warms up
        synchronize(setting.device)
        begun, clips = time.perf_counter(), 0
        for tensors, label in loader:
            step.audio = tensors["audio"].to(setting.device, non_blocking=True)
            step.frames = tensors["frames"].unsqueeze(1).to(setting.device, non_blocking=True)
            step.label = label.to(setting.device, non_blocking=True)
            with computing:
                step()
            clips += len(label)
        synchronize(setting.device)
        speeds.append(clips / (time.perf_counter() - begun))
    return {"clips_per_second": speeds[-1], "workers": workers}
