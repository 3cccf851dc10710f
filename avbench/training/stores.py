"""The confidence stores of a pass: one for each unimodal run."""

from __future__ import annotations

from collections.abc import Sequence

from avbench.confidence.store import ConfidenceStore
from avbench.dataset import Dataset
from avbench.errors import UsageError
from avbench.methods.choice import RunSpec
from avbench.training.held_folder import HeldFolder


def stores_for(
    specs: Sequence[RunSpec], seeds: Sequence[int], *, dataset: Dataset, folder: HeldFolder, buffer_bytes: int
) -> dict[tuple[str, int], ConfidenceStore]:
    """A store for each unimodal run. Raises UsageError where two runs would feed one."""
    feeding: dict[str, str] = {}
    for spec in specs:
        modality = spec.method.confidence_of
        if modality in feeding:
            raise UsageError(
                f"--methods: runs {feeding[modality]!r} and {spec.name!r} would both be the {modality} confidence; "
                f"train one of them into another run folder"
            )
        if modality is not None:
            feeding[modality] = spec.name
    return {
        (spec.name, seed): ConfidenceStore(
            len(dataset),
            modality=spec.method.confidence_of,
            seed=seed,
            history=folder.history,
            buffer_bytes=buffer_bytes,
            key_of=dataset.key,
        )
        for seed in seeds
        for spec in specs
        if spec.method.confidence_of is not None
    }
