"""Shards are the bytes that webdataset's own writer makes."""

import hashlib
import io
import tarfile

import webdataset

from avbench.packing.tar import TarShard

MEMBERS = [
    ("a.json", b"{}"),
    ("a.flac", bytes(1000)),
    (f"{'k' * 90}.000.jpg", bytes(range(256)) * 100),
    ("b.json", b""),
]


def test_a_shard_is_what_webdataset_would_have_written():
    theirs, ours = io.BytesIO(), io.BytesIO()
    with webdataset.TarWriter(theirs, user="", group="", mode=0o644, mtime=0, encoder=False) as writer:
        for name, data in MEMBERS:
            key, _, suffix = name.partition(".")
            writer.write({"__key__": key, suffix: data})
    shard = TarShard(ours)
    offsets = [shard.add(name, data) for name, data in MEMBERS]
    digest = shard.close()
    assert ours.getvalue() == theirs.getvalue()
    assert digest == hashlib.sha256(theirs.getvalue()).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(ours.getvalue())) as reader:
        assert offsets == [member.offset_data for member in reader]
