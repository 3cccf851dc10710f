"""An index of several record batches is read as one; what is kept beside the columns."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avbench.dataset import Dataset, Pieces, sha256_of
from avbench.description import DIGEST, contents_digest
from avbench.integrity import check_contents
from avbench.loading.loader import Loader
from avbench.loading.presets import preset
from avbench.packing.index_file import write_index
from avbench.packing.verify import verify
from tests.synthetic import make_dataset


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset with an index of one record batch, and the same with one of three: no frame fits with another's."""
    one, several = (
        make_dataset(
            tmp_path_factory.mktemp("index") / "data", clips={"train": 7, "val": 3, "test": 3},
            seconds=(0.8, 2.3, 1.2), size=(32, 24), clips_per_shard=4,
        )
        for _ in range(2)
    )  # fmt: skip
    table = pa.ipc.open_file(pa.BufferReader((one / "index.arrow").read_bytes())).read_all()
    parts = [table.filter(pa.compute.equal(table.column("shard"), number)) for number in range(4)]
    write_index(several / "index.arrow", parts, Dataset(one).classes, largest_offset=12)
    description = json.loads((several / "dataset.json").read_text())
    description["index_sha256"] = sha256_of(several / "index.arrow")
    description[DIGEST] = contents_digest(description)
    (several / "dataset.json").write_text(json.dumps(description))
    return one, several


def test_an_index_of_several_record_batches_is_the_same_dataset(both: tuple[Path, Path]) -> None:
    one, several = map(Dataset, both)
    assert one._table.column("key").num_chunks == 1 and several._table.column("key").num_chunks >= 3
    for name in ("labels", "splits", "shards", "audio_offsets", "audio_sizes", "audio_checksums", "samples"):
        assert np.array_equal(getattr(one, name), getattr(several, name)), name
        assert np.asarray(getattr(one, name)).dtype == np.asarray(getattr(several, name)).dtype, name
    for name in ("first", "offset", "size", "checksum"):
        assert np.array_equal(getattr(one.frames, name), getattr(several.frames, name)), name
    ids = np.array([12, 0, 5, 4])
    assert one.column("source", ids).to_pylist() == several.column("source", ids).to_pylist()
    assert [one.key(clip) for clip in ids] == [several.key(clip) for clip in ids]
    for clip in range(len(one)):
        assert bytes(one.audio_bytes(clip)) == bytes(several.audio_bytes(clip))
        last = int(one.frame_counts(np.array([clip]))[0]) - 1
        assert bytes(one.frame_bytes(clip, last)) == bytes(several.frame_bytes(clip, last))


def test_several_record_batches_are_verified_checked_and_loaded(both: tuple[Path, Path]) -> None:
    loaded = []
    for path in both:
        dataset = Dataset(path)
        check_contents(dataset)
        loader = Loader(dataset, dataset.clip_ids("train"), preset=preset("tiny"), batch_size=7, seed=0, training=True)
        loaded.append(next(loader.epoch(0)))
        loader.close()
    assert torch.equal(loaded[0].audio, loaded[1].audio) and torch.equal(loaded[0].frames, loaded[1].frames)
    assert verify(both[1], workers=1) == [] and loaded[1].valid.all()


def test_no_batch_holds_more_than_its_offsets_can_tell_apart(tmp_path: Path, both: tuple[Path, Path]) -> None:
    table = pa.ipc.open_file(pa.BufferReader((both[0] / "index.arrow").read_bytes())).read_all()
    rows = [table.slice(number, 1).combine_chunks() for number in range(len(table))]
    keys = [len(key) for key in table.column("key").to_pylist()]
    for largest in (1, 30, 40, 10**6):
        write_index(tmp_path / "index.arrow", rows, ["a"], largest_offset=largest)
        file = pa.ipc.open_file(pa.BufferReader((tmp_path / "index.arrow").read_bytes()))
        batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        assert pa.Table.from_batches(batches).replace_schema_metadata(None).equals(table)
        for batch in batches:
            sizes = (sum(map(len, batch.column(name).to_pylist())) for name in ("key", "source", "frame_offset"))
            assert len(batch) == 1 or max(sizes) <= largest
    assert len(batches) == 1 and max(keys) < 30


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=4), st.data())
def test_pieces_are_read_as_one_array(parts: list[list[int]], data: st.DataObject) -> None:
    pieces = Pieces([np.array(part, np.int32) for part in parts])
    whole = np.concatenate([np.array(part, np.int32) for part in parts])
    assert np.array_equal(pieces, whole) and len(pieces) == len(whole)
    places = data.draw(st.lists(st.integers(-len(whole), len(whole) - 1))) if len(whole) else []
    found = pieces[np.array(places, np.int64)]
    assert found.dtype == np.int32 and found.tolist() == [whole[place] for place in places]
    assert [int(pieces[place]) for place in places] == found.tolist()
    for outside in (len(whole), -len(whole) - 1):
        with pytest.raises(IndexError):
            pieces[outside]
