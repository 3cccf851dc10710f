"""Save a pass at one (epoch, batch) while it goes on, and go on from there.

A checkpoint is a folder: `tensors/` (torch.distributed.checkpoint: networks, optimizers, each rank's batch-norm buffers
and random state), `state.pt` (all that is no tensor: each run's method, schedule and place in early stopping), the
confidence stores, and `manifest.json` with a checksum of each file. Saving stops training only for a copy in memory, of
which every rank takes its share; a thread writes it under another name and renames it when it is whole, so a crash
while saving leaves the previous one untouched.

Networks and optimizers are whole tensors under their own names, whatever the number of ranks and the engine, so any
other number of ranks, under any engine, goes on from them.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import xxhash
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.serialization import get_crc32_options, set_crc32_options

from avbench.confidence.store import ConfidenceStore
from avbench.distributed import current_group, current_world, gather_objects, on_main, together
from avbench.engine.random_state import random_state, set_random_state
from avbench.errors import RunError
from avbench.records import atomic_path, json_checksum, write_json
from avbench.run_folder import BEST
from avbench.training.background import Background
from avbench.training.run import Run
from avbench.training.tensors import copies, put_tensors, share_of, take_tensors

VERSION = 2

# torch says so each time a single process saves or loads, which is what is meant.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


@dataclass(frozen=True, slots=True)
class Within:
    """How far a run is with the passes over data that its method makes before an epoch: an estimate, say.

    passes: begun. batches: of all of them. clips: over all ranks. seconds: over all launches.
    """

    run: str
    passes: int = 0
    batches: int = 0
    clips: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Position:
    """Where a pass is: the next batch to train on, and what the run folder held by then.

    An epoch that is trained and not yet judged has as many batches done as it has. prepared: how many of the training
    runs have done what they do before this epoch's first batch. within: where the next of them is amid it.
    """

    epoch: int
    batch: int
    metrics_offset: int
    bad_clips: dict[int, str]
    prepared: int = 0
    within: Within | None = None

    @property
    def name(self) -> str:
        """The checkpoint's name; sorted by it, a later one comes later. No two of a pass have the same."""
        prepared = f"-prepared-{self.prepared:04d}" if self.prepared or self.within else ""
        within = f"{_WITHIN}{self.within.batches:07d}" if self.within else ""
        return f"epoch-{self.epoch:04d}-batch-{self.batch:06d}{prepared}{within}"


@dataclass(frozen=True, slots=True)
class _Staged:
    """A copy of all that a checkpoint holds, as this rank writes it.

    tensors: this rank's share, on the CPU. skeleton: of rank 0, each run's state with names for tensors. stores: by
    name, what writes the store as it was.
    """

    position: Position
    tensors: dict[str, Tensor]
    skeleton: dict[str, Any]
    stores: dict[str, Callable[[Path], None]]
    best: list[str]


class Checkpoints:
    """The checkpoints of a run folder; every rank makes one and calls it at the same time as the others.

    background: what writes them. keep: how many of the newest to keep, beside the newest one made at an epoch's end;
    at least one.
    identity: what a checkpoint must agree with to be gone on from (dataset, runs); one of another is refused by name of
    what differs. formerly: what earlier versions noted in the place of a value, by its name. clips: identifies the
    clips that are used, which may change between epochs (quarantine) but not within one. may_publish: asked by rank 0
    before a checkpoint takes its place, raises RunError where the run folder is no longer ours.
    """

    def __init__(
        self,
        folder: Path,
        *,
        background: Background,
        keep: int,
        identity: dict[str, Any],
        clips: str,
        formerly: Mapping[str, Sequence[Any]] = MappingProxyType({}),
        may_publish: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.keep = keep
        self.identity = identity
        self._formerly = formerly
        self.clips = clips
        self._may_publish = may_publish
        self._background = background
        self._last = 0  # the background's number of the last one
        # Kept from one checkpoint to the next: fresh memory costs training several times what the copying does.
        self._copies: dict[str, Tensor] = {}

    def save(self, position: Position, *, runs: Sequence[Run], stores: Sequence[ConfidenceStore]) -> None:
        """Copy what a checkpoint holds and begin to write it; training may go on. A collective.

        Waits for the previous one, so one copy is in memory at a time. Raises RunError, on every rank, where that one
        could not be written.
        """
        self._background.wait(self._last)
        staged = self._stage(position, runs, stores)
        self._last = self._background.do(lambda: self._write(staged))

    def _stage(self, position: Position, runs: Sequence[Run], stores: Sequence[ConfidenceStore]) -> _Staged:
        world = current_world()
        savings = {_store_name(store): store.saving() for store in stores}
        shared: dict[str, Tensor] = {}
        skeleton = {run.name: take_tensors(run.state_dict(), f"{_SHARED}/{run.name}", shared) for run in runs}
        own = {f"{_of_rank(world.rank)}/{name}": tensor for name, tensor in _rank_tensors(runs).items()}
        share = {name: shared[name] for name in share_of(shared, world.rank, world.size)}
        self._copies = copies({**share, **own}, kept=self._copies)
        best = [self.best_file(run).name for run in runs]
        return _Staged(position, self._copies, skeleton if world.is_main else {}, savings, best)

    def _write(self, staged: _Staged) -> None:
        """Write a staged checkpoint and put it in its place; in the background, a collective there."""
        final = self.folder / staged.position.name
        partial = self.folder / f"{_PARTIAL}{final.name}"
        problem = f"cannot write {final}"
        try:
            on_main(problem, lambda: _make_anew(partial))
            for name, save in staged.stores.items():
                save(partial / name)
            together(problem, lambda: self._write_tensors(staged.tensors, partial / _TENSORS))
            on_main(problem, lambda: _save(staged.skeleton, partial / "state.pt"))
            of_ranks = gather_objects(together(problem, lambda: _checksums(partial)))
            checksums = {name: value for of_rank in of_ranks for name, value in of_rank.items()}
            on_main(problem, lambda: self._write_manifest(partial, staged, checksums))
        except RunError:
            if current_world().is_main:
                shutil.rmtree(partial, ignore_errors=True)  # it would keep the disk full
            raise
        on_main(problem, lambda: self._publish(partial, final))

    def _write_tensors(self, tensors: dict[str, Tensor], path: Path) -> None:
        writer = dcp.FileSystemWriter(path, sync_files=True)
        try:
            with _without_crc32():
                group = current_group()
                dcp.save(tensors, storage_writer=writer, process_group=group, no_dist=group is None)
        except (CheckpointException, OSError, RuntimeError) as error:
            raise _cause(error, path) from None

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint to go on from, and what was wrong with newer ones; None where none was made yet.

        Raises RunError where none can be used, or where the newest whole one is of another dataset or other runs.
        """
        complaints: list[str] = []
        for path in self._all():
            fault = _fault(path)
            if not fault:
                self._check_identity(path)
                fault = self._changed_clips(path)
            if not fault:
                return path, complaints
            complaints.append(f"{path}: {fault}")
        if complaints:
            raise RunError(f"no checkpoint can be used, so there is nothing to resume from: {'; '.join(complaints)}")
        return None, []

    def set_newer_aside(self, chosen: Path) -> None:
        """Rename what is newer than the checkpoint that is gone on from, so that it is never taken for the newest."""
        for path in self._all():
            if path == chosen:
                return
            aside = path.with_name(f"unused-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)

    def load(
        self, path: Path, *, runs: Sequence[Run], stores: Sequence[ConfidenceStore], device: torch.device
    ) -> Position:
        """Put runs and stores where they were; returns the position to go on from."""
        problem = f"{path}: cannot be loaded"
        manifest, skeleton, tensors = together(problem, lambda: _read(path))
        # On the CPU still: engines put each tensor where it belongs, and Adam's step counts stay where they were.
        for run in runs:
            run.load_state_dict(put_tensors(skeleton[run.name], tensors))
        _load_rank(tensors, manifest["world_size"], runs, device)
        for store in stores:
            store.load(path / _store_name(store))
        bad_clips = {int(clip): reason for clip, reason in manifest["bad_clips"].items()}
        within = Within(**manifest["within"]) if manifest.get("within") else None
        return Position(
            manifest["epoch"], manifest["batch"], manifest["metrics_offset"], bad_clips, manifest["prepared"], within
        )

    def best_file(self, run: Run) -> Path:
        """Where the network of a run's best epoch is kept. Named by epoch: a checkpoint knows which one it means."""
        return self.folder / BEST / f"{run.name}-epoch{run.progress.best_epoch:04d}.pt"

    def save_best(self, run: Run) -> None:
        """Copy a run's network and begin to write it as its best so far; rank 0 writes."""
        path = self.best_file(run)
        network: dict[str, Tensor] = {}
        if current_world().is_main:
            state = run.engine.model.state_dict()
            network = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        self._background.do(lambda: self._write_best(path, network))

    def _write_best(self, path: Path, network: dict[str, Tensor]) -> None:
        def write() -> None:
            with atomic_path(path) as partial:
                _save(network, partial)

        on_main(f"cannot write {path}", write)

    def load_best(self, run: Run, device: torch.device) -> None:
        """Give a run the network of its best epoch. Waits until that is written."""
        self._background.wait()
        path = self.best_file(run)
        if not path.exists():
            raise RunError(f"{path}: missing, and run {run.name} is to predict from it; train it again")
        run.engine.model.load_state_dict(torch.load(path, map_location=device, weights_only=True))

    def _write_manifest(self, partial: Path, staged: _Staged, checksums: Mapping[str, str]) -> None:
        position = staged.position
        manifest = {
            "version": VERSION,
            "epoch": position.epoch,
            "batch": position.batch,
            "prepared": position.prepared,
            "within": asdict(position.within) if position.within else None,
            "metrics_offset": position.metrics_offset,
            "bad_clips": {str(clip): reason for clip, reason in position.bad_clips.items()},
            "world_size": current_world().size,
            "identity": self.identity,
            "clips": self.clips,
            "best": staged.best,
            "files": dict(sorted(checksums.items())),
        }
        write_json(partial / "manifest.json", {**manifest, "checksum": json_checksum(manifest)})

    def _publish(self, partial: Path, final: Path) -> None:
        self._may_publish()
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        self._prune()

    def _check_identity(self, path: Path) -> None:
        saved = _manifest(path)["identity"]
        for name, value in self.identity.items():
            if saved.get(name, type(value)()) not in (value, *self._formerly.get(name, ())):
                raise RunError(f"{path}: was saved with {name} {saved.get(name)!r}, and this run has {value!r}")

    def _changed_clips(self, path: Path) -> str:
        manifest = _manifest(path)
        if (manifest["batch"] or manifest.get("within")) and manifest["clips"] != self.clips:
            amid = "an epoch" if manifest["batch"] else "the passes before an epoch"
            return f"was saved within {amid} over other clips (the quarantine has changed)"
        return ""

    def _all(self) -> list[Path]:
        return _newest_first(self.folder)

    def _prune(self) -> None:
        everything = self._all()
        kept = everything[: self.keep]
        # An epoch's end can always be gone on from, also over other clips.
        ends = [path for path in everything if _AT_EPOCHS_END in path.name and _WITHIN not in path.name]
        if ends and ends[0] not in kept:
            kept.append(ends[0])
        for path in set(everything) - set(kept):
            shutil.rmtree(path, ignore_errors=True)
        # A best file is needed as long as a kept checkpoint means it.
        needed = {name for path in kept for name in _best_meant_by(path)}
        for file in (self.folder / BEST).glob("*.pt"):
            if file.name not in needed:
                file.unlink(missing_ok=True)


def keep_only_best(folder: Path) -> None:
    """Remove all of a folder of checkpoints but the best networks that the newest one means. On rank 0.

    Killed in between it may be called again: the newest checkpoint goes last.
    """
    everything = _newest_first(folder)
    needed = {name for path in everything[:1] for name in _best_meant_by(path)}
    for file in (folder / BEST).glob("*"):
        if needed and file.name not in needed:
            file.unlink(missing_ok=True)
    for path in [*folder.glob("unused-*"), *folder.glob(f"{_PARTIAL}*"), *reversed(everything)]:
        shutil.rmtree(path, ignore_errors=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("epoch-*") if path.is_dir()), reverse=True)


_PARTIAL = ".partial-"
_TENSORS = "tensors"
# Names of tensors begin with whose they are: of all ranks alike, or of one.
_SHARED, _OF_RANK, _RANDOM = "shared", "rank", "random"
_BLOCK_BYTES = 1 << 20
_AT_EPOCHS_END = "-batch-000000"
_WITHIN = "-pass-batch-"


def _make_anew(partial: Path) -> None:
    """An empty folder to write into; what a killed process left half-written goes."""
    for leftover in partial.parent.glob(f"{_PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)


def _manifest(path: Path) -> dict[str, Any]:
    return json.loads((path / "manifest.json").read_text("utf-8"))


def _save(value: object, path: Path) -> None:
    """torch.save, whose failure on a full disk is an OSError that names the file."""
    try:
        with path.open("wb") as file:
            torch.save(value, file)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        # torch's writer fails once more while it closes the file.
        raise OSError(cause.errno, cause.strerror, str(path)) from None


@contextmanager
def _without_crc32() -> Iterator[None]:
    """Each file has a checksum in the manifest; torch's own would take a third of the time of writing."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)


def _cause(error: BaseException, path: Path) -> BaseException:
    """What the operating system refused, where that is what an error of torch's writers comes from; else the error."""
    seen: list[BaseException] = [error]
    for each in seen:  # grows as it is gone through
        if isinstance(each, OSError):
            return OSError(each.errno, each.strerror, str(path))
        if isinstance(each, CheckpointException):
            seen.extend(failure for failure, _ in each.failures.values() if failure not in seen)
        seen.extend(cause for cause in (each.__cause__, each.__context__) if cause is not None and cause not in seen)
    return error


def _rank_tensors(runs: Sequence[Run]) -> dict[str, Tensor]:
    """What differs between ranks: batch norm's statistics, torch's random state."""
    training = [run for run in runs if run.is_training]
    tensors = {f"{run.name}/{name}": buffer for run in training for name, buffer in run.buffers().items()}
    for run in training[:1]:
        tensors |= {f"{_RANDOM}/{name}": state for name, state in random_state(run.engine.device).items()}
    return tensors


def _load_rank(tensors: Mapping[str, Tensor], saved_world_size: int, runs: Sequence[Run], device: torch.device) -> None:
    """Each rank's own statistics and random state; where the number of ranks is another, the statistics' mean."""
    world = current_world()
    same = saved_world_size == world.size
    ranks = [world.rank] if same else range(saved_world_size)
    for run in runs:
        first = f"{_of_rank(ranks[0])}/{run.name}/"
        names = [name.removeprefix(first) for name in tensors if name.startswith(first)]
        saved = {name: [tensors[f"{_of_rank(rank)}/{run.name}/{name}"] for rank in ranks] for name in names}
        run.load_buffers({name: torch.stack(of_ranks).mean(dim=0) for name, of_ranks in saved.items()})
    prefix = f"{_of_rank(world.rank)}/{_RANDOM}/"
    random = {name.removeprefix(prefix): state for name, state in tensors.items() if name.startswith(prefix)}
    if same and random:
        set_random_state(random, device)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """A checkpoint's manifest, skeleton and the tensors that this rank goes on from: all that ranks share, and its own.

    Where the number of ranks is another, those of every rank.
    """
    manifest = _manifest(path)
    skeleton = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    world = current_world()
    wanted = (_SHARED, _of_rank(world.rank) if manifest["world_size"] == world.size else _OF_RANK)
    reader = dcp.FileSystemReader(path / _TENSORS)
    saved = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in saved.items()
        if name.startswith(wanted) and isinstance(entry, TensorStorageMetadata)
    }
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return manifest, skeleton, tensors


def _checksums(partial: Path) -> dict[str, str]:
    """Checksums of the files that this rank wrote, by name within the checkpoint."""
    files = (path for path in partial.rglob("*") if path.is_file())
    return {str(file.relative_to(partial)): _checksum(file) for file in files if _writer(file) == current_world().rank}


def _writer(file: Path) -> int:
    """The rank that wrote a file of a checkpoint: its number is in the name where each rank writes one of its own."""
    found = re.fullmatch(r"__(\d+)_\d+\.distcp|.*-rank(\d+)\.rows", file.name)
    return int(found[1] or found[2]) if found else 0


def _checksum(file: Path) -> str:
    """xxh3 of a file's bytes, read some at a time."""
    digest = xxhash.xxh3_64()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _best_meant_by(path: Path) -> list[str]:
    try:
        return _manifest(path)["best"]
    except (OSError, ValueError, KeyError):
        return []  # a damaged checkpoint is never gone on from


def _fault(path: Path) -> str:
    try:
        manifest = _manifest(path)
        version, files, checksum = manifest["version"], manifest["files"], manifest.pop("checksum", "")
    except (OSError, ValueError, KeyError):
        return "its manifest is missing or broken"
    if version != VERSION:
        return f"it is of format version {version}, and this avbench goes on from {VERSION}"
    if checksum != json_checksum(manifest):
        return "its manifest is damaged (checksum)"
    for name, expected in files.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if _checksum(file) != expected:
            return f"{name} is damaged (checksum)"
    return ""


def _store_name(store: ConfidenceStore) -> str:
    return f"confidence-{store.modality}-seed{store.seed}"


def _of_rank(rank: int) -> str:
    return f"{_OF_RANK}{rank:04d}"
