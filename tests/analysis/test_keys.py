"""Own tables keyed by path, source or key: each names the same clip, and what could be two clips names none."""

import csv
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avbench.analysis.export import export_subsets
from avbench.analysis.reading.external import read_results
from avbench.analysis.reading.keys import KnownKeys, source_of
from avbench.errors import RunError
from avbench.packing.clips import LONGEST_KEY, encoded_key
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import make_run

SOURCES = ["Hund, bellt/clip 1 é", "Hund, bellt/a.b", "日本語 音/clip 1 é", "Katze/x", "Katze/y", "Katze/100%"]
LABELS = [0, 0, 1, 2, 2, 2]
AUDIO, VISUAL = [0.9, 0.8, 0.5, 0.25, 0.1, 0.7], [0.1, 0.5, 0.5, 0.5, 0.8, 0.7]


def known(sources, *, told=False):
    keys = {source: encoded_key(source) for source in sources}
    return keys, KnownKeys(keys.values(), lambda: {key: source for source, key in keys.items()} if told else {})


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("form", ["{}", "{}.mp4", "./{}.mp4", "/data/clips A/{}.MKV", "clips A/{}", "{}.tar.mp4"])
def test_every_way_to_name_a_clip(told, form):
    keys, names = known(SOURCES, told=told)
    given = np.array([form.format(source) for source in SOURCES], object)
    expected = [keys[source] for source in SOURCES]
    if form == "{}.tar.mp4":  # one suffix is a suffix, two are another name
        assert names.resolved(given).tolist() == given.tolist()
    else:
        assert names.resolved(given).tolist() == expected


def test_keys_with_a_suffix_other_separators_and_other_accents():
    keys, names = known(SOURCES)
    first = keys[SOURCES[0]]
    decomposed = "Hund, bellt/clip 1 e\N{COMBINING ACUTE ACCENT}.mp4"
    given = np.array([first, f"{first}.mp4", "Hund, bellt\\clip 1 é.mp4", decomposed], object)
    assert names.resolved(given).tolist() == [first] * 4


def test_a_name_of_two_clips_or_of_none_stays_as_it_is():
    windows = {f"video-{number:03d}": "video" for number in range(3)}
    names = KnownKeys(windows, lambda: windows)
    given = np.array(["video-001", "video-001.mp4", "video", "video.mp4", "other"], object)
    assert names.resolved(given).tolist() == ["video-001", "video-001", "video", "video.mp4", "other"]


def test_a_suffix_that_tells_two_videos_apart_is_part_of_the_name():
    keys = {"a%2Emp4": "a.mp4", "a%2Emkv": "a.mkv"}
    names = KnownKeys(keys, lambda: keys)
    assert names.resolved(np.array(["a.mkv", "x/a.mp4", "a"], object)).tolist() == ["a%2Emkv", "a%2Emp4", "a"]


def test_a_long_name_whose_key_is_cut():
    long = "Ordner/" + "ä" * LONGEST_KEY
    keys, names = known([long])
    assert names.resolved(np.array([f"{long}.mp4"], object)).tolist() == [keys[long]]
    assert keys[long].endswith(hashlib.sha256(long.encode()).hexdigest()[:16])
    assert source_of(keys[long]) == ""
    assert source_of(encoded_key(SOURCES[0])) == SOURCES[0]


@pytest.fixture
def run(tmp_path):
    right = {(name, name, 0): [True] * 6 for name in MODALITIES}
    folder = make_run(tmp_path / "run", labels=LABELS, audio={0: AUDIO}, visual={0: VISUAL}, correct=right)
    renamed(folder, sources=False)
    return folder


def renamed(folder, *, sources):
    for path in [folder / "confidence.parquet", *(folder / "predictions").iterdir()]:
        table = pq.read_table(path)
        rows = [int(key.removeprefix("clip")) for key in table["key"].to_pylist()]
        keys = pa.array([encoded_key(SOURCES[row]) for row in rows])
        table = table.set_column(table.column_names.index("key"), "key", keys)
        if "source" in table.column_names:
            values = pa.array([SOURCES[row] if sources else None for row in rows], pa.string())
            table = table.set_column(table.column_names.index("source"), "source", values)
        pq.write_table(table, path)


def read(run, path, *, confidence=None):
    results = read_results([run] if run else [], predictions=[path], confidence=confidence, split="test", epochs="all")
    return next(score for score in results.scores if score.run == path.stem)


def test_predictions_and_confidences_keyed_by_path(run, tmp_path):
    mine, clips = tmp_path / "mine.parquet", tmp_path / "clips.parquet"
    paths = [f"/data/{source}.mp4" for source in SOURCES]
    pq.write_table(pa.table({"key": paths[::-1], "prediction": LABELS[::-1]}), mine)
    pq.write_table(pa.table({"key": SOURCES, "label": LABELS, "audio": VISUAL, "visual": AUDIO}), clips)
    assert read(run, mine).correct.all()
    assert read(run, mine, confidence=clips).correct.all()
    assert read(None, mine, confidence=run / "confidence.parquet").correct.all()
    assert read(None, mine, confidence=clips).correct.all()


def test_two_names_of_one_clip_are_one_clip_twice(run, tmp_path):
    mine = tmp_path / "mine.parquet"
    keys = [*SOURCES, f"{SOURCES[0]}.mp4"]
    pq.write_table(pa.table({"key": keys, "prediction": [*LABELS, 0]}), mine)
    with pytest.raises(RunError, match="1 key stands more than once"):
        read(run, mine)


def test_another_datasets_keys_are_told_what_is_expected(run, tmp_path):
    mine = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"key": ["one", "two"], "prediction": [0, 0]}), mine)
    with pytest.raises(
        RunError, match="paths in the media folder, or keys such as 'Hund%2C%20bellt%2Fclip%201%20%C3%A9'"
    ):
        read(run, mine)


@pytest.mark.parametrize("sources", [True, False])
def test_exported_subsets_have_sources(run, tmp_path, sources):
    if sources:
        renamed_again = make_run(
            tmp_path / "new", labels=LABELS, audio={0: AUDIO}, visual={0: VISUAL},
            correct={(name, name, 0): [True] * 6 for name in MODALITIES},
        )  # fmt: skip
        renamed(renamed_again, sources=True)
        run = renamed_again
    file, _ = export_subsets(
        [run], tmp_path / "s.csv", split="test", thresholds=[0], confidence_epochs="all", overwrite=False
    )
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["source"] for row in rows] == SOURCES
    assert [row["key"] for row in rows] == list(map(encoded_key, SOURCES))
    assert list(rows[0])[:3] == ["key", "source", "label"]
    # Of an earlier version's, without the column, too: it is replaced.
    old = tmp_path / "old.csv"
    old.write_text("key,label,discrepancy,audio,visual,subset_0\n")
    export_subsets([run], old, split="test", thresholds=[0], confidence_epochs="all", overwrite=True)
