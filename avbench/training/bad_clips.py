"""Clips that are found bad while training goes on: known to every rank, noted in the run folder, and not too many."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from avbench.dataset import Dataset
from avbench.distributed import gather_objects, on_main
from avbench.errors import Interrupted, RunError
from avbench.loading.reading import is_whole_again
from avbench.quarantine import QUARANTINE_FILE, Aside, write_quarantine
from avbench.training.config import DEFAULT_BAD_CLIPS_LIMIT
from avbench.training.journal import Journal
from avbench.wording import first_of

_LEAST_LIMIT, _CLIPS_A_BAD_ONE = 10, 1000
_MOST_NAMED = 10


class TooManyBadClips(Interrupted):
    """More clips are bad than --bad-clips-limit allows; raised on every rank at the same place, as a signal is."""

    def __init__(self) -> None:
        super().__init__("bad clips")


def limit_of(setting: int, clips: int) -> int:
    """How many clips may be bad: the setting, or by default the larger of 10 and a thousandth of the clips."""
    return max(_LEAST_LIMIT, clips // _CLIPS_A_BAD_ONE) if setting == DEFAULT_BAD_CLIPS_LIMIT else setting


class BadClips:
    """The bad clips of a training. Iterates over their ids, in no order.

    found: of this rank, what its loaders note, by clip id; read only. limit: how many may be bad. folder: where rank 0
    notes them, in the form of the dataset's quarantine.jsonl.
    """

    def __init__(self, dataset: Dataset, folder: Path, *, found: Mapping[int, str], limit: int) -> None:
        self._dataset, self._folder, self._found, self.limit = dataset, folder, found, limit
        self.reasons: dict[int, str] = {}  # of all ranks
        self._whole_again: frozenset[int] = frozenset()  # left out until the open epoch has ended

    def __len__(self) -> int:
        return len(self.reasons)

    def __iter__(self) -> Iterator[int]:
        return iter(self.reasons)

    def __contains__(self, clip: object) -> bool:
        return clip in self.reasons

    def has_news(self) -> bool:
        """Whether this rank has found one that not all ranks know of."""
        return any(clip not in self.reasons for clip in self._found)

    def collect(self, journal: Journal, *, epoch: int) -> None:
        """Make every rank's newly found ones known to all, say so once for each, and note them. A collective."""
        news: dict[int, str] = {}
        for of_rank in gather_objects({clip: why for clip, why in self._found.items() if clip not in self.reasons}):
            news = {**of_rank, **news}
        for clip, reason in news.items():
            journal.event(f"clip {self._dataset.key(clip)} is left out: {reason}", clip_id=clip, epoch=epoch)
        self.reasons.update(news)
        if news:
            self._note()

    def check(self) -> None:
        """Raises TooManyBadClips, on every rank, where more are bad than may be."""
        if self._are_too_many():
            raise TooManyBadClips

    def _are_too_many(self) -> bool:
        return len(self.reasons) - len(self._whole_again) > self.limit

    def go_on_with(self, reasons: Mapping[int, str], journal: Journal) -> None:
        """Take up those of a checkpoint, less those that were set aside since; looks whether any was mended.

        A collective. What is found to be whole again stays left out until `take_back`. Raises RunError where more are
        bad than may be.
        """
        aside = set(self._dataset.quarantined.tolist())
        self.reasons.clear()
        self.reasons.update({clip: reason for clip, reason in reasons.items() if clip not in aside})
        whole = on_main(
            str(self._dataset.path),
            lambda: [clip for clip, reason in self.reasons.items() if is_whole_again(self._dataset, clip, reason)],
        )
        self._whole_again = frozenset(whole)
        self._note()
        if whole:
            journal.say(f"clips whose bytes are whole again: {', '.join(map(self._dataset.key, whole))}")
        if self._are_too_many():
            raise RunError(f"{self._folder}: not gone on with. {self.text()}")

    def take_back(self, journal: Journal, *, epoch: int) -> None:
        """Before an epoch: from here on, clips that were mended are used again. A collective."""
        for clip in sorted(self._whole_again):
            del self.reasons[clip]
            text = f"clip {self._dataset.key(clip)} is whole again, and used from epoch {epoch} on"
            journal.event(text, clip_id=clip, epoch=epoch)
        if self._whole_again:
            self._whole_again = frozenset()
            self._note()

    def text(self) -> str:
        """Which were found, and what can be done, for whoever reads why training has stopped."""
        left = [clip for clip in self.reasons if clip not in self._whole_again]
        named = [f"{self._dataset.key(clip)} ({self.reasons[clip]})" for clip in left]
        dataset, note = (shlex.quote(str(path)) for path in (self._dataset.path, self._folder / QUARANTINE_FILE))
        return (
            f"{len(left)} clips are bad, more than the {self.limit} that --bad-clips-limit allows: "
            f"{first_of(named, _MOST_NAMED)}; {note} lists them. Mend them with `avbench verify {dataset} --repair "
            f"--media VIDEOS`, or set them aside with `avbench verify {dataset} --quarantine --add {note}`, or allow "
            f"more with --bad-clips-limit"
        )

    def _note(self) -> None:
        asides = [
            Aside(reason, clip_id=clip, key=self._dataset.key(clip)) for clip, reason in sorted(self.reasons.items())
        ]
        on_main(str(self._folder / QUARANTINE_FILE), lambda: write_quarantine(self._folder, asides))


def clips_of(clip_ids: Mapping[str, Sequence[int] | np.ndarray]) -> int:
    """How many clips a training uses, of all splits."""
    return sum(map(len, clip_ids.values()))
