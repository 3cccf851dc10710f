"""Which clips of some datasets come twice, and what shows it.

First the checksums in the indexes are compared, which needs no decoding. Then each clip gets fingerprints of its sound
(`sounds`) and of its pictures (`looks`), a search finds the few clips that have similar parts (`search`), and each such
pair is compared over all shifts. No step compares each clip with each. Silent sound, frozen pictures and plain colours
are no evidence, whatever their bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash

from avbench.curation.duplicates.comparing import Comparison, Pair, groups_by, groups_of
from avbench.curation.duplicates.prints import Prints, PrintTask, has_sound, joined, make_prints
from avbench.dataset import Dataset
from avbench.errors import DatasetError, UsageError
from avbench.packing.workers import WorkerDied, run_tasks
from avbench.progress import tracked
from avbench.vocabulary import SPLITS

_CLIPS_A_TASK = 64
# Of which splits two clips may be, the worst first.
RELATIONS = ("train-test", "train-val", "val-test", "train-train", "val-val", "test-test")
CROSSING = RELATIONS[:2]


@dataclass(frozen=True)
class Duplicates:
    """What was found in some datasets. Clips are numbered over all of them, without those in quarantine.

    datasets: as they were given. dataset_of, clip_ids, splits: of each clip, int64 [N]. pairs: in the order of
    RELATIONS. groups: the clips that are connected by pairs. bad: clips whose bytes are damaged, with the reason.
    quarantined: how many clips were left out. without_sound: how many have a kept spectrogram in the place of sound, of
    which only equal bytes are found.
    """

    datasets: tuple[Dataset, ...]
    dataset_of: np.ndarray
    clip_ids: np.ndarray
    splits: np.ndarray
    quarantined: int
    without_sound: int
    pairs: tuple[Pair, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    bad: tuple[tuple[int, str], ...] = ()

    def relation(self, pair: Pair) -> str:
        """Of which splits the two clips are, one of RELATIONS."""
        return f"{self.split(pair.one)}-{self.split(pair.other)}"

    def key(self, clip: int) -> str:
        """A clip's key in its dataset."""
        return self.datasets[self.dataset_of[clip]].key(int(self.clip_ids[clip]))

    def split(self, clip: int) -> str:
        """The split of a clip."""
        return SPLITS[self.splits[clip]]

    def label(self, clip: int) -> str:
        """The name of a clip's class."""
        dataset = self.datasets[self.dataset_of[clip]]
        return dataset.classes[int(dataset.labels[self.clip_ids[clip]])]

    def source(self, clip: int) -> str:
        """The video that a clip was cut from."""
        return self.datasets[self.dataset_of[clip]].value("source", int(self.clip_ids[clip]))

    def train_clips_of_val_and_test(self) -> np.ndarray:
        """The training clips that are alike with a clip of val or test, ascending, int64."""
        crossing = [pair.one for pair in self.pairs if self.relation(pair) in CROSSING]
        return np.unique(np.array(crossing, np.int64))


def find_duplicates(
    paths: Sequence[Path], *, workers: int, exact: bool = False, kept_in: Path | None = None
) -> Duplicates:
    """The clips of these datasets that come twice, within each and from one to another.

    exact: compare checksums only; sounds and pictures are then decoded only where some are equal, to leave out silence
    and frozen pictures. kept_in: a folder that keeps fingerprints for the next search. Raises UsageError for fewer than
    one worker, for no dataset, or for one that is given twice; DatasetError for what is no dataset, or where a worker
    dies.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}; expected 1 or more")
    if not paths:
        raise UsageError("no DATASET is named; name one or more")
    if again := [path for path in paths if sum(other.resolve() == path.resolve() for other in paths) > 1]:
        raise UsageError(f"{again[0]}: is given twice; its clips would all be found")
    found = _opened(paths)
    sums = _checksums(found, of_sound=True), _checksums(found, of_sound=False)
    everything = np.arange(len(found.clip_ids))
    repeated = [clips for one in sums for clips in groups_of(one)]
    clips = np.unique(np.concatenate([*repeated, np.zeros(0, np.int64)])) if exact else everything
    parts = _prints_of(found, clips, workers=workers, kept_in=kept_in)
    if not parts:
        return found
    prints = joined(parts)
    comparison = Comparison(found.splits, sums, clips, prints, exact=exact)
    wanted = comparison.equal() | comparison.candidates()
    pairs = {numbers: pair for numbers in tracked(wanted, "comparing") if (pair := comparison.compared(*numbers))}
    pairs |= comparison.completed(pairs)
    ordered = sorted(pairs.values(), key=lambda pair: (RELATIONS.index(found.relation(pair)), pair.one, pair.other))
    return replace(
        found,
        pairs=tuple(ordered),
        groups=tuple(map(tuple, groups_by(pairs, len(everything)))),
        bad=tuple((int(clips[place]), str(prints.bad[place])) for place in np.flatnonzero(prints.bad != "")),
    )


def _opened(paths: Sequence[Path]) -> Duplicates:
    datasets = tuple(Dataset(path, shards_may_be_damaged=True) for path in paths)
    ids = [np.setdiff1d(np.arange(len(dataset)), dataset.quarantined) for dataset in datasets]
    splits = [dataset.splits[one].astype(np.int64) for dataset, one in zip(datasets, ids, strict=True)]
    return Duplicates(
        datasets,
        dataset_of=np.repeat(np.arange(len(datasets)), [len(one) for one in ids]),
        clip_ids=np.concatenate(ids),
        splits=np.concatenate(splits),
        quarantined=sum(map(len, datasets)) - sum(map(len, ids)),
        without_sound=sum(len(one) for dataset, one in zip(datasets, ids, strict=True) if not has_sound(dataset)),
    )


def _checksums(found: Duplicates, *, of_sound: bool) -> np.ndarray:
    """Of each clip, what identifies the bytes of its sound, or of all its pictures: uint64 [N]."""
    sums = []
    for number, dataset in enumerate(found.datasets):
        ids = found.clip_ids[found.dataset_of == number]
        if of_sound:
            sums.append(np.asarray(dataset.audio_checksums)[ids])
            continue
        every = np.asarray(dataset.frames.checksum)
        ends = zip(dataset.frames.first[ids].tolist(), dataset.frames.first[ids + 1].tolist(), strict=True)
        sums.append(np.array([xxhash.xxh3_64_intdigest(every[first:end].tobytes()) for first, end in ends], np.uint64))
    return np.concatenate(sums)


def _prints_of(found: Duplicates, clips: np.ndarray, *, workers: int, kept_in: Path | None) -> list[Prints]:
    """The fingerprints of these clips (ascending), in their order."""
    call = secrets.token_hex(8)
    tasks = []
    for number, dataset in enumerate(found.datasets):
        ids = found.clip_ids[clips[found.dataset_of[clips] == number]].tolist()
        parts = [tuple(ids[first : first + _CLIPS_A_TASK]) for first in range(0, len(ids), _CLIPS_A_TASK)]
        tasks += [PrintTask(dataset.path, call, part, kept_in) for part in parts]
    made: dict[int, Prints] = {}
    units = [len(task.clip_ids) for task in tasks]
    try:
        for place, prints in run_tasks(
            make_prints, tasks, units=units, workers=workers, title="fingerprints", unit="clips"
        ):
            made[place] = prints
    except WorkerDied as death:
        where = " or ".join(str(tasks[place].path) for place in death.begun) or "its start"
        raise DatasetError(f"a process was killed or crashed (out of memory?) at {where}; run again") from None
    return [made[place] for place in range(len(tasks))]
