"""That what is compared of a configuration is what `avbench train` writes there, and what older versions wrote."""

import tomllib
from pathlib import Path

import tomli_w

from avbench.analysis.reading.configuration import _MOVED_NO_NUMBER, read_settings
from avbench.config import TrainConfig
from avbench.settings import deciding, flat


def test_the_settings_that_move_numbers_are_read_from_the_folder(tmp_path):
    config = TrainConfig(dataset=Path("pets"), out=tmp_path)
    config.save(tmp_path / "config.toml")
    settings = read_settings(tmp_path, (tmp_path / "config.toml").read_text())
    assert {"preset", "training.epochs", "engine.precision", "optimizer.momentum", "engine.accumulation"} <= {*settings}
    assert not {"out", "dataset", "methods", "seeds", "training.log_steps", "engine.engine"} & {*settings}


def test_a_folder_of_an_older_version_says_the_same(tmp_path):
    config = TrainConfig(dataset=Path("pets"), out=tmp_path)
    config.save(tmp_path / "config.toml")
    expected = read_settings(tmp_path, "")
    older = tomllib.loads((tmp_path / "config.toml").read_text())
    for name in ("precision", "batch_norm"):
        older["training"][name] = older["engine"].pop(name)
    del older["training"]["bad_clips_limit"]  # came later
    (tmp_path / "settings.json").unlink()
    assert read_settings(tmp_path, tomli_w.dumps(older)) == expected


def test_what_moved_no_number_then_moves_none_now():
    config = TrainConfig(dataset=Path("pets"), out=Path("run"))
    assert flat(config).keys() - deciding(config).keys() >= _MOVED_NO_NUMBER
