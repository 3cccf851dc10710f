"""Save a pass at one (epoch, batch), and go on from there.

A checkpoint is a folder: `state.pt` (every run's network, optimizer, method and place in early stopping: the same on
every rank), `rank-0000.pt` and so on (what differs between ranks: batch norm's buffers), the confidence stores, and
`manifest.json` with a checksum of each file. It is written under another name and renamed when it is whole, so a crash
while saving leaves the previous one untouched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avbench.confidence import ConfidenceStore
from avbench.dataset import checksum
from avbench.distributed import barrier, current_world
from avbench.errors import RunError
from avbench.records import atomic_path, write_json
from avbench.training.run import Run

VERSION = 1


@dataclass(frozen=True)
class Position:
    """Where a pass is: the next batch to train on, and what the run folder held by then."""

    epoch: int
    batch: int
    metrics_offset: int
    bad_clips: dict[int, str]


class Checkpoints:
    """The checkpoints of a run folder.

    keep: how many of the newest to keep. identity: what a checkpoint must agree with to be gone on from (dataset
    fingerprint, runs); a checkpoint of another is refused by name of what differs.
    """

    def __init__(self, folder: Path, *, keep: int, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.keep = keep
        self.identity = identity

    def save(self, position: Position, *, runs: Sequence[Run], stores: Sequence[ConfidenceStore]) -> None:
        """Write a checkpoint; every rank calls it. Raises OSError where the disk does not take it."""
        world = current_world()
        final = self.folder / f"epoch-{position.epoch:04d}-batch-{position.batch:06d}"
        partial = self.folder / f".partial-{final.name}"
        if world.is_main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        barrier()
        for store in stores:
            store.save(partial / _store_name(store))
        _save({run.name: run.buffers() for run in runs if run.is_training}, partial / _rank_name(world.rank))
        if world.is_main:
            _save({run.name: run.state_dict() for run in runs}, partial / "state.pt")
        barrier()
        if world.is_main:
            self._write_manifest(partial, position, world_size=world.size)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            self._prune(runs)
        barrier()

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that is whole, and what was wrong with newer ones; None where none was made yet.

        Raises RunError where none is whole, or where the newest whole one is of another dataset or other runs.
        """
        complaints: list[str] = []
        for path in sorted(self._all(), reverse=True):
            fault = _fault(path)
            if fault:
                complaints.append(f"{path}: {fault}")
                continue
            self._check_identity(path)
            return path, complaints
        if complaints:
            raise RunError(f"no checkpoint is whole, so there is nothing to resume from: {'; '.join(complaints)}")
        return None, []

    def load(
        self, path: Path, *, runs: Sequence[Run], stores: Sequence[ConfidenceStore], device: torch.device
    ) -> Position:
        """Put runs and stores where they were; returns the position to go on from."""
        manifest = json.loads((path / "manifest.json").read_text("utf-8"))
        state = torch.load(path / "state.pt", map_location=device, weights_only=True)
        for run in runs:
            run.load_state_dict(state[run.name])
        _load_buffers(path, manifest["world_size"], runs, device)
        for store in stores:
            store.load(path / _store_name(store))
        bad_clips = {int(clip): reason for clip, reason in manifest["bad_clips"].items()}
        return Position(manifest["epoch"], manifest["batch"], manifest["metrics_offset"], bad_clips)

    def best_file(self, run: Run) -> Path:
        """Where the network of a run's best epoch is kept. Named by epoch: a checkpoint knows which one it means."""
        return self.folder / "best" / f"{run.name}-epoch{run.progress.best_epoch:04d}.pt"

    def save_best(self, run: Run) -> None:
        """Keep a run's network as its best so far; rank 0 writes."""
        if current_world().is_main:
            path = self.best_file(run)
            with atomic_path(path) as partial:
                _save(run.engine.model.state_dict(), partial)
        barrier()

    def load_best(self, run: Run, device: torch.device) -> None:
        """Give a run the network of its best epoch."""
        path = self.best_file(run)
        if not path.exists():
            raise RunError(f"{path}: missing, and run {run.name} is to predict from it; train it again")
        run.engine.model.load_state_dict(torch.load(path, map_location=device, weights_only=True))

    def _write_manifest(self, partial: Path, position: Position, *, world_size: int) -> None:
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        manifest = {
            "version": VERSION,
            "epoch": position.epoch,
            "batch": position.batch,
            "metrics_offset": position.metrics_offset,
            "bad_clips": {str(clip): reason for clip, reason in position.bad_clips.items()},
            "world_size": world_size,
            "identity": self.identity,
            "files": {str(path.relative_to(partial)): f"{checksum(path.read_bytes()):016x}" for path in files},
        }
        write_json(partial / "manifest.json", manifest)

    def _check_identity(self, path: Path) -> None:
        saved = json.loads((path / "manifest.json").read_text("utf-8"))["identity"]
        for name, value in self.identity.items():
            if saved.get(name) != value:
                raise RunError(f"{path}: was saved with {name} {saved.get(name)!r}, and this run has {value!r}")

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("epoch-*") if path.is_dir()]

    def _prune(self, runs: Iterable[Run]) -> None:
        kept = sorted(self._all())[-self.keep :]
        for path in set(self._all()) - set(kept):
            shutil.rmtree(path, ignore_errors=True)
        # A best file is needed as long as a kept checkpoint means it.
        needed = {self.best_file(run).name for run in runs}
        for path in kept[:-1]:
            needed |= _best_names(path)
        for file in (self.folder / "best").glob("*.pt"):
            if file.name not in needed:
                file.unlink(missing_ok=True)


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


def _best_names(path: Path) -> set[str]:
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True, mmap=True)
    return {f"{name}-epoch{run['progress']['best_epoch']:04d}.pt" for name, run in state.items()}


def _fault(path: Path) -> str:
    manifest_file = path / "manifest.json"
    try:
        files = json.loads(manifest_file.read_text("utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return "its manifest is missing or broken"
    for name, expected in files.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if f"{checksum(file.read_bytes()):016x}" != expected:
            return f"{name} is damaged (checksum)"
    return ""


def _load_buffers(path: Path, saved_world_size: int, runs: Sequence[Run], device: torch.device) -> None:
    """Each rank's own batch norm statistics; their mean where the number of ranks is another."""
    world = current_world()
    ranks = [world.rank] if saved_world_size == world.size else range(saved_world_size)
    saved = [torch.load(path / _rank_name(rank), map_location=device, weights_only=True) for rank in ranks]
    for run in runs:
        if run.is_training:
            for name, buffer in run.buffers().items():
                buffer.copy_(torch.stack([rank[run.name][name] for rank in saved]).mean(dim=0))


def _store_name(store: ConfidenceStore) -> str:
    return f"confidence-{store.modality}-seed{store.seed}"


def _rank_name(rank: int) -> str:
    return f"rank-{rank:04d}.pt"
