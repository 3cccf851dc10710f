"""Damage of every kind: verify lists it and never falls over it; what opens for training is exactly what was packed."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from avbench.dataset import Dataset, sha256_of
from avbench.description import DIGEST, contents_digest
from avbench.errors import AvbenchError, DatasetError
from avbench.integrity import check_contents, leftovers
from avbench.packing.index_file import write_index
from avbench.packing.verify import verify
from tests.synthetic import make_dataset

CLASSES = ("cat", "dog", "rain")


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of train, one of val and of test, with nothing that older packs did not write."""
    path = make_dataset(
        tmp_path_factory.mktemp("damage") / "older", clips={"train": 7, "val": 3, "test": 3}, seconds=1.2,
        size=(16, 16), sample_rate=8000, clips_per_shard=3,
    )  # fmt: skip
    assert verify(path, workers=1) == []
    return path


@pytest.fixture(scope="module")
def packed(older: Path) -> Path:
    """The same with class names in the index and a digest in the description, as pack writes them now."""
    path = shutil.copytree(older, older.with_name("packed"))
    write_index(path / "index.arrow", [table_of(path)], Dataset(path).classes)
    description = json.loads((path / "dataset.json").read_text())
    description["index_sha256"] = sha256_of(path / "index.arrow")
    description[DIGEST] = contents_digest(description)
    (path / "dataset.json").write_text(json.dumps(description))
    assert verify(path, workers=1) == []
    return path


@pytest.fixture(params=["older", "packed"])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return shutil.copytree(request.getfixturevalue(request.param), tmp_path / request.param)


def table_of(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.BufferReader((path / "index.arrow").read_bytes())).read_all()


def write_table(path: Path, table: pa.Table, *, fits: bool) -> None:
    """fits: dataset.json, too, is made to say what the checksums of this index are."""
    with pa.ipc.new_file(str(path / "index.arrow"), table.schema) as writer:
        writer.write_table(table.combine_chunks())
    if fits:
        change(path, index_sha256=sha256_of(path / "index.arrow"))


def change(path: Path, **fields: Any) -> None:
    """Change fields of dataset.json on purpose, its digest with them."""
    description = {**json.loads((path / "dataset.json").read_text()), **fields}
    if DIGEST in description:
        description[DIGEST] = contents_digest(description)
    (path / "dataset.json").write_text(json.dumps(description))


def told(path: Path) -> tuple[Any, ...]:
    """All that a training learns from, as it opens it; AvbenchError where it refuses, which is one line."""
    dataset = Dataset(path)
    check_contents(dataset)
    leftovers(dataset)
    columns = (dataset.labels, dataset.splits, dataset.shards, dataset.audio_offsets, dataset.audio_sizes)
    columns += (dataset.audio_checksums, dataset.samples, dataset.sample_rates, dataset.widths, dataset.heights)
    frames = (dataset.frames.first, dataset.frames.offset, dataset.frames.size, dataset.frames.checksum)
    keys = [dataset.key(clip_id) for clip_id in range(len(dataset))]
    return (dataset.classes, dataset.audio_suffix, keys, *(np.asarray(column).tolist() for column in columns + frames))


def survives(path: Path, whole: tuple[Any, ...] | None, what: str) -> bool:
    """Whether verify saw something; asserts that neither it nor a training falls over, nor trains on something else.

    Where it refuses in more than a line, it has seen nothing.
    """
    try:
        is_seen = bool(verify(path, workers=1))
    except DatasetError as error:
        is_seen = "\n" not in str(error)
    try:
        assert whole is None or told(path) == whole, f"{what}: trains on what was not packed"
    except AvbenchError as error:
        is_seen = is_seen and "\n" not in str(error)
    return is_seen


OTHERS = (None, True, -1, 3, 0.5, "text", [], {}, [None], {"train": None}, [{}], 10**30)


def test_every_field_of_the_description_may_be_missing_or_anything(copy: Path) -> None:
    whole, file = told(copy), copy / "dataset.json"
    description = json.loads(file.read_text())
    for name, value in description.items():
        without = {key: kept for key, kept in description.items() if key != name}
        for other in (without, *({**description, name: other} for other in OTHERS if other != value)):
            file.write_text(json.dumps(other))
            is_seen = survives(copy, whole, f"{name}: {other.get(name)}")
            # Of these nothing else tells where there is no digest.
            is_told = DIGEST in description or name not in ("name", "recipe", "frame_phase_seconds")
            assert is_seen or not is_told, (name, other.get(name))
    for name in description["shards"][0]:
        for other in (None, -1, "text", [], 10**30):
            shards = [{**description["shards"][0], name: other}, *description["shards"][1:]]
            file.write_text(json.dumps({**description, "shards": shards}))
            assert survives(copy, whole, f"shard's {name}: {other}")


def test_what_is_missing_or_wrong_in_the_description_is_named(copy: Path) -> None:
    description = json.loads((copy / "dataset.json").read_text())
    del description["classes"]
    description["audio_suffix"] = None
    (copy / "dataset.json").write_text(json.dumps(description))
    texts = [str(problem) for problem in verify(copy, workers=1)]
    assert texts[:2] == [
        "dataset.json: 'classes' is missing",
        "dataset.json: 'audio_suffix' is None, expected a suffix such as 'flac'",
    ]
    with pytest.raises(DatasetError, match="not the description of a packed dataset: 'classes' is missing"):
        Dataset(copy)


def damaged_columns(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The index with each column wrong in each way that its type can hold."""
    for place, field in enumerate(table.schema):
        values = table.column(place).to_pylist()
        first = values[0]
        if pa.types.is_integer(field.type):
            limits = np.iinfo(field.type.to_pandas_dtype())
            others = [limits.min, limits.max, 65, None]
        elif pa.types.is_floating(field.type):
            others = [float("nan"), -1.0, 1e300]
        elif pa.types.is_string(field.type):
            others = ["", "../../x", values[1], "x" * 500, None]
        else:
            others = [[], None, [None], first[:-1], first + first, [2**31 - 1] * len(first)]
        for other in others:
            if other != first:
                column = pa.chunked_array([pa.array([other, *values[1:]], field.type)])
                yield f"{field.name}: {str(other)[:40]}", table.set_column(place, field, column)
        yield f"no {field.name}", table.remove_column(place)
    yield "a row less", table.slice(1)
    yield "rows twice", pa.concat_tables([table, table])
    yield "no rows", table.slice(0, 0)


def test_every_column_of_the_index_may_be_damaged(copy: Path) -> None:
    whole, description = told(copy), (copy / "dataset.json").read_bytes()
    for what, table in damaged_columns(table_of(copy)):
        (copy / "dataset.json").write_bytes(description)
        write_table(copy, table, fits=False)
        assert survives(copy, whole, what), what
        with pytest.raises(DatasetError):
            told(copy)
        write_table(copy, table, fits=True)  # so that it is not the checksum that tells
        assert survives(copy, None, what), what


@pytest.mark.parametrize("file", ["index.arrow", "dataset.json", "shard-000000.idx", "tar headers"])
def test_bytes_may_flip_anywhere(packed: Path, tmp_path: Path, file: str) -> None:
    copy = shutil.copytree(packed, tmp_path / "copy")
    whole, generator = told(copy), np.random.default_rng(0)
    path = copy / ("shard-000000.tar" if file == "tar headers" else file)
    data = path.read_bytes()
    if file == "tar headers":
        # Of what tar pads a header's numbers and names with, nothing tells but the shard's own checksum.
        starts = Dataset(copy).audio_offsets[:3] - 512
        places = (generator.choice(starts, 40) + generator.integers(0, 512, 40)).tolist()
    else:
        places = [0, len(data) - 1, *generator.integers(0, len(data), 40).tolist()]
    for place in places:
        bit = 1 << int(generator.integers(8))
        path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        is_seen = survives(copy, whole, f"byte {place} ^ {bit}")
        # White space between JSON's tokens may be another white space.
        assert is_seen or (file == "dataset.json" and data[place : place + 1].isspace()), f"byte {place} ^ {bit}"


def test_a_label_that_is_no_class_is_a_line_beside_the_checksum(copy: Path) -> None:
    table = table_of(copy)
    labels = [65537, *table.column("label").to_pylist()[1:]]
    place = table.schema.get_field_index("label")
    write_table(copy, table.set_column(place, "label", pa.array(labels, pa.int32())), fits=False)
    texts = [str(problem) for problem in verify(copy, workers=1)]
    assert any(text.startswith("SHA-256 of index.arrow: found ") for text in texts)
    assert "train-0000: its label 65537 is none of 3 classes" in texts
    with pytest.raises(DatasetError, match="SHA-256 of index"):
        check_contents(Dataset(copy))


def swap_classes(description: dict[str, Any]) -> dict[str, Any]:
    return {**description, "classes": description["classes"][::-1]}


def drop_a_class(description: dict[str, Any]) -> dict[str, Any]:
    return {**description, "classes": description["classes"][:-1]}


def other_suffix(description: dict[str, Any]) -> dict[str, Any]:
    return {**description, "audio_suffix": "ogg"}


@pytest.mark.parametrize(
    ("changed", "of_older", "of_packed"),
    [
        (swap_classes, "was packed as 'class-0', dataset.json calls its class 'class-2'", "was packed with class-0"),
        (drop_a_class, "'clips_per_class' counts 3 classes of train, 'classes' names 2", "counts 3 classes"),
        (other_suffix, "found train-0000.flac, dataset.json says train-0000.ogg", "is not as it was packed"),
    ],
)
def test_a_changed_description_is_refused_by_train(
    copy: Path, changed: Callable[[dict[str, Any]], dict[str, Any]], of_older: str, of_packed: str
) -> None:
    check_contents(Dataset(copy))
    file = copy / "dataset.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()))))
    with pytest.raises(DatasetError, match=of_packed if copy.name == "packed" else of_older):
        check_contents(Dataset(copy))
    assert any(problem.blocks_training for problem in verify(copy, workers=1))


def test_a_damaged_index_sets_no_clip_aside(copy: Path) -> None:
    file = copy / "dataset.json"
    file.write_text(json.dumps(swap_classes(json.loads(file.read_text()))))
    assert any(problem.clip_id is not None for problem in verify(copy, workers=1, quarantine=True))
    assert not (copy / "quarantine.jsonl").exists()


def test_the_clips_of_a_missing_shard_are_set_aside(copy: Path) -> None:
    gone = copy / "shard-000001.tar"
    data = gone.read_bytes()
    gone.unlink()
    with pytest.raises(DatasetError, match=r"shard-000001.tar: missing; .* --quarantine"):
        Dataset(copy).check_shards()
    with pytest.raises(DatasetError, match=r"shard-000001.tar: missing"):  # opened without looking, found at first use
        Dataset(copy).audio_bytes(3)
    (problem,) = verify(copy, workers=1, quarantine=True)
    assert problem.shard == gone.name and "is missing" in problem.text and "3 clips" in problem.text
    dataset = Dataset(copy)
    dataset.check_shards()
    check_contents(dataset)
    assert dataset.quarantined.tolist() == [3, 4, 5]
    assert dataset.clip_ids("train").tolist() == [0, 1, 2, 6]
    gone.write_bytes(data)  # restored: opens as before, and is whole once it is verified again
    assert Dataset(copy).quarantined.tolist() == [3, 4, 5]
    assert verify(copy, workers=1, quarantine=True) == []
    assert Dataset(copy).clip_ids("train").tolist() == list(range(7))


def test_of_a_cut_shard_the_clips_before_the_cut_stay(copy: Path) -> None:
    cut = copy / "shard-000000.tar"
    end = int(Dataset(copy).audio_offsets[1]) + 10
    with cut.open("r+b") as file:
        file.truncate(end)
    problems = verify(copy, workers=1, quarantine=True)
    assert {problem.clip_id for problem in problems} == {None, 1, 2}
    assert [problem.text for problem in problems if problem.clip_id == 2] == [
        f"reaches beyond the {end} bytes that its shard has"
    ]
    dataset = Dataset(copy)
    dataset.check_shards()
    check_contents(dataset)
    assert dataset.clip_ids("train").tolist() == [0, 3, 4, 5, 6]
    with cut.open("r+b") as file:
        file.truncate(end - 1)  # cut again: not what was looked at
    with pytest.raises(DatasetError, match="truncated"):
        Dataset(copy).check_shards()


def test_a_shard_of_no_bytes_is_a_missing_one(copy: Path) -> None:
    (copy / "shard-000000.tar").write_bytes(b"")
    verify(copy, workers=1, quarantine=True)
    assert Dataset(copy).clip_ids("train").tolist() == [3, 4, 5, 6]


def test_stray_shards_are_said_and_harm_no_training(copy: Path) -> None:
    shutil.copy(copy / "shard-000000.tar", copy / "shard-000009.tar")
    (problem,) = verify(copy, workers=1)
    assert problem.text.startswith("shard-000009.tar is no shard of this dataset") and not problem.blocks_training
    dataset = Dataset(copy)
    check_contents(dataset)
    assert [text[:16] for text in leftovers(dataset)] == ["shard-000009.tar"]


def test_a_quarantine_of_clips_that_do_not_exist_is_said(copy: Path) -> None:
    lines = [{"clip_id": 9999, "key": "a"}, {"clip_id": 1, "key": "other"}, {"shard": "x.tar", "size_bytes": 1}]
    (copy / "quarantine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [problem.text for problem in verify(copy, workers=1)]
    assert [text.split(";")[0] for text in texts] == [
        "quarantine.jsonl sets clip 9999 aside, which is none of 13",
        "quarantine.jsonl sets clip 1 aside as other, which is train-0001 here",
        "quarantine.jsonl knows of x.tar, which is no shard of this dataset",
    ]
    assert leftovers(Dataset(copy)) == texts
    assert Dataset(copy).quarantined.tolist() == [1]
    assert verify(copy, workers=1, quarantine=True) == []  # writes the list anew
    assert not (copy / "quarantine.jsonl").exists()


@pytest.mark.parametrize(
    "line", ["{}", "[]", "3", '{"clip_id": null}', '{"clip_id": 1e3}', '{"clip_id": 1' + "0" * 30 + "}", "\x00"]
)
def test_what_is_no_quarantine_list_is_one_line(copy: Path, line: str) -> None:
    (copy / "quarantine.jsonl").write_text(line + "\n")
    (problem,) = verify(copy, workers=1)
    assert "not a quarantine list" in problem.text
    with pytest.raises(DatasetError, match="not a quarantine list"):
        Dataset(copy).clip_ids("train")


def test_verify_opens_the_dataset_once_in_a_process(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    opening = Dataset.__init__
    monkeypatch.setattr(Dataset, "__init__", lambda self, *words, **more: opened.append(opening(self, *words, **more)))
    assert verify(packed, workers=1) == []
    assert len(opened) == 1
