"""`avbench demo`, whole, and the paper's finding in what it leaves behind."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from avbench.analysis.report import evaluate
from avbench.cli import main
from avbench.vocabulary import MODALITIES

pytestmark = [pytest.mark.demo, pytest.mark.slow, pytest.mark.timeout(3600)]  # minutes, many on a busy machine
Table = dict[tuple[str, str], float]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    main(["demo", "--out", str(out)])
    return out


def accuracies(path: Path, threshold: float) -> tuple[Table, dict[str, int]]:
    """Accuracy by (method, subset) and clips by subset, at a threshold."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["threshold"]) == threshold]
    clips = {row["subset"]: int(row["clips"]) for row in rows}
    return {(row["method"], row["subset"]): float(row["accuracy"]) for row in rows if row["accuracy"]}, clips


def test_the_baseline_is_best_overall_on_500_clips_or_more(demo: Path) -> None:
    table, clips = accuracies(demo / "run/report/accuracy.csv", 0.4)
    assert clips["overall"] >= 500
    assert table["baseline", "overall"] > max(table["audio", "overall"], table["visual", "overall"])


@pytest.mark.parametrize("cut_by", ["accuracy.csv", "accuracy_planted.csv"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_each_unimodal_network_beats_the_baseline_where_its_modality_dominates(
    demo: Path, modality: str, cut_by: str
) -> None:
    table, clips = accuracies(demo / "run/report" / cut_by, 0.4)
    assert clips[modality] >= 40
    assert table[modality, modality] > table["baseline", modality]


def test_the_estimated_discrepancy_ranks_the_planted_one(demo: Path) -> None:
    spearman = evaluate([demo / "run"]).spearman
    assert spearman is not None and spearman >= 0.5


def test_the_demo_leaves_every_file_that_the_readme_names(demo: Path) -> None:
    names = {path.name for path in (demo / "run/report").iterdir()}
    assert names >= {"accuracy.csv", "accuracy_planted.csv", "heatmap.png", "heatmap.svg", "tables.md", "index.html"}
    assert (demo / "run/confidence.parquet").exists()
    assert (demo / "dataset/dataset.json").exists()
