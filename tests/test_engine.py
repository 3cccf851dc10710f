import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from avbench.batch import Batch, Clock, Outputs
from avbench.distributed import current_world, sum_over_ranks
from avbench.engine.batch_norm import over_the_global_batch
from avbench.engine.choice import build_engine
from avbench.engine.config import OptimizerConfig
from avbench.engine.optimizer import learning_rate_at
from avbench.engine.plain import Engine
from avbench.engine.precision import has_bfloat16, pick_precision
from avbench.errors import UsageError
from avbench.methods import METHODS
from avbench.vocabulary import MODALITIES
from tests.methods.steps import thin
from tests.processes import run_on_ranks

CPU = torch.device("cpu")
SGD = OptimizerConfig(learning_rate=0.05, schedule="constant")


def batch_of(clips: int, *, seed: int = 0, classes: int = 3) -> Batch:
    """A whole global batch of made-up clips, small pictures and spectrograms, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        audio=torch.randn(clips, 1, 40, 40, generator=generator, dtype=torch.float64),
        frames=torch.randn(clips, 2, 3, 40, 40, generator=generator, dtype=torch.float64),
        label=torch.randint(classes, (clips,), generator=generator),
        clip_id=torch.arange(clips),
        valid=torch.ones(clips, dtype=torch.bool),
        global_valid=torch.tensor(clips),
    )


def slice_of(batch: Batch, counts: list[int]) -> Batch:
    """This rank's part of a global batch that is cut into `counts`."""
    rank = current_world().rank
    first = sum(counts[:rank])
    return batch.select(torch.arange(first, first + counts[rank]))


def train_on_slices(name: str, counts: list[int], steps: int) -> tuple[list[float], np.ndarray]:
    """Global mean loss of each step, and all parameters and buffers after them, of a method on a cut global batch."""
    method = thin(name)
    torch.manual_seed(0)
    model = over_the_global_batch(method.build_model())
    engine = build_engine(
        model, optimizer=SGD, device=CPU, dtype=torch.float64, leaves_unused_parameters=method.leaves_unused_parameters
    )
    losses = []
    for number in range(steps):
        batch = slice_of(batch_of(sum(counts), seed=number), counts)
        step = method.train_step(engine, batch, Clock(0, number, 1))
        losses.append(float(sum_over_ranks(step.losses.sum()) / sum(counts)))
    state = [value.flatten().double() for value in engine.model.state_dict().values()]
    return losses, torch.cat(state).numpy()


@pytest.mark.parametrize("name", [*MODALITIES, "baseline"])
def test_a_step_does_not_depend_on_how_the_global_batch_is_cut_into_ranks(name: str) -> None:
    losses, state = train_on_slices(name, [7], 3)
    for counts in ([4, 3], [3, 4, 0]):  # the last rank of three has no clip at all
        for other_losses, other_state in run_on_ranks(len(counts), train_on_slices, name, counts, 3):
            np.testing.assert_allclose(other_losses, losses, rtol=0, atol=1e-8)
            np.testing.assert_allclose(other_state, state, rtol=0, atol=1e-8)


class Two(nn.Module):
    """Two parameters and nothing else: logits = audio mean * a + b."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.b = nn.Parameter(torch.tensor([0.5, -0.5]))

    def forward(self, batch: Batch) -> Outputs:
        assert batch.audio is not None
        return Outputs(batch.audio.mean((1, 2, 3))[:, None].float() * self.a + self.b)


def engine_of(model: nn.Module, **changes: float) -> Engine:
    return Engine(
        model, optimizer=OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=0.0, **changes), device=CPU
    )


def loss_of(engine: Engine) -> Tensor:
    return engine.forward(batch_of(4)).logits.square().mean()


def test_update_grads_rewrites_what_the_optimizer_uses() -> None:
    engine = engine_of(Two())
    engine.backward(loss_of(engine))
    engine.update_grads([engine.model.a], lambda grads: [torch.full_like(grads[0], 2.0)])
    before = engine.model.b.detach() - 0.1 * engine.model.b.grad
    engine.step()
    torch.testing.assert_close(engine.model.a.detach(), torch.tensor([0.8, 1.8]))
    torch.testing.assert_close(engine.model.b.detach(), before)


def test_gradients_are_read_after_backward_and_none_of_a_frozen_parameter() -> None:
    engine = engine_of(Two())
    a, b = engine.model.a, engine.model.b
    with pytest.raises(ValueError, match="after backward"):
        engine.read_grads([a])
    engine.backward((3.0 * a).sum())
    assert [gradient.tolist() for gradient in engine.read_grads([b, a])] == [[0.0, 0.0], [3.0, 3.0]]
    engine.freeze([a])
    engine.backward((3.0 * a).sum())
    with pytest.raises(ValueError, match="not frozen"):
        engine.read_grads([b, a])


def test_frozen_parameters_keep_value_and_momentum_for_one_step() -> None:
    engine = engine_of(Two())
    for _ in range(2):
        engine.backward(loss_of(engine))
        engine.step()
    value, momentum = engine.model.a.detach().clone(), engine.optimizer.state[engine.model.a]["momentum_buffer"].clone()
    engine.freeze([engine.model.a])
    engine.backward(loss_of(engine))
    engine.step()
    assert torch.equal(engine.model.a, value)
    assert torch.equal(engine.optimizer.state[engine.model.a]["momentum_buffer"], momentum)
    engine.backward(loss_of(engine))
    engine.step()
    assert not torch.equal(engine.model.a, value)


def test_loss_grads_leave_gradients_and_graph_alone() -> None:
    engine = engine_of(Two())
    loss = loss_of(engine)
    (gradient,) = engine.loss_grads(loss, [engine.model.a])
    assert engine.model.a.grad is None
    engine.backward(loss)
    torch.testing.assert_close(gradient, engine.model.a.grad)


def test_restore_goes_back_to_the_snapshot_exactly() -> None:
    engine = engine_of(Two())
    engine.backward(loss_of(engine))
    engine.step()
    snapshot = engine.snapshot()
    random_before = torch.rand(1)
    kept = copy.deepcopy(engine.state_dict())
    for _ in range(2):  # a snapshot can be used twice
        engine.restore(snapshot)
        engine.backward(loss_of(engine))
        engine.step()
        assert not torch.equal(engine.model.a, kept["model"]["a"])
    engine.restore(snapshot)
    assert torch.equal(torch.rand(1), random_before)
    assert torch.equal(engine.model.a, kept["model"]["a"])
    momentum = engine.state_dict()["optimizer"]["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, kept["optimizer"]["state"][0]["momentum_buffer"])


def test_a_fork_begins_where_its_engine_is_and_leaves_it_there() -> None:
    engine = engine_of(Two())
    engine.backward(loss_of(engine))
    engine.step()
    kept = copy.deepcopy(engine.state_dict())
    fork = engine.fork(lambda model: model)
    for own in (fork, engine):  # the fork first: what it does must not show in what its engine does afterwards
        own.backward(loss_of(own))
        own.step()
        if own is fork:
            assert repr(engine.state_dict()) == repr(kept)
    # Momentum included, the two took the same step.
    assert torch.equal(fork.model.a, engine.model.a)
    assert not torch.equal(fork.model.a, kept["model"]["a"])


class Half(nn.Module):
    """The part of Two that knows nothing of b."""

    def __init__(self, whole: Two) -> None:
        super().__init__()
        self.a = whole.a

    def forward(self, batch: Batch) -> Outputs:
        assert batch.audio is not None
        return Outputs(batch.audio.mean((1, 2, 3))[:, None].float() * self.a)


def fork_and_step() -> tuple[list[float], list[float]]:
    engine = build_engine(
        Two(), optimizer=OptimizerConfig(learning_rate=0.1), device=CPU, dtype=torch.float32,
        leaves_unused_parameters=False,
    )  # fmt: skip
    fork = engine.fork(Half)
    counts = [3, 1] if current_world().size == 2 else [4]
    outputs = fork.forward(slice_of(batch_of(4), counts))
    fork.backward(outputs.logits.square().sum() * current_world().size)
    fork.step()
    return fork.model.a.tolist(), engine.model.a.tolist()


def test_a_fork_of_a_part_averages_its_gradients_over_ranks() -> None:
    stepped, kept = fork_and_step()
    assert kept == [1.0, 2.0]
    for other_stepped, other_kept in run_on_ranks(2, fork_and_step):
        assert other_stepped == pytest.approx(stepped, abs=1e-6)
        assert other_kept == kept


class Sometimes(nn.Module):
    """Does not use b."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.0))
        self.b = nn.Parameter(torch.tensor(1.0))

    def forward(self, batch: Batch) -> Outputs:
        return Outputs(self.a * 3.0 * (1 + current_world().rank) * torch.ones(1, 2))


def gradients_of_a_fork() -> list[float]:
    engine = build_engine(
        Sometimes(), optimizer=OptimizerConfig(), device=CPU, dtype=torch.float32, leaves_unused_parameters=True
    )
    fork = engine.fork(lambda model: model)
    found = []
    for _ in range(2):
        fork.backward(fork.forward(batch_of(2)).logits.mean())
        found.append(float(fork.model.a.grad))
    return found


def test_a_fork_knows_that_parameters_may_be_unused() -> None:
    assert run_on_ranks(2, gradients_of_a_fork) == [[4.5, 4.5]] * 2


def test_clipping_bounds_the_norm_of_the_whole_gradient() -> None:
    engine = engine_of(Two(), clip_norm=0.5)
    engine.backward(100.0 * loss_of(engine))
    engine.step()
    norm = torch.sqrt(engine.model.a.grad.square().sum() + engine.model.b.grad.square().sum())
    torch.testing.assert_close(norm, torch.tensor(0.5))


def test_a_parameter_that_takes_no_part_has_a_zero_gradient() -> None:
    engine = engine_of(Two())
    engine.backward(engine.model.a.sum())
    assert torch.equal(engine.model.b.grad, torch.zeros(2))


def test_global_batch_norm_is_batch_norm_in_one_process() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = nn.BatchNorm2d(5).double()
    ours = over_the_global_batch(nn.Sequential(copy.deepcopy(reference)))
    for _ in range(3):
        x = torch.randn(6, 5, 4, 3, generator=generator, dtype=torch.float64) * 3 + 1
        x, y = x.clone().requires_grad_(), x.clone().requires_grad_()
        expected, got = reference(x), ours(y)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
        (expected * weights).sum().backward()
        (got * weights).sum().backward()
        torch.testing.assert_close(y.grad, x.grad, rtol=0, atol=1e-12)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[f"0.{name}"], value)


@pytest.mark.parametrize(
    ("schedule", "step", "epoch", "expected"),
    [
        ("step", 0, 0, 0.1),
        ("step", 50, 69, 0.1),
        ("step", 50, 70, 0.01),
        ("step", 50, 140, 0.001),
        ("cosine", 0, 0, 0.1),
        ("cosine", 50, 0, 0.05),
        ("cosine", 100, 0, 0.0),
        ("one-cycle", 29, 0, 0.1 * 30 / 31),
        ("one-cycle", 30, 0, 0.1),
        ("one-cycle", 65, 0, 0.05),
        ("constant", 99, 99, 0.1),
    ],
)
def test_learning_rate_schedules(schedule: str, step: int, epoch: int, expected: float) -> None:
    config = OptimizerConfig(learning_rate=0.1, schedule=schedule)
    assert learning_rate_at(config, step, total_steps=100, epoch=epoch) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "values", [{"learning_rate": -1.0}, {"warmup": 1.0}, {"decay_epochs": 0}, {"clip_norm": float("nan")}]
)
def test_optimizer_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(values)).replace("_", "-")):
        OptimizerConfig(**values)


def test_auto_precision_is_what_the_processor_has() -> None:
    assert pick_precision("auto", CPU) == ("bfloat16" if has_bfloat16(CPU) else "float32")
    assert pick_precision("float64", CPU) == "float64"


def test_outputs_are_float32_under_bfloat16_autocast() -> None:
    method = METHODS["baseline"](METHODS["baseline"].Config(), classes=3, seed=0)
    engine = Engine(method.build_model(), optimizer=SGD, device=CPU, dtype=torch.bfloat16)
    batch = batch_of(2)
    batch = Batch(
        batch.audio.float(), batch.frames.float(), batch.label, batch.clip_id, batch.valid, 0, batch.global_valid
    )
    outputs = engine.forward(batch)
    assert outputs.logits.dtype == torch.float32
    assert {part.dtype for part in outputs.unimodal_logits.values()} == {torch.float32}


def average_buffers() -> list[float]:
    engine = build_engine(
        nn.BatchNorm2d(2), optimizer=SGD, device=CPU, dtype=torch.float32, leaves_unused_parameters=False
    )
    engine.model.running_mean.fill_(float(current_world().rank))
    engine.average_buffers()
    return engine.model.running_mean.tolist()


def test_average_buffers_is_the_mean_over_ranks() -> None:
    assert run_on_ranks(2, average_buffers) == [[0.5, 0.5], [0.5, 0.5]]


def test_how_a_step_is_computed_is_chosen_here_and_not_by_a_checkpoint() -> None:
    def engine_of(optimizer: OptimizerConfig) -> Engine:
        return Engine(nn.Linear(2, 2), optimizer=optimizer, device=CPU)

    for name, fused in (("adam", True), ("adamw", True), ("sgd", None)):
        engine = engine_of(OptimizerConfig(optimizer=name))
        state = copy.deepcopy(engine.state_dict())
        state["optimizer"]["param_groups"][0].update(lr=0.5, fused=not fused, foreach=True)
        engine.load_state_dict(state)
        (group,) = engine.optimizer.param_groups
        assert (group["fused"], group["foreach"], group["lr"]) == (fused, None, 0.5)
