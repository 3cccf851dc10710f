"""Words of the command line to a command's options; tyro's complaints become one line."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, TypeVar

import tyro

from avbench.arguments import explain
from avbench.errors import UsageError
from avbench.help import examples_text

T = TypeVar("T")


def parse(
    kind: type[T],
    argv: Sequence[str],
    program: str,
    *,
    default: Any = tyro.MISSING_NONPROP,
    more_help: Callable[[], str] = str,
) -> T:
    """tyro's result; its boxed complaint becomes one line. more_help: what help says between options and examples."""
    explain(kind)
    with one_line(program, more_help):
        return tyro.cli(kind, prog=program, args=list(argv), default=default)


def parse_known(kind: type[T], argv: Sequence[str], program: str) -> tuple[T, list[str]]:
    """The same, and the words that are none of its options."""
    explain(kind)
    with one_line(program):
        return tyro.cli(kind, prog=program, args=list(argv), return_unknown_args=True)


@contextmanager
def one_line(program: str, more_help: Callable[[], str] = str) -> Iterator[None]:
    """Within, tyro's boxed complaint becomes a UsageError of one line, and its help is followed by examples.

    more_help: what stands between the two.
    """
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            yield
    except SystemExit as stop:
        if stop.code not in (0, None):
            text = _unboxed(complaint.getvalue())
            raise UsageError(f"{text}; `{program} --help` lists the options") from None
        for text in filter(None, (more_help(), examples_text(program))):
            print(f"\n{text}")
        raise


def _unboxed(box: str) -> str:
    lines = []
    rows = box.splitlines()
    # The title, which the text repeats, is in the frame; without UTF-8 there is none, and it stands above a rule.
    for line in rows[1:] if box.startswith("╭") else rows[2:]:
        text = line.strip("│╰╯ \t")
        if text.startswith(("Argument helptext", "For full helptext", "run ")):
            break
        if text.strip("─-"):
            lines.append(text)
    return " ".join(lines)


def value_of(argv: Sequence[str], flag: str) -> str | None:
    """What was given for an option, before it is parsed; None where it was not given."""
    for place, word in enumerate(argv):
        if word == flag and place + 1 < len(argv):
            return argv[place + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def check_not_empty(argv: Sequence[str], *flags: str) -> None:
    """An empty word, as a shell makes of an unset variable, would be the working folder."""
    for flag in flags:
        if value_of(argv, flag) == "":
            raise UsageError(f"{flag} is empty; name a file or folder ('.' for this one)")
