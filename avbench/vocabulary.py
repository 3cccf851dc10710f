"""The names that everything else is keyed by: modalities and splits, in the order in which they are always listed.

This module imports nothing heavy, so that reports and `--help` can use it without torch.
"""

from typing import Literal

Modality = Literal["audio", "visual"]
MODALITIES: tuple[Modality, ...] = ("audio", "visual")

# A dataset's index keeps a clip's split as its number in this tuple.
SPLITS = ("train", "val", "test")

# What a prediction was made from: "none" of the modalities was replaced by its mean features, or one of them was.
REPLACED = ("none", *MODALITIES)
