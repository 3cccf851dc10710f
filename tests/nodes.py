"""Two nodes on one machine: network namespaces joined by a cable, each with its own address and its own loopback.

    with two_nodes() as (first, second):
        subprocess.run([*second.enter, "ping", "-c1", first.address])

Needs root and iproute2; the test is skipped, with the reason, where either is missing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count

import pytest

_NUMBER = count()


@dataclass(frozen=True)
class Node:
    """A network namespace."""

    name: str
    address: str

    @property
    def enter(self) -> list[str]:
        """What to write before a command that is to run on this node."""
        return ["ip", "netns", "exec", self.name]

    def kill_all(self) -> None:
        """End every process on this node."""
        for process in _ip("netns", "pids", self.name).stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes that reach each other and nothing else; they and their processes are gone afterwards."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is missing: apt-get install iproute2")
    # Named by process, so that tests may run side by side. The addresses are seen inside only.
    names = [f"avbench-{os.getpid()}-{next(_NUMBER)}" for _ in range(2)]
    nodes = Node(names[0], "10.213.0.1"), Node(names[1], "10.213.0.2")
    try:
        for node in nodes:
            _or_skip("netns", "add", node.name)
        ends = ["cable", "netns", nodes[0].name, "type", "veth", "peer", "name", "cable", "netns", nodes[1].name]
        _or_skip("link", "add", *ends)
        for node in nodes:
            _or_skip("-n", node.name, "address", "add", f"{node.address}/24", "dev", "cable")
            for link in ("lo", "cable"):
                _or_skip("-n", node.name, "link", "set", link, "up")
        yield nodes
    finally:
        for node in nodes:
            node.kill_all()
            _ip("netns", "delete", node.name)


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True)


def _or_skip(*words: str) -> None:
    done = _ip(*words)
    if done.returncode:
        pytest.skip(f"no network namespaces here: ip {' '.join(words)}: {done.stderr.strip()}")
