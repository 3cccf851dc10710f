"""What `avbench pack RECIPE --help` lists beside the command's own options: the recipe's fields, as it has them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

import tyro

from avbench.packing.recipes.recipe import Recipe


@dataclass(frozen=True)
class _Fields(Recipe):
    kind: tyro.conf.Suppress[str] = "folder"  # the recipe decides it
    classes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LIST|FILE")] = ()
    """Class names in order: '["dog", "cat"]', or a file with one a line. Empty: the labels that are found, sorted."""


def with_fields(command: Any, recipe: Recipe) -> tuple[type, Any]:
    """A class for tyro with the command's options and the recipe's fields, those of [planted] as planted.NAME.

    The second value is its default: the command's options and the recipe's fields as they are given.
    """

    @dataclass(frozen=True)
    class Options:
        command: Any
        fields: Annotated[_Fields, tyro.conf.arg(name="")]

    Options.__annotations__["command"] = Annotated[type(command), tyro.conf.arg(name="")]
    values = {one.name: getattr(recipe, one.name) for one in fields(Recipe)}
    return Options, Options(command, _Fields(**values))
