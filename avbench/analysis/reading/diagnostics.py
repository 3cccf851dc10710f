"""What methods logged while they trained, as curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from avbench.analysis.reading.results import Diagnostics
from avbench.records import read_metrics
from avbench.run_folder import RunFolder
from avbench.vocabulary import MODALITIES

# What numbers of a method were called in folders of earlier versions: (method, old name) -> name.
_RENAMED = {
    **{
        ("greedy", f"{group}/{modality}"): f"{group}/{modality}_branch"
        for group in ("speed", "rebalancing")
        for modality in MODALITIES
    },
    ("greedy", "difference/speed"): "difference/audio_minus_visual_branch",
}


def read_diagnostics(path: Path) -> dict[tuple[str, int], Diagnostics]:
    """What methods logged under "group/name" at each logging interval; a value that is not finite is left out."""
    metrics = RunFolder(path).metrics
    if not metrics.exists():
        return {}
    records = read_metrics(metrics, kinds=("step",))
    # Every epoch's last batch is logged, so the largest number is how many batches an epoch has.
    batches = max((record["batch"] for record in records), default=1)
    points: dict[tuple[str, int], dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for record in records:
        epoch = record["epoch"] + record["batch"] / batches
        for place, value in record.items():
            group, slash, name = _RENAMED.get((str(record.get("method")), place), place).partition("/")
            if slash and isinstance(value, int | float):  # "nan" and "inf" are written as strings
                groups = points.setdefault((record["run"], record["seed"]), {})
                groups.setdefault(group, {}).setdefault(name, []).append((epoch, float(value)))
    return {
        key: {
            group: {name: (curve[:, 0], curve[:, 1]) for name, line in names.items() for curve in [np.array(line)]}
            for group, names in groups.items()
        }
        for key, groups in points.items()
    }
