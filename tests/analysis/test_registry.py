"""A table or a figure is registered once, and everything that shows, writes or lists tables takes it from there."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from avbench.analysis.presenting import registry
from avbench.analysis.presenting.figures.bars import Bar, BarPanel, draw_bars
from avbench.analysis.presenting.figures.plan import PLACES, Drawing, Plan
from avbench.analysis.presenting.registry import FIGURES, TABLES, files_text
from avbench.analysis.presenting.sheet import Cell, Sheet
from avbench.analysis.presenting.table import File, Table
from avbench.analysis.report import assess, evaluate
from avbench.vocabulary import MODALITIES
from tests.analysis.presented import markdown_of, page_files_of, sheets_of, table_files_of
from tests.analysis.rich_run import rich_run

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def assessed(tmp_path_factory):
    return assess([rich_run(tmp_path_factory.mktemp("rich") / "run")], thresholds=[0.0, 0.2], resamples=20)


def test_kinds_and_files_have_names_of_their_own():
    kinds = [table.kind for table in TABLES]
    files = [file.name for table in TABLES for file in table.files]
    assert len(set(kinds)) == len(kinds)
    assert len({*files, "index.html", "tables.md", "tables.tex", "report.json"}) == len(files) + 4
    assert {figure.place for figure in FIGURES} <= {*PLACES, *kinds}


def test_every_sheet_is_of_the_kind_that_is_registered(assessed):
    for table in TABLES:
        assert {sheet.kind for sheet in table.sheets(*assessed)} <= {table.kind}
    shown = {sheet.kind for sheet in sheets_of(assessed)}
    assert {"accuracy", "planted", "classes", "learning"} <= shown <= {table.kind for table in TABLES}


def test_the_documentations_table_of_files_is_what_is_registered():
    places = [REPOSITORY / "avbench/analysis/README.md", REPOSITORY / "README.md"]
    texts = [text for path in places if path.exists() and "| `index.html` |" in (text := path.read_text("utf-8"))]
    assert len(texts) == 1, "one of the two READMEs has the table of files"
    (table,) = re.findall(r"^\| file \| what \|\n(?:\|.*\n)+", texts[0], flags=re.M)
    assert table == files_text(), f"the table should be:\n{files_text()}"


def test_a_report_has_no_file_of_numbers_that_the_documentation_does_not_name(tmp_path):
    folder = evaluate([rich_run(tmp_path / "run")], resamples=20).folder
    there = {path.name for path in folder.iterdir()}
    assert set(json.loads((folder / "report.json").read_text())["files"]) == there
    named = set(re.findall(r"`([\w.]+\.\w+)`", files_text()))
    figures = {name for name in there if name.endswith((".png", ".svg"))}
    assert there - figures - {"report.json"} <= named
    assert {"accuracy_planted.csv", "per_class.csv", "origin.csv"} <= there


def how_sure(results):
    """Mean confidence of each modality: a measure that the house does not have."""
    return {modality: float(np.mean(results.confidence[modality])) for modality in MODALITIES}


SURE = Table(
    "sure",
    sheets=lambda evaluation, results: [
        Sheet("sure", "sure", "How sure", "Mean confidence.", 1, ("modality", "mean"), tuple(
            (Cell(name), Cell(f"{value:.3f}", value=value)) for name, value in how_sure(results).items()
        ))
    ],
    files=(
        File("sure.csv", "how sure each modality is", lambda evaluation, results: [
            {"modality": name, "mean": value} for name, value in how_sure(results).items()
        ]),
    ),
    heading="How sure the networks are",
)  # fmt: skip


def plans_of_sure(evaluation, results):
    bars = tuple(Bar(name, name, value, value, value) for name, value in how_sure(results).items())
    panels = [BarPanel("overall", "overall", 60, bars)]
    yield Plan("sure", partial(draw_bars, panels, title="sure"), alt="Bars of sureness", caption="How sure.")


def test_a_new_table_and_its_figure_are_one_registration_each(assessed, monkeypatch):
    monkeypatch.setattr(registry, "TABLES", (*TABLES, SURE))
    monkeypatch.setattr(registry, "FIGURES", (*FIGURES, Drawing("sure", plans_of_sure)))
    mean = float(np.mean(assessed[1].confidence["audio"]))
    tables, page = table_files_of(assessed), page_files_of(assessed)
    assert tables["sure.csv"].decode().splitlines()[:2] == ["modality,mean", f"audio,{mean!r}"]
    assert "## How sure" in markdown_of(assessed) and "How sure. Mean confidence." in tables["tables.tex"].decode()
    html = page["index.html"].decode()
    assert html.count("How sure the networks are") == 2  # in the contents and over the section
    assert 'id="tables-sure"' in html and 'href="#tables-sure"' in html and "Bars of sureness" in html
    assert {"sure.png", "sure.svg"} <= page.keys()
    assert "| `sure.csv` | how sure each modality is |" in files_text()
