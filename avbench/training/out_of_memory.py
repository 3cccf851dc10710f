"""A batch that does not fit into a GPU's memory, and the largest that does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from avbench.errors import UsageError


def fits(action: Callable[[], object]) -> bool:
    """Does something; whether the GPU's memory was enough for it."""
    try:
        action()
    except torch.OutOfMemoryError:
        return False
    return True


def largest_that_fits(try_clips: Callable[[int], object], *, too_many: int) -> int:
    """How many clips can be done at once, by bisection below a number that cannot; 0 where not even one can.

    try_clips: does it with so many clips, and runs out of memory or not.
    """
    fitting = 0
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        torch.cuda.empty_cache()  # what a failed attempt left in pieces of other sizes
        if fits(partial(try_clips, middle)):
            fitting = middle
        else:
            too_many = middle
    return fitting


@contextmanager
def memory_refused_in_one_line() -> Iterator[None]:
    """Turns a GPU that is out of memory, wherever no batch is to blame alone, into a UsageError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        # Whose memory the rest is, other processes' among it, torch says in its first sentences.
        said = ". ".join(str(error).split(". ")[:3])
        raise UsageError(
            f"not enough GPU memory ({said}); use a smaller --batch-size or fewer --methods in one pass"
        ) from None


def too_large(clips: int, *, largest: int | None, ranks: int, accumulation: int) -> UsageError:
    """The error for a step that does not fit.

    clips: of this rank's slice. largest: that fit; None where that could not be tried. accumulation: as it is.
    """
    what = f"not enough GPU memory for a step on {clips} clips" + (" a rank" if ranks > 1 else "")
    if largest is None:
        parts = f"--accumulation {2 * accumulation}"
        return UsageError(f"{what}: halve --batch-size, or add {parts} for the same batch in parts")
    if largest == 0:
        return UsageError(f"{what}, nor for one: train fewer --methods in one pass, or take a smaller --preset")
    return UsageError(
        f"{what}: {largest} fit, as tried just now; use --batch-size {largest}, or --accumulation "
        f"{-(-clips // largest) * accumulation} for the same batch in parts, or fewer --methods in one pass"
    )
