import copy
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from avbench.batch import Batch, Clock
from avbench.cli import main
from avbench.distributed import current_world, sum_over_ranks
from avbench.engine.batch_norm import over_the_global_batch
from avbench.engine.choice import build_engine
from avbench.engine.config import OptimizerConfig
from avbench.engine.plain import Engine
from avbench.engine.random_state import random_state
from avbench.errors import DatasetError
from avbench.methods import METHODS
from avbench.methods.base import Part, RunView
from avbench.methods.baseline import Baseline
from avbench.methods.choice import parse_methods
from avbench.methods.gradient_blending import HEADS, Blend, GradientBlending, Losses, blend
from avbench.records import read_metrics
from avbench.training.parts import parts_of_train
from tests.processes import run_on_ranks
from tests.synthetic import make_dataset

CPU = torch.device("cpu")
THIRDS = dict.fromkeys(HEADS, 1 / 3)


def losses_of(**of_heads: tuple[float, float]) -> dict[str, Losses]:
    """By head: mean loss on the estimation part and on the held-out part."""
    return {head: Losses(*values) for head, values in of_heads.items()}


def test_weights_are_gain_over_squared_overfitting() -> None:
    before = losses_of(audio=(3.0, 3.1), visual=(3.2, 3.25), joint=(2.9, 3.0))
    after = losses_of(audio=(1.8, 2.5), visual=(2.5, 2.7), joint=(1.0, 2.4))
    # By hand: gains 0.6, 0.55, 0.6; overfitting 0.6, 0.15, 1.3; so 1.6667, 24.4444, 0.3550 over their sum 26.4661.
    found = blend(before, after, THIRDS)
    assert found.weights == pytest.approx({"audio": 0.062974, "visual": 0.923612, "joint": 0.013414}, abs=1e-6)
    assert (found.worse, found.floored, found.kept) == ((), (), False)


def test_weights_equal_the_published_formula(golden: Path) -> None:
    for case in json.loads((golden / "gradient_blending.json").read_text())["cases"]:
        curves = case["inputs"]["mean_loss_curves_from_checkpoint_N_to_N_plus_n"]
        name = {"output": "joint"}
        before, after = (
            {name.get(head, head): Losses(of["train"][step], of["val"][step]) for head, of in curves.items()}
            for step in (0, -1)
        )
        expected = {name.get(head, head): value for head, value in case["outputs"]["paper"]["weights"].items()}
        assert blend(before, after, THIRDS).weights == pytest.approx(expected, rel=1e-10)


def test_a_head_that_got_worse_has_no_weight() -> None:
    before = losses_of(audio=(1.0, 1.0), visual=(1.0, 1.0), joint=(1.0, 1.0))
    after = losses_of(audio=(0.5, 0.8), visual=(0.2, 1.1), joint=(0.5, 0.8))
    assert blend(before, after, THIRDS) == Blend({"audio": 0.5, "visual": 0.0, "joint": 0.5}, worse=("visual",))


def test_weights_stay_where_no_head_gained() -> None:
    before = losses_of(audio=(1.0, 1.0), visual=(1.0, 1.0), joint=(1.0, 1.0))
    after = losses_of(audio=(0.5, 1.0), visual=(0.2, 1.1), joint=(float("nan"), float("nan")))
    previous = {"audio": 0.2, "visual": 0.3, "joint": 0.5}
    assert blend(before, after, previous) == Blend(previous, worse=HEADS, kept=True)


def test_a_head_that_did_not_overfit_at_all_has_a_finite_weight() -> None:
    before = losses_of(audio=(1.0, 1.0), visual=(1.0, 1.0), joint=(1.0, 1.0))
    after = losses_of(audio=(0.9, 0.9), visual=(0.8, 0.9), joint=(0.9, 1.0))
    # audio: 0.1 / 1e-6; visual: 0.1 / 0.1^2 = 10
    found = blend(before, after, THIRDS)
    assert found.weights["visual"] == pytest.approx(10 / (1e5 + 10))
    assert found.floored == ("audio",)


def test_the_loss_is_the_weighted_sum_of_the_heads() -> None:
    method = GradientBlending(GradientBlending.Config(), classes=3, seed=0)
    method.weights = {"audio": 0.2, "visual": 0.3, "joint": 0.5}
    batch = batch_of(4)
    with torch.no_grad():
        outputs = method.build_model().double()(batch)
    by_hand = (
        0.2 * F.cross_entropy(outputs.unimodal_logits["audio"], batch.label, reduction="none")
        + 0.3 * F.cross_entropy(outputs.unimodal_logits["visual"], batch.label, reduction="none")
        + 0.5 * F.cross_entropy(outputs.logits, batch.label, reduction="none")
    )
    torch.testing.assert_close(method.loss(outputs, batch, Clock(0, 0, 1)), by_hand)


def test_a_branch_is_its_head_and_nothing_else() -> None:
    method = GradientBlending(GradientBlending.Config(), classes=3, seed=0)
    model = method.build_model().double().eval()
    batch = batch_of(3)
    with torch.no_grad():
        outputs = model(batch)
        for head, logits in {**outputs.unimodal_logits, "joint": outputs.logits}.items():
            branch = model.branch(head)
            assert torch.equal(branch(batch).logits, logits)
            assert {id(p) for p in branch.parameters()} <= {id(p) for p in model.parameters()}
    assert "visual" not in model.branch("audio").encoders


# Probes, on batches in memory and on ranks


def batch_of(clips: int, *, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        audio=torch.randn(clips, 1, 32, 32, generator=generator, dtype=torch.float64),
        frames=torch.randn(clips, 1, 3, 32, 32, generator=generator, dtype=torch.float64),
        label=torch.randint(3, (clips,), generator=generator),
        clip_id=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
        global_valid=torch.tensor(clips),
    )


class InMemory:
    """A run before an epoch whose parts of train are a few batches in memory; the ranks share each as `counts` says."""

    def __init__(self, engine: Engine, clock: Clock, counts: list[int]) -> None:
        self.engine, self.clock, self.counts = engine, clock, counts
        self.steps_per_epoch = 3
        self.asked: list[tuple[str, int, bool]] = []
        self.said: list[str] = []

    def batches(self, part: Part, *, epoch: int, training: bool, first_batch: int = 0) -> Iterator[Batch]:
        self.asked.append((part, epoch, training))
        rank = current_world().rank
        first = sum(self.counts[:rank])
        for number in range(2 if part == "estimation" else 1):
            whole = batch_of(sum(self.counts), seed=number)  # held out is what was seen, so that something is gained
            yield replace(whole.select(torch.arange(first, first + self.counts[rank])), position=number)

    def fork(self, name: str, part: Callable[[nn.Module], nn.Module]) -> Engine:
        return self.engine.fork(part)

    def learning_rate_at(self, *, step: int, epoch: int) -> float:
        return 0.01 / (1 + step)

    def each(self, items: Iterable[Any], action: Callable[[Any], None]) -> None:
        for item in items:
            action(item)

    def say(self, text: str, **numbers: float) -> None:
        self.said.append(text)


def engine_on(method: GradientBlending, *, batch_norm: str) -> Engine:
    torch.manual_seed(0)
    model = method.build_model()
    return build_engine(
        over_the_global_batch(model) if batch_norm == "global" else model,
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="constant"),
        device=CPU,
        dtype=torch.float64,
        leaves_unused_parameters=False,
    )


def probe_on(counts: list[int]) -> tuple[dict[str, float], list[float]]:
    """Weights estimated at epoch 2, and the loss of a training step with them."""
    method = GradientBlending(GradientBlending.Config(super_epoch=2), classes=3, seed=0)
    engine = engine_on(method, batch_norm="global")
    view = InMemory(engine, Clock(2, 6, 8), counts)
    method.before_epoch(view)
    batch = next(view.batches("estimation", epoch=0, training=True))
    step = method.train_step(engine, batch, Clock(2, 6, 8))
    return method.weights, [float(sum_over_ranks(step.losses.sum()))]


def losses_on(counts: list[int]) -> list[float]:
    """What a probe measures where each rank has a batch norm of its own."""
    method = GradientBlending(GradientBlending.Config(), classes=3, seed=0)
    view = InMemory(engine_on(method, batch_norm="local"), Clock(0, 0, 1), counts)
    before, after = method._probe(view, epochs=1)
    return [value for side in (before, after) for of in side.values() for value in (of.estimation, of.held_out)]


def test_an_estimate_does_not_depend_on_the_number_of_ranks() -> None:
    weights, losses = probe_on([6])
    assert len(set(weights.values())) > 1  # not the thirds that it began with
    for other_weights, other_losses in run_on_ranks(2, probe_on, [4, 2]):
        assert other_weights == pytest.approx(weights, abs=1e-8)
        assert other_losses == pytest.approx(losses, abs=1e-8)


def test_ranks_with_a_batch_norm_of_their_own_measure_the_same_losses() -> None:
    one, other = run_on_ranks(2, losses_on, [4, 2])
    assert one == other  # each has its part of the clips, and the mean of both's statistics
    assert len(set(one)) == 12


def test_statistics_are_filled_before_the_first_losses_are_measured() -> None:
    method = GradientBlending(GradientBlending.Config(super_epoch=1), classes=3, seed=0)
    engine = Engine(method.build_model(), optimizer=OptimizerConfig(), device=CPU, dtype=torch.float64)
    first, later = InMemory(engine, Clock(0, 0, 2), [4]), InMemory(engine, Clock(1, 3, 2), [4])
    before = copy.deepcopy(engine.model.state_dict())
    method.before_epoch(first)
    method.before_epoch(later)
    assert first.asked[0] == ("estimation", 0, False) and len(first.asked) == len(later.asked) + 1
    assert all(torch.equal(value, before[name]) for name, value in engine.model.state_dict().items())


@pytest.mark.parametrize(
    ("mode", "epochs", "estimates"),
    [("online", 7, {0: [0, 1, 2], 3: [3, 4, 5], 6: [6]}), ("offline", 4, {0: [0, 1, 2, 3]})],
)
def test_estimates_are_made_when_due_and_as_long_as_their_super_epoch(
    mode: str, epochs: int, estimates: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = GradientBlending(GradientBlending.Config(mode=mode, super_epoch=3), classes=3, seed=0)
    engine = Engine(method.build_model(), optimizer=OptimizerConfig(), device=CPU, dtype=torch.float64)
    monkeypatch.setattr(Engine, "backward", lambda engine, loss: None)  # schedule only
    monkeypatch.setattr(Engine, "step", lambda engine: None)
    found = {}
    for epoch in range(epochs):
        view = InMemory(engine, Clock(epoch, 3 * epoch, epochs), [2])
        method.before_epoch(view)
        trained = [asked for part, asked, training in view.asked if training]
        if view.asked:
            found[epoch] = trained
            assert {part for part, _, training in view.asked if not training} == {"estimation", "held-out"}
        method.before_epoch(view)  # resumed from the checkpoint that follows an estimate: not made again
        assert [asked for part, asked, training in view.asked if training] == trained
    assert found == estimates


# Whole trainings


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 20, "val": 6, "test": 6})


SEEN: dict[str, list[list[int]]] = {}


class Watched(GradientBlending):
    """Checks that an estimate leaves all of the run as it was, and keeps what the run is trained on."""

    name = "watched"

    def before_epoch(self, run: RunView) -> None:
        state = copy.deepcopy(run.engine.state_dict())
        before = random_state(CPU)["cpu"]
        super().before_epoch(run)
        assert self.estimated_at == run.clock.epoch
        after = run.engine.state_dict()
        for name, value in state["model"].items():
            assert torch.equal(value, after["model"][name]), name
        assert repr(state["optimizer"]) == repr(after["optimizer"])
        assert run.engine.model.training
        assert torch.equal(before, random_state(CPU)["cpu"])

    def train_step(self, engine: Engine, batch: Batch, clock: Clock) -> Any:
        SEEN.setdefault(self.name, []).append(batch.clip_id.tolist())
        return super().train_step(engine, batch, clock)


class Plain(Baseline):
    """Keeps what it is trained on."""

    name = "plain"

    def train_step(self, engine: Engine, batch: Batch, clock: Clock) -> Any:
        SEEN.setdefault(self.name, []).append(batch.clip_id.tolist())
        return super().train_step(engine, batch, clock)


def test_a_probe_leaves_the_run_and_the_order_of_its_data_as_they_were(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "watched", Watched)
    monkeypatch.setitem(METHODS, "plain", Plain)
    SEEN.clear()
    flags = ["--preset", "tiny", "--width", "8", "--batch-size", "8", "--learning-rate", "0.01", "--epochs", "2"]
    for method in ("watched:super_epoch=1", "plain"):
        main(["train", str(dataset), "--out", str(tmp_path / method[:5]), "--methods", method, *flags])
    assert len(SEEN["plain"]) == 6
    assert SEEN["watched"] == SEEN["plain"]  # clip by clip
    events = read_metrics(tmp_path / "watch" / "metrics.jsonl", kinds=["event"])
    weights = [record for record in events if "weight/joint" in record]
    assert [record["epoch"] for record in weights] == [0, 1]
    steps = read_metrics(tmp_path / "watch" / "metrics.jsonl", kinds=["step"])
    for record in steps:
        assert record["weight/audio"] == pytest.approx(weights[record["epoch"]]["weight/audio"])


def test_an_interrupted_run_goes_on_without_estimating_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--preset", "tiny", "--width", "8", "--batch-size", "8", "--learning-rate", "0.01", "--epochs", "1"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    main(["train", str(dataset), "--out", str(whole), "--methods", "gradient-blending", *flags])
    with monkeypatch.context() as patch:
        patch.setattr(GradientBlending, "train_step", _interrupt)
        with pytest.raises(SystemExit):
            main(["train", str(dataset), "--out", str(cut), "--methods", "gradient-blending", *flags])
    with monkeypatch.context() as patch:
        patch.setattr(GradientBlending, "_probe", _interrupt)
        main(["train", "--out", str(cut), "--resume"])
    kept = {path.name for path in (cut / "checkpoints").glob("epoch-*")}
    # What an estimate costs is kept beside the checkpoint before it, never in its place.
    assert "epoch-0000-batch-000000-prepared-0001" in kept
    tables = [(run / "predictions/gradient-blending-seed0-test.parquet").read_bytes() for run in (whole, cut)]
    assert tables[0] == tables[1]


def _interrupt(*_arguments: Any, **_options: Any) -> None:
    raise KeyboardInterrupt


def test_the_parts_of_train_are_stratified_disjoint_and_by_video(tmp_path: Path) -> None:
    from avbench.dataset import Dataset

    dataset = Dataset(make_dataset(tmp_path / "dataset", classes=2, clips={"train": 60, "val": 2, "test": 2}))
    parts = parts_of_train(dataset, dataset.clip_ids("train"))
    assert sorted([*parts["estimation"], *parts["held-out"]]) == dataset.clip_ids("train").tolist()
    assert np.bincount(dataset.labels[parts["held-out"]]).tolist() == [3, 3]  # 10 % of 30 each


def test_a_train_split_too_small_to_cut_is_refused(tmp_path: Path) -> None:
    from avbench.dataset import Dataset

    dataset = Dataset(make_dataset(tmp_path / "dataset", classes=2, clips={"train": 1, "val": 2, "test": 2}))
    with pytest.raises(DatasetError, match="train has 1 video, too few to cut off a held-out part"):
        parts_of_train(dataset, dataset.clip_ids("train"))


def test_options_out_of_range_are_refused() -> None:
    from avbench.errors import UsageError

    with pytest.raises(UsageError, match="super_epoch is 0, expected at least 1"):
        parse_methods(["gradient-blending:super_epoch=0"])
    with pytest.raises(UsageError, match="unknown value 'onlin'; did you mean 'online'"):
        parse_methods(["gradient-blending:mode=onlin"])
