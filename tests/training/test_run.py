"""What a method of somebody's own says of a batch: what cannot be counted or written is one line, at the first step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from avbench.batch import Batch, Clock, Outputs
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.plain import Engine
from avbench.errors import UsageError
from avbench.methods.base import Log, Method
from avbench.methods.choice import RunSpec
from avbench.training.run import Run, collect_tallies
from tests.methods.steps import CLASSES, CPU, batch_of


class Linear(nn.Module):
    """The smallest network with an encoder a modality."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"audio": nn.Flatten(), "visual": nn.Flatten()})
        self.head = nn.Linear(32 * 32, classes)

    def forward(self, batch: Batch) -> Outputs:
        return Outputs(self.head(self.encoders["audio"](batch.audio)))


class Mine(Method):
    name = "mine"
    network = "a linear layer"

    def build_model(self) -> nn.Module:
        return Linear(self.classes)


class MoreClasses(Mine):
    def build_model(self) -> nn.Module:
        return Linear(7)


class MeanLoss(Mine):
    def loss(self, outputs: Outputs, batch: Batch, clock: Clock) -> Tensor:
        return super().loss(outputs, batch, clock).mean()


class LossByClass(Mine):
    def loss(self, outputs: Outputs, batch: Batch, clock: Clock) -> Tensor:
        return outputs.logits**2


class NoPrediction(Mine):
    def probabilities(self, outputs: Outputs) -> dict[str, Tensor]:
        return {"audio": torch.softmax(outputs.logits, dim=1)}


class BareProbabilities(Mine):
    def probabilities(self, outputs: Outputs) -> Any:
        return torch.softmax(outputs.logits, dim=1)


class PartOfAnotherShape(Mine):
    def probabilities(self, outputs: Outputs) -> dict[str, Tensor]:
        return {**super().probabilities(outputs), "visual": outputs.logits[:, 0]}


class LogarithmOfOneClass(Mine):
    def log_probabilities(self, outputs: Outputs) -> Tensor:
        return torch.log_softmax(outputs.logits, dim=1)[:, 0]


class UncertaintyByClass(Mine):
    def uncertainty(self, outputs: Outputs) -> Tensor:
        return torch.softmax(outputs.logits, dim=1)


def logging(log: Log) -> type[Mine]:
    class Logging(Mine):
        def after_backward(self, engine: Engine, outputs: Outputs, batch: Batch, clock: Clock) -> Log:
            return log if clock.step else {}  # from the second step on

    return Logging


def run_of(method: type[Method]) -> Run:
    return Run(
        RunSpec("mine.py:Mine", "mine", method, method.Config()),
        seed=0,
        classes=CLASSES,
        optimizer=OptimizerConfig(),
        engine=EngineConfig(),
        device=CPU,
        dtype=torch.float32,
        store=None,
    )


def two_steps(run: Run, batch: Callable[[], Batch] = lambda: batch_of(4)) -> None:
    for _ in range(2):
        run.train_step(batch(), epoch=0, epochs=1, total_steps=2)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MoreClasses, r"probabilities of 'prediction' has the shape \[4, 7\], expected a tensor of shape \[4, 3\]"),
        (MeanLoss, r"the loss has the shape \[\], expected a tensor of shape \[4\]: one number a clip"),
        (LossByClass, r"the loss has the shape \[4, 3\], expected a tensor of shape \[4\]"),
        (NoPrediction, r"probabilities gives \['audio'\], expected 'prediction' among them"),
        (BareProbabilities, r"probabilities gives Tensor, expected 'prediction' among them"),
        (PartOfAnotherShape, r"probabilities of 'visual' has the shape \[4\], expected a tensor of shape \[4, 3\]"),
        (LogarithmOfOneClass, r"log_probabilities has the shape \[4\], expected a tensor of shape \[4, 3\]"),
        (UncertaintyByClass, r"the uncertainty has the shape \[4, 3\], expected a tensor of shape \[4\]"),
        (logging({"loss": 1.0}), "logs 'loss', expected a name of the form group/name"),
        (logging({"epoch/": 1.0}), "logs 'epoch/', expected"),
        (logging({"/seed": 1.0}), "logs '/seed', expected"),
        (logging({"gate/audio": torch.ones(2)}), r"logs 'gate/audio' as shape \[2\], expected one number"),
        (logging({"gate/audio": "wide"}), "logs 'gate/audio' as str, expected one number"),  # type: ignore[dict-item]
    ],
)
def test_what_cannot_be_counted_or_written_is_one_line(method: type[Method], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        two_steps(run_of(method))
    assert str(caught.value).startswith("--methods mine.py:Mine: ")
    assert "\n" not in str(caught.value)


def test_a_rank_without_clips_refuses_what_the_others_do() -> None:
    # Or it would wait in the next collective for ranks that have ended.
    with pytest.raises(UsageError, match=r"shape \[0, 7\], expected a tensor of shape \[0, 3\]"):
        two_steps(run_of(MoreClasses), lambda: batch_of(4).select(torch.arange(0)))


def test_what_a_method_logs_is_taken_under_its_name() -> None:
    run = run_of(logging({"gate/audio": torch.tensor([0.5]), "gate/visual": 2, "a/b/c": 1.0}))
    two_steps(run)
    (taken,) = collect_tallies([run])
    assert taken.log == {"gate/audio": 0.5, "gate/visual": 2.0, "a/b/c": 1.0}


class Certain(Mine):
    def probabilities(self, outputs: Outputs) -> dict[str, Tensor]:
        return {"prediction": torch.eye(CLASSES)[torch.zeros(len(outputs.logits), dtype=torch.int64)]}


def test_the_logarithm_of_nothing_is_a_number():
    found = run_of(Certain).predict(batch_of(4)).log_probabilities
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert (found[:, 0] == 0).all()
    assert (found[:, 1] < -1e38).all()
