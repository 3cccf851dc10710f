"""The paper's own numbers, to stand beside ours: for orientation, not a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = (
    "Xia et al., Balanced Audiovisual Dataset for Imbalance Analysis, CVPR workshop 2023 (arXiv 2302.10912), "
    "tables 1 and 2"
)
WARNING = (
    "The published rows are for orientation, not a target: they are not consistent with one split of the test set. The "
    "share of audio-preferred clips with which overall is the mean of the two subsets differs from row to row."
)


@dataclass(frozen=True, slots=True)
class Published:
    """A row of the paper: accuracies as fractions, overall and on the audio- and visual-preferred clips (T = 0).

    method: ours of the same name.
    """

    dataset: str
    method: str
    overall: float
    audio: float
    visual: float

    @property
    def audio_share(self) -> float:
        """The share of audio-preferred clips with which overall would be the weighted mean of the two subsets."""
        return (self.overall - self.visual) / (self.audio - self.visual)


# In per cent, as printed: overall, audio-preferred, visual-preferred.
_PRINTED: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "Kinetics-Sound": {
        "audio": (51.52, 54.32, 31.23),
        "visual": (47.67, 42.28, 86.43),
        "baseline": (61.73, 60.96, 69.09),
        "ogm-ge": (64.57, 63.20, 74.44),
        "gradient-blending": (66.00, 64.34, 73.82),
        "greedy": (66.35, 64.51, 80.75),
    },
    "VGG-Sound": {
        "audio": (41.25, 45.39, 10.86),
        "visual": (32.44, 28.65, 51.67),
        "baseline": (48.65, 52.38, 27.50),
        "ogm-ge": (50.89, 53.43, 35.63),
        "gradient-blending": (51.47, 53.73, 35.87),
        "greedy": (50.32, 52.68, 37.37),
    },
    "Balanced": {
        "audio": (62.96, 77.76, 44.79),
        "visual": (49.82, 36.79, 67.58),
        "baseline": (70.47, 78.62, 59.37),
        "ogm-ge": (72.27, 78.92, 63.59),
        "gradient-blending": (72.04, 79.49, 61.89),
        "greedy": (72.01, 72.46, 71.41),
    },
}
_NAMES = {"kineticssound": "Kinetics-Sound", "vggsound": "VGG-Sound", "balanced": "Balanced", "balancedav": "Balanced"}


def published_rows(*names: str) -> tuple[Published, ...]:
    """The paper's rows for a dataset that goes by one of these names, case and punctuation aside; () for any other."""
    plain = ("".join(letter for letter in name.lower() if letter.isalnum()) for name in names)
    datasets = [_NAMES[name] for name in plain if name in _NAMES]
    return tuple(
        Published(dataset, method, *(number / 100 for number in numbers))
        for dataset in datasets[:1]
        for method, numbers in _PRINTED[dataset].items()
    )
