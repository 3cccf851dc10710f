"""The page: whole, self-contained, every number of the records on it, whatever things are called."""

import base64
import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from avbench.analysis.report import assess
from avbench.records import write_json
from tests.analysis.make_run import make_run
from tests.analysis.presented import page_files_of, sheets_of, table_files_of
from tests.analysis.rich_run import CLASSES, HOSTILE, RUNS, SEEDS, rich_run

SPACE = "\N{NO-BREAK SPACE}"


class Page(HTMLParser):
    """What a page holds: addresses, tables by id (rows of cells' texts), captions, headings, text, tags left open."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.text, self.images, self.anchors, self.others, self.ids = [], [], [], [], [], []
        self.tables, self.headings, self.buttons = {}, [], 0
        self._rows = self._cell = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        for name in set(values) & {"src", "href", "srcset", "data", "action", "poster"}:
            kept = self.images if tag == "img" else self.anchors if tag == "a" else self.others
            kept.append(values[name])
        if tag == "table":
            self._rows = self.tables.setdefault(values.get("id", f"table{len(self.tables)}"), [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._cell = [[], None if values.get("data-value") is None else float(values["data-value"])]
            self._rows[-1].append(self._cell)
        if tag == "h2":
            self.headings.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            return
        self.text.append(data)
        if self._cell is not None and data.strip():
            self._cell[0].append(data.replace(SPACE, " "))
        if "h2" in self.open:
            self.headings[-1] += data

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).replace(SPACE, " ").split())


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    evaluation, results = assess([rich_run(tmp_path_factory.mktemp("rich") / "run")], resamples=20)
    return evaluation, results, page_files_of((evaluation, results))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = make_run(
        tmp_path_factory.mktemp("plain") / "run",
        labels=[0, 1, 2, 0],
        audio={0: [0.9, 0.8, 0.5, 0.1]},
        visual={0: [0.1, 0.5, 0.5, 0.5]},
        correct={("audio", "audio", 0): [True] * 4, ("visual", "visual", 0): [False] * 4},
    )
    write_json(folder / "dataset.json", {"name": "pets", "classes": ["cat", "dog", "rain"], "index_sha256": "5e" * 32})
    evaluation, results = assess([folder], thresholds=[0.3, 0.9], resamples=20)
    return evaluation, results, page_files_of((evaluation, results))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Files of somebody's own, no run folder, no unimodal network."""
    folder, random = tmp_path_factory.mktemp("own"), np.random.default_rng(1)
    labels = random.choice(["cat", "dog"], 40)
    rows = [
        f"k{n},{label},{a:.3f},{v:.3f}"
        for n, (label, (a, v)) in enumerate(zip(labels, random.random((40, 2)), strict=True))
    ]
    (folder / "confidence.csv").write_text("\n".join(["key,label,audio,visual", *rows]))
    (folder / "mine.csv").write_text(
        "\n".join(["key,prediction", *(f"k{n},{random.choice(labels)}" for n in range(40))])
    )
    evaluation, results = assess(
        [], predictions=[folder / "mine.csv"], confidence=folder / "confidence.csv", thresholds=[0.2], resamples=20
    )
    return evaluation, results, page_files_of((evaluation, results))


@pytest.fixture(params=["rich", "plain", "own"])
def each(request):
    return request.getfixturevalue(request.param)


def page_of(files) -> Page:
    return Page(files["index.html"].decode())


def test_the_page_is_well_formed_and_loads_nothing(each):
    *_, files = each
    page = page_of(files)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert page.others == []
    assert page.images and all(re.match("data:image/(png|svg.xml);base64,", address) for address in page.images)
    assert page.anchors and all(address.startswith("#") and address[1:] in page.ids for address in page.anchors)
    html = files["index.html"].decode()
    outside = re.sub(r"data:image/[^\"]*", "", html)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r"(?m)^// .*$", "", outside))


def test_every_table_is_on_the_page_cell_by_cell(each):
    evaluation, results, files = each
    tables = page_of(files).tables
    sheets = sheets_of((evaluation, results))
    assert sheets
    for sheet in sheets:
        head, *rows = tables[sheet.name]
        assert len(rows) == len(sheet.rows)
        network = sheet.headings.index("network") if "network" in sheet.headings else None
        kept = [heading for place, heading in enumerate(sheet.headings) if place != network]
        assert [" ".join(texts) for texts, _ in head] == kept
        for row, cells in zip(rows, sheet.rows, strict=True):
            wanted = [[text for text in (cell.text, cell.detail) if text] for cell in cells]
            if network is not None:  # it stands in small letters under its method
                wanted[0] += wanted.pop(network)
            assert [texts for texts, _ in row] == wanted
            numbers = [cell.value for place, cell in enumerate(cells) if place != network]
            assert [value for _, value in row] == numbers


def test_means_over_seeds_come_first_and_every_seed_is_there_to_be_opened(rich):
    *_, files = rich
    page = page_of(files)
    means = page.tables["accuracy-0-means"][1:]
    assert [row[0][0][0] for row in means] == ["audio", "visual", HOSTILE, "baseline"]
    assert all("±" in row[1][0][1] for row in means)
    assert len(page.tables["accuracy-0"][1:]) == len(RUNS) * (len(SEEDS) + 1)
    assert page.ids.index("accuracy-0-means") < page.ids.index("accuracy-0")


def test_the_answer_comes_before_everything_else(each):
    evaluation, _, files = each
    words = page_of(files).words
    places = [words.index(evaluation.answer), *(words.index(verdict.sentence) for verdict in evaluation.verdicts)]
    assert places == sorted(places)
    assert places[-1] < words.index("Confidence in the true label")
    assert all(note.replace(SPACE, " ") in words for note in evaluation.notes)


def test_names_are_words_never_code(rich):
    *_, files = rich
    html = files["index.html"].decode()
    assert html.count("<script") == 1
    page = page_of(files)
    for text in (HOSTILE, *CLASSES, "<b>stopped</b> early after epoch 3", "two & a head"):
        assert text in page.words
    for name, content in files.items():
        if name.endswith(".svg"):
            assert b"<script" not in content


def test_a_rich_report_shows_all_of_it(rich):
    evaluation, _, files = rich
    page = page_of(files)
    kinds = ("accuracy", "published", "significance", "planted", "cross-seed", "metrics", "utilization", "parts")
    for kind in kinds:
        assert f"tables-{kind}" in page.ids and f"#tables-{kind}" in page.anchors
    for heading in ("Classes", "What the methods logged", "How to read this", "Data", "Events"):
        assert heading in page.headings
    assert page.headings[1] == "How each run learnt"  # first thing after the answer
    for text in ("no audio stream", "in quarantine", "torch", 'methods = ["audio"', "5e5e5e"):
        assert text in page.words
    assert f"{evaluation.spearman:.3f}" in page.words
    for text in ("launches 1: versions: numpy 2.0 & more", "launches 1: command avbench, train", "world_size 2"):
        assert text in page.words
    methods = {row[0][0][0]: [" ".join(texts) for texts, _ in row[1:]] for row in page.tables["methods"][1:]}
    assert methods["baseline"] == ["baseline", "two & a head", "alpha = 0.1, mode = <i>"]
    assert methods[HOSTILE][0] == "tmc"
    assert {name for name in files if name.endswith(".png")} == {
        "heatmap.png", "discrepancy.png", "methods-0.png", "methods-0.2.png", "methods-0.4.png", "thresholds.png",
        "classes.png", "class-confidences.png", "diagnostics-script-alert-x-script-100-of-x_1-2-it.png",
        "uncertainty.png", "learning.png",
    }  # fmt: skip
    assert {name for name in files if name.endswith(".svg")} == {
        name.replace(".png", ".svg") for name in files if name.endswith(".png")
    }


def test_a_plain_report_leaves_out_what_is_not_there(plain):
    *_, files = plain
    page = page_of(files)
    assert not {"training", "events", "tables-planted", "tables-cross-seed", "tables-published"} & set(page.ids)
    assert "nan" not in page.words.lower().split()
    assert "None" not in page.words
    assert not [name for name in files if name.startswith(("diagnostics", "uncertainty"))]


def test_a_report_of_somebodys_own_files_has_no_configuration(own):
    *_, files = own
    page = page_of(files)
    assert not {"configuration", "events", "training"} & set(page.ids)
    assert "rejected while packing" not in page.words
    assert "mine" in page.words


def test_each_figure_on_the_page_is_one_of_the_files(each):
    *_, files = each
    shown = {base64.b64decode(address.split(",", 1)[1]) for address in page_of(files).images}
    pictures = {name.rsplit(".", 1)[0]: name for name in files if name.endswith((".svg", ".png"))}
    assert shown <= set(files.values())
    assert len(shown) == len(pictures)


def test_every_class_is_in_the_csv(rich):
    evaluation, results, _ = rich
    lines = list(csv.DictReader(io.StringIO(table_files_of((evaluation, results))["per_class.csv"].decode())))
    assert [line["class"] for line in lines] == list(CLASSES)
    assert [int(line["clips"]) for line in lines] == np.bincount(results.labels, minlength=3).tolist()
    discrepancies = results.discrepancies
    for label, line in enumerate(lines):
        mine = discrepancies[results.labels == label]
        assert (int(line["audio_preferred"]), int(line["visual_preferred"])) == ((mine > 0).sum(), (mine < 0).sum())
        assert float(line["discrepancy"]) == pytest.approx(mine.mean())


def test_the_same_results_give_the_same_bytes(plain):
    evaluation, results, files = plain
    assert page_files_of((evaluation, results)) == files
