"""What there is to know of a method before it is trained: `avbench methods`."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from avbench.arguments import option_texts
from avbench.methods import METHODS
from avbench.methods.base import Method
from avbench.methods.choice import parse_methods
from avbench.wording import counted


def facts_of(name: str) -> dict[str, Any]:
    """All that a method says of itself, as JSON has it.

    name: as `--methods` takes it, options included, which its network may hang on. Raises UsageError.
    """
    (spec,) = parse_methods([name])
    method = spec.method(spec.config, classes=2, seed=0)
    return {
        "name": method.name,
        "summary": _first_line(spec.method),
        "network": method.network,
        "mechanism": method.mechanism,
        "paper": method.paper,
        "reads": list(method.modalities),
        "feeds_confidence_of": method.confidence_of,
        "passes_over": list(method.parts),
        "options": [
            {"name": option, "kind": kind, "default": default, "text": text}
            for option, kind, default, text in _options(spec.method.Config)
        ],
        "costs": dataclasses.asdict(method.costs),
        "compiles": method.compiles,
        "curves": method.curves,
    }


def all_facts() -> list[dict[str, Any]]:
    """Those of every method of the table, in its order."""
    return [facts_of(name) for name in METHODS]


def text_of(facts: Mapping[str, Any]) -> str:
    """The same for people, a fact a paragraph."""
    costs = facts["costs"]
    work = [
        counted(costs["encoders"], "ResNet-18"),
        f"{counted(costs['forwards'], 'forward')} and {counted(costs['backwards'], 'backward')} a step",
        *filter(None, [costs["passes"]]),
    ]
    paragraphs = [
        (facts["name"], facts["summary"]),
        ("does", facts["mechanism"]),
        ("network", facts["network"]),
        ("paper", facts["paper"]),
        ("costs", "; ".join(work)),
        ("--compile", facts["compiles"]),
        ("curves", facts["curves"]),
    ]
    lines = [_paragraph(name, text) for name, text in paragraphs if text]
    if facts["options"]:
        lines.append(f"\noptions, as in --methods {facts['name']}:{facts['options'][0]['name']}=VALUE")
        for option in facts["options"]:
            lines.append(_paragraph(f"  {option['name']}", f"{option['kind']} = {option['default']}. {option['text']}"))
    return "\n".join(lines)


def _paragraph(name: str, text: str) -> str:
    return textwrap.fill(text, width=110, initial_indent=f"{name:<20}", subsequent_indent=" " * 20)


def _first_line(method: type[Method]) -> str:
    return (inspect.getdoc(method) or "").partition("\n")[0]


def _options(config: type) -> list[tuple[str, str, Any, str]]:
    """Name, kind, default and text of each option; what is inherited, with the text of the class that says it."""
    kinds = get_type_hints(config)
    texts: dict[str, str] = {}
    for base in reversed(config.__mro__):
        if dataclasses.is_dataclass(base):
            texts |= {name: text for name, text in option_texts(base).items() if text}
    return [
        (field.name, _kind(kinds[field.name]), field.default, texts.get(field.name, ""))
        for field in dataclasses.fields(config)
    ]


def _kind(hint: Any) -> str:
    """An option's type as a person would write it."""
    return " | ".join(map(str, get_args(hint))) if get_origin(hint) is Literal else getattr(hint, "__name__", str(hint))
