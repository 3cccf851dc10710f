"""Duplicates as lines for people, as JSON, and as a CSV file."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avbench.curation.duplicates.comparing import Match, Pair
from avbench.curation.duplicates.finding import CROSSING, RELATIONS, Duplicates
from avbench.records import write_text

_SHOWN = 20  # pairs of each two splits
COLUMNS = (
    "splits",
    "group",
    *(f"{which}{name}" for which in ("", "other_") for name in ("dataset", "key", "split", "label", "source")),
    *(f"{what}{name}" for what in ("sound", "pictures") for name in ("", "_alike", "_shift_seconds")),
)
"""Of the CSV file. `sound` and `pictures` are "same" (equal bytes), "alike" or empty."""


def rows(found: Duplicates) -> list[dict[str, Any]]:
    """Each pair as a row of COLUMNS, in their order; what was not found is None."""
    group_of = {clip: number for number, group in enumerate(found.groups) for clip in group}
    return [
        {
            "splits": found.relation(pair),
            "group": group_of[pair.one],
            **_clip(found, pair.one, ""),
            **_clip(found, pair.other, "other_"),
            **_match(pair.sound, "sound"),
            **_match(pair.pictures, "pictures"),
        }
        for pair in found.pairs
    ]


def write_csv(found: Duplicates, path: Path) -> None:
    """Write every pair, one a row, with the columns COLUMNS."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(found))
    write_text(path, text.getvalue())


def as_json(found: Duplicates) -> dict[str, Any]:
    """What `avbench duplicates --json` prints."""
    relations = Counter(map(found.relation, found.pairs))
    return {
        "datasets": [str(dataset.path) for dataset in found.datasets],
        "clips": len(found.clip_ids),
        "pairs_by_splits": {relation: relations[relation] for relation in RELATIONS},
        "train_clips_of_val_and_test": len(found.train_clips_of_val_and_test()),
        "groups": len(found.groups),
        "not_read": [{"key": found.key(clip), "reason": reason} for clip, reason in found.bad],
        "quarantined": found.quarantined,
        "without_sound": found.without_sound,
        "pairs": rows(found),
    }


def lines(found: Duplicates) -> Iterator[str]:
    """What there is, those of train against val and test first."""
    for relation in RELATIONS:
        pairs = [pair for pair in found.pairs if found.relation(pair) == relation]
        if pairs:
            yield f"{_title(relation)}: {len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}"
            yield from (f"  {_pair_text(found, pair)}" for pair in pairs[:_SHOWN])
            if len(pairs) > _SHOWN:
                yield f"  and {len(pairs) - _SHOWN} more, which --out FILE.csv or --json lists"
    yield summary(found)
    if found.without_sound:
        yield (
            f"{found.without_sound} clips have a kept spectrogram in the place of sound, of which only equal bytes are "
            f"found"
        )
    if found.quarantined:
        yield f"{found.quarantined} clips in quarantine were left out"
    if found.bad:
        clip, reason = found.bad[0]
        yield (
            f"{len(found.bad)} clips could not be read, so they were compared by their checksums only: "
            f"{found.key(clip)} first ({reason}); run `avbench verify`"
        )


def summary(found: Duplicates) -> str:
    """The last line: how many pairs, and how many of train against val and test."""
    crossing = sum(found.relation(pair) in CROSSING for pair in found.pairs)
    count = len(found.pairs)
    if not count:
        return f"{len(found.clip_ids)} clips: none comes twice"
    return (
        f"{len(found.clip_ids)} clips: {count} {'pair' if count == 1 else 'pairs'} in {len(found.groups)} "
        f"{'group' if len(found.groups) == 1 else 'groups'}; {crossing} of train against val or test, with "
        f"{len(found.train_clips_of_val_and_test())} training clips"
    )


def _title(relation: str) -> str:
    one, other = relation.split("-")
    return f"twice in {one}" if one == other else f"in {one} and in {other}"


def _pair_text(found: Duplicates, pair: Pair) -> str:
    labels = found.label(pair.one), found.label(pair.other)
    label = labels[0] if labels[0] == labels[1] else f"{labels[0]} and {labels[1]}"
    one_video = ", of one video" if found.source(pair.one) == found.source(pair.other) else ""
    matches = ("sound", pair.sound), ("pictures", pair.pictures)
    evidence = ", ".join(_match_text(what, match) for what, match in matches if match is not None)
    return f"{_name(found, pair.one)} = {_name(found, pair.other)} ({label}{one_video}): {evidence}"


def _name(found: Duplicates, clip: int) -> str:
    """A clip's key; with its dataset, where there are several."""
    dataset = found.datasets[found.dataset_of[clip]]
    return f"{dataset.path}: {found.key(clip)}" if len(found.datasets) > 1 else found.key(clip)


def _match_text(what: str, match: Match) -> str:
    if match.is_same:
        return f"{what} the same"
    shift = f", {abs(match.shift_seconds):.1f} s {'later' if match.shift_seconds > 0 else 'earlier'}"
    return f"{what} {100 * match.alike:.0f} % alike{shift if round(match.shift_seconds, 1) else ''}"


def _clip(found: Duplicates, clip: int, which: str) -> dict[str, Any]:
    return {
        f"{which}dataset": str(found.datasets[found.dataset_of[clip]].path),
        f"{which}key": found.key(clip),
        f"{which}split": found.split(clip),
        f"{which}label": found.label(clip),
        f"{which}source": found.source(clip),
    }


def _match(match: Match | None, what: str) -> dict[str, Any]:
    if match is None:
        return {what: None, f"{what}_alike": None, f"{what}_shift_seconds": None}
    return {
        what: "same" if match.is_same else "alike",
        f"{what}_alike": round(match.alike, 4),
        f"{what}_shift_seconds": round(match.shift_seconds, 2),
    }
