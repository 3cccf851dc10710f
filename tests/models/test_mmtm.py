import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from avbench.batch import Batch, Outputs
from avbench.models.mmtm import MMTM, MMTMFusion
from avbench.models.resnet import Encoder
from avbench.vocabulary import MODALITIES

CHANNELS = (128, 256, 512)  # of ResNet-18's stages 2, 3 and 4


def batch_of(clips: int = 3, frames: int = 2, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        audio=torch.randn(clips, 1, 32, 40, generator=generator, dtype=dtype),
        frames=torch.randn(clips, frames, 3, 32, 32, generator=generator, dtype=dtype),
        label=torch.arange(clips) % 3,
        clip_id=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def initialized() -> MMTMFusion:
    torch.manual_seed(0)
    return MMTMFusion(3)


@pytest.fixture
def network(initialized: MMTMFusion) -> MMTMFusion:
    return copy.deepcopy(initialized)


def small_block() -> MMTM:
    """One channel a modality, so the joint vector is one number: h = relu(a - 2 v + 0.5)."""
    block = MMTM({"audio": 1, "visual": 1})
    values = {
        "shared.weight": [[1.0, -2.0]],
        "shared.bias": [0.5],
        "gates.audio.excitation.weight": [[2.0]],
        "gates.audio.excitation.bias": [0.0],
        "gates.audio.average": [0.75],
        "gates.visual.excitation.weight": [[-1.0]],
        "gates.visual.excitation.bias": [1.0],
        "gates.visual.average": [0.125],
    }
    block.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    return block


# Two clips. Audio: one image of two pixels, means 2 and -3. Visual: two frames of one pixel, means 0.25 and 1.
SMALL_MAPS = {
    "audio": torch.tensor([[1.0, 3.0], [-2.0, -4.0]]).view(2, 1, 1, 2, 1),
    "visual": torch.tensor([[0.5, 0.0], [0.0, 2.0]]).view(2, 2, 1, 1, 1),
}


def test_gates_by_hand_over_frames_and_space() -> None:
    gates = small_block()(SMALL_MAPS)
    # h = 2 - 0.5 + 0.5 = 2, and relu(-3 - 2 + 0.5) = 0; sigmoid of 2 h, and of 1 - h.
    torch.testing.assert_close(gates["audio"], torch.tensor([[0.98201379], [0.5]]))
    torch.testing.assert_close(gates["visual"], torch.tensor([[0.26894142], [0.73105858]]))


@pytest.mark.parametrize(("rebalanced", "other", "average"), [("audio", "visual", 0.75), ("visual", "audio", 0.125)])
def test_a_rebalanced_modality_has_its_own_average_for_gates(rebalanced: str, other: str, average: float) -> None:
    block = small_block()
    regular, cut = block(SMALL_MAPS), block(SMALL_MAPS, rebalanced)
    assert torch.equal(cut[rebalanced], torch.full((2, 1), average))
    assert torch.equal(cut[other], regular[other])
    sum(gate.sum() for gate in cut.values()).backward()
    assert all(parameter.grad is None for parameter in block.gates[rebalanced].parameters())
    assert all(parameter.grad.any() for parameter in (block.shared.weight, block.gates[other].excitation.weight))


def test_joint_vectors_are_half_as_wide_as_both_modalities_channels(network: MMTMFusion) -> None:
    shapes = [tuple(block.shared.weight.shape) for block in network.blocks.values()]
    assert shapes == [(width, 2 * width) for width in CHANNELS]
    # Per block: W_s, and two W_u, of c x 2 c and c x c, each with a bias of c.
    added = sum(4 * width * width + 3 * width for width in CHANNELS) + 2 * (512 * 3 + 3)
    encoders = sum(parameter.numel() for parameter in network.encoders.parameters())
    assert sum(parameter.numel() for parameter in network.parameters()) - encoders == added


def test_stages_one_by_one_are_the_encoder() -> None:
    for modality in MODALITIES:
        encoder = Encoder(modality).eval()
        maps = encoder.stem(batch_of())
        for stage, channels in zip((2, 3, 4), CHANNELS, strict=True):
            maps = encoder.stage(stage, maps)
            assert maps.shape[:3] == (3, 1 if modality == "audio" else 2, channels)
        torch.testing.assert_close(maps.mean(dim=(1, 3, 4)), encoder(batch_of()), rtol=1e-5, atol=1e-6)


def test_blocks_stand_after_stages_2_3_and_4_and_multiply_their_maps(network: MMTMFusion) -> None:
    network.eval()
    batch = batch_of()
    maps = {modality: network.encoders[modality].stem(batch) for modality in MODALITIES}
    for stage in (2, 3, 4):
        maps = {modality: network.encoders[modality].stage(stage, maps[modality]) for modality in MODALITIES}
        gates = network.blocks[str(stage)](maps)
        maps = {modality: maps[modality] * gates[modality][:, None, :, None, None] for modality in MODALITIES}
    logits = {modality: network.heads[modality](maps[modality].mean(dim=(1, 3, 4))) for modality in MODALITIES}
    outputs = network(batch)
    for modality in MODALITIES:
        torch.testing.assert_close(outputs.unimodal_logits[modality], logits[modality])
    torch.testing.assert_close(outputs.logits, (logits["audio"] + logits["visual"]) / 2)


def test_a_clips_frames_share_gates_and_their_order_is_nothing(network: MMTMFusion) -> None:
    network.double().eval()
    one = batch_of(frames=1, dtype=torch.float64)
    several = batch_of(frames=3, dtype=torch.float64)
    same = replace(one, frames=one.frames.expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(network(same).logits, network(one).logits)
    shuffled = replace(several, frames=several.frames[:, [2, 0, 1]])
    torch.testing.assert_close(network(shuffled).logits, network(several).logits)


def constant_gates(network: MMTMFusion, values: list[float]) -> Tensor:
    """As `average_in` takes them: one number for each stage and modality, audio first."""
    widths = [width for width in CHANNELS for _ in MODALITIES]
    return torch.cat([torch.full((width,), value) for value, width in zip(values, widths, strict=True)])


def test_averages_are_means_over_steps_one_for_each_modality_and_stage(network: MMTMFusion) -> None:
    def averages() -> list[float]:
        gates = [block.gates[modality] for block in network.blocks.values() for modality in MODALITIES]
        assert all(torch.equal(gate.average, gate.average[:1].expand_as(gate.average)) for gate in gates)
        return [float(gate.average[0]) for gate in gates]

    assert averages() == [0.5] * 6
    network.average_in(constant_gates(network, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    assert averages() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])  # nothing is left of the 0.5
    network.average_in(constant_gates(network, [0.3, 0.2, 0.3, 0.4, 0.5, 0.9]))
    network.average_in(constant_gates(network, [0.8, 0.2, 0.6, 0.4, 0.5, 0.9]))
    assert averages() == pytest.approx([0.4, 0.2, 0.4, 0.4, 0.5, 0.8])


def test_the_gates_of_a_forward_are_in_the_order_of_the_averages(network: MMTMFusion) -> None:
    batch = batch_of()
    seen: list[Tensor] = []
    for block in network.blocks.values():
        block.register_forward_hook(lambda _block, _inputs, gates: seen.extend(gates[m] for m in MODALITIES))
    gates = network(batch).extras["gates"]
    assert torch.equal(gates, torch.cat(seen, dim=1)) and not gates.requires_grad
    network.average_in(gates.mean(dim=0))
    averages = [block.gates[modality].average for block in network.blocks.values() for modality in MODALITIES]
    for average, gate in zip(averages, seen, strict=True):
        torch.testing.assert_close(average, gate.mean(dim=0))


def test_a_forward_leaves_averages_alone(network: MMTMFusion) -> None:
    before = {name: value.clone() for name, value in network.named_buffers() if "average" in name}
    assert len(before) == 7  # six averages and how many steps they hold
    network(batch_of())
    with network.rebalancing("audio"):
        network(batch_of())
    network.eval()(batch_of())
    for name, value in network.named_buffers():
        if name in before:
            assert torch.equal(value, before[name]), name


def test_evaluation_uses_the_real_gates(network: MMTMFusion) -> None:
    batch = batch_of()
    network.average_in(constant_gates(network, [0.0] * 6))
    with network.rebalancing("audio"):
        cut = network.train()(batch)
        evaluated = network.eval()(batch)
    assert torch.equal(evaluated.logits, network(batch).logits)
    # Gates of 0 leave the audio branch nothing but its head's bias, in training.
    assert torch.equal(cut.unimodal_logits["audio"], torch.zeros(3, 3))
    assert evaluated.unimodal_logits["audio"].any()
    assert network.rebalanced is None


def test_what_learns_alone_and_what_joins_are_all_parameters(network: MMTMFusion) -> None:
    main = {modality: {id(p) for p in network.main_parameters(modality)} for modality in MODALITIES}
    bypass = {modality: {id(p) for p in network.bypass_parameters(modality)} for modality in MODALITIES}
    shared = {id(p) for block in network.blocks.values() for p in block.shared.parameters()}
    assert bypass["audio"] & bypass["visual"] == shared
    assert main["visual"] >= {id(p) for p in network.heads["visual"].parameters()}
    assert main["audio"].isdisjoint(main["visual"] | bypass["audio"] | bypass["visual"])
    everything = [*main.values(), *bypass.values()]
    assert set().union(*everything) == {id(p) for p in network.parameters()}
    assert sum(map(len, everything)) == len(list(network.parameters())) + len(shared)


def replaced(network: MMTMFusion, modality: str, batch: Batch) -> Outputs:
    """Outputs with that modality's feature modules returning the same constants for every clip."""
    modules = network.feature_modules(modality)
    widths = [*CHANNELS, CHANNELS[-1]]
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, w=width: torch.full((len(output), w), 0.1))
        for module, width in zip(modules, widths, strict=True)
    ]
    outputs = network(batch)
    for hook in hooks:
        hook.remove()
    return outputs


def test_a_modality_reaches_the_rest_by_its_feature_modules_alone(network: MMTMFusion) -> None:
    network.eval()
    batch, other = batch_of(), batch_of(seed=1)
    for modality, changed in (
        ("audio", replace(batch, audio=other.audio)),
        ("visual", replace(batch, frames=other.frames)),
    ):
        without = replaced(network, modality, batch)
        assert torch.equal(replaced(network, modality, changed).logits, without.logits)
        assert not torch.equal(network(changed).logits, network(batch).logits)
        # Its own logits are constant over clips, and the other branch still reads its own modality.
        own, others = (without.unimodal_logits[m] for m in (modality, *({*MODALITIES} - {modality})))
        assert torch.equal(own, own[:1].expand_as(own))
        assert not torch.allclose(others, others[:1].expand_as(others))


@pytest.mark.parametrize("rebalanced", [None, *MODALITIES])
@pytest.mark.parametrize("clips", [0, 2])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float64])
def test_every_precision_and_a_batch_without_clips(
    network: MMTMFusion, rebalanced: str | None, clips: int, precision: torch.dtype
) -> None:
    wide = torch.float64 if precision == torch.float64 else torch.float32
    network.to(wide).to(memory_format=torch.channels_last)
    with (
        network.rebalancing(rebalanced),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16),
    ):
        outputs = network(batch_of(clips, dtype=wide))
    assert {logits.dtype for logits in (outputs.logits, *outputs.unimodal_logits.values())} == {wide}
    assert outputs.logits.shape == (clips, 3)
    if rebalanced is None:
        assert outputs.extras["gates"].shape == (clips, 2 * sum(CHANNELS))
        assert outputs.extras["gates"].dtype == wide
    sum(logits.square().sum() for logits in outputs.unimodal_logits.values()).backward()
    gradients = [p.grad for p in network.encoders["audio"].parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients) == (clips > 0)


def test_maps_stay_channels_last_through_the_blocks(network: MMTMFusion) -> None:
    network.to(memory_format=torch.channels_last)
    formats = []
    for encoder in network.encoders.values():
        for stage in (3, 4):  # they read what a block has multiplied
            encoder.network.get_submodule(f"layer{stage}").register_forward_pre_hook(
                lambda _stage, inputs: formats.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
            )
    network(batch_of())
    assert formats == [True] * 4


def test_initialization_is_xavier_for_every_linear_layer(network: MMTMFusion) -> None:
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 3 * 3 + 2
    wide = network.blocks["4"].shared
    assert abs(float(wide.weight.detach().std()) / (2 / (1024 + 512)) ** 0.5 - 1) < 0.02
    assert not any(module.bias.any() for module in linears)
