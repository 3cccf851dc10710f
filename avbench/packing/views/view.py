"""Make a view: a folder with an index and a description over shards that are packed already.

Rows go by split, then by pool, then by row of origin, so the clips of one shard stand together in each split. The
folder is made under another name and gets its own when it is whole.
"""

from __future__ import annotations

import csv
import errno
import glob
import io
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avbench import installed_version
from avbench.dataset import INDEX_FILE, INDEX_SCHEMA, Dataset, sha256_of
from avbench.description import DESCRIPTION_FILE, DIGEST, FORMAT, VIEW_VERSION, contents_digest
from avbench.errors import DatasetError, UsageError
from avbench.fingerprint import content_fingerprint
from avbench.packing.out_folder import room
from avbench.packing.pack import write_index
from avbench.packing.quality import write_quality_table
from avbench.packing.views.choice import Choice, choose
from avbench.packing.views.names import few
from avbench.packing.views.pools import Pools, opened
from avbench.packing.views.rule import RuleFiles, rule_as_json
from avbench.records import write_json, write_text
from avbench.shards import COLUMNS
from avbench.vocabulary import SPLITS

MISSING_FILE = "missing.csv"  # names that a user's files have and no clip
_PARTIAL = ".partial"
_ROWS_AT_ONCE = 1 << 17
_OF_ALL = ("audio_suffix", "spectrogram", "frame_phase_seconds")
_OF_ONE = ("recipe", "made_with")
_OF_VIEW = ("origin", "rule")


@dataclass(frozen=True)
class View:
    """A view that was made, and what a user should hear of it."""

    dataset: Dataset
    notes: tuple[str, ...]


def make_view(paths: Sequence[Path], *, out: Path, files: RuleFiles, shard_folders: Sequence[Path] = ()) -> View:
    """Make a view of these datasets or views, in their order, and open it.

    shard_folders: where shards are now that are not where a view says. Raises UsageError or RecipeError for a rule that
    cannot be used or takes no clip, DatasetError for what is no whole dataset or where `out` holds something; nothing
    is left behind then.
    """
    if not paths:
        raise UsageError("no dataset given: `avbench view DATASET --out VIEW`")
    check_free(out)
    rule = files.read()
    pools = opened(paths, shard_folders)
    choice = choose(pools.candidates(), rule)
    return write_view(pools, choice, out=out, rule=rule_as_json(rule, files, choice.missing))


def write_view(pools: Pools, choice: Choice, *, out: Path, rule: Mapping[str, Any]) -> View:
    """Make a view of the clips of a choice among the pools' candidates, however it came about, and open it.

    rule: how, for dataset.json; of plain values. Raises as `make_view` does.
    """
    check_free(out)
    order, doubled = _in_order(pools, choice)
    if not len(order):
        reasons = "; ".join(map(str, choice.left_out)) or "the datasets have none"
        raise UsageError(f"{out}: no clip is left: {reasons}")
    content = _content(pools, choice, order)
    with room(out), _made_whole(out) as folder:
        write_index(folder / INDEX_FILE, content.pieces, choice.classes)
        _write_missing(folder, choice.missing)
        _write_description(folder, out, pools, content, choice, rule)
    left_out = map(str, choice.left_out)
    return View(Dataset(out), (*choice.notes, *left_out, *doubled, *_torn(content.table)))


@dataclass(frozen=True)
class _Content:
    """What is in a view. rows: places among the pools' rows, in the view's order, int64 (M,). pieces: its index, cut
    into tables. shards: which of the pools' shards are used, ascending.
    """

    rows: np.ndarray
    pieces: Sequence[pa.Table]
    shards: np.ndarray

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables(self.pieces)


# The rows.


def _in_order(pools: Pools, choice: Choice) -> tuple[np.ndarray, list[str]]:
    """Places in `choice` in the order of the view, and what is said of clips that several datasets have.

    Raises UsageError where two of the datasets have unlike clips with one key, or the same clip as two.
    """
    taken, offsets = choice.rows, np.asarray(pools.table.column("audio_offset"))[choice.rows]
    order = np.lexsort((offsets, pools.shard_of_row[taken], choice.splits))
    if len(pools.datasets) == 1:
        return order, []
    again = _given_again(pools, choice, order)
    keys = pools.table.column("key").take(pa.array(taken[order[~again]]))
    counts = keys.value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if twice:
        raise UsageError(
            f"{len(twice)} keys are in several of the datasets, as unlike clips or with unlike labels or splits: "
            f"{few(twice)}; take them out of one of them first: `avbench view DATASET --without-keys FILE --out VIEW`"
        )
    said = f"{int(again.sum())} clips are the same ones in several of the datasets, and taken once"
    return order[~again], [said] if again.any() else []


def _given_again(pools: Pools, choice: Choice, order: np.ndarray) -> np.ndarray:
    """Which places of the order are the clip before them once more, with its label and split too; bool (M,)."""
    offsets = np.asarray(pools.table.column("audio_offset"))[choice.rows]
    columns = (pools.shard_of_row[choice.rows], offsets, choice.labels, choice.splits)
    same = [column[order][1:] == column[order][:-1] for column in columns]
    return np.concatenate([[False], np.logical_and.reduce(same)]) if len(order) else np.zeros(0, bool)


def _content(pools: Pools, choice: Choice, order: np.ndarray) -> _Content:
    """The chosen clips in this order of their places in `choice`."""
    rows = choice.rows[order]
    used, numbers = np.unique(pools.shard_of_row[rows], return_inverse=True)
    columns = {"label": choice.labels[order], "split": choice.splits[order], "shard": numbers}
    pieces = []
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        piece = pools.rows(rows[part])
        for name, values in columns.items():
            field = INDEX_SCHEMA.field(name)
            piece = piece.set_column(INDEX_SCHEMA.get_field_index(name), field, pa.array(values[part], field.type))
        pieces.append(piece)
    return _Content(rows, pieces, used)


def _torn(table: pa.Table) -> list[str]:
    """Which videos have clips in several splits of the view."""
    videos = table.column("source").combine_chunks().dictionary_encode()
    pairs = np.unique(videos.indices.to_numpy().astype(np.int64) * len(SPLITS) + table.column("split").to_numpy())
    torn = np.flatnonzero(np.bincount(pairs // len(SPLITS)) > 1)
    if not len(torn):
        return []
    first = videos.dictionary[int(torn[0])].as_py()
    has = "video has" if len(torn) == 1 else "videos have"
    return [f"{len(torn)} {has} clips in several splits of the view, {first!r} first"]


# The folder.


def check_free(out: Path) -> None:
    """Raises DatasetError where something is there already."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise DatasetError(f"{out}: is there already; name a new or empty folder with --out")


@contextmanager
def _made_whole(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, which gets its name at the end, or is removed on an error."""
    beginning = f".{out.name}.{socket.gethostname()}-"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out.parent, beginning)
        folder = Path(tempfile.mkdtemp(prefix=f"{beginning}{os.getpid()}-", suffix=_PARTIAL, dir=out.parent))
    except OSError as error:
        raise DatasetError(f"{out}: cannot be written ({error.strerror})") from None
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        folder.replace(out)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise DatasetError(f"{out}: was made by somebody else meanwhile; name another folder with --out") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(parent: Path, beginning: str) -> None:
    """What commands of this host have left that were killed while they made the same view."""
    for folder in parent.glob(f"{glob.escape(beginning)}*{_PARTIAL}"):
        process = folder.name.removeprefix(beginning).partition("-")[0]
        if process.isdigit() and not Path("/proc", process).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _write_description(
    folder: Path, out: Path, pools: Pools, content: _Content, choice: Choice, rule: Mapping[str, Any]
) -> None:
    """Write dataset.json, and before it quality.parquet; the index is there already."""
    first = pools.datasets[0].description
    description = {
        "format": FORMAT,
        "version": VIEW_VERSION,
        "name": out.resolve().name,
        "classes": list(choice.classes),
        **{name: first[name] for name in _OF_ALL if name in first},
        **counts_of(content.pieces, choice.classes),
        "shards": _shards(pools, content, out),
        **({name: first[name] for name in _OF_ONE if name in first} if len(pools.datasets) == 1 else {}),
        "view_made_with": {"avbench": installed_version()},
        "rejects": {},
        "left_out": [{"why": one.why, "count": one.count, "first": list(one.first)} for one in choice.left_out],
        **_write_quality(folder, pools, content.rows),
        "origin": [_origin(one, out, alone=len(pools.datasets) == 1) for one in pools.datasets],
        "rule": rule,
        "fingerprint": content_fingerprint(content.table, choice.classes),
        "index_sha256": sha256_of(folder / INDEX_FILE),
    }
    description[DIGEST] = contents_digest(description)
    write_json(folder / DESCRIPTION_FILE, description)


def counts_of(tables: Sequence[pa.Table], classes: Sequence[str]) -> dict[str, Any]:
    """`clips` and `clips_per_class` of dataset.json, of an index in pieces."""
    counts = np.zeros((len(SPLITS), len(classes)), np.int64)
    for table in tables:
        np.add.at(counts, tuple(table.column(name).to_numpy() for name in ("split", "label")), 1)
    per_class = dict(zip(SPLITS, counts.tolist(), strict=True))
    return {"clips": {split: sum(of) for split, of in per_class.items()}, "clips_per_class": per_class}


def _shards(pools: Pools, content: _Content, out: Path) -> dict[str, list[Any]]:
    """The shards that are used, as version 2 of dataset.json has them."""
    used = [pools.shards[number] for number in content.shards]
    base = Path(os.path.realpath(out.parent)) / out.name
    relative = {folder: os.path.relpath(folder, base) for folder in dict.fromkeys(shard.folder for shard in used)}
    places = [f"{relative[shard.folder]}/{shard.name}" for shard in used]
    clips = np.zeros(len(used), np.int64)
    for piece in content.pieces:
        clips += np.bincount(piece.column("shard").to_numpy(), minlength=len(used))
    columns = (places, clips.tolist(), [shard.size_bytes for shard in used], [shard.sha256 for shard in used])
    return dict(zip(COLUMNS, columns, strict=True))


def _origin(dataset: Dataset, out: Path, *, alone: bool) -> dict[str, Any]:
    """What is kept of a dataset that clips are from. alone: the view itself has its recipe."""
    told = dataset.description
    return {
        "name": dataset.name,
        "path": os.path.relpath(os.path.realpath(dataset.path), Path(os.path.realpath(out.parent)) / out.name),
        "clips": len(dataset),
        "fingerprint": dataset.fingerprint,
        "index_sha256": dataset.index_sha256,
        **{name: told[name] for name in (*_OF_VIEW, *(() if alone else _OF_ONE)) if name in told},
    }


def _write_quality(folder: Path, pools: Pools, rows: np.ndarray) -> dict[str, Any]:
    """Write quality.parquet of the view's clips; returns what dataset.json says of it, nothing where there is none."""
    if pools.quality is None:
        return {}
    table = pools.quality.take(pa.array(rows)).combine_chunks()
    ids = pa.array(np.arange(len(rows)), pa.int64())
    return write_quality_table(folder, table.set_column(table.schema.get_field_index("clip_id"), "clip_id", ids))


def _write_missing(folder: Path, missing: Mapping[str, Sequence[str]]) -> None:
    """Write all names that no clip has, where there are some: published ids are often gone."""
    rows = [(option.removeprefix("--"), name) for option, names in missing.items() for name in names]
    if rows:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("list", "name"), *rows])
        write_text(folder / MISSING_FILE, text.getvalue())
