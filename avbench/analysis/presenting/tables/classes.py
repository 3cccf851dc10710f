"""Every class: its clips by preferred modality, and mean confidences."""

from __future__ import annotations

from collections.abc import Sequence

from avbench.analysis.measures.classes import ClassSides
from avbench.analysis.presenting.sheet import Cell, Sheet
from avbench.analysis.presenting.table import File, Record, Table
from avbench.analysis.presenting.tables.cells import signed, with_mark

CLASSES_FILE = "per_class.csv"


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


def class_record(row: ClassSides) -> Record:
    """A row of per_class.csv: counts and means of a class; no means where it has no clips."""
    means = {"u_audio": row.audio_confidence, "u_visual": row.visual_confidence, "discrepancy": row.discrepancy}
    return {
        "class": row.name,
        "clips": row.clips,
        "audio_preferred": row.audio,
        "visual_preferred": row.visual,
        "tied": row.tied,
        **{name: mean if row.clips else None for name, mean in means.items()},
    }


CLASSES = Table(
    "classes",
    sheets=lambda evaluation, results: [classes_sheet(evaluation.classes)],
    files=(
        File(
            CLASSES_FILE,
            "the clips of each class by preferred modality, mean audio and visual confidence, mean discrepancy",
            lambda evaluation, results: [class_record(row) for row in evaluation.classes],
        ),
    ),
    apart=True,
)
