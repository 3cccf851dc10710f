"""A recipe from its TOML file and the command line. Every mistake is one line that names the file and the field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from avbench import shipped
from avbench.errors import RecipeError, UsageError, unknown
from avbench.packing.recipes.base import Source
from avbench.packing.recipes.recipe import Recipe, check, stored
from avbench.packing.recipes.sources import SOURCES, source_class
from avbench.settings import build, read_toml


def load_recipe(name_or_path: str, overrides: Mapping[str, object] | None = None) -> Recipe:
    """A shipped recipe by name, or any TOML file by path, with some fields overridden.

    Fields of the table [planted], say, are overridden as "planted.NAME". Raises RecipeError on an unknown recipe or
    field and on a value that makes no sense.
    """
    path = _recipe_file(name_or_path)
    where = path.name
    try:
        values = read_toml(path, "recipe file")
        for name, value in (overrides or {}).items():
            table, _, inner = name.partition(".")
            values[table] = {**_table(values.get(table, {}), table, where), inner: value} if inner else value
        recipe = _recipe(values, where)
    except UsageError as error:
        raise RecipeError(str(error)) from None
    check(recipe, where)
    return recipe


def stored_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that a dataset was packed with, from what `recipe.stored` gave. where: the file that holds it.

    Raises RecipeError where it is not one that this avbench can pack by.
    """
    try:
        source = source_class(values.get("kind", Recipe.kind))
        options = [source.table()] if source.table() else [one.name for one in fields(source.Config)]
        known = {*(one.name for one in fields(Recipe)), *options}
        # Beside its own options a source may store what older versions wrote there.
        recipe = _recipe({name: value for name, value in values.items() if name in known}, where)
    except UsageError as error:
        raise RecipeError(f"{where}: {error}") from None
    check(recipe, where)
    again = stored(recipe)
    for name, value in values.items():
        if again.get(name) != value:
            raise RecipeError(f"{where}: its recipe has {name} {value!r}, which this avbench does not pack by")
    return recipe


def option_of(source: type[Source], name: str) -> str:
    """How one of a source's options is written on the command line."""
    return f"--{source.table()}.{name}".replace("--.", "--").replace("_", "-")


def _recipe(values: dict[str, Any], where: str) -> Recipe:
    kind = values.get("kind", Recipe.kind)
    try:
        source = source_class(kind)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None
    options = _taken(values, source, where)
    for name in values:
        _check_known(name, source, where)
    config = _config(source, options, where)
    classes = _class_names(values.pop("classes", ()), where, hint=_hint(source, "classes"))
    classes = classes or source(config).class_names
    return replace(build(Recipe, {**values, "classes": list(classes)}, where), source=config)


def _taken(values: dict[str, Any], source: type[Source], where: str) -> dict[str, Any]:
    """The source's options, taken out of a recipe's values."""
    if table := source.table():
        return _table(values.pop(table, {}), table, where)
    names = [one.name for one in fields(source.Config)]
    return {name: values.pop(name) for name in names if name in values}


def _config(source: type[Source], options: Mapping[str, Any], where: str) -> Any:
    """The source's options as its Config; a lone text passes for a list of one."""
    hints = get_type_hints(source.Config)
    given = {
        name: [value] if isinstance(value, str) and get_origin(hints.get(name)) is tuple else value
        for name, value in options.items()
    }
    try:
        return build(source.Config, given, f"{where}: [{source.table()}]" if source.table() else where)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def _check_known(name: str, source: type[Source], where: str) -> None:
    """Raise RecipeError where a recipe has no field of this name, with a hint at what it may have been meant for."""
    known = [one.name for one in fields(Recipe) if one.name != "source"]
    if name in known:
        return
    if hint := _hint(source, name):
        raise RecipeError(f"{where}: no field {name!r}{hint}")
    for other in SOURCES.values():
        of_it = [other.table()] if other.table() else [one.name for one in fields(other.Config)]
        if name in of_it:
            what = f"[{name}]" if other.table() else repr(name)
            raise RecipeError(f"{where}: {what} is for recipes of kind {other.kind!r}, this one is {source.kind!r}")
    if not source.table():
        known += [one.name for one in fields(source.Config)]
    raise RecipeError(f"{where}: {unknown('field', name, known)}")


def _hint(source: type[Source], name: str) -> str:
    """A hint at the source's option that has the name of one of the recipe's fields, where that may have been meant."""
    is_one = source.table() and name in [one.name for one in fields(source.Config)]
    return f"; that of the table [{source.table()}] is {option_of(source, name)}" if is_one else ""


def _recipe_file(name_or_path: str) -> Path:
    """The file of a shipped recipe (in a checkout or inside the installed package), or the path as given."""
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return path
    recipes = {file.stem: file for file in sorted(shipped("shards").glob("*.toml"))}
    if name_or_path not in recipes:
        raise RecipeError(f"{unknown('recipe', name_or_path, recipes)}; or give the path of a .toml file")
    return recipes[name_or_path]


def _table(value: object, name: str, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: {name} is {value!r}, expected a table")
    return dict(value)


def _class_names(value: object, where: str, *, hint: str) -> tuple[str, ...]:
    """Class names from a list, or from a file with one a line. hint: the end of what is said of another value."""
    if isinstance(value, str):
        file = Path(value)
        try:
            value = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"{where}: classes names the file {file}, which cannot be read: {error}; a list is written "
                f'["dog", "cat"]'
            ) from None
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise RecipeError(
            f"{where}: classes is {value!r}; expected a list of names in quotes, or a file with one a line{hint}"
        )
    for name, count in Counter(value).items():
        if count > 1:
            raise RecipeError(f"{where}: classes has {name!r} {count} times; keep one")
    return tuple(value)
