"""Real videos in, subset table out: the main job on clips that nobody made for it."""

import csv
from pathlib import Path

import pytest

from avbench.cli import main
from avbench.records import CONFIDENCE_SCHEMA, read_table
from avbench.vocabulary import MODALITIES


def test_real_videos_become_a_subset_table(
    real_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, run = str(tmp_path / "dataset"), tmp_path / "run"
    main(["pack", "folder", "--media", str(real_clips), "--out", dataset, "--window-seconds", "2"])
    main(["verify", dataset])
    main(["train", dataset, "--out", str(run), "--preset", "tiny", "--epochs", "2", "--batch-size", "16"])
    main(["evaluate", str(run)])
    printed = capsys.readouterr().out
    assert "baseline" in printed and "index.html" in printed
    table = read_table(run / "confidence.parquet", CONFIDENCE_SCHEMA)
    assert set(table["audio_epochs"].to_pylist()) == set(table["visual_epochs"].to_pylist()) == {2}
    with (run / "report/accuracy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"audio", "visual", "baseline"}
    for method in (*MODALITIES, "baseline"):
        for threshold in ("0.0", "0.2", "0.4"):
            cells = {r["subset"]: r for r in rows if r["method"] == method and r["threshold"] == threshold}
            parts = [cells[name] for name in (*MODALITIES, "tie") if cells[name]["accuracy"]]
            assert sum(int(part["clips"]) for part in parts) == int(cells["overall"]["clips"])
            mean = sum(int(p["clips"]) * float(p["accuracy"]) for p in parts) / int(cells["overall"]["clips"])
            assert mean == pytest.approx(float(cells["overall"]["accuracy"]), abs=1e-12)
