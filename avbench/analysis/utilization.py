"""How much a joint network uses each modality: conditional utilization rates and Shapley values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from avbench.analysis.discrepancy import MODALITIES, Floats, Mask
from avbench.analysis.evaluation import Labels, Scores, in_table_order, masks_of


@dataclass(frozen=True, slots=True)
class Utilization:
    """What one joint run loses on one subset when a modality is taken away; accuracies are means over its seeds.

    both: accuracy as trained; replaced: per modality, with that modality's features replaced by their mean over train.
    chance: what a network is worth that sees neither; 1 over the number of classes among the evaluated clips. With
    both replaced the network says one and the same class of every clip, and a class drawn at random is right with
    exactly that chance, however uneven the classes are.
    """

    run: str
    subset: str
    threshold: float
    clips: int
    both: float
    replaced: Mapping[str, float]
    chance: float

    @property
    def conditional(self) -> Mapping[str, float | None]:
        """Conditional utilization rate of each modality given the other: the share of accuracy that is lost without it.

        u(audio | visual) = (A(both) - A(audio replaced)) / A(both); None where A(both) is 0. (Wu et al., Characterizing
        and overcoming the greedy nature of learning in multi-modal deep neural networks, ICML 2022, section 3.)
        """
        return {
            modality: (self.both - self.replaced[modality]) / self.both if self.both else None
            for modality in MODALITIES
        }

    @property
    def shapley(self) -> Mapping[str, float]:
        """Shapley value of each modality, in accuracy; the two add up to both - chance.

        Two players: the mean of what a modality adds to the other and what it adds to nothing.
        """
        audio, visual = MODALITIES
        alone = {audio: self.replaced[visual], visual: self.replaced[audio]}
        return {
            modality: ((self.both - alone[other]) + (alone[modality] - self.chance)) / 2
            for modality, other in ((audio, visual), (visual, audio))
        }


def utilization(
    scores: Sequence[Scores], labels: Labels, discrepancies: Floats, thresholds: Sequence[float]
) -> tuple[Utilization, ...]:
    """Every joint run that predicted with either modality replaced, on every subset that is not empty."""
    joint = [
        score for score in in_table_order(scores) if not score.is_unimodal and set(MODALITIES) <= {*score.replaced}
    ]
    chance = 1 / len(np.unique(labels))
    return tuple(
        _of_run(run, [score for score in joint if score.run == run], labels, place, mask, chance)
        for run in dict.fromkeys(score.run for score in joint)
        for place, mask in masks_of(discrepancies, thresholds).items()
        if mask.any()
    )


def _of_run(
    run: str, seeds: Sequence[Scores], labels: Labels, place: tuple[float, str], mask: Mask, chance: float
) -> Utilization:
    return Utilization(
        run=run,
        subset=place[1],
        threshold=place[0],
        clips=int(mask.sum()),
        both=float(np.mean([score.correct[mask].mean() for score in seeds])),
        replaced={
            modality: float(np.mean([(score.replaced[modality] == labels)[mask].mean() for score in seeds]))
            for modality in MODALITIES
        },
        chance=chance,
    )
