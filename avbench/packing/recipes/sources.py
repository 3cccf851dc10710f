"""The table of sources. A new one is its own file, a line here, and its test.

Another package's is found through an entry point of the group "avbench.sources", whose name is the source's kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from avbench.entry_points import announced, load, where_of
from avbench.errors import RecipeError, unknown
from avbench.packing.recipes.base import Source
from avbench.packing.recipes.folder import FolderSource
from avbench.packing.recipes.lists import ListSource
from avbench.packing.recipes.planted import PlantedSource

SOURCES: Mapping[str, type[Source]] = MappingProxyType(
    {source.kind: source for source in (FolderSource, ListSource, PlantedSource)}
)
_PARAMETERS = "__dataclass_params__"
ENTRY_POINTS = "avbench.sources"  # the group in which another package names sources of its own


def source_class(kind: object) -> type[Source]:
    """The source of a kind, of the table or of an entry point. Raises RecipeError for a kind that there is not."""
    if not isinstance(kind, str):
        raise RecipeError(f"kind is {kind!r}, expected a text")
    if kind in SOURCES:
        return SOURCES[kind]
    others = announced(ENTRY_POINTS)
    if kind not in others:
        raise RecipeError(unknown("kind", kind, [*SOURCES, *others]))
    point = others[kind]
    return _checked(load(point, "source", RecipeError), kind, where_of(point, "source"))


def _checked(source: object, kind: str, where: str) -> type[Source]:
    """A class from outside, if it is a source that a recipe can name."""
    if not (isinstance(source, type) and issubclass(source, Source)):
        raise RecipeError(f"{where} is no subclass of avbench.packing.recipes.base.Source")
    if getattr(source, "kind", None) != kind:
        raise RecipeError(f"{where}: class {source.__name__} does not say its kind: kind = {kind!r}")
    config = getattr(source, "Config", None)
    if not dataclasses.is_dataclass(config) or not getattr(config, _PARAMETERS).frozen:
        raise RecipeError(f"{where}: Config of class {source.__name__} is no frozen dataclass")
    if missing := sorted(source.__abstractmethods__):
        raise RecipeError(f"{where}: class {source.__name__} has no method {missing[0]}")
    return source
