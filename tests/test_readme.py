"""What the README shows works as it is shown."""

import re
import sys
from pathlib import Path

import pytest

from avbench.cli import main
from avbench.records import read_metrics, read_table
from tests.synthetic import make_dataset

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_method_of_ones_own_trains_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(source.splitlines()) < 40
    (methods,) = re.findall(r"--methods (audio,visual,baseline,dropout:\S+)", README.read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "dropout", raising=False)
    Path("dropout.py").write_text(source, encoding="utf-8")
    make_dataset(tmp_path / "data", clips={"train": 16, "val": 3, "test": 6})
    flags = ["--preset", "tiny", "--width", "8", "--batch-size", "4", "--epochs", "1", "--log-steps", "1"]
    main(["train", "data", "--out", "run", "--methods", methods.replace("rate=0.2", "rate=0.5"), *flags])
    steps = [record for record in read_metrics(Path("run/metrics.jsonl"), kinds=["step"]) if "dropped/audio" in record]
    # At a rate of a half, every step is without one of the two.
    assert [record["dropped/audio"] + record["dropped/visual"] for record in steps] == [1.0] * 4
    table = read_table(Path("run/predictions/modality-dropout-seed0-test.parquet"))
    assert set(table["method"].to_pylist()) == {"modality-dropout"}
    main(["evaluate", "run"])
    assert "modality-dropout" in Path("run/report/accuracy.csv").read_text(encoding="utf-8")
