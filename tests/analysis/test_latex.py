"""Tables for papers: none wider than 17 cm, whatever is in it, by an estimate and, where there is LaTeX, by LaTeX."""

import re
import shutil
import subprocess

import pytest

from avbench.analysis.presenting import latex as made
from avbench.analysis.presenting.latex import WIDEST_POINTS, latex, table_points
from avbench.analysis.presenting.sheet import Cell, Sheet
from avbench.analysis.report import assess
from tests.analysis.presented import sheets_of
from tests.analysis.rich_run import CLASSES, HOSTILE, rich_run


def sheet(columns, rows, *, words=2, name="wide-0.2", cell=None):
    """A table of this many columns of numbers."""
    number = cell or Cell("100.0", "[79.6, 100.0]", 1.0, best=True)
    headings = (*(f"word {place}" for place in range(words)), *(f"visual-dominated ({n})" for n in range(columns)))
    row = (*(Cell(f"gradient-blending {place}") for place in range(words)), *[number] * columns)
    return Sheet(name, "wide", "A table", "In 100 %.", words, headings, tuple([row] * rows))


def long_words(rows=3):
    names = (HOSTILE, CLASSES[2], "two ResNet-18s, concatenated, one linear layer")
    cells = tuple((Cell(name), Cell(name), Cell("50.0", "± 0.4", 0.5), Cell("–")) for name in names[:rows])
    return Sheet(
        "long", "long", "Long", "Names that nobody should give.", 2, ("a", "b", "overall (60) †", "p †"), cells
    )


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    return [
        *sheets_of(assess([rich_run(tmp_path_factory.mktemp("latex") / "run")], resamples=20)),
        *(sheet(columns, 3, name=f"wide-{columns}") for columns in (1, 4, 7, 12, 30)),
        sheet(4, 309, name="tall"),
        long_words(),
    ]


def tabulars(text):
    return re.findall(r"\\fontsize.*?\\end\{tabular\}(?=\n\\end\{table\})", text, flags=re.DOTALL)


def test_no_part_of_a_table_is_wider_than_the_page_by_the_estimate(sheets):
    for one in sheets:
        for part, form in made._parts(one):
            assert table_points(part, form) <= WIDEST_POINTS, part.name


def test_a_table_that_fits_is_left_as_it_is():
    text = latex([sheet(2, 2)], about="pets, test split")
    assert "\\begin{tabular}{llrr}" in text
    assert text.count("\\begin{tabular}") == 1
    assert "word 0 & word 1 & visual-dominated (0) & visual-dominated (1) \\\\" in text


def test_a_wide_table_keeps_every_cell_in_a_smaller_form():
    text = latex([sheet(6, 2)], about="pets, test split")
    assert text.count("100.0]") == 12
    assert text.count("\\begin{table}") == 1


def test_a_table_of_more_columns_than_fit_goes_on_in_another_with_its_words():
    text = latex([sheet(30, 2)], about="pets, test split")
    parts = text.count("\\begin{table}")
    assert parts > 1
    assert text.count("100.0]") == 60
    assert text.count("gradient-blending 0") == 2 * parts
    assert f"A table (1 of {parts}). In 100 \\%." in text
    assert "\\label{tab:wide-0.2-2}" in text


def test_a_table_of_more_rows_than_a_page_holds_goes_on_in_another():
    text = latex([sheet(2, 309)], about="pets, test split")
    assert text.count("\\begin{table}") == -(-309 // 46)
    assert text.count("gradient-blending 0") == 309


def test_words_that_fill_a_column_break_and_lose_no_letter():
    text = latex([long_words()], about="pets, test split")
    assert text.replace("\\allowbreak{}", "").count("c" * 200) == 2
    assert "p{" in text


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs pdflatex (apt-get install texlive-latex-recommended)"
)
def test_latex_itself_finds_every_table_narrow_enough(sheets, tmp_path):
    text = latex(sheets, about="pets, test split")
    boxes = tabulars(text)
    assert len(boxes) == text.count("\\begin{table}")
    lines = ["\\documentclass[12pt]{article}", "\\usepackage[T1]{fontenc}", "\\usepackage{booktabs}",
             "\\newsavebox{\\measured}", "\\begin{document}"]  # fmt: skip
    for box in boxes:
        lines.append(f"\\begin{{lrbox}}{{\\measured}}{box}\\end{{lrbox}}\\typeout{{WIDE \\the\\wd\\measured}}")
    (tmp_path / "measure.tex").write_text("\n".join([*lines, "\\end{document}"]))
    (tmp_path / "tables.tex").write_text(text)
    whole = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage[margin=2cm,a4paper]{geometry}" \
        "\\usepackage{booktabs}\\extrafloats{200}\\begin{document}\\input{tables}\\end{document}"  # fmt: skip
    (tmp_path / "whole.tex").write_text(whole)
    for name in ("measure", "whole"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
        assert run.returncode == 0, run.stdout[-2000:]
        if name == "measure":
            widths = [float(width) for width in re.findall(r"WIDE ([\d.]+)pt", run.stdout)]
            assert len(widths) == len(boxes)
            assert max(widths) <= WIDEST_POINTS
        else:
            assert "Overfull \\hbox" not in run.stdout
            assert "Float too large" not in run.stdout
