"""Classes that are numbers are in the order of the numbers; all others in that of their text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avbench.class_names import are_whole_numbers, in_order, order_text


@given(st.lists(st.integers(-(10**30), 10**30), min_size=1))
def test_whole_numbers_are_in_the_order_of_their_values(numbers):
    assert in_order(map(str, numbers)) == tuple(map(str, sorted(set(numbers))))


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["2", "10", "1"], ("1", "2", "10")),
        (["1", "01", "2", "1.0", "+1", "0"], ("0", "+1", "01", "1", "1.0", "2")),  # each a name of its own
        (["10.0", "9.0", "-1.0"], ("-1.0", "9.0", "10.0")),  # a column of pandas that has a hole
        (["2", "10", "dog"], ("10", "2", "dog")),
        (["2.5", "10", "1"], ("1", "10", "2.5")),
        (["class 2", "class 10"], ("class 10", "class 2")),
        (["\u0662", "\u0661\u0660"], ("\u0661\u0660", "\u0662")),
        (["1e3", "20"], ("1e3", "20")),
        (["1_0", "9"], ("1_0", "9")),
        (["-0", "0", "1"], ("-0", "0", "1")),
        (["9" * 5000, "1" + "0" * 5000], ("9" * 5000, "1" + "0" * 5000)),
        ([], ()),
    ],
)
def test_names_keep_their_text_and_are_ordered_by_value_only_where_all_are_whole_numbers(names, ordered):
    assert in_order(names) == in_order(reversed(names)) == ordered


def test_no_names_are_no_numbers():
    assert not are_whole_numbers([]) and are_whole_numbers(["0"]) and not are_whole_numbers(["0", ""])


def test_a_long_order_is_shown_by_its_ends():
    assert order_text(["0", "1", "2"]) == "0, 1, 2"
    assert order_text(map(str, range(309))).startswith("0, 1, 2, ") and order_text(map(str, range(309))).endswith(
        "18, ..., 308"
    )
