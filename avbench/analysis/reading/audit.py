"""Whether every network counted each clip of its own part of train exactly once in every epoch, from what was recorded.

Records of kind "epoch" in metrics.jsonl hold how many clips a run counted and a sum of their mixed ids over all ranks
(`counted_clips`, `counted_hash`), what both must come to for its part (`expected_...`), and how many clips of the part
were left out for bad bytes; events name those. Trainings of earlier versions recorded none of it, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from avbench.analysis.measures.audit import Audit, Audited
from avbench.analysis.reading.results import ReadFolder, training_names
from avbench.records import read_metrics

_COUNTED = ("counted_clips", "counted_hash", "expected_clips", "expected_hash", "left_out_clips")
_STOPPED = re.compile(r"-seed-?\d+ stopped")
_LEFT_OUT = re.compile(r"clip (?P<key>.+?) is left out: ", re.DOTALL)
_Records = Mapping[int, Sequence[Mapping[str, Any]]]  # by epoch, all that are recorded of it


def read_audit(folders: Sequence[ReadFolder]) -> Audit:
    """What was recorded of the clips that each run counted, checked against each other."""
    names = training_names([folder.path for folder in folders])
    runs: list[Audited] = []
    left_out: dict[str, tuple[str, ...]] = {}
    for folder in folders:
        if folder.files.metrics.exists():
            records = read_metrics(folder.files.metrics, kinds=("epoch", "event"))
            keys = _keys_left_out(records)
            runs += _audited(folder, names[folder.path], records, named=len(keys))
            if keys:
                left_out[names[folder.path]] = keys
    return Audit(tuple(runs), left_out)


def _audited(folder: ReadFolder, name: str, records: Sequence[Mapping[str, Any]], *, named: int) -> Iterator[Audited]:
    """Every run and seed of a folder. named: how many clips its events name as left out."""
    by_run: dict[tuple[str, int], dict[int, list[Mapping[str, Any]]]] = {}
    stopped = set()
    for record in records:
        key = (str(record.get("run")), int(record.get("seed", 0)))
        if record["kind"] == "epoch" and "epoch" in record:
            by_run.setdefault(key, {}).setdefault(int(record["epoch"]), []).append(record)
        elif _STOPPED.search(str(record.get("text", ""))):
            stopped.add(key)
    last = max((epoch for epochs in by_run.values() for epoch in epochs), default=-1)
    parts = {run: str(said.get("trains_on", "train")) for run, said in folder.runs.items()}
    agreed = _agreed((parts.get(run, "train"), epochs) for (run, _), epochs in by_run.items())
    for key, epochs in by_run.items():
        part = parts.get(key[0], "train")
        checked = [of_epoch[-1] for _, of_epoch in sorted(epochs.items()) if _is_counted(of_epoch[-1])]
        problems = [
            *_of_numbering(epochs, last=max(epochs) if key in stopped else last),
            *(text for epoch, of_epoch in sorted(epochs.items()) for text in _of_epoch(epoch, of_epoch[-1])),
            *_of_the_part(checked, _clips_of_train(folder) if part == "train" else None),
            *(_of_others(part, epochs, agreed) if checked else ()),
        ]
        missing = int(checked[-1]["left_out_clips"]) if checked else 0
        if missing > named:
            problems.append(f"{missing:,} clips of its part were left out, and events name {named:,}")
        yield Audited(
            name,
            *key,
            part,
            epochs=len(epochs),
            checked=len(checked),
            clips=int(checked[-1]["expected_clips"]) if checked else None,
            left_out=missing if checked else None,
            problems=tuple(problems),
        )


def _is_counted(record: Mapping[str, Any]) -> bool:
    return all(name in record for name in _COUNTED)


def _of_numbering(epochs: _Records, *, last: int) -> Iterator[str]:
    """Every epoch up to the last one in which it was in training has one record."""
    for epoch in range(last + 1):
        times = len(epochs.get(epoch, ()))
        if times != 1:
            yield f"epoch {epoch} has {times or 'no'} record{'s' if times else ''}"


def _of_epoch(epoch: int, record: Mapping[str, Any]) -> Iterator[str]:
    """What was counted in an epoch is what had to be."""
    if not _is_counted(record):
        return
    counted, expected = (f"{record[f'{what}_clips']:,}" for what in ("counted", "expected"))
    if record["counted_clips"] != record["expected_clips"]:
        yield f"epoch {epoch} counted {counted} clips for {expected}"
    elif record["counted_hash"] != record["expected_hash"]:
        yield f"epoch {epoch} counted {counted} clips, but not each of its {expected} once"
    elif record.get("clips", record["counted_clips"]) != record["counted_clips"]:
        yield f"epoch {epoch} counted {counted} clips, but its loss is of {record['clips']:,.0f}"


def _of_the_part(checked: Sequence[Mapping[str, Any]], clips: int | None) -> Iterator[str]:
    """A part has the same clips in every epoch, but for those left out. clips: of the part where a launch said it."""
    for before, record in pairwise(checked):
        same = all(before[name] == record[name] for name in ("expected_clips", "expected_hash"))
        if (before["left_out_clips"] == record["left_out_clips"]) != same:
            yield f"from epoch {before['epoch']} to {record['epoch']} its part of train became another"
    for record in checked:
        whole = record["expected_clips"] + record["left_out_clips"]
        if clips is not None and whole != clips:
            yield f"epoch {record['epoch']} is of {whole:,} clips of train, where the training was given {clips:,}"


def _agreed(runs: Iterable[tuple[str, _Records]]) -> dict[tuple[str, int], tuple[Any, ...]]:
    """By part and epoch what most of the runs of that part had to count."""
    said: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
    for part, epochs in runs:
        for epoch, of_epoch in epochs.items():
            if _is_counted(of_epoch[-1]):
                said.setdefault((part, epoch), []).append(_expected(of_epoch[-1]))
    return {place: max(values, key=values.count) for place, values in said.items()}


def _of_others(part: str, epochs: _Records, agreed: Mapping[tuple[str, int], tuple[Any, ...]]) -> Iterator[str]:
    """All runs of one part are to count the same clips in the same epoch."""
    for epoch, of_epoch in sorted(epochs.items()):
        record = of_epoch[-1]
        if _is_counted(record) and _expected(record) != agreed[part, epoch]:
            yield f"epoch {epoch} is of other clips than that of other networks of its part"


def _expected(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("expected_clips", "expected_hash", "left_out_clips"))


def _clips_of_train(folder: ReadFolder) -> int | None:
    """How many clips of train the newest launch was given; None where it did not say."""
    launches = folder.environment.get("launches") or [{}]
    said = launches[-1].get("clips", {}).get("train", {}) if isinstance(launches[-1], Mapping) else {}
    return said.get("clips")


def _keys_left_out(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Keys of the clips that events name as left out, in their order, each once; the id where a text has no key."""
    found: dict[int, str] = {}
    for record in records:
        if record["kind"] == "event" and "clip_id" in record:
            match = _LEFT_OUT.match(str(record.get("text", "")))
            found.setdefault(int(record["clip_id"]), match["key"] if match else f"clip {record['clip_id']}")
    return tuple(found.values())
