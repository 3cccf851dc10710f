"""How fast are parts alone: steps on a batch that stays on the GPU, loaders, the JPEG decoder's settings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import count
from typing import Any

import torch
from methods import synchronize
from peers import Task
from peers.plain_dali import make
from step import PlainLoop
from torch import Tensor

from avbench.loading.loader import Loader
from avbench.training.decoding import cores_of_a_rank
from avbench.vocabulary import MODALITIES, Modality
from gpu_answers import Row
from gpu_answers.setting import Setting

ENGINE_SHARES = (0.0, 0.65, 1.0)
_ROUNDS = 3


def steps(setting: Setting) -> Iterator[Row]:
    """`waits`, `steps`."""
    for spec in setting.specs:
        yield Row("waits", spec.name, 2, partial(waits_of_a_step, setting, spec.name))
    for spec in setting.specs:
        with_loop = spec.name in ("baseline", "ogm-ge")
        yield Row("steps", spec.name, 9 if with_loop else 3, partial(clips_per_second_of_steps, setting, spec.name))


def loaders(setting: Setting) -> Iterator[Row]:
    """`loader`: every codec at the preset, then the other presets."""
    for codec in setting.codecs:
        yield Row("loader", f"{setting.config.preset}, {codec}", 6, partial(loaded, setting, codec))
    for name in setting.config.presets:
        if name != setting.config.preset:
            yield Row("loader", f"{name}, flac", 6, partial(loaded, setting, "flac", preset_name=name))


def decoder(setting: Setting) -> Iterator[Row]:
    """`decoder`: pictures a second by how many the GPU's engine for JPEG decodes, and by threads."""
    for share in ENGINE_SHARES:
        find = partial(loaded, setting, "flac", modalities=("visual",), jpeg_engine_share=share)
        yield Row("decoder", f"engine's share {share:g}", 6, find)
    for threads in (4, 8):
        find = partial(loaded, setting, "flac", modalities=("visual",), threads=threads)
        yield Row("decoder", f"{threads} threads", 6, find)


def later_rows(setting: Setting) -> Iterator[Row]:
    """What is asked for last: `batches`, plain DALI graphs."""
    for spec in setting.specs:
        yield Row("batches", spec.name, 6, partial(by_batch_size, setting, spec.name))
    for tuned in (True, False):
        words = "plain DALI, tuned" if tuned else "plain DALI"
        yield Row("loader", f"{words}, flac", 8, partial(loaded_plainly, setting, "flac", tuned=tuned))


def waits_of_a_step(setting: Setting, method: str) -> str:
    """What torch says where a step makes the processor wait; "none" where it does not. Not of the first two."""
    step = setting.step(method)
    step()
    step()
    synchronize(setting.device)
    if setting.device.type != "cuda":
        return "none"
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def clips_per_second_of_steps(setting: Setting, method: str) -> dict[str, float]:
    """Of ours, and of the plain loop where there is one; turn and turn about, the median."""
    steps: dict[str, Callable[[], object]] = {"avbench": setting.step(method)}
    if method in ("baseline", "ogm-ge"):
        for precision in dict.fromkeys(("float32", setting.precision)):
            steps[f"plain loop, {precision}"] = plain_step(setting, method, precision)
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_ROUNDS):
        for name, step in steps.items():
            rate = setting.per_second(step, seconds=setting.config.seconds / _ROUNDS)
            speeds[name].append(setting.config.batch_size * rate)
    return {name: statistics.median(each) for name, each in speeds.items()}


def plain_step(setting: Setting, method: str, precision: str) -> Callable[[], object]:
    """The plain loop's, in bfloat16 under torch's autocast as its users write it."""
    loop = PlainLoop(method, setting.batch())

    def step() -> None:
        is_rounded = precision == "bfloat16"
        with torch.autocast(setting.device.type, torch.bfloat16) if is_rounded else nullcontext():
            loop()

    return step


def by_batch_size(setting: Setting, method: str) -> dict[str, float]:
    """Clips a second of a method's step at each size of batch."""
    found = {}
    for size in setting.config.batch_sizes:
        rate = setting.per_second(setting.step(method, batch_size=size), seconds=setting.config.seconds / _ROUNDS)
        found[str(size)] = size * rate
    return found


def loaded(setting: Setting, codec: str, *, modalities: tuple[Modality, ...] = MODALITIES, **options: Any) -> float:
    """Clips a second of our loader, alone."""
    loader: Loader = setting.loader(codec, modalities=modalities, **options)
    try:
        return drained(setting, (len(batch) for epoch in count() for batch in loader.epoch(epoch)))
    finally:
        loader.close()


def loaded_plainly(setting: Setting, codec: str, *, tuned: bool) -> float:
    """Clips a second of a DALI graph as its documentation builds one, or with our settings."""
    folder = setting.folder / f"plain-{codec}-{tuned}"
    folder.mkdir()
    clip_ids = setting.tiled(codec, setting.config.epoch_clips)
    task = Task(setting.dataset(codec), clip_ids, setting.config.batch_size, MODALITIES, folder, None)
    device_id = setting.device.index if setting.device.type == "cuda" else None
    epoch = make(task, threads=cores_of_a_rank(), device_id=device_id, tuned=tuned)
    return drained(setting, (size_of(batch) for _ in count() for batch in epoch()))


def size_of(batch: tuple[Tensor | None, Tensor | None]) -> int:
    """Clips of a peer's batch."""
    return next(len(tensor) for tensor in batch if tensor is not None)


def drained(setting: Setting, sizes: Iterator[int]) -> float:
    """Clips a second of an endless loader, once its first batches are there."""
    for _ in range(1 + setting.config.clips // setting.config.batch_size):
        next(sizes)
    synchronize(setting.device)
    begun, clips = time.perf_counter(), 0
    while time.perf_counter() - begun < setting.config.seconds:
        clips += next(sizes)
    synchronize(setting.device)
    return clips / (time.perf_counter() - begun)
