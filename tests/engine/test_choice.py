"""Which engine, and what DeepSpeed may be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from avbench import shipped
from avbench.config import TrainConfig, check_resumed, load_config
from avbench.engine.choice import build_engine
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.engine.deepspeed_settings import settings_with
from avbench.engine.plain import Engine
from avbench.errors import UsageError

GOOD = {"gradient_clipping": 0.0, "zero_optimization": {"stage": 2}}


def of(settings: Any) -> EngineConfig:
    return EngineConfig(engine="deepspeed", deepspeed_config=json.dumps(settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"zero_optimization": {"stage": 1}}, "does not say 'gradient_clipping'.*clip at 1.0"),
        ({**GOOD, "gradient_clipping": "auto"}, "'gradient_clipping' is 'auto'"),
        ({**GOOD, "gradient_clipping": -1.0}, "'gradient_clipping' is -1.0"),
        ({**GOOD, "gradient_clipping": float("nan")}, "'gradient_clipping' is nan"),
        ({"gradient_clipping": 0.0}, "'zero_optimization' is None"),
        ({**GOOD, "zero_optimization": {"stage": 3}}, "expected a stage of 0, 1 or 2"),
        ({**GOOD, "zero_optimization": {"stage": True}}, "expected a stage of 0, 1 or 2"),
        ({**GOOD, "zero_optimization": {"stage": 1, "round_robin_gradients": True}}, "'round_robin_gradients'"),
        ({**GOOD, "optimizer": {"type": "Adam"}}, "has 'optimizer', but the optimizer is --optimizer"),
        ({**GOOD, "scheduler": {}}, "has 'scheduler'.*--schedule"),
        ({**GOOD, "fp16": {"enabled": True}}, "has 'fp16'"),
        ({**GOOD, "bf16": {"enabled": True}}, "has 'bf16'.*batch norm"),
        ({**GOOD, "torch_autocast": {"enabled": True}}, "has 'torch_autocast'.*--precision"),
        ({**GOOD, "train_batch_size": 64}, "has 'train_batch_size'.*--batch-size"),
        ({**GOOD, "gradient_accumulation_steps": 2}, "has 'gradient_accumulation_steps'.*--accumulation"),
        ({**GOOD, "gradient_cliping": 0.0}, "did you mean 'gradient_clipping'"),
        ({**GOOD, "zero_allow_untested_optimizer": False}, "'zero_allow_untested_optimizer' must be true"),
        ([], "no such DeepSpeed configuration"),
    ],
)
def test_settings_that_would_change_results_or_are_untested_are_refused(settings: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        of(settings)


def test_harmless_settings_and_comments_are_taken() -> None:
    config = of({"//": "mine", **GOOD, "fp16": {"enabled": False}, "zero_allow_untested_optimizer": True})
    assert json.loads(config.deepspeed_config) == {**GOOD, "zero_allow_untested_optimizer": True}


def test_files_that_are_missing_or_no_json_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent.json: no such DeepSpeed configuration"):
        EngineConfig(engine="deepspeed", deepspeed_config="absent.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"gradient_clipping": 0.0')
    with pytest.raises(UsageError, match=r"broken.json: not readable as JSON"):
        EngineConfig(engine="deepspeed", deepspeed_config=str(broken))
    broken.write_text("[1]")
    with pytest.raises(UsageError, match=r"broken.json: expected a JSON object"):
        EngineConfig(engine="deepspeed", deepspeed_config=str(broken))


def test_shipped_files_say_the_stage_in_their_names() -> None:
    for stage in (0, 1, 2):
        config = EngineConfig(engine="deepspeed", deepspeed_config=str(shipped("launch") / f"zero{stage}.json"))
        assert settings_with(config.deepspeed_config, clip_norm=0.0)["zero_optimization"]["stage"] == stage


def test_clipping_is_said_once() -> None:
    assert settings_with("", clip_norm=2.0)["gradient_clipping"] == 2.0
    text = of({**GOOD, "gradient_clipping": 2}).deepspeed_config
    assert settings_with(text, clip_norm=2.0)["gradient_clipping"] == 2.0
    with pytest.raises(UsageError, match=r"gradient_clipping 0.0, but --clip-norm is 2.0"):
        settings_with(of(GOOD).deepspeed_config, clip_norm=2.0)


def test_settings_without_their_engine_are_refused() -> None:
    with pytest.raises(UsageError, match="add --engine deepspeed"):
        EngineConfig(deepspeed_config="zero1.json")


@pytest.mark.parametrize("accumulation", [0, -1])
def test_accumulation_out_of_range_is_refused(accumulation: int) -> None:
    with pytest.raises(UsageError, match="accumulation"):
        EngineConfig(accumulation=accumulation)


def test_a_saved_configuration_needs_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(GOOD))
    monkeypatch.chdir(tmp_path)
    engine = EngineConfig(engine="deepspeed", deepspeed_config="mine.json", accumulation=2)
    config = TrainConfig(dataset=Path("data"), out=Path("run"), engine=engine)
    config.save(tmp_path / "config.toml")
    (tmp_path / "mine.json").unlink()
    assert load_config(tmp_path / "config.toml").engine == engine


def test_a_resumed_run_may_change_its_engine_and_nothing_else_of_it(tmp_path: Path) -> None:
    saved = TrainConfig(dataset=Path("data"), out=Path("run"), engine=of(GOOD))
    ddp = TrainConfig(
        dataset=Path("data"), out=Path("run"), engine=EngineConfig(deepspeed_config=saved.engine.deepspeed_config)
    )
    assert ddp.engine == EngineConfig()
    check_resumed(saved, ddp)
    with pytest.raises(UsageError, match="accumulation"):
        check_resumed(saved, TrainConfig(dataset=Path("data"), out=Path("run"), engine=EngineConfig(accumulation=2)))


def test_one_process_needs_nothing_of_ddp() -> None:
    engine = build_engine(
        nn.Linear(2, 2),
        optimizer=OptimizerConfig(),
        device=torch.device("cpu"),
        dtype=torch.float32,
        leaves_unused_parameters=False,
    )
    assert type(engine) is Engine
