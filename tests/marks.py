"""Marks for parameters of which CI tries an example of each kind, and `make test-exhaustive` all."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

EXHAUSTIVE = (pytest.mark.slow, pytest.mark.exhaustive)


def by_example(values: Iterable[Any], examples: Collection[Any]) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: the examples are slow tests, the other values exhaustive ones."""
    values = list(values)
    assert set(examples) <= set(values), "an example is none of the values"
    return [pytest.param(value, marks=pytest.mark.slow if value in examples else EXHAUSTIVE) for value in values]
