"""How fast a training ran, as the report says it, from records written by hand."""

import csv
import io

import numpy as np
import pytest

from avbench.analysis.measures.performance import course, speeds
from avbench.analysis.report import assess, evaluate
from avbench.records import MetricsWriter
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import make_run
from tests.analysis.presented import sheets_of


def interval(batch, clips, *, epoch=0, launch=1, **more):
    return {
        "kind": "performance", "launch": launch, "epoch": epoch, "batch": batch, "clips_per_second": clips,
        "data_wait_share": 0.25, **more,
    }  # fmt: skip


def of_ranks(batch, *clips, **more):
    return interval(batch, float(sum(clips)), clips_per_second_by_rank=list(clips), **more)


def test_medians_leave_out_the_first_interval_of_each_launch_and_passes_before_an_epoch():
    records = [
        {"kind": "performance", "epoch": 0, "batch": 0, "before_epoch_seconds": 9.0, "passes": 2, "clips": 10},
        interval(10, 1.0, peak_memory_bytes=5),
        interval(20, 100.0, peak_memory_bytes=6, joules_per_clip="nan"),
        interval(20, 2.0, launch=2, peak_memory_bytes=3),
        interval(10, 300.0, launch=2, epoch=1, peak_memory_bytes=4),
        interval(20, 200.0, launch=2, epoch=1, peak_memory_bytes=4),
    ]
    (speed,) = speeds({"run": records})
    assert (speed.training, speed.ranks, speed.rank, speed.intervals) == ("run", 1, None, 3)
    assert speed.values == {"clips_per_second": 200.0, "data_wait_share": 0.25, "peak_memory_bytes": 6.0}
    lines = course(records)
    assert set(lines) == {"clips_per_second", "data_wait_share"}
    (first, before), (second, after) = lines["clips_per_second"]
    assert (first.tolist(), before.tolist()) == ([1.0], [100.0])
    assert (second.tolist(), after.tolist()) == ([1.5, 2.0], [300.0, 200.0])
    assert lines["data_wait_share"][0][1].tolist() == [25.0]


def test_a_launch_of_one_interval_says_nothing():
    assert speeds({"run": [interval(10, 1.0), interval(20, 2.0, launch=2)]}) == ()
    assert speeds({"run": []}) == () and course([]) == {}


def test_all_ranks_and_each_are_told_apart_and_so_are_launches_on_other_numbers_of_ranks():
    step = {"slowest_rank": 1, "slowest_step_seconds": 0.3, "fastest_step_seconds": 0.2}
    more = {
        "data_wait_share_by_rank": [0.1, 0.3], "gpu_memory_bytes": 7, "gpu_memory_bytes_by_rank": [7, 9],
        "gpu_use_share": 0.5, "gpu_use_share_by_rank": [0.5, None], **step,
    }  # fmt: skip
    records = [of_ranks(1, 1, 1), of_ranks(2, 10, 30, **more), of_ranks(3, 20, 60, **more)]
    records += [interval(4, 1.0, launch=2), interval(5, 50.0, launch=2)]
    alone, together, zero, one = speeds({"run": records})
    assert (alone.ranks, alone.values["clips_per_second"], alone.slowest_rank) == (1, 50.0, None)
    assert (together.ranks, together.rank, together.intervals) == (2, None, 2)
    assert together.values == {
        "clips_per_second": 60.0, "data_wait_share": pytest.approx(0.2), "gpu_use_share": 0.5, "gpu_memory_bytes": 9.0,
    }  # fmt: skip
    assert (together.slowest_rank, together.slowest_over_fastest) == (1, pytest.approx(1.5))
    assert (zero.rank, one.rank) == (0, 1)
    assert zero.values["clips_per_second"] == 15.0 and one.values["clips_per_second"] == 45.0
    assert zero.values["gpu_use_share"] == 0.5 and "gpu_use_share" not in one.values


@pytest.fixture
def run(tmp_path):
    confidence = np.linspace(0.1, 0.9, 8).tolist()
    correct = {(name, name, 0): [True] * 8 for name in MODALITIES}
    return make_run(
        tmp_path / "run", labels=[0, 1] * 4, audio={0: confidence}, visual={0: confidence[::-1]}, correct=correct
    )


def log(folder, records):
    writer = MetricsWriter(folder / "metrics.jsonl")
    for record in records:
        writer.write(record)
    writer.close()


def test_the_report_tells_it_in_a_figure_a_table_and_a_file(run):
    ranks = {"clips_per_second_by_rank": [40.0, 60.0], "cpu_use_share": 0.5, "cpu_use_share_by_rank": [0.5, 0.75]}
    log(run, [interval(n, 100.0 + n, peak_memory_bytes=3 << 30, **ranks) for n in range(1, 10)])
    evaluation = evaluate([run], resamples=20)
    files = {path.name: path.read_bytes() for path in evaluation.folder.iterdir()}
    assert {"performance.png", "performance.svg", "performance.csv"} <= set(files)
    page = files["index.html"].decode()
    assert 'id="speed"' in page and "How fast it ran" in page
    (sheet,) = (sheet for sheet in sheets_of(assess([run], resamples=20)) if sheet.kind == "performance")
    assert sheet.headings == (
        "training", "ranks", "intervals", "clips/s", "waiting for data (%)", "CPU use (%)", "host memory (GiB)",
        "slowest rank",
    )  # fmt: skip
    assert [cell.text for cell in sheet.rows[0]] == ["run", "2 together", "8", "105.5", "25.0", "62.5", "3.00", "–"]
    assert [cell.text for cell in sheet.rows[2]] == ["run", "1", "8", "60.0", "–", "75.0", "–", "–"]
    rows = list(csv.DictReader(io.StringIO(files["performance.csv"].decode())))
    assert [row["rank"] for row in rows] == ["all", "0", "1"]
    assert float(rows[0]["clips_per_second"]) == 105.5 and rows[0]["gpu_use_share"] == ""
    assert "How fast it ran" in files["tables.md"].decode()


def test_a_report_without_speed_has_no_section_of_it(run):
    log(run, [interval(1, 100.0)])
    evaluation = evaluate([run], resamples=20)
    assert 'id="speed"' not in (evaluation.folder / "index.html").read_text()
    assert not list(evaluation.folder.glob("performance*"))


def test_each_rank_of_very_many_is_in_the_file_only(run):
    ranks = {"clips_per_second_by_rank": [1.0] * 9}
    log(run, [interval(n, 9.0, **ranks) for n in range(3)])
    evaluation = evaluate([run], resamples=20)
    (sheet,) = (sheet for sheet in sheets_of(assess([run], resamples=20)) if sheet.kind == "performance")
    assert len(sheet.rows) == 1 and "performance.csv" in sheet.caption
    assert len((evaluation.folder / "performance.csv").read_text().splitlines()) == 11
