"""Other engines on one GPU, and whether it breaks well: bad clips, a batch that is too large."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from methods import synchronize
from step import run_of

from avbench.dataset import Dataset, checksum
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.ddp import DDPEngine
from avbench.errors import AvbenchError
from avbench.loading.loader import Loader
from avbench.loading.presets import preset
from avbench.methods.choice import parse_methods
from avbench.training.passes import prepare
from avbench.vocabulary import Modality
from gpu_answers import Row
from gpu_answers.setting import Setting
from gpu_answers.training import fit, trainer_of


def rows(setting: Setting) -> Iterator[Row]:
    """`engines`, `bad clips`, `largest batch`."""
    yield Row("engines", "DDP, one rank", 10, partial(engine_step, setting, "ddp"))
    yield Row("engines", "DeepSpeed ZeRO 1, one rank", 20, partial(engine_step, setting, "deepspeed"))
    yield Row("engines", "compiled", 60, partial(engine_step, setting, "compile"))
    for modality, what in (("visual", "a cut JPEG"), ("audio", "a broken FLAC")):
        yield Row("bad clips", what, 6, partial(bad_clip, setting, modality))
    yield Row("largest batch", f"of {setting.config.largest}", 40, partial(too_large, setting))


def engine_step(setting: Setting, engine: str) -> dict[str, float]:
    """Clips a second of the baseline's step, and seconds of its first one, over a process group of one rank."""
    step = step_under(setting, engine)
    synchronize(setting.device)
    begun = time.perf_counter()
    step()
    synchronize(setting.device)
    first = time.perf_counter() - begun
    return {"clips_per_second": setting.config.batch_size * setting.per_second(step), "first_step_seconds": first}


def step_under(setting: Setting, engine: str) -> Callable[[], object]:
    """The baseline's step under an engine."""
    if engine == "compile":
        return setting.step("baseline", engine=EngineConfig(compile=True))
    join_alone(setting.device)
    if engine == "deepspeed":
        return setting.step("baseline", engine=EngineConfig(engine="deepspeed"))
    run = run_of("baseline", setting.precision, noise=True)
    # As with several ranks: alone, the trainer takes the plain engine.
    run.engine = DDPEngine(
        run.method.build_model(), optimizer=OptimizerConfig(), device=setting.device, dtype=setting.dtype
    )
    return partial(run.train_step, prepare(setting.batch(), setting.dtype), epoch=0, epochs=1, total_steps=1)


def join_alone(device: torch.device) -> None:
    """A process group of this process alone: over nccl on a GPU."""
    if not dist.is_initialized():
        on_gpu = device.type == "cuda"
        backend = "nccl" if on_gpu else "gloo"
        dist.init_process_group(
            backend, store=dist.HashStore(), rank=0, world_size=1, device_id=device if on_gpu else None
        )


def leave() -> None:
    """The process group, where one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def bad_clip(setting: Setting, modality: Modality) -> str:
    """What is said of a clip whose second half is zeros, as if it had been packed so: its checksum fits."""
    whole = setting.dataset("flac")
    copy = setting.folder / f"bad-{modality}"
    shutil.copytree(whole.path, copy)
    dataset = Dataset(copy)
    clip_id = int(dataset.clip_ids("train")[len(dataset.clip_ids("train")) // 2])
    if modality == "audio":
        rows, offset, size = [clip_id], dataset.audio_offsets, dataset.audio_sizes
    else:
        rows = list(range(int(dataset.frames.first[clip_id]), int(dataset.frames.first[clip_id + 1])))
        offset, size = dataset.frames.offset, dataset.frames.size
    checksums = (dataset.audio_checksums if modality == "audio" else dataset.frames.checksum).copy()
    with (copy / dataset.shard_name(int(dataset.shards[clip_id]))).open("r+b") as file:
        for row in rows:
            kept = int(size[row]) // 2
            file.seek(int(offset[row]))
            data = file.read(kept) + bytes(int(size[row]) - kept)
            file.seek(int(offset[row]))
            file.write(data)
            checksums[row] = checksum(data)
    if modality == "audio":
        dataset.audio_checksums = checksums
    else:
        dataset.frames = replace(dataset.frames, checksum=checksums)
    return said_of(setting, dataset, modality, clip_id)


def said_of(setting: Setting, dataset: Dataset, modality: Modality, clip_id: int) -> str:
    """How an epoch over the clips ends."""
    loader = Loader(
        dataset,
        dataset.clip_ids("train"),
        preset=preset(setting.config.preset),
        batch_size=setting.config.batch_size,
        seed=0,
        training=True,
        modalities=[modality],
        device=setting.device,
    )
    try:
        for _ in loader.epoch(0):
            synchronize(setting.device)
    except AvbenchError as error:
        named = "named" if dataset.key(clip_id) in str(error) else "NOT named"
        return f"{named}: {error}"
    finally:
        loader.close()
    if loader.bad_clips:
        named = "named" if list(loader.bad_clips) == [clip_id] else "NOT named"
        return f"{named}: {', '.join(f'{dataset.key(clip)}: {why}' for clip, why in loader.bad_clips.items())}"
    return "not noticed: it was decoded as if it were whole"


def too_large(setting: Setting) -> str:
    """What `avbench train` says of a batch that does not fit into the GPU's memory."""
    size = setting.config.largest
    trainer = trainer_of(
        setting,
        "flac",
        setting.folder / "too-large",
        specs=parse_methods(["baseline"]),
        epochs=1,
        clips=size,
        batch_size=size,
    )
    try:
        fit(trainer)
    except AvbenchError as error:
        return str(error)
    return f"a batch of {size} fits"
