"""The table of sources. A new one is its own file, a line here, and its test.

Another package's is found through an entry point of the group "avbench.sources", whose name is the source's kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

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
    others = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if kind not in others:
        raise RecipeError(unknown("kind", kind, [*SOURCES, *others]))
    return _load(others[kind])


def _load(point: EntryPoint) -> type[Source]:
    where = f"source {point.name!r} of the entry point {point.value}"
    try:
        source = point.load()
    except Exception as error:  # whatever goes wrong in somebody else's file
        raise RecipeError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(source, type) and issubclass(source, Source)):
        raise RecipeError(f"{where} is no subclass of avbench.packing.recipes.base.Source")
    if getattr(source, "kind", None) != point.name:
        raise RecipeError(f"{where}: class {source.__name__} does not say its kind: kind = {point.name!r}")
    config = getattr(source, "Config", None)
    if not dataclasses.is_dataclass(config) or not getattr(config, _PARAMETERS).frozen:
        raise RecipeError(f"{where}: Config of class {source.__name__} is no frozen dataclass")
    if missing := sorted(source.__abstractmethods__):
        raise RecipeError(f"{where}: class {source.__name__} has no method {missing[0]}")
    return source
