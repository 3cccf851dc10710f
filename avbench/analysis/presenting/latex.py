"""Tables as LaTeX floats that fit a page 17 cm wide, of no package but booktabs.

A table takes the plainest form that fits: as it is; then with headings on several lines, with the interval below its
number, in smaller print; and where even that is too wide, in parts of fewer columns. How wide letters are is taken from
Computer Modern, the widest of the usual fonts, and sizes are given in points, so that no document class changes them.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from avbench.analysis.presenting.sheet import Cell, Sheet, one_line

WIDEST_POINTS = 17 / 2.54 * 72.27  # TeX's points

# Lines of a table's body in one float: with a caption of ten lines they fill a page of 23 cm.
_MOST_LINES = 46


@dataclass(frozen=True, slots=True)
class _Form:
    """How much room a table is given.

    points: size of letters; gap: between two columns. widest_word: beyond which a column of words has lines broken.
    stacked_headings: on several lines; stacked_details: below their numbers.
    """

    points: float
    gap: float
    widest_word: float
    stacked_headings: bool
    stacked_details: bool

    @property
    def small(self) -> float:
        """Size of what stands beside a number."""
        return self.points - 2


_FORMS = (
    _Form(9, 12, 140, stacked_headings=False, stacked_details=False),
    _Form(9, 12, 110, stacked_headings=True, stacked_details=False),
    _Form(9, 9, 90, stacked_headings=True, stacked_details=False),
    _Form(9, 9, 90, stacked_headings=True, stacked_details=True),
    _Form(8, 6, 70, stacked_headings=True, stacked_details=True),
)


def latex(sheets: Sequence[Sheet], *, about: str) -> str:
    """All tables as floats, to be taken one by one or with \\input as they are.

    about: what every caption begins with.
    """
    lines = [
        f"% {one_line(about)}; written by avbench evaluate.",
        "% \\usepackage{booktabs} in the preamble. No table is wider than 17 cm.",
    ]
    for sheet in sheets:
        parts = list(_parts(sheet))
        for number, (part, form) in enumerate(parts, start=1):
            of_how_many = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
            label = sheet.name if len(parts) == 1 else f"{sheet.name}-{number}"
            caption = f"{about}: {sheet.title}{of_how_many}. {sheet.caption}"
            lines += ["", *_float(part, form, caption=caption, label=label)]
    return "\n".join(lines) + "\n"


def _parts(sheet: Sheet) -> Iterator[tuple[Sheet, _Form]]:
    """The table in as many parts as it needs, each with the form it is set in."""
    for part in _narrow_enough(sheet):
        form = next((form for form in _FORMS if table_points(part, form) <= WIDEST_POINTS), _FORMS[-1])
        rows: list[tuple[Cell, ...]] = []
        lines = 0
        for row in part.rows:
            height = _row_lines(row, part.words, form)
            if rows and lines + height > _MOST_LINES:
                yield replace(part, rows=tuple(rows)), form
                rows, lines = [], 0
            rows.append(row)
            lines += height
        yield replace(part, rows=tuple(rows)), form


def _narrow_enough(sheet: Sheet) -> Iterator[Sheet]:
    """The table, or several with its columns of words and some of its numbers each, none wider than the page."""
    numbers = list(range(sheet.words, len(sheet.headings)))
    while numbers:
        count = len(numbers)
        while count > 1 and table_points(_with_columns(sheet, numbers[:count]), _FORMS[-1]) > WIDEST_POINTS:
            count -= 1
        yield _with_columns(sheet, numbers[:count])
        numbers = numbers[count:]


def _with_columns(sheet: Sheet, numbers: Sequence[int]) -> Sheet:
    places = [*range(sheet.words), *numbers]
    return replace(
        sheet,
        headings=tuple(sheet.headings[place] for place in places),
        rows=tuple(tuple(row[place] for place in places) for row in sheet.rows),
    )


def table_points(sheet: Sheet, form: _Form) -> float:
    """About how wide a table is in a form, in points; rather too wide than too narrow."""
    return sum(_column_points(sheet, form)) + form.gap * len(sheet.headings)


def _column_points(sheet: Sheet, form: _Form) -> list[float]:
    widths = []
    for place, heading in enumerate(sheet.headings):
        is_word = place < sheet.words
        cells = [_cell_points(row[place], form) for row in sheet.rows]
        if is_word:
            widest = max([*cells, text_points(heading, form.points)])
            widths.append(min(widest, form.widest_word))
        else:
            body = max(cells, default=0.0)
            lines = _heading_lines(heading, body, form)
            widths.append(max([body, *(text_points(line, form.points) for line in lines)]))
    return widths


def _cell_points(cell: Cell, form: _Form) -> float:
    value = text_points(cell.text, form.points) * (1.17 if cell.best else 1.0)  # bold letters are wider
    if not cell.detail:
        return value
    detail = text_points(cell.detail, form.small)
    return max(value, detail) if form.stacked_details else value + text_points(" ", form.points) + detail


def _heading_lines(heading: str, body_points: float, form: _Form) -> list[str]:
    """A heading over numbers, on as few lines as its column's width allows, and never within a word."""
    if not form.stacked_headings:
        return [heading]
    together = heading.replace(" †", "\N{NO-BREAK SPACE}†")
    words = together.replace("-", "-\0").replace(" ", " \0").split("\0")
    widest = max([body_points, *(text_points(word.strip(), form.points) for word in words)])
    lines = [""]
    for word in words:
        if lines[-1] and text_points((lines[-1] + word).strip(), form.points) > widest:
            lines.append("")
        lines[-1] += word
    return [line.strip(" ") for line in lines]


def _row_lines(row: Sequence[Cell], words: int, form: _Form) -> int:
    """How many lines a row takes."""
    of_words = (math.ceil(text_points(cell.text, form.points) / form.widest_word) for cell in row[:words])
    stacked = form.stacked_details and any(cell.detail for cell in row)
    return max([1, 2 if stacked else 1, *of_words])


# Widths of Computer Modern's letters in thousandths of the size; what is not here is as wide as the widest of its kind.
_NARROW = {
    **dict.fromkeys("ijl.,:;'!|", 280),
    **dict.fromkeys("fIt()[]/- \N{NO-BREAK SPACE}", 395),
    **dict.fromkeys("rszec?", 450),
}
_WIDE = {**dict.fromkeys("mwMW@%", 1030), **dict.fromkeys("+−±=<>≤≥~^#&", 780), "…": 1000}

# Small letters are drawn wider, to stay readable: by size in points, how much wider than at 10.
_WIDENED = {9: 1.03, 8: 1.06, 7: 1.14, 6: 1.22}


def text_points(text: str, size: float) -> float:
    """About how wide a text on one line is, set in letters of this size."""
    return size * _WIDENED.get(round(size), 1.0) * sum(_thousandths(letter) for letter in text) / 1000


def _thousandths(letter: str) -> int:
    if letter in _NARROW:
        return _NARROW[letter]
    if letter in _WIDE:
        return _WIDE[letter]
    if letter.isdigit():
        return 500
    if unicodedata.east_asian_width(letter) in "WF":
        return 1000
    return 780 if letter.isupper() else 560


def _float(sheet: Sheet, form: _Form, *, caption: str, label: str) -> list[str]:
    widths = _column_points(sheet, form)
    broken = [
        place < sheet.words and any(_cell_points(row[place], form) > widths[place] for row in sheet.rows)
        for place in range(len(sheet.headings))
    ]
    columns = [
        f"p{{{widths[place]:.0f}pt}}" if broken[place] else "l" if place < sheet.words else "r"
        for place in range(len(sheet.headings))
    ]
    headings = [
        _latex_text(heading)
        if place < sheet.words
        else _stack(_heading_lines(heading, _body(sheet, place, form), form))
        for place, heading in enumerate(sheet.headings)
    ]
    return [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_latex_text(caption)}}}",
        f"\\label{{tab:{label}}}",
        f"\\fontsize{{{form.points:g}}}{{{form.points + 2:g}}}\\selectfont",
        f"\\setlength{{\\tabcolsep}}{{{form.gap / 2:g}pt}}",
        f"\\begin{{tabular}}{{{''.join(columns)}}}",
        "\\toprule",
        _latex_row(headings),
        "\\midrule",
        *(
            _latex_row(
                [
                    _broken(cell.text, widths[place], form) if broken[place] else _latex_cell(cell, form)
                    for place, cell in enumerate(row)
                ]
            )
            for row in sheet.rows
        ),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]


def _body(sheet: Sheet, place: int, form: _Form) -> float:
    return max((_cell_points(row[place], form) for row in sheet.rows), default=0.0)


def _latex_row(cells: Sequence[str]) -> str:
    # After a row's end, LaTeX would read a bracket or a star as the space to leave.
    guard = "{}" if cells[0].startswith(("[", "*")) else ""
    return f"{guard}{' & '.join(cells)} \\\\"


def _latex_cell(cell: Cell, form: _Form) -> str:
    text = f"\\textbf{{{_latex_text(cell.text)}}}" if cell.best else _latex_text(cell.text)
    if not cell.detail:
        return text
    detail = f"{{\\fontsize{{{form.small:g}}}{{{form.small + 1:g}}}\\selectfont {_latex_text(cell.detail)}}}"
    if not form.stacked_details:
        return f"{text} {detail}"
    return f"\\begin{{tabular}}[t]{{@{{}}r@{{}}}}{text}\\\\{detail}\\end{{tabular}}"


def _stack(lines: Sequence[str]) -> str:
    """Lines of a heading above each other, aligned right as the numbers below them are."""
    if len(lines) == 1:
        return _latex_text(lines[0])
    # Braces after a row's end: a line may begin with a bracket.
    stacked = "\\\\{}".join(_latex_text(line) for line in lines)
    return f"\\begin{{tabular}}[b]{{@{{}}r@{{}}}}{stacked}\\end{{tabular}}"


def _broken(text: str, width: float, form: _Form) -> str:
    """Words for a column that breaks lines; a word that is wider than the column may break anywhere."""
    words = []
    for word in one_line(text).split(" "):
        if text_points(word, form.points) > width:
            words.append("\\allowbreak{}".join(_latex_text(letter) for letter in word))
        else:
            words.append(_latex_text(word))
    return f"\\raggedright {' '.join(words)}"


_LATEX = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
    "|": "\\textbar{}", '"': "\\textquotedbl{}", "–": "--", "±": "$\\pm$", "−": "$-$", "≤": "$\\le$", "\n": " ",
    "†": "$\\dagger$", "×": "$\\times$", "…": "\\ldots{}",
    "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip


def _latex_text(text: str) -> str:
    """Words for LaTeX: what it would take for commands is escaped, and so are our signs that its fonts lack."""
    return "".join(_LATEX.get(letter, letter) for letter in text)
