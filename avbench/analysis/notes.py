"""What a reader must know of the numbers of an evaluation, a sentence or two each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from avbench.analysis.measures.accuracy import listed
from avbench.analysis.measures.classes import classes_without_training
from avbench.analysis.measures.learning import Learning
from avbench.analysis.measures.statistics import FEW_CLIPS
from avbench.analysis.reading.configuration import unlike_settings
from avbench.analysis.reading.origin import is_one_content
from avbench.analysis.reading.results import Epochs, Results
from avbench.run_folder import METRICS
from avbench.vocabulary import MODALITIES
from avbench.wording import first_of

FEW = "†"  # beside the number of clips, or the name, of a subset of few
FEW_NOTE = f"{FEW}: fewer than {FEW_CLIPS} clips, too few to conclude from."
_MOST_NAMED = 12  # classes that a sentence names


def notes(results: Results, *, epochs: Epochs, resamples: int) -> tuple[str, ...]:
    """All that holds for these results. epochs: which the confidences are averaged over; resamples: the bootstrap's."""
    return (
        *_of_subsets(results, epochs),
        *_of_numbers(results, resamples),
        *_of_training(results),
        *_of_clips(results),
    )


def warnings(results: Results) -> tuple[str, ...]:
    """What may spoil every number of a report, a sentence each; said before all tables."""
    return tuple(_of_untrained_classes(results))


def _of_untrained_classes(results: Results) -> Iterator[str]:
    """Classes that some split has, but train has not."""
    for folder in results.folders[:1]:
        names = classes_without_training(folder.dataset)
        if names:
            places = [place for place, name in enumerate(results.classes) if name in names]
            theirs = int(np.isin(results.labels, places).sum())
            yield (
                f"{len(names)} of {len(results.classes)} classes {'has' if len(names) == 1 else 'have'} no training "
                f"clip: {first_of(names, _MOST_NAMED)}. No network could learn "
                f"{'it' if len(names) == 1 else 'them'}; evaluated clips of {'it' if len(names) == 1 else 'them'}: "
                f"{theirs:,} of {len(results.labels):,}."
            )


def _of_subsets(results: Results, epochs: Epochs) -> Iterator[str]:
    if results.confidence_source:
        where = f"here as {results.confidence_source} has it"
    else:
        where = f"here the mean over {_epochs_text(epochs)} ({_seeds_text(results)})"
    yield (
        f"A clip's confidence is the probability that a unimodal network gives to its true label, {where}. Its "
        "discrepancy is audio minus visual confidence."
    )
    yield (
        "Audio-preferred clips have a discrepancy above 0, visual-preferred ones below 0; at a threshold T above 0, "
        "dominated clips are those beyond T and −T. The rest is tied, so overall is their mean, weighted by clips."
    )
    yield (
        "Read with care: these subsets are cut by the confidence of the same unimodal networks that are then scored on "
        "them, which flatters each of the two on its own subset."
    )
    yield from _of_another_index(results)
    if all(len(seeds) > 1 for seeds in results.seeds.values()):
        yield "Tables of subsets cut by the other seeds do not flatter: no seed's networks chose their own clips."


def _of_another_index(results: Results) -> Iterator[str]:
    """Where the confidences were recorded on another packing of these clips."""
    for folder in results.folders[:1]:
        there = results.confidence_content
        if there and there["index_sha256"] and not is_one_content(folder.dataset, there):
            digests = f"{there['index_sha256'][:8]}, here {folder.dataset['index_sha256'][:8]}"
            yield (
                f"{results.confidence_source} is of another dataset ({digests}, the start of the "
                "index's checksum): its keys and labels are the same, but its clips may look and sound otherwise."
            )


def _of_numbers(results: Results, resamples: int) -> Iterator[str]:
    yield (
        "Intervals are 95 % intervals over the clips of each subset. They hold for these trained networks and say "
        "nothing of how another seed would fare. Those of one seed's accuracy are Wilson's; those of a mean over seeds "
        "are percentiles of the bootstrap over clips, of infinitely many resamples. Those of class means come from "
        f"{resamples:,} resamples (of one seed of random numbers), and are centred: moved so that the resamples' mean "
        "is the estimate, since clips that are drawn twice pull class means to one side. Where a bootstrap interval "
        "has no width, as where all clips are right, Wilson's for that many clips stands in its place. The highest "
        "number of each column is in bold."
    )
    yield (
        f"Subsets of fewer than {FEW_CLIPS} clips are marked {FEW} in every table: their intervals are rough, those of "
        "class means most of all, and one clip more or less moves them. The files of numbers have a column few_clips."
    )
    yield (
        "Class means (mean class accuracy, macro F1, mean average precision, one against the rest) leave out classes "
        "without clips in a subset. Where all clips of a subset are of one class, mean average precision is not "
        "defined, since there is nothing to rank against."
    )
    if len({score.seed for score in results.scores}) > 1:
        yield "Over seeds, ± is the sample's standard deviation (n − 1)."
    yield (
        "“Beats” means a higher accuracy, the mean over seeds. “Significantly” means p < 0.05 in an exact paired "
        "sign-flip test over clips against both unimodal networks, Holm-corrected over all comparisons of this report."
    )


def _of_training(results: Results) -> Iterator[str]:
    differ = unlike_settings(results.folders)
    if differ:
        yield (
            f"The runs were not all trained alike, and their accuracies may differ for that alone: {'; '.join(differ)}."
        )
    yield from _of_held_out_clips(results)


def _of_held_out_clips(results: Results) -> Iterator[str]:
    """Which runs left clips of train out for their estimates, and which estimate on clips that they trained on."""
    runs = {name: run for folder in results.folders for name, run in folder.runs.items()}
    apart = [name for name, run in runs.items() if run.get("trains_on") == "estimation"]
    if apart:
        yield (
            f"{_listed(apart)} {'was' if len(apart) == 1 else 'were'} not trained on 10 % of each class's training "
            "videos, on which estimates measure what was not trained on; all other runs were."
        )
    mixed = [
        name
        for folder in results.folders
        for name, run in folder.runs.items()
        if _estimates_on_what_it_trains_on(run, epochs=folder.settings.get("training.epochs", math.inf))
    ]
    if mixed := list(dict.fromkeys(mixed)):
        yield (
            f"{_listed(mixed)} {'was' if len(mixed) == 1 else 'were'} trained on all of train: from the second "
            "estimate of the weights on, the clips held out for estimates are ones that the network has trained on, "
            "and what it has overfitted is not seen on them."
        )


def _estimates_on_what_it_trains_on(run: Mapping[str, Any], *, epochs: float) -> bool:
    """Whether this is Gradient-Blending that estimates more than once in so many epochs, trained on all of train."""
    options = run.get("options", {})
    if run.get("method") != "gradient-blending" or run.get("trains_on", "train") != "train":
        return False
    return bool(options.get("mode") == "online" and options.get("super_epoch", 1) < epochs)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([*filter(None, [", ".join(names[:-1])]), names[-1]])


def _of_clips(results: Results) -> Iterator[str]:
    coverage = results.coverage
    yield (
        f"{coverage.evaluated:,} of the split's {coverage.listed:,} clips are evaluated. Left out and counted "
        f"nowhere: {coverage.unrecorded:,} of which a network recorded no confidence, {coverage.unpredicted:,} that "
        "no network predicted (bad bytes or quarantine)."
    )
    if results.planted is not None:
        without = int(np.isnan(results.planted).sum())
        note = "On planted clips the true discrepancy is known; tables cut by it flatter no network."
        lack = "1 clip has no planted quality and is" if without == 1 else f"{without:,} clips have none and are"
        yield note + (f" {lack} not in them." if without else "")


def _epochs_text(epochs: Epochs) -> str:
    if epochs == "all":
        return "all epochs that the network was trained"
    if epochs == "best":
        return "the one epoch with the network's highest validation accuracy"
    return f"epochs {epochs[0]} to {epochs[1]}, counted from 0"


def _seeds_text(results: Results) -> str:
    return " and ".join(
        f"{modality} over {'seed' if len(results.seeds[modality]) == 1 else 'seeds'} "
        f"{', '.join(map(str, results.seeds[modality]))}"
        for modality in MODALITIES
    )


def untold(runs: Iterable[str], found: Sequence[Learning]) -> str:
    """One sentence on those of the evaluated runs of which nobody knows how they learnt; "" where there is none."""
    told = {one.run for one in found}
    names = [run for run in runs if run not in told]
    if not names:
        return ""
    whose = "these networks" if len(names) > 1 else "this network"
    return (
        f"Not known of {listed(names)}: predictions that come from a file, and run folders without {METRICS}, do "
        f"not say how {whose} learnt."
    )
