"""Tables of a run with everything in it: two seeds, parts, replaced modalities, networks, a dataset of the paper."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from avbench.analysis.presenting.figures.diagnostics import plans_of_diagnostics
from avbench.analysis.presenting.terminal import terminal_table
from avbench.analysis.reading.diagnostics import read_diagnostics
from avbench.analysis.reading.runs import read_runs
from avbench.analysis.report import assess
from avbench.cli import main
from avbench.errors import RunError
from avbench.records import write_json, write_text
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import make_run, write_predictions
from tests.analysis.presented import markdown_of, sheets_of, table_files_of
from tests.documents import commands

CLIPS = 40
NETWORKS = {
    "audio": "ResNet-18 on audio",
    "visual": "ResNet-18 on frames",
    "baseline": "two ResNet-18s & one 100 % linear_layer",
    "ogm-ge": "two ResNet-18s",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, CLIPS).tolist()
    confidence = {name: {seed: random.random(CLIPS).tolist() for seed in (0, 1)} for name in MODALITIES}
    correct = {(run, run, seed): random.random(CLIPS) < 0.6 for run in MODALITIES for seed in (0, 1)}
    folder = make_run(tmp_path_factory.mktemp("full") / "run", labels=labels, correct=correct, **confidence)
    for method in ("baseline", "ogm-ge"):
        for seed in (0, 1):
            write_predictions(
                folder, run=method, method=method, seed=seed, split="test", clip_ids=np.arange(100, 100 + CLIPS),
                labels=labels, correct=random.random(CLIPS) < 0.7, parts={"audio": labels, "visual": [0] * CLIPS},
                replaced_correct={name: random.random(CLIPS) < 0.4 for name in MODALITIES},
            )  # fmt: skip
    runs = {name: {"method": name, "network": network, "options": {}} for name, network in NETWORKS.items()}
    write_json(folder / "runs.json", runs)
    dataset = json.loads((folder / "dataset.json").read_text())
    write_json(folder / "dataset.json", {**dataset, "name": "VGG_Sound"})
    return folder


@pytest.fixture(scope="module")
def assessed(run):
    return assess([run], resamples=50)


@pytest.fixture(scope="module")
def evaluation(assessed):
    return assessed[0]


@pytest.fixture(scope="module")
def sheets(assessed):
    return sheets_of(assessed)


@pytest.fixture(scope="module")
def files(assessed):
    return {name: content.decode() for name, content in table_files_of(assessed).items()}


def rows_of(text):
    return list(csv.DictReader(text.splitlines()))


class TestSheets:
    def test_every_kind_is_there_once_a_threshold(self, sheets):
        names = [sheet.name for sheet in sheets]
        kinds = ("accuracy", "significance", "metrics", "cross-seed", "parts")
        assert set(names) == {f"{kind}-{T}" for kind in kinds for T in ("0", "0.2", "0.4")} | {
            "published",
            "utilization",
            "per-class",
            "origin",
        }
        assert len(names) == len(set(names))

    def test_every_row_has_a_cell_for_every_heading(self, sheets):
        for sheet in sheets:
            assert {len(row) for row in sheet.rows} == {len(sheet.headings)}, sheet.name
            for row in sheet.rows:
                assert all(cell.detail == "" and not cell.best for cell in row[: sheet.words]), sheet.name
                assert all((cell.value is None) == (cell.text == "–") for cell in row[sheet.words :]), sheet.name

    def test_seeds_stand_above_their_mean_and_the_best_mean_is_marked(self, sheets):
        (sheet,) = (sheet for sheet in sheets if sheet.name == "accuracy-0.2")
        assert sheet.headings[:3] == ("method", "network", "seed")
        assert sheet.headings[3] == "overall (40)"
        assert [[cell.text for cell in row[:3]] for row in sheet.rows[:3]] == [
            ["audio", "ResNet-18 on audio", seed] for seed in ("0", "1", "mean")
        ]
        each, mean = [row[3].value for row in sheet.rows[:2]], sheet.rows[2][3]
        assert (mean.value, mean.detail) == (pytest.approx(np.mean(each)), f"± {100 * np.std(each, ddof=1):.1f}")
        for column in range(3, 7):
            best = max(row[column].value for row in sheet.rows if row[2].text == "mean")
            assert {row[column].value for row in sheet.rows if row[column].best} == {best}

    def test_parts_never_stand_under_the_name_of_the_unimodal_networks(self, sheets):
        for sheet in sheets:
            firsts = [row[0].text for row in sheet.rows]
            if sheet.kind == "parts":
                assert not {"audio", "visual"} & set(firsts)
                assert {row[1].text for row in sheet.rows} == {"audio part", "visual part"}
                assert "not the unimodal networks" in sheet.caption

    def test_published_numbers_are_marked_and_stand_beside_ours(self, evaluation, sheets):
        (sheet,) = (sheet for sheet in sheets if sheet.kind == "published")
        rows = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in sheet.rows}
        assert rows["greedy", "published"] == ["50.3", "52.7", "37.4"]
        assert ("greedy", "here") not in rows
        assert rows["ogm-ge", "here"][0] == f"{100 * evaluation.seeds.cell('ogm-ge', 'overall', 0.0).mean:.1f}"
        assert "for orientation, not a target" in sheet.caption
        assert "2302.10912" in sheet.caption


class TestFiles:
    def test_numbers_are_the_records_in_full_precision(self, evaluation, files):
        for row in rows_of(files["metrics.csv"]):
            cell = evaluation.metrics.cell(row["method"], row["metric"], row["subset"], float(row["threshold"]))
            for name in ("value", "low", "high"):
                value = getattr(cell, name)
                assert row[name] == "" if value is None else float(row[name]) == value
        for row, one in zip(rows_of(files["significance.csv"]), evaluation.comparisons, strict=True):
            assert (row["method"], row["unimodal"], float(row["p_holm"])) == (one.run, one.unimodal, one.p_holm)
            assert row["significant"] == str(int(one.significant))
        for row, one in zip(rows_of(files["utilization.csv"]), evaluation.utilization, strict=True):
            assert float(row["audio_shapley"]) == one.shapley["audio"]
            assert float(row["visual_utilization"]) == one.conditional["visual"]
        for name, table in (("seeds.csv", evaluation.seeds), ("cross_seed.csv", evaluation.cross_seed)):
            for row in rows_of(files[name]):
                cell = table.cell(row["method"], row["subset"], float(row["threshold"]))
                assert (float(row["mean"]) if row["mean"] else None, row["seeds"]) == (cell.mean, "2")
        assert {row["part"] for row in rows_of(files["parts.csv"])} == {"audio", "visual"}
        assert rows_of(files["accuracy.csv"])[0]["network"] == "ResNet-18 on audio"
        assert len(rows_of(files["published.csv"])) == 6

    def test_overall_is_exactly_the_mean_of_subsets_and_ties_in_the_file(self, files):
        cells = {(r["method"], r["seed"], r["threshold"], r["subset"]): r for r in rows_of(files["accuracy.csv"])}
        for (method, seed, threshold, subset), overall in cells.items():
            if subset == "overall":
                parts = [cells[method, seed, threshold, part] for part in (*MODALITIES, "tie")]
                right = sum(round(int(part["clips"]) * float(part["accuracy"] or 0)) for part in parts)
                assert right / sum(int(part["clips"]) for part in parts) == float(overall["accuracy"])

    def test_markdown_tables_are_whole(self, files):
        blocks = re.findall(r"(?:^\|.*\|\n)+", files["tables.md"], re.MULTILINE)
        assert len(blocks) == 19
        for block in blocks:
            counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(counts) == 1, block
        assert r"u(audio \| visual)" in files["tables.md"]

    def test_what_a_method_says_of_its_curves_is_said_below_them(self, run):
        _, results = assess([run], resamples=20)
        runs = {"loud": {"method": "greedy", "curves": "Speeds are log10 of a ratio."}, "other": {"method": "tmc"}}
        curve = {"speed": {"audio": (np.ones(1), np.ones(1))}}
        results = replace(
            results,
            folders=(replace(results.folders[0], runs=runs),),
            diagnostics={("loud", 0): curve, ("other", 0): curve},
        )
        captions = {plan.name: plan.caption for plan in plans_of_diagnostics(results)}
        assert ["log10" in captions[f"diagnostics-{run}"] for run in runs] == [True, False]

    def test_a_name_is_no_markup_in_markdown(self, run, tmp_path):
        name = "<b>*mine*</b> [x](y) `_|_` &lt;"
        labels = dict.fromkeys((f"clip{row}" for row in range(CLIPS)), 0)
        lines = ["key,run,prediction", *(f'{key},"{name}",{label}' for key, label in labels.items())]
        (tmp_path / "mine.csv").write_text("\n".join(lines))
        text = table_files_of(assess([run], predictions=[tmp_path / "mine.csv"], resamples=20))["tables.md"].decode()
        escaped = r"\<b\>\*mine\*\</b\> \[x\](y) \`\_\|\_\` \&lt;"
        assert text.count("mine") == text.count(escaped) > 3

    def test_latex_is_balanced_escaped_and_has_booktabs(self, files):
        text = files["tables.tex"]
        assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\toprule") == 18
        assert r"two ResNet-18s \& one 100 \% linear\_layer" in text
        assert r"VGG\_Sound" in text
        plain = re.sub(r"\\[\\{}&%$#_]", "", re.sub(r"(?m)^%.*$", "", text))
        assert plain.count("{") == plain.count("}")
        assert not set(plain) & set("%#_–±−≤"), "what LaTeX would take for a comment, a command, or has no letter for"
        assert plain.count("$") % 2 == 0
        text = re.sub(r"\\begin\{tabular\}\[[bt]\](.*?)\\end\{tabular\}", "stacked", text)
        for columns, body in re.findall(r"\\begin\{tabular\}\{(.*?)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
            wanted = len(re.sub(r"p\{[^}]*\}", "p", columns))
            rows = [line for line in body.splitlines() if line.endswith(r"\\")]
            assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {wanted}

    def test_the_same_results_give_the_same_bytes(self, run, files):
        again = table_files_of(assess([run], resamples=50))
        assert {name: content.decode() for name, content in again.items()} == files

    def test_the_terminal_shows_one_row_a_run(self, evaluation):
        table = terminal_table(evaluation)
        assert "± deviation, 2 seeds" in table.title
        assert table.row_count == 3 * (1 + 4) + 2


def test_branches_that_see_each_other_have_a_table_of_what_they_take_from_the_other(tmp_path):
    labels = [0, 1, 2, 0]
    run = make_run(
        tmp_path / "run", labels=labels, audio={0: [0.9, 0.8, 0.1, 0.2]}, visual={0: [0.1, 0.2, 0.9, 0.85]},
        correct={(name, name, 0): [True] * 4 for name in MODALITIES},
    )  # fmt: skip
    written = {
        "seed": 0, "split": "test", "clip_ids": np.arange(100, 104), "labels": labels, "correct": [True] * 4,
        "replaced_correct": {name: [True, False, True, False] for name in MODALITIES},
        "parts": {"audio": labels, "visual": [0, 1, 0, 1]},
    }  # fmt: skip
    # Right on all clips, and on one without vision; the visual one on two, and on as many without sound.
    alone = {"audio": [0, 2, 1, 1], "visual": [0, 1, 1, 1]}
    write_predictions(run, run="mine", method="greedy", parts_alone=alone, **written)
    write_predictions(run, run="baseline", method="baseline", **written)
    assessed = assess([run], thresholds=[0.2], resamples=20)
    (sheet,) = (sheet for sheet in sheets_of(assessed) if sheet.kind == "branches")
    shown = " ".join(cell.text for cell in sheet.rows[0])
    assert shown == "mine overall † 100.0 25.0 +0.750 50.0 50.0 0.000"
    assert sheet.headings[4] == "branch's u(visual | audio)"
    assert {row[0].text for row in sheet.rows} == {"mine"}
    rows = {
        (row["method"], row["subset"]): row for row in rows_of(table_files_of(assessed)["utilization.csv"].decode())
    }
    assert rows["mine", "overall"]["audio_branch_without_visual"] == "0.25"
    assert rows["mine", "overall"]["audio_branch_visual_utilization"] == "0.75"
    assert rows["mine", "overall"]["visual_utilization"] == "0.5"  # of the network's own prediction
    assert rows["baseline", "overall"]["audio_branch"] == ""


def test_an_interval_and_an_empty_subset_in_markdown_by_hand(tmp_path):
    right = {(name, name, 0): [True, True, False, True] for name in MODALITIES}
    confidence = {"audio": {0: [0.9, 0.8, 0.9, 0.9]}, "visual": {0: [0.1, 0.2, 0.3, 0.85]}}
    run = make_run(tmp_path / "run", labels=[0, 1, 2, 0], correct=right, **confidence)
    text = markdown_of(assess([run], thresholds=[0.2], resamples=20))
    # Wilson's intervals of 3 of 4, 2 of 3 and 1 of 1.
    assert "| audio | **75.0** [30.1, 95.4] | **66.7** [20.8, 93.9] | – | **100.0** [20.7, 100.0] |" in text
    assert "| method | overall (4) † | audio-dominated (3) † | visual-dominated (0) † | tied (1) † |" in text


class TestFewClips:
    """Subsets of fewer than 30 clips are marked, and only they, wherever a number about them stands."""

    @pytest.fixture(scope="class")
    def marked(self, tmp_path_factory):
        """65 clips: 34 prefer audio, 30 vision, 1 neither; at T = 0.2 there are 29 of audio and 30 of vision."""
        sides = [0.9] * 29 + [0.55] * 5 + [0.1] * 30 + [0.5]
        labels = [place % 3 for place in range(65)]
        random = np.random.default_rng(2)
        correct = {(name, name, seed): random.random(65) < 0.5 for name in MODALITIES for seed in (0, 1)}
        folder = make_run(
            tmp_path_factory.mktemp("few") / "run", labels=labels, audio={0: sides, 1: sides},
            visual={seed: [0.5] * 65 for seed in (0, 1)}, correct=correct,
            planted={"audio": sides, "visual": [0.5] * 65},
        )  # fmt: skip
        for seed in (0, 1):
            write_predictions(
                folder, run="ogm", method="ogm-ge", seed=seed, split="test", clip_ids=np.arange(100, 165),
                labels=labels, correct=random.random(65) < 0.7, parts={"audio": labels, "visual": [0] * 65},
                replaced_correct={name: random.random(65) < 0.4 for name in MODALITIES},
            )  # fmt: skip
        dataset = json.loads((folder / "dataset.json").read_text())
        write_json(folder / "dataset.json", {**dataset, "name": "VGG-Sound"})
        return assess([folder], thresholds=[0.0, 0.2], resamples=20)

    def test_headings_and_rows_of_small_subsets_have_the_mark_and_captions_explain_it(self, marked):
        named = {}
        for sheet in sheets_of(marked):
            texts = [*sheet.headings, *(cell.text for row in sheet.rows for cell in row)]
            named[sheet.name] = {text for text in texts if text.endswith(" †")}
            assert ("†: fewer than 30 clips" in sheet.caption) == bool(named[sheet.name]), sheet.name
        for kind in ("accuracy", "planted", "cross-seed", "parts"):
            assert named[f"{kind}-0"] == {"tied (1) †"}, kind
            assert named[f"{kind}-0.2"] == {"audio-dominated (29) †", "tied (6) †"}, kind
        assert (named["significance-0"], named["metrics-0"]) == (set(), {"tied †"})
        assert named["significance-0.2"] == {"audio-dominated: difference †", "p †"}
        assert named["metrics-0.2"] == {"audio-dominated †", "tied †"}
        assert named["utilization"] == {"audio-dominated, T = 0.2 †"}
        assert named["published"] == set()

    def test_published_numbers_stand_beside_marked_ones(self, tmp_path):
        right = {(name, name, 0): [True, False, True] for name in MODALITIES}
        run = make_run(
            tmp_path / "run", labels=[0, 1, 2], audio={0: [0.9, 0.8, 0.1]}, visual={0: [0.5] * 3}, correct=right
        )
        dataset = json.loads((run / "dataset.json").read_text())
        write_json(run / "dataset.json", {**dataset, "name": "VGG-Sound"})
        (sheet,) = (sheet for sheet in sheets_of(assess([run], resamples=20)) if sheet.kind == "published")
        here = {cell.text for row in sheet.rows if row[1].text == "here" for cell in row[2:]}
        assert here == {"66.7 †", "50.0 †", "100.0 †"}
        assert not any(cell.text.endswith("†") for row in sheet.rows if row[1].text == "published" for cell in row)

    def test_files_of_numbers_have_a_column_of_it(self, marked):
        files = {name: content.decode() for name, content in table_files_of(marked).items()}
        for name in ("accuracy", "accuracy_planted", "seeds", "cross_seed", "parts", "metrics", "significance",
                     "utilization"):  # fmt: skip
            rows = rows_of(files[f"{name}.csv"])
            assert {row["few_clips"] for row in rows} == ({"0", "1"}), name
            assert all(int(row["few_clips"]) == (float(row["clips"]) < 30) for row in rows), name

    def test_markdown_latex_and_the_terminal_have_it(self, marked):
        files = table_files_of(marked)
        assert "| audio-dominated (29) † | visual-dominated (30) | tied (6) † |" in files["tables.md"].decode()
        assert "(29) $\\dagger$" in " ".join(files["tables.tex"].decode().split())
        shown = terminal_table(marked[0])
        cells = [str(cell) for column in shown.columns for cell in column._cells]
        assert [cell for cell in cells if "†" in cell] == ["29 †", "1 †", "6 †"]
        assert "†: fewer than 30 clips" in shown.caption


class TestRead:
    """What else the run folder tells."""

    def test_parts_replaced_modalities_and_networks(self, run):
        results = read_runs([run], split="test", epochs="all")
        (score,) = (score for score in results.scores if (score.run, score.seed) == ("baseline", 1))
        np.testing.assert_array_equal(score.parts["audio"], results.labels)
        assert set(score.replaced) == {"audio", "visual"}
        assert results.networks == NETWORKS
        assert results.keys[:2].tolist() == ["clip0", "clip1"]
        assert results.rejects == {"no audio stream": 2}
        audio = results.confidence_by_seed["audio"]
        np.testing.assert_allclose(results.confidence["audio"], (audio[0] + audio[1]) / 2)

    def test_curves_of_what_methods_logged(self, tmp_path):
        right = {(name, name, 0): [True, False] for name in MODALITIES}
        run = make_run(tmp_path / "run", labels=[0, 1], audio={0: [0.5, 0.1]}, visual={0: [0.2, 0.3]}, correct=right)
        step = {"kind": "step", "run": "ogm", "method": "ogm-ge", "seed": 2, "loss": 1.0}
        records = [
            {**step, "epoch": 0, "batch": 5, "ratio/audio": 1.5, "ratio/visual": 0.5},
            {**step, "epoch": 0, "batch": 10, "ratio/audio": "nan", "ratio/visual": 0.25},
            {**step, "epoch": 1, "batch": 5, "ratio/audio": 2, "coefficient/audio": 0.9},
            {"kind": "event", "text": "ogm stopped"},
        ]
        write_text(run / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
        results = read_runs([run], split="test", epochs="all")
        assert list(results.diagnostics) == [("ogm", 2)]
        groups = results.diagnostics["ogm", 2]
        assert {group: list(names) for group, names in groups.items()} == {
            "ratio": ["audio", "visual"],
            "coefficient": ["audio"],
        }
        np.testing.assert_array_equal(groups["ratio"]["audio"], [[0.5, 1.5], [1.5, 2.0]])
        np.testing.assert_array_equal(groups["ratio"]["visual"], [[0.5, 1.0], [0.5, 0.25]])
        assert results.events == {str(run): ("ogm stopped",)}

    @pytest.mark.parametrize("changes", [{"label": 3}, {"prediction": -1}])
    def test_a_class_of_another_dataset_is_an_error(self, run, tmp_path, changes):
        import pyarrow as pa
        import pyarrow.parquet as pq

        right = {(name, name, 0): [True, False] for name in MODALITIES}
        run = make_run(tmp_path / "run", labels=[0, 1], audio={0: [0.5, 0.1]}, visual={0: [0.2, 0.3]}, correct=right)
        path = run / "predictions" / "audio-seed0-test.parquet"
        table = pq.read_table(path)
        for name, value in changes.items():
            column = pa.array([value] * table.num_rows, pa.int32())
            table = table.set_column(table.schema.get_field_index(name), name, column)
        pq.write_table(table, path)
        with pytest.raises(RunError, match=r"but the dataset's classes are 0 to 2 \(2 such values\)"):
            assess([run])


class TestCommands:
    """As users type them; a mistake is one line and exit status 2."""

    def stopped(self, capsys, *words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1 and error.startswith("avbench: ")
        return error

    def test_subsets_prints_the_counts_and_writes_the_keys(self, run, tmp_path, capsys):
        main(["subsets", str(run), "--export", str(tmp_path / "keys.csv"), "--thresholds", "0,0.3"])
        lines = capsys.readouterr().out.splitlines()
        keys = rows_of((tmp_path / "keys.csv").read_text())
        sides = [sum(row["subset_0.3"] == side for row in keys) for side in (*MODALITIES, "tie")]
        assert lines[1] == "T = 0.3: {} audio-dominated, {} visual-dominated, {} tied".format(*sides)
        assert "is there already" in self.stopped(capsys, "subsets", run, "--export", tmp_path / "keys.csv")

    def test_the_readmes_commands_score_predictions_of_ones_own(self, run, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        shutil.copytree(run, "RUN")
        said = "\n".join(["key,prediction", *(f"clip{row},0" for row in range(CLIPS))])
        for name in ("mine.csv", "audio.csv"):
            write_text(tmp_path / name, said + "\n")
        confidence = ["key,label,audio,visual", *(f"clip{row},{row % 3},0.{row % 7},0.4" for row in range(CLIPS))]
        write_text(tmp_path / "clips.csv", "\n".join(confidence) + "\n")
        shown = commands("avbench/analysis/README.md", "Your own predictions")
        assert [words[0] for words in shown] == ["evaluate", "evaluate", "subsets"]
        for words in shown:
            main([*words, *(["--resamples", "20"] if words[0] == "evaluate" else [])])
            assert "mine" in capsys.readouterr().out or words[0] == "subsets"
        for report, rows in (("RUN/report", 9 * 3 * 4), ("mine.csv-report", 2 * 3 * 4)):
            assert (tmp_path / report / "index.html").exists()
            assert len(rows_of((tmp_path / report / "accuracy.csv").read_text())) == rows
        assert len(rows_of((tmp_path / "subsets.csv").read_text())) == CLIPS

    def test_mistakes_are_one_line(self, run, tmp_path, capsys):
        (tmp_path / "mine.csv").write_text("key,prediction\nclip0,0\n")
        assert "lacks 39 of the 40" in self.stopped(capsys, "evaluate", run, "--predictions", tmp_path / "mine.csv")
        assert "give a run folder" in self.stopped(capsys, "evaluate")
        assert "--resamples 3: expected 20 to 100000" in self.stopped(capsys, "evaluate", run, "--resamples", "3")
        assert "--thresholds 2.0" in self.stopped(capsys, "evaluate", run, "--thresholds", "2")

    def test_an_empty_word_is_no_path(self, run, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert "--export is empty" in self.stopped(capsys, "subsets", run, "--export", "")
        assert "--out is empty" in self.stopped(capsys, "evaluate", run, "--out=")
        assert list(tmp_path.iterdir()) == []


def test_curves_of_earlier_folders_are_drawn_under_the_names_of_today(tmp_path):
    log = {"speed/audio": 1.0, "speed/visual": 2.0, "difference/speed": -1.0, "rebalancing/visual": 1.0}
    place = {"kind": "step", "seed": 0, "epoch": 0, "loss": 0.5}
    old = [{**place, "run": name, "method": name, "batch": 1, **log} for name in ("greedy", "mine")]
    new = {**place, "run": "greedy", "method": "greedy", "batch": 2, "speed/audio_branch": 3.0}
    write_text(tmp_path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in [*old, new]))
    curves = read_diagnostics(tmp_path)
    names = {group: sorted(by_name) for group, by_name in curves["greedy", 0].items()}
    assert names == {
        "speed": ["audio_branch", "visual_branch"],
        "difference": ["audio_minus_visual_branch"],
        "rebalancing": ["visual_branch"],
    }
    assert curves["greedy", 0]["speed"]["audio_branch"][1].tolist() == [1.0, 3.0]  # a run that was gone on with
    assert sorted(curves["mine", 0]["speed"]) == ["audio", "visual"]  # another method's are its own
