"""A step over micro-batches is the step over the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from avbench.batch import Batch, Clock, Outputs
from avbench.distributed import current_world
from avbench.engine.choice import build_engine
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.plain import Engine
from avbench.errors import UsageError
from avbench.methods.base import Method, global_mean
from tests.engine.small import CPU, alone, batch_of, engine_of, flat, own_slice, take_steps, zero
from tests.processes import run_on_ranks


def sizes(engine: Engine, counts: list[int]) -> list[int]:
    return [len(part) for part in engine.micro_batches(own_slice(batch_of(sum(counts), 0), counts))]


def cut(counts: list[int], accumulation: int) -> list[int]:
    return sizes(engine_of(EngineConfig(accumulation=accumulation)), counts)


def test_every_rank_makes_as_many_micro_batches_and_none_is_empty_on_all() -> None:
    assert cut([7], 1) == [7]
    assert cut([7], 3) == [2, 2, 3]
    assert cut([2], 3) == [1, 1]
    assert run_on_ranks(2, cut, [5, 0], 4) == [[1, 2, 2], [0, 0, 0]]
    assert run_on_ranks(2, cut, [1, 1], 4) == [[1], [1]]


def check_accumulated() -> None:
    counts = [5, 1, 0][: current_world().size]
    for make in (EngineConfig, zero_of(0), zero_of(1), zero_of(2)):
        reference = take_steps(alone(), counts, range(4))
        for accumulation in (1, 3):
            engine = take_steps(engine_of(make(accumulation=accumulation)), counts, range(4))
            torch.testing.assert_close(flat(engine), flat(reference), rtol=0, atol=1e-6)


def zero_of(stage: int):
    return lambda **options: zero(stage, **options)


def test_accumulated_gradients_are_those_of_the_whole_batch_under_every_engine() -> None:
    run_on_ranks(3, check_accumulated)


def test_in_one_process_too() -> None:
    reference = take_steps(alone(), [7], range(4))
    for accumulation in (2, 3, 100):
        engine = take_steps(alone(accumulation=accumulation), [7], range(4))
        torch.testing.assert_close(flat(engine), flat(reference), rtol=0, atol=1e-6)


class Whole(Method):
    """Trains on its slice at once."""

    def train_step(self, engine: Engine, batch: Batch, clock: Clock):  # type: ignore[no-untyped-def]
        outputs = engine.forward(batch)
        engine.backward(global_mean(outputs.logits.sum(dim=1), batch, engine))
        engine.step()


def test_a_method_that_takes_no_notice_of_accumulation_is_refused() -> None:
    method = Whole(None, classes=3, seed=0)
    method.train_step(alone(), batch_of(4, 0), Clock(0, 0, 1))
    engine = alone(accumulation=2)
    with pytest.raises(UsageError, match=r"--accumulation is 2.*micro_batches"):
        method.train_step(engine, batch_of(4, 0), Clock(0, 0, 1))


class Watched(Method):
    """Keeps what `after_backward` is given."""

    seen: Outputs

    def after_backward(self, engine: Engine, outputs: Outputs, batch: Batch, clock: Clock) -> dict[str, float]:
        self.seen = outputs
        assert all(parameter.grad is not None for parameter in engine.parameters)
        return {}


class Parts(nn.Module):
    """Logits, unimodal logits and an extra that all tell the clip."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, batch: Batch) -> Outputs:
        logits = batch.clip_id[:, None] * self.weight
        return Outputs(logits, {"audio": 2 * logits}, {"clip": batch.clip_id.float()})


def test_after_backward_sees_the_outputs_for_the_whole_slice_in_order() -> None:
    engine = build_engine(
        Parts(),
        optimizer=OptimizerConfig(),
        device=CPU,
        dtype=torch.float32,
        leaves_unused_parameters=False,
        engine=EngineConfig(accumulation=3),
    )
    method = Watched(None, classes=3, seed=0)
    step = method.train_step(engine, batch_of(7, 0), Clock(0, 0, 1))
    assert method.seen.extras["clip"].tolist() == list(range(7))
    assert method.seen.logits[:, 0].tolist() == list(range(7))
    assert method.seen.unimodal_logits["audio"][:, 0].tolist() == list(range(0, 14, 2))
    assert step.outputs is method.seen and len(step.losses) == 7 and not step.losses.requires_grad
