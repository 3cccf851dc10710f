"""Where numbers come from: what may not be joined, what is marked, and what older folders do not say."""

import json

import pytest

from avbench.analysis.report import assess
from avbench.cli import main
from avbench.errors import RunError
from avbench.records import write_json, write_text
from avbench.vocabulary import MODALITIES
from tests.analysis.make_run import make_run
from tests.analysis.presented import sheets_of

CLIPS = {split: {"clips": 3, "sha256": letter * 64} for split, letter in (("train", "a"), ("val", "b"), ("test", "c"))}
LAUNCH = {
    "command": ["avbench", "train", "pets", "--out", "a b"],
    "code": {"source_sha256": "d" * 64, "commit": "e" * 40, "uncommitted": False},
    "versions": {"python": "3.11", "avbench": "0.1.0", "torch": "2.11.0"},
    "precision": "float32",
    "world_size": 2,
    "clips": CLIPS,
}


@pytest.fixture
def make(tmp_path):
    """A maker of a run folder; the first has the unimodal networks, every other a method."""

    def made(name, *launches, preset="tiny", first=False, **dataset):
        runs = MODALITIES if first else (name,)
        correct = {(run, run, 0): [True, False, True] for run in runs}
        audio, visual = ({0: [0.9, 0.2, 0.6]}, {0: [0.5] * 3}) if first else ({}, {})
        folder = make_run(tmp_path / name, labels=[0, 1, 2], audio=audio, visual=visual, correct=correct)
        write_text(folder / "config.toml", f'dataset = "pets"\npreset = "{preset}"\n')
        write_json(folder / "environment.json", {"launches": list(launches)} if launches else {})
        said = json.loads((folder / "dataset.json").read_text())
        write_json(folder / "dataset.json", {**said, **dataset})
        return folder

    return made


def sheet(assessed):
    (found,) = (one for one in sheets_of(assessed) if one.kind == "origin")
    return [tuple(cell.text for cell in row) for row in found.rows]


@pytest.mark.parametrize(
    ("launch", "more", "said"),
    [
        (LAUNCH, {"index_sha256": "f" * 64}, r"different datasets \(pets 5e5e5e5e, pets ffffffff\)"),
        (LAUNCH, {"classes": ["dog", "cat", "rain"]}, r"different classes \(number 0 is 'cat' and 'dog'\)"),
        (LAUNCH, {"audio_suffix": "stft", "spectrogram": {"step": 1}}, "different datasets: spectrogram is not said"),
        (LAUNCH, {"preset": "paper"}, r"different presets \(tiny and paper\)"),
        (
            {**LAUNCH, "clips": {**CLIPS, "train": {"clips": 2, "sha256": "9" * 64}}},
            {},
            r"different clips: of train 3 \(digest aaaaaaaa\) and 2 \(digest 99999999\)",
        ),
    ],
)
def test_other_data_is_refused_naming_both_folders(make, launch, more, said, capsys):
    one, other = make("one", LAUNCH, first=True), make("tmc", launch, **more)
    with pytest.raises(RunError, match=rf"{one} and {other} .*{said}.*; evaluate them apart"):
        assess([one, other])
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(one), str(other)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_other_code_libraries_and_precision_are_joined_and_marked(make):
    other = {
        **LAUNCH, "precision": "bfloat16", "code": {"source_sha256": "0" * 64},
        "versions": {**LAUNCH["versions"], "torch": "2.12.0"},
    }  # fmt: skip
    assessed = assess([make("one", LAUNCH, first=True), make("tmc", other)])
    evaluation, rows = assessed[0], sheet(assessed)
    assert {what for what, *_ in rows if "≠" in what} == {"code\xa0≠", "libraries\xa0≠", "precision\xa0≠"}
    assert ("precision\xa0≠", "float32", "one") in rows and ("precision\xa0≠", "bfloat16", "tmc") in rows
    assert ("ranks", "2", "all") in rows
    assert ("command", "avbench train pets --out 'a b'", "all") in rows
    assert any("differ in code, libraries and precision" in note for note in evaluation.notes)


def test_commits_that_have_the_same_sources_are_not_marked(make):
    other = {**LAUNCH, "code": {**LAUNCH["code"], "commit": "1" * 40}}
    evaluation, _ = assess([make("one", LAUNCH, first=True), make("tmc", other)])
    assert not any(fact.differs for fact in evaluation.origin)


def test_every_launch_is_listed_and_what_changed_between_them_is_marked(make):
    again = {**LAUNCH, "command": ["avbench", "train", "--resume"], "world_size": 1}
    assessed = assess([make("one", LAUNCH, again, first=True)])
    evaluation, rows = assessed[0], sheet(assessed)
    assert ("ranks\xa0≠", "2", "one (launch 1)") in rows and ("ranks\xa0≠", "1", "one (launch 2)") in rows
    assert ("command", "avbench train --resume", "one (launch 2)") in rows
    assert [fact.what for fact in evaluation.origin if fact.differs] == ["ranks", "ranks"]
    assert any(note.startswith("Between the launches of one ranks changed") for note in evaluation.notes)


def test_older_folders_are_joined_and_say_what_they_did_not_record(make):
    assessed = assess([make("one", LAUNCH, first=True), make("tmc")])
    evaluation, rows = assessed[0], sheet(assessed)
    assert ("code", "not recorded", "tmc") in rows and ("clips of train", "not recorded", "tmc") in rows
    assert not any(fact.differs for fact in evaluation.origin)


VIEW = {
    "version": 2,
    "fingerprint": "1" * 64,
    "contents_sha256": "2" * 64,
    "origin": [
        {
            "name": "kinetics400",
            "clips": 240000,
            "fingerprint": "3" * 64,
            "origin": [{"name": "first", "clips": 9, "fingerprint": "4" * 64}],
            "rule": {"drop": ["quality:frozen"]},
        },
        {"name": "other", "clips": 5, "fingerprint": "5" * 64},
    ],
    "rule": {"without_keys": {"file": "gone.txt", "sha256": "6" * 64, "named": 3, "missing": 1}},
}


def test_runs_on_a_view_and_on_its_written_shards_are_joined_and_say_what_it_is_of(make):
    one = make("one", LAUNCH, first=True, **VIEW)
    written = {**VIEW, "version": 1, "contents_sha256": "7" * 64, "index_sha256": "8" * 64}
    assessed = assess([one, make("tmc", LAUNCH, **written)])
    evaluation, rows = assessed[0], sheet(assessed)
    assert ("dataset", f"pets ({'1' * 12})", "all") in rows
    of = "kinetics400, 240000 clips, itself a view by drop quality:frozen of (first, 9 clips)"
    assert ("view of (1 of 2)", f"{of} ({'3' * 12})", "all") in rows
    assert ("view of (2 of 2)", f"other, 5 clips ({'5' * 12})", "all") in rows
    assert ("rule of the view", f"without keys gone.txt (3 named, 1 missing, {'6' * 12})", "all") in rows
    assert not any(fact.differs for fact in evaluation.origin) and not any("differ in" in n for n in evaluation.notes)


def test_folders_are_of_one_content_by_their_fingerprints_or_by_the_index_of_an_older_one(make):
    here = make("one", LAUNCH, first=True, fingerprint="1" * 64)
    assess([here, make("older", LAUNCH)])  # has no fingerprint, and the same index
    with pytest.raises(RunError, match="different datasets"):
        assess([here, make("other", LAUNCH, fingerprint="2" * 64, index_sha256="8" * 64)])
    with pytest.raises(RunError, match="different datasets"):
        assess([here, make("another", LAUNCH, index_sha256="8" * 64)])
