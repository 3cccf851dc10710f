"""The settings of a pass. Nothing heavy is imported here, so that `--help` answers at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from avbench.errors import UsageError
from avbench.models.width import WIDTH
from avbench.settings import setting

# Of fewer channels, channels last, the gradient of a strided 1 x 1 convolution in float32 ended the process with a
# segmentation fault or a corrupted heap (torch 2.11 on a CPU with AVX2; 9, 12 and 16 ran).
_LEAST_WIDTH = 8

DEFAULT_BAD_CLIPS_LIMIT = -1
"""In the place of a number of clips: by how many there are, see training/bad_clips.py."""


@dataclass(frozen=True)
class TrainerConfig:
    """How a pass trains; the same for all its runs."""

    epochs: int = setting(100, resumable=True)
    """Passes over the training clips; a run ends earlier by --patience."""
    batch_size: int = 64
    """Clips in a global batch, over all ranks."""
    patience: int = setting(10, resumable=True)
    """Epochs without a better validation accuracy after which a run stops; 0: never."""
    order_seed: int = setting(0, moves_numbers=False)
    """Of the order of clips and their augmentation, shared by all runs."""
    width: int = WIDTH
    """Channels of every ResNet-18's first stage, at least 8. 64 is the published network; fewer make a quick trial on a
    laptop."""
    checkpoint_steps: int = setting(1000, resumable=True, moves_numbers=False)
    """Steps between checkpoints within an epoch; one is always made at each epoch's end."""
    keep_checkpoints: int = setting(2, resumable=True, moves_numbers=False)
    """The newest ones are kept, so many; 0: while training the newest one, at the end none, only the best networks."""
    log_steps: int = setting(20, resumable=True, moves_numbers=False)
    """Steps between records in metrics.jsonl."""
    loader_threads: int = setting(0, resumable=True, moves_numbers=False)
    """Decoding threads of each rank, for sound and pictures together; 0: its share of the cores."""
    prefetch: int = setting(0, resumable=True, moves_numbers=False)
    """Batches that each rank decodes ahead; 0: two. More help where decoding is uneven, and each takes memory."""
    loader_precision: Literal["auto", "float32", "bfloat16"] = setting("auto", resumable=True, moves_numbers=False)
    """What batches are rounded to. auto: on a GPU to bfloat16 where networks compute in it, which changes no number and
    halves the batches' memory; else float32."""
    bad_clips_limit: int = setting(DEFAULT_BAD_CLIPS_LIMIT, resumable=True, moves_numbers=False)
    """Clips that may turn out bad while training; with more of them it saves and stops. -1: 10, or a thousandth of the
    clips where that is more."""
    hang_seconds: float = setting(600.0, resumable=True, moves_numbers=False)
    """Seconds without a step after which a rank says who hangs and where, and exits."""
    exchange_megabytes: int = setting(64, resumable=True, moves_numbers=False)
    """Most that an exchange of confidences between ranks takes of each rank's memory, beside what is kept there."""
    compute_threads: int = setting(1, moves_numbers=False)
    """Torch's threads for each run on a CPU; runs go side by side on the cores there are. Sums of floats hang on it,
    so it is a number of its own, not the machine's."""
    streams: int = setting(1, resumable=True, moves_numbers=False)
    """CUDA streams that the runs of one process are spread over: what one leaves of a GPU another may use. Each keeps
    memory for a whole step of its own."""
    profile: int = setting(0, resumable=True, moves_numbers=False)
    """Steps to trace, the first ones after two; the trace goes to OUT/profile, its three largest costs are said."""

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "checkpoint_steps",
            "log_steps",
            "compute_threads",
            "streams",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected at least 1")
        if self.width < _LEAST_WIDTH:
            raise UsageError(f"width is {self.width}, expected at least {_LEAST_WIDTH}")
        if self.bad_clips_limit < DEFAULT_BAD_CLIPS_LIMIT:
            raise UsageError(
                f"bad-clips-limit is {self.bad_clips_limit}, expected a number of clips, or -1 for the default"
            )
        if self.exchange_megabytes < 1:
            raise UsageError(f"exchange-megabytes is {self.exchange_megabytes}, expected at least 1")
        if not 1.0 <= self.hang_seconds < math.inf:
            raise UsageError(f"hang-seconds is {self.hang_seconds}, expected at least 1")
        for name in ("patience", "keep_checkpoints", "loader_threads", "prefetch", "order_seed", "profile"):
            if not 0 <= getattr(self, name) < 2**63:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected at least 0")
