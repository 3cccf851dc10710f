"""What holds for every method in the table, with the options that make it do most."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from avbench.batch import Batch, Clock
from avbench.cli import main
from avbench.distributed import current_world, sum_over_ranks
from avbench.engine.batch_norm import over_the_global_batch
from avbench.engine.choice import build_engine
from avbench.engine.config import OptimizerConfig
from avbench.engine.plain import Engine
from avbench.methods import METHODS
from avbench.methods.choice import parse_methods
from avbench.methods.greedy import Greedy
from avbench.records import read_metrics, read_table
from tests.marks import by_example
from tests.methods.named import every_method
from tests.methods.steps import batch_of, thin
from tests.processes import run_on_ranks
from tests.synthetic import make_dataset

CPU = torch.device("cpu")
CONFIGURED = (
    "audio",
    "visual",
    "baseline",
    "baseline:fusion=sum",
    "baseline:fusion=film",
    "baseline:fusion=gated",
    "ogm-ge:alpha=0.8",
    "ogm-ge:noise=false:fusion=film",
    "gradient-blending",
    "greedy:warmup=1:epsilon=0:window=2",
    "greedy:variant=random",
    "tmc",
    "tmc:pseudo_view=true",
)
# The last of each method, with options that make it do more than by default.
ONE_A_METHOD = tuple({text.partition(":")[0]: text for text in CONFIGURED}.values())
ALL = every_method(ogm_ge="alpha=0.8")


def test_every_method_of_the_table_is_here() -> None:
    assert {spec.method.name for text in CONFIGURED for spec in parse_methods([text])} == set(METHODS)
    assert {spec.method.name for spec in parse_methods([ALL])} == set(METHODS)


def train_on_slices(
    text: str, counts: list[int], steps: int, dtype: torch.dtype, batch_norm: str
) -> dict[str, np.ndarray]:
    """Parameters, buffers, losses and logs after some steps on global batches that are cut into `counts`."""
    method = thin(text)
    torch.manual_seed(0)
    model = method.build_model()
    if batch_norm == "global":
        model = over_the_global_batch(model)
    engine = build_engine(
        model,
        optimizer=OptimizerConfig(),
        device=CPU,
        dtype=dtype,
        leaves_unused_parameters=method.leaves_unused_parameters,
    )
    if batch_norm == "evaluation":
        for module in engine.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        # A clip is then computed alike in a batch of 3 and of 6. In channels-last memory a float32 may be rounded to
        # the other side of a relu, which changes weights by more than rounding does.
        engine.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    first = sum(counts[: current_world().rank])
    rows = torch.arange(first, first + counts[current_world().rank])
    found: dict[str, list[float]] = {"losses": []}
    for number in range(steps):
        batch = batch_of(sum(counts), seed=number, dtype=dtype).select(rows)
        step = method.train_step(engine, batch, Clock(0, number, 1))
        found["losses"].append(float(sum_over_ranks(step.losses.sum().double())))
        for name, value in step.log.items():
            found.setdefault(name, []).append(float(value))
    state = {name: value.double().numpy() for name, value in engine.model.state_dict().items()}
    return {**state, **{name: np.array(values) for name, values in found.items()}}


def check_agree(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("text", by_example(CONFIGURED, examples=ONE_A_METHOD))
def test_steps_do_not_depend_on_the_number_of_ranks(text: str) -> None:
    # Uneven slices, noise, windows and beliefs included; the last rank has no clip at all.
    alone = train_on_slices(text, [7], 5, torch.float64, "global")
    for of_rank in run_on_ranks(3, train_on_slices, text, [3, 4, 0], 5, torch.float64, "global"):
        check_agree(alone, of_rank, 1e-8)


@pytest.mark.parametrize("text", CONFIGURED)
def test_in_float32_two_ranks_take_the_steps_of_one(text: str) -> None:
    alone = train_on_slices(text, [6], 5, torch.float32, "evaluation")
    for of_rank in run_on_ranks(2, train_on_slices, text, [3, 3], 5, torch.float32, "evaluation"):
        check_agree(alone, of_rank, 1e-5)


FLAGS = ["--preset", "tiny", "--width", "8", "--batch-size", "8", "--learning-rate", "0.01", "--schedule", "constant",
         "--precision", "float32"]  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 20, "val": 6, "test": 6})


@pytest.fixture(scope="module")
def together(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All methods, two epochs, in one pass."""
    run = tmp_path_factory.mktemp("runs") / "together"
    main(["train", str(dataset), "--out", str(run), "--methods", ALL, "--epochs", "2", "--log-steps", "1", *FLAGS])
    return run


def tables_of(run: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(run.glob("predictions/*.parquet")):
        yield path.name, read_table(path)


@pytest.mark.slow
@pytest.mark.parametrize("spec", parse_methods([ALL]), ids=lambda spec: spec.name)
def test_a_method_is_bit_for_bit_the_same_alone_and_among_all(
    spec: Any, dataset: Path, together: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    main(["train", str(dataset), "--out", str(alone), "--methods", spec.text, "--epochs", "2", *FLAGS])
    tables = dict(tables_of(together))
    compared = 0
    for name, table in tables_of(alone):
        assert table.equals(tables[name]), name
        compared += 1
    assert compared == 2
    if spec.method.confidence_of:
        ours, of_all = (read_table(run / "confidence.parquet") for run in (alone, together))
        columns = [name for name in ours.column_names if name.startswith(f"{spec.method.confidence_of}_")]
        assert len(columns) == 4
        assert ours.select(columns).equals(of_all.select(columns))


def test_all_methods_in_one_pass_log_their_diagnostics(together: Path) -> None:
    assert len(list(tables_of(together))) == 2 * len(METHODS)  # validation and test
    groups: dict[str, set[str]] = {}
    for record in read_metrics(together / "metrics.jsonl", kinds=["step"]):
        groups.setdefault(record["run"], set()).update(name for name in record if "/" in name)
    assert {name.split("/")[0] for name in groups["ogm-ge"]} == {"ratio", "coefficient"}
    assert groups["gradient-blending"] == {"weight/audio", "weight/visual", "weight/joint"}
    assert {name.split("/")[0] for name in groups["greedy"]} == {"speed", "difference", "rebalancing"}
    assert groups["tmc"] == {"uncertainty/audio", "uncertainty/visual", "uncertainty/combined"}
    assert groups["audio"] == groups["baseline"] == set()


def test_all_methods_go_on_after_an_interruption_as_if_there_had_been_none(
    dataset: Path, together: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the second epoch's second step: within a window of Greedy's, after estimates, with momentum everywhere.
    step = Greedy.train_step

    def interrupted(self: Greedy, engine: Engine, batch: Batch, clock: Clock) -> Any:
        if clock.step == 4:
            raise KeyboardInterrupt
        return step(self, engine, batch, clock)

    cut = tmp_path / "cut"
    words = ["train", str(dataset), "--out", str(cut), "--methods", ALL, "--epochs", "2", "--log-steps", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(Greedy, "train_step", interrupted)
        with pytest.raises(SystemExit):
            main([*words, "--checkpoint-steps", "1", *FLAGS])
    main(["train", "--out", str(cut), "--resume"])
    tables = dict(tables_of(together))
    for name, table in tables_of(cut):
        assert table.equals(tables[name]), name
    assert read_table(cut / "confidence.parquet").equals(read_table(together / "confidence.parquet"))
