"""Training from Python, without the command line."""

from pathlib import Path

import pytest

import avbench
from avbench.config import TrainConfig
from avbench.engine.config import EngineConfig
from avbench.errors import UsageError
from avbench.start import start
from avbench.training.config import TrainerConfig
from tests.synthetic import make_dataset


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("start")
    dataset = make_dataset(folder / "dataset", clips={"train": 8, "val": 4, "test": 4})
    training = TrainerConfig(epochs=1, batch_size=4, width=8)
    engine = EngineConfig(precision="float32")
    return TrainConfig(dataset, folder / "run", methods=("audio",), preset="tiny", training=training, engine=engine)


def test_one_call_trains_and_says_what_to_read(config: TrainConfig) -> None:
    said = avbench.start(config)
    assert "audio-seed0" in said and said.splitlines()[-1] == f"next: avbench evaluate {config.out}"
    assert (config.out / "finished.json").exists() and (config.out / "config.toml").exists()
    assert start(config, auto_resume=True) == f"{config.out}: finished already"
    with pytest.raises(UsageError, match="--auto-resume and --overwrite exclude each other"):
        start(config, auto_resume=True, overwrite=True)


def test_the_name_is_the_call_however_it_is_imported() -> None:
    import avbench.start as module

    assert avbench.start is module and module.start is start and callable(avbench.start)
    with pytest.raises(AttributeError, match="no attribute 'stop'"):
        avbench.stop  # noqa: B018


def test_a_mistake_is_an_exception_of_avbenchs_own(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown method 'audioo'"):
        start(TrainConfig(config.dataset, tmp_path / "run", methods=("audioo",)))
    assert not (tmp_path / "run").exists()
