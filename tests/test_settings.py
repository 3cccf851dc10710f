"""That a settings class says what a change of it means, and that what older versions wrote is read."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w

from avbench import shipped
from avbench.config import TrainConfig, check_resumed, load_config
from avbench.errors import UsageError
from avbench.settings import build, deciding, flat, resumable, setting

LAUNCH = shipped("launch")


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    threads: int = setting(1, resumable=True, moves_numbers=False)


@dataclass(frozen=True)
class Outer:
    out: Path
    inner: Inner = Inner()
    epochs: int = setting(3, resumable=True)


def test_a_field_says_whether_it_moves_numbers_and_may_change():
    config = Outer(Path("run"))
    assert flat(config) == {"out": "run", "inner.rate": 0.5, "inner.threads": 1, "epochs": 3}
    assert deciding(config) == {"out": "run", "inner.rate": 0.5, "epochs": 3}
    assert resumable(config) == {"inner.threads", "epochs"}


def test_values_from_outside_become_a_settings_class():
    assert build(Outer, {"out": "run", "inner": {"rate": 1}}, "mine.toml") == Outer(Path("run"), Inner(1.0))
    for values, message in (
        ({"out": "run", "epoch": 3}, r"mine.toml: .*'epoch'; did you mean 'epochs'"),
        ({"out": "run", "inner": 3}, "mine.toml: inner is 3, expected a table"),
        ({"out": "run", "inner": {"threads": 1.5}}, "mine.toml: inner: threads is 1.5, expected a whole number"),
        ({}, "mine.toml: out is missing"),
    ):
        with pytest.raises(UsageError, match=message):
            build(Outer, values, "mine.toml")


def older(config: TrainConfig, path: Path) -> Path:
    """The configuration's file as it was when precision and batch norm were settings of training."""
    config.save(path)
    values = tomllib.loads(path.read_text())
    for name in ("precision", "batch_norm"):
        values["training"][name] = values["engine"].pop(name)
    path.write_text(tomli_w.dumps(values))
    return path


def test_an_older_configuration_is_the_same_and_may_be_resumed(tmp_path):
    config = load_config(LAUNCH / "demo.toml", dataset="d", out=str(tmp_path), engine={"batch_norm": "global"})
    read = load_config(older(config, tmp_path / "config.toml"))
    assert read.engine == config.engine and read.engine.batch_norm == "global"
    check_resumed(read, config)
    changed = load_config(LAUNCH / "demo.toml", dataset="d", out=str(tmp_path), engine={"batch_norm": "local"})
    with pytest.raises(UsageError, match="cannot change batch-norm from 'global' to 'local'"):
        check_resumed(read, changed)
