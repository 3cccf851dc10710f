import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avbench.batch import Batch, Clock, Outputs
from avbench.errors import UsageError
from avbench.methods.choice import parse_methods
from avbench.methods.tmc import COMBINED, TMC, combine, divergence_from_uniform, evidential_loss, uncertainty
from avbench.vocabulary import MODALITIES
from tests.methods.steps import batch_of, configured, take_steps
from tests.processes import run_on_ranks


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def belief(evidence: Tensor) -> Tensor:
    return evidence / (evidence + 1.0).sum(dim=1, keepdim=True)


def cases(golden: Path) -> list[dict[str, Any]]:
    return json.loads((golden / "tmc_official.json").read_text())["cases"]


def expect(actual: Tensor, expected: Any) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), np.array(expected), rtol=1e-10, atol=1e-12)


def test_the_combination_equals_the_published_code(golden: Path) -> None:
    for case in cases(golden):
        views = [tensor(evidence) for evidence in case["inputs"]["evidence"]]
        expected = case["outputs"]
        for view, its_belief, its_uncertainty in zip(
            views, expected["view_belief"], expected["view_uncertainty"], strict=True
        ):
            expect(belief(view), its_belief)
            expect(uncertainty(view), np.ravel(its_uncertainty))
        combined = combine(views)
        expect(combined, expected["evidence_combined"])
        expect(combined + 1, expected["alpha_combined"])
        expect(belief(combined), expected["belief_combined"])
        expect(uncertainty(combined), expected["uncertainty_combined"])


def test_the_loss_equals_the_published_code(golden: Path) -> None:
    for case in cases(golden):
        views = [tensor(evidence) for evidence in case["inputs"]["evidence"]]
        label = torch.tensor(case["inputs"]["label"])
        expected = case["outputs"]
        for evidence, loss in zip(
            (*views, combine(views)), (*expected["ce_loss_per_view"], expected["ce_loss_combined"]), strict=True
        ):
            weight = case["inputs"]["global_step_epoch"] / case["inputs"]["annealing_epochs"]
            expect(evidential_loss(evidence, label, divergence_weight=weight), np.ravel(loss))
        for evidence, term in zip(views, expected["kl_term"], strict=True):
            wrong = (evidence + 1).scatter(1, label[:, None], 1.0)
            expect(divergence_from_uniform(wrong), np.ravel(term))


def test_the_methods_loss_equals_the_published_total(golden: Path) -> None:
    method = TMC(TMC.Config(), classes=3, seed=0)
    for case in cases(golden):
        audio, visual = (tensor(evidence) for evidence in case["inputs"]["evidence"])
        evidence = {"audio": audio, "visual": visual, COMBINED: combine([audio, visual])}
        # Published epochs count from 1.
        clock = Clock(epoch=case["inputs"]["global_step_epoch"] - 1, step=0, epochs=100)
        losses = method.loss(outputs_of(evidence), labelled(case["inputs"]["label"]), clock)
        assert float(losses.mean()) == pytest.approx(case["outputs"]["total_loss_mean"], rel=1e-10)


def labelled(label: list[int]) -> Batch:
    labels = torch.tensor(label)
    return Batch(None, None, labels, labels, torch.ones(len(label), dtype=torch.bool))


def outputs_of(evidence: dict[str, Tensor]) -> Outputs:
    return Outputs(torch.log1p(evidence[COMBINED]), extras=evidence)


def dempster(views: list[Tensor]) -> Tensor:
    """Evidence of all views, step by step as the paper states the rule."""
    total = views[0]
    for other in views[1:]:
        b1, b2 = belief(total), belief(other)
        u1, u2 = uncertainty(total)[:, None], uncertainty(other)[:, None]
        table = b1[:, :, None] * b2[:, None, :]  # the mass that the two give to each pair of classes
        agreement = torch.diagonal(table, dim1=1, dim2=2)
        conflict = (table.sum(dim=(1, 2)) - agreement.sum(dim=1))[:, None]
        b = (agreement + b1 * u2 + b2 * u1) / (1 - conflict)
        u = u1 * u2 / (1 - conflict)
        total = b * (total.shape[1] / u)
    return total


@pytest.mark.parametrize("count", [2, 3])
def test_evidence_adds_up_as_the_papers_rule_in_beliefs_says(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    views = [40 * torch.rand(50, 7, generator=generator, dtype=torch.float64) ** 4 for _ in range(count)]
    torch.testing.assert_close(combine(views), dempster(views), rtol=1e-10, atol=1e-10)


def test_three_views_by_hand() -> None:
    views = [tensor([[4.0, 0.0]]), tensor([[0.0, 2.0]]), tensor([[6.0, 2.0]])]
    # First pair: b1 = (2/3, 0), u1 = 1/3; b2 = (0, 1/2), u2 = 1/2; conflict 1/3. So b = (1/2, 1/4), u = 1/4, S = 8.
    expect(combine(views[:2]), [[4, 2]])
    # With b3 = (0.6, 0.2), u3 = 0.2: conflict 0.25; b = (0.3 + 0.1 + 0.15, 0.05 + 0.05 + 0.05) / 0.75, u = 0.05 / 0.75.
    combined = combine(views)
    expect(belief(combined), [[0.55 / 0.75, 0.15 / 0.75]])
    expect(uncertainty(combined), [0.05 / 0.75])
    expect(combined, [[22, 6]])


def test_a_view_without_evidence_changes_nothing_and_is_wholly_uncertain() -> None:
    evidence, nothing = tensor([[3.0, 1.0, 0.5]]), torch.zeros(1, 3, dtype=torch.float64)
    expect(combine([evidence, nothing]), evidence.tolist())
    expect(uncertainty(nothing), [1.0])


def test_the_loss_by_hand() -> None:
    # alpha = (3, 1, 2), S = 6. digamma(6) - digamma(3) = 1/3 + 1/4 + 1/5; of label 1: 1 + 1/2 + 1/3 + 1/4 + 1/5.
    evidence = tensor([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
    label = torch.tensor([0, 1])
    expect(evidential_loss(evidence, label, divergence_weight=0.0), [47 / 60, 137 / 60])
    # alpha~ = (1, 1, 2), a density of 6 p_3 against 2: KL = log 3 + E log p_3, p_3 ~ Beta(2, 2), so log 3 + 1 - 11/6.
    divergence = np.log(3) - 5 / 6
    expect(divergence_from_uniform(tensor([[1.0, 1.0, 2.0]])), [divergence])
    expect(evidential_loss(evidence, label, divergence_weight=0.5)[0], 47 / 60 + divergence / 2)


def test_no_evidence_for_wrong_classes_costs_nothing() -> None:
    expect(divergence_from_uniform(torch.ones(1, 5, dtype=torch.float64)), [0.0])


@pytest.mark.parametrize(("epoch", "weight"), [(0, 0.1), (4, 0.5), (9, 1.0), (30, 1.0)])
def test_the_divergence_is_annealed_over_epochs_counted_from_one(epoch: int, weight: float) -> None:
    method = TMC(TMC.Config(annealing_epochs=10), classes=3, seed=0)
    evidence = {"audio": tensor([[2.0, 0.0, 1.0]]), COMBINED: tensor([[0.0, 0.0, 3.0]])}
    expected = sum(
        evidential_loss(each, torch.tensor([0]), divergence_weight=weight) for each in evidence.values()
    ).tolist()
    assert method.loss(outputs_of(evidence), labelled([0]), Clock(epoch, 0, 100)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_in_total_conflict_have_a_finite_loss_and_finite_gradients(dtype: torch.dtype) -> None:
    # A belief is 1 - 3e-10 here, so 1 - C is 0 in float32, and the rule in beliefs divides by it.
    strengths = torch.tensor([[1e10, 0.0, 0.0], [0.0, 1e10, 0.0], [0.0, 0.0, 1e10]], dtype=dtype)
    views = [row.float()[None].requires_grad_() for row in strengths]
    assert not torch.isfinite(dempster([view.detach() for view in views])).all()
    loss = evidential_loss(combine(views), torch.tensor([1]), divergence_weight=1.0).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(view.grad).all() for view in views)


def test_a_strong_divergence_is_exact_in_float32() -> None:
    # In float32 arithmetic lgamma's terms, some 1e6 each, would leave an error of about 0.1.
    evidence = torch.tensor([[1e5, 2e5, 10.0]])
    label = torch.tensor([2])
    expected = evidential_loss(evidence.double(), label, divergence_weight=1.0)
    actual = evidential_loss(evidence, label, divergence_weight=1.0)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("text", "views"), [("tmc", 2), ("tmc:pseudo_view=true", 3)])
def test_the_network_states_confidences_and_uncertainties(text: str, views: int) -> None:
    method, engine = configured(text)
    outputs = method.forward(engine, batch_of(4))
    assert list(outputs.extras) == [*("audio", "visual", "pseudo_view")[:views], COMBINED]
    torch.testing.assert_close(outputs.extras[COMBINED], combine(list(outputs.extras.values())[:-1]))
    probabilities = method.probabilities(outputs)
    assert set(probabilities) == {"prediction", "audio", "visual"}
    for name, evidence in (("prediction", COMBINED), ("audio", "audio"), ("visual", "visual")):
        alpha = outputs.extras[evidence] + 1
        torch.testing.assert_close(probabilities[name], alpha / alpha.sum(dim=1, keepdim=True))
    alpha = outputs.extras[COMBINED] + 1
    torch.testing.assert_close(method.uncertainty(outputs), 3 / alpha.sum(dim=1))


def test_the_pseudo_view_reads_both_modalities() -> None:
    method, engine = configured("tmc:pseudo_view=true")
    with engine.evaluating(), torch.no_grad():
        batch = batch_of(2)
        mixed = Batch(batch.audio, batch.frames.flip(0), batch.label, batch.clip_id, batch.valid)
        before, after = method.forward(engine, batch).extras, method.forward(engine, mixed).extras
    assert torch.equal(before["audio"], after["audio"])
    assert not torch.equal(before["pseudo_view"], after["pseudo_view"])
    torch.testing.assert_close(before["visual"], after["visual"].flip(0))


def test_evidence_is_float32_under_autocast() -> None:
    method, engine = configured("tmc")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = method.forward(engine, batch_of(2))
    tensors = (outputs.logits, *outputs.unimodal_logits.values(), *outputs.extras.values())
    assert {each.dtype for each in tensors} == {torch.float32}


def test_one_process_and_two_ranks_take_the_same_steps_and_log_the_global_mean() -> None:
    text = "tmc:pseudo_view=true"
    whole = take_steps(text, [0, 6], 5)
    first, second = run_on_ranks(2, take_steps, text, [0, 4, 6], 5)
    assert first.logs == second.logs
    for name, expected in whole.parameters.items():
        np.testing.assert_allclose(first.parameters[name], expected, rtol=0, atol=1e-5, err_msg=name)
    views = (*MODALITIES, "pseudo_view", COMBINED)
    for own, expected_log in zip(first.logs, whole.logs, strict=True):
        assert list(own) == [f"uncertainty/{view}" for view in views]
        assert own == pytest.approx(expected_log, rel=1e-4)


def test_the_logged_uncertainty_is_the_mean_over_clips() -> None:
    method, engine = configured("tmc")
    batch = batch_of(4)
    outputs = method.forward(engine, batch)
    log = method.after_backward(engine, outputs, batch, Clock(0, 0, 1))
    assert float(log["uncertainty/combined"]) == pytest.approx(float(method.uncertainty(outputs).detach().mean()))
    assert float(log["uncertainty/audio"]) > float(log["uncertainty/combined"])  # views only ever add evidence


def test_an_option_out_of_range_is_named() -> None:
    with pytest.raises(UsageError, match="method 'tmc': annealing_epochs is 0, expected at least 1"):
        parse_methods(["tmc:annealing_epochs=0"])
