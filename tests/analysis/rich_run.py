"""A run folder with all that a report can show, and names that nobody should give."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from avbench.records import MetricsWriter, predictions_schema, write_json, write_table
from avbench.vocabulary import MODALITIES, REPLACED
from tests.analysis.make_run import make_run

HOSTILE = "<script>alert('x')</script> & 100 % of $x_1^2$ {it}"
CLASSES = ("<script>alert(1)</script>", "rock & roll | \\textbf{b}", "c" * 200)
CLIPS, SEEDS = 60, (0, 1)
RUNS = {"audio": "audio", "visual": "visual", "baseline": "baseline", HOSTILE: "tmc"}


def rich_run(folder: Path) -> Path:
    """A run folder with all that a report can show, and names that nobody should give."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, CLIPS)
    audio, visual = ({seed: random.random(CLIPS).tolist() for seed in SEEDS} for _ in range(2))
    planted = {"audio": random.random(CLIPS).tolist(), "visual": random.random(CLIPS).tolist()}
    make_run(folder, labels=labels.tolist(), audio=audio, visual=visual, correct={}, planted=planted)
    dataset = json.loads((folder / "dataset.json").read_text())
    write_json(folder / "dataset.json", {**dataset, "name": "VGG-Sound", "classes": list(CLASSES)})
    networks = {"audio": "one ResNet-18", "visual": "one ResNet-18", "baseline": "two & a head", HOSTILE: HOSTILE}
    write_json(
        folder / "runs.json",
        {
            run: {"method": method, "network": networks[run], "options": {"alpha": 0.1, "mode": "<i>"}}
            for run, method in RUNS.items()
        },
    )
    launches = [{"command": ["avbench", "train"], "versions": {"numpy": "2.0 & more"}}, {"world_size": 2}]
    write_json(folder / "environment.json", {"torch": "2.11.0", "launches": launches})
    for number, (run, method) in enumerate(RUNS.items()):
        for seed in SEEDS:
            write_rich_predictions(
                folder / "predictions" / f"run{number}-seed{seed}-test.parquet", labels, run, method, seed
            )
    log = MetricsWriter(folder / "metrics.jsonl")
    for epoch, seed in ((epoch, seed) for epoch in range(4) for seed in SEEDS):
        place = {"run": HOSTILE, "seed": seed, "epoch": epoch, "step": 5 * epoch + 4, "batch": 5, "loss": 1.0}
        log.write({"kind": "step", **place, "<i>/audio": 0.1 * epoch, "<i>/visual": 0.5, "windows/audio": epoch % 2})
    for run, seed, epoch in ((run, seed, epoch) for run in RUNS for seed in SEEDS for epoch in range(4)):
        place = {"run": run, "method": RUNS[run], "seed": seed, "epoch": epoch}
        accuracy = (0.3, 0.5, 0.45, 0.5)[epoch] + 0.05 * seed
        log.write(
            {
                "kind": "epoch",
                **place,
                "loss": 1.5 - 0.3 * epoch,
                "accuracy": 0.2 * epoch,
                "val_loss": 1.6,
                "val_accuracy": accuracy,
            }
        )
    why = "no better validation accuracy for 2 epochs"
    log.write({"kind": "event", "run": HOSTILE, "seed": 1, "text": f"{HOSTILE}-seed1 stopped after epoch 3: {why}"})
    log.write({"kind": "event", "run": "greedy", "seed": 0, "text": "greedy-seed0 stopped: diverged: loss not finite"})
    log.write({"kind": "event", "text": "<b>stopped</b> early after epoch 3"})
    log.close()
    return folder


def write_rich_predictions(path: Path, labels: np.ndarray, run: str, method: str, seed: int) -> None:
    random = np.random.default_rng([seed, *map(ord, run)])
    joint, rows = method not in MODALITIES, []
    for replaced in REPLACED if joint else ("none",):
        for clip, label in enumerate(labels.tolist()):
            prediction = label if random.random() < 0.6 else (label + 1) % 3
            part = joint and replaced == "none"
            rows.append(
                {
                    "clip_id": 100 + clip, "key": f"clip{clip}", "split": "test", "label": label, "run": run,
                    "method": method, "seed": seed, "epoch": 1, "replaced": replaced, "prediction": prediction,
                    "probabilities": (0.1 + 0.7 * np.eye(3)[prediction]).tolist(),
                    "uncertainty": random.random() if method == "tmc" else None,
                    "audio_prediction": label if part else None, "visual_prediction": prediction if part else None,
                }
            )  # fmt: skip
    write_table(path, pa.Table.from_pylist(rows, predictions_schema(3)))
