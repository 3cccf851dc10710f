"""Settings: frozen dataclasses, whose fields say what a change of them means, and how they are read from outside."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from avbench.errors import UsageError, unknown

# Settings of config.toml that have another place now than in older run folders.
MOVED: Mapping[str, str] = MappingProxyType(
    {"training.batch_norm": "engine.batch_norm", "training.precision": "engine.precision"}
)


def setting(default: Any = dataclasses.MISSING, *, resumable: bool = False, moves_numbers: bool = True) -> Any:
    """A field of a settings class.

    resumable: whether a resumed run may change it; else it would be another run. moves_numbers: whether runs that
    differ in it are of two configurations, whose seeds may not be averaged. A field without this is the latter.
    """
    return dataclasses.field(default=default, metadata={"resumable": resumable, "moves_numbers": moves_numbers})


def flat(config: Any) -> dict[str, Any]:
    """Every setting by its name in config.toml, such as "optimizer.momentum", as TOML has its value."""
    return {name: plain(value) for name, _, value in _leaves(config)}


def resumable(config: Any) -> frozenset[str]:
    """The names of the settings that a resumed run may change."""
    return frozenset(name for name, field, _ in _leaves(config) if field.metadata.get("resumable", False))


def deciding(config: Any) -> dict[str, Any]:
    """The settings that move numbers, by name."""
    return {name: plain(value) for name, field, value in _leaves(config) if field.metadata.get("moves_numbers", True)}


def plain(value: Any) -> Any:
    """A value as TOML has it: paths as text, tuples as lists."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """A TOML file's values. what: it is, for the one line of a UsageError where it is missing or not readable."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such {what}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not readable as TOML ({error})") from None


def build(kind: type, values: Mapping[str, Any], where: str, *, missing: Any = dataclasses.MISSING) -> Any:
    """A settings class of a mapping's values, as TOML has them. where: they are from, as errors say it.

    missing: what a required field without a value becomes; by default it is an error. Raises UsageError for a field
    that there is not, and for a value of another kind.
    """
    types = get_type_hints(kind)
    for name in values:
        if name not in types:
            raise UsageError(f"{where}: {unknown('field', name, types)}")
    required = {item.name for item in dataclasses.fields(kind) if is_required(item)} - set(values)
    if required and missing is dataclasses.MISSING:
        raise UsageError(f"{where}: {sorted(required)[0]} is missing")
    given = {name: _convert(value, types[name], f"{where}: {name}", missing) for name, value in values.items()}
    return kind(**{**dict.fromkeys(required, missing), **given})


def is_required(item: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def moved(values: Mapping[str, Any]) -> dict[str, Any]:
    """What config.toml says, as an older version wrote it or as this one does, each setting at its place of today."""
    found = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    for old, new in MOVED.items():
        (from_table, name), (to_table, to_name) = old.split("."), new.split(".")
        if isinstance(found.get(from_table), dict) and name in found[from_table]:
            value = found[from_table].pop(name)
            if isinstance(table := found.setdefault(to_table, {}), dict):
                table.setdefault(to_name, value)
    return found


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item, value


_IN_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _convert(value: Any, kind: Any, where: str, missing: Any) -> Any:
    """A value as TOML has it, as the field has it. Raises UsageError where it is none of the field's kind."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} is {value!r}, expected a table")
        return build(kind, value, where, missing=missing)
    if get_origin(kind) is tuple:
        item_kind = get_args(kind)[0]
        if not isinstance(value, list):
            raise UsageError(f"{where} is {value!r}, expected a list")
        return tuple(_convert(item, item_kind, where, missing) for item in value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{where}: {unknown('value', str(value), map(str, get_args(kind)))}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    expected = str if kind is Path else kind
    if type(value) is not expected:
        raise UsageError(f"{where} is {value!r}, expected {_IN_WORDS.get(expected, expected.__name__)}")
    return Path(value) if kind is Path else value
