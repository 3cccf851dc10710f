"""How much a joint network, and each branch of one whose branches see each other, uses each modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from avbench.analysis.measures.accuracy import Labels, Scores, in_table_order, masks_of
from avbench.analysis.measures.discrepancy import Floats, Mask
from avbench.vocabulary import MODALITIES

OTHER: dict[str, str] = dict(zip(MODALITIES, reversed(MODALITIES), strict=True))


@dataclass(frozen=True, slots=True)
class BranchUse:
    """What the branch of a modality loses when the other one is taken away from it; means over the run's seeds.

    both: accuracy of the branch's own prediction as trained; alone: with the other modality's features replaced by
    their mean over train, so that the branch sees its own modality only.
    """

    both: float
    alone: float

    @property
    def utilization(self) -> float | None:
        """The share of the branch's accuracy that is lost without the other modality; None where it has none to lose.

        u(m1|m0) = (A_0(both) - A_0(m1 replaced)) / A_0(both), with A_0 the accuracy of the branch of m0: the
        conditional utilization rate of Wu et al. (Characterizing and overcoming the greedy nature of learning in
        multi-modal deep neural networks, ICML 2022), as a public re-implementation defines it. The paper's text was
        not at hand.
        """
        return (self.both - self.alone) / self.both if self.both else None


@dataclass(frozen=True, slots=True)
class Utilization:
    """What one joint run loses on one subset when a modality is taken away; accuracies are means over its seeds.

    both: accuracy as trained; replaced: per modality, with that modality's features replaced by their mean over train.
    chance: what a network is worth that sees neither; 1 over the number of classes that it tells apart, whether or not
    clips of all of them are evaluated. With both replaced the network says one and the same class of every clip, and a
    class drawn at random is right with exactly that chance, however uneven the classes are.
    branches: per modality, what its branch loses without the other; {} for networks whose branches do not see each
    other, or that were trained before this was kept.
    """

    run: str
    subset: str
    threshold: float
    clips: int
    both: float
    replaced: Mapping[str, float]
    chance: float
    branches: Mapping[str, BranchUse] = field(default_factory=dict)

    @property
    def conditional(self) -> Mapping[str, float | None]:
        """The share of the network's accuracy that is lost without each modality, given the other.

        u(audio | visual) = (A(both) - A(audio replaced)) / A(both), with A the accuracy of the network's final
        prediction, so that any joint network has it; None where A(both) is 0. In form this is the conditional
        utilization rate of Wu et al. (ICML 2022, section 3), whose A is that of one branch's own prediction: see
        `branches`. For a network whose branches both add to its prediction the two are different numbers, since here
        the branch of the modality that is replaced goes on adding what is then constant.
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
    scores: Sequence[Scores], labels: Labels, discrepancies: Floats, thresholds: Sequence[float], *, classes: int
) -> tuple[Utilization, ...]:
    """Every joint run that predicted with either modality replaced, on every subset that is not empty.

    classes: that the networks tell apart.
    """
    joint = [
        score for score in in_table_order(scores) if not score.is_unimodal and set(MODALITIES) <= {*score.replaced}
    ]
    return tuple(
        _of_run(run, [score for score in joint if score.run == run], labels, place, mask, 1 / classes)
        for run in dict.fromkeys(score.run for score in joint)
        for place, mask in masks_of(discrepancies, thresholds).items()
        if mask.any()
    )


def _of_run(
    run: str, seeds: Sequence[Scores], labels: Labels, place: tuple[float, str], mask: Mask, chance: float
) -> Utilization:
    def accuracy(said: Sequence[Labels]) -> float:
        return float(np.mean([(of_seed == labels)[mask].mean() for of_seed in said]))

    have_branches = all(set(MODALITIES) <= {*score.parts} & {*score.parts_alone} for score in seeds)
    return Utilization(
        run=run,
        subset=place[1],
        threshold=place[0],
        clips=int(mask.sum()),
        both=float(np.mean([score.correct[mask].mean() for score in seeds])),
        replaced={modality: accuracy([score.replaced[modality] for score in seeds]) for modality in MODALITIES},
        chance=chance,
        branches={
            modality: BranchUse(
                both=accuracy([score.parts[modality] for score in seeds]),
                alone=accuracy([score.parts_alone[modality] for score in seeds]),
            )
            for modality in MODALITIES
            if have_branches
        },
    )
