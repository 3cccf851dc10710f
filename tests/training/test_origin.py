import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np

from avbench.dataset import Dataset
from avbench.loading.features import preset
from avbench.training.audit import Count
from avbench.training.origin import code, origin
from tests.synthetic import make_dataset


def test_an_origin_names_dataset_clips_and_preset_by_what_they_hold(tmp_path: Path) -> None:
    dataset = Dataset(make_dataset(tmp_path / "one"))
    ids = {"train": dataset.clip_ids("train"), "val": dataset.clip_ids("val")}
    found = origin(dataset, ids, preset("tiny"))
    assert found["dataset"]["index_sha256"] == dataset.fingerprint
    assert found["clips"]["val"] == {"clips": 12, "hash": Count.of(ids["val"]).hash}
    assert origin(Dataset(tmp_path / "one"), ids, preset("tiny")) == found
    fewer = origin(dataset, {**ids, "train": ids["train"][:-1]}, preset("tiny"))
    assert fewer["clips"]["train"]["hash"] != found["clips"]["train"]["hash"]
    assert (fewer["clips"]["val"], fewer["preset"]) == (found["clips"]["val"], found["preset"])
    other = origin(dataset, ids, replace(preset("tiny"), visual=replace(preset("tiny").visual, height=65)))
    assert other["preset"]["sha256"] != found["preset"]["sha256"]
    dataset.classes = tuple(reversed(dataset.classes))
    assert origin(dataset, ids, preset("tiny"))["dataset"]["classes_sha256"] != found["dataset"]["classes_sha256"]
    assert np.array_equal(ids["train"], dataset.clip_ids("train"))


def test_code_is_known_by_its_files_and_in_a_checkout_by_its_commit(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    bare = code(package)
    assert bare.keys() == {"sha256"}  # nothing else is known of an installed package
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert code(package) == {**bare, "commit": commit, "changed": False}
    (package / "a.py").write_text("x = 2\n")
    changed = code(package)
    assert (changed["commit"], changed["changed"]) == (commit, True)
    assert changed["sha256"] != bare["sha256"]
