"""The figures, drawn from arrays: PNG for reading, SVG for papers. The same input gives the same bytes.

The first two are figures 1 and 2 of Xia et al., "Balanced Audiovisual Dataset for Imbalance Analysis", CVPR workshop
2023 (arXiv 2302.10912). Names that a user chose (runs, classes) may be of any length and hold any letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from avbench.analysis.classes import Selection
from avbench.analysis.discrepancy import HEATMAP_BINS, MODALITIES, Counts, Floats, Mask, subsets
from avbench.analysis.performance import DRAWN, QUANTITIES, Course
from avbench.analysis.statistics import is_few
from avbench.analysis.style import (
    COLUMN,
    INK,
    MARKERS,
    PAGE,
    SIDE_COLOURS,
    SIDE_HATCHES,
    SOFT,
    LineStyle,
    drawing,
    laid_out,
    legend_below,
    line_key,
    line_styles,
    new_figure,
    say_empty,
    short,
    shortened,
    titled,
    to_png,
    to_svg,
)

__all__ = ["Figure", "to_png", "to_svg"]

# Viridis is perceptually even and safe for colour-blind readers; dark is many, so that it prints on white paper. Its
# palest fifth is left out: one clip in a cell must differ from none, which is white.
_HEATMAP_COLOURS = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.2, 1.0, 256)))

# An accuracy over fewer clips moves by 5 points and more with a single clip: no line is drawn through it.
FEWEST_CLIPS = 20
THRESHOLD_GRID: Floats = np.linspace(0, 0.8, 17)

# A cell of the heatmap is as large as a full stop. Of as many cells as this each that holds clips is drawn as a circle
# instead, with a diameter in points between these, its area by the number of clips.
_MOST_CIRCLES = 1000
_SMALLEST_CIRCLE, _LARGEST_CIRCLE = (2.0, 4.2), 10.0

# A curve of more points is drawn as means over neighbouring ones: a page's width has no room for more.
_MOST_POINTS = 400
_MOST_PANELS_ABREAST = 4
_TOO_FEW: Any = {"facecolor": "white", "edgecolor": "#CCCCCC", "hatch": "////", "linewidth": 0}
_SIDE_MARKERS = {"audio": "o", "visual": "^", "tie": "s"}
_RIGHT: Any = {"facecolor": "#8CCBF0", "edgecolor": "none"}
_WRONG = "#8A3000"
# More markers than these are put into an SVG as one picture.
_MOST_MARKERS = 500


# Figure 1: the heatmap, and the methods by subset


def draw_heatmap(counts: Counts, *, audio_clips: int, visual_clips: int, ties: int, title: str) -> Figure:
    """The clips of a split in the square of mean audio and mean visual confidence, with both marginal histograms.

    counts: int [100, 100], row u_visual, column u_audio, as discrepancy.heatmap counts them.
    audio_clips, visual_clips, ties: how many clips lie below, above and exactly on the diagonal (which a cell on the
    diagonal does not tell).
    Panels, in order: the square, the histogram of u_audio above it, that of u_visual beside it, the colour scale.
    """
    total = audio_clips + visual_clips + ties
    with drawing():
        # Places are given: the histograms must have the very width and height of a square that keeps its shape.
        height = 4.4
        figure = new_figure(COLUMN, height)
        figure.set_layout_engine("none")

        def place(left: float, bottom: float, width: float, tall: float) -> Axes:
            return figure.add_axes((left / COLUMN, bottom / height, width / COLUMN, tall / height))

        left, bottom, side, margin, gap = 0.56, 0.95, 2.29, 0.4, 0.05
        square = place(left, bottom, side, side)
        image = square.imshow(
            np.ma.masked_equal(counts, 0),
            origin="lower",
            extent=(0, 1, 0, 1),
            cmap=_HEATMAP_COLOURS,
            norm=LogNorm(vmin=1, vmax=max(int(counts.max()), 2)),
            interpolation="nearest",
        )
        _draw_circles(square, counts, norm=image.norm)
        # Two colours show on pale and on dark cells; a line of a third of a cell hides none.
        square.plot([0, 1], [0, 1], color=INK, gapcolor="white", linewidth=0.6, linestyle=(0, (4, 3)))
        square.set(xlim=(0, 1), ylim=(0, 1))
        square.set_xlabel("mean audio confidence  $u_\\mathrm{audio}$", parse_math=True)
        square.set_ylabel("mean visual confidence  $u_\\mathrm{visual}$", parse_math=True)
        square.spines[["top", "right"]].set_visible(True)
        above = place(left, bottom + side + gap, side, margin)
        beside = place(left + side + gap, bottom, margin, side)
        _draw_marginal(above, counts.sum(axis=0), "audio", upright=True)
        _draw_marginal(beside, counts.sum(axis=1), "visual", upright=False)
        above.set_title(_share("▲ visual-preferred", visual_clips, total), loc="left", pad=6)
        above.set_title(_share("▼ audio-preferred", audio_clips, total), loc="right", pad=6)
        beside.get_xticklabels()[0].set_horizontalalignment("right")  # a long number would leave the picture
        ends = f", {ties:,} exactly equal" if ties else ""
        titled(figure, title, below=f"{_clips(total)}{ends}")
        bar = figure.colorbar(image, cax=place(left, 0.42, side, 0.08), orientation="horizontal")
        bar.set_label(f"clips in a cell of {1 / HEATMAP_BINS:g} × {1 / HEATMAP_BINS:g} (blank: none)")
        bar.minorticks_off()
        ticks = _whole_ticks(max(int(counts.max()), 2))
        bar.set_ticks(ticks, labels=[_count(tick) for tick in ticks])
    return figure


def _draw_circles(square: Axes, counts: Counts, *, norm: Any) -> None:
    """A circle in the middle of every cell that holds clips, where these cells are few; nothing where they are many."""
    rows, columns = np.nonzero(counts)
    if not 0 < len(rows) <= _MOST_CIRCLES:
        return
    clips = counts[rows, columns]
    smallest = float(np.clip(60 / np.sqrt(len(rows)), *_SMALLEST_CIRCLE))
    largest = min(_LARGEST_CIRCLE, smallest * np.sqrt(clips.max()))
    share = (clips - 1) / max(1, clips.max() - 1)
    areas = smallest**2 + share * (largest**2 - smallest**2)
    order = np.argsort(-clips, kind="stable")  # the small ones on top of the large ones
    square.scatter(
        (columns[order] + 0.5) / HEATMAP_BINS, (rows[order] + 0.5) / HEATMAP_BINS, s=areas[order], c=clips[order],
        cmap=_HEATMAP_COLOURS, norm=norm, edgecolors="white", linewidths=0.25, clip_on=False, zorder=2.5,
    )  # fmt: skip


def _draw_marginal(axes: Axes, counts: Counts, modality: str, *, upright: bool) -> None:
    edges = np.linspace(0, 1, HEATMAP_BINS + 1)
    axes.stairs(
        counts, edges, fill=True, color=SIDE_COLOURS[modality], orientation="vertical" if upright else "horizontal"
    )
    largest = int(counts.max())
    along, across = (axes.xaxis, axes.yaxis) if upright else (axes.yaxis, axes.xaxis)
    along.set_major_locator(FixedLocator([]))
    across.set_major_locator(FixedLocator([largest]))
    across.set_major_formatter(FuncFormatter(_count))
    if upright:
        axes.set(xlim=(0, 1), ylim=(0, max(largest, 1)))
    else:
        axes.set(ylim=(0, 1), xlim=(0, max(largest, 1)))
    across.set_label_text("clips")


@dataclass(frozen=True, slots=True)
class Bar:
    """One run's accuracy on one subset, in [0, 1], with its interval; all None where the subset is empty.

    modality: of a unimodal network, which one it reads; None for every other run.
    """

    run: str
    modality: str | None
    accuracy: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class BarPanel:
    """One subset: its side ("overall", "audio", "visual"), its name, how many clips it has, a bar a run."""

    side: str
    name: str
    clips: int
    bars: tuple[Bar, ...]


def draw_bars(panels: Sequence[BarPanel], *, title: str) -> Figure:
    """Accuracy of every run, a panel a subset, a bar a run, with intervals.

    All panels hold the same runs in the same order, unimodal networks first. The dashed line of a panel is the better
    unimodal network there: what a multimodal method has to pass.
    """
    with drawing():
        runs = len(panels[0].bars)
        figure = new_figure(PAGE, 0.85 + 0.19 * runs)
        titled(figure, title)
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        tops = [bar.high for panel in panels for bar in panel.bars if bar.high is not None]
        right = 100 * min(1.0, max(tops, default=1.0))
        for axes, panel in zip(row, panels, strict=True):
            _draw_bar_panel(axes, panel)
            axes.set(xlim=(0, 1.24 * right), ylim=(runs - 0.4, -0.6), xlabel="accuracy (%)")
            # Ticks end where accuracies do; the room beyond is for numbers.
            axes.set_xticks([tick for tick in MaxNLocator(4).tick_values(0, right) if tick <= min(100, 1.05 * right)])
        row[0].set_yticks(range(runs), list(shortened((bar.run for bar in panels[0].bars), 24).values()))
        for axes in row:
            axes.tick_params(axis="y", length=0)
        return laid_out(figure)


def _draw_bar_panel(axes: Axes, panel: BarPanel) -> None:
    few = " †" if panel.clips and is_few(panel.clips) else ""
    axes.set_title(f"{panel.name}\n{_clips(panel.clips)}{few}", color=INK)
    axes.grid(axis="x")
    known = [
        (place, bar, bar.accuracy, bar.low, bar.high)
        for place, bar in enumerate(panel.bars)
        if bar.accuracy is not None and bar.low is not None and bar.high is not None
    ]
    if not known:
        say_empty(axes, "no clips")
    for place, bar, accuracy, low, high in known:
        unimodal = bar.modality is not None
        axes.barh(
            place,
            100 * accuracy,
            height=0.68,
            facecolor="white" if unimodal else SIDE_COLOURS[panel.side],
            edgecolor=SOFT if unimodal else SIDE_COLOURS[panel.side],
            hatch="//////" if unimodal else "",
            linewidth=0.6,
        )
        axes.plot([100 * low, 100 * high], [place, place], color=INK, linewidth=1.0, solid_capstyle="butt")
        # A column of numbers at the right edge, where no bar, interval or line runs through them.
        axes.text(
            1, place, f"{100 * accuracy:.1f}", transform=axes.get_yaxis_transform(), va="center", ha="right", fontsize=7
        )
    best = [accuracy for _, bar, accuracy, _, _ in known if bar.modality is not None]
    if best:
        axes.axvline(100 * max(best), color=INK, linewidth=0.8, linestyle=(0, (3, 2)), zorder=3)


# Figure 2: accuracy against the threshold


@dataclass(frozen=True, slots=True)
class ThresholdCurves:
    """Accuracy of each run on the clips beyond a threshold, on both sides.

    thresholds: (G,). clips: per side (G,), how many clips lie beyond each. accuracy: per run and side (G,) in [0, 1],
    NaN where there are fewer than FEWEST_CLIPS clips.
    """

    thresholds: Floats
    clips: Mapping[str, Counts]
    accuracy: Mapping[str, Mapping[str, Floats]]


def threshold_curves(
    correct: Mapping[str, Floats], discrepancies: Floats, *, thresholds: Floats = THRESHOLD_GRID
) -> ThresholdCurves:
    """Accuracy of every run on the audio- and the visual-dominated clips at every threshold.

    correct: per run (N,), the share of its seeds that are right of each clip. discrepancies: (N,) in [-1, 1].
    """
    masks = {
        side: np.stack([subsets(discrepancies, float(threshold))[side] for threshold in thresholds])
        for side in MODALITIES
    }
    clips = {side: mask.sum(axis=1) for side, mask in masks.items()}
    enough = {side: count >= FEWEST_CLIPS for side, count in clips.items()}
    accuracy = {
        run: {
            side: np.divide(mask @ right, clips[side], out=np.full(len(thresholds), np.nan), where=enough[side])
            for side, mask in masks.items()
        }
        for run, right in correct.items()
    }
    return ThresholdCurves(thresholds, clips, accuracy)


def draw_thresholds(curves: ThresholdCurves, *, modality_of: Mapping[str, str], title: str) -> Figure:
    """Accuracy against threshold T, audio-dominated clips on the left, visual-dominated on the right, a line a run.

    modality_of: the unimodal networks among the runs. Below each panel: how many clips lie beyond T.
    """
    runs, names = list(curves.accuracy), shortened(curves.accuracy)
    styles = line_styles(runs, unimodal=dict(modality_of))
    with drawing():
        few = any((count < FEWEST_CLIPS).any() and (count >= FEWEST_CLIPS).any() for count in curves.clips.values())
        keys: list[Artist] = [Patch(**_TOO_FEW, label=f"fewer than {FEWEST_CLIPS} clips")] if few else []
        keys += [line_key(names[run], styles[run], width=1.6 if run in modality_of else 1.1) for run in runs]
        figure = new_figure(PAGE, 3.7 + 0.13 * (len(runs) // 5))
        titled(figure, title)
        (left, right), (left_clips, right_clips) = figure.subplots(
            2, 2, sharex=True, sharey="row", height_ratios=(4.2, 1)
        )
        for side, axes, below in (("audio", left, left_clips), ("visual", right, right_clips)):
            _draw_threshold_lines(axes, curves, side, styles=styles, modality_of=modality_of)
            axes.set_title(f"{side}-dominated clips (at T = 0: {side}-preferred)")
            below.fill_between(curves.thresholds, curves.clips[side], color=SIDE_COLOURS[side], linewidth=0)
            below.set(xlabel="threshold T", ylim=(0, None))
            below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
            below.yaxis.set_major_formatter(FuncFormatter(_count))
            _write_counts(below, curves.thresholds, curves.clips[side])
        largest = max(int(count.max()) for count in curves.clips.values())
        left_clips.set(ylabel="clips", ylim=(0, 1.45 * max(largest, 1)))
        left.set(ylabel="accuracy (%)", xlim=(0, float(curves.thresholds[-1])))
        if not any(np.isfinite(values).any() for sides in curves.accuracy.values() for values in sides.values()):
            left.set_ylim(0, 100)
        figure.align_ylabels([left, left_clips])
        legend_below(figure, keys, longest=max(18, *map(len, names.values())))
        return laid_out(figure)


def _draw_threshold_lines(
    axes: Axes, curves: ThresholdCurves, side: str, *, styles: Mapping[str, LineStyle], modality_of: Mapping[str, str]
) -> None:
    axes.grid()
    for place, (run, accuracy) in enumerate(curves.accuracy.items()):
        style = styles[run]
        axes.plot(
            curves.thresholds,
            100 * accuracy[side],
            color=style.colour,
            linestyle=style.dashes,
            marker=style.marker,
            markersize=3,
            markevery=(place % 3, 3),  # lines that lie on each other show their markers in turn
            linewidth=1.6 if run in modality_of else 1.1,
            zorder=3 if run in modality_of else 2,  # what is to be beaten is never hidden
            label=run,
        )
    few = curves.clips[side] < FEWEST_CLIPS
    if few.all():
        say_empty(axes, f"fewer than {FEWEST_CLIPS} clips at every T")
    elif few.any():
        axes.axvspan(float(curves.thresholds[few][0]), float(curves.thresholds[-1]), zorder=0, **_TOO_FEW)


def _write_counts(axes: Axes, thresholds: Floats, counts: Counts) -> None:
    """Every fourth count above its place; the first beside the axis, not across it."""
    for place in range(0, len(thresholds), 4):
        axes.annotate(
            _count(counts[place]), (thresholds[place], counts[place]), xytext=(0 if place else 2, 2),
            textcoords="offset points", fontsize=7, ha="center" if place else "left", annotation_clip=False,
        )  # fmt: skip


# The distribution of the discrepancy


def draw_distribution(distributions: Mapping[str, Floats], *, thresholds: Sequence[float], title: str) -> Figure:
    """Histograms of the modality discrepancy, one below the other on the same axis, with lines at each +-T.

    distributions: by what it is called ("estimated", "planted"), (M,) in [-1, 1].
    """
    edges = np.linspace(-1, 1, 81)
    with drawing():
        figure = new_figure(COLUMN, 0.7 + 1.35 * len(distributions))
        titled(figure, title)
        column = figure.subplots(len(distributions), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(column, distributions.items(), strict=True):
            for side, mask in subsets(values, 0.0).items():
                # An exact zero opens a bin of the audio half; it is drawn apart, on top.
                counts, _ = np.histogram(values[mask], edges)
                below = np.histogram(values[values > 0], edges)[0] if side == "tie" else np.zeros(len(counts))
                axes.stairs(
                    counts + below, edges, baseline=below, fill=True, facecolor=SIDE_COLOURS[side], edgecolor="white",
                    hatch=SIDE_HATCHES[side], linewidth=0, label=side,
                )  # fmt: skip
            _draw_threshold_marks(axes, thresholds)
            axes.set(xlim=(-1, 1), xticks=np.linspace(-1, 1, 5), ylabel="clips")
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_formatter(FuncFormatter(_count))
            shares = subsets(values, 0.0)
            axes.set_title(_share("visual-preferred", int(shares["visual"].sum()), len(values)), loc="left")
            axes.set_title(_share("audio-preferred", int(shares["audio"].sum()), len(values)), loc="right")
            if len(distributions) > 1:
                axes.set_title(name, loc="center")
        column[-1].set_xlabel("modality discrepancy  $u_\\mathrm{audio} - u_\\mathrm{visual}$", parse_math=True)
        return laid_out(figure)


def _draw_threshold_marks(axes: Axes, thresholds: Sequence[float]) -> None:
    top = axes.get_ylim()[1]
    axes.set_ylim(0, 1.12 * top if top > 0 else 1)
    for threshold in thresholds:
        for place in {threshold, -threshold}:
            axes.axvline(place, color=INK, linewidth=0.7, linestyle="solid" if place == 0 else (0, (3, 2)))
        axes.text(
            threshold, 1.11 * top, f" {threshold:g}", ha="left", va="top", fontsize=7,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.8},
        )  # fmt: skip


# Classes


def draw_class_counts(selection: Selection, *, title: str) -> Figure:
    """Audio-preferred, tied and visual-preferred clips of each selected class, stacked; most audio-sided first."""
    rows = [row for _, members in selection.groups for row in members]
    with drawing():
        figure = new_figure(COLUMN, 0.95 + 0.155 * len(rows) + 0.2 * len(selection.groups))
        titled(figure, title)
        places = _grouped_places(selection)
        axes = figure.subplots()
        starts = np.zeros(len(rows))
        for side in ("audio", "tie", "visual"):
            counts = np.array([{"audio": row.audio, "tie": row.tied, "visual": row.visual}[side] for row in rows])
            axes.barh(
                places, counts, left=starts, height=0.74, facecolor=SIDE_COLOURS[side], edgecolor="white",
                hatch=SIDE_HATCHES[side], linewidth=0,
            )  # fmt: skip
            starts += counts
        axes.set_yticks(places, list(shortened((row.name for row in rows), 26).values()))
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel="clips", ylim=(places[-1] + 0.6, -0.6 - (len(selection.groups) > 1)))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(_count))
        axes.grid(axis="x")
        if len(selection.groups) > 1:
            start = 0
            for name, members in selection.groups:
                axes.annotate(
                    name, (0, places[start] - 0.55), xytext=(3, 0), textcoords="offset points", fontsize=7, color=SOFT,
                    va="bottom", style="italic",
                )  # fmt: skip
                start += len(members)
        _side_legend(figure, ties=any(row.tied for row in rows))
        return laid_out(figure)


def _grouped_places(selection: Selection) -> Floats:
    """Where each class's bar is: 1 apart, one more between groups for the next group's name."""
    sizes = [len(members) for _, members in selection.groups]
    gaps = np.repeat(np.arange(len(sizes)) * 1.0, sizes)
    return np.arange(sum(sizes), dtype=np.float64) + gaps


def _side_legend(figure: Figure, *, ties: bool) -> None:
    names = {"audio": "audio-preferred", "tie": "tied", "visual": "visual-preferred"}
    handles = [
        Patch(facecolor=SIDE_COLOURS[side], hatch=SIDE_HATCHES[side], edgecolor="white", linewidth=0, label=name)
        for side, name in names.items()
        if ties or side != "tie"
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.6, columnspacing=1.2)


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
            _draw_cloud(axes, cloud, title=_on_two_lines(words[cloud.name], letters))
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
            cloud.audio[mask], cloud.visual[mask], linestyle="none", marker=_SIDE_MARKERS[side],
            markersize=1.2 if many else 2.2, markeredgewidth=0, color=SIDE_COLOURS[side] if side != "tie" else SOFT,
            alpha=0.5 if many else 0.8, rasterized=many, clip_on=False, label=side,
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.set_xticklabels(["0", ".5", "1"])
    axes.set_yticklabels(["0", ".5", "1"])
    axes.set_title(title, fontsize=7, pad=4)


def _on_two_lines(text: str, letters: int) -> str:
    """A text of at most twice these letters, between words where they fit; none is lost."""
    if len(text) <= letters:
        return text
    gaps = [place for place, letter in enumerate(text) if letter == " " and len(text) - letters <= place + 1]
    place = max((gap for gap in gaps if gap <= letters), default=letters)
    return f"{text[:place]}\n{text[place:].lstrip()}"


# What a run logged of itself


def draw_diagnostics(
    curves: Mapping[int, Mapping[str, Mapping[str, tuple[Floats, Floats]]]],
    *,
    title: str,
    explained: Mapping[str, str] = MappingProxyType({}),
) -> Figure:
    """What a method logged while it trained: a row of panels a group, a column a seed, a line a name.

    curves: per seed, group and name (epochs, values), (M,) each: the mean over each logging interval, and its end.
    At most four seeds are drawn, the lowest.
    In a group that is on and off (see `is_on_and_off`) each name has a lane of its own, filled as high as the share.
    A name that is the only one of its group is said beside the group's: there is nothing to tell it from.
    explained: what the legend says of a name, where that is more than the name.
    """
    seeds = shown_seeds(curves)
    groups = list(dict.fromkeys(group for seed in seeds for group in curves[seed]))
    of_group = {
        group: list(dict.fromkeys(name for seed in seeds for name in curves[seed].get(group, {}))) for group in groups
    }
    names = {**shortened(dict.fromkeys(name for group in of_group.values() for name in group)), **explained}
    in_legend = dict.fromkeys(name for group in of_group.values() if len(group) > 1 for name in group)
    styles = _styles_of_names(list(dict.fromkeys(name for group in of_group.values() for name in group)))
    with drawing():
        figure = new_figure(PAGE, 0.75 + 1.2 * len(groups))
        titled(figure, title)
        grid = figure.subplots(len(groups), len(seeds), sharex="col", sharey="row", squeeze=False)
        for row, (group, words) in zip(grid, shortened(groups, 18).items(), strict=True):
            _draw_group(row, [curves[seed].get(group, {}) for seed in seeds], styles=styles)
            alone = [name for name in of_group[group] if name not in in_legend]
            row[0].set_ylabel("\n".join([words, *(short(name, 18) for name in alone)]))
        for axes, seed in zip(grid[0], seeds, strict=True):
            if len(curves) > 1:
                axes.set_title(f"seed {seed}")
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=axes.get_xlim()[1] > 2))
        figure.align_ylabels(grid[:, 0])
        keys = [line_key(names[name], styles[name]) for name in in_legend]
        legend_below(figure, keys, longest=max((len(names[name]) for name in in_legend), default=0))
        return laid_out(figure)


def _styles_of_names(names: Sequence[str]) -> dict[str, LineStyle]:
    """The modalities' colours and markers for them and their branches; every other name has another marker."""
    modality_of = {name: name.removesuffix("_branch") for name in names}
    unimodal = {name: modality for name, modality in modality_of.items() if modality in MODALITIES}
    markers = [marker for marker in MARKERS if marker not in {_SIDE_MARKERS[name] for name in MODALITIES}]
    styles = line_styles(names, unimodal=unimodal)
    others = [name for name in names if name not in unimodal]
    return {
        **{name: replace(styles[name], dashes="solid", marker=_SIDE_MARKERS[side]) for name, side in unimodal.items()},
        **{name: replace(styles[name], marker=markers[place % len(markers)]) for place, name in enumerate(others)},
    }


def shown_seeds(seeds: Iterable[int]) -> list[int]:
    """The seeds that have a column in the figure of a run's diagnostics: the lowest four."""
    return sorted(seeds)[:_MOST_PANELS_ABREAST]


def thinned(x: Floats, values: Floats, *, most: int = _MOST_POINTS) -> tuple[Floats, Floats]:
    """A curve of at most `most` points: means over equally many neighbouring ones, the last of which may be fewer.

    Each lies at the last x of those it is the mean of, since x is the end of what a value is the mean of.
    """
    together = -(-len(x) // most)
    if together <= 1:
        return x, values
    starts = np.arange(0, len(x), together)
    sizes = np.diff(np.append(starts, len(x)))
    return x[starts + sizes - 1], np.add.reduceat(values, starts) / sizes


def is_on_and_off(values: Iterable[Mapping[str, tuple[Floats, Floats]]]) -> bool:
    """Whether a group's curves, of one or more seeds, say for which share of an interval something was on.

    They do if no value leaves [0, 1] and one in ten or more is exactly 0, but not all, and they are not the parts of
    a whole, which add up to 1 everywhere: weights of which one is 0 are still weights.
    """
    curves = [[y for _, y in by_name.values()] for by_name in values if by_name]
    together = np.concatenate([y for of_seed in curves for y in of_seed]) if curves else np.zeros(0)
    if not together.any() or not ((together >= 0) & (together <= 1)).all() or (together == 0).mean() < 0.1:
        return False
    return not all(len({len(y) for y in of_seed}) == 1 and np.allclose(sum(of_seed), 1) for of_seed in curves)


def _draw_group(
    row: Sequence[Axes], values: Sequence[Mapping[str, tuple[Floats, Floats]]], *, styles: Mapping[str, LineStyle]
) -> None:
    """One group's panels, an element a seed; they share their vertical axis."""
    every = [y for by_name in values for _, y in by_name.values()]
    together = np.concatenate(every) if every else np.zeros(0)
    finite = together[np.isfinite(together)]
    names = list(dict.fromkeys(name for by_name in values for name in by_name))
    shares, most = is_on_and_off(values), _MOST_POINTS // len(row)
    for axes, by_name in zip(row, values, strict=True):
        for name, (x, y) in by_name.items():
            if shares:
                _draw_lane(axes, *thinned(x, y, most=most), lane=names.index(name), colour=styles[name].colour)
            else:
                _draw_curve(axes, *thinned(x, y, most=most), style=styles[name])
        if not any(np.isfinite(y).any() for _, y in by_name.values()):
            say_empty(axes, "no finite value")
    if shares:
        row[0].set_yticks(np.arange(len(names)) + 0.45, list(shortened(names, 14).values()))
        row[0].set_ylim(0, len(names))
        return
    for axes in row:
        axes.grid(axis="y")
    if not len(finite):
        row[0].set_yticks([])
    elif finite.min() > 0 and finite.max() > max(1, 100 * finite.min()):  # weights in [0, 1] stay on a plain axis
        row[0].set_yscale("log")
        row[0].yaxis.set_major_locator(LogLocator(subs=(1, 3) if finite.max() < 3000 * finite.min() else (1,)))
        row[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        row[0].yaxis.set_minor_locator(NullLocator())
    else:
        row[0].yaxis.set_major_locator(MaxNLocator(4))


def _draw_curve(axes: Axes, x: Floats, values: Floats, *, style: LineStyle) -> None:
    axes.plot(
        x, values, color=style.colour, linestyle=style.dashes, linewidth=1.0, marker=style.marker, markersize=2.8,
        markevery=max(1, len(x) // 8),
    )  # fmt: skip


def _draw_lane(axes: Axes, x: Floats, values: Floats, *, lane: int, colour: str) -> None:
    # The first interval begins one interval before its end.
    start = x[0] - (x[1] - x[0] if len(x) > 1 else x[0])
    edges = np.concatenate([[start], x])
    axes.stairs(lane + 0.9 * values, edges, baseline=lane, fill=True, color=colour, linewidth=0)
    axes.axhline(lane, color=SOFT, linewidth=0.5)


# Uncertainty


def draw_uncertainty(runs: Mapping[str, tuple[Floats, Mask]], *, title: str) -> Figure:
    """How uncertain each run was where it was right and where it was wrong: two histograms a panel.

    runs: per run (uncertainty (M,), correct (M,)). Each histogram is a share of its own clips, so that a rare kind is
    seen as well as a frequent one.
    """
    with drawing():
        columns = min(2, len(runs))
        rows = -(-len(runs) // columns)
        figure = new_figure(COLUMN if columns == 1 else PAGE, 0.85 + 1.5 * rows)
        titled(figure, title)
        grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
        for axes in grid.flat[len(runs) :]:
            axes.set_visible(False)
        every = np.concatenate([values[np.isfinite(values)] for values, _ in runs.values()])
        edges = np.linspace(0, max(1.0, float(every.max(initial=0))), 41)
        names = shortened(runs, 24)
        for place, (axes, (run, (values, correct))) in enumerate(zip(grid.flat, runs.items(), strict=False)):
            _draw_right_and_wrong(axes, names[run], values, correct, edges=edges)
            if place % columns == 0:
                axes.set_ylabel("share of clips (%)")
            if place + columns >= len(runs):
                axes.set_xlabel("uncertainty")
                axes.tick_params(labelbottom=True)
        keys = [Patch(**_RIGHT, label="right"), Line2D([], [], color=_WRONG, linewidth=1.1, label="wrong")]
        legend_below(figure, keys, longest=5)
        return laid_out(figure)


def _draw_right_and_wrong(axes: Axes, name_of_run: str, values: Floats, correct: Mask, *, edges: Floats) -> None:
    known = np.isfinite(values)
    kinds: dict[str, tuple[Mask, Any]] = {
        "right": (correct & known, {**_RIGHT, "fill": True}),
        "wrong": (~correct & known, {"color": _WRONG, "linewidth": 1.1}),
    }
    for name, (mask, look) in kinds.items():
        if mask.any():
            counts, _ = np.histogram(values[mask], edges)
            axes.stairs(100 * counts / mask.sum(), edges, label=name, **look)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, None))
    axes.set_title(f"{name_of_run}: {kinds['right'][0].sum():,} right, {kinds['wrong'][0].sum():,} wrong")


# How fast trainings ran


def draw_performance(trainings: Mapping[str, Course], *, title: str) -> Figure:
    """How fast trainings ran over their epochs: a panel a quantity, a line a training, broken between launches.

    trainings: per run folder its course. Where a quantity was never measured, it has no panel.
    """
    measured = [one for one in QUANTITIES if one.name in DRAWN and any(one.name in each for each in trainings.values())]
    names = shortened(trainings)
    styles = line_styles(list(names), unimodal={})
    with drawing():
        figure = new_figure(PAGE, 0.75 + 1.2 * len(measured))
        titled(figure, title)
        (panels,) = figure.subplots(len(measured), 1, sharex=True, squeeze=False).T
        for axes, quantity in zip(panels, measured, strict=True):
            for training, lines in trainings.items():
                _draw_course(axes, lines.get(quantity.name, ()), style=styles[training])
            axes.grid(axis="y")
            axes.set_ylabel(_on_two_lines(quantity.heading, 12))
            axes.set_ylim(0, 100 if quantity.heading.endswith("(%)") else None)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        panels[-1].set_xlabel("epoch")
        panels[-1].set_xlim(0, None)
        panels[-1].xaxis.set_major_locator(MaxNLocator(5, integer=panels[-1].get_xlim()[1] > 2))
        figure.align_ylabels(panels)
        keys = [line_key(names[training], styles[training]) for training in trainings if len(trainings) > 1]
        legend_below(figure, keys, longest=max(map(len, names.values()), default=0))
        return laid_out(figure)


def _draw_course(axes: Axes, launches: Sequence[tuple[Floats, Floats]], *, style: LineStyle) -> None:
    """A line a launch, all as coarse, and a dotted line where each but the first begins."""
    points = sum(len(x) for x, _ in launches)
    for number, (x, values) in enumerate(launches):
        _draw_curve(axes, *thinned(x, values, most=max(1, _MOST_POINTS * len(x) // points)), style=style)
        if number:
            axes.axvline(x[0], color=style.colour, linestyle=(0, (1, 2)), linewidth=0.8)


# Words and numbers on figures


def _share(name: str, clips: int, total: int) -> str:
    return f"{name}\n{100 * clips / max(total, 1):.1f} % ({clips:,})"


def _clips(count: int) -> str:
    return "1 clip" if count == 1 else f"{count:,} clips"


def _count(number: float, _: int = 0) -> str:
    """A number of clips as a tick says it: 12,345, and from 100,000 on 123k or 12.3M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= max(size, 1e5):
            return f"{number / size:.{0 if number >= 100 * size else 1}f}".removesuffix(".0") + letter
    return f"{number:,.0f}"


def _whole_ticks(largest: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to the largest count; only powers of ten where these are too many."""
    steps = [digit * 10**power for power in range(len(str(largest))) for digit in (1, 2, 5)]
    fitting = [step for step in steps if step <= largest]
    return fitting if len(fitting) <= 9 else [step for step in fitting if str(step).startswith("1")]
