"""The confidences of every clip, a small square a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avbench.analysis.assessment import Evaluation
from avbench.analysis.measures.classes import select_classes
from avbench.analysis.measures.discrepancy import Floats, subsets
from avbench.analysis.presenting.figures.plan import Drawing, Plan, confidences, title_of
from avbench.analysis.presenting.figures.style import (
    COLUMN,
    PAGE,
    SIDE_COLOURS,
    SIDE_MARKERS,
    SOFT,
    drawing,
    new_figure,
    shortened,
    titled,
)
from avbench.analysis.presenting.figures.words import on_two_lines, which_classes
from avbench.analysis.reading.results import Results

_MOST_SQUARES = 12  # in two rows
# More markers than these are put into an SVG as one picture.
_MOST_MARKERS = 500


@dataclass(frozen=True, slots=True)
class ClassCloud:
    """One class's clips: mean audio and visual confidence of each, (M,)."""

    name: str
    audio: Floats
    visual: Floats


def draw_class_scatters(clouds: Sequence[ClassCloud], *, title: str) -> Figure:
    """The two confidences of every clip, a small square a class, in reading order."""
    with drawing():
        columns = min(6, len(clouds))
        rows = -(-len(clouds) // columns)
        # Places are given, in inches: squares that keep their shape.
        left, bottom, top, gap, names = 0.5, 0.45, 0.3, 0.14, 0.34
        side = min(1.3, (PAGE - left - 0.1) / columns - gap)
        width = max(COLUMN, left + columns * (side + gap) + 0.1)
        height = bottom + rows * (side + names) + top
        figure = new_figure(width, height)
        figure.set_layout_engine("none")
        titled(figure, title)
        letters = int(side / 0.063)
        words = shortened((cloud.name for cloud in clouds), 2 * letters - 4)
        for place, cloud in enumerate(clouds):
            row, column = divmod(place, columns)
            x, y = left + column * (side + gap), bottom + (rows - 1 - row) * (side + names)
            axes = figure.add_axes((x / width, y / height, side / width, side / height))
            _draw_cloud(axes, cloud, title=on_two_lines(words[cloud.name], letters))
            axes.tick_params(labelleft=column == 0, labelbottom=place + columns >= len(clouds))
        middle = (left + (columns * (side + gap) - gap) / 2) / width
        figure.supxlabel("mean audio confidence", x=middle, y=0.06 / height, va="bottom", fontsize=7.5)
        tall = (bottom + (rows * (side + names) - names) / 2) / height
        figure.supylabel("mean visual confidence", x=0.06 / width, y=tall, ha="left", fontsize=7.5)
    return figure


def _draw_cloud(axes: Axes, cloud: ClassCloud, *, title: str) -> None:
    many = len(cloud.audio) > _MOST_MARKERS
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.6, linestyle=(0, (4, 3)))
    for side, mask in subsets(cloud.audio - cloud.visual, 0.0).items():
        axes.plot(
            cloud.audio[mask], cloud.visual[mask], linestyle="none", marker=SIDE_MARKERS[side],
            markersize=1.2 if many else 2.2, markeredgewidth=0, color=SIDE_COLOURS[side] if side != "tie" else SOFT,
            alpha=0.5 if many else 0.8, rasterized=many, clip_on=False, label=side,
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.set_xticklabels(["0", ".5", "1"])
    axes.set_yticklabels(["0", ".5", "1"])
    axes.set_title(title, fontsize=7, pad=4)


def plans_of_class_scatters(evaluation: Evaluation, results: Results) -> Iterator[Plan]:
    """One figure of some classes."""
    squares = select_classes(evaluation.classes, most=_MOST_SQUARES)
    audio, visual = confidences(results)
    clouds = [
        ClassCloud(row.name, audio[results.labels == row.label], visual[results.labels == row.label])
        for _, members in squares.groups
        for row in members
    ]
    yield Plan(
        "class-confidences",
        partial(draw_class_scatters, clouds, title=title_of(evaluation)),
        alt="Small scatter plots of audio against visual confidence, one a class",
        caption="Each point is a clip: mean audio confidence to the right, mean visual confidence upwards; below the "
        f"diagonal it prefers audio (circles), above it vision (triangles). Shown: {which_classes(squares)}.",
    )


CLASS_SCATTERS = Drawing("classes", plans_of_class_scatters)
