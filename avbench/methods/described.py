"""What methods say of themselves, read from their source: for help, which is not to wait for torch.

A class says it in its docstring, and in the docstrings below the fields of its `Config`; see `Method`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from avbench.methods import PLACES


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a method: `--methods METHOD:name=value`. kind: its annotation, as in the source."""

    name: str
    kind: str
    default: Any
    text: str


@dataclass(frozen=True, slots=True)
class Described:
    """A method of the table. summary: the first line of its docstring."""

    name: str
    summary: str
    options: tuple[Option, ...]


def described() -> tuple[Described, ...]:
    """Every method of the table, in its order."""
    return tuple(
        Described(name, _summary(module, kind), tuple(_options(module, kind)))
        for name, (module, kind) in PLACES.items()
    )


def _summary(module: str, kind: str) -> str:
    return (ast.get_docstring(_classes(module)[kind]) or "").partition("\n")[0]


def _options(module: str, kind: str) -> Iterator[Option]:
    """The fields of a method's Config, those of the Config that it inherits first."""
    definition = _classes(module)[kind]
    own = next((node for node in definition.body if isinstance(node, ast.ClassDef) and node.name == "Config"), None)
    if own is None:
        for base in definition.bases:
            yield from _options(*_place(module, ast.unparse(base)))
        return
    for base in own.bases:
        yield from _options(*_place(module, ast.unparse(base).removesuffix(".Config")))
    for node, below in pairwise([*own.body, ast.Pass()]):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            text = " ".join(str(below.value.value).split()) if is_text else ""  # type: ignore[attr-defined]
            yield Option(node.target.id, ast.unparse(node.annotation), ast.literal_eval(node.value), text)


def _place(module: str, kind: str) -> tuple[str, str]:
    """Where a class that a module names lies: there, or in the module of this package that it is imported from."""
    if kind in _classes(module):
        return module, kind
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == kind for alias in node.names):
            return str(node.module).removeprefix("avbench.methods."), kind
    raise LookupError(f"avbench/methods/{module}.py does not say where {kind} comes from")


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in _tree(module).body if isinstance(node, ast.ClassDef)}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
