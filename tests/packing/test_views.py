"""A view is a dataset over shards that lie elsewhere: the same clips, not a byte copied, wherever it is moved."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avbench.cli import main
from avbench.dataset import Dataset, sha256_of
from avbench.description import DIGEST, contents_digest
from avbench.errors import AvbenchError, DatasetError
from avbench.fingerprint import content_fingerprint
from avbench.integrity import check_contents, leftovers
from avbench.loading.loader import Loader
from avbench.loading.order import ShardWindows
from avbench.loading.presets import preset
from avbench.packing.pack import write_index
from avbench.packing.verify import verify
from avbench.packing.views.rule import RuleFiles
from avbench.packing.views.view import make_view
from avbench.vocabulary import SPLITS
from tests.conftest import REPOSITORY
from tests.synthetic import make_dataset

Clip = tuple[str, str, str]


def synthetic(path: Path, *, seed: int = 0, **options: Any) -> Path:
    """26 clips in eight shards, with a quality.parquet whose column `noise` is the row modulo 5."""
    clips = {"train": 14, "val": 6, "test": 6}
    make_dataset(
        path, **{"clips": clips, "seconds": 0.5, "size": (16, 16), "sample_rate": 8000, "clips_per_shard": 4, **options}
    )
    keys = Dataset(path).table_column("key").to_pylist()
    names = ("silent", "anti_phase", "frozen", "non_square_pixels")
    flags = {name: [name == "silent" and row % 7 == seed for row in range(len(keys))] for name in names}
    noise = {"clip_id": range(len(keys)), "key": keys, "noise": [row % 5 for row in range(len(keys))]}
    pq.write_table(pa.table({**noise, **flags}), path / "quality.parquet")
    change(
        path,
        quality={name: sum(values) for name, values in flags.items()},
        quality_sha256=sha256_of(path / "quality.parquet"),
    )
    return path


def change(path: Path, **fields: Any) -> None:
    """Change dataset.json as whoever does it on purpose."""
    description = {**json.loads((path / "dataset.json").read_text()), **fields}
    description[DIGEST] = contents_digest(description)
    (path / "dataset.json").write_text(json.dumps(description))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic(tmp_path_factory.mktemp("views") / "packed")


def view_of(*paths: Path, out: Path, shards: tuple[Path, ...] = (), **files: Any) -> Dataset:
    return make_view(paths, out=out, files=RuleFiles(**files), shard_folders=shards).dataset


def listed(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def clips_of(dataset: Dataset) -> list[Clip]:
    """(key, class, split) of each clip, in order."""
    keys = dataset.table_column("key").to_pylist()
    rows = zip(keys, dataset.labels.tolist(), dataset.splits.tolist(), strict=True)
    return [(key, dataset.classes[label], SPLITS[split]) for key, label, split in rows]


def contents_of(dataset: Dataset) -> dict[str, list[bytes]]:
    """All encoded bytes of each clip by its key."""
    counts = dataset.frame_counts(np.arange(len(dataset))).tolist()
    return {
        dataset.key(clip): [
            dataset.audio_bytes(clip).tobytes(),
            *(dataset.frame_bytes(clip, frame).tobytes() for frame in range(frames)),
        ]
        for clip, frames in enumerate(counts)
    }


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def line_of(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line in which a command ends with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words)])
    output = capsys.readouterr()
    assert stop.value.code == 2 and output.err.count("\n") == 1, output.err
    return output.err


# What a view holds.


@given(data=st.data())
@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
def test_a_view_has_the_clips_that_a_plain_computation_has(
    packed: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("any")
    clips = clips_of(Dataset(packed))
    keys = [key for key, _, _ in clips]
    some = data.draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))
    chosen = {key: data.draw(st.sampled_from(["", *SPLITS])) for key in some}
    gone = data.draw(st.sets(st.sampled_from(keys), max_size=4))
    new = data.draw(
        st.dictionaries(st.sampled_from(["class-0", "class-1", "class-2"]), st.sampled_from(["", "a", "b"]))
    )
    noise = data.draw(st.integers(0, 5))
    expected = [
        (key, new.get(name, name), chosen[key] or split)
        for row, (key, name, split) in enumerate(clips)
        if key in chosen and key not in gone and new.get(name, name) and row % 5 < noise
    ]
    expected.sort(key=lambda clip: SPLITS.index(clip[2]))
    new = {"class-0": "class-0", **new}
    files = {
        "keys": listed(folder / "keys", [f"{key},{split}" for key, split in chosen.items()]),
        "without_keys": listed(folder / "gone", ["none", *gone]),
        "map": listed(folder / "map", ["old,new", *(f"{old},{name}" for old, name in new.items())]),
        "drop": [f"quality:noise>={noise}"],
    }
    if not expected:
        with pytest.raises(AvbenchError, match="no clip is left"):
            view_of(packed, out=folder / "view", **files)
        assert not (folder / "view").exists()
        return
    view = view_of(packed, out=folder / "view", **files)
    assert clips_of(view) == expected
    assert verify(folder / "view", workers=1) == []
    # In each split the clips of a shard stand together, so that windows of shards hold few of them.
    for split in SPLITS:
        shards = view.shards[view.clip_ids(split)]
        assert (np.diff(shards) >= 0).all()
    held = contents_of(view)
    assert {key: contents for key, contents in contents_of(Dataset(packed)).items() if key in held} == held
    quality = pq.read_table(folder / "view" / "quality.parquet")
    assert quality.column("key").to_pylist() == [key for key, _, _ in expected]
    assert quality.column("clip_id").to_pylist() == list(range(len(expected)))


def test_no_byte_of_a_shard_is_copied_and_the_packed_dataset_stays_as_it_was(packed: Path, tmp_path: Path) -> None:
    before = files_of(packed)
    view = view_of(packed, out=tmp_path / "deep" / "view", classes=listed(tmp_path / "classes", ["class-1"]))
    assert files_of(packed) == before
    assert sorted(files_of(view.path)) == ["dataset.json", "index.arrow", "quality.parquet"]
    assert view.name == "view" and view.classes == ("class-1",) and view.is_view
    assert view.path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["view"]


def test_a_view_of_a_view_lies_over_the_packed_shards_alone(packed: Path, tmp_path: Path) -> None:
    keys = [key for key, _, _ in clips_of(Dataset(packed))]
    turned = listed(tmp_path / "splits", [f"{key},{SPLITS[row % 3]}" for row, key in enumerate(keys)])
    first = view_of(packed, out=tmp_path / "first", splits=turned)
    back = listed(tmp_path / "train", [f"{key},train" for key in keys[::2]])
    second = view_of(first.path, out=tmp_path / "second", splits=back)
    at_once = [f"{key},{'train' if row % 2 == 0 else SPLITS[row % 3]}" for row, key in enumerate(keys)]
    third = view_of(packed, out=tmp_path / "third", splits=listed(tmp_path / "both", at_once))
    assert clips_of(second) == clips_of(third) and second.fingerprint == third.fingerprint
    # By row of origin, whatever the order was in between.
    train = [key for key, _, split in clips_of(second) if split == "train"]
    assert train == [key for key in keys if key in train]
    windows = ShardWindows.of(second.shards[second.clip_ids("train")], shards=1)
    assert len(windows.starts) - 1 == len(np.unique(second.shards[second.clip_ids("train")]))
    shutil.rmtree(first.path)
    second.check_shards()
    assert verify(second.path, workers=1) == []
    told = second.description
    assert [origin["name"] for origin in told["origin"]] == ["first"]
    assert told["origin"][0]["origin"][0]["fingerprint"] == Dataset(packed).fingerprint
    assert told["origin"][0]["rule"]["splits"]["named"] == len(keys)


def test_several_datasets_become_one_view(packed: Path, tmp_path: Path) -> None:
    """By split, then by dataset; classes of other names are joined, and clips of both are taken once."""
    other = synthetic(tmp_path / "other", classes=4, clips_per_shard=5, prefix="other-")
    first = view_of(packed, out=tmp_path / "first", keys=listed(tmp_path / "keys", ["train-0001", "test-0003"]))
    both = view_of(other, packed, first.path, out=tmp_path / "both")
    expected = [*clips_of(Dataset(other)), *clips_of(Dataset(packed))]
    assert clips_of(both) == sorted(expected, key=lambda clip: SPLITS.index(clip[2]))
    assert len(both.shard_folders) == 2 and len(both.packed_shards) == len(set(both.packed_shards.places))
    assert verify(both.path, workers=1) == []
    assert contents_of(both) == {**contents_of(Dataset(other)), **contents_of(Dataset(packed))}
    assert [origin["name"] for origin in both.description["origin"]] == ["synthetic", "synthetic", "first"]
    loader = Loader(both, both.clip_ids("train"), preset=preset("tiny"), batch_size=7, seed=0, training=True)
    assert sum(int(batch.valid.sum()) for batch in loader.epoch(0)) == 28
    loader.close()


def test_an_index_of_several_record_batches_gives_the_same_view(packed: Path, tmp_path: Path) -> None:
    pieces = shutil.copytree(packed, tmp_path / "pieces")
    dataset = Dataset(packed)
    rows = [dataset.rows_of_shard(number) for number in range(len(dataset.packed_shards))]
    write_index(pieces / "index.arrow", rows, dataset.classes, largest_offset=60)
    change(pieces, index_sha256=sha256_of(pieces / "index.arrow"))
    assert Dataset(pieces).table.column("key").num_chunks > 3
    keys = [key for key, _, _ in clips_of(dataset)]
    turned = listed(tmp_path / "splits", [f"{key},{SPLITS[row % 3]}" for row, key in enumerate(keys)])
    one, other = (
        view_of(path, out=tmp_path / f"{path.name}-view" / "view", splits=turned) for path in (packed, pieces)
    )
    assert one.table.equals(other.table) and one.fingerprint == other.fingerprint
    assert contents_of(other) == contents_of(dataset)


def test_what_several_datasets_cannot_share_is_named(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "view")
    twin = synthetic(tmp_path / "twin", seed=1)
    line = line_of(capsys, "view", packed, twin, *out)
    assert "26 keys are in several of the datasets" in line and "'train-0000', " in line and "--without-keys" in line
    moved = view_of(packed, out=tmp_path / "moved", splits=listed(tmp_path / "splits", ["train-0001,val"]))
    assert "1 keys are in several of the datasets" in line_of(capsys, "view", packed, moved.path, *out)
    for options, words in (
        ({"audio_suffix": "wav"}, "audio_suffix is flac and wav"),
        ({"sample_rate": 16000}, "sample rates is [8000] and [16000]"),
        ({"audio_suffix": "stft"}, "audio_suffix is flac and stft"),
    ):
        unlike = synthetic(tmp_path / "unlike", prefix="u", **options)
        assert words in line_of(capsys, "view", packed, unlike, *out)
        shutil.rmtree(unlike)
    late = synthetic(tmp_path / "late", prefix="l")
    change(late, frame_phase_seconds=0.5)
    assert "frame_phase_seconds is 0.0 and 0.5" in line_of(capsys, "view", packed, late, *out)
    assert not (tmp_path / "view").exists()


def test_a_dataset_without_quality_gives_views_without_it(packed: Path, tmp_path: Path) -> None:
    plain = make_dataset(
        tmp_path / "plain",
        prefix="p",
        clips={"train": 3, "val": 3, "test": 3},
        seconds=0.5,
        size=(16, 16),
        sample_rate=8000,
    )
    view = view_of(packed, plain, out=tmp_path / "view")
    assert "quality" not in view.description and not (view.path / "quality.parquet").exists()
    assert verify(view.path, workers=1) == []
    with pytest.raises(AvbenchError, match=r"has no quality\.parquet"):
        view_of(packed, plain, out=tmp_path / "other", drop=["quality:silent"])


# Fingerprints.


def test_the_fingerprint_is_of_the_content_and_not_of_its_places(packed: Path, tmp_path: Path) -> None:
    dataset = Dataset(packed)
    view = view_of(packed, out=tmp_path / "view")
    assert view.fingerprint == dataset.fingerprint and view.index_sha256 != dataset.index_sha256
    pieces = [dataset.table.slice(first, 5) for first in range(0, 26, 5)]
    assert content_fingerprint(pa.concat_tables(pieces), dataset.classes) == dataset.fingerprint
    others = {
        "classes": view_of(packed, out=tmp_path / "a", map=listed(tmp_path / "map", ["class-2,class-3"])),
        "splits": view_of(packed, out=tmp_path / "b", splits=listed(tmp_path / "splits", ["train-0001,val"])),
        "clips": view_of(packed, out=tmp_path / "c", without_keys=listed(tmp_path / "gone", ["train-0001"])),
    }
    assert len({one.fingerprint for one in (dataset, *others.values())}) == 4


@pytest.mark.parametrize("name", ["key", "source", "label", "split", "audio_checksum", "frame_checksum"])
def test_every_part_of_the_content_is_in_the_fingerprint(packed: Path, name: str) -> None:
    table = Dataset(packed).table
    values = table.column(name).to_pylist()
    other = values[3] + 1 if isinstance(values[3], int) else values[4]
    changed = table.set_column(
        table.schema.get_field_index(name),
        table.schema.field(name),
        pa.array([*values[:3], other, *values[4:]], table.schema.field(name).type),
    )
    assert content_fingerprint(changed, ("a",)) != content_fingerprint(table, ("a",))


# Moved, lost and set aside.


def test_a_view_moves_with_its_shards_and_is_told_where_they_are_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = synthetic(tmp_path / "one" / "packed")
    view = view_of(packed, out=tmp_path / "one" / "views" / "view", keys=listed(tmp_path / "keys", ["train-0001"]))
    fingerprint = view.fingerprint
    (tmp_path / "one").rename(tmp_path / "two")
    moved = Dataset(tmp_path / "two" / "views" / "view")
    moved.check_shards()
    assert verify(moved.path, workers=1) == []
    (tmp_path / "two" / "packed").rename(tmp_path / "shards")
    with pytest.raises(
        DatasetError, match=r"view: a view of shards in .*packed, and there is no such folder.*--shards"
    ):
        Dataset(moved.path).check_shards()
    with pytest.raises(DatasetError, match="there is no such folder"):
        Dataset(moved.path).audio_bytes(0)
    line = line_of(capsys, "view", moved.path, "--out", tmp_path / "again")
    assert "there is no such folder; move them back, or say where they are now" in line
    line = line_of(capsys, "view", moved.path, "--shards", tmp_path, "--out", tmp_path / "again")
    assert f"--shards {tmp_path}: none holds all shards that" in line
    assert not (tmp_path / "again").exists()
    again = view_of(moved.path, out=tmp_path / "again", shards=(tmp_path, tmp_path / "shards"))
    assert again.fingerprint == fingerprint and again.shard_folders == ("../shards",)
    assert verify(again.path, workers=1) == []


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    packed = synthetic(tmp_path / "disk" / "packed")
    (tmp_path / "link").symlink_to(packed)
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    view = view_of(tmp_path / "link", out=tmp_path / "home" / "view")
    assert view.shard_folders == ("../packed",)
    (tmp_path / "link").unlink()
    assert verify(tmp_path / "disk" / "view", workers=1) == []


def test_clips_in_quarantine_where_they_were_packed_are_left_out_now_and_later(tmp_path: Path) -> None:
    packed = synthetic(tmp_path / "packed")
    early = view_of(
        packed, out=tmp_path / "early", keys=listed(tmp_path / "keys", [f"train-{n:04d}" for n in range(9)])
    )
    damage(packed, clip=5)
    (packed / "shard-000002.tar").unlink()
    main(["verify", str(packed), "--quarantine", "--workers", "1"])
    assert Dataset(packed).quarantined.tolist() == [5, 8, 9, 10, 11]
    late = make_view([packed], out=tmp_path / "late", files=RuleFiles())
    assert late.notes[0].startswith("5 left out (in quarantine where they were packed): train-0005, train-0008")
    assert len(late.dataset) == 21 and not len(late.dataset.quarantined)
    assert late.dataset.description["left_out"][0]["count"] == 5
    # A view that was made before: training leaves them out too, and its lost shard is known.
    early = Dataset(early.path)
    early.check_shards()
    assert [early.key(clip) for clip in early.quarantined] == ["train-0005", "train-0008"]
    assert len(early.clip_ids("train")) == 7 and leftovers(early) == []


def damage(path: Path, clip: int) -> None:
    dataset = Dataset(path)
    with dataset.shard_path(int(dataset.shards[clip])).open("r+b") as file:
        file.seek(int(dataset.audio_offsets[clip]) + 200)
        file.write(b"damaged!")


def test_a_views_own_quarantine_goes_by_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = synthetic(tmp_path / "packed")
    keys = listed(tmp_path / "keys", ["train-0002", "train-0005", "train-0009", "val-0000"])
    view = view_of(packed, out=tmp_path / "view", keys=keys)
    damage(packed, clip=5)
    (packed / "shard-000002.tar").unlink()
    line = line_of(capsys, "verify", view.path, "--workers", "1")
    assert "problems, listed above" in line
    main(["verify", str(view.path), "--quarantine", "--workers", "1"])
    dataset = Dataset(view.path)
    assert dataset.quarantined.tolist() == [1, 2] and not (packed / "quarantine.jsonl").exists()
    assert list(dataset.quarantine.shards) == ["../packed/shard-000002.tar"]
    dataset.check_shards()
    check_contents(dataset)
    capsys.readouterr()
    main(["info", str(view.path)])
    assert "2 clips (the checksum of its flac is not the packed one 1; " in capsys.readouterr().out
    note = listed(tmp_path / "note", [json.dumps({"clip_id": 0, "key": "train-0002", "reason": "noisy"})])
    main(["verify", str(view.path), "--quarantine", "--add", str(note)])
    assert Dataset(view.path).quarantined.tolist() == [0, 1, 2]


def test_a_quick_look_at_a_view_finds_a_shard_that_is_gone_and_a_header_that_is_damaged(tmp_path: Path) -> None:
    packed = synthetic(tmp_path / "packed")
    view = view_of(packed, out=tmp_path / "view", keys=listed(tmp_path / "keys", ["train-0002", "train-0005"]))
    assert verify(view.path, workers=1, is_quick=True) == []
    (packed / "shard-000007.tar").unlink()  # holds no clip of the view
    (packed / "shard-000000.idx").write_text("v1.2 0\n")
    (problem,) = verify(view.path, workers=1, is_quick=True)
    assert problem.shard == "../packed/shard-000000.tar" and "does not list what it holds" in problem.text
    (packed / "shard-000001.tar").unlink()
    assert [problem.text[:10] for problem in verify(view.path, workers=1, is_quick=True)] == [
        "its DALI i",
        "is missing",
    ]


def test_damage_to_a_views_own_files_is_named(packed: Path, tmp_path: Path) -> None:
    for name, text in (("index.arrow", "SHA-256 of index.arrow"), ("quality.parquet", "SHA-256 of quality.parquet")):
        view = view_of(packed, out=tmp_path / name)
        data = bytearray((view.path / name).read_bytes())
        data[data.index(view.labels.tobytes()) if name == "index.arrow" else 40] ^= 1
        (view.path / name).write_bytes(data)
        assert any(text in problem.text for problem in verify(view.path, workers=1))
    view = view_of(packed, out=tmp_path / "described")
    for field, value in (("fingerprint", "0" * 64), ("classes", ["class-0", "class-2", "class-1"])):
        before = (view.path / "dataset.json").read_bytes()
        change(view.path, **{field: value})
        with pytest.raises(DatasetError):
            check_contents(Dataset(view.path))
        (view.path / "dataset.json").write_bytes(before)


def test_every_field_of_a_views_description_may_be_missing_or_anything(packed: Path, tmp_path: Path) -> None:
    view = view_of(packed, out=tmp_path / "view")
    told = json.loads((view.path / "dataset.json").read_text())
    shards = told["shards"]
    broken: list[Mapping[str, Any]] = [{name: value for name, value in told.items() if name != gone} for gone in told]
    broken += [{**told, "shards": {n: v for n, v in shards.items() if n != gone}} for gone in shards]
    for value in (None, 3, "x", [], {}, [None], [[]], [{}], -1, True):
        broken += [{**told, name: value} for name in told]
        broken += [{**told, "shards": {**shards, name: value}} for name in shards]
        broken += [{**told, "shards": {**shards, name: [value, *shards[name][1:]]}} for name in shards]
    for description in broken:
        (view.path / "dataset.json").write_text(json.dumps(description))
        try:
            check_contents(Dataset(view.path))
        except DatasetError:
            continue
        assert {name for name in told if name not in description} <= {"quality", "left_out", "view_made_with"} or (
            description != told
        ), description
    (view.path / "dataset.json").write_text(json.dumps({**told, "version": 1}))
    with pytest.raises(DatasetError, match="'shards' are not listed as those of version 1"):
        Dataset(view.path)


# Other commands.


def test_info_shows_where_a_view_is_from_and_by_which_rule(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = listed(tmp_path / "classes.txt", ["class-0", "class-2"])
    view = view_of(packed, out=tmp_path / "view", classes=classes, drop=["quality:noise>3"])
    main(["info", str(view.path)])
    text = capsys.readouterr().out
    assert f"synthetic, 26 clips (fingerprint {Dataset(packed).fingerprint[:12]}) in " in text
    assert 'classes (file "classes.txt", names ["class-0", "class-2"]), drop ["quality:noise>3"]' in text
    assert view.fingerprint in text and "of a class that --classes does not name 9" in text
    main(["info", str(view.path), "--json", "--export-keys", str(tmp_path / "keys.csv")])
    found = json.loads(capsys.readouterr().out)
    assert found["fingerprint"] == view.fingerprint and found["rule"]["drop"] == ["quality:noise>3"]
    # What one person exports, another takes: the same clips, in the same splits.
    again = view_of(packed, out=tmp_path / "again", keys=tmp_path / "keys.csv", classes=classes)
    assert again.fingerprint == view.fingerprint


def test_a_views_index_is_not_made_from_shards(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = view_of(packed, out=tmp_path / "view")
    before = files_of(view.path)
    assert "follows from no shard; make the view again" in line_of(capsys, "verify", view.path, "--reindex")
    assert files_of(view.path) == before
    (view.path / "index.arrow").unlink()
    assert "follows from no shard" in line_of(capsys, "verify", view.path, "--repair")


def test_the_command_says_what_it_did_and_what_training_would_miss(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = listed(
        tmp_path / "keys.csv", ["key,split", "train-0001,train", "train-0002,train", "gone,train", "test-0000,"]
    )
    main(["view", str(packed), "--keys", str(keys), "--out", str(tmp_path / "view")])
    output = capsys.readouterr()
    assert output.out.splitlines() == [
        f"{tmp_path / 'view'}: a view of 3 clips (2 train, 0 val, 1 test), 3 classes, in 2 shards of "
        f"{tmp_path / 'view' / os.path.relpath(packed, tmp_path / 'view')}",
        "1 of 3 classes has no training clip: class-0",
        "no clips in the val split: `avbench train` needs clips in all three",
        "the test split has clips of one class only, 'class-0': `avbench train` needs two or more",
    ]
    assert "1 of 4 names are no clip here: 'gone'" in output.err
    assert "23 left out (not among --keys): train-0000, train-0003" in output.err
    assert (tmp_path / "view" / "missing.csv").read_text() == "list,name\nkeys,gone\n"
    main(["view", str(packed), "--keys", str(keys), "--out", str(tmp_path / "other"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["clips"] == {"train": 2, "val": 0, "test": 1} and found["rule"]["keys"]["missing"] == 1


def test_windows_of_one_video_in_two_splits_are_said(tmp_path: Path) -> None:
    packed = synthetic(tmp_path / "packed")
    table = pa.ipc.open_file(pa.BufferReader((packed / "index.arrow").read_bytes())).read_all()
    place = table.schema.get_field_index("source")
    videos = pa.array([f"video-{row // 2}" for row in range(26)])
    with pa.ipc.new_file(str(packed / "index.arrow"), table.schema) as writer:
        writer.write_table(table.set_column(place, table.schema.field("source"), videos))
    change(packed, index_sha256=sha256_of(packed / "index.arrow"))
    view = make_view(
        [packed], out=tmp_path / "view", files=RuleFiles(splits=listed(tmp_path / "splits", ["train-0003,test"]))
    )
    assert view.notes == ("1 video has clips in several splits of the view, 'video-1' first",)
    by_video = listed(tmp_path / "splits", ["video-1,test"])
    whole = make_view([packed], out=tmp_path / "whole", files=RuleFiles(splits=by_video))
    assert whole.notes == (f"--splits {by_video}: 1 names are of videos, and mean all their clips",)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--keys", "none"), "--keys none: cannot be read (No such file or directory)"),
        (("--drop", "quality:noise>"), "--drop quality:noise>: no rule"),
        (("--drop", "quality:loud>1"), "unknown column of quality.parquet 'loud'"),
        (("--drop", "duplicates"), "--drop duplicates: no rule"),
        (("--drop", "quality:noise>=0"), "no clip is left: 26 left out (by --drop quality:noise>=0)"),
        (("--classes", ""), "--classes is empty"),
        (("--shard", "x"), "unrecognized"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing_behind(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str
) -> None:
    assert line.lower() in line_of(capsys, "view", packed, *words, "--out", tmp_path / "view").lower()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    view_of(packed, out=out)
    before = files_of(out)
    for place in (out, packed, listed(tmp_path / "file", [])):
        assert "is there already; name a new or empty folder" in line_of(capsys, "view", packed, "--out", place)
    assert files_of(out) == before
    assert "no such dataset folder" in line_of(capsys, "view", tmp_path / "none", "--out", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


KILLED = """
import os, signal, sys
from avbench.packing.views import view
from avbench.packing.views.rule import RuleFiles
from pathlib import Path

view.write_json = lambda path, value: os.kill(os.getpid(), signal.SIGKILL)  # all but the description is written
view.make_view([Path(sys.argv[1])], out=Path(sys.argv[2]), files=RuleFiles())
"""


def test_a_command_that_is_killed_leaves_no_half_view_and_is_tidied_up(packed: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", KILLED, str(packed), str(tmp_path / "view")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run(words, env=environment, check=False, timeout=60).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".view.") and (left / "index.arrow").exists()
    mine = tmp_path / left.name.replace(left.name.split("-")[-2], str(os.getpid()))  # of a process that lives
    mine.mkdir()
    assert verify(view_of(packed, out=tmp_path / "view").path, workers=1) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [mine.name, "view"]


def test_a_view_of_a_damaged_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = synthetic(tmp_path / "packed")
    (packed / "shard-000003.tar").write_bytes(b"")
    assert "shard-000003.tar: has 0 bytes" in line_of(capsys, "view", packed, "--out", tmp_path / "view")
    packed = synthetic(tmp_path / "other")
    data = bytearray((packed / "index.arrow").read_bytes())
    data[data.index(Dataset(packed).labels.tobytes())] ^= 1
    (packed / "index.arrow").write_bytes(data)
    assert "SHA-256 of index.arrow" in line_of(capsys, "view", packed, "--out", tmp_path / "view")
    packed = synthetic(tmp_path / "third")
    (packed / "quality.parquet").write_bytes(b"x")
    assert "quality.parquet" in line_of(capsys, "view", packed, "--drop", "quality:silent", "--out", tmp_path / "view")
    assert not (tmp_path / "view").exists()
