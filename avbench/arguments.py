"""Kinds of command-line values that several commands take."""

from __future__ import annotations

from typing import Any

import tyro


def comma_list(kind: type, example: str) -> Any:
    """A command-line value like 0,1,2 (or several words) that is a tuple in Python and a list in TOML."""

    def parse(words: list[str]) -> tuple[Any, ...]:
        try:
            return tuple(kind(item.strip()) for word in words for item in word.split(",") if item.strip())
        except ValueError:
            raise ValueError(f"{' '.join(words)!r}, expected {example}") from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar=example,
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(item, kind) for item in value),
        str_from_instance=lambda value: [",".join(map(str, value))] if value else [],
    )
