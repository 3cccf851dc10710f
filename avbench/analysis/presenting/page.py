"""The report as one HTML page, with every figure beside it as a file. Lays out; every number is given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from avbench.analysis.assessment import Evaluation
from avbench.analysis.notes import FEW
from avbench.analysis.presenting import registry
from avbench.analysis.presenting.figures.plan import PLACES, Picture
from avbench.analysis.presenting.report_folder import PAGE_FILE
from avbench.analysis.presenting.sections import apart, sections
from avbench.analysis.presenting.sheet import Sheet
from avbench.analysis.presenting.tables.classes import CLASSES_FILE
from avbench.analysis.reading.results import ReadFolder, Results
from avbench.progress import progress
from avbench.vocabulary import SPLITS

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def render_page(evaluation: Evaluation, results: Results, sheets: Sequence[Sheet]) -> dict[str, bytes]:
    """The page and its figures (PNG and SVG each), by file name."""
    plans = [(figure.place, plan) for figure in registry.FIGURES for plan in figure.plans(evaluation, results)]
    pictures: dict[str, list[Picture]] = {place: [] for place in (*PLACES, *(place for place, _ in plans))}
    with progress("figures", patience_seconds=3.0) as tick:
        for done, (place, plan) in enumerate(plans):
            tick(done, len(plans))
            pictures[place].append(plan.picture())
    files: dict[str, bytes] = {}
    for picture in (picture for of_place in pictures.values() for picture in of_place):
        files |= {f"{picture.name}.png": picture.png, f"{picture.name}.svg": picture.svg}
    files[PAGE_FILE] = _page(evaluation, results, sheets, pictures).encode()
    return files


def _page(
    evaluation: Evaluation, results: Results, sheets: Sequence[Sheet], pictures: Mapping[str, Sequence[Picture]]
) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["whole"] = _unbroken
    environment.filters["marked"] = _with_its_mark
    dataset = results.folders[0].dataset if results.folders else {}
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        evaluation=evaluation,
        results=results,
        sections=sections(sheets),
        apart=apart(sheets),
        pictures=pictures,
        dataset=dataset,
        splits=SPLITS,
        class_counts=_class_counts(dataset),
        classes_file=CLASSES_FILE,
        events={path: events for path, events in results.events.items() if events},
        methods=_methods(evaluation, results),
        folders=[(folder, _environment_rows(folder)) for folder in results.folders],
    )


def _unbroken(text: str) -> str:
    """Words whose numbers stay on one line with what belongs to them."""
    return re.sub(r" (=|%) ?", lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}", match[1] == "%" or 2), text)


def _with_its_mark(text: str) -> str:
    """A name or number with the mark of few clips on the same line; all else as it is, fit to be copied."""
    return f"{text.removesuffix(f' {FEW}')}\N{NO-BREAK SPACE}{FEW}" if text.endswith(f" {FEW}") else text


def _class_counts(dataset: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """Clips of each class in train, val and test; empty where dataset.json does not say."""
    per_split = dataset.get("clips_per_class", {})
    return [
        (name, [int(per_split[split][label]) if split in per_split else 0 for split in SPLITS])
        for label, name in enumerate(dataset.get("classes", ()))
        if per_split
    ]


def _environment_rows(folder: ReadFolder) -> list[tuple[str, str]]:
    return [row for name, value in folder.environment.items() for row in _flat(name, value)]


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A value of JSON as rows of a name and words, the parts of a record each in a row of its own."""
    if isinstance(value, Mapping) and value:
        for part, inner in value.items():
            yield from _flat(f"{name}: {part}", inner)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value, start=1):
            yield from _flat(f"{name} {number}" if len(value) > 1 else name, inner)
    elif isinstance(value, list):
        yield name, ", ".join(map(_words, value)) or "none"
    else:
        yield name, _words(value)


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _methods(evaluation: Evaluation, results: Results) -> list[tuple[str, str, str, str]]:
    """Per run: its name, method, network and options, in words; empty where nobody said more than names."""
    rows = [
        (
            run,
            method,
            evaluation.networks.get(run, ""),
            ", ".join(f"{name} = {_words(value)}" for name, value in results.options.get(run, {}).items()),
        )
        for run, method in evaluation.table.methods.items()
    ]
    return rows if any(network or options for *_, network, options in rows) else []
