"""Cutting splits is names and counts only, for training too."""

import subprocess
import sys

from avbench.packing.splits import empty_splits_text, untrained_classes
from tests.conftest import REPOSITORY
from tests.test_layers import MODULES, PACKAGE, imported, part_of


def test_training_cuts_its_parts_without_pyav():
    code = "import avbench.packing.splits, sys; print('av' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.startswith("False ")
    for module in MODULES:
        if part_of(module) in ("training", "methods", "engine", "loading", "analysis"):
            of_packing = {name for name in imported(PACKAGE / module) if name.startswith("avbench.packing")}
            assert all(name.startswith("avbench.packing.splits") for name in of_packing), module


def test_splits_without_clips_are_named():
    assert empty_splits_text({"train": 1, "val": 1, "test": 1}) == ""
    assert empty_splits_text({"train": 1, "val": 0, "test": 1}).startswith("no clips in the val split: ")
    assert empty_splits_text({"test": 1}).startswith("no clips in the train and val splits: ")


def test_classes_that_only_train_lacks_are_named():
    counts = {"train": [1, 0, 0], "val": [0, 1, 0], "test": [1, 1, 0]}
    assert untrained_classes(counts, ("a", "b", "c")) == ["b", "c"]
    assert untrained_classes({"train": [0, 0], "val": [0, 0], "test": [1, 1]}, ("a", "b")) == []
