"""The report as one HTML page, with every figure beside it as a file. Draws and lays out; every number is given."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from avbench.analysis import figures
from avbench.analysis.classes import Selection, classes_csv, select_classes
from avbench.analysis.curves import RUNS_A_FIGURE, draw_learning
from avbench.analysis.discrepancy import MODALITIES, Floats, heatmap
from avbench.analysis.evaluation import in_table_order, subset_name
from avbench.analysis.figures import Figure
from avbench.analysis.learning import by_run
from avbench.analysis.metrics import ACCURACY
from avbench.analysis.performance import course
from avbench.analysis.progress import progress
from avbench.analysis.sheet import Sheet
from avbench.analysis.statistics import is_few
from avbench.analysis.style import short, to_png, to_svg
from avbench.analysis.tables import FEW, FEW_NOTE
from avbench.records import SPLITS

if TYPE_CHECKING:
    from avbench.analysis.report import Evaluation
    from avbench.analysis.runs import Results, RunFolder

PAGE_FILE = "index.html"
CLASSES_FILE = "per_class.csv"
_TEMPLATE = Path(__file__).with_name("report.html.jinja")

# As many names as can be read one below the other, and small squares in two rows.
_CLASS_BARS, _CLASS_SQUARES = 24, 12
# An SVG is sharp at any size; one of more bytes than this is worth it only where the PNG is larger still.
_LARGEST_SVG_BYTES = 200_000
# Figures are shown this much larger than in print, so that their letters are as large as the page's small print.
_PIXELS_AN_INCH = 96 * 1.3

# What a kind of table is called in headings, in the order of the page.
_HEADINGS = {
    "accuracy": "Accuracy by subset",
    "published": "Beside the published numbers",
    "significance": "Is it more than chance?",
    "planted": "Subsets cut by planted quality",
    "seeds": "Over seeds",
    "cross-seed": "Subsets cut by the other seeds",
    "metrics": "Class accuracy, F1 and average precision",
    "utilization": "What each modality contributes",
    "branches": "What each branch takes from the other modality",
    "parts": "Unimodal parts of joint networks",
}
# Tables of these kinds have places of their own on the page, and are in no section of tables.
_LEARNING, _CLASSES, _PERFORMANCE = "learning", "classes", "performance"
_AUDIT, _ORIGIN = "audit", "origin"


# Of these kinds every threshold's table is open; of the others the first.
_ALL_SHOWN = ("accuracy",)
# Columns that are shown in another way, and the word for a row of means in the column of seeds.
_NETWORK, _SEED, _MEAN = "network", "seed", "mean"


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure of the page and its files NAME.png and NAME.svg. alt: what it is, for those who do not see it."""

    name: str
    alt: str
    caption: str
    width: int
    png: bytes
    svg: bytes

    @property
    def address(self) -> str:
        """The picture itself as an address: SVG, or PNG where the SVG is large and the PNG is smaller."""
        if len(self.svg) > max(_LARGEST_SVG_BYTES, len(self.png)):
            return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


def render_page(evaluation: Evaluation, results: Results, sheets: Sequence[Sheet]) -> dict[str, bytes]:
    """The page, its figures (PNG and SVG each) and the table of classes, by file name."""
    plans = {
        "learning": list(_plans_of_learning(evaluation)),
        "data": list(_plans_of_data(evaluation, results)),
        "accuracy": list(_plans_of_accuracy(evaluation)),
        "thresholds": list(_plans_of_thresholds(evaluation, results)),
        "classes": list(_plans_of_classes(evaluation, results)),
        "training": list(_plans_of_training(evaluation, results)),
        "performance": list(_plans_of_performance(evaluation, results)),
    }
    pictures: dict[str, list[Picture]] = {group: [] for group in plans}
    total = sum(map(len, plans.values()))
    with progress("figures") as tick:
        for done, (group, plan) in enumerate((group, plan) for group, of_group in plans.items() for plan in of_group):
            tick(done, total)
            pictures[group].append(plan.picture())
    files = {CLASSES_FILE: classes_csv(evaluation.classes).encode()}
    for picture in (picture for group in pictures.values() for picture in group):
        files |= {f"{picture.name}.png": picture.png, f"{picture.name}.svg": picture.svg}
    files[PAGE_FILE] = _page(evaluation, results, sheets, pictures).encode()
    return files


# Figures, each with the words that say how to read it


@dataclass(frozen=True, slots=True)
class _Plan:
    """A picture that is still to be drawn."""

    name: str
    draw: Callable[[], Figure]
    alt: str
    caption: str

    def picture(self) -> Picture:
        figure = self.draw()
        width = round(figure.get_figwidth() * _PIXELS_AN_INCH)
        return Picture(self.name, self.alt, self.caption, width=width, png=to_png(figure), svg=to_svg(figure))


def _plans_of_learning(evaluation: Evaluation) -> Iterator[_Plan]:
    begun = [one for one in evaluation.learning if len(one.epochs)]  # what diverged before is in the table alone
    runs = by_run(begun, evaluation.table.methods)
    several = any(len(seeds) > 1 for seeds in runs.values())
    for first in range(0, len(runs), RUNS_A_FIGURE):
        some = dict(list(runs.items())[first : first + RUNS_A_FIGURE])
        number = first // RUNS_A_FIGURE + 1
        yield _Plan(
            "learning" if number == 1 else f"learning-{number}",
            partial(draw_learning, some, title=f"{short(evaluation.dataset, 30)}: how each run learnt"),
            alt=f"Curves of loss and accuracy on train and validation by epoch, {number}",
            caption="Loss and accuracy of each epoch on train (as it was trained, dashed) and on validation"
            + (", the mean over the seeds that got so far ± their standard deviation" if several else "")
            + ". Diamonds and dotted lines: the epoch with the highest validation accuracy"
            + (" of each seed" if several else "")
            + ", whose network is the one that is evaluated. Epochs are counted from 0; losses of different methods "
            "are of different terms.",
        )


def _plans_of_data(evaluation: Evaluation, results: Results) -> Iterator[_Plan]:
    discrepancies = results.discrepancies
    yield _Plan(
        "heatmap",
        partial(
            figures.draw_heatmap,
            heatmap(*_confidences(results)),
            audio_clips=int((discrepancies > 0).sum()),
            visual_clips=int((discrepancies < 0).sum()),
            ties=int((discrepancies == 0).sum()),
            title=_title(evaluation),
        ),
        alt="Heatmap of mean audio confidence against mean visual confidence of every evaluated clip, with histograms",
        caption="Each cell counts the clips with these mean confidences of the audio and of the visual network; the "
        "colour scale is logarithmic. Where few cells hold clips, each is a circle, the larger the more clips. Clips "
        "below the diagonal prefer audio, clips above it vision. The histograms add up columns and rows.",
    )
    planted = {} if results.planted is None else {"planted": results.planted[~np.isnan(results.planted)]}
    yield _Plan(
        "discrepancy",
        partial(
            figures.draw_distribution,
            {"estimated": discrepancies, **planted},
            thresholds=evaluation.table.thresholds,
            title=_title(evaluation),
        ),
        alt="Histogram of the modality discrepancy",
        caption="How many clips have which discrepancy, audio minus visual confidence. Dashed lines stand at plus and "
        "minus each threshold T (numbered): clips beyond them are dominated by one modality."
        + (" Below, the true discrepancy of the planted clips." if planted else ""),
    )


def _plans_of_accuracy(evaluation: Evaluation) -> Iterator[_Plan]:
    to_pass = (
        " Hatched: unimodal networks. The dashed line is the better of the two; a method answers the question with yes "
        "where its bars pass the line on both sides."
    )
    for threshold in evaluation.table.thresholds:
        panels = _bar_panels(evaluation, threshold)
        yield _Plan(
            f"methods-{threshold:g}",
            partial(
                figures.draw_bars,
                panels,
                title=f"{_title(evaluation)}: accuracy by subset, T = {threshold:g}",
            ),
            alt=f"Bar chart of accuracy by subset, T = {threshold:g}",
            caption=f"Accuracy at T = {threshold:g}, the mean over seeds, with its 95 % interval over clips."
            + (to_pass if evaluation.table.unimodal else "")
            + (f" {FEW_NOTE}" if any(is_few(panel.clips) for panel in panels) else ""),
        )


def _plans_of_thresholds(evaluation: Evaluation, results: Results) -> Iterator[_Plan]:
    ordered = in_table_order(results.scores)
    runs = dict.fromkeys(score.run for score in ordered)
    shares = {run: np.mean([score.correct for score in ordered if score.run == run], axis=0) for run in runs}
    yield _Plan(
        "thresholds",
        partial(
            figures.draw_thresholds,
            figures.threshold_curves(shares, results.discrepancies),
            modality_of=evaluation.table.modality_of,
            title=_title(evaluation),
        ),
        alt="Accuracy of every method against the threshold T on audio-dominated and on visual-dominated clips",
        caption="Accuracy, the mean over seeds, on the clips whose discrepancy lies beyond T on the audio side (left) "
        "and on the visual side (right); below, how many clips these are. The further to the right, the more one-sided "
        f"the clips. Lines end where fewer than {figures.FEWEST_CLIPS} clips are left.",
    )


def _bar_panels(evaluation: Evaluation, threshold: float) -> list[figures.BarPanel]:
    table, panels = evaluation.table, []
    for side in ("overall", *MODALITIES):
        bars = []
        for run in (*table.unimodal, *table.multimodal):
            cell = evaluation.metrics.cell(run, ACCURACY, side, threshold)
            bars.append(figures.Bar(run, table.modality_of.get(run), cell.value, cell.low, cell.high))
        panels.append(
            figures.BarPanel(side, subset_name(side, threshold), table.clips(side, threshold), bars=tuple(bars))
        )
    return panels


def _plans_of_classes(evaluation: Evaluation, results: Results) -> Iterator[_Plan]:
    bars, squares = (select_classes(evaluation.classes, most=most) for most in (_CLASS_BARS, _CLASS_SQUARES))
    yield _Plan(
        "classes",
        partial(figures.draw_class_counts, bars, title=_title(evaluation)),
        alt="Stacked bars of audio-preferred and visual-preferred clips of each class",
        caption=f"Clips by preferred modality, {_which_classes(bars)}.",
    )
    audio, visual = _confidences(results)
    clouds = [
        figures.ClassCloud(row.name, audio[results.labels == row.label], visual[results.labels == row.label])
        for _, members in squares.groups
        for row in members
    ]
    yield _Plan(
        "class-confidences",
        partial(figures.draw_class_scatters, clouds, title=_title(evaluation)),
        alt="Small scatter plots of audio against visual confidence, one a class",
        caption="Each point is a clip: mean audio confidence to the right, mean visual confidence upwards; below the "
        f"diagonal it prefers audio (circles), above it vision (triangles). Shown: {_which_classes(squares)}.",
    )


def _which_classes(selection: Selection) -> str:
    if not selection.left_out:
        return "every class with clips, the most audio-sided first"
    counts = [len(members) for _, members in selection.groups]
    return (
        f"the {counts[0]} most audio-sided classes by share of clips, {counts[1]} at even distances in the order "
        f"between, and the {counts[2]} most visual-sided; {selection.left_out} more are in {CLASSES_FILE}"
    )


def _plans_of_training(evaluation: Evaluation, results: Results) -> Iterator[_Plan]:
    described = {run: said for folder in results.folders for run, said in folder.runs.items()}
    by_run: dict[str, dict[int, Any]] = {}
    for (run, seed), groups in results.diagnostics.items():
        if groups:
            by_run.setdefault(run, {})[seed] = groups
    for name, run in _file_names(by_run):
        hidden = len(by_run[run]) - len(figures.shown_seeds(by_run[run]))
        names = {group for groups in by_run[run].values() for group in groups}
        lanes = any(figures.is_on_and_off(seed.get(group, {}) for seed in by_run[run].values()) for group in names)
        said = described.get(run, {})
        yield _Plan(
            f"diagnostics-{name}",
            partial(figures.draw_diagnostics, by_run[run], title=run, explained=said.get("legends", {})),
            alt=f"Curves of what {run} logged while it trained",
            caption=f"What {run} logged while it trained: means over logging intervals."
            + (f" {said['curves']}" if said.get("curves") else "")
            + (" Filled lanes show for which share of an interval something was switched on." if lanes else "")
            + (f" The {hidden} highest seeds are not drawn." if hidden else ""),
        )
    uncertain = _uncertainties(results)
    if uncertain:
        yield _Plan(
            "uncertainty",
            partial(figures.draw_uncertainty, uncertain, title=_title(evaluation)),
            alt="Histograms of the uncertainty of right and of wrong predictions",
            caption="How uncertain a network said it was, where it was right (filled) and where it was wrong (line), "
            "each as a share of its own clips, all seeds together. The further apart the two, the better it knows "
            "when it errs.",
        )


def _plans_of_performance(evaluation: Evaluation, results: Results) -> Iterator[_Plan]:
    if evaluation.speeds:
        yield _Plan(
            "performance",
            partial(
                figures.draw_performance,
                {name: course(records) for name, records in results.performance.items()},
                title=f"{short(evaluation.dataset, 30)}: how fast it trained",
            ),
            alt="Clips a second and shares of time over the epochs of training",
            caption="All ranks together, logging interval by logging interval. At a dotted line the training was "
            "launched again; the first interval of each launch is left out.",
        )


def _uncertainties(results: Results) -> dict[str, tuple[Floats, Any]]:
    """Per run that has them: uncertainties and correctness of all its seeds, one after the other."""
    found: dict[str, list[tuple[Floats, Any]]] = {}
    for score in in_table_order(results.scores):
        if score.uncertainty is not None:
            found.setdefault(score.run, []).append((score.uncertainty, score.correct))
    return {
        run: (np.concatenate([values for values, _ in seeds]), np.concatenate([correct for _, correct in seeds]))
        for run, seeds in found.items()
    }


def _file_names(runs: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """A file name for each run, letters that every file system takes, and the run; each once."""
    taken: set[str] = set()
    for run in runs:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", run)[:60].strip("-.") or "run"
        name, number = plain, 2
        while name.lower() in taken:
            name, number = f"{plain}-{number}", number + 1
        taken.add(name.lower())
        yield name, run


def _confidences(results: Results) -> tuple[Floats, Floats]:
    return results.confidence["audio"], results.confidence["visual"]


def _title(evaluation: Evaluation) -> str:
    return f"{short(evaluation.dataset, 30)}, {evaluation.split} split"


# The page


@dataclass(frozen=True, slots=True)
class _Section:
    """One kind of table under one heading: shown at once, and behind a line to click on."""

    kind: str
    heading: str
    shown: tuple[Sheet, ...]
    folded: tuple[Sheet, ...]

    @property
    def anchor(self) -> str:
        """What the table of contents refers to."""
        return f"tables-{self.kind}"


def _sections(sheets: Sequence[Sheet]) -> list[_Section]:
    """Tables by kind, the kinds that the page knows in its order and any other after them."""
    kinds = dict.fromkeys((*_HEADINGS, *(sheet.kind for sheet in sheets)))
    sections = []
    for kind in kinds:
        of_kind = [sheet for sheet in sheets if sheet.kind == kind]
        at_once = len(of_kind) if kind in _ALL_SHOWN else 1
        whole = [_under_names(sheet) for sheet in of_kind]
        short_ones = [_means_only(sheet) for sheet in whole]
        long_ones = [sheet for sheet, means in zip(whole, short_ones, strict=True) if means is not sheet]
        if of_kind:
            sections.append(
                _Section(
                    kind,
                    _HEADINGS.get(kind, kind.capitalize()),
                    shown=tuple(short_ones[:at_once]),
                    folded=(
                        *short_ones[at_once:],
                        *(replace(one, title=f"{one.title}, every seed") for one in long_ones),
                    ),
                )
            )
    return sections


def _under_names(sheet: Sheet) -> Sheet:
    """The sheet with each network in small letters under its method's name: a column of sentences is hard to read."""
    if _NETWORK not in sheet.headings[: sheet.words]:
        return sheet
    place = sheet.headings.index(_NETWORK)
    return replace(
        sheet,
        words=sheet.words - 1,
        headings=_without(sheet.headings, place),
        rows=tuple(_without((replace(row[0], detail=row[place].text), *row[1:]), place) for row in sheet.rows),
    )


def _means_only(sheet: Sheet) -> Sheet:
    """The sheet with the rows of means over seeds only; itself where it has none."""
    place = sheet.headings.index(_SEED) if _SEED in sheet.headings[: sheet.words] else None
    if place is None or not any(row[place].text == _MEAN for row in sheet.rows):
        return sheet
    return replace(
        sheet,
        name=f"{sheet.name}-means",
        caption="In %: mean over seeds ± standard deviation. Each seed with its interval is in a table further down."
        + (f" {FEW_NOTE}" if FEW_NOTE in sheet.caption else ""),
        words=sheet.words - 1,
        headings=_without(sheet.headings, place),
        rows=tuple(_without(row, place) for row in sheet.rows if row[place].text == _MEAN),
    )


def _without(cells: tuple[Any, ...], place: int) -> tuple[Any, ...]:
    return (*cells[:place], *cells[place + 1 :])


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
    apart = {
        kind: [sheet for sheet in sheets if sheet.kind == kind]
        for kind in (_LEARNING, _CLASSES, _PERFORMANCE, _AUDIT, _ORIGIN)
    }
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        evaluation=evaluation,
        results=results,
        sections=_sections([sheet for sheet in sheets if sheet.kind not in apart]),
        apart=apart,
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


def _environment_rows(folder: RunFolder) -> list[tuple[str, str]]:
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
