"""Which clips a view takes: against a plain computation over lists, and every mistake in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avbench.errors import AvbenchError, RecipeError, UsageError
from avbench.packing.views.choice import Candidates, choose
from avbench.packing.views.files import NamedClips, read_classes, read_clips, read_map
from avbench.packing.views.names import clips_named, near_text
from avbench.packing.views.quality_rule import parse_drop
from avbench.packing.views.rule import Rule
from avbench.vocabulary import SPLITS

CLASSES = ("ant", "bee", "cat", "dog")
NEW_CLASSES = ("", "ant", "bird", "zebra")
NOWHERE = Path("names.csv")


def texts(values: list[str]) -> pa.ChunkedArray:
    """In two chunks, as the indexes of two datasets are."""
    return pa.chunked_array([values[: len(values) // 2], values[len(values) // 2 :]], pa.string())


def candidates_of(clips: list[dict], quality: pa.Table | None = None) -> Candidates:
    return Candidates(
        texts([clip["key"] for clip in clips]),
        texts([clip["source"] for clip in clips]),
        np.array([CLASSES.index(clip["label"]) for clip in clips], np.int32),
        np.array([SPLITS.index(clip["split"]) for clip in clips], np.int8),
        np.array([clip["aside"] for clip in clips], bool),
        CLASSES,
        quality,
    )


@st.composite
def pools(draw: st.DrawFn) -> list[dict]:
    """Clips of at most six videos, of which some are in quarantine, with a measure that may be empty."""
    count = draw(st.integers(2, 14))
    return [
        {
            "key": f"k{number}",
            "source": f"v{draw(st.integers(0, 5))}",
            "label": draw(st.sampled_from(CLASSES)),
            "split": draw(st.sampled_from(SPLITS)),
            "aside": draw(st.sampled_from([False, False, False, True])),
            "seconds": draw(st.one_of(st.none(), st.sampled_from([float("nan"), 0.0, 1.5, 4.0]))),
            "still": draw(st.booleans()),
        }
        for number in range(count)
    ]


NAMES = st.one_of(st.integers(0, 15).map("k{}".format), st.integers(0, 6).map("v{}".format))


def named(splits: st.SearchStrategy) -> st.SearchStrategy[NamedClips]:
    """A file of clips; the first name is always there, so that not all of them are missing."""
    chosen = st.dictionaries(NAMES, splits, max_size=6)
    return st.builds(lambda some, first: NamedClips(NOWHERE, {"k0": first, **some}, 0, ()), chosen, splits)


RULES = st.builds(
    Rule,
    renamed=st.dictionaries(st.sampled_from(CLASSES), st.sampled_from(NEW_CLASSES), max_size=4),
    keys=st.one_of(st.none(), named(st.just(None)), named(st.sampled_from([None, *SPLITS]))),
    without_keys=st.one_of(st.none(), named(st.just(None))),
    drops=st.lists(
        st.sampled_from(["quality:seconds>1", "quality:seconds<=1.5", "quality:still", "quality:still==false"]),
        max_size=2,
    ).map(lambda drops: tuple(map(parse_drop, drops))),
)


def meant_by(clip: dict, named: NamedClips, keys: set[str]) -> str | None:
    """Which of the names means this clip."""
    if clip["key"] in named.splits:
        return clip["key"]
    return clip["source"] if clip["source"] in named.splits and clip["source"] not in keys else None


def is_dropped(clip: dict, text: str) -> bool:
    seconds, still = clip["seconds"], clip["still"]
    known = seconds is not None and seconds == seconds
    return {
        "quality:seconds>1": known and (seconds or 0) > 1,
        "quality:seconds<=1.5": known and (seconds or 0) <= 1.5,
        "quality:still": still,
        "quality:still==false": not still,
    }[text]


def plainly(clips: list[dict], rule: Rule, wanted: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """(key, label, split) of what the rule takes, in the order of the clips."""
    taken, keys = [], {clip["key"] for clip in clips}
    for clip in clips:
        label, split = rule.renamed.get(clip["label"], clip["label"]), clip["split"]
        if clip["aside"] or not label or (wanted and label not in wanted):
            continue
        if rule.keys is not None:
            name = meant_by(clip, rule.keys, keys)
            if name is None:
                continue
            split = rule.keys.splits[name] or split
        if rule.without_keys is not None and meant_by(clip, rule.without_keys, keys) is not None:
            continue
        if any(is_dropped(clip, drop.text) for drop in rule.drops):
            continue
        taken.append((clip["key"], label, split))
    return taken


@given(pools(), RULES, st.data())
def test_a_rule_takes_what_a_plain_computation_takes(clips: list[dict], rule: Rule, data: st.DataObject) -> None:
    names = sorted({rule.renamed.get(name, name) for name in CLASSES} - {""})
    wanted = tuple(data.draw(st.lists(st.sampled_from(names), unique=True))) if names else ()
    measured = pa.table(
        {"seconds": pa.array([clip["seconds"] for clip in clips], pa.float64()), "still": [c["still"] for c in clips]}
    )
    asked = Rule(rule.renamed, wanted, rule.keys, rule.without_keys, rule.drops)
    choice = choose(candidates_of(clips, measured), asked)
    found = [
        (clips[row]["key"], choice.classes[label], SPLITS[split])
        for row, label, split in zip(choice.rows, choice.labels, choice.splits, strict=True)
    ]
    assert found == plainly(clips, rule, wanted)
    assert list(choice.classes) == (sorted(wanted) if wanted else names)
    assert len(found) + sum(one.count for one in choice.left_out) == len(clips)


@given(pools(), st.dictionaries(NAMES, st.sampled_from(SPLITS), min_size=1))
def test_splits_are_given_to_the_clips_that_are_named(clips: list[dict], splits: dict[str, str]) -> None:
    asked = NamedClips(NOWHERE, {"k0": "val", **splits}, 0, ())
    choice = choose(candidates_of(clips), Rule(splits=asked))
    keys = {clip["key"] for clip in clips}
    expected = {
        clip["key"]: asked.splits[name] if (name := meant_by(clip, asked, keys)) else clip["split"]
        for clip in clips
        if not clip["aside"]
    }
    found = zip(choice.rows, choice.splits, strict=True)
    assert {clips[row]["key"]: SPLITS[split] for row, split in found} == expected
    there = keys | {clip["source"] for clip in clips}
    assert sorted(choice.missing["--splits"]) == sorted(set(asked.splits) - there)


def plain_clips(count: int = 6) -> list[dict]:
    return [
        {
            "key": f"clip-{number}",
            "source": f"v{number // 2}",
            "label": CLASSES[number % 4],
            "split": "train",
            "aside": 0,
        }
        for number in range(count)
    ]


def test_classes_keep_the_datasets_order_unless_some_are_renamed() -> None:
    clips = [{**clip, "label": CLASSES[3 - number % 4]} for number, clip in enumerate(plain_clips())]
    candidates = candidates_of(clips)
    turned = Candidates(**{**vars(candidates), "classes": CLASSES[::-1], "labels": 3 - candidates.labels})
    assert choose(turned, Rule(classes=("bee", "dog"))).classes == ("dog", "bee")
    assert choose(turned, Rule(renamed={"ant": "eel"})).classes == ("bee", "cat", "dog", "eel")


def test_a_key_is_found_in_the_form_that_keys_have_and_before_a_video_of_its_name() -> None:
    keys, sources = texts(["a%20b", "c", "d", "e"]), texts(["x", "e", "x", "y"])
    found = clips_named(["a b", "x", "e", "gone"], keys, sources)
    assert found.name_of.tolist() == [0, -1, 1, 2]  # e is a key, so it does not mean clip c, which is of video e
    assert found.missing == ("gone",) and found.videos == 1
    assert clips_named([], keys, sources).name_of.tolist() == [-1] * 4


def test_what_a_file_names_and_is_not_there_is_said_with_the_nearest() -> None:
    choice = choose(candidates_of(plain_clips()), Rule(keys=named_in({"clip-1": None, "clip-7": None, "v2": None})))
    assert choice.rows.tolist() == [1, 4, 5]
    assert choice.missing == {"--keys": ("clip-7",)}
    missing, videos = choice.notes
    assert missing == "--keys names.csv: 1 of 3 names are no clip here: 'clip-7'; the nearest is 'clip-5'"
    assert videos.endswith("1 names are of videos, and mean all their clips")
    assert near_text("0000123", [f"{number:07d}" for number in range(10**4)]).startswith("; the nearest is '00001")


def named_in(splits: dict[str, str | None]) -> NamedClips:
    return NamedClips(NOWHERE, splits, 0, ())


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (Rule(renamed={"bea": "x"}), "--map: no class has the name 'bea'; the nearest is 'bee'; `avbench info"),
        (Rule(renamed={"p": "x", "q": ""}), "--map: 2 names are of no class: 'p', 'q'; `avbench info"),
        (Rule(classes=("ant", "do")), "--classes: no class has the name 'do'; the nearest is 'dog'"),
        (Rule(renamed={"ant": "eel"}, classes=("ant",)), "--classes: no class has the name 'ant'"),
        (Rule(keys=named_in({"x": None})), "--keys names.csv: 1 of 1 names are no clip here: 'x'; name keys"),
        (Rule(splits=named_in({"x": "val"})), "--splits names.csv: 1 of 1 names are no clip here: 'x'"),
        (
            Rule(keys=named_in({"clip-1": "val", "clip-2": None}), splits=named_in({"v0": "test"})),
            r"clip-1 is to be in val by --keys and in test by --splits \(1 such clips\)",
        ),
        (Rule(drops=(parse_drop("quality:still"),)), "the dataset has no quality.parquet"),
    ],
)
def test_a_rule_that_names_what_is_not_there_is_refused(rule: Rule, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        choose(candidates_of(plain_clips()), rule)


def test_takedowns_of_which_nothing_is_there_are_said_and_are_no_error() -> None:
    choice = choose(candidates_of(plain_clips()), Rule(without_keys=named_in({"gone": None})))
    assert len(choice.rows) == 6 and choice.missing == {"--without-keys": ("gone",)} and len(choice.notes) == 1


def test_the_same_split_may_be_said_twice() -> None:
    rule = Rule(keys=named_in({"clip-1": "val"}), splits=named_in({"clip-1": "val"}))
    assert choose(candidates_of(plain_clips()), rule).splits.tolist() == [1]


# Rules of quality.


MEASURED = pa.table(
    {
        "clip_id": pa.array([0, 1, 2, 3], pa.int64()),
        "key": ["a", "b", "c", "d"],
        "lost_seconds": pa.array([0.0, 2.5, None, float("nan")], pa.float64()),
        "cuts": pa.array([0, 3, 5, None], pa.int32()),
        "frozen": pa.array([True, False, None, True]),
    }
)


@pytest.mark.parametrize(
    ("text", "dropped", "unsaid"),
    [
        ("quality:lost_seconds>2", [1], 2),
        ("quality: lost_seconds >= 2.5", [1], 2),
        ("quality:lost_seconds!=2.5", [0], 2),
        ("quality:lost_seconds<1e9", [0, 1], 2),
        ("quality:cuts==3", [1], 1),
        ("quality:cuts<=3", [0, 1], 1),
        ("quality:frozen", [0, 3], 1),
        ("quality:frozen==True", [0, 3], 1),
        ("quality:frozen!=true", [1], 1),
    ],
)
def test_a_rule_of_quality_drops_what_its_column_says(text: str, dropped: list[int], unsaid: int) -> None:
    drop = parse_drop(text)
    assert np.flatnonzero(drop.matches(MEASURED)).tolist() == dropped
    assert drop.unsaid(MEASURED) == unsaid


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("duplicates", "--drop duplicates: no rule; expected quality:COLUMN>NUMBER"),
        ("quality:", "no rule"),
        ("quality:cuts>", "no rule"),
        ("quality:cuts=3", "no rule"),
        ("quality:cuts>3 or True", "no rule"),
        ("quality:__import__('os')", "no rule"),
        ("quality:cuts>three", "'three' is no number"),
        ("quality:cuts>nan", "nothing compares with nan"),
        (
            "quality:cut>3",
            "unknown column of quality.parquet 'cut'; did you mean 'cuts'.*known: cuts, frozen, lost_sec",
        ),
        ("quality:key>3", "unknown column of quality.parquet 'key'"),
        ("quality:cuts", "cuts holds numbers; expected .*; quote it, since shells take >"),
        ("quality:frozen>0", "frozen is true or false"),
        ("quality:frozen>true", "compared by == or !="),
    ],
)
def test_a_rule_of_quality_is_parsed_and_never_evaluated(text: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        parse_drop(text).matches(MEASURED)


# Files.


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_keys_are_read_one_a_line_or_by_columns(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "a\n\n b \na\n-c\n")
    assert read_clips(file, option="--keys").splits == {"a": None, "b": None, "-c": None}
    assert read_clips(file, option="--keys").twice == 1
    file = write(tmp_path / "keys", "\ufeffa,validate\nb, test\nc\n")
    assert read_clips(file, option="--keys").splits == {"a": "val", "b": "test", "c": None}
    file = write(tmp_path / "keys", 'label,split,key\n"x, y",train,a\nz,,b\n')
    found = read_clips(file, option="--keys")
    assert found.splits == {"a": "train", "b": None} and found.unused == ("label",)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a,train\na,test\n", r"--splits .*line 2: a has the split test here and train above"),
        ("a,train\nb,dev\n", r"--splits .*line 2: unknown split 'dev'"),
        ("a,train\nb\n", "line 2: has no split; expected key,split"),
        ("a,train,x\n", "line 1: has 3 values; expected key or key,split, or a first line with names"),
        ("key,split\n,train\n", "line 2: has no key"),
        ("", "names no clip"),
        ("key,split\n", "names no clip"),
        ('a,"b\n', "is no CSV"),
    ],
)
def test_a_file_of_clips_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises((UsageError, RecipeError), match=line):
        read_clips(write(tmp_path / "splits.csv", text), option="--splits", needs_split=True)


def test_a_map_is_read_with_or_without_its_first_line(tmp_path: Path) -> None:
    for first in ("", "old,new\n"):
        file = write(tmp_path / "map.csv", f'{first}"a, b",c\nd,\nd,\n')
        assert read_map(file) == {"a, b": "c", "d": ""}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a,b\na,c\n", "line 2: 'a' is to be 'c' here and 'b' above"),
        ("a\n", "line 1: expected old,new"),
        ("a,b,c\n", "line 1: expected old,new; quote"),
        (",b\n", "line 1: expected old,new"),
        ("old,new\n", "names no class"),
    ],
)
def test_a_map_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        read_map(write(tmp_path / "map.csv", text))


def test_class_names_are_read_one_a_line(tmp_path: Path) -> None:
    file = write(tmp_path / "classes.txt", "\ufeffwaterfall, burbling\n\n dog \n")
    assert read_classes(file) == ("waterfall, burbling", "dog")
    for text, line in (("\n", "names no class"), ("a\nb\na\n", "names 'a' twice")):
        with pytest.raises(UsageError, match=line):
            read_classes(write(file, text))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe9\n")
    for path in (tmp_path / "none", tmp_path, tmp_path / "latin"):
        for read in (lambda p: read_clips(p, option="--keys"), read_map, read_classes):
            with pytest.raises(AvbenchError, match=path.name):
                read(path)
