"""OGM-GE on planted clips whose evidence is mostly in the sound."""

from pathlib import Path

import pytest

from avbench.cli import main
from avbench.config import load_config
from avbench.demo import CONFIG
from avbench.records import read_metrics


@pytest.mark.slow
@pytest.mark.exhaustive
def test_on_clips_biased_to_audio_audio_is_slowed_and_vision_is_not(tmp_path: Path) -> None:
    sizes = ["--planted.train", "240", "--planted.val", "20", "--planted.test", "20", "--planted.bias", "0.7"]
    main(["pack", "planted", "--media", str(tmp_path / "videos"), "--out", str(tmp_path / "data"), *sizes])
    # With networks of the published width, as no other test trains them from pack to predictions.
    flags = ["--config", str(CONFIG), "--width", "64", "--methods", "ogm-ge", "--log-steps", "1"]
    main(["train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *flags])
    steps = read_metrics(tmp_path / "run/metrics.jsonl", kinds=["step"])
    assert len(steps) == 15 * load_config(CONFIG, dataset="", out="").training.epochs
    as_meant = [step["coefficient/audio"] < 1 and step["coefficient/visual"] == 1 for step in steps]
    assert sum(as_meant) >= 0.9 * len(steps)
