"""What a run leaves behind, and how it is read back: metrics (one JSON object a line) and the Parquet tables.

Every table and figure is built from these files, never from memory, so a report can be made again years later.
"""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from avbench.errors import RunError
from avbench.run_folder import RunFolder
from avbench.vocabulary import MODALITIES

LOG_PROBABILITIES = "log_probabilities"  # a column of predictions
# Rows of a table of predictions that are read together: some tens of megabytes of them.
_GROUP_BYTES = 32 << 20

# One row a clip and seed. A modality that was not trained has nulls; so has a clip that no epoch recorded (epochs 0).
CONFIDENCE_SCHEMA = pa.schema(
    [
        ("clip_id", pa.int64()),
        ("key", pa.string()),
        ("split", pa.string()),
        ("label", pa.int32()),
        ("source", pa.string()),  # the video's path in the media folder; null in tables of earlier versions
        ("seed", pa.int64()),
        *(
            field
            for modality in MODALITIES
            for field in (
                (f"{modality}_mean", pa.float64()),  # u: mean true-label confidence over epochs
                (f"{modality}_std", pa.float64()),  # population standard deviation over epochs
                (f"{modality}_epochs", pa.int32()),
                (f"{modality}_correct_epochs", pa.int32()),
                (f"planted_{modality}", pa.float64()),  # true quality of a planted clip; null for every other
            )
        ),
    ]
)

# One row a clip, for one modality, seed and epoch: confidence/history/.
HISTORY_SCHEMA = pa.schema([("clip_id", pa.int64()), ("confidence", pa.float32()), ("correct", pa.bool_())])


def predictions_schema(classes: int) -> pa.Schema:
    """One row a clip, run and seed: predictions/RUN-seedS-SPLIT.parquet.

    `replaced` says which modality's features were replaced by their mean over train: "none", "audio" or "visual".
    `log_probabilities` are natural logarithms, computed in float64 from the network's logits: near 0 float32 tells
    apart what it cannot near 1, so clips are ranked by them. They are null where a modality is replaced: those clips
    nobody ranks.
    `uncertainty` is null for methods that have none. `audio_prediction` and `visual_prediction` are what the network's
    own unimodal parts would say, null for networks without such parts (and not to be mistaken for the predictions of
    the unimodal networks, which are runs of their own). Where a modality is replaced they are null, but for networks
    whose parts see each other (Greedy's branches): there the other modality's part says what is left of it.
    """
    return pa.schema(
        [
            ("clip_id", pa.int64()),
            ("key", pa.string()),
            ("split", pa.string()),
            ("label", pa.int32()),
            ("run", pa.string()),
            ("method", pa.string()),
            ("seed", pa.int64()),
            ("epoch", pa.int32()),  # of the checkpoint that predicts, from 0
            ("replaced", pa.string()),
            ("prediction", pa.int32()),
            ("probabilities", pa.list_(pa.float32(), classes)),
            (LOG_PROBABILITIES, pa.list_(pa.float32(), classes)),
            ("uncertainty", pa.float32()),
            ("audio_prediction", pa.int32()),
            ("visual_prediction", pa.int32()),
        ]
    )


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed over it at the end, removed on an error.

    Whoever reads `path` sees the old whole file or the new whole one, whatever is killed when.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)  # mkstemp makes files that only their owner can read
        partial.replace(path)
    except OSError as error:
        raise _placed(error, path) from None
    finally:
        partial.unlink(missing_ok=True)


def _placed(error: OSError, path: Path) -> OSError:
    """The error with the file that was being written, where it names none: a full disk is found by it."""
    if error.filename is not None or error.errno is None:
        return error
    return OSError(error.errno, os.strerror(error.errno), str(path))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_new(path: Path, text: str) -> None:
    """Write a text file where there is none; raises FileExistsError where there is one.

    It appears with all of its text or not at all, and of two processes that try at once, on one machine or on two, one
    succeeds: so a lock is made, which names its holder from the first moment on.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(descriptor)
    try:
        Path(name).write_text(text, encoding="utf-8")
        try:
            path.hardlink_to(name)
        except FileExistsError:
            # A network file system may ask twice and answer no the second time.
            if Path(name).stat().st_nlink != 2:
                raise
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    finally:
        Path(name).unlink(missing_ok=True)


_NO_HARD_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically, indented, keys in the given order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_checksum(value: object) -> str:
    """xxh3 of a value as JSON, whatever the order of its keys: what a manifest carries to show that it is whole."""
    return xxhash.xxh3_64_hexdigest(json.dumps(value, sort_keys=True).encode())


def write_table(path: Path, *tables: pa.Table) -> None:
    """Write a Parquet file atomically, of tables of one schema. No row group holds rows of two of them."""
    with atomic_path(path) as partial, pq.ParquetWriter(partial, tables[0].schema) as writer:
        for table in tables:
            row_bytes = table.nbytes // max(table.num_rows, 1)
            writer.write_table(table, row_group_size=max(1024, _GROUP_BYTES // max(row_bytes, 1)))


def read_table(
    path: Path,
    schema: pa.Schema | None = None,
    *,
    columns: Sequence[str] | None = None,
    few_values: Sequence[str] = (),
    filters: Any = None,
) -> pa.Table:
    """Read a Parquet file. Raises RunError where it is missing, broken, or lacks columns of `schema`.

    columns: only these (all). few_values: columns of text that says the same in many rows, to be held once (where no
    filter is given). filters: only these rows, as `pyarrow.parquet.read_table` takes them; row groups without any are
    not read.
    """
    if schema is not None:
        read_schema(path, schema)
    with _told_as_run_error(path):
        options: dict[str, Any] = {"filters": filters} if filters else {"read_dictionary": list(few_values)}
        return pq.read_table(path, columns=None if columns is None else list(columns), **options)


def release_memory() -> None:
    """Give back what Arrow keeps for later of the tables that are gone: of large ones that is as much as they had."""
    pa.default_memory_pool().release_unused()


def read_schema(path: Path, needed: pa.Schema | None = None) -> pa.Schema:
    """The columns of a Parquet file.

    Raises RunError where it is missing, broken, lacks some that are needed, or holds another kind of thing in one.
    """
    with _told_as_run_error(path):
        schema = pq.read_schema(path)
    missing = [name for name in needed.names if name not in schema.names] if needed is not None else []
    if missing:
        raise RunError(f"{path}: lacks the columns {', '.join(missing)}; it was not written by this version of avbench")
    for field in needed or ():
        found = schema.field(schema.names.index(field.name)).type
        if _kind(found) not in (_kind(field.type), "nothing"):
            raise RunError(f"{path}: column {field.name!r} holds {found}, expected {field.type}; the file is damaged")
    return schema


def _kind(type_: pa.DataType) -> str:
    """What a column holds, however wide: files of other versions and other writers are read too."""
    if pa.types.is_dictionary(type_):
        return _kind(type_.value_type)
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return "text"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "numbers"
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return "lists"
    return "nothing" if pa.types.is_null(type_) else str(type_)


@contextmanager
def _told_as_run_error(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise RunError(
            f"{path}: no such table; did the training end? `avbench train ... --resume` finishes it"
        ) from None
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path}: not a readable Parquet table ({' '.join(str(error).split())})") from None


@contextmanager
def opened_table(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file to be read some rows at a time, in little memory however large its row groups are.

    Raises RunError where it is missing or broken, also while it is being read.
    """
    with _told_as_run_error(path), pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        yield file


_MOST_NAMED = 3


def described_divergence(folder: Path) -> str:
    """What a run folder says of its runs where all of them diverged, which first; empty of any other folder."""
    try:
        runs = json.loads(RunFolder(folder).diverged.read_text(encoding="utf-8"))["runs"]
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError):
        return "all its runs diverged"
    more = [f"{len(runs) - _MOST_NAMED} more"] if len(runs) > _MOST_NAMED else []
    count = "its only run" if len(runs) == 1 else f"all its {len(runs)} runs"
    return f"{count} diverged ({'; '.join([*map(_diverged, runs[:_MOST_NAMED]), *more])})"


def _diverged(run: Mapping[str, Any]) -> str:
    if run.get("epoch") is None:
        return str(run.get("run"))
    return f"{run['run']} in epoch {run['epoch']} by step {run['step']} at learning rate {run['learning_rate']:g}"


class MetricsWriter:
    """Appends records to metrics.jsonl, one JSON object a line.

    Records have `kind`: "step" (means over a logging interval: loss, accuracy, and whatever the method logs, each under
    "group/name", which the report draws as a curve a group), "epoch" (one run's accuracies of one epoch),
    "event" (anything a reader should know: early stop, divergence, a replaced clip) or "performance"; the rest are
    plain numbers and strings, and of "performance" also lists of numbers by rank ("..._by_rank"); its `launch` counts
    the starts of the training from 1. Numbers that are not finite are written as strings ("nan", "inf"), so that every
    line is standard JSON.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("ab", buffering=0)  # or closing it would fail again where the disk is full

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; it is in the file when this returns."""
        line = json.dumps({name: _plain(value) for name, value in record.items()}, ensure_ascii=False)
        left = memoryview(line.encode() + b"\n")
        try:
            while left:
                left = left[self._file.write(left) or 0 :]  # a disk that is nearly full takes a part
        except OSError as error:
            raise _placed(error, self._path) from None

    def offset(self) -> int:
        """Size of the file in bytes: what a checkpoint keeps, so that a resumed run cuts later lines off."""
        return self._file.tell()

    def cut_back(self, offset: int) -> None:
        """Forget every record after `offset`; they are written again by the resumed run."""
        # After a power loss the file may be shorter than the checkpoint remembers it.
        self._file.truncate(min(offset, self._file.seek(0, os.SEEK_END)))
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path, *, kinds: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, of these kinds (all where none is named). A last line cut short is left out."""
    if not path.exists():
        raise RunError(f"{path}: no such file; is {path.parent} a run folder?")
    wanted = set(kinds)
    records = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break  # the process was killed while writing it
        record = json.loads(line)
        if not wanted or record.get("kind") in wanted:
            records.append(record)
    return records


def _plain(value: Any) -> Any:
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    number = float(value)
    return number if math.isfinite(number) else str(number)
