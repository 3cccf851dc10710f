"""Which method beats which unimodal network where, whether by more than chance, and the paper's question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from avbench.analysis.measures.accuracy import AccuracyTable, Scores, Verdict, in_table_order, listed, masks_of
from avbench.analysis.measures.discrepancy import Floats
from avbench.analysis.measures.statistics import holm, sign_flip_p
from avbench.vocabulary import MODALITIES

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method against one unimodal network on one subset, paired over its clips.

    difference: mean accuracy over seeds of the method minus the network's, a fraction. p: two-sided, of the exact
    sign-flip test. p_holm: the same, adjusted for all comparisons of the table.
    """

    run: str
    unimodal: str
    subset: str
    threshold: float
    clips: int
    difference: float
    p: float
    p_holm: float

    @property
    def beats(self) -> bool:
        """Whether the method is higher, by chance or not."""
        return self.difference > 0

    @property
    def significant(self) -> bool:
        """Whether the two differ by more than chance, in whichever direction."""
        return self.p_holm < ALPHA


def compare(scores: Sequence[Scores], discrepancies: Floats, thresholds: Sequence[float]) -> tuple[Comparison, ...]:
    """Every method against every unimodal network on the audio and visual subset at every threshold.

    Subsets without clips have no comparison. Correctness is averaged over each run's seeds before it is compared.
    """
    ordered = in_table_order(scores)
    seeds = {score.run: [other for other in ordered if other.run == score.run] for score in ordered}
    right = {run: np.sum([score.correct for score in of_run], axis=0) for run, of_run in seeds.items()}
    masks = {place: mask for place, mask in masks_of(discrepancies, thresholds).items() if place[1] in MODALITIES}
    places, differences, p_values = [], [], []
    for run, other in ((a, b) for a in seeds for b in seeds if not seeds[a][0].is_unimodal and seeds[b][0].is_unimodal):
        # In units of 1 / (seeds of the one x seeds of the other), in which every difference is a whole number.
        whole = right[run] * len(seeds[other]) - right[other] * len(seeds[run])
        for place, mask in masks.items():
            if mask.any():
                places.append((run, other, place, int(mask.sum())))
                differences.append(float(whole[mask].sum() / (mask.sum() * len(seeds[run]) * len(seeds[other]))))
                p_values.append(sign_flip_p(whole[mask]))
    return tuple(
        Comparison(run, other, subset, threshold, clips, difference, p, p_holm)
        for (run, other, (threshold, subset), clips), difference, p, p_holm in zip(
            places, differences, p_values, holm(p_values), strict=True
        )
    )


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The paper's question for a dataset: which methods beat both unimodal networks on every subset?

    winners: those that do, at every threshold at which there was something to compare; significant: those of them
    whose every comparison is significant. sentence: the answer in words.
    """

    winners: tuple[str, ...]
    significant: tuple[str, ...]
    sentence: str


def conclude(
    dataset: str, table: AccuracyTable, verdicts: Sequence[Verdict], found: Sequence[Comparison]
) -> Conclusion:
    """The answer for a dataset from the verdicts at every threshold and all comparisons of the table."""
    asked = [verdict for verdict in verdicts if verdict.answered]
    if not asked:
        return Conclusion((), (), f"On {dataset}, there was nothing to compare at any threshold.")
    thresholds = [verdict.threshold for verdict in asked]
    winners = tuple(run for run in table.multimodal if all(run in verdict.winners for verdict in asked))
    significant = tuple(
        run
        for run in winners
        if all(one.significant for one in found if one.run == run and one.threshold in thresholds)
    )
    places = f"audio and visual side, T = {listed([f'{threshold:g}' for threshold in thresholds])}"
    if not winners:
        partly = "; ".join(
            f"{listed(verdict.winners)} {'does' if len(verdict.winners) == 1 else 'do'} at T = {verdict.threshold:g}"
            for verdict in asked
            if verdict.winners
        )
        rest = f"; {partly}" if partly else ""
        sentence = f"On {dataset}, no multimodal method beats both unimodal networks on every subset ({places}){rest}."
        return Conclusion(winners, significant, sentence)
    verb = "beats" if len(winners) == 1 else "beat"
    how = f"significantly so {listed(significant)}" if significant else "none of them significantly on all"
    if significant == winners:
        how = "significantly"
    elif len(winners) == 1:
        how = "but not significantly on all"
    sentence = f"On {dataset}, {listed(winners)} {verb} both unimodal networks on every subset ({places}), {how}."
    return Conclusion(winners, significant, sentence)
