"""A figure of the page: how it is drawn, and the words that say how to read it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from matplotlib.figure import Figure

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.discrepancy import Floats
from avbench.analysis.presenting.figures.style import short, to_png, to_svg
from avbench.analysis.reading.results import Results

# An SVG is sharp at any size; one of more bytes than this is worth it only where the PNG is larger still.
_LARGEST_SVG_BYTES = 200_000

# Figures are shown this much larger than in print, so that their letters are as large as the page's small print.
_PIXELS_AN_INCH = 96 * 1.3


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure of the page and its files NAME.png and NAME.svg. alt: what it is, for those who do not see it."""

    name: str
    alt: str
    caption: str
    width: int
    png: bytes
    svg: bytes

    @property
    def address(self) -> str:
        """The picture itself as an address: SVG, or PNG where the SVG is large and the PNG is smaller."""
        if len(self.svg) > max(_LARGEST_SVG_BYTES, len(self.png)):
            return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A picture that is still to be drawn."""

    name: str
    draw: Callable[[], Figure]
    alt: str
    caption: str

    def picture(self) -> Picture:
        """Draw it."""
        figure = self.draw()
        width = round(figure.get_figwidth() * _PIXELS_AN_INCH)
        return Picture(self.name, self.alt, self.caption, width=width, png=to_png(figure), svg=to_svg(figure))


# Places of the page's template that figures have; those of a kind of table, named as the kind, stand in its section.
PLACES = ("learning", "data", "accuracy", "thresholds", "classes", "training", "performance")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A kind of figure. plans: its figures, often one, or none. place: on the page, of PLACES or a table's kind."""

    place: str
    plans: Callable[[Evaluation, Results], Iterable[Plan]]


def confidences(results: Results) -> tuple[Floats, Floats]:
    """Mean audio and mean visual confidence of each clip, (N,) each."""
    return results.confidence["audio"], results.confidence["visual"]


def title_of(evaluation: Evaluation) -> str:
    """What a figure's title begins with: the dataset and the split."""
    return f"{short(evaluation.dataset, 30)}, {evaluation.split} split"
