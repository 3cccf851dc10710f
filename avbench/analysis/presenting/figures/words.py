"""Words and numbers on figures."""

from __future__ import annotations

from avbench.analysis.measures.classes import Selection
from avbench.analysis.presenting.tables.classes import CLASSES_FILE


def share_text(name: str, clips: int, total: int) -> str:
    """A number of clips as a share of all, under its name."""
    return f"{name}\n{100 * clips / max(total, 1):.1f} % ({clips:,})"


def clips_text(count: int) -> str:
    """A number of clips in words."""
    return "1 clip" if count == 1 else f"{count:,} clips"


def count_text(number: float, _: int = 0) -> str:
    """A number of clips as a tick says it: 12,345, and from 100,000 on 123k or 12.3M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= max(size, 1e5):
            return f"{number / size:.{0 if number >= 100 * size else 1}f}".removesuffix(".0") + letter
    return f"{number:,.0f}"


def whole_ticks(largest: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to the largest count; only powers of ten where these are too many."""
    steps = [digit * 10**power for power in range(len(str(largest))) for digit in (1, 2, 5)]
    fitting = [step for step in steps if step <= largest]
    return fitting if len(fitting) <= 9 else [step for step in fitting if str(step).startswith("1")]


def on_two_lines(text: str, letters: int) -> str:
    """A text of at most twice these letters, between words where they fit; none is lost."""
    if len(text) <= letters:
        return text
    gaps = [place for place, letter in enumerate(text) if letter == " " and len(text) - letters <= place + 1]
    place = max((gap for gap in gaps if gap <= letters), default=letters)
    return f"{text[:place]}\n{text[place:].lstrip()}"


def which_classes(selection: Selection) -> str:
    """Which classes a figure shows, and where the others are."""
    if not selection.left_out:
        return "every class with clips, the most audio-sided first"
    counts = [len(members) for _, members in selection.groups]
    return (
        f"the {counts[0]} most audio-sided classes by share of clips, {counts[1]} at even distances in the order "
        f"between, and the {counts[2]} most visual-sided; {selection.left_out} more are in {CLASSES_FILE}"
    )
