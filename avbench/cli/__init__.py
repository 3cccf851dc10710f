"""The commands, a file each: parse, call, print.

A user's mistake ends in one line and exit status 2. A command's file imports what it needs once its words are parsed,
so that `--help` and a typo are answered at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence

# Threads that spin while they wait for each other are slower than one where cores are shared. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if os.environ.get("NO_COLOR"):  # https://no-color.org; rich heeds it by itself, tyro has a word of its own
    os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")

from avbench import installed_version
from avbench.cli.ending import exit_as_it_ends
from avbench.errors import UsageError, unknown
from avbench.help import examples_text
from avbench.streams import forgiving_streams

# Each has a file of its name here.
COMMANDS: Mapping[str, str] = {
    "demo": "everything below on planted clips, in minutes, on a CPU",
    "pack": "labelled videos -> a dataset of tar shards",
    "info": "what is in a dataset, and the keys of its clips as a file",
    "view": "some clips of packed datasets as a dataset, without copying a shard",
    "verify": "prove that a dataset is whole, and mend it",
    "duplicates": "clips that come twice, above all in train and in test",
    "train": "every method in one pass; also under torchrun",
    "evaluate": "tables, figures and an HTML page of runs, or of predictions of your own",
    "subsets": "the keys of each subset's clips, as a file",
    "bench": "how fast every stage is here, and what a bigger machine would do",
    "methods": "the methods that there are, their options, papers and costs",
    "doctor": "what this machine has, and what will run where",
}


def main(argv: Sequence[str] | None = None) -> None:
    """The console script: runs a command and exits with 0, or with 2 and one line after a user's mistake."""
    words = sys.argv[1:] if argv is None else argv
    with forgiving_streams():
        exit_as_it_ends(words, dispatch)


def dispatch(argv: Sequence[str]) -> None:
    """Run the command that the first word names. Raises what it raises."""
    for word in argv:
        # How Python passes bytes that are no UTF-8; they could go into no file that avbench writes.
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UsageError(f"{word!a}: is not UTF-8; rename the file")
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: avbench COMMAND ...        (avbench COMMAND --help says more)\n")
        for name, text in COMMANDS.items():
            print(f"  {name:<11}{text}")
        print(f"\navbench --version says which one this is.\n\n{examples_text('avbench')}")
        return
    if argv[0] == "--version":
        print(f"avbench {installed_version() or '(not installed, so without a version)'}")
        return
    if argv[0] not in COMMANDS:
        raise UsageError(unknown("command", argv[0], COMMANDS))
    importlib.import_module(f"avbench.cli.{argv[0]}").run(argv[1:])
