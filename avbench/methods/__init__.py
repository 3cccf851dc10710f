"""The table of methods. A new one is its own file, a line here, and its test.

Nothing is imported before a method is asked for: they need torch, and whoever only names them should not wait for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avbench.methods.base import Method

# Where each method's class lies: module of this package, and name.
PLACES: Mapping[str, tuple[str, str]] = {
    "audio": ("unimodal", "Audio"),
    "visual": ("unimodal", "Visual"),
    "baseline": ("baseline", "Baseline"),
    "ogm-ge": ("ogm_ge", "OGMGE"),
    "gradient-blending": ("gradient_blending", "GradientBlending"),
    "greedy": ("greedy", "Greedy"),
    "tmc": ("tmc", "TMC"),
}
ENTRY_POINTS = "avbench.methods"  # the group in which another package names methods of its own


class _Methods(MutableMapping[str, "type[Method]"]):
    """The classes of PLACES by name, each imported when it is first taken; others may be put beside them."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Method] | None] = dict.fromkeys(PLACES)

    def __getitem__(self, name: str) -> type[Method]:
        method = self._classes[name]
        if method is None:
            module, class_name = PLACES[name]
            method = getattr(importlib.import_module(f"avbench.methods.{module}"), class_name)
            self._classes[name] = method
        return method

    def __setitem__(self, name: str, method: type[Method]) -> None:
        self._classes[name] = method

    def __delitem__(self, name: str) -> None:
        del self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


METHODS: MutableMapping[str, type[Method]] = _Methods()
