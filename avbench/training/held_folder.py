"""Who may write to a run folder: one training at a time, which holds it by a lock."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avbench.dataset import Dataset
from avbench.errors import RunError
from avbench.records import write_new
from avbench.run_folder import RunFolder

# A writer touches its lock while it works; one of another host that is older than this has lost its process.
_BEAT_SECONDS = 15.0
_STALE_SECONDS = 600.0
_SAME_JOB_SECONDS = 90.0


@dataclass(frozen=True)
class HeldFolder(RunFolder):
    """A run folder that a training writes to, and that it holds meanwhile against others."""

    _held: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)  # what our lock says

    def check_new(self, *, overwrite: bool) -> None:
        """Raises RunError where the folder already holds something; with `overwrite`, something other than a run."""
        if overwrite:
            if self.path.exists() and not self.config.exists() and _holds_something(self.path):
                raise RunError(
                    f"{self.path}: is no run folder, so --overwrite leaves it alone; name another with --out"
                )
        elif self.config.exists():
            raise RunError(
                f"{self.path}: already a run; go on with it by --resume, replace it with --overwrite, "
                f"or name another folder with --out"
            )
        elif self.path.exists() and _holds_something(self.path):
            raise RunError(f"{self.path}: exists and is no run folder; name another with --out")

    def is_finished(self, *, epochs: int) -> bool:
        """Whether a training of so many epochs has ended here, predictions and all."""
        try:
            return bool(json.loads(self.finished.read_text("utf-8"))["epochs"] == epochs)
        except FileNotFoundError:
            return False

    def check_resumable(self) -> None:
        """Raises RunError where there is no run to go on with."""
        if not self.config.exists():
            raise RunError(f"{self.path}: no run to resume (it has no config.toml); leave out --resume to start one")

    def check_dataset(self, dataset: Dataset) -> None:
        """Raises RunError where this is not the dataset that the run was begun with, and says what has changed."""
        try:
            begun = json.loads(self.dataset.read_text("utf-8"))
            same_index = (begun["index_sha256"], begun["classes"]) == (dataset.index_sha256, list(dataset.classes))
            # Runs of earlier versions have no fingerprint. Of two indexes one may be a view's, of the same content.
            is_it = same_index or begun.get("fingerprint") == dataset.fingerprint
            is_same = (begun["name"], begun["classes"]) == (dataset.name, list(dataset.classes))
            before = f"{_described(begun)} (then at {begun.get('path')})"
        except FileNotFoundError:
            return  # killed before it was written: nothing was trained
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RunError(
                f"{self.dataset}: cannot be read, so nobody knows which dataset the run was begun with; restore it, or "
                f"start another run with another --out"
            ) from None
        if not is_it:
            what = "was packed again or changed since" if is_same else "is another dataset"
            raise RunError(
                f"{self.path}: was saved with dataset {before}; {dataset.path} {what}: "
                f"{_described(dataset.description)}. Name the one that the run was begun with, or start another run "
                f"with another --out"
            )

    def clear(self) -> None:
        """Remove all that an earlier run left; the lock, which the caller holds, stays."""
        for path in self.path.iterdir():
            if path == self.lock:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: one training at a time writes to it. Raises RunError where another holds it.

        The lock is a file made exclusively (flock fails on cluster file systems) and touched again and again. One left
        behind by a process of this host that is gone, or not touched for ten minutes by another host, is taken over;
        and for 90 s, where it is an earlier start of the same job: rank 0 may be on another host than it was.
        """
        holder = {"host": socket.gethostname(), "process": os.getpid(), "job": _job(), "start": secrets.token_hex(8)}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._set_stale_lock_aside()
            self._make_lock(holder)
        except FileExistsError:
            raise RunError(f"{self.path}: another training holds it ({self._described_lock()})") from None
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror}); name another with --out") from None
        self._held.update(holder)
        done = threading.Event()
        heart = threading.Thread(target=self._beat, args=(done,), daemon=True)
        heart.start()
        try:
            yield
        finally:
            done.set()
            heart.join()
            if self._holder() == holder:
                self.lock.unlink(missing_ok=True)
            self._held.clear()

    def check_held(self) -> None:
        """Raises RunError where the lock that this process took is another's by now: what it writes is in the way."""
        holder = self._holder()
        if self._held and holder != self._held:
            raise RunError(
                f"{self.path}: another training has taken it over ({self.lock}: {holder}), since this one was silent "
                f"for too long; this one stops"
            )

    def _make_lock(self, holder: Mapping[str, Any]) -> None:
        # Whole or not at all: an empty lock, which names nobody, would keep all out for ten minutes.
        write_new(self.lock, json.dumps(holder))

    def _beat(self, done: threading.Event) -> None:
        while not done.wait(_BEAT_SECONDS):
            with suppress(OSError):  # a file system that stumbles: the next beat tries again
                os.utime(self.lock)

    def _holder(self) -> dict[str, Any]:
        try:
            return json.loads(self.lock.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _described_lock(self) -> str:
        holder = self._holder()
        text = f"{self.lock}: process {holder.get('process')} on {holder.get('host')}"
        if holder.get("host") == socket.gethostname():
            return text
        return f"{text}; if that one is dead, wait ten minutes or remove the file"

    def _set_stale_lock_aside(self) -> None:
        if not self.lock.exists():
            return
        holder = self._holder()
        if holder.get("host") == socket.gethostname():
            gone = not _is_alive(int(holder.get("process", 0)))
        elif holder.get("job") and holder["job"] == _job():
            # A launcher starts a job again only when all its ranks have ended; but people give two jobs one name.
            gone = not self._is_touched_within(_SAME_JOB_SECONDS)
        else:
            gone = time.time() - self.lock.stat().st_mtime > _STALE_SECONDS
        if gone:
            # Renamed, not removed: of two that find it stale only one can, so neither removes the other's new lock.
            aside = self.lock.with_name(f".lock-{os.getpid()}.stale")
            with suppress(FileNotFoundError):
                self.lock.rename(aside)
                aside.unlink()

    def _is_touched_within(self, seconds: float) -> bool:
        """Whether somebody still beats; waits for that long to see it, as cluster file systems show it late."""
        before = self.lock.stat().st_mtime
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(min(1.0, seconds / 10))
            with suppress(FileNotFoundError):
                if self.lock.stat().st_mtime != before:
                    return True
        return False


def _described(description: Mapping[str, Any]) -> str:
    clips, classes = sum(description["clips"].values()), len(description["classes"])
    return f"{description['name']!r} with {clips} clips of {classes} classes (index {description['index_sha256'][:8]})"


def _holds_something(path: Path) -> bool:
    """Whether somebody else's things are there; a lock and half-made files are those of a training that was killed."""
    return not path.is_dir() or any(item != RunFolder(path).lock and item.name[0] != "." for item in path.iterdir())


def _job() -> str:
    """What a launcher calls the job that this process is of, the same when it starts the job again; "" without one."""
    # torchrun calls a job "none" where it was given no name; a shell within an allocation of Slurm's is no step of it.
    launched = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    slurm = os.environ.get("SLURM_JOB_ID", "") if "SLURM_STEP_ID" in os.environ else ""
    return "/".join(name for name in (slurm, launched) if name not in ("", "none"))


def _is_alive(process: int) -> bool:
    # Our own number in a lock that we did not make: a container in which every training is process 7.
    if process <= 0 or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
