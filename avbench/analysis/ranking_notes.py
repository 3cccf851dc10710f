"""What a reader must know of average precision, which ranks clips, and of the order of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from avbench.analysis.measures.accuracy import listed
from avbench.analysis.measures.class_scores import scores_of
from avbench.analysis.measures.metrics import MetricTable
from avbench.analysis.measures.ranking import DEEP_ENOUGH
from avbench.analysis.reading.class_labels import are_numbers, stand_in_order
from avbench.analysis.reading.results import Results

# A share of tied clips from which on it is told.
_WORTH_TELLING = 0.001
_MOST_CLASSES_SHOWN = 12


def ranking_notes(results: Results, metrics: MetricTable) -> tuple[str, ...]:
    """All that holds for these results."""
    return (*_of_rounded(results), *_of_ties(metrics), *_of_resamples(metrics), *_of_class_order(results.classes))


def _of_rounded(results: Results) -> Iterator[str]:
    rounded = {
        score.run: None
        for score in results.scores
        if score.probabilities is not None and scores_of(score.probabilities).rounded
    }
    if rounded:
        yield (
            f"Mean average precision of {listed(list(rounded))} ranks clips by float32 probabilities, all that "
            "their files have: confident clips are all exactly 1 there and count as equal, which lowers the number of "
            "a confident network. Files with log_probabilities, as trainings write them now, keep their order."
        )


def _of_ties(metrics: MetricTable) -> Iterator[str]:
    tied = {run: share for run, share in metrics.tied.items() if share >= _WORTH_TELLING}
    if tied:
        shares = ", ".join(f"{100 * share:.1f} % of {run}'s" for run, share in tied.items())
        yield (
            f"In mean average precision, clips that a network gives the same number come in together: {shares} clips "
            "share the number of their own class with another clip. The usual reasons are probabilities in float32 and "
            "logits in bfloat16."
        )


def _of_resamples(metrics: MetricTable) -> Iterator[str]:
    if metrics.partly:
        yield (
            "Intervals of mean average precision: in each resample a class's own clips count as often as they were "
            "drawn, and so do the clips of other classes that rank highest, as many as the class has clips (at least "
            f"{DEEP_ENOUGH:,} over the number of classes); those further down count once. Both ends of an interval "
            "differ by less than 5 % of its width from those of drawing all clips."
        )


def _of_class_order(classes: Sequence[str]) -> Iterator[str]:
    if are_numbers(classes):
        shown = ", ".join([*classes[:_MOST_CLASSES_SHOWN], *(["..."] if len(classes) > _MOST_CLASSES_SHOWN else [])])
        lists = "follow this order" if stand_in_order(classes) else "are not taken, as this is not the numbers' order"
        yield (
            f"The names of the classes are numbers, and their order is {shown}. In files of your own a number is a "
            f"class's name, never its place; lists of class probabilities {lists}."
        )
