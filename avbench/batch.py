"""The records that layers pass to each other: Batch, Outputs, Clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's slice of a global batch.

    audio: float [B, 1, F, T] log-spectrograms ([B, 1, T, F] of a filter bank), or None when nobody reads audio.
    frames: float [B, K, 3, H, W] normalized images, or None when nobody reads pictures. `frames.flatten(0, 1)` is a
        view in channels-last memory format.
    label: int64 [B]. clip_id: int64 [B], rows of the dataset's index.
    valid: bool [B], always on the CPU; False for a clip whose bytes turned out bad: it holds a stock silent clip and
        counts nowhere.
    position: the batch's number within its epoch's global order.
    global_valid: number of valid clips of the global batch over all ranks, a 0-d tensor; None until the trainer has
        counted it.
    rows: `clip_id` on the CPU, so that to ask which clips these are does not wait for a GPU; made of it where it is
        not given.
    """

    audio: Tensor | None
    frames: Tensor | None
    label: Tensor
    clip_id: Tensor
    valid: Tensor
    position: int = 0
    global_valid: Tensor | None = None
    rows: Tensor = None  # type: ignore[assignment]  # never None once made

    def __post_init__(self) -> None:
        if self.rows is None:
            object.__setattr__(self, "rows", self.clip_id.cpu())

    def __len__(self) -> int:
        return len(self.label)

    def select(self, rows: Tensor | slice) -> Batch:
        """The batch with only these rows (a slice, or on the CPU a bool mask [B] or int64 indices); `global_valid` is
        kept.
        """
        if isinstance(rows, Tensor) and rows.dtype == torch.bool:
            rows = rows.nonzero().squeeze(1)
        there = rows
        if isinstance(rows, Tensor) and self.label.is_cuda:
            there = rows.pin_memory().to(self.label.device, non_blocking=True)  # or the processor waits for the GPU
        return replace(
            self,
            audio=None if self.audio is None else self.audio[there],
            frames=None if self.frames is None else self.frames[there],
            label=self.label[there],
            clip_id=self.clip_id[there],
            valid=self.valid[rows],
            rows=self.rows[rows],
        )


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model says of a batch, in float32 (float64 in a float64 run) before any softmax or loss.

    logits: [B, classes]. unimodal_logits: per modality [B, classes], where the network has such parts.
    extras: whatever else a method needs from the forward pass, [B, ...] each.
    """

    logits: Tensor
    unimodal_logits: dict[str, Tensor] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def joined(parts: Sequence[Outputs]) -> Outputs:
        """The outputs for a batch from those for its parts, clip by clip in their order, without their graphs."""

        def join(tensors: Iterable[Tensor]) -> Tensor:
            return torch.cat([tensor.detach() for tensor in tensors])

        return Outputs(
            logits=join(part.logits for part in parts),
            unimodal_logits={
                name: join(part.unimodal_logits[name] for part in parts) for name in parts[0].unimodal_logits
            },
            extras={name: join(part.extras[name] for part in parts) for name in parts[0].extras},
        )


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a run is: epoch and step count from 0; step counts optimizer steps since the start of the run."""

    epoch: int
    step: int
    epochs: int


def true_label_confidence(probabilities: Tensor, label: Tensor) -> Tensor:
    """Probability of the true label, [B] float32, from probabilities [B, classes] and label int64 [B]."""
    return probabilities.gather(1, label[:, None]).squeeze(1).to(torch.float32)
