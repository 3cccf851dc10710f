"""Which engine a run trains under, and the settings of DeepSpeed that avbench has been tested with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import nn

from avbench import shipped
from avbench.arguments import named
from avbench.distributed import current_world
from avbench.engine.compiled import check_compiles
from avbench.engine.ddp import DDPEngine
from avbench.engine.optimizer import OptimizerConfig
from avbench.engine.plain import Engine
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


@dataclass(frozen=True)
class EngineConfig:
    """What holds the network and steps it, and in how many parts a step is computed."""

    engine: Literal["ddp", "deepspeed"] = "ddp"
    """ddp: each rank holds all (one rank needs nothing of it); deepspeed: optimizer, gradients in parts by ZeRO."""
    # After construction the settings themselves, as JSON on one line, so that a saved configuration needs no other file
    # and a relative path is looked up once; empty for the default, and under ddp.
    deepspeed_config: Annotated[str, named("FILE.json", default="launch/zero1.json with --clip-norm")] = ""
    """DeepSpeed's settings."""
    accumulation: int = 1
    """Micro-batches into which each rank cuts its part of a batch, one after the other: less memory, same step."""
    compile: bool = False
    """Train with code that torch.compile makes of each network: minutes at the start, same step but for rounding."""

    def __post_init__(self) -> None:
        if self.accumulation < 1:
            raise UsageError(f"accumulation is {self.accumulation}, expected at least 1")
        if self.compile and self.engine == "deepspeed":
            raise UsageError("compile is asked for, and under --engine deepspeed it is untested; use --engine ddp")
        text = self.deepspeed_config
        is_settings = text.lstrip().startswith("{")
        if self.engine == "ddp":
            if text and not is_settings:
                raise UsageError(f"deepspeed-config is {text}, but the engine is ddp; add --engine deepspeed")
            text = ""  # a saved run that goes on under ddp
        elif text:
            where = "deepspeed-config" if is_settings else text
            text = json.dumps(_check(_parse(text if is_settings else _read(Path(text)), where), where))
        object.__setattr__(self, "deepspeed_config", text)

    def settings(self, *, clip_norm: float) -> dict[str, Any]:
        """DeepSpeed's settings, with gradients clipped at this norm (0: not at all).

        Raises UsageError where a file of the user's clips at another: DeepSpeed's own default, 1.0, is what such files
        are silent about, and every comparison of engines would be wrong without a word.
        """
        if not self.deepspeed_config:
            path = shipped("launch") / DEFAULT_SETTINGS
            return {**_check(_parse(_read(path), str(path)), str(path)), CLIPPING: clip_norm}
        settings: dict[str, Any] = json.loads(self.deepspeed_config)
        if settings[CLIPPING] != clip_norm:
            raise UsageError(
                f"deepspeed-config has {CLIPPING} {settings[CLIPPING]}, but --clip-norm is {clip_norm}; "
                f"make them the same"
            )
        return settings


_DEFAULT = EngineConfig()


def build_engine(
    model: nn.Module,
    *,
    optimizer: OptimizerConfig,
    device: torch.device,
    dtype: torch.dtype,
    leaves_unused_parameters: bool,
    engine: EngineConfig = _DEFAULT,
) -> Engine:
    """The engine that is asked for; of ddp, the plain one in one process. A collective.

    Raises UsageError for what DeepSpeed cannot do, or torch cannot compile.
    """
    accumulation = engine.accumulation
    if engine.engine == "deepspeed":
        if dtype == torch.float64:
            raise UsageError("precision is float64, and DeepSpeed reduces in float32; use --engine ddp")
        # DeepSpeed takes a second to import.
        from avbench.engine.deepspeed import deepspeed_engine

        settings = engine.settings(clip_norm=optimizer.clip_norm)
        return deepspeed_engine(
            model, optimizer=optimizer, device=device, dtype=dtype, accumulation=accumulation, settings=settings
        )
    if engine.compile:
        check_compiles(model, device)
    if current_world().size == 1:
        return Engine(
            model, optimizer=optimizer, device=device, dtype=dtype, accumulation=accumulation, compiles=engine.compile
        )
    return DDPEngine(
        model,
        optimizer=optimizer,
        device=device,
        dtype=dtype,
        accumulation=accumulation,
        compiles=engine.compile,
        leaves_unused_parameters=leaves_unused_parameters,
    )


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


def _check(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
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
