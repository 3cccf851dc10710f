"""A run is trained on the part of train that its method names, and on nothing else; the others see no difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from torch import nn

from avbench.batch import Batch, Clock
from avbench.cli import main
from avbench.dataset import Dataset
from avbench.distributed import current_world
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.plain import Engine
from avbench.methods import METHODS
from avbench.methods.base import Part
from avbench.methods.baseline import Baseline
from avbench.methods.choice import RunSpec
from avbench.methods.unimodal import Audio
from avbench.records import read_metrics, read_table
from avbench.training.parts import OwnClips, parts_of_train
from avbench.training.run import Run
from tests.engine.small import zero
from tests.methods.steps import batch_of
from tests.processes import run_on_ranks
from tests.synthetic import make_dataset

CPU = torch.device("cpu")
SEEN: dict[str, list[list[int]]] = {}


class Keeping(Baseline):
    """Late fusion; keeps what it is trained on."""

    name = "all"

    def train_step(self, engine: Engine, batch: Batch, clock: Clock) -> Any:
        SEEN.setdefault(self.name, []).append(batch.clip_id.tolist())
        return super().train_step(engine, batch, clock)


class Estimating(Keeping):
    """Is trained on 90 % of train."""

    name = "estimating"
    trains_on: Part = "estimation"  # type: ignore[assignment]


class HeldOut(Keeping):
    """Is trained on the other 10 %: some batches have none of it."""

    name = "held-out"
    trains_on: Part = "held-out"  # type: ignore[assignment]


class Ear(Audio):
    """A network whose confidences cut the subsets, trained on 90 % of train."""

    name = "ear"
    trains_on: Part = "estimation"  # type: ignore[assignment]


class Lost(Keeping):
    name = "lost"
    trains_on: Literal["val"] = "val"  # type: ignore[assignment]


FLAGS = [
    "--preset",
    "tiny",
    "--width",
    "8",
    "--batch-size",
    "4",
    "--learning-rate",
    "0.01",
    "--epochs",
    "2",
    "--log-steps",
    "1",
]


@pytest.fixture(scope="module", autouse=True)
def methods() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for method in (Keeping, Estimating, HeldOut, Ear, Lost):
            patch.setitem(METHODS, method.name, method)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 20, "val": 6, "test": 6})


def train(dataset: Path, out: Path, methods: str) -> Path:
    SEEN.clear()
    main(["train", str(dataset), "--out", str(out), "--methods", methods, *FLAGS])
    return out


@pytest.fixture(scope="module")
def together(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[list[int]]]]:
    """All four in one pass, and the clips of each step of those that keep them."""
    run = train(dataset, tmp_path_factory.mktemp("runs") / "together", "all,estimating,held-out,ear")
    return run, dict(SEEN)


def test_a_run_gets_the_clips_of_its_part_and_the_others_get_all(
    dataset: Path, together: tuple[Path, dict[str, list[list[int]]]]
) -> None:
    run, seen = together
    packed = Dataset(dataset)
    parts = parts_of_train(packed, packed.clip_ids("train"))
    assert len(seen["all"]) == 10  # 20 clips in batches of 4, twice
    for name, part in (("estimating", parts["estimation"]), ("held-out", parts["held-out"])):
        own = [[clip for clip in batch if clip in part] for batch in seen["all"]]
        assert seen[name] == [batch for batch in own if batch]  # no step where there is no clip
        epochs = [record for record in read_metrics(run / "metrics.jsonl", kinds=["epoch"]) if record["run"] == name]
        assert [record["clips"] for record in epochs] == [len(part)] * 2
        steps = [record for record in read_metrics(run / "metrics.jsonl", kinds=["step"]) if record["run"] == name]
        assert [record["clips"] for record in steps] == [len(batch) for batch in seen[name]]
    assert len(seen["held-out"]) < 10


def test_a_clip_that_the_network_was_not_trained_on_has_no_confidence(
    dataset: Path, together: tuple[Path, dict[str, list[list[int]]]]
) -> None:
    packed = Dataset(dataset)
    held_out = parts_of_train(packed, packed.clip_ids("train"))["held-out"]
    table = read_table(together[0] / "confidence.parquet")
    epochs = dict(zip(table["clip_id"].to_pylist(), table["audio_epochs"].to_pylist(), strict=True))
    assert {clip for clip, count in epochs.items() if count == 0} == set(held_out.tolist())
    assert set(epochs.values()) == {0, 2}
    assert table.filter(pc.equal(table["audio_epochs"], 0))["audio_mean"].null_count == len(held_out)


def test_whoever_leaves_clips_out_changes_no_number_of_another(
    dataset: Path, together: tuple[Path, dict[str, list[list[int]]]], tmp_path: Path
) -> None:
    for name in ("all", "estimating"):
        alone = train(dataset, tmp_path / name, name)
        assert SEEN[name] == together[1][name]
        for split in ("val", "test"):
            file = f"predictions/{name}-seed0-{split}.parquet"
            assert read_table(alone / file).equals(read_table(together[0] / file))


def test_a_run_on_a_part_goes_on_after_an_interruption_as_if_there_had_been_none(
    dataset: Path, together: tuple[Path, dict[str, list[list[int]]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = tmp_path / "cut"
    step = Keeping.train_step

    def interrupted(method: Keeping, engine: Engine, batch: Batch, clock: Clock) -> Any:
        if method.name == "estimating" and clock.step == 7:
            raise KeyboardInterrupt
        return step(method, engine, batch, clock)

    words = ["train", str(dataset), "--out", str(cut), "--methods", "estimating,held-out", *FLAGS]
    with monkeypatch.context() as patch:
        patch.setattr(Keeping, "train_step", interrupted)
        with pytest.raises(SystemExit):
            main([*words, "--checkpoint-steps", "2"])
    SEEN.clear()
    main(["train", "--out", str(cut), "--resume"])
    for name in ("estimating", "held-out"):
        assert 0 < len(SEEN[name]) < len(together[1][name])
        assert SEEN[name] == together[1][name][-len(SEEN[name]) :]
        file = f"predictions/{name}-seed0-test.parquet"
        assert read_table(cut / file).equals(read_table(together[0] / file))


def test_a_part_that_there_is_not_is_refused(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train(dataset, tmp_path / "run", "lost")
    assert stop.value.code == 2
    assert "--methods lost: trains_on is 'val', expected one of train, estimation" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# Steps on ranks


def steps_on(counts: list[int], config: EngineConfig, dtype: torch.dtype) -> list[np.ndarray]:
    """A run's parameters after three batches of six clips: of the first it gets three, of the second none, of the
    third the last. counts: of each rank's slice of every batch.
    """
    spec = RunSpec("estimating", "estimating", Estimating, Estimating.Config())
    run = Run(
        spec, seed=0, classes=3, optimizer=OptimizerConfig(schedule="constant"), engine=config, device=CPU,
        dtype=dtype, store=None, width=8,
    )  # fmt: skip
    for module in run.engine.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    own = OwnClips({"train": np.arange(18), "estimation": np.array([0, 1, 2, 17])}, clips=18)
    rank = current_world().rank
    for number in range(3):
        whole = batch_of(6, seed=number, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        whole = replace(whole, clip_id=whole.clip_id + 6 * number, rows=whole.rows + 6 * number, global_valid=None)
        batch = whole.select(torch.arange(sum(counts[:rank]), sum(counts[: rank + 1])))
        ready = own.of(batch, [run])
        assert set(ready) == (set() if number == 1 else {"estimation"})
        if ready:
            assert int(ready["estimation"].global_valid) == (3 if number == 0 else 1)
            run.train_step(ready["estimation"], epoch=0, epochs=1, total_steps=3)
    assert run.progress.step == 2
    found = [parameter.detach().double().numpy().copy() for parameter in run.engine.model.parameters()]
    run.engine.release()
    return found


def check_same(expected: list[np.ndarray], found: list[np.ndarray], tolerance: float) -> None:
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_rank_without_a_clip_of_the_part_is_harmless(accumulation: int) -> None:
    alone = steps_on([6], EngineConfig(), torch.float64)
    config = EngineConfig(accumulation=accumulation)
    for found in run_on_ranks(2, steps_on, [4, 2], config, torch.float64):
        check_same(alone, found, 1e-8)


def test_a_rank_without_a_clip_of_the_part_is_harmless_under_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    alone = steps_on([6], EngineConfig(), torch.float32)
    for found in run_on_ranks(2, steps_on, [4, 2], zero(2), torch.float32):
        check_same(alone, found, 1e-4)
