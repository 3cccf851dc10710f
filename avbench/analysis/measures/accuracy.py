"""Accuracy of every run on every subset, intervals, and the paper's question. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from avbench.analysis.measures.class_scores import ClassScores
from avbench.analysis.measures.discrepancy import PARTS, Floats, Mask, subsets
from avbench.analysis.measures.statistics import binomial_interval, mean_share
from avbench.vocabulary import MODALITIES

Labels = NDArray[np.int64]
SUBSETS = ("overall", *PARTS)


@dataclass(frozen=True, slots=True)
class Scores:
    """What one run, trained with one seed, made of the evaluated clips.

    run: its name; method: what it is an instance of. modalities: what it reads; a network of one is unimodal, whatever
        its method is called.
    correct: bool (N,), in the order of the discrepancies it is evaluated with. predictions: class numbers (N,).
    probabilities: what ranks clips for each class, an array (N, classes), finite, or a file's (see `probabilities`);
        None where nobody gave them. uncertainty: (N,), None where it has none.
    parts: per modality, the predictions (N,) of the network's own unimodal part; {} for networks without.
    replaced: per modality, the predictions (N,) with that modality's features replaced by their mean over train; {}
        where they were not made.
    parts_alone: per modality, the predictions (N,) of the network's part of it with the *other* modality's features
        replaced; {} for networks whose parts do not see each other.
    """

    run: str
    method: str
    seed: int
    correct: Mask
    predictions: Labels
    probabilities: ClassScores | NDArray[Any] | None = None
    uncertainty: Floats | None = None
    parts: Mapping[str, Labels] = field(default_factory=dict)
    replaced: Mapping[str, Labels] = field(default_factory=dict)
    parts_alone: Mapping[str, Labels] = field(default_factory=dict)
    modalities: tuple[str, ...] = MODALITIES

    @property
    def modality(self) -> str | None:
        """Which modality a unimodal network reads; None for every other run."""
        return self.modalities[0] if len(self.modalities) == 1 else None

    @property
    def is_unimodal(self) -> bool:
        """Whether the run reads a single modality."""
        return self.modality is not None

    def rows(self, mask: Mask) -> Scores:
        """The same run on these clips only, without class probabilities."""
        return replace(
            self,
            correct=self.correct[mask],
            predictions=self.predictions[mask],
            probabilities=None,
            uncertainty=None if self.uncertainty is None else self.uncertainty[mask],
            parts={modality: values[mask] for modality, values in self.parts.items()},
            replaced={modality: values[mask] for modality, values in self.replaced.items()},
            parts_alone={modality: values[mask] for modality, values in self.parts_alone.items()},
        )


def modalities_of(method: str) -> tuple[str, ...]:
    """What a run reads where nothing but its method's name is known: audio and visual read one, any other both."""
    return (method,) if method in MODALITIES else MODALITIES


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One cell of the table: how many of a subset's clips a run got right, of how many.

    accuracy, low, high: fractions in [0, 1], the last two a 95 % bootstrap interval; None where the subset is empty.
    """

    run: str
    seed: int
    subset: str
    threshold: float
    clips: int
    correct: int
    low: float | None
    high: float | None

    @property
    def accuracy(self) -> float | None:
        """The fraction correct; None where the subset is empty."""
        return self.correct / self.clips if self.clips else None


@dataclass(frozen=True)
class AccuracyTable:
    """Every cell: run x seed x threshold x subset, in this nesting.

    methods: what each run is an instance of. modality_of: which modality, of the runs that read a single one.
    """

    cells: tuple[Accuracy, ...]
    thresholds: tuple[float, ...]
    methods: Mapping[str, str]
    modality_of: Mapping[str, str]

    @property
    def unimodal(self) -> tuple[str, ...]:
        """The runs that read a single modality, in order."""
        return tuple(run for run in self.methods if run in self.modality_of)

    @property
    def multimodal(self) -> tuple[str, ...]:
        """The runs that read both modalities, in order."""
        return tuple(run for run in self.methods if run not in self.modality_of)

    @cached_property
    def _by_place(self) -> dict[tuple[str, int, str, float], Accuracy]:
        return {(cell.run, cell.seed, cell.subset, cell.threshold): cell for cell in self.cells}

    @cached_property
    def rows(self) -> tuple[tuple[str, int], ...]:
        """Name and seed of each row, in order."""
        return tuple(dict.fromkeys((cell.run, cell.seed) for cell in self.cells))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed that some run has, ascending."""
        return tuple(sorted({seed for _, seed in self.rows}))

    def cell(self, run: str, seed: int, subset: str, threshold: float) -> Accuracy:
        """One cell. Raises KeyError where there is none."""
        return self._by_place[run, seed, subset, threshold]

    def mean(self, run: str, subset: str, threshold: float) -> float | None:
        """A run's accuracy on a subset, the mean over its seeds; None where the subset is empty."""
        cells = [self.cell(name, seed, subset, threshold) for name, seed in self.rows if name == run]
        if not all(cell.clips for cell in cells):  # a subset is one for all seeds
            return None
        return mean_share([cell.correct for cell in cells], [cell.clips for cell in cells])

    def clips(self, subset: str, threshold: float) -> int:
        """How many clips a subset has; the same for every run and seed, since subsets are cut once."""
        return self.cell(*self.rows[0], subset, threshold).clips


def accuracy_table(scores: Sequence[Scores], discrepancies: Floats, thresholds: Sequence[float]) -> AccuracyTable:
    """Accuracy of every run on every subset at every threshold, the subsets cut by these discrepancies.

    discrepancies: (N,) in [-1, 1]. At every threshold there is a row "overall"; it is the same at all of them, and the
    clip-weighted mean of the audio, visual and tie rows beside it.
    Rows: the unimodal networks first, then the others by name. Raises ValueError on unequal lengths or no scores.
    """
    if not scores:
        raise ValueError("an accuracy table needs at least one run")
    ordered = in_table_order(scores)
    masks = masks_of(discrepancies, thresholds)
    places = [(score, threshold, subset) for score in ordered for threshold, subset in masks]
    clips = np.array([np.count_nonzero(masks[threshold, subset]) for _, threshold, subset in places])
    correct = np.array(
        [np.count_nonzero(score.correct & masks[threshold, subset]) for score, threshold, subset in places]
    )
    lows, highs = binomial_interval(correct, clips)
    cells = tuple(
        Accuracy(
            run=score.run,
            seed=score.seed,
            subset=subset,
            threshold=threshold,
            clips=int(n),
            correct=int(k),
            low=float(low) if n else None,
            high=float(high) if n else None,
        )
        for (score, threshold, subset), n, k, low, high in zip(places, clips, correct, lows, highs, strict=True)
    )
    return AccuracyTable(
        cells,
        thresholds=tuple(thresholds),
        methods={score.run: score.method for score in ordered},
        modality_of={score.run: score.modality for score in ordered if score.modality is not None},
    )


def masks_of(discrepancies: Floats, thresholds: Sequence[float]) -> dict[tuple[float, str], Mask]:
    """Which clips are in each subset at each threshold, "overall" among them, by (threshold, subset)."""
    everything = np.ones(len(discrepancies), bool)
    return {
        (threshold, subset): mask
        for threshold in thresholds
        for subset, mask in {"overall": everything, **subsets(discrepancies, threshold)}.items()
    }


def in_table_order(scores: Sequence[Scores]) -> list[Scores]:
    """The unimodal networks first, then the others, each by name and seed."""
    return sorted(scores, key=lambda score: (*_unimodal_first(score), score.run, score.seed))


def _unimodal_first(score: Scores) -> tuple[int, str]:
    return (len(MODALITIES) if score.modality is None else MODALITIES.index(score.modality), score.run)


def rank_correlation(estimated: Floats, planted: Floats) -> float | None:
    """Spearman's rank correlation of two discrepancies, in [-1, 1]; None where one is constant or under two long."""
    if len(estimated) < 2 or np.ptp(estimated) == 0 or np.ptp(planted) == 0:
        return None
    return float(stats.spearmanr(estimated, planted).statistic)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The paper's question at one threshold: which methods beat both unimodal networks on both of their subsets?

    winners: names of the runs that do; sentence: the answer in words. answered: whether there was anything to compare.
    """

    threshold: float
    winners: tuple[str, ...]
    sentence: str
    answered: bool = True


def subset_name(subset: str, threshold: float) -> str:
    """What a subset is called in words: preferred at T = 0, dominated above it, "tied" for the rest."""
    if subset not in MODALITIES:
        return {"overall": "overall", "tie": "tied"}[subset]
    return f"{subset}-{'dominated' if threshold > 0 else 'preferred'}"


def verdict(table: AccuracyTable, threshold: float) -> Verdict:
    """Does any multimodal method beat both unimodal networks on both the audio and the visual subset?

    "Beats" is a strictly higher accuracy, the mean over seeds. The ties belong to neither network and are not asked.
    """
    names = {modality: subset_name(modality, threshold) for modality in MODALITIES}
    at = f"At T = {threshold:g}"
    empty = [names[modality] for modality in MODALITIES if table.clips(modality, threshold) == 0]
    if empty:
        return Verdict(
            threshold, (), f"{at}, the question has no answer: no clip is {' or '.join(empty)}.", answered=False
        )
    missing = [modality for modality in MODALITIES if modality not in table.modality_of.values()]
    if missing:
        text = f"{at}, the question has no answer: no {' and no '.join(missing)} network was evaluated."
        return Verdict(threshold, (), text, answered=False)
    if not table.multimodal:
        return Verdict(
            threshold, (), f"{at}, the question has no answer: no multimodal method was evaluated.", answered=False
        )
    bars = {modality: _best(table, table.unimodal, modality, threshold) for modality in MODALITIES}
    winners = tuple(
        run
        for run in table.multimodal
        if all((table.mean(run, modality, threshold) or 0.0) > bars[modality][1] for modality in MODALITIES)
    )
    if winners:
        verb = "beats" if len(winners) == 1 else "beat"
        parts = "both the " + " and the ".join(f"{names[modality]} clips" for modality in MODALITIES)
        return Verdict(threshold, winners, f"{at}, {listed(winners)} {verb} both unimodal networks on {parts}.")
    reached = " and ".join(
        f"{100 * _best(table, table.multimodal, modality, threshold)[1]:.1f} % on the {names[modality]} clips "
        f"({bars[modality][0]}: {100 * bars[modality][1]:.1f} %)"
        for modality in MODALITIES
    )
    subject = f"{table.multimodal[0]} does not beat" if len(table.multimodal) == 1 else "no multimodal method beats"
    highest = "it reaches" if len(table.multimodal) == 1 else "the highest are"
    return Verdict(threshold, (), f"{at}, {subject} both unimodal networks on both subsets: {highest} {reached}.")


def _best(table: AccuracyTable, runs: Sequence[str], subset: str, threshold: float) -> tuple[str, float]:
    """The most accurate of these runs on a subset that is not empty, and its accuracy; the first of equals."""
    means = {run: table.mean(run, subset, threshold) or 0.0 for run in runs}
    best = max(means, key=lambda run: means[run])
    return best, means[best]


def listed(names: Sequence[str], last: str = "and") -> str:
    """The names in words: a, b and c."""
    return f" {last} ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
