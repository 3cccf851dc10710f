"""What was aimed at, by what was measured; an aim whose numbers are missing is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Answers = Mapping[str, Mapping[str, Any]]


def aims_of(answers: Answers, *, preset: str) -> list[dict[str, Any]]:
    """Of each aim what it says, its number, and whether it is met."""
    return [{"aim": text, "measured": value, "met": met} for text, value, met in _aims(answers, preset)]


def _aims(answers: Answers, preset: str) -> Iterator[tuple[str, float, bool]]:
    step_seconds = _seconds(answers, "steps", "avbench")
    trained = _seconds(answers, "training", "clips_per_second")
    for row, seconds in trained.items():
        waits = answers["training"][row]
        if "gpu_data_wait_share" in waits:
            share = waits["gpu_data_wait_share"] + waits["data_wait_share"]
            yield f"{row}: waiting for data under 2 % of the time", share, share < 0.02
        if row.startswith("baseline") and "baseline" in step_seconds:
            ratio = step_seconds["baseline"] / seconds
            yield f"{row}: fed at least 0.97 of the steps on one batch", ratio, ratio >= 0.97
    plain = _seconds(answers, "steps", "plain loop, bfloat16")
    for method, seconds in plain.items():
        ratio = seconds / step_seconds[method]
        yield f"{method}: a step at least 1.3 times the plain loop's in bfloat16", ratio, ratio >= 1.3
    for codec in ("flac", "wav", "stft"):
        loaded = answers.get("loader", {}).get(f"{preset}, {codec}")
        one_pass = trained.get(f"all methods, {codec}")
        if isinstance(loaded, float) and one_pass and len(step_seconds) > 1:
            ratio = one_pass / max(1 / loaded, sum(step_seconds.values()))
            text = f"{codec}: one pass takes at most 1.1 times the larger of loading once and the sum of all steps"
            yield text, ratio, ratio <= 1.1
    apart = _seconds(answers, "apart", "clips_per_second")
    if apart and "all methods, flac" in trained:
        ratio = sum(apart.values()) / trained["all methods, flac"]
        yield f"flac: one pass beside {len(apart)} runs one after another, 3 times as fast", ratio, ratio >= 3.0


def _seconds(answers: Answers, answer: str, name: str) -> dict[str, float]:
    """A clip's, by row, of the rows that have such a rate."""
    rows = answers.get(answer, {})
    return {row: 1 / value[name] for row, value in rows.items() if isinstance(value, dict) and value.get(name)}
