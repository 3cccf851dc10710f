from dataclasses import dataclass

import pytest
import torch

from avbench.batch import Batch, Clock, Outputs
from avbench.errors import UsageError
from avbench.methods import METHODS, parse_methods
from avbench.methods.base import Method


def test_runs_are_named_after_their_method_or_as_told() -> None:
    specs = parse_methods(["audio,visual", "late=baseline"])
    assert [(spec.name, spec.method.name) for spec in specs] == [
        ("audio", "audio"),
        ("visual", "visual"),
        ("late", "baseline"),
    ]


class WithOptions(Method):
    name = "with-options"

    @dataclass(frozen=True)
    class Config:
        alpha: float = 0.1
        noise: bool = True
        window: int = 5

        def __post_init__(self) -> None:
            if self.alpha < 0:
                raise ValueError(f"alpha is {self.alpha}, expected a number >= 0")


@pytest.fixture
def with_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "with-options", WithOptions)


@pytest.mark.usefixtures("with_options")
def test_options_take_the_kind_of_their_field() -> None:
    (spec,) = parse_methods(["o=with-options:noise=false:alpha=3:window=7"])
    assert spec.config == WithOptions.Config(alpha=3.0, noise=False, window=7)


@pytest.mark.usefixtures("with_options")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("baselin", "unknown method 'baselin'; did you mean 'baseline'"),
        ("", "names no method"),
        ("audio,audio", "two runs 'audio'"),
        ("baseline:alpha=1", "has no options"),
        ("with-options:alfa=1", "unknown option of method 'with-options': 'alfa'; did you mean 'alpha'"),
        ("with-options:alpha", "has no value"),
        ("with-options:alpha=x", "is 'x', expected float"),
        ("with-options:noise=maybe", "expected true or false"),
        ("with-options:alpha=-1", "alpha is -1.0"),
        ("a/b=audio", "is no name for a run"),
    ],
)
def test_a_wrong_methods_value_says_what_and_the_way_out(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_methods([text])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_loss_is_one_cross_entropy_a_clip(name: str) -> None:
    method = METHODS[name](METHODS[name].Config(), classes=3, seed=0)
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    label = torch.tensor([0, 2])
    batch = Batch(None, None, label, label, torch.ones(2, dtype=torch.bool))
    losses = method.loss(Outputs(logits), batch, Clock(0, 0, 1))
    # -log(e^2 / (e^2 + 2)) and log 3, by hand
    torch.testing.assert_close(losses, torch.tensor([0.2395, 1.0986]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_says_its_network_and_reads_what_its_encoders_read(name: str) -> None:
    method = METHODS[name](METHODS[name].Config(), classes=3, seed=0)
    assert method.network
    assert tuple(method.build_model().encoders) == tuple(method.modalities)
    assert method.confidence_of == (name if name in ("audio", "visual") else None)
