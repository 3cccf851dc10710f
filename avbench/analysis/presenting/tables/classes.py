"""Every class: its clips by preferred modality, and mean confidences."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from avbench.analysis.measures.classes import ClassSides
from avbench.analysis.measures.statistics import is_few
from avbench.analysis.presenting.sheet import Cell, Sheet
from avbench.analysis.presenting.tables.cells import signed, with_mark


def classes_sheet(classes: Sequence[ClassSides]) -> Sheet:
    """Every class that has evaluated clips, in the dataset's order."""
    return Sheet(
        name="per-class",
        kind="classes",
        title="Classes",
        caption="Evaluated clips of each class by preferred modality, the mean confidence of each unimodal network in "
        "the true label, and the mean discrepancy, audio minus visual confidence.",
        words=1,
        headings=(
            "class", "clips", "audio-preferred", "tied", "visual-preferred", "audio confidence", "visual confidence",
            "discrepancy",
        ),
        rows=tuple(
            (
                Cell(with_mark(row.name, row.clips)),
                *(Cell(f"{clips:,}", value=float(clips)) for clips in (row.clips, row.audio, row.tied, row.visual)),
                *(Cell(f"{mean:.3f}", value=mean) for mean in (row.audio_confidence, row.visual_confidence)),
                Cell(signed(row.discrepancy, 3), value=row.discrepancy),
            )
            for row in classes
            if row.clips
        ),
    )  # fmt: skip


CLASS_COLUMNS = (
    "class", "clips", "few_clips", "audio_preferred", "visual_preferred", "tied", "u_audio", "u_visual", "discrepancy",
)  # fmt: skip


def classes_csv(rows: Sequence[ClassSides]) -> str:
    """Every class, in the order given: counts, mean confidences and mean discrepancy, in full precision."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CLASS_COLUMNS)
    for row in rows:
        means = (row.audio_confidence, row.visual_confidence, row.discrepancy)
        numbers = [repr(mean) if row.clips else "" for mean in means]
        writer.writerow([row.name, row.clips, int(is_few(row.clips)), row.audio, row.visual, row.tied, *numbers])
    return buffer.getvalue()
