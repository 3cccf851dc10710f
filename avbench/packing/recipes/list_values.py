"""The rows of published lists: tables of text, and JSON of any shape, each value by the name of its column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from avbench.errors import RecipeError
from avbench.packing.recipes.list_config import ListConfig
from avbench.packing.recipes.rows import csv_rows, one_each

Values = dict[str, str]
_STEP = re.compile(r"\{[^{}\[\].]+\}|\[[^{}\[\].]*\]|[^{}\[\].]+")
_SHOWN = 40  # characters of a value in an error


def values_of(path: Path, config: ListConfig) -> Iterator[tuple[str, Values]]:
    """(where it stands, value of each column) of each row of a list, `parts` among the columns.

    Raises RecipeError naming line or entry, and column, of what is no row.
    """
    rows = _json_rows(path, config) if config.json else _text_rows(path, config)
    expressions = config.regular_expressions()
    groups = config.groups
    for where, values in rows:
        if config.parse not in values:  # another order of the columns: it has those that `parts` would make
            yield where, {**dict.fromkeys(groups, ""), **values}
            continue
        text = values[config.parse]
        found = next(filter(None, (one.fullmatch(text) for one in expressions)), None)
        if found is None:
            raise RecipeError(f"{where}: column {config.parse} is {_short(text)!r}; expected {_shapes(config.parts)}")
        made = {name: found.groupdict().get(name) or "" for name in groups}
        yield where, {**values, **made}


def _text_rows(path: Path, config: ListConfig) -> Iterator[tuple[str, Values]]:
    rows = csv_rows(path, config.separator)
    orders = config.orders
    columns: list[str] = orders[0] if config.is_one_order else []
    if not orders:
        columns = [name.strip() for name in next(rows, (0, []))[1]]
        hint = "; where the first line does not name the columns, list.columns does"
        config.check_columns(columns, str(path), hint)
    for line, values in rows:
        where = f"{path}: line {line}"
        if not columns:
            columns = _order(values, orders, where)
        if len(orders) > 1 and len(values) != len(columns):
            raise RecipeError(f"{where} has {len(values)} values, the lines before it have {len(columns)}")
        texts = one_each(values, columns, path, line)
        if texts != columns:  # some copies of a list have a first line of names, and some have none
            yield where, dict(zip(columns, texts, strict=True))


def _order(values: Sequence[str], orders: Sequence[Sequence[str]], where: str) -> list[str]:
    """The order of the columns that has as many as the first row has values."""
    for order in orders:
        if len(order) == len(values):
            return list(order)
    known = " or ".join(f"{len(order)} ({','.join(order)})" for order in orders)
    raise RecipeError(
        f"{where} has {len(values)} values, {_short(','.join(values))!r}; a list of this recipe has {known}"
    )


def _json_rows(path: Path, config: ListConfig) -> Iterator[tuple[str, Values]]:
    steps = _STEP.findall(config.json)
    if "".join(steps) != config.json.replace(".", ""):
        raise RecipeError(f"[list] json is {config.json!r}; expected names, {{column}} and [column] with dots between")
    checked: set[tuple[str, ...]] = set()  # nearly all entries have the same columns
    for place, values in _below(_read_json(path), steps, "", path):
        where = f"{path}: entry {place}"
        if (columns := tuple(values)) not in checked:
            config.check_columns(columns, where)
            checked.add(columns)
        yield where, values


def _read_json(path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise RecipeError(f"{path}: the name {name!r} comes twice in one object; keep one")
            found[name] = value
        return found

    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise RecipeError(f"{path}: line {error.lineno}, column {error.colno} is no JSON: {error.msg}") from None
    except RecursionError:
        raise RecipeError(f"{path}: is no list: its JSON is nested too deep") from None


def _below(
    value: Any, steps: Sequence[str], place: str, path: Path, *, inside_of: str = ""
) -> Iterator[tuple[str, Values]]:
    """(place, values) of each row that the steps lead to. Raises RecipeError where they lead nowhere.

    inside_of: the name that the value has in its object, for errors.
    """
    if not steps:
        yield place, _flat(value, "")
        return
    step, rest = steps[0], steps[1:]
    if step.startswith("["):
        name = step[1:-1]
        for number, item in enumerate(_expected(value, list, place or inside_of, path)):
            where = f"{place}{'/' if place else ''}{number}"
            yield from _below({name: item} if name else item, rest, where, path)
    elif step.startswith("{"):
        for key, item in _expected(value, dict, place or inside_of, path).items():
            where = f"{place}{'/' if place else ''}{key}"
            for inner, values in _below(item, rest, where, path):
                yield inner, {**values, step[1:-1]: key}
    else:
        inside = _expected(value, dict, place or inside_of, path)
        if step not in inside:
            names = ", ".join(list(inside)[:5]) or "nothing"
            raise RecipeError(f"{path}: {f'entry {place}' if place else 'it'} has no {step!r}; it has {names}")
        yield from _below(inside[step], rest, place, path, inside_of=step)


def _expected(value: Any, kind: type, place: str, path: Path) -> Any:
    if not isinstance(value, kind):
        name = "an object" if kind is dict else "an array"
        told = _short(json.dumps(value))
        raise RecipeError(f"{path}: {f'entry {place}' if place else 'it'} is {told}, expected {name}")
    return value


def _flat(value: Any, name: str) -> Values:
    """The texts and numbers of an entry by their names, those of inner objects and arrays behind dots."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            inner: text
            for key, item in items
            for inner, text in _flat(item, f"{name}.{key}" if name else str(key)).items()
        }
    return {name: "" if value is None else value.strip() if isinstance(value, str) else json.dumps(value)}


def _shapes(parts: Sequence[str]) -> str:
    """Regular expressions as people write them: ID_START for "(?P<id>.{11})_(?P<start>[0-9]+)"."""
    return " or ".join(re.sub(r"\(\?P<(\w+)>[^()]*\)", lambda group: group[1].upper(), one) for one in parts)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
