"""How `--methods` names runs: methods of the table, of other packages, and of a file of one's own.

A method of somebody else's is found through an entry point of the group "avbench.methods" in its package, or is named
where it lies: `--methods my_package.my_module:MyMethod`.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from avbench.dataset import checksum
from avbench.entry_points import announced, load, where_of
from avbench.errors import UsageError, unknown
from avbench.methods import ENTRY_POINTS, METHODS
from avbench.methods.base import Method
from avbench.vocabulary import MODALITIES

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class RunSpec:
    """One configured method with a name: what `--methods` lists.

    text: as the user wrote it. name: keys everything the run leaves behind. checksum: of the file that a method given
    as module:Class lies in, by which a resumed run knows it again; else empty.
    """

    text: str
    name: str
    method: type[Method]
    config: Any
    checksum: str = ""


def parse_methods(texts: Sequence[str]) -> tuple[RunSpec, ...]:
    """Runs from the values of `--methods`: comma-separated `[name=]method[:option=value]...`.

    A method is a name of the table, of an entry point, or `module:Class`. Raises UsageError for an unknown method or
    option, a value of the wrong kind, or two runs of one name.
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
    file_checksum = ""
    others = announced(ENTRY_POINTS)
    known = {*METHODS, *others}
    if method_name not in known and options and options[0].isidentifier():
        method = _import(method_name, options.pop(0), known)
        name = name if equals else method.name
        file_checksum = _checksum_of(method)
    else:
        method = _known(method_name, others)
    if name in MODALITIES and method.confidence_of != name:
        raise UsageError(f"--methods {text!r}: a run named {name!r} is the {name} network; name this one otherwise")
    if not _RUN_NAME.fullmatch(name):
        raise UsageError(f"--methods {text!r}: {name!r} is no name for a run (letters, digits, '.', '_', '+', '-')")
    return RunSpec(text, name, method, _parse_options(method, options), file_checksum)


def _known(name: str, others: Mapping[str, EntryPoint]) -> type[Method]:
    """A method of the table or of an entry point."""
    if name in METHODS:
        return METHODS[name]
    if name not in others:
        raise UsageError(f"{unknown('method', name, [*METHODS, *others])}; or give one of yours as module:Class")
    point = others[name]
    return _checked(load(point, "method", UsageError), where_of(point, "method"))


def _import(module_name: str, class_name: str, known: Collection[str]) -> type[Method]:
    """A class by the module that it lies in, which may be a file in the current folder."""
    where = f"--methods {module_name}:{class_name}"
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0]:
            hint = f"; leave out .py: {module_name[:-3]}:{class_name}" if module_name.endswith(".py") else ""
            raise UsageError(f"{where} cannot be imported: {error}{hint}") from None
        raise UsageError(
            f"{where}: {error}; the module must lie in the current folder or be installed "
            f"({unknown('method', module_name, known)})"
        ) from None
    except (Exception, SystemExit) as error:  # whatever goes wrong in somebody else's file
        raise UsageError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, class_name):
        raise UsageError(f"{where}: {getattr(module, '__file__', module_name)} has no {class_name!r}")
    return _checked(getattr(module, class_name), where)


def _checked(method: object, where: str) -> type[Method]:
    """A class from outside, if it is a method that can stand in a table beside the others."""
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UsageError(f"{where} is no subclass of avbench.methods.base.Method")
    for attribute in ("name", "network"):
        if not hasattr(method, attribute):
            raise UsageError(f"{where}: class {method.__name__} does not say its {attribute}: {attribute} = ...")
    if method.confidence_of is not None and method.modalities not in (
        (method.confidence_of,),
        [method.confidence_of],
    ):
        raise UsageError(
            f"{where}: class {method.__name__} feeds the {method.confidence_of} confidence, and reads "
            f"{method.modalities!r}, not {method.confidence_of} alone; set confidence_of = None"
        )
    options = vars(method.Config)
    if not dataclasses.is_dataclass(method.Config) or (
        options.get("__annotations__") and "__dataclass_fields__" not in options
    ):
        raise UsageError(f"{where}: Config of class {method.__name__} is no dataclass")
    own = {field.name for field in dataclasses.fields(method.Config)}
    for base in method.__mro__[1:]:
        if issubclass(base, Method) and not own.issuperset(field.name for field in dataclasses.fields(base.Config)):
            raise UsageError(f"{where}: Config of class {method.__name__} must inherit {base.__name__}.Config")
    if METHODS.get(method.name, method) is not method:
        raise UsageError(
            f"{where}: class {method.__name__} has the name of another method, {method.name!r}; give it one of its own"
        )
    for base_field in dataclasses.fields(method.Config):
        if base_field.default is dataclasses.MISSING and base_field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{where}: option {base_field.name!r} of class {method.__name__} has no default")
    for option, kind in get_type_hints(method.Config).items():
        if kind not in _OPTION_KINDS and get_origin(kind) is not Literal:
            expected = "expected bool, int, float, str or Literal"
            raise UsageError(f"{where}: option {option!r} of class {method.__name__} is {kind}, {expected}")
    return method


_OPTION_KINDS = (bool, int, float, str)


def _checksum_of(method: type[Method]) -> str:
    """Of the source file that a class lies in; empty where there is none."""
    file = getattr(sys.modules[method.__module__], "__file__", None)
    return f"{checksum(Path(file).read_bytes()):016x}" if file else ""


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
        if name in values:
            raise UsageError(f"option {name!r} of method {method.name!r} is given twice; keep one")
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
