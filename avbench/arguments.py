"""Kinds of command-line values that several commands take, and the lines that their help has of them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from itertools import pairwise
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

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


def named(metavar: str, *, default: str = "") -> Any:
    """How help shows an option's value. default: what it says of the default; empty: tyro's words, none for None."""

    def hint(value: str) -> str:
        return "" if value == "None" else f"(default: {value})"

    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})" if default else hint)


def option_texts(kind: type) -> dict[str, str]:
    """The text beside each field of a dataclass, on one line; "" without one, or without a source to read."""
    texts = {item.name: "" for item in dataclasses.fields(kind)}
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except OSError:
        return texts
    assert isinstance(definition, ast.ClassDef)
    for field, below in pairwise(definition.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = " ".join(text.split())
    return texts


def explain(kind: type) -> None:
    """Have help show each option's text as one paragraph: tyro itself breaks it where the source's lines end."""
    texts = option_texts(kind)
    for item in dataclasses.fields(kind):
        if texts[item.name]:
            item.metadata = MappingProxyType({**item.metadata, "help": texts[item.name]})
    for inner in nested(kind).values():
        explain(inner)


def nested(kind: type) -> dict[str, type]:
    """The fields of a dataclass that are dataclasses themselves: options of a group."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        for each in (hint, *get_args(hint)):
            if isinstance(each, type) and dataclasses.is_dataclass(each):
                found[name] = each
    return found
