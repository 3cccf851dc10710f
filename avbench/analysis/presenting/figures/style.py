"""How every figure looks: print sizes, colours, dashes and hatches, and the same bytes for the same input.

Figures are drawn at the size they are printed at: COLUMN inches fill one column of a two-column page, PAGE both. No
letter is smaller than 7 points there.
"""

from __future__ import annotations

import io
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

COLUMN, PAGE = 3.4, 6.9

# Okabe and Ito's colours (Color Universal Design, 2008): told apart by colour-blind readers. Orange and blue, the two
# modalities everywhere, also differ in lightness, and blue areas are hatched, so that they survive a greyscale print.
SIDE_COLOURS = {"audio": "#E69F00", "visual": "#0072B2", "tie": "#BBBBBB", "overall": "#8C8C8C"}
SIDE_HATCHES = {"audio": "", "visual": "//////", "tie": "", "overall": ""}
INK, SOFT = "#222222", "#666666"
_COLOURS = ("#000000", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SETTINGS: Any = {
    "font.size": 7.5,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "figure.titlesize": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": "#E2E2E2",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.35,
    "text.parse_math": False,  # a run or a class may be called "$5"
    "svg.hashsalt": "avbench",
}


@dataclass(frozen=True, slots=True)
class LineStyle:
    """Three things that tell a line from the others, of which colour is only one."""

    colour: str
    dashes: Any
    marker: str


def line_styles(names: Sequence[str], *, unimodal: Mapping[str, str]) -> dict[str, LineStyle]:
    """A style for each name; the first 35 differ from each other in colour and dashes or marker.

    unimodal: of the names that stand for a modality, which one; they get its colour, dashed, and the first of each
        modality no marker.
    """
    dashes = {"audio": (0, (5, 1.5)), "visual": (0, (1.5, 0.8))}
    modalities = list(unimodal.values())
    styles = {
        name: LineStyle(
            SIDE_COLOURS[modality], dashes[modality], ("", *MARKERS)[modalities[:place].count(modality) % 8]
        )
        for place, (name, modality) in enumerate(unimodal.items())
    }
    for place, name in enumerate(name for name in names if name not in unimodal):
        colour = _COLOURS[place % len(_COLOURS)]
        styles[name] = LineStyle(colour, _DASHES[place // len(_COLOURS) % len(_DASHES)], MARKERS[place % len(MARKERS)])
    return styles


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with the package's settings, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, whose parts find room for their labels (see `laid_out`)."""
    engine = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.03, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=(width, height), layout=engine)
    FigureCanvasAgg(figure)
    return figure


def laid_out(figure: Figure) -> Figure:
    """The figure with its parts put in place once, so that saving it does not measure every label again."""
    engine = figure.get_layout_engine()
    if engine is not None:
        with quiet():
            engine.execute(figure)
    figure.set_layout_engine("none")
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as PNG, 200 dots an inch."""
    return _saved(figure, "png", {"Software": None})


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, its letters as outlines, so that it looks the same everywhere."""
    return _saved(figure, "svg", {"Date": None, "Creator": None})


def _saved(figure: Figure, suffix: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    with drawing(), quiet():
        figure.savefig(buffer, format=suffix, dpi=200, metadata=metadata)
    return buffer.getvalue()


@contextmanager
def quiet() -> Iterator[None]:
    """Say nothing of letters that the font lacks (a class in another script): they are shown as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def short(name: str, limit: int = 28) -> str:
    """A name on one line in at most `limit` letters, its middle left out: both ends of a name tell names apart."""
    plain = _on_one_line(name)
    if len(plain) <= limit:
        return plain
    tail = (limit - 1) // 2
    return f"{plain[: limit - 1 - tail].rstrip()}…{plain[-tail:].lstrip()}"


def shortened(names: Iterable[str], limit: int = 28) -> dict[str, str]:
    """`short` of each of these names, no two the same: of those that would be, the part that tells them apart is kept.

    What differs in no letter that can be printed is numbered.
    """
    texts = {name: short(name, limit) for name in names}
    counts = Counter(texts.values())
    apart: dict[str, str] = {}
    for name, text in texts.items():
        if counts[text] > 1:
            text = _around_difference(name, [other for other in texts if texts[other] == text], limit)
        base, number = text, 2
        while text in apart.values():
            text = f"{base[: limit - 1 - len(str(number))]} {number}"
            number += 1
        apart[name] = text
    return apart


def _around_difference(name: str, alike: Sequence[str], limit: int) -> str:
    """The beginning of a name, and what follows where it parts from the most similar one."""
    plain = _on_one_line(name)
    shared = max(_letters_shared(plain, _on_one_line(other)) for other in alike if other != name)
    head = limit // 3
    rest = plain[shared : shared + limit - head - 2]
    return f"{plain[:head].rstrip()}…{rest}{'…' if shared + len(rest) < len(plain) else ''}"


def _letters_shared(one: str, other: str) -> int:
    """How many letters two names have in common before they part."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _on_one_line(name: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())


def legend_below(figure: Figure, handles: Sequence[Artist], *, longest: int) -> None:
    """A legend under all panels, in as few rows as fit, all about equally long, where it covers no data.

    longest: letters of the longest label.
    """
    if not handles:
        return
    # A letter of 7 points takes about 0.061 inches, the line before it and the gap after it 0.5.
    fit = max(1, int(figure.get_figwidth() / (0.5 + 0.061 * longest)))
    rows = math.ceil(len(handles) / fit)
    columns = math.ceil(len(handles) / rows)  # so that no entry is left alone in the last row
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, columnspacing=1.2)


def line_key(label: str, style: LineStyle, *, width: float = 1.2) -> Line2D:
    """The legend's entry for a line."""
    return Line2D(
        [], [], color=style.colour, linestyle=style.dashes, marker=style.marker, markersize=3.2, linewidth=width,
        label=label,
    )  # fmt: skip


def titled(figure: Figure, title: str, *, below: str = "") -> None:
    """A title over the whole figure, shortened to its width; `below` is a second line."""
    # A letter of 8.5 points takes about 0.072 inches.
    first = short(title, int(figure.get_figwidth() / 0.072))
    text = f"{first}\n{below}" if below else first
    if figure.get_layout_engine() is None:
        figure.suptitle(text, y=1 - 0.06 / figure.get_figheight(), va="top")
    else:
        figure.suptitle(text)  # a place that is given would not be kept free


def say_empty(axes: Axes, words: str) -> None:
    """Say in an empty panel why it is empty."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=SOFT, fontsize=7.5)


SIDE_MARKERS = {"audio": "o", "visual": "^", "tie": "s"}
