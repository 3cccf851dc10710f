"""Curves of more points than a page has room for."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from avbench.analysis.measures.discrepancy import Floats
from avbench.analysis.presenting.figures.style import LineStyle

# A curve of more points is drawn as means over neighbouring ones: a page's width has no room for more.
MOST_POINTS = 400


def thinned(x: Floats, values: Floats, *, most: int = MOST_POINTS) -> tuple[Floats, Floats]:
    """A curve of at most `most` points: means over equally many neighbouring ones, the last of which may be fewer.

    Each lies at the last x of those it is the mean of, since x is the end of what a value is the mean of.
    """
    together = -(-len(x) // most)
    if together <= 1:
        return x, values
    starts = np.arange(0, len(x), together)
    sizes = np.diff(np.append(starts, len(x)))
    return x[starts + sizes - 1], np.add.reduceat(values, starts) / sizes


def draw_curve(axes: Axes, x: Floats, values: Floats, *, style: LineStyle) -> None:
    """A line with a marker here and there."""
    axes.plot(
        x, values, color=style.colour, linestyle=style.dashes, linewidth=1.0, marker=style.marker, markersize=2.8,
        markevery=max(1, len(x) // 8),
    )  # fmt: skip
