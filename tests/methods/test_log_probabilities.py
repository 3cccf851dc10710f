"""Logarithms by which clips are ranked: the order of confident clips stays, in float32, for every kind of method."""

import torch
from torch import Tensor

from avbench.batch import Outputs
from avbench.methods import METHODS
from avbench.methods.base import Method, log_softmax
from avbench.methods.tmc import COMBINED, TMC


def test_the_order_of_margins_of_17_20_and_40_stays_in_float32():
    logits = torch.zeros(5, 4)
    logits[:, 1] = torch.tensor([17.0, 20.0, 40.0, 60.0, 90.0])
    assert len(torch.log_softmax(logits, dim=1)[:, 1].unique()) < 5  # float32 alone loses it
    assert len(torch.log_softmax(logits.double(), dim=1)[:, 1].unique()) < 5  # and so does float64
    found = log_softmax(logits).float()
    assert (found[1:, 1] > found[:-1, 1]).all()
    assert (found[:, 1] < 0).all()
    torch.testing.assert_close(found[:, 1].double(), -3 * torch.exp(-logits[:, 1].double()), rtol=1e-6, atol=0)


def test_it_is_log_softmax():
    logits = torch.randn(64, 309, generator=torch.Generator().manual_seed(0)) * 5
    torch.testing.assert_close(log_softmax(logits), torch.log_softmax(logits.double(), dim=1), rtol=0, atol=1e-13)
    equal = log_softmax(torch.zeros(2, 3))  # the highest is not alone
    torch.testing.assert_close(equal, torch.full((2, 3), 1 / 3, dtype=torch.float64).log())
    assert log_softmax(torch.zeros(0, 3)).shape == (0, 3)


def test_tmcs_are_of_its_evidence():
    evidence = torch.tensor([[1e7, 3.0, 0.0], [2e7, 3.0, 0.0], [1e10, 0.0, 1.0], [0.0, 0.0, 0.0]])
    outputs = Outputs(logits=torch.log1p(evidence), unimodal_logits={}, extras={COMBINED: evidence})
    found = TMC(TMC.Config(), classes=3, seed=0).log_probabilities(outputs)
    alpha = evidence.double() + 1
    torch.testing.assert_close(found.exp(), alpha / alpha.sum(dim=1, keepdim=True))
    # log alpha - log S, as the rest over alpha: what is left of the difference of two logarithms near 16.
    rest = (alpha[:, 1:].sum(dim=1) / alpha[:, 0]).log1p()
    torch.testing.assert_close(found[:, 0], -rest, rtol=1e-12, atol=0)
    assert found[0, 0] < found[1, 0] < found[2, 0]


class Own(Method):
    name = "own"

    def probabilities(self, outputs: Outputs) -> dict[str, Tensor]:
        return {"prediction": torch.tensor([[0.25, 0.75], [0.0, 1.0]])}


def test_a_method_with_probabilities_of_its_own_is_ranked_by_them():
    outputs = Outputs(logits=torch.zeros(2, 2), unimodal_logits={})
    found = Own(None, classes=2, seed=0).log_probabilities(outputs)
    torch.testing.assert_close(found[0], torch.tensor([0.25, 0.75], dtype=torch.float64).log())
    assert found[1, 0] == -torch.inf  # the run makes a finite number of it


def test_no_method_says_other_logarithms_than_of_its_probabilities():
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    for name, method in METHODS.items():
        evidence = torch.nn.functional.softplus(logits)
        outputs = Outputs(
            logits=torch.log1p(evidence) if name == "tmc" else logits, unimodal_logits={}, extras={COMBINED: evidence}
        )
        one = method(method.Config(), classes=5, seed=0)
        probabilities = one.probabilities(outputs)["prediction"].double()
        torch.testing.assert_close(one.log_probabilities(outputs).exp(), probabilities, rtol=1e-5, atol=1e-7)
