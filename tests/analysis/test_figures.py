"""The pictures: that they show the numbers they are given, where they belong, readable, and the same each time."""

import io
import itertools
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.patches import StepPatch

from avbench.analysis.measures.classes import class_sides, select_classes
from avbench.analysis.measures.learning import Learning
from avbench.analysis.measures.thresholds import FEWEST_CLIPS, threshold_curves
from avbench.analysis.presenting.figures.bars import Bar, BarPanel, draw_bars
from avbench.analysis.presenting.figures.class_counts import draw_class_counts
from avbench.analysis.presenting.figures.class_scatters import ClassCloud, draw_class_scatters
from avbench.analysis.presenting.figures.curve import thinned
from avbench.analysis.presenting.figures.diagnostics import draw_diagnostics
from avbench.analysis.presenting.figures.distribution import draw_distribution
from avbench.analysis.presenting.figures.heatmap import draw_heatmap
from avbench.analysis.presenting.figures.learning import draw_learning
from avbench.analysis.presenting.figures.performance import draw_performance
from avbench.analysis.presenting.figures.style import (
    PAGE,
    SIDE_COLOURS,
    legend_below,
    line_key,
    line_styles,
    new_figure,
    short,
    shortened,
    to_png,
    to_svg,
)
from avbench.analysis.presenting.figures.thresholds import draw_thresholds
from avbench.analysis.presenting.figures.uncertainty import draw_uncertainty
from avbench.vocabulary import MODALITIES

LONG = "a run <script>alert('$x_1^2$')</script> & 100 % \n of {it}, with a name that nobody should give to anything"


def heat(counts):
    return draw_heatmap(counts, audio_clips=3, visual_clips=1, ties=1, title="pets, test split")


@pytest.fixture
def counts():
    cells = np.zeros((100, 100), int)
    cells[10, 80] = 3  # u_visual 0.1, u_audio 0.8: below the diagonal, to the right
    cells[90, 20] = 1
    cells[50, 50] = 1
    return cells


class TestHeatmap:
    def test_audio_runs_to_the_right_and_visual_upwards(self, counts):
        axes = heat(counts).axes[0]
        image = axes.images[0]
        assert image.origin == "lower"
        assert tuple(image.get_extent()) == (0, 1, 0, 1)
        assert "audio" in axes.get_xlabel() and "visual" in axes.get_ylabel()
        shown = image.get_array()
        assert (shown[10, 80], shown[90, 20], shown.mask.sum()) == (3, 1, 100 * 100 - 3)

    def test_a_cell_is_painted_where_its_confidences_are(self, counts):
        figure = heat(counts)
        picture = matplotlib.image.imread(io.BytesIO(to_png(figure)))[..., :3]
        height = picture.shape[0]
        transform = figure.axes[0].transData

        def colour(u_audio, u_visual):
            # The figure was measured at its own dots an inch and saved at 200.
            x, y = transform.transform((u_audio, u_visual)) * 200 / figure.dpi
            return picture[height - 1 - round(y), round(x)]

        many, one, none = colour(0.805, 0.105), colour(0.205, 0.905), colour(0.3, 0.1)
        np.testing.assert_allclose(none, 1, atol=0.01)
        assert many.sum() < one.sum() < none.sum()  # dark is many, and one clip is seen

    def test_the_marginals_are_the_sums_of_columns_and_rows(self, counts):
        figure = heat(counts)
        _, above, beside, _ = figure.axes
        (audio,), (visual,) = above.patches, beside.patches
        np.testing.assert_array_equal(audio.get_data().values, counts.sum(axis=0))
        np.testing.assert_array_equal(visual.get_data().values, counts.sum(axis=1))
        assert (audio.orientation, visual.orientation) == ("vertical", "horizontal")
        assert [label.get_text() for label in above.get_yticklabels()] == ["3"]

    def test_the_marginals_are_as_wide_and_high_as_the_square(self, counts):
        square, above, beside, _ = (axes.get_position() for axes in heat(counts).axes)
        assert (above.x0, above.x1) == pytest.approx((square.x0, square.x1))
        assert (beside.y0, beside.y1) == pytest.approx((square.y0, square.y1))

    def test_shares_and_totals_are_written_on_it(self, counts):
        figure = heat(counts)
        above = figure.axes[1]
        assert figure.get_suptitle() == "pets, test split\n5 clips, 1 exactly equal"
        assert above.get_title("left").endswith("visual-preferred\n20.0 % (1)")
        assert above.get_title("right").endswith("audio-preferred\n60.0 % (3)")

    def test_colour_scale_names_whole_counts(self, counts):
        counts[0, 0] = 60
        bar = heat(counts).axes[3]
        assert [label.get_text() for label in bar.get_xticklabels()] == ["1", "2", "5", "10", "20", "50"]
        assert heat(np.minimum(counts, 1)).axes[3].get_xticklabels()[0].get_text() == "1"  # nowhere more than one clip

    def test_few_clips_are_circles_that_can_be_seen_and_grow_with_the_clips(self, counts):
        square = heat(counts).axes[0]
        (circles,) = square.collections
        found = {
            tuple(np.round(place, 3)): size
            for place, size in zip(circles.get_offsets(), circles.get_sizes(), strict=True)
        }
        assert set(found) == {(0.805, 0.105), (0.205, 0.905), (0.505, 0.505)}
        assert found[0.805, 0.105] == pytest.approx(3 * found[0.205, 0.905])  # three clips, three times the area
        assert np.sqrt(min(found.values())) >= 4  # points across; a letter's stroke is one
        assert heat(np.ones((100, 100), int)).axes[0].collections[:] == []  # cells that touch are seen as they are

    def test_circles_stay_small_where_one_cell_holds_very_many(self, counts):
        counts[99, 99] = 100_000
        sizes = heat(counts).axes[0].collections[0].get_sizes()
        assert np.sqrt(sizes.max()) <= 10 and np.sqrt(sizes.min()) >= 4


def bar_panels(runs, *, empty=""):
    panels = []
    for shift, side in enumerate(("overall", *MODALITIES)):
        bars = []
        for place, run in enumerate(runs):
            accuracy = None if side == empty else 0.5 + 0.01 * place + 0.1 * shift
            low, high = (None, None) if accuracy is None else (accuracy - 0.05, accuracy + 0.05)
            bars.append(Bar(run, run if run in MODALITIES else None, accuracy, low, high))
        name = side if side == "overall" else f"{side}-preferred"
        panels.append(BarPanel(side, name, 0 if side == empty else 1234, tuple(bars)))
    return panels


class TestBars:
    def test_bars_intervals_and_the_line_to_pass_are_the_numbers_given(self):
        figure = draw_bars(bar_panels([*MODALITIES, "baseline"]), title="accuracy")
        for shift, axes in enumerate(figure.axes):
            widths = [patch.get_width() for bars in axes.containers for patch in bars]
            np.testing.assert_allclose(widths, [50 + 10 * shift, 51 + 10 * shift, 52 + 10 * shift])
            *intervals, to_pass = axes.lines
            ends = [line.get_xdata() for line in intervals]
            np.testing.assert_allclose(ends, [[45 + 10 * shift + n, 55 + 10 * shift + n] for n in range(3)])
            np.testing.assert_allclose(to_pass.get_xdata(), 51 + 10 * shift)  # the better unimodal network
            assert [text.get_text().strip() for text in axes.texts] == [f"{50 + n + 10 * shift:.1f}" for n in range(3)]
        assert [axes.get_title() for axes in figure.axes][1] == "audio-preferred\n1,234 clips"

    def test_rows_are_named_in_order_and_bars_start_at_zero(self):
        axes = draw_bars(bar_panels([*MODALITIES, "baseline"]), title="accuracy").axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["audio", "visual", "baseline"]
        top, bottom = axes.get_ylim()[1], axes.get_ylim()[0]
        assert top < 0 < 2 < bottom  # the first row is uppermost
        assert axes.get_xlim()[0] == 0

    def test_unimodal_networks_are_hatched_not_only_coloured(self):
        axes = draw_bars(bar_panels([*MODALITIES, "baseline"]), title="accuracy").axes[1]
        assert [bool(bars[0].get_hatch()) for bars in axes.containers] == [True, True, False]

    def test_an_empty_subset_says_so_and_has_no_bar(self):
        axes = draw_bars(bar_panels(["audio", "baseline"], empty="visual"), title="accuracy").axes[2]
        assert axes.containers == [] and axes.lines[:] == []
        assert [text.get_text() for text in axes.texts] == ["no clips"]
        assert axes.get_title() == "visual-preferred\n0 clips"


class TestThresholds:
    # 30 audio-sided clips, every second one right; 25 visual-sided ones, all right with one of two seeds.
    DISCREPANCIES = np.concatenate([np.linspace(0.01, 0.9, 30), -np.linspace(0.01, 0.5, 25), [0.0]])
    CORRECT = np.concatenate([np.arange(30) % 2, np.full(25, 0.5), [1.0]])

    def test_accuracies_by_hand_and_none_where_clips_are_few(self):
        curves = threshold_curves({"audio": self.CORRECT}, self.DISCREPANCIES, thresholds=np.array([0.0, 0.2, 0.5]))
        np.testing.assert_array_equal(curves.clips["audio"], [30, 23, 14])
        np.testing.assert_array_equal(curves.clips["visual"], [25, 15, 0])
        # Of the 23 audio-sided clips beyond 0.2 (numbers 7 to 29) the odd ones are right.
        np.testing.assert_allclose(curves.accuracy["audio"]["audio"], [0.5, 12 / 23, np.nan])
        np.testing.assert_allclose(curves.accuracy["audio"]["visual"], [0.5, np.nan, np.nan])

    def test_lines_and_counts_are_the_curves(self):
        runs = {"audio": self.CORRECT, "visual": 1 - self.CORRECT, "tmc": self.CORRECT**2}
        curves = threshold_curves(runs, self.DISCREPANCIES)
        figure = draw_thresholds(curves, modality_of={"audio": "audio", "visual": "visual"}, title="pets")
        left, right, left_clips, right_clips = figure.axes
        for axes, side in ((left, "audio"), (right, "visual")):
            assert [line.get_label() for line in axes.lines] == list(runs)
            for line in axes.lines:
                np.testing.assert_array_equal(line.get_xdata(), curves.thresholds)
                np.testing.assert_array_equal(line.get_ydata(), 100 * curves.accuracy[line.get_label()][side])
            assert axes.get_title().startswith(f"{side}-dominated")
        assert [text.get_text() for text in left_clips.texts] == [f"{n}" for n in curves.clips["audio"][::4]]
        assert [text.get_text() for text in right_clips.texts] == [f"{n}" for n in curves.clips["visual"][::4]]
        assert left.get_ylim() == right.get_ylim()

    def test_where_clips_are_few_the_panel_is_hatched_and_the_legend_says_so(self):
        curves = threshold_curves({"audio": self.CORRECT}, self.DISCREPANCIES)
        figure = draw_thresholds(curves, modality_of={"audio": "audio"}, title="pets")
        first = curves.thresholds[curves.clips["audio"] < FEWEST_CLIPS][0]
        (span,) = figure.axes[0].patches
        assert span.get_x() == pytest.approx(first) and span.get_hatch()
        assert figure.legends[0].get_texts()[0].get_text() == "fewer than 20 clips"

    def test_no_entry_stands_alone_in_the_last_row_of_a_legend(self):
        for entries in range(4, 12):
            figure = new_figure(PAGE, 2)
            legend_below(
                figure,
                [
                    line_key("a" * 18, style)
                    for style in line_styles(list(map(str, range(entries))), unimodal={}).values()
                ],
                longest=18,
            )
            columns = figure.legends[0]._ncols
            assert columns <= 4 and entries % columns != 1

    def test_a_side_without_enough_clips_says_so(self):
        curves = threshold_curves({"audio": np.ones(5)}, np.linspace(-0.1, 0.5, 5))
        figure = draw_thresholds(curves, modality_of={"audio": "audio"}, title="pets")
        for axes in figure.axes[:2]:
            assert [text.get_text() for text in axes.texts] == ["fewer than 20 clips at every T"]

    def test_two_networks_of_one_modality_differ(self):
        styles = line_styles([], unimodal={"audio": "audio", "visual": "visual", "loud": "audio"})
        assert len({(style.dashes, style.marker) for style in styles.values()}) == 3
        assert styles["audio"].colour == styles["loud"].colour

    def test_twelve_runs_differ_in_more_than_colour(self):
        styles = line_styles([f"run{n}" for n in range(35)], unimodal={})
        assert len({(style.dashes, style.marker) for style in list(styles.values())[:7]}) == 7
        for first, second in itertools.combinations(styles.values(), 2):
            assert (first.colour, first.dashes, first.marker) != (second.colour, second.dashes, second.marker)
        greys = [(style.dashes, style.marker) for style in list(styles.values())[:12]]
        assert len(set(greys)) == 12


class TestDistribution:
    VALUES = np.array([-0.9, -0.3, -0.3, 0.0, 0.0, 0.01, 0.5, 1.0, -1.0])

    def test_every_clip_is_in_one_bar_of_its_sides_colour(self):
        figure = draw_distribution({"estimated": self.VALUES}, thresholds=(0.2,), title="pets")
        steps = {patch.get_label(): patch for patch in figure.axes[0].patches}
        heights = {side: patch.get_data().values - patch.get_data().baseline for side, patch in steps.items()}
        assert {side: values.sum() for side, values in heights.items()} == {"audio": 3, "visual": 4, "tie": 2}
        edges = steps["audio"].get_data().edges
        # Ties are drawn on top of the audio-sided clip in the bin that begins at 0.
        zero = int(np.flatnonzero(np.isclose(edges, 0))[0])
        assert (heights["audio"][zero], steps["tie"].get_data().baseline[zero], heights["tie"][zero]) == (1, 1, 2)
        assert to_hex(steps["audio"].get_facecolor()).upper() == SIDE_COLOURS["audio"]
        assert steps["visual"].get_hatch() and not steps["audio"].get_hatch()

    def test_lines_stand_at_plus_and_minus_every_threshold(self):
        axes = draw_distribution({"estimated": self.VALUES}, thresholds=(0.0, 0.2), title="pets").axes[0]
        assert sorted(line.get_xdata()[0] for line in axes.lines) == [-0.2, 0.0, 0.2]
        assert [text.get_text().strip() for text in axes.texts] == ["0", "0.2"]

    def test_a_planted_distribution_has_a_panel_of_its_own_on_the_same_axis(self):
        figure = draw_distribution({"estimated": self.VALUES, "planted": self.VALUES[:4]}, thresholds=(), title="pets")
        first, second = figure.axes
        assert (first.get_title(), second.get_title()) == ("estimated", "planted")
        assert first.get_xlim() == second.get_xlim() == (-1, 1)
        assert second.get_title("left") == "visual-preferred\n75.0 % (3)"


def some_classes(clips, classes, names=None):
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, clips)
    lean = random.normal(0, 0.2, classes)[labels]
    audio, visual = (np.clip(random.random(clips) + sign * lean, 0, 1) for sign in (1, -1))
    names = names or [f"class {number}" for number in range(classes)]
    return labels, audio, visual, class_sides(labels, audio, visual, classes=names)


class TestClasses:
    @pytest.mark.parametrize(("clips", "classes"), [(40, 2), (900, 309)])
    def test_stacked_bars_are_the_counts_in_order(self, clips, classes):
        *_, rows = some_classes(clips, classes)
        selection = select_classes(rows, most=24)
        shown = [row for _, members in selection.groups for row in members]
        axes = draw_class_counts(selection, title="classes").axes[0]
        stacks = [container for container in axes.containers if isinstance(container, BarContainer)]
        for container, side in zip(stacks, ("audio", "tied", "visual"), strict=True):
            assert [patch.get_width() for patch in container] == [getattr(row, side) for row in shown]
        ends = [patch.get_x() + patch.get_width() for patch in stacks[-1]]
        assert ends == [row.clips for row in shown]
        assert [label.get_text() for label in axes.get_yticklabels()] == [row.name for row in shown]
        centres = [patch.get_y() for patch in stacks[0]]
        assert centres == sorted(centres)
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is uppermost
        captions = [text.get_text() for text in axes.texts]
        assert captions == ([name for name, _ in selection.groups] if classes > 24 else [])

    def test_scatters_show_every_clip_of_the_class_on_its_side(self):
        labels, audio, visual, rows = some_classes(200, 3)
        clouds = [ClassCloud(row.name, audio[labels == row.label], visual[labels == row.label]) for row in rows]
        figure = draw_class_scatters(clouds, title="classes")
        assert [axes.get_title() for axes in figure.axes] == [row.name for row in rows]
        for axes, row in zip(figure.axes, rows, strict=True):
            points = {line.get_label(): line.get_xydata() for line in axes.lines if line.get_marker() != "None"}
            assert {side: len(xy) for side, xy in points.items()} == {
                "audio": row.audio, "visual": row.visual, "tie": row.tied,
            }  # fmt: skip
            assert (points["audio"][:, 0] > points["audio"][:, 1]).all()
            assert axes.get_xlim() == axes.get_ylim() == (0, 1)
            box = axes.get_window_extent()
            assert box.width == pytest.approx(box.height)

    def test_no_two_classes_have_the_same_name_on_a_figure(self):
        names = [f"playing the {what} in a large orchestra, part {n}" for what in ("flute", "harp") for n in (1, 11)]
        labels, audio, visual, rows = some_classes(200, 4, names)
        clouds = [ClassCloud(row.name, audio[labels == row.label], visual[labels == row.label]) for row in rows]
        titles = [axes.get_title() for axes in draw_class_scatters(clouds, title="classes").axes]
        bars = draw_class_counts(select_classes(rows, most=24), title="classes").axes[0].get_yticklabels()
        assert len(set(titles)) == len({label.get_text() for label in bars}) == 4
        for title in titles:
            assert max(map(len, title.split("\n"))) <= 20 and title.startswith("playing")

    def test_thousands_of_clips_are_one_picture_in_the_svg(self):
        random = np.random.default_rng(0)
        cloud = ClassCloud("many", *random.random((2, 20_000)))
        assert len(to_svg(draw_class_scatters([cloud], title="classes"))) < 200_000


def seed_curves(points=30, *, groups=("ratio", "coefficient")):
    x = np.linspace(0.1, 3, points)
    return {
        group: {"audio": (x, np.linspace(1, 2 + place, points)), "visual": (x, np.linspace(1, 0.5, points))}
        for place, group in enumerate(groups)
    }


class TestDiagnostics:
    def test_a_row_a_group_a_column_a_seed_a_line_a_name(self):
        curves = {1: seed_curves(), 0: seed_curves(20)}
        figure = draw_diagnostics(curves, title="run")
        assert len(figure.axes) == 4
        for axes, (group, seed) in zip(figure.axes, itertools.product(("ratio", "coefficient"), (0, 1)), strict=True):
            for line, (x, values) in zip(axes.lines, curves[seed][group].values(), strict=True):
                np.testing.assert_array_equal(line.get_xdata(), x)
                np.testing.assert_array_equal(line.get_ydata(), values)
        assert [axes.get_title() for axes in figure.axes[:2]] == ["seed 0", "seed 1"]
        assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["ratio", "coefficient"]
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["audio", "visual"]
        assert {axes.get_xlabel() for axes in figure.axes[2:]} == {"epoch"}

    def test_no_more_than_four_seeds_stand_abreast(self):
        figure = draw_diagnostics({seed: seed_curves(groups=("ratio",)) for seed in range(6)}, title="run")
        assert [axes.get_title() for axes in figure.axes] == [f"seed {seed}" for seed in range(4)]

    def test_long_curves_are_drawn_as_means_of_neighbours(self):
        x = np.arange(1, 11.0)
        ends, means = thinned(x, x**2, most=4)
        np.testing.assert_array_equal(ends, [3, 6, 9, 10])
        np.testing.assert_allclose(means, [14 / 3, 77 / 3, 194 / 3, 100])
        np.testing.assert_array_equal(thinned(x, x, most=10), (x, x))
        figure = draw_diagnostics({0: seed_curves(10_000)}, title="run")
        assert max(len(line.get_xdata()) for axes in figure.axes for line in axes.lines) <= 400

    def test_what_is_on_and_off_is_a_filled_lane_a_name(self):
        x = np.arange(1, 5.0)
        windows = {"audio": (x, np.array([0.0, 1.0, 0.5, 0.0])), "visual": (x, np.array([0.0, 0.0, 0.25, 1.0]))}
        (axes,) = draw_diagnostics({0: {"rebalancing": windows}}, title="run").axes
        lanes = [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]
        for number, (lane, (_, values)) in enumerate(zip(lanes, windows.values(), strict=True)):
            np.testing.assert_allclose(lane.values, number + 0.9 * values)
            np.testing.assert_array_equal(lane.edges, [0, 1, 2, 3, 4])
            assert lane.baseline == number
        assert [label.get_text() for label in axes.get_yticklabels()] == ["audio", "visual"]

    def test_weights_that_are_seldom_zero_stay_lines(self):
        x = np.arange(1, 21.0)
        weights = {"audio": (x, np.append(np.full(19, 0.4), 0.0)), "visual": (x, np.full(20, 0.5))}
        (axes,) = draw_diagnostics({0: {"weight": weights}}, title="run").axes
        assert len(axes.lines) == 2

    def test_parts_of_a_whole_stay_lines_though_one_is_always_zero(self):
        x = np.arange(1, 21.0)
        weights = {"audio": (x, x / 20), "visual": (x, 1 - x / 20), "joint": (x, np.zeros(20))}
        (axes,) = draw_diagnostics({0: {"weight": weights}}, title="run").axes
        assert [line.get_ydata().tolist() for line in axes.lines] == [y.tolist() for _, y in weights.values()]

    def test_a_name_that_is_alone_in_its_group_is_said_on_the_axis(self):
        x = np.arange(1, 4.0)
        speed = {"audio": (x, x), "visual": (x, -x)}
        figure = draw_diagnostics({0: {"speed": speed, "difference": {"speed": (x, 2 * x)}}}, title="greedy")
        assert [axes.get_ylabel() for axes in figure.axes] == ["speed", "difference\nspeed"]
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["audio", "visual"]

    def test_a_branch_has_its_modalitys_look_and_the_words_that_are_given(self):
        x = np.arange(1, 4.0)
        plain, branches = (
            draw_diagnostics(
                {0: {"speed": {"audio" + end: (x, x), "visual" + end: (x, -x)}}}, title="r", explained=words
            )
            for end, words in (("", {}), ("_branch", {"audio_branch": "audio branch, s(visual | audio)"}))
        )
        looks = [
            [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in figure.axes[0].lines]
            for figure in (plain, branches)
        ]
        assert looks[0] == looks[1] and len(looks[0]) == 2
        legend = [text.get_text() for text in branches.legends[0].get_texts()]
        assert legend == ["audio branch, s(visual | audio)", "visual_branch"]

    def test_lines_of_one_panel_differ_in_their_markers_too(self):
        x = np.arange(1, 4.0)
        names = (*MODALITIES, "joint", "other")
        (axes,) = draw_diagnostics({0: {"weight": {name: (x, x + n) for n, name in enumerate(names)}}}, title="r").axes
        assert len({line.get_marker() for line in axes.lines}) == 4

    def test_a_wide_range_has_a_logarithmic_axis(self):
        x = np.arange(1, 4.0)
        figure = draw_diagnostics(
            {0: {"wide": {"a": (x, np.array([0.01, 1, 90]))}, "narrow": {"a": (x, x)}}}, title="run"
        )
        assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]

    def test_a_single_point_is_seen_and_no_finite_one_is_said(self):
        one, nothing = (np.array([1.0]), np.array([0.3])), (np.array([1.0]), np.array([np.nan]))
        figure = draw_diagnostics({0: {"weight": {"audio": one}, "speed": {"audio": nothing}}}, title="run")
        assert figure.axes[0].lines[0].get_marker() not in ("", "None")
        assert [text.get_text() for text in figure.axes[1].texts] == ["no finite value"]


class TestUncertainty:
    def test_each_histogram_is_a_share_of_its_own_clips(self):
        values = np.array([0.1, 0.1, 0.9, 0.6, 0.6, np.nan])
        correct = np.array([True, True, True, False, False, True])
        (axes,) = draw_uncertainty({"tmc": (values, correct)}, title="uncertainty").axes
        steps = {patch.get_label(): patch.get_data() for patch in axes.patches}
        for name, places in (("right", {0.1: 200 / 3, 0.9: 100 / 3}), ("wrong", {0.6: 100.0})):
            data = steps[name]
            for value, share in places.items():
                assert data.values[np.searchsorted(data.edges, value, side="right") - 1] == pytest.approx(share)
            assert data.values.sum() == pytest.approx(100)
        assert axes.get_title() == "tmc: 3 right, 2 wrong"  # the clip without an uncertainty is in neither

    def test_a_run_that_is_always_right_has_one_histogram(self):
        (axes,) = draw_uncertainty({"tmc": (np.array([0.5, 0.5]), np.ones(2, bool))}, title="uncertainty").axes
        assert [patch.get_label() for patch in axes.patches] == ["right"]


def learning(run, *, epochs, seeds):
    """A run that overfits, of an epoch or of many; of many the last loss is huge."""
    numbers = np.arange(epochs)
    falling, rising = 3 * 0.9**numbers + 1e-3, 1 - 0.9 ** (numbers + 1)
    curves = {"loss": falling, "accuracy": rising, "val_loss": falling + 0.3, "val_accuracy": 0.6 * rising}
    if epochs > 10:
        curves["loss"] = np.append(falling[:-1], 1e9)
    return [Learning("run", run, seed, numbers, curves, "end", "end of the training") for seed in range(seeds)]


def ordinary_and_extreme_figures():
    random = np.random.default_rng(0)
    few, many = [*MODALITIES, "baseline"], [*MODALITIES, *(f"{LONG} {n}" for n in range(10))]
    one, values, nine, right = np.full(1, 0.3), random.random(999), random.random((3, 9)), random.random((3, 9)) < 0.5
    cells = np.zeros((100, 100), int)
    cells[30, 30] = 1
    yield "learning-one", lambda: draw_learning({"audio": learning("audio", epochs=1, seeds=1)}, title=LONG)
    yield (
        "learning-eight",
        lambda: draw_learning({run: learning(run, epochs=200, seeds=3) for run in many[2:10]}, title="VGG-Sound"),
    )
    yield "heatmap-one", lambda: draw_heatmap(cells, audio_clips=0, visual_clips=0, ties=1, title=LONG)
    yield (
        "heatmap-many",
        lambda: draw_heatmap(
            cells * 12_345_678, audio_clips=0, visual_clips=12_340_001, ties=5_677, title="VGG-Sound, test split"
        ),
    )
    for name, runs in (("few", few), ("many", many)):
        yield f"bars-{name}", lambda runs=runs: draw_bars(bar_panels(runs, empty="visual"), title="pets, test split")
        shares = {run: random.random(300) for run in runs}
        for clips in (1, 300):
            yield (
                f"thresholds-{name}-{clips}",
                lambda shares=shares, clips=clips: draw_thresholds(
                    threshold_curves({run: share[:clips] for run, share in shares.items()}, np.linspace(-1, 1, clips)),
                    modality_of={"audio": "audio", "visual": "visual"},
                    title="pets, test split",
                ),
            )
    yield "distribution-one", lambda: draw_distribution({"estimated": one}, thresholds=(0.0, 0.2, 0.4), title="pets")
    yield (
        "distribution-two",
        lambda: draw_distribution(
            {"estimated": values, "planted": one},
            thresholds=(0.0, 0.2, 0.4, 0.95),
            title="pets, test split",
        ),
    )
    for classes in (1, 2, 309):
        names = [f"{LONG} {number}" for number in range(classes)]
        labels, audio, visual, rows = some_classes(1 if classes == 1 else 2_000, classes, names)
        yield f"classes-{classes}", lambda rows=rows: draw_class_counts(select_classes(rows, most=24), title="classes")
        clouds = [ClassCloud(row.name, audio[labels == row.label], visual[labels == row.label]) for row in rows[:12]]
        yield f"scatters-{classes}", lambda clouds=clouds: draw_class_scatters(clouds, title="classes")
    long = {0: {LONG: {LONG: (np.arange(3.0), np.arange(3.0))}}}
    yield "diagnostics-long", lambda: draw_diagnostics(long, title=short(LONG, 60))
    yield "diagnostics-seeds", lambda: draw_diagnostics({seed: seed_curves() for seed in range(3)}, title="ogm-ge")
    rate, share = (np.arange(1.0, 9), np.arange(8.0) * 1e5), (np.arange(1.0, 9), np.arange(8.0))
    launches = {
        "clips_per_second": [rate, (rate[0] + 8, rate[1])],
        "data_wait_share": [share],
        "gpu_use_share": [share],
    }
    yield "performance-long", lambda: draw_performance({LONG: launches, f"{LONG} 2": launches}, title=LONG)
    slow = {"clips_per_second": [(np.array([0.5]), np.array([0.02]))]}
    yield "performance-slow", lambda: draw_performance({"run": slow}, title="pets: how fast it trained")
    yield "uncertainty-long", lambda: draw_uncertainty({LONG: (nine[0], np.ones(9, bool))}, title="pets")
    yield (
        "uncertainty-three",
        lambda: draw_uncertainty(
            dict(zip(("tmc", "etmc", LONG), zip(nine, right, strict=True), strict=True)),
            title="pets, test split",
        ),
    )


FIGURES = dict(ordinary_and_extreme_figures())


def seen_texts(figure):
    """Every text with its box in pixels, that is drawn and not empty."""
    figure.draw_without_rendering()
    # Labels of ticks outside of an axis's limits exist, but are not drawn.
    undrawn = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in {*axis.majorTicks, *axis.minorTicks} - set(axis._update_ticks())
        for label in (tick.label1, tick.label2)
    }
    return [
        (text, text.get_window_extent())
        for text in set(figure.findobj(matplotlib.text.Text)) - undrawn
        if text.get_visible() and text.get_text().strip() and (text.axes is None or text.axes.get_visible())
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_every_letter_is_inside_the_picture_seven_points_or_more_and_over_no_other(name):
    figure = FIGURES[name]()
    texts = seen_texts(figure)
    assert texts
    width, height = figure.bbox.size
    for text, box in texts:
        assert text.get_fontsize() >= 7, text
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text
    for (first, one), (second, other) in itertools.combinations(texts, 2):
        overlap_x = min(one.x1, other.x1) - max(one.x0, other.x0)
        overlap_y = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert overlap_x < 1.5 or overlap_y < 1.5, (first, second)


@pytest.mark.parametrize("name", ["heatmap-one", "bars-few", "thresholds-few-300", "distribution-two", "classes-309",
                                  "scatters-309", "diagnostics-seeds", "performance-long",
                                  "uncertainty-three"])  # fmt: skip
def test_the_same_numbers_give_the_same_bytes(name):
    first, second = FIGURES[name](), FIGURES[name]()
    assert to_png(first) == to_png(second)
    svg = to_svg(first)
    assert svg == to_svg(second)
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_users_matplotlib_settings_change_nothing():
    before = to_svg(FIGURES["bars-few"]())
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "text.usetex": False}):
        assert to_svg(FIGURES["bars-few"]()) == before


def test_shortened_names_keep_what_tells_them_apart():
    long = [f"{'a' * 20}{letter}{'b' * 20}" for letter in "xyz"]
    assert shortened(["one", *long], 12) == {
        "one": "one",
        long[0]: "aaaa…xbbbbb…",
        long[1]: "aaaa…ybbbbb…",
        long[2]: "aaaa…zbbbbb…",
    }
    # Of the same letters, and longer by one; and what differs in nothing that can be printed.
    assert list(shortened(["a" * 40, "a" * 41], 9).values()) == ["aaa…", "aaa…a"]
    assert list(shortened(["a\n", "a\t", "\n", "\t"], 9).values()) == ["a…", "a… 2", "…", "… 2"]


@given(st.lists(st.text("ab ", max_size=30), unique=True, min_size=1, max_size=8))
def test_shortened_names_differ_and_are_short(names):
    texts = shortened(names, 12)
    assert list(texts) == names
    assert len(set(texts.values())) == len(names)
    assert all(len(text) <= 12 for text in texts.values())


def test_a_name_is_shortened_in_its_middle_and_kept_on_one_line():
    assert short("ogm-ge") == "ogm-ge"
    assert short("one\ntwo\tthree\x00") == "one two three"
    assert short("a" * 50 + "1", 9) == "aaaa…aaa1"
    assert len(short(LONG)) <= 28


def test_a_home_that_cannot_be_written_is_no_news_of_a_report():
    """matplotlib says two paragraphs there (its issue 18011)."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": "/dev/null"}
    code = (
        "import avbench.analysis.presenting.figures.style, matplotlib.font_manager, logging; "
        "logging.getLogger('matplotlib').error('!')"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stderr == "!\n"  # and what is news is said
