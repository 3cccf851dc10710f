from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avbench.batch import Batch
from avbench.distributed import current_world
from avbench.models.fusion import (
    ConcatHead,
    FiLMHead,
    Fusion,
    GatedHead,
    LateFusion,
    MeanReplacingHead,
    SumHead,
)
from avbench.vocabulary import MODALITIES
from tests.processes import run_on_ranks

ALL = get_args(Fusion)


def batch_of(clips: int = 3, *, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        audio=torch.randn(clips, 1, 32, 32, generator=generator).to(dtype),
        frames=torch.randn(clips, 1, 3, 32, 32, generator=generator).to(dtype),
        label=torch.zeros(clips, dtype=torch.long),
        clip_id=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
    )


def set_linear(layer: nn.Linear, weight: list[list[float]], bias: list[float]) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))


def expect(actual: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-5, atol=1e-6, check_dtype=False)


def test_concat_gives_each_part_its_columns_and_half_of_the_bias() -> None:
    head = ConcatHead(1, 2)
    set_linear(head, [[1, 2], [3, 4]], [2, 4])
    features = torch.tensor([[5.0, 7.0]])
    parts = head.parts(features)
    expect(head(features), [[21, 47]])
    expect(parts["audio"], [[6, 17]])
    expect(parts["visual"], [[15, 30]])


@pytest.mark.parametrize("training", [True, False])
def test_sum_gives_each_part_its_layers_full_bias_in_training_and_evaluation(training: bool) -> None:
    head = SumHead(1, 2).train(training)
    set_linear(head.layers["audio"], [[1], [2]], [10, 20])
    set_linear(head.layers["visual"], [[3], [4]], [30, 40])
    features = torch.tensor([[5.0, 7.0]])
    parts = head.parts(features)
    expect(parts["audio"], [[15, 30]])
    expect(parts["visual"], [[51, 68]])
    expect(head(features), [[66, 98]])


def film_by_hand() -> FiLMHead:
    """gamma = 2 a + 1, beta = 3 a - 1; logits (y + 0.5, -y) of y = gamma v + beta."""
    head = FiLMHead(1, 2)
    set_linear(head.modulation, [[2], [3]], [1, -1])
    set_linear(head.output, [[1], [-1]], [0.5, 0])
    return head


def test_film_scales_and_shifts_the_visual_features_by_audio() -> None:
    # y: (3 * 2 + 2, 7 * 6 + 8)
    expect(film_by_hand()(torch.tensor([[1.0, 2.0], [3.0, 6.0]])), [[8.5, -8], [50.5, -50]])


def test_films_parts_replace_the_other_modality_by_its_mean_over_the_batch() -> None:
    # Means: a = 2, v = 4. Audio's part: y = (3 * 4 + 2, 7 * 4 + 8).
    # Vision's: gamma = beta = 5, y = (5 * 2 + 5, 5 * 6 + 5).
    parts = film_by_hand().parts(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    expect(parts["audio"], [[14.5, -14], [36.5, -36]])
    expect(parts["visual"], [[15.5, -15], [35.5, -35]])


def test_gated_lets_audio_gate_the_visual_features() -> None:
    head = GatedHead(1, 1)
    set_linear(head.layers["audio"], [[1]], [0])
    set_linear(head.layers["visual"], [[2]], [1])
    set_linear(head.output, [[1]], [0])
    log3 = 1.0986123
    features = torch.tensor([[0.0, 1.0], [log3, 3.0]])  # gates 1/2 and 3/4; visual projections 3 and 7, of the mean 5
    expect(head(features), [[1.5], [5.25]])
    parts = head.parts(features)
    expect(parts["audio"], [[2.5], [3.75]])
    # The gate of the mean: sqrt 3 / (1 + sqrt 3) = 0.6339746.
    expect(parts["visual"], [[1.9019238], [4.4378222]])


def test_in_evaluation_the_parts_use_the_running_mean_and_leave_it_alone() -> None:
    head = film_by_hand()
    head.parts(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    head.eval()
    parts = head.parts(torch.tensor([[1.0, 100.0]]))  # a's mean stays 2, v's 4
    expect(parts["audio"], [[14.5, -14]])
    expect(parts["visual"], [[505.5, -505]])
    expect(head.running_mean, [2, 4])


def test_the_running_mean_is_the_average_of_ten_batches_and_exponential_then() -> None:
    head = FiLMHead(1, 2)
    for number in range(1, 13):
        head.parts(torch.tensor([[float(number), 0.0]]))
        if number == 10:
            assert float(head.running_mean[0]) == pytest.approx(5.5)
    # 5.5 -> 5.5 + 0.1 (11 - 5.5) = 6.05 -> 6.05 + 0.1 (12 - 6.05)
    assert float(head.running_mean[0]) == pytest.approx(6.645)


def test_a_batch_without_clips_leaves_the_running_mean_as_it_is() -> None:
    head = film_by_hand()
    head.parts(torch.tensor([[1.0, 2.0]]))
    parts = head.parts(torch.zeros(0, 2))
    assert parts["audio"].shape == parts["visual"].shape == (0, 2)
    expect(head.running_mean, [1, 2])
    assert int(head.batches) == 1


def parts_of_own_slice(bounds: list[int]) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """Parts, running mean and number of batches after one call on this rank's clips of six."""
    torch.manual_seed(0)
    head = GatedHead(4, 3).double()
    rank = current_world().rank
    features = torch.randn(6, 8, dtype=torch.float64)[bounds[rank] : bounds[rank + 1]]
    with torch.no_grad():
        parts = {modality: part.numpy() for modality, part in head.parts(features).items()}
    return parts, head.running_mean.numpy(), int(head.batches)


def test_the_mean_is_over_the_global_batch_however_it_is_cut() -> None:
    whole, mean, batches = parts_of_own_slice([0, 6])
    ranks = run_on_ranks(3, parts_of_own_slice, [0, 4, 6, 6])  # the last rank has no clips
    for modality in MODALITIES:
        joined = np.concatenate([parts[modality] for parts, _, _ in ranks])
        np.testing.assert_allclose(joined, whole[modality], rtol=1e-12)
    for _, own_mean, own_batches in ranks:
        np.testing.assert_allclose(own_mean, mean, rtol=1e-12)
        assert own_batches == batches == 1


@pytest.mark.parametrize("fusion", ALL)
def test_the_parts_are_detached_and_the_logits_are_not(fusion: Fusion) -> None:
    model = LateFusion(3, fusion)
    outputs = model(batch_of())
    assert not any(part.requires_grad for part in outputs.unimodal_logits.values())
    assert set(outputs.unimodal_logits) == set(MODALITIES)
    outputs.logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.head.parameters())
    assert all(model.encoders[modality].network.conv1.weight.grad.any() for modality in MODALITIES)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_the_parts_of_an_additive_fusion_add_up_to_the_logits(fusion: Fusion) -> None:
    torch.manual_seed(0)
    model = LateFusion(3, fusion).eval()
    for layer in model.head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.bias)
    outputs = model(batch_of())
    torch.testing.assert_close(sum(outputs.unimodal_logits.values()), outputs.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", ALL)
def test_a_part_reads_its_own_modality_only(fusion: Fusion) -> None:
    torch.manual_seed(0)
    model = LateFusion(3, fusion).eval()
    if isinstance(model.head, MeanReplacingHead):
        nn.init.normal_(model.head.running_mean)
    batch = batch_of()
    before = model(batch).unimodal_logits
    without_frames = model(replace(batch, frames=torch.zeros_like(batch.frames))).unimodal_logits
    without_audio = model(replace(batch, audio=torch.zeros_like(batch.audio))).unimodal_logits
    assert torch.equal(before["audio"], without_frames["audio"])
    assert torch.equal(before["visual"], without_audio["visual"])
    assert not torch.equal(before["visual"], without_frames["visual"])
    assert not torch.equal(before["audio"], without_audio["audio"])


@pytest.mark.parametrize("fusion", ALL)
def test_outputs_are_float32_under_autocast_and_float64_in_a_float64_network(fusion: Fusion) -> None:
    model = LateFusion(3, fusion)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(batch_of(2))
    assert {each.dtype for each in (outputs.logits, *outputs.unimodal_logits.values())} == {torch.float32}
    outputs = model.double()(batch_of(2, dtype=torch.float64))
    assert {each.dtype for each in (outputs.logits, *outputs.unimodal_logits.values())} == {torch.float64}


@pytest.mark.parametrize("fusion", ALL)
def test_every_fusion_takes_a_batch_without_clips(fusion: Fusion) -> None:
    outputs = LateFusion(4, fusion)(batch_of().select(torch.empty(0, dtype=torch.long)))
    assert outputs.logits.shape == outputs.unimodal_logits["audio"].shape == (0, 4)
    outputs.logits.sum().backward()
