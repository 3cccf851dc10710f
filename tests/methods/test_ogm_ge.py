import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avbench.batch import Batch, Clock, Outputs
from avbench.distributed import current_world
from avbench.engine.choice import build_engine
from avbench.engine.config import OptimizerConfig
from avbench.engine.plain import Engine
from avbench.errors import UsageError
from avbench.methods import METHODS
from avbench.methods.base import global_mean
from avbench.methods.choice import parse_methods
from avbench.methods.ogm_ge import (
    OGMGE,
    convolution_kernels,
    modulated,
    noise_like,
    ratios,
    slowing,
    true_label_scores,
)
from avbench.models.fusion import ConcatHead, Fusion
from avbench.vocabulary import MODALITIES, Modality
from tests.methods.steps import CPU, batch_of, configured, take_steps
from tests.processes import run_on_ranks


class Kernel(nn.Module):
    """The published numbers' encoder: a convolution of 2 x 2, ReLU, mean over space."""

    def __init__(self, modality: Modality, weight: Tensor) -> None:
        super().__init__()
        self.modality = modality
        self.weight = nn.Parameter(weight)

    def forward(self, batch: Batch) -> Tensor:
        images = batch.audio if self.modality == "audio" else batch.frames.flatten(0, 1)
        return torch.relu(torch.conv2d(images, self.weight)).mean(dim=(2, 3))


class Tiny(nn.Module):
    def __init__(self, inputs: dict[str, Any]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {each: Kernel(each, torch.tensor(inputs[f"conv_{each}_weight"])) for each in MODALITIES}
        )
        weight = torch.tensor(inputs["fusion_fc_out.weight"])
        self.head = ConcatHead(weight.shape[1] // 2, len(weight))
        self.head.load_state_dict({"weight": weight, "bias": torch.tensor(inputs["fusion_fc_out.bias"])})

    def forward(self, batch: Batch) -> Outputs:
        features = torch.cat([self.encoders[modality](batch) for modality in MODALITIES], dim=1)
        with torch.no_grad():
            parts = self.head.parts(features)
        return Outputs(self.head(features), parts)


@dataclass
class PublishedStep:
    logits: dict[str, np.ndarray]
    scores: list[float]
    raw: dict[str, np.ndarray]
    rewritten: dict[str, np.ndarray]
    log: dict[str, float]


def published_step(inputs: dict[str, Any], rows_of_ranks: list[list[int]]) -> PublishedStep:
    """One step of the published numbers' network on this rank's rows, up to the optimizer."""
    rows = rows_of_ranks[current_world().rank]
    label = torch.tensor(inputs["label"])
    batch = Batch(
        audio=torch.tensor(inputs["spec"])[:, None],
        frames=torch.tensor(inputs["image"])[:, None],
        label=label,
        clip_id=torch.arange(len(label)),
        valid=torch.ones(len(label), dtype=torch.bool),
        global_valid=torch.tensor(sum(len(each) for each in rows_of_ranks)),
    ).select(torch.tensor(rows))
    method = OGMGE(OGMGE.Config(alpha=inputs["alpha"], noise=False), classes=len(inputs["fusion_fc_out.bias"]), seed=0)
    engine = build_engine(
        Tiny(inputs), optimizer=OptimizerConfig(), device=CPU, dtype=torch.float32, leaves_unused_parameters=False
    )
    clock = Clock(inputs["epoch"], 0, 100)
    outputs = method.forward(engine, batch)
    engine.backward(global_mean(method.loss(outputs, batch, clock), batch, engine))
    raw = grads(engine)
    log = method.after_backward(engine, outputs, batch, clock)
    logits = {"all": outputs.logits.detach(), **outputs.unimodal_logits}
    return PublishedStep(
        {name: each.numpy() for name, each in logits.items()},
        true_label_scores(outputs, batch.label).tolist(),
        raw,
        grads(engine),
        {name: float(value) for name, value in log.items()},
    )


def published_steps(inputs: list[dict[str, Any]], rows_of_ranks: list[list[list[int]]]) -> list[PublishedStep]:
    """A step of each case."""
    return [published_step(*case) for case in zip(inputs, rows_of_ranks, strict=True)]


def grads(engine: Engine) -> dict[str, np.ndarray]:
    """A copy of every gradient, by name."""
    return {name: parameter.grad.detach().clone().numpy() for name, parameter in engine.model.named_parameters()}


def cases(golden: Path) -> list[dict[str, Any]]:
    return json.loads((golden / "ogm_official.json").read_text())["cases"]


def compare(actual: dict[str, np.ndarray], published: dict[str, Any]) -> None:
    names = {
        "encoders.audio.weight": "audio_net.weight",
        "encoders.visual.weight": "visual_net.weight",
        "head.weight": "fusion_module.fc_out.weight",
        "head.bias": "fusion_module.fc_out.bias",
    }
    for own, theirs in names.items():
        np.testing.assert_allclose(actual[own], np.array(published[theirs]), rtol=1e-5, atol=1e-7, err_msg=own)


def test_a_whole_step_equals_the_published_code(golden: Path) -> None:
    for case in cases(golden):
        expected = case["outputs"]
        step = published_step(case["inputs"], [list(range(len(case["inputs"]["label"])))])
        for part, name in (("all", "out"), ("audio", "out_a"), ("visual", "out_v")):
            np.testing.assert_allclose(step.logits[part], np.array(expected[name]), rtol=1e-5, atol=1e-6)
        assert step.scores == pytest.approx([expected["score_a"], expected["score_v"]], rel=1e-5)
        assert step.log == pytest.approx(
            {
                "ratio/audio": expected["ratio_a"],
                "ratio/visual": expected["ratio_v"],
                "coefficient/audio": expected["coeff_a"],
                "coefficient/visual": expected["coeff_v"],
            },
            rel=1e-5,
        )
        compare(step.raw, expected["grad_raw"])
        compare(step.rewritten, expected["grad_after_modulation_noise_zeroed"])


def test_ranks_take_the_published_step_of_the_global_batch(golden: Path) -> None:
    published = cases(golden)
    shards = json.loads((golden / "ogm_ddp_shards.json").read_text())["cases"]
    assert [case["name"] for case in published] == [case["case"] for case in shards]
    inputs = [case["inputs"] for case in published]
    for steps in run_on_ranks(2, published_steps, inputs, [case["shards_sample_indices"] for case in shards]):
        for step, case, sharded in zip(steps, published, shards, strict=True):
            expected = sharded["global_after_allreduce_sum"]
            assert step.log["ratio/visual"] == pytest.approx(expected["ratio_v"], rel=1e-5)
            assert step.log["coefficient/visual"] == pytest.approx(expected["coeff_v"], rel=1e-5)
            assert step.log["coefficient/audio"] == pytest.approx(expected["coeff_a"], rel=1e-5)
            compare(step.rewritten, case["outputs"]["grad_after_modulation_noise_zeroed"])


def scalars(**values: float) -> dict[Any, Tensor]:
    return {modality: torch.tensor(values[modality], dtype=torch.float64) for modality in MODALITIES}


@pytest.mark.parametrize(
    ("audio", "visual", "expected"),
    [
        # 1 - tanh(0.5 * 2) = 0.2384058
        (3.0, 1.5, (0.2384058, 1.0)),
        (1.5, 3.0, (1.0, 0.2384058)),
        # Neither is ahead: neither is slowed.
        (2.0, 2.0, (1.0, 1.0)),
        # A probability that underflowed: the other modality stops.
        (0.0, 2.0, (1.0, 0.0)),
        (0.0, 0.0, (1.0, 1.0)),
        # For whoever watches losses to deal with.
        (float("nan"), 2.0, (1.0, 1.0)),
    ],
)
def test_only_the_modality_that_is_ahead_is_slowed(audio: float, visual: float, expected: tuple[float, float]) -> None:
    ratio = ratios(scalars(audio=audio, visual=visual))
    assert [float(slowing(ratio[modality], alpha=0.5)) for modality in MODALITIES] == pytest.approx(expected, abs=1e-7)


def test_with_alpha_zero_nothing_is_slowed_however_far_a_modality_is_ahead() -> None:
    ratio = ratios(scalars(audio=5.0, visual=0.0))
    assert float(slowing(ratio["audio"], alpha=0.0)) == 1.0


def test_ratios_are_each_others_inverse() -> None:
    ratio = ratios(scalars(audio=3.0, visual=1.5))
    assert (float(ratio["audio"]), float(ratio["visual"])) == (2.0, 0.5)


def test_the_score_is_the_sum_of_the_true_labels_probabilities() -> None:
    log3 = 1.0986123
    parts = {"audio": torch.tensor([[0.0, 0.0], [log3, 0.0]]), "visual": torch.tensor([[0.0, log3], [0.0, log3]])}
    outputs = Outputs(torch.zeros(2, 2), parts)
    # audio: 1/2 + 3/4; visual: 3/4 + 1/4
    assert true_label_scores(outputs, torch.tensor([1, 0])).tolist() == pytest.approx([1.25, 1.0], rel=1e-6)


def test_a_rank_without_clips_adds_nothing_to_the_scores() -> None:
    outputs = Outputs(torch.zeros(0, 2), {modality: torch.zeros(0, 2) for modality in MODALITIES})
    assert true_label_scores(outputs, torch.zeros(0, dtype=torch.long)).tolist() == [0, 0]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_without_noise_the_gradient_is_multiplied_and_nothing_else() -> None:
    gradient = torch.randn(8, 4, 3, 3, generator=seeded())
    (rewritten,) = modulated([gradient.clone()], k=torch.tensor(0.3, dtype=torch.float64), generator=None)
    assert torch.equal(rewritten, gradient * 0.3)


def test_the_noise_has_the_deviation_of_the_gradient_before_it_is_slowed() -> None:
    gradient = 5.0 + 0.3 * torch.randn(256, 128, 3, 3, generator=seeded())  # 294,912 numbers: deviation known to 0.2 %
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    (rewritten,) = modulated([gradient.clone()], k=torch.tensor(0.01), generator=seeded())
    noise = rewritten - 0.01 * gradient
    assert float(noise.std()) == pytest.approx(0.3, rel=0.01)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)
    assert abs(float((noise / 0.3).pow(4).mean()) - 3.0) < 0.1  # a normal distribution's


def test_the_noises_deviation_is_the_unbiased_one() -> None:
    gradient = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)  # deviation sqrt 2; the biased one is 1
    standard = torch.empty(1, 1, 1, 2).normal_(generator=seeded()).permute(0, 3, 1, 2)
    torch.testing.assert_close(noise_like(gradient, seeded()), standard * 2**0.5)


def test_a_gradient_that_is_constant_gets_no_noise() -> None:
    assert not noise_like(torch.full((2, 2, 3, 3), 0.5), seeded()).any()


def test_the_noise_does_not_depend_on_how_the_gradient_lies_in_memory() -> None:
    gradient = torch.randn(8, 4, 3, 3, generator=seeded())
    other = gradient.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(noise_like(gradient, seeded()), noise_like(other, seeded()), rtol=1e-6, atol=0)


@dataclass
class Gradients:
    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    log: dict[str, Any] = field(default_factory=dict)

    def changed(self) -> set[str]:
        return {name for name in self.before if not np.array_equal(self.before[name], self.after[name])}


def gradients_of(text: str, *, epoch: int = 0, step: int = 0) -> tuple[Engine, Gradients]:
    """A real network's gradients before and after the method had them."""
    method, engine = configured(text)
    batch, clock = batch_of(4), Clock(epoch, step, 100)
    outputs = method.forward(engine, batch)
    engine.backward(global_mean(method.loss(outputs, batch, clock), batch, engine))
    before = grads(engine)
    log = method.after_backward(engine, outputs, batch, clock)
    return engine, Gradients(before, grads(engine), log)


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_every_kernel_of_both_encoders_is_rewritten_and_no_other_gradient(fusion: Fusion) -> None:
    engine, gradients = gradients_of(f"ogm-ge:fusion={fusion}")
    shapes = {name: parameter.ndim for name, parameter in engine.model.named_parameters()}
    kernels = {name for name, dimensions in shapes.items() if dimensions == 4}
    assert gradients.changed() == kernels
    assert len(kernels) == 2 * 20  # ResNet-18: the stem, 16 in its blocks, 3 at its shortcuts
    for modality in MODALITIES:
        found = convolution_kernels(engine.model.encoders[modality])
        assert len(found) == 20


def test_plain_ogm_rewrites_only_the_modality_that_is_ahead() -> None:
    _, gradients = gradients_of("ogm-ge:noise=false:alpha=0.8")
    ratio = {modality: float(gradients.log[f"ratio/{modality}"]) for modality in MODALITIES}
    ahead = max(ratio, key=ratio.__getitem__)
    k = 1 - np.tanh(0.8 * ratio[ahead])
    assert float(gradients.log[f"coefficient/{ahead}"]) == pytest.approx(k, rel=1e-6)
    changed = gradients.changed()
    assert len(changed) == 20
    for name in changed:
        assert name.startswith(f"encoders.{ahead}.")
        np.testing.assert_allclose(gradients.after[name], k * gradients.before[name], rtol=1e-5, atol=1e-12)


def test_the_noise_of_a_step_is_its_own_and_repeats() -> None:
    first, again, next_step = (gradients_of("ogm-ge", step=step)[1].after for step in (0, 0, 1))
    name = "encoders.visual.network.layer4.1.conv2.weight"
    assert np.array_equal(first[name], again[name])
    assert not np.array_equal(first[name], next_step[name])


@pytest.mark.parametrize(("epoch", "modulates"), [(1, False), (2, True), (3, True), (4, False)])
def test_epochs_from_start_to_end_are_modulated_both_included(epoch: int, modulates: bool) -> None:
    _, gradients = gradients_of("ogm-ge:start=2:end=3", epoch=epoch)
    assert bool(gradients.changed()) == modulates
    coefficients = [float(gradients.log[f"coefficient/{modality}"]) for modality in MODALITIES]
    assert (min(coefficients) < 1.0) == modulates
    assert max(coefficients) == 1.0


def test_one_process_and_two_ranks_take_the_same_steps_noise_and_running_means_included() -> None:
    text = "ogm-ge:alpha=0.8:fusion=gated"
    whole = take_steps(text, [0, 6], 5)
    first, second = run_on_ranks(2, take_steps, text, [0, 4, 6], 5)
    assert first.logs == second.logs
    for name, expected in whole.parameters.items():
        assert np.array_equal(first.parameters[name], second.parameters[name]), name
        np.testing.assert_allclose(first.parameters[name], expected, rtol=0, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(first.buffers["head.running_mean"], whole.buffers["head.running_mean"], atol=1e-4)
    for own, expected_log in zip(first.logs, whole.logs, strict=True):
        assert own == pytest.approx(expected_log, rel=1e-4)


@dataclass
class Listener:
    """Of a run's view, what the warning needs; keeps what is said."""

    engine: Engine
    clock: Clock
    said: list[str] = field(default_factory=list)

    def say(self, text: str, **numbers: float) -> None:
        self.said.append(text)


@pytest.mark.parametrize(("optimizer", "warnings"), [("sgd", 0), ("adam", 1), ("adamw", 1)])
def test_an_optimizer_that_divides_the_factor_out_is_warned_of_once(optimizer: Any, warnings: int) -> None:
    method = OGMGE(OGMGE.Config(), classes=2, seed=0)
    engine = Engine(nn.Linear(1, 1), optimizer=OptimizerConfig(optimizer=optimizer), device=CPU)
    listener = Listener(engine, Clock(0, 0, 3))
    for epoch in range(3):
        listener.clock = Clock(epoch, epoch, 3)
        method.before_epoch(listener)
    assert len(listener.said) == warnings


def test_options_are_read_from_methods() -> None:
    (spec,) = parse_methods(["ogm=ogm-ge:alpha=0.8:noise=false:fusion=film:start=1:end=9"])
    assert (spec.name, spec.method) == ("ogm", OGMGE)
    assert spec.config == OGMGE.Config(alpha=0.8, noise=False, fusion="film", start=1, end=9)
    assert OGMGE.Config() == OGMGE.Config(alpha=0.1, noise=True, fusion="concat", start=0, end=50)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ogm-ge:alpha=-1", "method 'ogm-ge': alpha is -1.0, expected a number >= 0"),
        ("ogm-ge:alpha=nan", "alpha is nan"),
        ("ogm-ge:start=-1", "start is -1, expected an epoch"),
        ("ogm-ge:start=5:end=4", "end is 4, expected an epoch >= start, which is 5"),
        ("ogm-ge:fusion=flim", "fusion.*'flim'; did you mean 'film'"),
        ("baseline:fusion=add", "fusion.*'add'"),
    ],
)
def test_an_option_out_of_range_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_methods([text])


@pytest.mark.parametrize("name", ["baseline", "ogm-ge"])
def test_the_networks_description_names_the_fusion(name: str) -> None:
    method = METHODS[name]
    said = {method(method.Config(fusion=fusion), classes=2, seed=0).network for fusion in get_args(Fusion)}
    assert len(said) == 4
    assert "two ResNet-18s, concatenated, one linear layer" in said
