"""No step makes the processor wait for the device: on a CPU the operations by which it would on a GPU are counted."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avbench.batch import Batch
from avbench.engine.batch_norm import over_the_global_batch
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.methods.base import Method
from avbench.methods.choice import parse_methods
from avbench.training.passes import counted, prepare
from avbench.training.run import Run, collect_tallies
from tests.methods.steps import CLASSES, CPU, batch_of
from tests.methods.test_every_method import CONFIGURED

# A number read back (`float(tensor)`, `if tensor:`, `tensor.tolist()`), an output whose size the data decides
# (boolean masks among them), and a tensor made of Python's numbers, whose copy to a GPU is waited for.
WAITING = {
    torch.ops.aten._local_scalar_dense.default: "a number is read",
    torch.ops.aten.nonzero.default: "a size is read",
    torch.ops.aten.masked_select.default: "a size is read",
    torch.ops.aten._unique2.default: "a size is read",
    torch.ops.aten.repeat_interleave.Tensor: "a size is read",
    torch.ops.aten.lift_fresh.default: "numbers are sent",
}
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}


class Waits(TorchDispatchMode):
    """Counts what would make the processor wait for a GPU, in here."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITING:
            self.found[WAITING[func]] += 1
        if func in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1]):
            self.found["a size is read"] += 1
        return func(*args, **(kwargs or {}))


def run_of(text: str, **changes: Any) -> Run:
    (spec,) = parse_methods([text])
    options: dict[str, Any] = {"optimizer": OptimizerConfig(), "engine": EngineConfig(), "dtype": torch.float32}
    return Run(
        spec, seed=0, classes=CLASSES, device=CPU, store=None, **{**options, **changes}
    )  # fmt: skip


def waits_of_a_step(run: Run, *, step: int = 1) -> Counter[str]:
    """Of the trainer's own work on a batch and one of the run's steps: not the first, which is checked and builds."""
    batches = [replace(batch_of(4, seed=number), global_valid=None) for number in range(step + 1)]
    for batch in batches[:-1]:
        take_step(run, batch)
    with Waits() as waits:
        take_step(run, batches[-1])
    # That the batch's own mask is asked costs nothing on a GPU: it lies on the CPU there, too.
    waits.found["a number is read"] -= 1
    return +waits.found


def take_step(run: Run, batch: Batch) -> None:
    ready = counted(prepare(batch, torch.float32))
    assert ready is not None
    run.train_step(ready, epoch=0, epochs=1, total_steps=4)


NUMBER = Counter({"a number is read": 1})
# Of a regular step, which the next one's graph hangs on.
DECISIONS = {"greedy:warmup=1:epsilon=0:window=2": NUMBER}


@pytest.mark.parametrize("text", CONFIGURED)
def test_a_step_waits_for_nothing(text: str) -> None:
    # Guided Greedy's fifth step, 4, follows a regular one, two that re-balance, and a regular one that decides.
    assert waits_of_a_step(run_of(text), step=4 if "greedy" in text else 1) == DECISIONS.get(text, Counter())


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": OptimizerConfig(optimizer="adamw", clip_norm=1.0, schedule="constant")},
        {"engine": EngineConfig(accumulation=2)},
        {"dtype": torch.bfloat16},
    ],
    ids=["clipped adamw", "accumulation", "bf16"],
)
def test_nor_does_what_is_around_a_methods_own_step(changes: dict[str, Any]) -> None:
    assert not waits_of_a_step(run_of("baseline:fusion=film", **changes))


def test_nor_does_batch_norm_over_the_global_batch() -> None:
    run = run_of("audio")
    over_the_global_batch(run.engine.model)
    assert not waits_of_a_step(run)


def test_one_that_waits_is_found() -> None:
    class Waiting(Method):
        def after_backward(self, engine: Any, outputs: Any, batch: Any, clock: Any) -> Any:
            weight = torch.tensor([1.0, 2.0]).sum()
            rows = outputs.logits[outputs.logits[:, 0] > 0]
            return {"mean/logit": rows.sum() if float(weight) else 0.0}

    run = run_of("audio")
    run.method.after_backward = Waiting.after_backward.__get__(run.method)  # type: ignore[method-assign]
    found = waits_of_a_step(run)
    assert found == {"a number is read": 1, "numbers are sent": 1, "a size is read": 1}


def test_what_all_runs_have_counted_comes_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run_of(text) for text in ("baseline", "ogm-ge")]
    for run in runs:
        for seed in range(3):
            take_step(run, replace(batch_of(4, seed=seed), global_valid=None))
    copies: list[torch.Tensor] = []
    to_cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor) or to_cpu(tensor))
    with Waits() as waits:
        baseline, ogm_ge = collect_tallies(runs)
    assert len(copies) == 1 and not waits.found
    assert baseline.totals[2] == 12.0 and set(ogm_ge.log) > {"ratio/audio"}
