"""Locks of a folder that several packs write to at once, on one machine or on many.

A lock is a file that is made exclusively, since flock fails on file systems of clusters. It names its holder from the
first moment on, and the holder touches it again and again. One whose process is gone is taken over: at once where it
was of this machine, else when it has not been touched for a while. Clocks of machines differ, so that while is measured
here, by looking twice.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from avbench.records import write_new

_BEAT_SECONDS = 15.0
# Eight beats; network file systems show a change after a minute at worst.
_STALE_SECONDS = 120.0
_WAIT_SECONDS = 0.2
_TRIES = 3
# Fields of /proc/PID/stat behind the command's name: the state and the start in clock ticks since the machine's.
_STATE, _BEGAN = 0, 19


class Locks:
    """The locks that this process holds; to be used in a `with`, at whose end all are given back."""

    def __init__(self) -> None:
        self._text = json.dumps(
            {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "machine": _machine(),
                "began": _began(os.getpid()),
                "token": secrets.token_hex(8),
            }
        )
        self._held: set[Path] = set()
        self._seen: dict[Path, tuple[tuple[str, int], float]] = {}
        self._done = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Locks:
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._heart.join()
        for path in list(self._held):
            self.release(path)

    def take(self, path: Path) -> bool:
        """Take a lock; False where another process holds it. Raises OSError where it cannot be written."""
        for _ in range(_TRIES):
            with suppress(FileExistsError):
                write_new(path, self._text)
                self._held.add(path)
                return True
            with suppress(FileNotFoundError):  # given back just now
                text = _text_of(path)
                if not self._is_left_behind(path, text):
                    return False
                self._take_away(path, text)
        return False

    def release(self, path: Path) -> None:
        """Give a lock back."""
        self._held.discard(path)
        if _text_of(path) == self._text:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    @contextmanager
    def held(self, path: Path) -> Iterator[None]:
        """Hold a lock that others hold for a moment only; waits for it. Raises OSError where it cannot be written."""
        while not self.take(path):
            time.sleep(_WAIT_SECONDS)
        try:
            yield
        finally:
            self.release(path)

    def is_left_behind(self, path: Path) -> bool:
        """Whether a lock that another process made is none any more."""
        try:
            return self._is_left_behind(path, _text_of(path))
        except FileNotFoundError:
            return True

    def _is_left_behind(self, path: Path, text: str) -> bool:
        """Whether whoever wrote this text into the lock is gone. Raises FileNotFoundError where the lock is gone."""
        beat = path.stat().st_mtime_ns
        holder = _holder(text)
        if holder.get("machine") == _machine():
            return not _is_alive(holder.get("process"), holder.get("began"))
        now = time.monotonic()
        seen, since = self._seen.setdefault(path, ((text, beat), now))
        if seen != (text, beat):
            self._seen[path] = ((text, beat), now)
            return False
        return now - since > _STALE_SECONDS

    def _take_away(self, path: Path, text: str) -> None:
        """Remove a lock that was left behind with this text.

        Only one may at once, by a lock of its own: what another has taken over meanwhile must not be removed, nor be
        away for a moment. One that died at it is removed without such care, since it was at it for a moment only.
        """
        guard = path.with_name(f"{path.name}.taken-away")
        try:
            write_new(guard, self._text)
        except FileExistsError:
            with suppress(FileNotFoundError):
                if self._is_left_behind(guard, _text_of(guard)):
                    guard.unlink()
            return
        try:
            if _text_of(path) == text:
                path.unlink(missing_ok=True)
        finally:
            guard.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._done.wait(_BEAT_SECONDS):
            for path in list(self._held):
                with suppress(OSError):  # a file system that stumbles: the next beat tries again
                    os.utime(path)


def holder_text(path: Path) -> str:
    """Who holds a lock, in words."""
    holder = _holder(_text_of(path))
    return f"process {holder.get('process', '?')} on {holder.get('host', 'another machine')}"


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _holder(text: str) -> dict[str, Any]:
    try:
        holder = json.loads(text)
    except ValueError:  # of a file system without hard links, and half-written
        return {}
    return holder if isinstance(holder, dict) else {}


def _machine() -> str:
    """What numbers of processes mean: this start of this machine, and the container's own numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  no path
    except OSError:
        return socket.gethostname()


def _stat(process: int) -> list[str]:
    """What the system says of a process, from its state on. Raises OSError where there is none."""
    text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def _began(process: int) -> str:
    """When a process was started, to tell it from another of the same number; empty where the system does not say."""
    try:
        return _stat(process)[_BEGAN]
    except (OSError, IndexError):
        return ""


def _is_alive(process: Any, began: Any) -> bool:
    if not isinstance(process, int):
        return False
    if not Path("/proc/self/stat").exists():
        with suppress(ProcessLookupError):
            os.kill(process, 0)
            return True
        return False
    try:
        found = _stat(process)
    except OSError:
        return False
    return found[_STATE] not in "ZX" and found[_BEGAN] == began  # one that nobody has buried yet is dead
