"""avbench methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from avbench.arguments import named
from avbench.cli.output import json_errors, print_json
from avbench.cli.parsing import parse


@dataclass(frozen=True)
class MethodsArgs:
    """The methods that there are; of one that is named, its options, its paper and what it costs."""

    method: Annotated[tyro.conf.Positional[str], named("METHOD", default="all")] = ""
    """A method as --methods takes it: ogm-ge, or your_module:YourMethod."""
    json: bool = False
    """Answer as JSON on stdout."""


def run(argv: Sequence[str]) -> None:
    """Print what methods say of themselves."""
    args = parse(MethodsArgs, argv, "avbench methods")
    with json_errors(asked=args.json):
        from avbench.methods.catalogue import all_facts, facts_of, text_of

        found = [facts_of(args.method)] if args.method else all_facts()
    if args.json:
        print_json(found[0] if args.method else found)
    elif args.method:
        print(text_of(found[0]))
    else:
        width = max(len(facts["name"]) for facts in found)
        for facts in found:
            print(f"{facts['name']:<{width}}  {facts['mechanism']}")
        print("\n`avbench methods METHOD` says more: options, paper, costs.")
