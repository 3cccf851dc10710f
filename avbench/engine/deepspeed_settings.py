"""The settings of DeepSpeed that avbench has been tested with, and what is said of others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avbench import shipped
from avbench.errors import UsageError, unknown

DEFAULT_SETTINGS = "zero1.json"  # the least memory without more traffic: gradients are reduced once a step

CLIPPING = "gradient_clipping"
ZERO = "zero_optimization"
_ALLOWED = ("//", CLIPPING, ZERO, "zero_allow_untested_optimizer", "steps_per_print", "wall_clock_breakdown")
_ALLOWED_OF_ZERO = (
    "//", "stage", "reduce_bucket_size", "allgather_bucket_size", "contiguous_gradients",
    "reduce_scatter",
)  # fmt: skip
_STAGES = (0, 1, 2)
# What avbench says itself: two places would contradict each other sooner or later.
_ELSEWHERE = {
    "optimizer": "the optimizer is --optimizer",
    "scheduler": "the learning rate is --schedule",
    "train_batch_size": "the batch is --batch-size",
    "train_micro_batch_size_per_gpu": "the batch is --batch-size",
    "gradient_accumulation_steps": "gradients are accumulated by --accumulation",
    "torch_autocast": "networks compute in --precision",
    "amp": "networks compute in --precision",
    "fp16": "networks compute in --precision, which has no fp16",
    "bf16": "networks compute in --precision: bf16 of DeepSpeed's own would convert batch norm too, which fails",
}


def read_settings(text: str, where: str = "deepspeed-config") -> str:
    """Settings, or the file of that name, checked, as JSON on one line. Raises UsageError."""
    is_settings = text.lstrip().startswith("{")
    where = where if is_settings else text
    return json.dumps(check(_parse(text if is_settings else _read(Path(text)), where), where))


def settings_with(text: str, *, clip_norm: float) -> dict[str, Any]:
    """DeepSpeed's settings, with gradients clipped at this norm (0: not at all). text: as `read_settings` gives it.

    An empty text stands for launch/zero1.json. Raises UsageError where a file of the user's clips at another norm:
    DeepSpeed's own default, 1.0, is what such files are silent about, and every comparison of engines would be wrong
    without a word.
    """
    if not text:
        path = shipped("launch") / DEFAULT_SETTINGS
        return {**check(_parse(_read(path), str(path)), str(path)), CLIPPING: clip_norm}
    settings: dict[str, Any] = json.loads(text)
    if settings[CLIPPING] != clip_norm:
        raise UsageError(
            f"deepspeed-config has {CLIPPING} {settings[CLIPPING]}, but --clip-norm is {clip_norm}; make them the same"
        )
    return settings


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such DeepSpeed configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not readable as a DeepSpeed configuration ({error})") from None


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}: not readable as JSON ({error})") from None
    if not isinstance(settings, dict):
        raise UsageError(f"{where}: expected a JSON object of DeepSpeed's settings")
    return settings


def check(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings without comments ("//"). Raises UsageError for what is missing, said elsewhere, or untested."""
    for name, value in settings.items():
        is_off = isinstance(value, Mapping) and value.get("enabled") is False
        if name in _ELSEWHERE and not is_off:
            raise UsageError(f"{where}: has {name!r}, but {_ELSEWHERE[name]}; leave it out")
        if name not in _ELSEWHERE and name not in _ALLOWED:
            raise UsageError(f"{where}: {unknown('setting', name, _ALLOWED)} (avbench is tested with these alone)")
    clipping: Any = settings.get(CLIPPING)
    is_number = isinstance(clipping, int | float) and not isinstance(clipping, bool)
    if not is_number or not 0 <= clipping < float("inf"):
        said = f"{CLIPPING!r} is {clipping!r}" if CLIPPING in settings else f"does not say {CLIPPING!r}"
        raise UsageError(f"{where}: {said}, expected a norm >= 0, 0.0 for none; left out, DeepSpeed would clip at 1.0")
    zero = settings.get(ZERO)
    stage = zero.get("stage") if isinstance(zero, Mapping) else None
    if not isinstance(zero, Mapping) or type(stage) is not int or stage not in _STAGES:
        raise UsageError(f"{where}: {ZERO!r} is {zero!r}, expected a stage of 0, 1 or 2, as in {{'stage': 1}}")
    for name in zero:
        if name not in _ALLOWED_OF_ZERO:
            text = unknown(f"setting of {ZERO}", name, _ALLOWED_OF_ZERO)
            raise UsageError(f"{where}: {text} (avbench is tested with these alone)")
    if settings.get("zero_allow_untested_optimizer", True) is not True:
        raise UsageError(f"{where}: 'zero_allow_untested_optimizer' must be true: torch's own optimizers are used")
    checked = {name: value for name, value in settings.items() if name in _ALLOWED and name != "//"}
    return {**checked, CLIPPING: float(clipping), ZERO: {name: zero[name] for name in zero if name != "//"}}
