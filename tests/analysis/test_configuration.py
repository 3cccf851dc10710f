"""That what is compared of a configuration is what `avbench train` writes there."""

import dataclasses
import tomllib
from pathlib import Path

from avbench.analysis.configuration import CHANGES_NO_NUMBER, settings_of
from avbench.config import TrainConfig


def test_what_changes_no_number_are_fields_of_a_configuration_and_the_rest_is_compared(tmp_path):
    config = TrainConfig(dataset=Path("pets"), out=tmp_path)
    config.save(tmp_path / "config.toml")
    settings = settings_of(tomllib.loads((tmp_path / "config.toml").read_text()))
    fields = {
        *(field.name for field in dataclasses.fields(config)),
        *(f"training.{field.name}" for field in dataclasses.fields(config.training)),
        *(f"engine.{field.name}" for field in dataclasses.fields(config.engine)),
    }
    assert fields > CHANGES_NO_NUMBER
    assert {"preset", "training.epochs", "training.precision", "optimizer.momentum", "engine.accumulation"} <= {
        *settings
    }
    assert not CHANGES_NO_NUMBER & settings.keys()
