"""The table of methods, and how `--methods` names runs of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from avbench.errors import UsageError, unknown
from avbench.methods.base import Method
from avbench.methods.baseline import Baseline
from avbench.methods.unimodal import Audio, Visual

METHODS: dict[str, type[Method]] = {method.name: method for method in (Audio, Visual, Baseline)}

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class RunSpec:
    """One configured method with a name: what `--methods` lists.

    text: as the user wrote it. name: keys everything the run leaves behind.
    """

    text: str
    name: str
    method: type[Method]
    config: Any


def parse_methods(texts: Sequence[str]) -> tuple[RunSpec, ...]:
    """Runs from the values of `--methods`: comma-separated `[name=]method[:option=value]...`.

    Raises UsageError for an unknown method or option, a value of the wrong kind, or two runs of one name.
    """
    specs = tuple(_parse_run(text.strip()) for group in texts for text in group.split(",") if text.strip())
    if not specs:
        raise UsageError(f"--methods names no method; known: {', '.join(sorted(METHODS))}")
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--methods names two runs {name!r}; give one another name: --methods other={name}")
    return specs


def _parse_run(text: str) -> RunSpec:
    head, *options = text.split(":")
    name, equals, method_name = head.partition("=")
    method_name = method_name if equals else name
    if method_name not in METHODS:
        raise UsageError(unknown("method", method_name, METHODS))
    if not _RUN_NAME.fullmatch(name):
        raise UsageError(f"--methods {text!r}: {name!r} is no name for a run (letters, digits, '.', '_', '+', '-')")
    method = METHODS[method_name]
    return RunSpec(text, name, method, _parse_options(method, options))


def _parse_options(method: type[Method], options: Sequence[str]) -> Any:
    types = get_type_hints(method.Config)
    fields = {field.name: types[field.name] for field in dataclasses.fields(method.Config)}
    values: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if name not in fields:
            if not fields:
                raise UsageError(f"method {method.name!r} has no options, and was given {option!r}")
            raise UsageError(unknown(f"option of method {method.name!r}:", name, fields))
        if not equals:
            raise UsageError(f"option {name!r} of method {method.name!r} has no value: write {name}=VALUE")
        values[name] = _convert(value, fields[name], f"option {name!r} of method {method.name!r}")
    try:
        return method.Config(**values)
    except ValueError as error:
        raise UsageError(f"method {method.name!r}: {error}") from None


def _convert(text: str, kind: Any, what: str) -> Any:
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UsageError(f"{what}: {unknown('value', text, get_args(kind))}")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{what} is {text!r}, expected true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{what} is {text!r}, expected {getattr(kind, '__name__', kind)}") from None
