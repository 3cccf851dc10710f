import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from avbench.batch import Batch, Clock, Outputs
from avbench.distributed import current_world
from avbench.engine.choice import build_engine
from avbench.engine.config import OptimizerConfig
from avbench.engine.plain import Engine
from avbench.errors import UsageError
from avbench.methods.choice import parse_methods
from avbench.methods.greedy import Greedy, Window, learning_speeds, squared_ratios, window_after
from avbench.models.mmtm import MMTM, MMTMFusion
from avbench.vocabulary import MODALITIES
from tests.processes import run_on_ranks

CPU = torch.device("cpu")
SGD = OptimizerConfig(learning_rate=0.02, schedule="constant")
LETTER = {"audio": "a", "visual": "v", None: "."}  # a sequence of steps as a word: "." is a regular one


def batch_of(clips: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """A whole global batch of made-up clips."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        audio=torch.randn(clips, 1, 32, 32, generator=generator, dtype=dtype),
        frames=torch.randn(clips, 2, 3, 32, 32, generator=generator, dtype=dtype),
        label=torch.randint(3, (clips,), generator=generator),
        clip_id=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
        global_valid=torch.tensor(clips),
    )


def greedy(**options: Any) -> Greedy:
    return Greedy(Greedy.Config(**options), classes=3, seed=0)


# What is measured, and what follows


def test_mu_is_a_ratio_of_sums_over_all_tensors_of_a_group() -> None:
    gradients = [[torch.tensor([3.0, 4.0]), torch.tensor([[0.0], [2.0]])], [torch.tensor([1.0])]]
    weights = [[torch.tensor([1.0, 1.0]), torch.tensor([[2.0], [2.0]])], [torch.tensor([0.5])]]
    # (9 + 16 + 4) / (1 + 1 + 4 + 4), not the mean or sum of 25 / 2 and 4 / 8; and 1 / 0.25.
    torch.testing.assert_close(squared_ratios(gradients, weights), torch.tensor([2.9, 4.0], dtype=torch.float64))


def test_mu_of_large_tensors_in_float32_is_exact_to_a_ten_thousandth() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(512, 512, 3, 3, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = 0.02 * torch.rand(512, 512, 3, 3, generator=generator)
    expected = gradient.double().square().sum() / weight.double().square().sum()
    torch.testing.assert_close(squared_ratios([[gradient]], [[weight]])[0], expected, rtol=2e-4, atol=0)


def test_speeds_are_powers_of_ten_of_bypass_over_main() -> None:
    sums = torch.tensor([[50.0, 0.3], [0.5, 30.0]], dtype=torch.float64)
    torch.testing.assert_close(learning_speeds(sums), torch.tensor([2.0, -2.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("difference", "window"),
    [
        (0.011, Window("audio", 4)),
        (-0.011, Window("visual", 4)),
        (0.01, Window()),  # strictly more than epsilon
        (-0.01, Window()),
        (0.0, Window()),
        (math.inf, Window("audio", 4)),
        (math.nan, Window()),
    ],
)
def test_a_window_opens_for_the_branch_whose_speed_is_higher_if_any(difference: float, window: Window) -> None:
    assert window_after(difference, epsilon=0.01, length=4) == window


def test_a_window_has_exactly_its_length() -> None:
    window, lengths = Window("visual", 3), []
    while window.modality:
        lengths.append(window.steps_left)
        window = window.after_a_step()
    assert lengths == [3, 2, 1] and window == Window()


# The sequence of steps, on a network so small that its gradients can be dictated


class Small(MMTMFusion):
    """Branches of one linear layer and one block; what it computes is of no interest, its gradients are dictated."""

    def __init__(self, branch: tuple[int, int], channels: int) -> None:
        nn.Module.__init__(self)
        self.encoders = nn.ModuleDict({modality: nn.Linear(*branch) for modality in MODALITIES})
        self.blocks = nn.ModuleDict({"2": MMTM(dict.fromkeys(MODALITIES, channels))})
        self.pools = nn.ModuleDict()
        self.heads = nn.ModuleDict({modality: nn.Identity() for modality in MODALITIES})
        self.register_buffer("averaged_steps", torch.zeros((), dtype=torch.long))
        self.rebalanced = None
        self.channels = channels

    def forward(self, batch: Batch) -> Outputs:
        maps = {modality: torch.zeros(len(batch), 1, self.channels, 1, 1) for modality in MODALITIES}
        gates = self.blocks["2"](maps, self.rebalanced)
        return Outputs(torch.zeros(len(batch), 3), extras={"gates": torch.cat(list(gates.values()), dim=1).detach()})


class Dictated(Greedy):
    """Greedy on a small network with a loss whose gradients are given, step after step."""

    def __init__(self, config: Greedy.Config, network: Small, *, seed: int = 0) -> None:
        super().__init__(config, classes=3, seed=seed)
        # Weights stay as they are.
        self.engine = Engine(
            network, optimizer=OptimizerConfig(learning_rate=0.0, momentum=0.0, weight_decay=0.0), device=CPU
        )
        self.network_of_run = network
        self.gradients: dict[str, Tensor] = {}

    def loss(self, outputs: Outputs, batch: Batch, clock: Clock) -> Tensor:
        terms = [(parameter * self.gradients[name]).sum() for name, parameter in self.network_of_run.named_parameters()]
        return torch.stack(terms).sum()[None]

    def take(self, gradients: dict[str, Tensor], *, epoch: int, step: int) -> tuple[str, dict[str, float]]:
        """One training step; which it was, as a letter, and what it logged. epoch: from 1."""
        self.gradients = gradients
        log = self.train_step(self.engine, batch_of(1), Clock(epoch - 1, step, 9)).log
        kind = [modality for modality in MODALITIES if log[f"rebalancing/{modality}_branch"]]
        return LETTER[kind[0] if kind else None], {name: float(value) for name, value in log.items()}


OURS = {
    "net_view_0": "encoders.audio",
    "net_view_1": "encoders.visual",
    "mmtm2.fc_squeeze": "blocks.2.shared",
    "mmtm2.fc_visual": "blocks.2.gates.audio.excitation",
    "mmtm2.fc_skeleton": "blocks.2.gates.visual.excitation",
}


def renamed(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of the published toy network under our names; its first modality is our audio."""
    stems = {name: name.rpartition(".") for name in tensors}
    return {f"{OURS[stem]}.{last}": torch.tensor(tensors[name]) for name, (stem, _, last) in stems.items()}


def test_speeds_and_steps_are_those_of_the_published_code(golden: Path) -> None:
    (case,) = json.loads((golden / "greedy_official.json").read_text())["cases"]
    inputs = case["inputs"]
    network = Small((3, 2), 2)
    assert not network.load_state_dict(renamed(inputs["weights"]), strict=False).unexpected_keys
    method = Dictated(
        Greedy.Config(epsilon=inputs["epsilon"], window=inputs["curation_windowsize"], warmup=inputs["starting_epoch"]),
        network,
    )
    kinds = ""
    for number, step in enumerate(case["steps"]):
        kind, log = method.take(renamed(step["grads"]), epoch=step["epoch"], step=number)
        kinds += kind
        expected = MODALITIES[step["forward_used_caring_modality"]] if step["forward_used_curation_mode"] else None
        assert kind == LETTER[expected], number
        after = step["after"]
        assert log["difference/audio_minus_visual_branch"] == pytest.approx(after["d_BDR"], rel=1e-5)
        sums = [[after[f"M_{route}_{modality}"] for modality in (0, 1)] for route in ("bypass", "main")]
        np.testing.assert_allclose(method.state_dict()["sums"], sums, rtol=1e-5)
    assert kinds == ".......aaa.a"


def dictated(**options: Any) -> Dictated:
    """Every weight is 1: main groups of 2 numbers, bypass groups of 2 + 3, of which the last 3 are shared."""
    network = Small((1, 1), 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    return Dictated(Greedy.Config(**options), network)


def gradients(audio_gate: float, visual_gate: float) -> dict[str, Tensor]:
    """Gradients of 1 for both main branches and of 0 for what is shared."""
    return {
        "encoders.audio.weight": torch.ones(1, 1),
        "encoders.audio.bias": torch.ones(1),
        "encoders.visual.weight": torch.ones(1, 1),
        "encoders.visual.bias": torch.ones(1),
        "blocks.2.shared.weight": torch.zeros(1, 2),
        "blocks.2.shared.bias": torch.zeros(1),
        "blocks.2.gates.audio.excitation.weight": torch.full((1, 1), audio_gate),
        "blocks.2.gates.audio.excitation.bias": torch.zeros(1),
        "blocks.2.gates.visual.excitation.weight": torch.full((1, 1), visual_gate),
        "blocks.2.gates.visual.excitation.bias": torch.zeros(1),
    }


def test_speeds_by_hand_over_regular_steps_only() -> None:
    method = dictated(window=1, warmup=1, epsilon=0.5)
    # mu of the main branches: 2 / 2; of the bypasses: gate squared / 5.
    _, log = method.take(gradients(5.0, 1.0), epoch=1, step=0)
    assert log["speed/audio_branch"] == pytest.approx(math.log10(25 / 5))
    assert log["speed/visual_branch"] == pytest.approx(math.log10(1 / 5))
    assert log["difference/audio_minus_visual_branch"] == pytest.approx(math.log10(25))
    kind, cut = method.take(gradients(100.0, 0.0), epoch=1, step=1)
    assert kind == "a" and {**cut, "rebalancing/audio_branch": 0.0} == log
    # Sums over both regular steps: of the audio bypass 5 + 0, of the visual one 0.2 + 5, of each main branch 2.
    kind, log = method.take(gradients(0.0, 5.0), epoch=1, step=2)
    assert kind == "."
    assert log["speed/audio_branch"] == pytest.approx(math.log10(5 / 2))
    assert log["speed/visual_branch"] == pytest.approx(math.log10(5.2 / 2))


def test_what_is_shared_counts_in_both_bypasses() -> None:
    method = dictated()
    shared = {"blocks.2.shared.weight": torch.tensor([[3.0, 0.0]]), "blocks.2.shared.bias": torch.tensor([1.0])}
    _, log = method.take({**gradients(0.0, 0.0), **shared}, epoch=1, step=0)
    assert log["speed/audio_branch"] == log["speed/visual_branch"] == pytest.approx(math.log10(10 / 5))


def kinds_of(method: Dictated, script: Sequence[tuple[int, float, float]], *, first: int = 0) -> str:
    """The kinds of the steps of (epoch, audio gradient, visual gradient)."""
    return "".join(
        method.take(gradients(audio, visual), epoch=epoch, step=first + number)[0]
        for number, (epoch, audio, visual) in enumerate(script)
    )


SCRIPT = [
    (1, 2.0, 1.0),  # warm-up: measured, and nothing follows, whatever the difference
    (1, 2.0, 1.0),
    (2, 2.0, 1.0),  # audio ahead: two steps for audio, whose gradients count nowhere
    (2, 1.0, 90.0),
    (2, 1.0, 90.0),
    (2, 1.0, 90.0),  # visual far ahead, from here on
    (2, 90.0, 1.0),
    (3, 90.0, 1.0),  # a window goes on over the end of an epoch
    (3, 8103.0**0.5, 3.0),  # sums of squares: audio 12 + 1 + 8103, visual 3 + 8100 + 9; within epsilon
    (3, 90.0, 1.0),  # so this one is regular too, and audio is ahead again
    (3, 1.0, 1.0),
]


def test_the_sequence_of_steps_by_hand() -> None:
    assert kinds_of(dictated(window=2), SCRIPT) == "...aa.vv..a"


def test_epsilon_zero_re_balances_at_any_difference() -> None:
    assert kinds_of(dictated(window=2, epsilon=0.0), SCRIPT) == "...aa.vv.aa"


def test_without_warm_up_the_second_step_re_balances() -> None:
    assert kinds_of(dictated(window=3, warmup=1), SCRIPT) == ".aaa.vvv..a"


def test_a_longer_warm_up_only_measures() -> None:
    assert kinds_of(dictated(window=2, warmup=4), SCRIPT) == "." * 11


@pytest.mark.parametrize("cut", range(len(SCRIPT)))
def test_a_restart_anywhere_goes_on_with_the_same_sequence(cut: int) -> None:
    method = dictated(window=2)
    before = kinds_of(method, SCRIPT[:cut])
    state = json.loads(json.dumps(method.state_dict()))  # nothing of it lives in memory only
    resumed = dictated(window=2)
    resumed.load_state_dict(state)
    assert before + kinds_of(resumed, SCRIPT[cut:], first=cut) == "...aa.vv..a"
    whole = dictated(window=2)
    kinds_of(whole, SCRIPT)
    assert resumed.state_dict() == whole.state_dict()


def test_random_steps_are_of_each_kind_with_probability_a_third() -> None:
    def drawn(seed: int) -> str:
        method = Dictated(Greedy.Config(variant="random", warmup=1), dictated().network_of_run, seed=seed)
        return kinds_of(method, [(1, 1.0, 1.0)] * 600)

    kinds = drawn(0)
    # Standard deviation: sqrt(600 * 1/3 * 2/3) = 11.5
    assert all(abs(kinds.count(letter) - 200) < 35 for letter in LETTER.values())
    assert kinds == drawn(0) != drawn(1)


def test_random_steps_wait_for_the_warm_up_and_for_an_average() -> None:
    script = [(1, 1.0, 1.0)] * 20 + [(2, 1.0, 1.0)] * 20
    waited = kinds_of(dictated(variant="random"), script)
    assert waited[:20] == "." * 20 and {*waited[20:]} == {*LETTER.values()}
    at_once = kinds_of(dictated(variant="random", warmup=1), script)
    assert at_once[0] == "." and at_once[20:] == waited[20:] and {*at_once[:20]} == {*LETTER.values()}


# The real network


def engine_of(method: Greedy, dtype: torch.dtype = torch.float32) -> Engine:
    torch.manual_seed(0)
    return build_engine(
        method.build_model(),
        optimizer=SGD,
        device=CPU,
        dtype=dtype,
        leaves_unused_parameters=method.leaves_unused_parameters,
    )


def averages_of(engine: Engine) -> Tensor:
    network: MMTMFusion = engine.model
    gates = [block.gates[modality] for block in network.blocks.values() for modality in MODALITIES]
    return torch.cat([gate.average for gate in gates]).clone()


def test_the_loss_of_a_clip_is_the_sum_of_both_branches_cross_entropies() -> None:
    logits = {"audio": torch.tensor([[2.0, 0.0, 0.0]]), "visual": torch.tensor([[0.0, 0.0, 0.0]])}
    outputs = Outputs(torch.tensor([[100.0, 0.0, 0.0]]), unimodal_logits=logits)
    loss = greedy().loss(outputs, replace(batch_of(1), label=torch.tensor([0])), Clock(0, 0, 1))
    # -log(e^2 / (e^2 + 2)) + log 3
    torch.testing.assert_close(loss, torch.tensor([0.2395 + 1.0986]), rtol=0, atol=1e-4)


def test_gates_are_averaged_over_regular_training_steps_only() -> None:
    method = greedy(window=2, warmup=1)
    engine = engine_of(method)
    kinds, of_regular_steps = "", []
    for number in range(5):
        before = averages_of(engine)
        step = method.train_step(engine, batch_of(4, seed=number), Clock(0, number, 1))
        if "gates" in step.outputs.extras:
            kinds += "."
            of_regular_steps.append(step.outputs.extras["gates"].mean(dim=0))
            torch.testing.assert_close(averages_of(engine), torch.stack(of_regular_steps).mean(dim=0))
        else:
            kinds += "r"
            assert torch.equal(averages_of(engine), before)
        with engine.evaluating(), torch.no_grad():
            evaluated = method.forward(engine, batch_of(4, seed=9))
        assert "gates" in evaluated.extras
    assert kinds == ".rr.r"
    assert torch.equal(averages_of(engine), before)
    assert int(engine.model.averaged_steps) == 2


def test_a_re_balancing_step_neither_reads_nor_trains_the_gates_it_replaces() -> None:
    method = greedy(window=5, warmup=1)
    engine = engine_of(method)
    first = method.train_step(engine, batch_of(4), Clock(0, 0, 1)).log["difference/audio_minus_visual_branch"]
    faster, slower = ("audio", "visual") if first > 0 else ("visual", "audio")
    gates = {modality: [block.gates[modality] for block in engine.model.blocks.values()] for modality in MODALITIES}

    step = method.train_step(engine, batch_of(4), Clock(0, 1, 1))
    assert step.log[f"rebalancing/{faster}_branch"] == 1.0 and step.log[f"rebalancing/{slower}_branch"] == 0.0
    for modality, trained in ((faster, False), (slower, True)):
        weights = [gate.excitation.weight for gate in gates[modality]]
        assert [bool(gradient.any()) for gradient in engine.read_grads(weights)] == [trained] * 3
    assert all(
        gradient.any() for gradient in engine.read_grads([b.shared.weight for b in engine.model.blocks.values()])
    )

    def losses() -> Tensor:
        with engine.model.rebalancing(faster):
            return method.loss(method.forward(engine, batch_of(4)), batch_of(4), Clock(0, 2, 1)).detach()

    before = losses()
    with torch.no_grad():
        gates[faster][0].excitation.weight.neg_().add_(3.0)
    assert torch.equal(losses(), before)
    with torch.no_grad():
        gates[faster][0].average.mul_(0.5)
    assert not torch.allclose(losses(), before)


def train(method: Greedy, engine: Engine, batches: Sequence[Batch], *, first: int = 0) -> str:
    """The kinds of the steps on these batches, two an epoch."""
    kinds = ""
    for number, batch in enumerate(batches, start=first):
        log = method.train_step(engine, batch, Clock(number // 2, number, 9)).log
        kinds += LETTER[next((modality for modality in MODALITIES if log[f"rebalancing/{modality}_branch"]), None)]
    return kinds


def test_a_run_restored_within_a_window_takes_the_same_steps() -> None:
    batches = [batch_of(2, seed=seed) for seed in range(4)]
    whole = greedy(window=2, warmup=1)
    engine = engine_of(whole)
    kinds = train(whole, engine, batches[:2])
    kept = engine.snapshot(), json.loads(json.dumps(whole.state_dict()))
    kinds += train(whole, engine, batches[2:], first=2)
    assert kinds[0] == kinds[3] == "." and "." not in kinds[1:3]  # cut between the window's two steps

    resumed = greedy(window=2, warmup=1)
    other = engine_of(resumed)
    other.restore(kept[0])
    resumed.load_state_dict(kept[1])
    assert train(resumed, other, batches[2:], first=2) == kinds[2:]
    for name, value in engine.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert resumed.state_dict() == whole.state_dict()


def train_on_slices(counts: list[int], steps: int) -> tuple[str, np.ndarray, Any]:
    """Kinds of the steps, all parameters and buffers, and the method's state, of training on a cut global batch."""
    method = greedy(window=2, warmup=1)
    method.width = 8
    engine = engine_of(method, torch.float64)
    for module in engine.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # its statistics would be those of a rank's clips
    rank = current_world().rank
    rows = torch.arange(sum(counts[:rank]), sum(counts[: rank + 1]))
    batches = [batch_of(sum(counts), seed=seed, dtype=torch.float64).select(rows) for seed in range(steps)]
    kinds = train(method, engine, batches)
    state = torch.cat([value.flatten().double() for value in engine.model.state_dict().values()])
    return kinds, state.numpy(), method.state_dict()


def test_five_steps_do_not_depend_on_how_the_global_batch_is_cut_into_ranks() -> None:
    kinds, state, of_method = train_on_slices([5], 5)
    assert kinds[0] == kinds[3] == "." and kinds.count(".") == 2
    ranks = run_on_ranks(2, train_on_slices, [4, 1], 5)
    for other_kinds, other_state, of_other in ranks:
        assert other_kinds == kinds
        np.testing.assert_allclose(other_state, state, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(of_other["sums"], of_method["sums"], rtol=1e-9)
        assert of_other == ranks[0][2]  # to the last bit, or ranks could decide differently


def averages_over_ranks(counts: list[int]) -> list[float]:
    """Averages after a regular step whose gates, and whose clips, differ between ranks."""
    rank = current_world().rank
    network = Small((1, 1), 1)
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    nn.init.constant_(network.blocks["2"].gates["audio"].excitation.bias, float(rank))
    method = Dictated(Greedy.Config(), network)
    method.gradients = gradients(1.0, 1.0)
    batch = batch_of(sum(counts)).select(torch.arange(counts[rank]))
    method.train_step(method.engine, batch, Clock(0, 0, 1))
    return [float(network.blocks["2"].gates[modality].average) for modality in MODALITIES]


@pytest.mark.parametrize("counts", [[3, 1], [2, 0]])
def test_a_gates_average_is_over_the_clips_of_all_ranks(counts: list[int]) -> None:
    # h = 1; audio gates are sigmoid(1) on rank 0 and sigmoid(2) on rank 1, visual ones sigmoid(2) on both.
    audio = (counts[0] * 0.73105858 + counts[1] * 0.88079708) / sum(counts)
    for averages in run_on_ranks(2, averages_over_ranks, counts):
        assert averages == pytest.approx([audio, 0.88079708], abs=1e-7)


def random_kinds(steps: int) -> str:
    return kinds_of(dictated(variant="random", warmup=1), [(1, 1.0, 1.0)] * steps)


def test_every_rank_draws_the_same_random_steps() -> None:
    kinds = random_kinds(30)
    assert set(kinds) == {*LETTER.values()}
    assert run_on_ranks(2, random_kinds, 30) == [kinds, kinds]


class Waits(TorchDispatchMode):
    """Counts how often a number is fetched from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(keywords or {}))


def test_only_the_step_after_a_deciding_one_waits_for_the_device_and_once() -> None:
    method = greedy(window=1)
    engine = engine_of(method)
    batch = batch_of(2)
    counts = []
    for number, epoch in enumerate((0, 1, 1, 1, 1)):
        with Waits() as waits:
            method.train_step(engine, batch, Clock(epoch, number, 2))
        counts.append(waits.count)
    assert counts == [0, 0, 1, 0, 1]  # warm-up, deciding, re-balancing, deciding, re-balancing


def test_one_reduction_a_regular_step_and_none_in_a_re_balancing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    method = greedy(window=1, warmup=1)
    engine = engine_of(method)
    calls: list[int] = []
    mean = engine.mean
    monkeypatch.setattr(engine, "mean", lambda tensor: calls.append(number) or mean(tensor))
    for number in range(4):
        method.train_step(engine, batch_of(2), Clock(0, number, 1))
    assert calls == [0, 2]


def test_each_feature_module_returns_one_vector_a_clip() -> None:
    method = greedy()
    model = method.build_model().eval()
    shapes: dict[str, list[tuple[int, ...]]] = {modality: [] for modality in MODALITIES}
    for modality, modules in method.feature_modules(model).items():
        for module in modules:
            module.register_forward_hook(lambda _module, _inputs, out, m=modality: shapes[m].append(tuple(out.shape)))
    model(batch_of(4))
    assert shapes == {modality: [(4, 128), (4, 256), (4, 512), (4, 512)] for modality in MODALITIES}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("epsilon=-0.1", "epsilon is -0.1"),
        ("epsilon=nan", "epsilon is nan"),
        ("window=0", "window is 0"),
        ("warmup=0", "warmup is 0"),
        ("variant=guide", "did you mean 'guided'"),
        ("window=2.5", "expected int"),
    ],
)
def test_options_out_of_range_are_refused(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_methods([f"greedy:{options}"])


def test_the_defaults_are_the_papers() -> None:
    (spec,) = parse_methods(["greedy"])
    assert spec.config == Greedy.Config(variant="guided", epsilon=0.01, window=5, warmup=2)
