"""Save a pass at one (epoch, batch), and go on from there.

A checkpoint is a folder: `state.pt` (every run's network, optimizer, method and place in early stopping: the same on
every rank), `rank-0000.pt` and so on (what differs between ranks), the confidence stores, and
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
from avbench.distributed import current_world, on_main, together
from avbench.engine import random_state, set_random_state
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
    prepared: int = 0  # runs that have done their passes before this epoch's first batch

    @property
    def name(self) -> str:
        """The checkpoint's name; sorted by it, a later one comes later. No two of a pass have the same."""
        prepared = f"-prepared-{self.prepared:04d}" if self.prepared else ""
        return f"epoch-{self.epoch:04d}-batch-{self.batch:06d}{prepared}"


class Checkpoints:
    """The checkpoints of a run folder.

    keep: how many of the newest to keep, beside the newest one made at an epoch's end. identity: what a checkpoint must
    agree with to be gone on from (dataset, runs); one of another is refused by name of what differs. clips: identifies
    the clips that are used, which may change between epochs (quarantine) but not within one.
    """

    def __init__(self, folder: Path, *, keep: int, identity: dict[str, Any], clips: str) -> None:
        self.folder = folder
        self.keep = keep
        self.identity = identity
        self.clips = clips

    def save(self, position: Position, *, runs: Sequence[Run], stores: Sequence[ConfidenceStore]) -> None:
        """Write a checkpoint; every rank calls it. Raises RunError, on every rank, where the disk does not take it."""
        world = current_world()
        final = self.folder / position.name
        partial = self.folder / f"{_PARTIAL}{final.name}"
        problem = f"cannot write {final}"
        try:
            on_main(problem, lambda: _make_anew(partial))
            for store in stores:
                store.save(partial / _store_name(store))
            together(problem, lambda: _save_rank(partial / _rank_name(world.rank), runs))
            states = {run.name: run.state_dict() for run in runs}  # under ZeRO it is gathered from all ranks
            on_main(problem, lambda: _save(states, partial / "state.pt"))
            on_main(problem, lambda: self._write_manifest(partial, position, runs, world_size=world.size))
        except RunError:
            if world.is_main:
                shutil.rmtree(partial, ignore_errors=True)  # it would keep the disk full
            raise
        on_main(problem, lambda: self._publish(partial, final, runs))

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
        manifest = _manifest(path)
        # To the CPU first: engines put each tensor where it belongs, and Adam's step counts stay where they were.
        state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        for run in runs:
            run.load_state_dict(state[run.name])
        _load_rank(path, manifest["world_size"], runs, device)
        for store in stores:
            store.load(path / _store_name(store))
        bad_clips = {int(clip): reason for clip, reason in manifest["bad_clips"].items()}
        return Position(
            manifest["epoch"], manifest["batch"], manifest["metrics_offset"], bad_clips, manifest.get("prepared", 0)
        )

    def best_file(self, run: Run) -> Path:
        """Where the network of a run's best epoch is kept. Named by epoch: a checkpoint knows which one it means."""
        return self.folder / "best" / f"{run.name}-epoch{run.progress.best_epoch:04d}.pt"

    def save_best(self, run: Run) -> None:
        """Keep a run's network as its best so far; rank 0 writes."""
        on_main(f"cannot write {self.best_file(run)}", lambda: self._write_best(run))

    def _write_best(self, run: Run) -> None:
        with atomic_path(self.best_file(run)) as partial:
            _save(run.engine.model.state_dict(), partial)

    def load_best(self, run: Run, device: torch.device) -> None:
        """Give a run the network of its best epoch."""
        path = self.best_file(run)
        if not path.exists():
            raise RunError(f"{path}: missing, and run {run.name} is to predict from it; train it again")
        run.engine.model.load_state_dict(torch.load(path, map_location=device, weights_only=True))

    def _write_manifest(self, partial: Path, position: Position, runs: Sequence[Run], *, world_size: int) -> None:
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        manifest = {
            "version": VERSION,
            "epoch": position.epoch,
            "batch": position.batch,
            "prepared": position.prepared,
            "metrics_offset": position.metrics_offset,
            "bad_clips": {str(clip): reason for clip, reason in position.bad_clips.items()},
            "world_size": world_size,
            "identity": self.identity,
            "clips": self.clips,
            "best": [self.best_file(run).name for run in runs],
            "files": {str(path.relative_to(partial)): f"{checksum(path.read_bytes()):016x}" for path in files},
        }
        write_json(partial / "manifest.json", manifest)

    def _publish(self, partial: Path, final: Path, runs: Sequence[Run]) -> None:
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        self._prune(runs)

    def _check_identity(self, path: Path) -> None:
        saved = _manifest(path)["identity"]
        for name, value in self.identity.items():
            if saved.get(name, type(value)()) != value:
                raise RunError(f"{path}: was saved with {name} {saved.get(name)!r}, and this run has {value!r}")

    def _changed_clips(self, path: Path) -> str:
        manifest = _manifest(path)
        if manifest["batch"] and manifest["clips"] != self.clips:
            return "was saved within an epoch over other clips (the quarantine has changed)"
        return ""

    def _all(self) -> list[Path]:
        """Newest first."""
        return sorted((path for path in self.folder.glob("epoch-*") if path.is_dir()), reverse=True)

    def _prune(self, runs: Iterable[Run]) -> None:
        everything = self._all()
        kept = everything[: self.keep]
        # An epoch's end can always be gone on from, also over other clips.
        ends = [path for path in everything if _AT_EPOCHS_END in path.name]
        if ends and ends[0] not in kept:
            kept.append(ends[0])
        for path in set(everything) - set(kept):
            shutil.rmtree(path, ignore_errors=True)
        # A best file is needed as long as a kept checkpoint means it.
        needed = {self.best_file(run).name for run in runs}
        for path in kept[1:]:
            needed |= set(_best_meant_by(path))
        for file in (self.folder / "best").glob("*.pt"):
            if file.name not in needed:
                file.unlink(missing_ok=True)


_PARTIAL = ".partial-"
_AT_EPOCHS_END = "-batch-000000"


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


def _save_rank(path: Path, runs: Sequence[Run]) -> None:
    """What differs between ranks: batch norm's statistics, torch's random state."""
    training = [run for run in runs if run.is_training]
    buffers = {run.name: run.buffers() for run in training}
    random = {run.name: random_state(run.engine.device) for run in training[:1]}
    _save({"buffers": buffers, "random": random}, path)


def _load_rank(path: Path, saved_world_size: int, runs: Sequence[Run], device: torch.device) -> None:
    """Each rank's own statistics and random state; where the number of ranks is another, the statistics' mean."""
    world = current_world()
    same = saved_world_size == world.size
    ranks = [world.rank] if same else range(saved_world_size)
    saved = [torch.load(path / _rank_name(rank), map_location="cpu", weights_only=True) for rank in ranks]
    for run in runs:
        if run.is_training:
            for name, buffer in run.buffers().items():
                buffer.copy_(torch.stack([rank["buffers"][run.name][name] for rank in saved]).mean(dim=0))
    if same:
        for state in saved[0]["random"].values():
            set_random_state(state, device)


def _best_meant_by(path: Path) -> list[str]:
    try:
        return _manifest(path)["best"]
    except (OSError, ValueError, KeyError):
        return []  # a damaged checkpoint is never gone on from


def _fault(path: Path) -> str:
    try:
        files = _manifest(path)["files"]
    except (OSError, ValueError, KeyError):
        return "its manifest is missing or broken"
    for name, expected in files.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if f"{checksum(file.read_bytes()):016x}" != expected:
            return f"{name} is damaged (checksum)"
    return ""


def _store_name(store: ConfidenceStore) -> str:
    return f"confidence-{store.modality}-seed{store.seed}"


def _rank_name(rank: int) -> str:
    return f"rank-{rank:04d}.pt"
