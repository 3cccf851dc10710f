"""ConfidenceStore: what one unimodal network thought of every clip, epoch by epoch, spread over ranks.

    record() after each batch      kept where the batch was, 8 bytes a clip
    exchange()                     sent to the rank that owns the clip
    commit(epoch)                  written to the history, then folded into the totals
    save(), load(), export()       checkpoint at any world size; the table of confidence.parquet

Exchanging, committing and saving may go on in another thread while the next epoch is recorded: see `committing`.

Rank r of W owns the clips floor(r N / W) to floor((r + 1) N / W), so memory is O(N / W): 32 bytes a clip owned; 8 a
clip recorded here since the last exchange, which every save makes, and 8 a call of record (together some 8 N / W at the
end of an epoch without any); and the buffers of an exchange, which are bounded. Nothing is ever summed over clips or
ranks, and a clip's epochs are added up in their order, so the totals are the same bit for bit at any world size.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from torch import Tensor

from avbench import records
from avbench.confidence.pending import COLUMNS, LAST_POSITION, Block, Pending, first_of_each_clip
from avbench.distributed import all_to_all, broadcast_object, current_world, gather_objects, together
from avbench.errors import RunError
from avbench.vocabulary import Modality
from avbench.wording import first_of

FORMAT = "avbench-confidence"
FORMAT_VERSION = 1

# What the owner holds of a clip; also, row after row, the file of a rank.
ROW = np.dtype(
    [
        ("sum", "<f8"),  # over committed epochs, of confidence
        ("sum_of_squares", "<f8"),
        ("precedence", "<u8"),  # of the open epoch's value: the larger, the earlier in global order; 0: no value
        ("value", "<u4"),  # of the open epoch: see _pack
        ("epochs", "<u2"),  # committed epochs in which the clip was recorded
        ("correct_epochs", "<u2"),
    ]
)
# Of a recorded value, waiting to be sent: clip id and value (see _pack). Positions are kept once a call of record.
PENDING_BYTES = 8

# Most that an exchange takes for each value of the block it sends: the value in the order of clips, cut into pieces,
# the pieces in one (12 bytes each), and two values that arrive (24). Finding the order and keeping them take less.
_BYTES_IN_FLIGHT = 64
_CORRECT = np.uint32(1 << 31)
CHUNK_ROWS = 1 << 18  # rows handled at a time wherever a whole range is gone through
_BLOCK_ROWS = 1 << 15  # 1 MiB of a saved file: what one checksum covers

T = TypeVar("T")


def owned_range(rank: int, ranks: int, *, clips: int) -> tuple[int, int]:
    """First clip id that a rank owns, and the first that it no longer owns. Sizes differ by at most one."""
    return rank * clips // ranks, (rank + 1) * clips // ranks


class ConfidenceStore:
    """Confidence of the true label and correctness, of every clip and epoch, for one modality and seed.

    clips: N, the length of the dataset. history: folder for the epochs' Parquet parts; None keeps no history.
    buffer_bytes: bound of what an exchange needs beside what is stored.
    key_of: the key of a clip id, for messages (`dataset.key`); None names clips by id.
    `epochs`: number of committed epochs, so also the number of the open one. `block_values`: how many recorded values a
    rank sends in one round of an exchange, at most.

    Every rank makes its own in the joined process group and calls `exchange`, `commit`, `save`, `load` and `export` at
    the same time as the others (they are collectives); `record` and `discard` are local.
    """

    def __init__(
        self,
        clips: int,
        *,
        modality: Modality,
        seed: int,
        history: Path | None = None,
        buffer_bytes: int = 64 << 20,
        key_of: Callable[[int], str] | None = None,
    ) -> None:
        if not 0 < clips <= 2**32:
            raise ValueError(f"a store holds 1 to 2**32 clips, not {clips}")
        self.clips = clips
        self.modality = modality
        self.seed = seed
        self.history = history
        self.epochs = 0
        self.world = current_world()
        self._key_of = key_of
        self._first, self._stop = owned_range(self.world.rank, self.world.size, clips=clips)
        self.block_values = max(1, buffer_bytes // _BYTES_IN_FLIGHT)
        self._pending = Pending(self.block_values)
        self._is_discarded = False
        self._rows = np.zeros(self._stop - self._first, ROW)

    @property
    def name(self) -> str:
        """Begins the name of every file of this store: `audio-seed0`."""
        return f"{self.modality}-seed{self.seed}"

    def record(
        self,
        clip_id: Tensor | np.ndarray,
        confidence: Tensor | np.ndarray,
        correct: Tensor | np.ndarray,
        *,
        position: int,
    ) -> None:
        """Keep this rank's part of the global batch `position` until the next exchange.

        clip_id: int [B]. confidence: [B] in [0, 1], kept as float32. correct: bool [B]. In an order of batches where
        ranks take consecutive slices. A clip recorded twice in an epoch counts once: the first by batch position, then
        rank, then place in the slice.
        Raises RunError, on this rank only and keeping nothing of the batch, where a confidence is no probability.
        """
        ids, values, right = (_array(values) for values in (clip_id, confidence, correct))
        if ids.ndim != 1 or ids.shape != values.shape or ids.shape != right.shape:
            raise ValueError(f"wants three arrays of one length, not shapes {ids.shape}, {values.shape}, {right.shape}")
        if not 0 <= position <= LAST_POSITION:
            raise ValueError(f"position {position} is not in 0 to 2**32 - 1")
        if len(ids) == 0:
            return
        if ids.min() < 0 or ids.max() >= self.clips:
            raise ValueError(f"clip ids {ids.min()} to {ids.max()} are not all of the {self.clips} clips")
        self._refuse_what_is_no_probability(ids, values)
        self._pending.append(ids, _pack(values, right), position)

    def exchange(self) -> None:
        """Send what was recorded to its owners, in rounds of bounded size. A collective.

        Worth calling now and then in a long epoch without saves: it gives back what was recorded, 8 bytes a clip.
        """
        self._exchanging()()

    def commit(self, epoch: int) -> None:
        """End the open epoch: exchange, write its history, then fold it into the totals. A collective.

        epoch: its number, from 0, as a guard: ValueError where it is not `self.epochs`, so nothing counts twice.
        Raises RunError on every rank, with nothing folded, where one cannot write its part of the history.
        """
        self._check_is_next(epoch)
        self.committing(epoch)()

    def committing(self, epoch: int) -> Callable[[], None]:
        """Set aside what was recorded until now, and return a function that commits it, as `commit` says.

        The function may be called in another thread while the next epoch is recorded here. The same holds for what
        `saving` returns. Every rank calls these functions one after the other, in the order in which it got them. Until
        all of them were called, nothing but `record`, `discard`, `committing` and `saving` may be called here.
        """
        exchange = self._exchanging()

        def commit() -> None:
            self._check_is_next(epoch)
            exchange()
            if self.history is not None:
                self._write_history(self.history)
            for rows in self._chunks():
                _fold(rows)
            self.epochs += 1

        return commit

    def _check_is_next(self, epoch: int) -> None:
        if epoch != self.epochs:
            done = f"epochs 0 to {self.epochs - 1} are committed" if self.epochs else "none is committed"
            raise ValueError(f"{self.name}: cannot commit epoch {epoch}, {done}; next is {self.epochs}")

    def discard(self) -> None:
        """Forget the open epoch, exchanged or not. Every rank does so, or some clips of the epoch stay."""
        self._pending.take()
        self._is_discarded = True  # what was exchanged goes when the rows are next touched, maybe in another thread

    def save(self, folder: Path) -> None:
        """Exchange, then write totals and open epoch to a folder: NAME.json and a file of rows a rank. A collective.

        The manifest NAME.json is replaced last and the previous files are removed after it: whatever is killed when,
        the folder holds one whole save. `np.fromfile(file, ROW)` reads a file.
        Raises RunError on every rank, with the previous save intact, where one cannot write.
        """
        self.saving()(folder)

    def saving(self) -> Callable[[Path], None]:
        """Set aside what was recorded until now, and return a function that saves it to a folder; see `committing`."""
        exchange = self._exchanging()

        def save(folder: Path) -> None:
            exchange()
            self._write(folder)

        return save

    def _exchanging(self) -> Callable[[], None]:
        """Take what was recorded, and whether the epoch was discarded before; what is returned exchanges it."""
        blocks = self._pending.take()
        is_discarded, self._is_discarded = self._is_discarded, False

        def exchange() -> None:
            if is_discarded:
                for rows in self._chunks():
                    rows["precedence"] = 0
                    rows["value"] = 0
            count = max(gather_objects(len(blocks)))
            blocks.reverse()  # popped from the end, first recorded first: memory is given back as the exchange goes on
            for _ in range(count):
                # Not under a name: a block is given back before what it became is sent.
                self._send(first_of_each_clip(*(blocks.pop() if blocks else Block(0)).columns()))

        return exchange

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote, at any world size then and now, reading this rank's clips only. A collective.

        Rows are read a block at a time into the store's own: there is no second copy of them. Parts of the history that
        are newer than the save are removed: their epochs will be recorded again.
        Raises RunError on every rank, with this store empty as a new one, where a file is missing, of another size or
        damaged, or was saved for another modality, seed or number of clips.
        """
        try:
            self.epochs = together(f"{folder}: cannot load confidences", lambda: self._read(folder))
        except RunError:
            self.epochs = 0
            self._rows.view(np.uint8).fill(0)
            raise
        finally:
            self._pending.take()
            self._is_discarded = False
        if (history := self.history) is not None:
            problem = f"{history}: cannot remove newer epochs"
            together(problem, lambda: self._remove_stale(history, self.epochs, ranks=0))

    def on_main_rank(self, start: int, stop: int) -> np.ndarray:
        """The rows of clips `start` to `stop`, on rank 0; none elsewhere. A collective."""
        lower, upper = (min(max(clip, self._first), self._stop) - self._first for clip in (start, stop))
        nobody = [np.empty(0, ROW)] * (self.world.size - 1)
        return np.concatenate(all_to_all([self._rows[lower:upper], *nobody]))

    def _refuse_what_is_no_probability(self, ids: np.ndarray, confidence: np.ndarray) -> None:
        bad = np.flatnonzero(~((confidence >= 0) & (confidence <= 1)))  # NaN compares false
        if len(bad):
            shown = first_of([f"{self._describe(int(ids[row]))}: {confidence[row]}" for row in bad], 3)
            raise RunError(
                f"{self.modality} network, seed {self.seed}: confidence is not in [0, 1] ({shown}); "
                f"it has diverged: lower its learning rate"
            )

    def _describe(self, clip: int) -> str:
        return f"clip {clip}" if self._key_of is None else f"clip {clip} ({self._key_of(clip)})"

    def _send(self, ordered: np.ndarray) -> None:
        """Send columns by clip id to the owners and keep what arrives, in as many rounds as the fullest owner needs.

        In a shuffled epoch an owner gets about as much as it sends, and one round is enough whatever the world size.
        Where the ranks go through the clips in order, all may send to one owner.
        """
        starts = [owned_range(rank, self.world.size, clips=self.clips)[0] for rank in range(1, self.world.size)]
        cuts = np.array([0, *np.searchsorted(ordered[0], np.array(starts, np.uint32)), ordered.shape[1]])
        counts = np.diff(cuts)
        arriving = int(np.concatenate(all_to_all(list(counts[:, None]))).sum())
        rounds = -(-max(gather_objects(arriving)) // (2 * self.block_values))
        for number in range(rounds):
            lower, upper = (cuts[:-1] + counts * part // rounds for part in (number, number + 1))
            pieces = [ordered[:, start:stop].ravel() for start, stop in zip(lower, upper, strict=True)]
            for rank, piece in enumerate(all_to_all(pieces)):
                self._keep(piece.reshape(COLUMNS, -1), rank)

    def _keep(self, columns: np.ndarray, rank: int) -> None:
        """Of each clip that a rank sent, once, and the value held of it, keep the first in global order."""
        held, values = self._rows["precedence"], self._rows["value"]
        at_once = -(-self.block_values // 16)  # some 45 bytes each while they last: 3 of _BYTES_IN_FLIGHT
        for start in range(0, columns.shape[1], at_once):
            clip, value, position = columns[:, start : start + at_once]
            row = clip.astype(np.intp) - self._first
            # 24 bits for the rank: 0 < precedence <= 2**56. What a rank recorded first also arrives first, so it stays.
            precedence = np.uint64(1 << 56) - (position.astype(np.uint64) << np.uint64(24) | np.uint64(rank))
            earlier = precedence > held[row]
            if not earlier.all():
                row, precedence, value = row[earlier], precedence[earlier], value[earlier]
            held[row] = precedence
            values[row] = value

    def _chunks(self) -> Iterator[np.ndarray]:
        """Views of the rows, some at a time, in order of clip id."""
        for start in range(0, len(self._rows), CHUNK_ROWS):
            yield self._rows[start : start + CHUNK_ROWS]

    def _write_history(self, folder: Path) -> None:
        problem = f"{folder}: cannot write the history of epoch {self.epochs}"
        together(problem, lambda: self._write_history_part(folder))
        together(problem, lambda: self._remove_stale(folder, self.epochs, ranks=self.world.size))

    def _write_history_part(self, folder: Path) -> None:
        """This rank's clips that were recorded in the open epoch, by clip id. Replaces a part of a killed run."""
        with records.atomic_path(
            folder / f"{self.name}-epoch{self.epochs:04d}-rank{self.world.rank:04d}.parquet"
        ) as path:
            # Ids ascend and floats hardly repeat: 4 bytes a clip, where the default encoding takes 13.
            encoding = {"clip_id": "DELTA_BINARY_PACKED", "confidence": "BYTE_STREAM_SPLIT"}
            with pq.ParquetWriter(
                path, records.HISTORY_SCHEMA, use_dictionary=False, column_encoding=encoding
            ) as writer:
                for chunk, rows in enumerate(self._chunks()):
                    recorded = np.flatnonzero(rows["precedence"])
                    confidence, correct = _unpack(rows["value"][recorded])
                    ids = recorded + (self._first + chunk * CHUNK_ROWS)
                    writer.write_table(pa.table([ids, confidence, correct], schema=records.HISTORY_SCHEMA))

    def _remove_stale(self, folder: Path, epoch: int, *, ranks: int) -> None:
        """Rank 0 removes what a killed run left of this and later epochs, but the parts of `epoch` of so many ranks."""
        if not self.world.is_main:
            return
        kept = {f"{self.name}-epoch{epoch:04d}-rank{rank:04d}.parquet" for rank in range(ranks)}
        for path in folder.glob(f"{self.name}-epoch*-rank*.parquet"):
            if path.name not in kept and int(path.name.split("-epoch")[1].split("-")[0]) >= epoch:
                path.unlink()
        for path in folder.glob(f".{self.name}-epoch*.partial"):  # nobody is writing now: all ranks are past it
            path.unlink()

    def _write(self, folder: Path) -> None:
        token = broadcast_object(secrets.token_hex(4))
        path = folder / f"{self.name}-{token}-rank{self.world.rank:04d}.rows"
        problem = f"{folder}: cannot save confidences"
        try:
            files = gather_objects(together(problem, lambda: self._write_rows(path)))
            together(problem, lambda: self._write_manifest(folder, files))
        except RunError:
            path.unlink(missing_ok=True)
            raise

    def _write_rows(self, path: Path) -> dict[str, Any]:
        """Write this rank's rows; its entry of the manifest."""
        checksums = []
        with records.atomic_path(path) as partial, partial.open("wb") as file:
            for start in range(0, len(self._rows), _BLOCK_ROWS):
                block = self._rows[start : start + _BLOCK_ROWS].view(np.uint8).data
                checksums.append(xxhash.xxh3_64_hexdigest(block))
                file.write(block)
        return {"name": path.name, "first": self._first, "rows": len(self._rows), "checksums": checksums}

    def _write_manifest(self, folder: Path, files: list[dict[str, Any]]) -> None:
        """Rank 0 makes these files the save, and removes all others of this store."""
        if not self.world.is_main:
            return
        manifest = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "modality": self.modality,
            "seed": self.seed,
            "clips": self.clips,
            "epochs": self.epochs,
            "block_rows": _BLOCK_ROWS,
            "files": files,
        }
        records.write_json(folder / f"{self.name}.json", {**manifest, "checksum": records.json_checksum(manifest)})
        names = {entry["name"] for entry in files}
        for pattern in (f"{self.name}-*.rows", f".{self.name}-*.partial", f".{self.name}.json.*.partial"):
            for path in folder.glob(pattern):
                if path.name not in names:
                    path.unlink()

    def _read(self, folder: Path) -> int:
        """Fill the rows from a save; its number of committed epochs."""
        manifest = self._read_manifest(folder / f"{self.name}.json")
        for entry in manifest["files"]:
            start, stop = max(self._first, entry["first"]), min(self._stop, entry["first"] + entry["rows"])
            if start < stop:
                wanted = self._rows[start - self._first : stop - self._first]
                _read_rows(
                    folder / entry["name"], entry, start - entry["first"], wanted, block_rows=manifest["block_rows"]
                )
        return manifest["epochs"]

    def _read_manifest(self, path: Path) -> dict[str, Any]:
        try:
            manifest = json.loads(path.read_bytes())
            checksum = manifest.pop("checksum")
        except FileNotFoundError:
            raise RunError(f"{path}: no saved confidences; resume from an earlier checkpoint") from None
        except (ValueError, KeyError, AttributeError, TypeError):
            raise RunError(f"{path}: damaged; resume from an earlier checkpoint") from None
        if checksum != records.json_checksum(manifest):
            raise RunError(f"{path}: damaged (checksum); resume from an earlier checkpoint")
        ours = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "modality": self.modality,
            "seed": self.seed,
            "clips": self.clips,
        }
        for field, value in ours.items():
            if manifest[field] != value:
                raise RunError(
                    f"{path}: saved with {field} {manifest[field]}, this run has {value}; resume the run it is of"
                )
        return manifest


def _fold(rows: np.ndarray) -> None:
    """Add the open epoch to the totals of some rows, and clear it."""
    recorded = rows["precedence"] > 0
    confidence, correct = _unpack(rows["value"])  # 0 and False where nothing was recorded
    confidence = confidence.astype(np.float64)
    rows["sum"] += confidence
    rows["sum_of_squares"] += confidence * confidence  # exact: 24 bits squared fit into 53
    rows["epochs"] += recorded
    rows["correct_epochs"] += correct
    rows["precedence"] = 0
    rows["value"] = 0


def _pack(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """A confidence as the bits of a float32, whose sign bit says whether the prediction was correct; uint32."""
    bits = np.ascontiguousarray(confidence, np.float32).view(np.uint32) & ~_CORRECT  # -0.0 passes for a probability
    return np.where(correct, bits | _CORRECT, bits)


def _unpack(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence, float32, and correct, bool."""
    return (value & ~_CORRECT).view(np.float32), value >= _CORRECT


def _read_rows(path: Path, entry: dict[str, Any], start: int, out: np.ndarray, *, block_rows: int) -> None:
    """Fill `out` with the rows from `start` on of a saved file; blocks that they touch are read whole and checked."""
    hint = "resume from an earlier checkpoint"
    rows, stop = entry["rows"], start + len(out)
    if not path.exists():
        raise RunError(f"{path}: missing; {hint}")
    if (size := path.stat().st_size) != rows * ROW.itemsize:
        raise RunError(f"{path}: has {size} bytes, was saved with {rows * ROW.itemsize} (truncated?); {hint}")
    with path.open("rb") as file:
        file.seek(start // block_rows * block_rows * ROW.itemsize)
        for first in range(start // block_rows * block_rows, stop, block_rows):
            block = np.fromfile(file, ROW, min(block_rows, rows - first))
            if xxhash.xxh3_64_hexdigest(block.view(np.uint8).data) != entry["checksums"][first // block_rows]:
                raise RunError(f"{path}: damaged (checksum of rows {first} to {first + len(block) - 1}); {hint}")
            lower, upper = max(start, first), min(stop, first + len(block))
            out[lower - start : upper - start] = block[lower - first : upper - first]


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
