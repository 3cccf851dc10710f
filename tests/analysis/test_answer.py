"""--json of evaluate and subsets: the only thing on stdout, the same numbers as in the files, mistakes as well."""

import csv
import json

import pytest

from avbench.cli import main
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import make_run

LABELS = [0, 1, 2, 0, 1, 2]
AUDIO, VISUAL = [0.9, 0.8, 0.5, 0.25, 0.1, 0.7], [0.1, 0.5, 0.5, 0.5, 0.8, 0.7]


@pytest.fixture
def run(tmp_path):
    right = {(name, name, 0): [True, True, True, False, False, True] for name in (*MODALITIES, "baseline")}
    return make_run(tmp_path / "run", labels=LABELS, audio={0: AUDIO}, visual={0: VISUAL}, correct=right)


def test_evaluate_prints_every_number(run, capsys):
    main(["evaluate", str(run), "--resamples", "20", "--json"])
    found = json.loads(capsys.readouterr().out)
    with (run / "report" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(found["metrics"]) == len(rows)
    for said, row in zip(found["metrics"], rows, strict=True):
        assert said["run"] == row["method"]
        assert said["value"] == (float(row["value"]) if row["value"] else None)
    assert (
        found["accuracy"][0] | {"run": "audio", "subset": "overall", "clips": 6, "correct": 4} == found["accuracy"][0]
    )
    assert found["answer"].startswith("On pets, ")
    assert found["report"] == str(run / "report" / "index.html")
    assert found["clips"] == {"listed": 6, "evaluated": 6, "unrecorded": 0, "unpredicted": 0}
    assert [method["modality"] for method in found["methods"]] == ["audio", "visual", None]
    assert found["notes"]
    assert found["warnings"] == []
    assert found["learning"] == []  # nothing was logged


def test_evaluate_prints_how_runs_learnt(run, capsys):
    epochs = [{"kind": "epoch", "run": "audio", "seed": 0, "epoch": number, "loss": loss, "accuracy": 0.5,
               "val_loss": 1.0, "val_accuracy": 0.25 * number} for number, loss in enumerate((2.0, "nan"))]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in epochs))
    main(["evaluate", str(run), "--resamples", "20", "--json"])
    (audio, *_) = json.loads(capsys.readouterr().out)["learning"]
    assert (audio["run"], audio["best_epoch"], audio["best_val_accuracy"]) == ("audio", 1, 0.25)
    assert (audio["epochs"], audio["loss"]) == ([0, 1], [2.0, None])


def test_subsets_prints_what_it_wrote(run, tmp_path, capsys):
    file = tmp_path / "s.csv"
    main(["subsets", str(run), "--export", str(file), "--thresholds", "0,0.4", "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "file": str(file),
        "split": "test",
        "subsets": [
            {"threshold": 0.0, "clips": {"audio": 2, "visual": 2, "tie": 2}},
            {"threshold": 0.4, "clips": {"audio": 1, "visual": 1, "tie": 4}},
        ],
    }


@pytest.mark.parametrize(
    "words",
    [["evaluate", "missing"], ["subsets", "missing", "--export", "s.csv"], ["evaluate", "x", "--memory-gb", "0.1"]],
)
def test_a_mistake_is_an_object_too_and_ends_as_without(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--json"])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["error"] in said.err
    assert said.err.count("\n") == 1


def test_too_little_memory_is_refused(run, capsys):
    for value in ("0.1", "nan", "-1", "inf"):
        with pytest.raises(SystemExit):
            main(["evaluate", str(run), "--memory-gb", value])
        assert f"--memory-gb {value}: expected a number of gigabytes from 0.5 on" in capsys.readouterr().err
