"""Whatever is damaged in a dataset is found and named; damaged clips are set aside."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from avbench.dataset import Dataset
from avbench.description import contents_digest
from avbench.errors import DatasetError, UsageError
from avbench.integrity import check_contents
from avbench.packing.pack import pack
from avbench.packing.recipes.recipe import Recipe
from avbench.packing.verify import verify
from avbench.vocabulary import SPLITS
from tests.packing.make_video import make_labelled_folder
from tests.synthetic import make_dataset


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    media = make_labelled_folder(folder / "media", {f"v{number:02d}": "xy"[number % 2] for number in range(8)})
    pack(Recipe(clips_per_shard=3, short_side=32), media, out=folder / "dataset", workers=1)
    return folder / "dataset"


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "dataset")


def flip(path, offset):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def test_a_whole_dataset_has_no_problems(whole):
    assert verify(whole, workers=1) == []
    assert verify(whole, workers=2) == []


def test_a_packed_dataset_carries_its_class_names_twice_and_a_digest(whole, tmp_path):
    dataset = Dataset(whole)
    assert dataset.packed_classes == dataset.classes == ("x", "y")
    description = json.loads((whole / "dataset.json").read_text())
    assert description["contents_sha256"] == contents_digest(description)
    check_contents(dataset)
    copy = shutil.copytree(whole, tmp_path / "swapped")
    description["classes"] = ["y", "x"]
    description["contents_sha256"] = contents_digest(description)  # even where somebody has made it fit
    (copy / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DatasetError, match=r"names the classes y, x, and index\.arrow was packed with x, y"):
        check_contents(Dataset(copy))


@pytest.mark.parametrize("part", ["audio", "frame"])
def test_a_flipped_byte_is_found_and_its_clip_quarantined(copy, part):
    dataset = Dataset(copy)
    row = dataset.frames.first[4]
    places = {
        "audio": (dataset.audio_offsets[4], dataset.audio_sizes[4]),
        "frame": (dataset.frames.offset[row], dataset.frames.size[row]),
    }
    tar = copy / f"shard-{dataset.shards[4]:06d}.tar"
    offset, size = places[part]
    flip(tar, int(offset + size // 2))
    problems = verify(copy, workers=1, quarantine=True)
    assert {problem.clip_id for problem in problems} == {None, 4}  # the shard's hash, and the clip
    assert {problem.shard for problem in problems} == {tar.name}
    assert any("SHA-256" in problem.text for problem in problems)
    member = "flac" if part == "audio" else "000.jpg"
    assert any(problem.key == dataset.key(4) and f"checksum of its {member}" in problem.text for problem in problems)
    note = [json.loads(line) for line in (copy / "quarantine.jsonl").read_text().splitlines()]
    assert [(entry["clip_id"], entry["key"]) for entry in note] == [(4, dataset.key(4))]
    assert Dataset(copy).quarantined.tolist() == [4]
    assert 4 not in np.concatenate([Dataset(copy).clip_ids(split) for split in SPLITS])
    flip(tar, int(offset + size // 2))  # restored: nothing is set aside any more
    assert verify(copy, workers=1, quarantine=True) == []
    assert not (copy / "quarantine.jsonl").exists()


def test_a_flipped_byte_of_a_tar_header_is_found(copy):
    dataset = Dataset(copy)
    tar = copy / f"shard-{dataset.shards[1]:06d}.tar"
    flip(tar, int(dataset.audio_offsets[1]) - 512 + 3)  # in the member's name
    problems = verify(copy, workers=1)
    assert any(problem.shard == tar.name and "SHA-256" in problem.text for problem in problems)
    assert any(problem.clip_id == 1 and "holds no" in problem.text for problem in problems)


def test_a_truncated_or_missing_shard_is_named(copy):
    tar = copy / "shard-000001.tar"
    data = tar.read_bytes()
    tar.write_bytes(data[:-1000])
    (copy / "shard-000000.tar").unlink()
    problems = verify(copy, workers=1)
    assert [(problem.shard, problem.clip_id) for problem in problems] == [
        ("shard-000000.tar", None),
        ("shard-000001.tar", None),
    ]
    assert "is missing" in problems[0].text
    assert f"has {len(data) - 1000} bytes, was packed with {len(data)}" in problems[1].text


def test_an_index_that_points_elsewhere_is_found(copy):
    path = copy / "index.arrow"
    table = pa.ipc.open_file(io.BytesIO(path.read_bytes())).read_all()
    offsets = table.column("audio_offset").to_pylist()
    offsets[2] += 512
    column = table.schema.get_field_index("audio_offset")
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table.set_column(column, "audio_offset", pa.array(offsets, pa.int64())))
    problems = verify(copy, workers=1)
    assert any("SHA-256 of index.arrow" in problem.text for problem in problems)
    assert any(problem.clip_id == 2 and "flac lies at byte" in problem.text for problem in problems)


def test_a_dali_index_that_is_wrong_or_missing_is_found(copy):
    index = copy / "shard-000000.idx"
    index.write_text(index.read_text().replace("flac 1536", "flac 2048"))
    (copy / "shard-000001.idx").unlink()
    texts = [(problem.shard, problem.text) for problem in verify(copy, workers=1)]
    assert texts == [
        ("shard-000000.tar", "its DALI index shard-000000.idx does not list what it holds"),
        ("shard-000001.tar", "its DALI index shard-000001.idx is missing"),
    ]


def test_counts_that_do_not_add_up_are_found(copy):
    path = copy / "dataset.json"
    description = json.loads(path.read_text())
    description["clips_per_class"]["train"][0] += 1
    description["rejects"] = {"truncated": 1}
    path.write_text(json.dumps(description))
    texts = [problem.text for problem in verify(copy, workers=1)]
    assert len(texts) == 2
    assert "clips per class" in texts[0] and "rejects.jsonl" in texts[1]


def test_what_is_no_dataset_is_refused(tmp_path, whole):
    with pytest.raises(DatasetError, match="no such dataset folder"):
        verify(tmp_path / "none", workers=1)
    with pytest.raises(DatasetError, match="is empty"):
        verify(tmp_path, workers=1)
    with pytest.raises(UsageError, match="workers is 0"):
        verify(whole, workers=0)


def test_stored_spectrograms_are_proved_by_checksum_and_size(tmp_path):
    path = make_dataset(tmp_path / "data", clips={"train": 3, "test": 2}, seconds=1.0, audio_suffix="stft")
    dataset = Dataset(path)
    texts = [problem.text for problem in verify(path, workers=1)]
    assert not [text for text in texts if "stft" in text]
    flip(path / "shard-000000.tar", int(dataset.audio_offsets[1]) + 1000)
    problems = verify(path, workers=1)
    assert [problem.clip_id for problem in problems if "checksum of its stft" in problem.text] == [1]
    flip(path / "shard-000000.tar", int(dataset.audio_offsets[1]) + 1000)
    description = json.loads((path / "dataset.json").read_text())
    description["spectrogram"]["shape"] = [1002, 257]
    (path / "dataset.json").write_text(json.dumps(description))
    problems = verify(path, workers=1)
    wrong = [problem.clip_id for problem in problems if "has 257257 bytes, not those of [1002, 257]" in problem.text]
    assert wrong == [0, 1, 2, 3, 4]
