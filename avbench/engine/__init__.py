"""Plain training, DDP and DeepSpeed behind the same few verbs.

A method calls the verbs and never knows which engine it runs under. Under each, gradients that a method reads or
rewrites are already averaged over ranks, and every parameter has one (zero where it took no part); `state_dict` has one
form under all, so what was saved under one engine and number of ranks is loaded under another.
"""

from avbench.engine.batch_norm import GlobalBatchNorm2d, over_the_global_batch
from avbench.engine.choice import EngineConfig, build_engine
from avbench.engine.optimizer import OptimizerConfig
from avbench.engine.plain import Engine
from avbench.engine.precision import Precision, has_bfloat16, pick_precision
from avbench.engine.random_state import random_state, set_random_state

__all__ = [
    "Engine",
    "EngineConfig",
    "GlobalBatchNorm2d",
    "OptimizerConfig",
    "Precision",
    "build_engine",
    "has_bfloat16",
    "over_the_global_batch",
    "pick_precision",
    "random_state",
    "set_random_state",
]
