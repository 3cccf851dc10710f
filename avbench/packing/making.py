"""The shards of a plan, made by worker processes that may die, beside other packs of the same folder.

A shard is made by whoever holds its lock. A worker that dies at a clip, or is too long at it, costs its own shard's
time only: the shard is made again, and that clip is then read by a process of its own (see `apart`). After a second
death every clip of the shard is, so a shard is made four times or so at the most. What the system has killed, perhaps
for want of memory, is made again when nothing else is under way. Nothing of this depends on how many workers there are.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from avbench.description import DESCRIPTION_FILE
from avbench.errors import DatasetError
from avbench.packing.locks import Locks, holder_text
from avbench.packing.recipes.files import WORK_FOLDER
from avbench.packing.shard_task import ShardTask
from avbench.packing.workers import OUT_OF_MEMORY, Beat, Death, Ended, Pool, died_text
from avbench.progress import NowAndThen, progress

# Workers that die at no clip, killed or unable to start: of one shard, and in a row while no shard was made.
_MOST_STRAYS = 3
_MOST_IN_A_ROW = 10
_KILLED = ("SIGKILL", OUT_OF_MEMORY)
_WAIT_SECONDS = 0.5


def make_shards(
    make: Callable[[ShardTask, Beat], None],
    tasks: Sequence[ShardTask],
    *,
    is_made: Callable[[ShardTask], bool],
    locks: Locks,
    workers: int,
    title: str = "packing",
) -> None:
    """Make every shard that is not made yet, or wait until another pack has made it.

    Raises what `make` raises, after the others have stopped, and DatasetError where workers die again and again at no
    clip.
    """
    missing = [task for task in tasks if not is_made(task)]
    if not missing:
        return
    total = sum(len(task.clips) for task in missing)
    count, seconds = min(workers, len(missing)), missing[0].clip_seconds_limit
    with progress(title, "clips") as show, Pool(make, workers=count, unit_seconds=seconds) as pool:
        making = _Making(missing, is_made, locks, pool)
        making.remove_leftovers()
        while making.is_going_on():
            making.go_on()
            show(making.done + pool.begun, total)


class _Making:
    """Which shards wait, are under way, are to be made alone, and are another pack's. done: clips of made shards."""

    def __init__(
        self, tasks: Sequence[ShardTask], is_made: Callable[[ShardTask], bool], locks: Locks, pool: Pool
    ) -> None:
        self._tasks, self._is_made, self._locks, self._pool = list(tasks), is_made, locks, pool
        self._waiting = deque(range(len(tasks)))
        self._alone: deque[int] = deque()
        self._elsewhere: deque[int] = deque()
        self._ours: set[int] = set()
        self._strays: Counter[int] = Counter()
        self._in_a_row = 0
        self._now_and_then = NowAndThen()
        self.done = 0

    def is_going_on(self) -> bool:
        return bool(self._waiting or self._alone or self._elsewhere or self._pool.under_way)

    def go_on(self) -> None:
        """Hand out what can be, and take what has ended."""
        self._hand_out()
        if self._pool.under_way:
            for ended in self._pool.ended():
                self._take(ended)
        elif self._elsewhere:
            self._say_what_it_waits_for()
            time.sleep(_WAIT_SECONDS)
            self._waiting, self._elsewhere = self._elsewhere, deque()

    def _hand_out(self) -> None:
        while self._pool.is_free and self._waiting:
            number = self._waiting.popleft()
            if self._is_to_be_made(number):
                self._pool.start(number, self._tasks[number])
        if self._alone and not self._waiting and not self._pool.under_way:
            number = self._alone.popleft()
            self._pool.start(number, self._tasks[number])

    def _is_to_be_made(self, number: int) -> bool:
        """Whether the shard is ours to make; one that another pack is making comes again later."""
        if number in self._ours:
            return True
        task = self._tasks[number]
        try:
            is_ours = self._locks.take(task.lock)
        except FileNotFoundError:  # of a folder that another pack has completed, or removed
            if not _is_complete(task):
                raise
            is_ours = True
        if not is_ours:
            self._elsewhere.append(number)
            return False
        self._ours.add(number)
        # In this order: who completes a dataset removes the notes last.
        if self._is_made(task) or _is_complete(task):
            self._count(number)
            return False
        return True

    def _take(self, ended: Ended[None]) -> None:
        if ended.error is not None:
            raise ended.error
        if ended.death is None:
            self._in_a_row = 0
            self._count(ended.number)
        else:
            self._retry(ended.number, ended.death)

    def _count(self, number: int) -> None:
        self._ours.discard(number)
        self._locks.release(self._tasks[number].lock)
        self.done += len(self._tasks[number].clips)

    def _retry(self, number: int, death: Death) -> None:
        """Make the shard again, with what its worker died at read apart."""
        task = self._tasks[number]
        clip = None if death.unit is None else task.clips[death.unit].key
        _remove_leftovers_of(task)
        if clip is None or clip in task.apart:
            if death.is_at_start and death.cause.startswith("status"):
                raise DatasetError(f"{task.out}: {died_text('packing', [])} ({death.cause}); the lines above say why")
            self._strays[number] += 1
            self._in_a_row += 1
            if self._strays[number] >= _MOST_STRAYS or self._in_a_row >= _MOST_IN_A_ROW:
                at = [clip or task.tar.stem] if death.begun else []
                raise DatasetError(
                    f"{task.out}: {died_text('packing', at)} again and again ({death.cause}); run again to go "
                    f"on, with fewer workers"
                )
        else:
            every = frozenset(one.key for one in task.clips)
            self._tasks[number] = replace(task, apart=every if task.apart else frozenset({clip}))
        _say(task.out, f"{died_text('packing', [clip or task.tar.stem])}: {death.cause}; its shard is made again")
        (self._alone if death.cause in _KILLED else self._waiting).append(number)

    def _say_what_it_waits_for(self) -> None:
        task = self._tasks[self._elsewhere[0]]
        if task.lock.exists() and self._now_and_then.is_due():
            _say(task.out, f"waits for {task.tar.name}, which {holder_text(task.lock)} makes")

    def remove_leftovers(self) -> None:
        """What packs that were killed have half-written, of the shards that are nobody's."""
        names = {path.name.split(".")[1] for path in _leftovers(self._tasks[0].out, "shard-*")}
        for task in self._tasks:
            with suppress(FileNotFoundError):  # another pack has completed the dataset
                if task.tar.stem in names and self._locks.take(task.lock):
                    _remove_leftovers_of(task)
                    self._locks.release(task.lock)


def _is_complete(task: ShardTask) -> bool:
    return (task.out / DESCRIPTION_FILE).exists()


def _remove_leftovers_of(task: ShardTask) -> None:
    for path in _leftovers(task.out, task.tar.stem):
        path.unlink(missing_ok=True)


def _leftovers(out: Path, name: str) -> list[Path]:
    """Half-written files of shards of this name; not those of their locks, which others may be making now."""
    found = [*out.glob(f".{name}.*.partial"), *(out / WORK_FOLDER).glob(f".{name}.*.partial")]
    return [path for path in found if path.name.split(".")[2] != "lock"]


def _say(out: Path, text: str) -> None:
    print(f"avbench: {out}: {text}", file=sys.stderr, flush=True)
