"""A clip that is read by a process of its own, since one that had read others too has crashed or hung at it.

Memory that one clip has spoilt may crash the decoder at the next, and a system that is short of memory may kill
whichever process it likes. So a clip is blamed only where it ends a process that has done nothing else; what is found
then does not depend on how many processes there are, or on what they have read before.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from typing import Any, TypeVar

from avbench.packing.streams import Reason, Reject
from avbench.packing.workers import CONTEXT, OUT_OF_MEMORY, begin_child, cause_of, end_without_memory

R = TypeVar("R")

BLAMED = (Reason.CRASH, Reason.KILLED, Reason.TOO_LONG)
"""The verdicts that a process pays for with its life."""
_KILLED = ("SIGKILL", OUT_OF_MEMORY)
# Somebody may have killed it who knew nothing of the clip.
_TRIES_IF_KILLED = 2


def done_apart(function: Callable[..., R], *arguments: Any, seconds: float) -> R:
    """`function(*arguments)`, called in a fresh process.

    Raises what the function raises; Reject where the process crashes, is killed twice, or is not done after so many
    seconds.
    """
    for _ in range(_TRIES_IF_KILLED):
        answer, cause = _tried(function, arguments, seconds)
        if cause is None:
            return answer
        if cause not in _KILLED:
            raise Reject(Reason.CRASH, "a process that read nothing else crashed at it")
    raise Reject(Reason.KILLED, "a process that read nothing else was killed at it twice (out of memory?)")


def _tried(function: Callable[..., R], arguments: tuple[Any, ...], seconds: float) -> tuple[R, str | None]:
    """The result, and why there is none: None where there is one."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_serve, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        ours.recv()  # it has started, which may take a while where a machine is busy
        if not _comes(ours, seconds):
            raise Reject(Reason.TOO_LONG, f"not read in {seconds:g} s")
        result, error = ours.recv()
    except EOFError:
        process.join()
        return None, cause_of(process.exitcode)  # type: ignore[return-value]
    finally:
        process.kill()
        process.join()
    if error is not None:
        raise error
    return result, None


def _comes(connection: Connection, seconds: float) -> bool:
    """Whether an answer comes in so many seconds, in which this process was not stopped itself."""
    waited = 0.0
    while waited < seconds:
        step = min(1.0, seconds - waited)
        if connection.poll(step):
            return True
        waited += step
    return False


def _serve(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Body of the fresh process."""
    begin_child()
    connection.send(None)
    try:
        outcome = (function(*arguments), None)
    except MemoryError:
        end_without_memory()
    except Exception as error:
        outcome = (None, ExceptionWithTraceback(error, error.__traceback__))
    connection.send(outcome)
