"""The settings of engines and of optimizers. Nothing heavy is imported here, so that `--help` answers at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from avbench.arguments import named
from avbench.engine.deepspeed_settings import read_settings
from avbench.errors import UsageError
from avbench.settings import setting

Precision = Literal["auto", "float32", "bfloat16", "float64"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and schedule; the defaults are those of OGM-GE's published code (methods share one set).

    The learning rate is never rescaled by batch or world size.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Of every run."""
    learning_rate: float = 1e-3
    """At the start; --schedule changes it."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-4
    """Of all parameters; adamw's is decoupled."""
    schedule: Literal["step", "cosine", "one-cycle", "constant"] = "step"
    """step: times --decay after every --decay-epochs; cosine: to 0; one-cycle: linear up over --warmup, then cosine."""
    decay_epochs: int = 70
    """Epochs between two steps of schedule step."""
    decay: float = 0.1
    """What a step of schedule step multiplies the learning rate by."""
    warmup: float = 0.3
    """Share of all steps in which one-cycle rises."""
    clip_norm: float = 0.0
    """Largest norm of a run's whole gradient; 0: never clipped."""

    def __post_init__(self) -> None:
        for name, low in (("learning_rate", 0.0), ("momentum", 0.0), ("weight_decay", 0.0), ("clip_norm", 0.0)):
            if not low <= getattr(self, name) < math.inf:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected a number >= {low:g}")
        if self.momentum >= 1.0:
            raise UsageError(f"momentum is {self.momentum}, expected a number in [0, 1); at 1 steps only grow")
        if self.decay_epochs < 1:
            raise UsageError(f"decay-epochs is {self.decay_epochs}, expected at least 1")
        if not 0.0 <= self.warmup < 1.0:
            raise UsageError(f"warmup is {self.warmup}, expected a share of all steps in [0, 1)")


@dataclass(frozen=True)
class EngineConfig:
    """What holds the network and steps it, what it computes in, and in how many parts a step is computed."""

    precision: Precision = "auto"
    """auto: bfloat16 where the processor has it, else float32."""
    batch_norm: Literal["local", "global"] = "local"
    """local: each rank's own batch, as published; global: over all ranks."""
    engine: Literal["ddp", "deepspeed"] = setting("ddp", resumable=True, moves_numbers=False)
    """ddp: each rank holds all (one rank needs nothing of it); deepspeed: optimizer, gradients in parts by ZeRO."""
    # After construction the settings themselves, as JSON on one line, so that a saved configuration needs no other file
    # and a relative path is looked up once; empty for the default, and under ddp.
    deepspeed_config: Annotated[str, named("FILE.json", default="launch/zero1.json with --clip-norm")] = setting(
        "", resumable=True, moves_numbers=False
    )
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
        if self.engine == "ddp":
            if text and not text.lstrip().startswith("{"):
                raise UsageError(f"deepspeed-config is {text}, but the engine is ddp; add --engine deepspeed")
            text = ""  # a saved run that goes on under ddp
        elif text:
            text = read_settings(text)
        object.__setattr__(self, "deepspeed_config", text)
