"""What `avbench pack RECIPE --help` lists beside the command's own options: the recipe's fields, as it has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import tyro

from avbench.arguments import option_texts
from avbench.packing.recipes.recipe import Recipe, source_of


def with_fields(command: Any, recipe: Recipe) -> Any:
    """An object for tyro's help: the command's options, the recipe's fields and those of its source, as they are given.

    The command's --media says the source's default.
    """
    source = source_of(recipe)
    default = f"(default: {source.media_default})" if source.media_default else "(required)"
    media: Any = Annotated[Path | None, tyro.conf.arg(metavar="VIDEOS", help_behavior_hint=default)]
    parts = {
        "": _shown(command, instead={"media": media}),
        "recipe": _shown(recipe, leave_out=("kind", "source")),
        "source": _shown(recipe.source),
    }
    names = {"": "", "recipe": "", "source": source.table()}
    fields = [
        (f"part_{name}", Annotated[type(part), tyro.conf.arg(name=names[name])], dataclasses.field(default=part))
        for name, part in parts.items()
    ]
    return dataclasses.make_dataclass("Options", fields, frozen=True)()


def about(recipe: Recipe) -> str:
    """What the recipe packs, in a line."""
    return source_of(recipe).about()


def _shown(values: Any, *, leave_out: Collection[str] = (), instead: dict[str, Any] | None = None) -> Any:
    """An object like `values`, of a class whose fields have their texts with them and lists are written as in TOML.

    instead: types that some fields are shown with.
    """
    kind = type(values)
    texts, hints = option_texts(kind), get_type_hints(kind, include_extras=True)
    fields = []
    for one in dataclasses.fields(kind):
        if one.name not in leave_out:
            hint = (instead or {}).get(one.name, hints[one.name])
            if get_origin(hint) is tuple:
                hint = Annotated[hint, tyro.conf.arg(metavar="LIST|FILE" if one.name == "classes" else "LIST")]
            default = dataclasses.field(default=getattr(values, one.name), metadata={"help": texts[one.name]})
            fields.append((one.name, hint, default))
    return dataclasses.make_dataclass(kind.__name__, fields, frozen=True, namespace={"__doc__": kind.__doc__})()
