"""Is it right: a GPU's features against a CPU's, a clip at another place, resuming, what is not deterministic."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from methods import synchronize, without_estimates

from avbench.batch import Batch
from avbench.distributed import World
from avbench.errors import Interrupted
from avbench.methods.choice import parse_methods
from avbench.records import read_metrics
from avbench.run_folder import RunFolder
from avbench.vocabulary import MODALITIES
from gpu_answers import Row
from gpu_answers.setting import Setting
from gpu_answers.training import fit, trainer_of

# Of logarithms of powers, which are noise where there is silence; of standardized pixels, 57 of whose 255 steps are 1.
MEAN_ALLOWED = {"audio": 1e-2, "frames": 0.05}
_RANKS = 3
_STOPPED_AT, _BATCHES = 5, 8


def agreement(setting: Setting) -> Iterator[Row]:
    """`agreement`, `places`."""
    for name in setting.config.presets:
        yield Row("agreement", name, 4, partial(agreeing, setting, "flac", name))
    if "stft" in setting.codecs:
        yield Row("agreement", "kept spectrograms", 4, partial(agreeing, setting, "stft", setting.config.preset))
    for what, find in (("another place in the batch", another_place), ("the same batch twice", the_same_twice)):
        yield Row("places", what, 4, partial(find, setting))


def resuming(setting: Setting) -> Iterator[Row]:
    """`resume`, `deterministic`."""
    yield Row("resume", f"stopped before step {_STOPPED_AT} and resumed", 25, partial(resumed, setting))
    for spec in setting.specs:
        yield Row("deterministic", spec.name, 2, partial(not_deterministic, setting, spec.name))


def agreeing(setting: Setting, codec: str, preset_name: str) -> dict[str, Any]:
    """Differences of one augmented batch between the two devices, by modality."""
    cpu = torch.device("cpu")
    first = [
        first_batch(setting, codec, preset_name=preset_name, device=device, dtype=torch.float32)
        for device in (setting.device, cpu)
    ]
    found: dict[str, Any] = {}
    for what, allowed in MEAN_ALLOWED.items():
        here, there = (getattr(batch, what).cpu().double() for batch in first)
        difference = (here - there).abs()
        mean = difference.mean().item()
        found[what] = {"largest": difference.max().item(), "mean": mean, "within what tests allow": mean <= allowed}
    return found


def first_batch(setting: Setting, codec: str, **options: Any) -> Batch:
    """Of a loader of its own."""
    loader = setting.loader(codec, **options)
    try:
        return next(loader.epoch(0))
    finally:
        loader.close()


def another_place(setting: Setting) -> dict[str, bool]:
    """Whether a batch's clips are the same bits when ranks share it, where each is at another place."""
    alone = first_batch(setting, "flac")
    ranks = [first_batch(setting, "flac", world=World(rank, _RANKS)) for rank in range(_RANKS)]
    return {
        what: torch.equal(torch.cat([getattr(batch, what) for batch in ranks]), getattr(alone, what))
        for what in ("clip_id", "audio", "frames")
    }


def the_same_twice(setting: Setting) -> dict[str, bool]:
    """Whether two loaders give the same bits."""
    one, other = (first_batch(setting, "flac") for _ in range(2))
    return {what: torch.equal(getattr(one, what), getattr(other, what)) for what in ("clip_id", "audio", "frames")}


def resumed(setting: Setting) -> dict[str, Any]:
    """Whether a training that was stopped and resumed ends with the same weights and losses as one that was not."""
    straight, stopped = setting.folder / "straight", setting.folder / "stopped"
    options: dict[str, Any] = {
        "specs": without_estimates(parse_methods(["audio,visual,ogm-ge"])),
        "preset_name": "tiny",
        "epochs": 2,
        "clips": _BATCHES * setting.config.batch_size,
        "log_steps": 1,
    }
    whole = trainer_of(setting, "flac", straight, **options)
    fit(whole)
    cut = trainer_of(setting, "flac", stopped, **options)
    beat = cut.watchdog.beat

    def stop(place: str) -> None:
        if place == f"epoch 0, batch {_STOPPED_AT} of train":
            raise Interrupted("the benchmark")
        beat(place)

    cut.watchdog.beat = stop  # type: ignore[method-assign]
    try:
        fit(cut)
    except Interrupted:
        cut = trainer_of(setting, "flac", stopped, **options)
        fit(cut, resume=True)
    assert set(MODALITIES) <= set(whole.loaders["train"].modalities)
    weights = [{run.name: digest(run.engine.model) for run in trainer.runs} for trainer in (whole, cut)]
    losses = [losses_of(folder) for folder in (straight, stopped)]
    return {
        "the same weights": {name: weights[0][name] == weights[1][name] for name in weights[0]},
        "the same losses": losses[0] == losses[1],
        "steps": len(losses[0]),
    }


def digest(model: torch.nn.Module) -> str:
    """SHA-256 of all weights and buffers."""
    sha256 = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        sha256.update(name.encode())
        sha256.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def losses_of(folder: Path) -> list[tuple[Any, ...]]:
    """Of each step of each run, in order."""
    names = ("run", "epoch", "batch", "loss")
    return [tuple(record[name] for name in names) for record in read_metrics(RunFolder(folder).metrics, kinds=["step"])]


def not_deterministic(setting: Setting, method: str) -> list[str]:
    """What torch warns of under deterministic algorithms, once each; empty where all is deterministic."""
    step = setting.step(method)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step()
            step()
            synchronize(setting.device)
    finally:
        torch.set_warn_always(False)
        torch.use_deterministic_algorithms(False)
    return sorted({str(each.message).split(". ")[0] for each in said if "determinis" in str(each.message)})
