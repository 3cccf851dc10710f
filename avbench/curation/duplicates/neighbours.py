"""Words of 64 bits that differ in few of them, found without comparing each with each.

The words are sorted, so that those with equal first bits lie together, and each is compared with the few that follow
it. This is done for several orders of the bits: two words that differ in few bits have, in one of the orders, none of
these among the first. The work is that of sorting, whatever the words are: where ten thousand are equal, each of them
still meets only those few.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_ORDERS = 6
_FOLLOWING = 6  # words that each is compared with, in each order


def neighbours(words: np.ndarray, owners: np.ndarray, *, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of places of words that differ in at most `radius` bits and belong to different owners.

    words: uint64 [M]. owners: int [M]. Returns two int64 arrays; a pair may come several times.
    """
    ones, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for permuted in _permuted(words):
        order = np.argsort(permuted, kind="stable")
        for step in range(1, min(_FOLLOWING, len(words) - 1) + 1):
            one, other = order[:-step], order[step:]
            alike = np.bitwise_count(words[one] ^ words[other]) <= radius
            alike &= owners[one] != owners[other]
            ones.append(one[alike])
            others.append(other[alike])
    return np.concatenate(ones), np.concatenate(others)


def _permuted(words: np.ndarray) -> Iterator[np.ndarray]:
    """The words with their bits in several orders, which are the same every time."""
    generator = np.random.default_rng(0)
    octets = words.view(np.uint8).reshape(-1, 8)  # the order of the octets is the machine's, and does not matter
    for _ in range(_ORDERS):
        # Of each octet's value, where its eight bits go.
        places = generator.permutation(64).astype(np.uint64).reshape(8, 8)
        values = np.arange(256, dtype=np.uint64)[:, None] >> np.arange(8, dtype=np.uint64) & np.uint64(1)
        permuted = np.zeros(len(words), np.uint64)
        for number in range(8):
            table = np.bitwise_or.reduce(values << places[number], axis=1)
            permuted |= table[octets[:, number]]
        yield permuted
