"""What a command found, as plain values for JSON: the same numbers as in the CSV files, in full precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avbench.analysis.assessment import Evaluation
from avbench.analysis.presenting.report_folder import PAGE_FILE


def evaluation_as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything that tables and figures are made of. Accuracies are fractions, null where there is none."""
    return {
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "confidence_epochs": evaluation.confidence_epochs,
        "clips": asdict(evaluation.coverage),
        "thresholds": list(evaluation.table.thresholds),
        "answer": evaluation.answer,
        "winners": list(evaluation.conclusion.winners),
        "significant": list(evaluation.conclusion.significant),
        "spearman": evaluation.spearman,
        "methods": [
            {
                "run": run,
                "method": method,
                "network": evaluation.networks.get(run, ""),
                "modality": evaluation.table.modality_of.get(run),
            }
            for run, method in evaluation.table.methods.items()
        ],
        "accuracy": [{**asdict(cell), "accuracy": cell.accuracy} for cell in evaluation.table.cells],
        "metrics": _records(evaluation.metrics.cells),
        "seeds": _records(evaluation.seeds.cells),
        "cross_seed": _records(evaluation.cross_seed.cells) if evaluation.cross_seed else [],
        "parts": _records(evaluation.parts.cells),
        "accuracy_planted": _records(evaluation.planted.cells) if evaluation.planted else [],
        "significance": _records(evaluation.comparisons),
        "utilization": [
            {
                **asdict(one),
                "conditional": dict(one.conditional),
                "shapley": dict(one.shapley),
                "branches": {
                    name: {**asdict(branch), "utilization": branch.utilization} for name, branch in one.branches.items()
                },
            }
            for one in evaluation.utilization
        ],
        "verdicts": _records(evaluation.verdicts),
        "learning": [
            {
                "training": one.training,
                "run": one.run,
                "seed": one.seed,
                "ending": one.ending,
                "why": one.why,
                "best_epoch": one.best,
                "best_val_accuracy": one.best_accuracy,
                "epochs": one.epochs.tolist(),
                **{name: _plain(curve.tolist()) for name, curve in one.curves.items()},
            }
            for one in evaluation.learning
        ],
        "performance": [_plain(asdict(speed)) for speed in evaluation.speeds],
        "warnings": list(evaluation.warnings),
        "audit": {
            "sentence": evaluation.audit.sentence,
            "runs": [{**_plain(asdict(one)), "verdict": one.verdict} for one in evaluation.audit.runs],
            "left_out": {name: list(keys) for name, keys in evaluation.audit.left_out.items()},
        },
        "origin": _records(evaluation.origin),
        "notes": list(evaluation.notes),
        "report": str(evaluation.folder / PAGE_FILE),
    }


def subsets_as_json(file: Path, split: str, counts: Mapping[float, Mapping[str, int]]) -> dict[str, Any]:
    """The file that was written, and how many clips each subset has."""
    return {
        "file": str(file),
        "split": split,
        "subsets": [{"threshold": threshold, "clips": dict(by_part)} for threshold, by_part in counts.items()],
    }


def _records(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [_plain(asdict(row)) for row in rows]


def _plain(value: Any) -> Any:
    """Mappings and lists of numbers that JSON knows: what is not finite is null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
