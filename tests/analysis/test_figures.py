"""The heatmap's picture: that it shows the counts it is given, where they belong, and is the same each time."""

import io
import xml.etree.ElementTree as ElementTree

import matplotlib.image
import numpy as np
import pytest

from avbench.analysis.figures import draw_heatmap, to_png, to_svg


def draw(counts):
    return draw_heatmap(counts, audio_clips=3, visual_clips=1, ties=1, title="pets, test split")


@pytest.fixture
def counts():
    cells = np.zeros((100, 100), int)
    cells[10, 80] = 3  # u_visual 0.1, u_audio 0.8: below the diagonal, to the right
    cells[90, 20] = 1
    cells[50, 50] = 1
    return cells


def test_audio_runs_to_the_right_and_visual_upwards(counts):
    axes = draw(counts).axes[0]
    image = axes.images[0]
    assert image.origin == "lower"
    assert tuple(image.get_extent()) == (0, 1, 0, 1)
    assert "audio" in axes.get_xlabel() and "visual" in axes.get_ylabel()
    shown = image.get_array()
    assert (shown[10, 80], shown[90, 20], shown.mask.sum()) == (3, 1, 100 * 100 - 3)


def test_a_cell_is_painted_where_its_confidences_are(counts):
    figure = draw(counts)
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


def test_shares_and_totals_are_written_on_it(counts):
    figure = draw(counts)
    axes = figure.axes[0]
    assert figure.get_suptitle() == "pets, test split: 5 clips, 1 exactly equal"
    assert axes.get_title("left").endswith("visual-preferred\n20.0 % (1)")
    assert axes.get_title("right").endswith("audio-preferred\n60.0 % (3)")


def test_the_same_counts_give_the_same_bytes(counts):
    assert to_png(draw(counts)) == to_png(draw(counts))
    assert to_svg(draw(counts)) == to_svg(draw(counts))


def test_the_svg_is_whole(counts):
    assert ElementTree.fromstring(to_svg(draw(counts))).tag == "{http://www.w3.org/2000/svg}svg"


def test_colour_scale_names_whole_counts(counts):
    counts[0, 0] = 60
    bar = draw(counts).axes[1]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["1", "2", "5", "10", "20", "50"]
    assert draw(np.minimum(counts, 1)).axes[1].get_yticklabels()[0].get_text() == "1"  # nowhere more than one clip
