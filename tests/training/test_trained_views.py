"""A training on a view is one on its written-out shards, bit for bit; runs know their data by its content."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.loading.loader import Loader
from avbench.loading.presets import preset
from avbench.packing.views.rule import RuleFiles
from avbench.packing.views.view import make_view
from avbench.packing.views.write_out import write_out
from avbench.records import json_checksum, read_metrics, read_table
from avbench.vocabulary import SPLITS
from tests.synthetic import make_dataset
from tests.training.test_dataset_checks import refused

FLAGS = (
    "--preset",
    "tiny",
    "--width",
    "8",
    "--batch-size",
    "8",
    "--methods",
    "audio,visual,baseline",
    "--log-steps",
    "1",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed dataset, a view of it with other splits and classes, and that view written out."""
    folder = tmp_path_factory.mktemp("views")
    packed = make_dataset(folder / "packed", classes=4, clips={"train": 24, "val": 8, "test": 8}, seconds=1.2)
    keys = Dataset(packed).table_column("key").to_pylist()
    splits = "".join(f"{key},{SPLITS[(row // 4) % 3]}\n" for row, key in enumerate(keys))
    (folder / "splits.csv").write_text(splits)
    (folder / "map.csv").write_text("class-3,class-0\n")
    files = RuleFiles(
        splits=folder / "splits.csv", map=folder / "map.csv", without_keys=listed(folder / "gone", keys[5:7])
    )
    make_view([packed], out=folder / "view", files=files)
    write_out(folder / "view", out=folder / "written", workers=1, clips_per_shard=5)
    return folder


def listed(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines))
    return path


def train(dataset: Path, out: Path, *flags: str) -> Path:
    main(["train", str(dataset), "--out", str(out), *FLAGS, *flags])
    return out


def numbers_of(run: Path) -> dict[str, Any]:
    """All numbers that a training left behind; of its metrics those that are no times."""
    tables = {str(path.relative_to(run)): read_table(path).to_pydict() for path in sorted(run.rglob("*.parquet"))}
    records = read_metrics(run / "metrics.jsonl", kinds=("step", "epoch"))
    return {**tables, "metrics": [{k: v for k, v in one.items() if "seconds" not in k} for one in records]}


def batches(path: Path, *, training: bool) -> Iterator[dict[str, np.ndarray]]:
    dataset = Dataset(path)
    for split in SPLITS:
        loader = Loader(
            dataset, dataset.clip_ids(split), preset=preset("tiny"), batch_size=5, seed=3, training=training
        )
        for epoch in (0, 1):
            for batch in loader.epoch(epoch):
                yield {name: getattr(batch, name).clone() for name in ("audio", "frames", "label", "clip_id", "valid")}
        loader.close()


@pytest.mark.parametrize("training", [True, False])
def test_the_loader_gives_the_same_bits_of_a_view_and_of_its_shards(folders: Path, training: bool) -> None:
    pairs = zip(
        batches(folders / "view", training=training), batches(folders / "written", training=training), strict=True
    )
    for one, other in pairs:
        assert bool(one["valid"].all())
        assert all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in one)


def test_windows_of_a_views_shards_hold_each_clip_once(folders: Path) -> None:
    view = Dataset(folders / "view")
    ids = view.clip_ids("train")
    loader = Loader(view, ids, preset=preset("tiny"), batch_size=4, seed=1, training=True, shuffle_shards=2)
    order = [clip for batch in loader.epoch(0) for clip in batch.clip_id.tolist()]
    loader.close()
    assert sorted(order) == ids.tolist() and order != ids.tolist()
    shards = view.shards[np.array(order)]
    first = set(shards[:1].tolist() + shards[shards != shards[0]][:1].tolist())
    size = int(np.isin(shards, list(first)).sum())
    assert set(shards[:size].tolist()) == first and len(np.unique(shards)) == 4  # two whole shards before all others


def test_a_training_on_a_view_is_one_on_its_written_shards_bit_for_bit(folders: Path, tmp_path: Path) -> None:
    view = train(folders / "view", tmp_path / "view", "--epochs", "2")
    written = train(folders / "written", tmp_path / "written", "--epochs", "2")
    assert numbers_of(view) == numbers_of(written)
    # Begun on the one, gone on with on the other: the dataset is known by its content.
    half = train(folders / "view", tmp_path / "half", "--epochs", "1")
    main(["train", str(folders / "written"), "--out", str(half), "--resume", "--epochs", "2"])
    assert numbers_of(half) == numbers_of(view)
    packed = Dataset(folders / "packed")
    assert packed.fingerprint != Dataset(folders / "view").fingerprint
    # Both are of one content, so they are joined; the report says what the view is of.
    twin = train(folders / "written", tmp_path / "twin", "--epochs", "2", "--seeds", "1")
    main(["evaluate", str(view), str(twin)])
    origin = (view / "report" / "origin.csv").read_text()
    assert f"synthetic, 40 clips,{packed.fingerprint}" in re.sub('"', "", origin)
    assert "splits splits.csv (40 named, 0 missing, " in origin and "map map.csv (1 old and new, " in origin
    assert Dataset(folders / "view").fingerprint in (view / "report" / "index.html").read_text()
    told = json.loads((view / "dataset.json").read_text())
    assert told["rule"]["without_keys"]["named"] == 2 and told["origin"][0]["name"] == "synthetic"


def test_a_run_of_an_earlier_version_goes_on(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its dataset.json has no fingerprint, and its checkpoints know the dataset by the index's checksum."""
    quiet = train(folders / "packed", tmp_path / "quiet", "--epochs", "2")
    run = train(folders / "packed", tmp_path / "run", "--epochs", "1")
    told = json.loads((run / "dataset.json").read_text())
    assert told.pop("fingerprint") == Dataset(folders / "packed").fingerprint
    (run / "dataset.json").write_text(json.dumps(told))
    for path in run.glob("checkpoints/*/manifest.json"):
        manifest = json.loads(path.read_text())
        del manifest["checksum"]
        manifest["identity"]["dataset"] = told["index_sha256"]
        path.write_text(json.dumps({**manifest, "checksum": json_checksum(manifest)}))
    resume = ("--out", str(run), "--resume", "--epochs", "2")
    assert "is another dataset" in refused(capsys, str(folders / "view"), *resume)
    main(["train", str(folders / "packed"), *resume])
    assert numbers_of(run) == numbers_of(quiet)


def test_training_says_where_the_shards_of_a_view_should_be(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = shutil.copytree(folders / "view", tmp_path / "far" / "view")
    line = refused(capsys, str(away), "--out", str(tmp_path / "run"), *FLAGS)
    assert f"{away}: a view of shards in {away / '../packed'}, and there is no such folder" in line
    assert "avbench view" in line and not (tmp_path / "run").exists()
    copy = shutil.copytree(folders / "packed", tmp_path / "far" / "packed")
    (copy / "shard-000001.tar").unlink()
    assert "../packed/shard-000001.tar: missing; restore it" in refused(
        capsys, str(away), "--out", str(tmp_path / "run"), *FLAGS
    )
