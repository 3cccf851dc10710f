"""What is left of a network when one of its modalities is replaced by its mean over train."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from avbench.batch import Batch, Outputs
from avbench.cli import main
from avbench.dataset import Dataset
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.loading.loader import Loader
from avbench.loading.presets import preset
from avbench.methods import METHODS
from avbench.methods.baseline import Baseline
from avbench.methods.choice import RunSpec, parse_methods
from avbench.records import read_metrics, read_table
from avbench.training.parallel import SideBySide
from avbench.training.passes import Passes
from avbench.training.replacement import feature_means, predict_without_each
from avbench.training.run import Run
from avbench.vocabulary import MODALITIES
from tests.synthetic import make_dataset

CPU = torch.device("cpu")


class Mean(nn.Module):
    """A modality's mean, as [B, 1] features; counts how often it was asked."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = modality
        self.calls = 0

    def forward(self, batch: Batch) -> torch.Tensor:
        self.calls += 1
        tensor = batch.audio if self.modality == "audio" else batch.frames
        assert tensor is not None
        return tensor.flatten(1).mean(dim=1, keepdim=True)


class Weighted(nn.Module):
    """logits = (audio + 10 visual, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"audio": Mean("audio"), "visual": Mean("visual")})
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Outputs:
        logit = self.encoders["audio"](batch) + 10 * self.encoders["visual"](batch)
        return Outputs(torch.cat([logit, torch.zeros_like(logit)], dim=1))


class Simple(Baseline):
    name = "simple"

    def build_model(self) -> nn.Module:
        return Weighted()


def run_of(method: type[Simple] = Simple) -> Run:
    spec = RunSpec(method.name, method.name, method, method.Config())
    return Run(
        spec, seed=0, classes=2, optimizer=OptimizerConfig(), engine=EngineConfig(), device=CPU, dtype=torch.float32,
        store=None,
    )  # fmt: skip


def test_a_replaced_modality_is_its_mean_and_the_other_stays(tmp_path: Path) -> None:
    dataset = Dataset(make_dataset(tmp_path / "data", clips={"train": 7, "val": 1, "test": 1}))
    loader = Loader(
        dataset, dataset.clip_ids("train"), preset=preset("tiny"), batch_size=3, seed=0, training=False
    )  # fmt: skip
    run = run_of()
    with SideBySide(threads=1, device=CPU) as side_by_side, run.engine.evaluating():
        means = feature_means(loader, [run], Passes(torch.float32, side_by_side, ()))["simple-seed0"]
    batches = list(loader.epoch(0))
    loader.close()
    audio = torch.cat([batch.audio.flatten(1).mean(dim=1) for batch in batches]).double()
    visual = torch.cat([batch.frames.flatten(1).mean(dim=1) for batch in batches]).double()
    assert float(means["audio"][0]) == pytest.approx(float(audio.mean()), abs=1e-6)

    batch = batches[0]
    for encoder in run.engine.model.encoders.values():
        encoder.calls = 0
    with run.engine.evaluating():
        found = predict_without_each(run, batch, means)
    clips = len(batch)
    by_hand = {
        "none": audio[:clips] + 10 * visual[:clips],
        "audio": audio.mean() + 10 * visual[:clips],
        "visual": audio[:clips] + 10 * visual.mean(),
    }
    for replaced, logit in by_hand.items():
        torch.testing.assert_close(
            found[replaced].probabilities[:, 0].double(), torch.sigmoid(logit), atol=1e-5, rtol=0
        )
    assert [encoder.calls for encoder in run.engine.model.encoders.values()] == [1, 1]  # features are computed once
    with run.engine.evaluating():  # and the network is as it was
        torch.testing.assert_close(run.predict(batch).probabilities, found["none"].probabilities)


class Nowhere(Baseline):
    """Its network has no encoders."""

    name = "nowhere"

    def build_model(self) -> nn.Module:
        return nn.Linear(1, 1)


class Around(Baseline):
    """Its network never calls what should be its features."""

    name = "around"

    def build_model(self) -> nn.Module:
        return Bypassed()


class Bypassed(Weighted):
    def forward(self, batch: Batch) -> Outputs:
        logit = self.unused * self.encoders["audio"].forward(batch)
        return Outputs(torch.cat([logit, torch.zeros_like(logit)], dim=1))


def test_a_network_without_encoders_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METHODS, "nowhere", Nowhere)
    data = make_dataset(tmp_path / "data", clips={"train": 4, "val": 2, "test": 2}, classes=2)
    with pytest.raises(SystemExit):
        main(["train", str(data), "--out", str(tmp_path / "run"), "--methods", "nowhere", "--preset", "tiny"])
    assert "--methods nowhere: the network has no encoder a modality" in capsys.readouterr().err
    assert not (tmp_path / "run/config.toml").exists()


def test_a_network_of_another_width_than_asked_for_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METHODS, "around", Around)
    data = make_dataset(tmp_path / "data", clips={"train": 4, "val": 2, "test": 2}, classes=2)
    flags = ["--methods", "around", "--preset", "tiny", "--width", "8"]
    with pytest.raises(SystemExit) as stop:
        main(["train", str(data), "--out", str(tmp_path / "run"), *flags])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "--methods around: the network's encoders are 64 channels wide, but --width is 8" in said
    assert not (tmp_path / "run/config.toml").exists()


def test_features_that_are_never_called_cost_only_the_predictions_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "around", Around)
    data = make_dataset(tmp_path / "data", clips={"train": 4, "val": 2, "test": 2}, classes=2)
    flags = ["--preset", "tiny", "--epochs", "1", "--batch-size", "2"]
    main(["train", str(data), "--out", str(tmp_path / "run"), "--methods", "around,baseline", *flags])
    tables = {run: read_table(tmp_path / f"run/predictions/{run}-seed0-test.parquet") for run in ("around", "baseline")}
    assert set(tables["around"]["replaced"].to_pylist()) == {"none"}
    assert set(tables["baseline"]["replaced"].to_pylist()) == {"none", "audio", "visual"}
    events = [record["text"] for record in read_metrics(tmp_path / "run/metrics.jsonl", kinds=["event"])]
    assert "around-seed0 is not predicted without a modality: its feature modules were not called" in events


class Seeing(nn.Module):
    """The audio part says class 1 where sound and pictures together are positive; the visual part class 1 always."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"audio": Mean("audio"), "visual": Mean("visual")})
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Outputs:
        logit = self.encoders["audio"](batch) + self.encoders["visual"](batch)
        audio = torch.cat([torch.zeros_like(logit), logit], dim=1)
        visual = torch.cat([torch.zeros_like(logit), torch.ones_like(logit)], dim=1)
        return Outputs(audio + visual, unimodal_logits={"audio": audio, "visual": visual})


class SeeingEachOther(Simple):
    name = "seeing"
    parts_see_each_other = True

    def build_model(self) -> nn.Module:
        return Seeing()


def test_a_part_that_sees_the_other_modality_is_asked_without_it() -> None:
    run = run_of(SeeingEachOther)
    clips = torch.tensor([3.0, 1.0, -1.0])
    batch = Batch(
        audio=clips[:, None, None, None],
        frames=torch.tensor([-4.0, 1.0, 2.0])[:, None, None, None, None],
        label=torch.zeros(3, dtype=torch.int64),
        clip_id=torch.arange(3),
        valid=torch.ones(3, dtype=torch.bool),
    )
    with run.engine.evaluating():
        found = predict_without_each(run, batch, {"audio": [torch.tensor([0.5])], "visual": [torch.tensor([0.5])]})
    assert {name: part.tolist() for name, part in found["none"].parts.items()} == {
        "audio": [0, 1, 1],  # 3 - 4, 1 + 1, -1 + 2
        "visual": [1, 1, 1],
    }
    assert {name: part.tolist() for name, part in found["visual"].parts.items()} == {"audio": [1, 1, 0]}  # + 0.5 each
    assert {name: part.tolist() for name, part in found["audio"].parts.items()} == {"visual": [1, 1, 1]}


JOINT = "baseline,film=baseline:fusion=film,ogm-ge,gradient-blending,greedy,tmc"


def test_every_joint_method_is_predicted_with_and_without_each_modality(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", clips={"train": 20, "val": 3, "test": 6})
    flags = ["--preset", "tiny", "--width", "8", "--batch-size", "10", "--epochs", "1"]
    main(["train", str(data), "--out", str(tmp_path / "run"), "--methods", f"audio,{JOINT}", *flags])
    for spec in parse_methods([f"audio,{JOINT}"]):
        table = read_table(tmp_path / f"run/predictions/{spec.name}-seed0-test.parquet")
        replaced = table["replaced"].to_pylist()
        if spec.name == "audio":
            assert replaced == ["none"] * 6
            continue
        assert replaced == ["none"] * 6 + ["audio"] * 6 + ["visual"] * 6
        whole, without_audio, without_visual = np.array(table["probabilities"].to_pylist()).reshape(3, 6, 3)
        np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-5)
        assert np.abs(whole - without_audio).max() > 1e-6
        assert np.abs(without_audio - without_visual).max() > 1e-6
        # Of networks whose branches see each other, what each says without the other modality.
        said = {name: table[f"{name}_prediction"].is_valid().to_pylist() for name in MODALITIES}
        is_greedy = spec.method.name == "greedy"
        assert said["audio"] == [True] * 6 + [False] * 6 + [is_greedy] * 6
        assert said["visual"] == [True] * 6 + [is_greedy] * 6 + [False] * 6
        assert (table["uncertainty"].null_count == 0) == (spec.method.name == "tmc")
