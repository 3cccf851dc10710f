"""Accuracies over seeds: mean and standard deviation, subsets cut by all seeds or by the others; unimodal parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from avbench.analysis.measures.accuracy import Labels, Scores, in_table_order, masks_of
from avbench.analysis.measures.discrepancy import Floats, Mask, average_over_seeds, discrepancy
from avbench.analysis.measures.statistics import mean_share
from avbench.vocabulary import MODALITIES


@dataclass(frozen=True, slots=True)
class SeedCell:
    """Accuracy of one run, or of its unimodal part, on one subset, over its seeds.

    part: "" for the run itself, else the modality of its unimodal part. clips: the mean over seeds, a whole number
    where all seeds share the subset. mean, deviation: over the seeds whose subset is not empty; fractions; the
    deviation is the sample's (n - 1), None for a single seed.
    """

    run: str
    part: str
    subset: str
    threshold: float
    clips: float
    seeds: tuple[int, ...]
    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class SeedTable:
    """Every cell: threshold x row x subset, in this nesting; a row is a run or a part of one."""

    cells: tuple[SeedCell, ...]
    thresholds: tuple[float, ...]

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str, float], SeedCell]:
        return {(cell.run, cell.part, cell.subset, cell.threshold): cell for cell in self.cells}

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Run and part of each row, in order."""
        return tuple(dict.fromkeys((cell.run, cell.part) for cell in self.cells))

    def cell(self, run: str, subset: str, threshold: float, *, part: str = "") -> SeedCell:
        """One cell. Raises KeyError where there is none."""
        return self._by_place[run, part, subset, threshold]


def seed_table(scores: Sequence[Scores], discrepancies: Floats, thresholds: Sequence[float]) -> SeedTable:
    """Accuracies over seeds on subsets that are cut once, by these discrepancies."""
    rows = {(score.run, "", score.seed): score.correct for score in in_table_order(scores)}
    return _table(rows, dict.fromkeys(rows, discrepancies), thresholds)


def cross_seed_table(
    scores: Sequence[Scores],
    confidence_by_seed: Mapping[str, Mapping[int, Floats]],
    thresholds: Sequence[float],
) -> SeedTable | None:
    """Accuracies of each seed on subsets cut by the mean confidence of the *other* seeds; None where there are none.

    So no network is scored on clips that its own confidence chose. A run with a seed of its own is scored on subsets
    cut by all.
    """
    if any(len(by_seed) < 2 for by_seed in confidence_by_seed.values()):
        return None
    rows = {(score.run, "", score.seed): score.correct for score in in_table_order(scores)}
    cuts = {seed: _discrepancy_without(confidence_by_seed, seed) for _, _, seed in rows}
    return _table(rows, {row: cuts[row[2]] for row in rows}, thresholds)


def parts_table(
    scores: Sequence[Scores], labels: Labels, discrepancies: Floats, thresholds: Sequence[float]
) -> SeedTable:
    """Accuracies of the unimodal parts of joint networks, which are not the unimodal networks; may have no rows."""
    rows: dict[tuple[str, str, int], Mask] = {
        (score.run, modality, score.seed): score.parts[modality] == labels
        for score in in_table_order(scores)
        for modality in MODALITIES
        if modality in score.parts and not score.is_unimodal
    }
    return _table(rows, dict.fromkeys(rows, discrepancies), thresholds)


def _discrepancy_without(confidence_by_seed: Mapping[str, Mapping[int, Floats]], seed: int) -> Floats:
    audio, visual = (
        average_over_seeds({other: values for other, values in confidence_by_seed[modality].items() if other != seed})
        for modality in MODALITIES
    )
    return discrepancy(audio, visual)


Row = tuple[str, str, int]  # run, part, seed


def _table(correct: Mapping[Row, Mask], cuts: Mapping[Row, Floats], thresholds: Sequence[float]) -> SeedTable:
    masks = {id(cut): masks_of(cut, thresholds) for cut in cuts.values()}
    names = dict.fromkeys((run, part) for run, part, _ in correct)
    cells = []
    for threshold in thresholds:
        for run, part in names:
            of_row = [row for row in correct if row[:2] == (run, part)]
            for subset in next(iter(masks.values())) if masks else ():
                if subset[0] != threshold:
                    continue
                cells.append(
                    _cell(run, part, subset, {row[2]: correct[row][masks[id(cuts[row])][subset]] for row in of_row})
                )
    return SeedTable(tuple(cells), thresholds=tuple(thresholds))


def _cell(run: str, part: str, place: tuple[float, str], right: Mapping[int, Mask]) -> SeedCell:
    """right: per seed, which of the subset's clips are right."""
    threshold, subset = place
    filled = [clips for clips in right.values() if len(clips)]
    values = [float(clips.mean()) for clips in filled]
    return SeedCell(
        run=run,
        part=part,
        subset=subset,
        threshold=threshold,
        clips=float(np.mean([len(clips) for clips in right.values()])),
        seeds=tuple(right),
        mean=mean_share([clips.sum() for clips in filled], [len(clips) for clips in filled]) if filled else None,
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )
