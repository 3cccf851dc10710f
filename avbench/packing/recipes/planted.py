"""Planted clips: rendered videos whose true modality discrepancy is known.

Each class has a look and a sound (CLASSES). Each clip has an audio quality and a visual quality in [0, 1], drawn
independently of each other and of the class. A modality's signal is a sum of three parts, each scaled to unit power
before it is weighted:

    x = q s_class + (1 - q) d s_other + n noise                                                         (1)

* s_class is the class's pattern (picture) or sound, with jittered position, scale, phase, drift and colour, or jittered
  pitch, tempo and phase;
* s_other is the pattern or sound of a class drawn uniformly from all classes, whatever the label: something else is
  seen or heard, as when the sounding thing is off screen. d is `distractor`;
* noise is smooth coloured noise with a random tint, or coloured noise with a random spectral slope. n is `audio_noise`
  or `visual_noise`.

The sum is scaled to unit power, then by a loudness or a contrast drawn for the clip, so neither tells the quality.

So quality is an amplitude: the signal-to-noise ratio is 20 log10(q / n) dB, and the class's own signal is
20 log10(q / ((1 - q) d)) dB over the other one. At q = 0 the first part vanishes, and what remains does not depend on
the label: the clip carries no evidence in that modality. Evidence grows smoothly from there.

Qualities follow Beta(c (1 + b), c (1 - b)) for audio and Beta(c (1 - b), c (1 + b)) for pictures, with b the `bias`
and c the `concentration`. Their means are (1 + b) / 2 and (1 - b) / 2, so the bias is the expected planted discrepancy.
At b = 0, c = 1 is the uniform distribution, and a smaller c makes qualities near 0 and near 1 more frequent: most clips
are then good in both modalities, in one, or in none.

Everything about a clip follows from (seed, clip number): each of its random parts has a generator of its own, so files
are the same whatever the number of workers, and a clip's noise is the same whatever its class.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from avbench.errors import RecipeError
from avbench.packing.recipes.base import Found, Source

LABELS_FILE = "labels.csv"


@dataclass(frozen=True)
class Sound:
    """Additive synthesis: partials over a pitch that may sweep, under an envelope of decaying strokes."""

    pitch_hz: float
    partials: tuple[float, ...]  # multiples of the pitch; partial k has amplitude 1 / k**rolloff, counted from 1
    rolloff: float = 1.0
    sweep_octaves: float = 0.0  # the pitch moves up and down by this much
    sweep_hz: float = 0.0
    strokes_per_second: float = 0.0  # 0: sustained
    decay_per_second: float = 0.0


@dataclass(frozen=True)
class Look:
    """A drifting pattern in one colour against its complement. Patterns survive mirroring and zooming in."""

    pattern: Literal["bars", "stripes", "checks", "dots", "rings", "lattice", "waves", "rays"]
    hue_degrees: float


@dataclass(frozen=True)
class PlantedClass:
    """What a class looks and sounds like."""

    name: str
    look: Look
    sound: Sound


CLASSES = (
    PlantedClass(
        "bars-bell",
        Look("bars", 0.0),
        Sound(520.0, (1.0, 2.76, 5.4, 8.93), 0.7, strokes_per_second=2.0, decay_per_second=5.0),
    ),
    PlantedClass("stripes-siren", Look("stripes", 60.0), Sound(800.0, (1, 2, 3), 1.0, sweep_octaves=0.5, sweep_hz=1.0)),
    PlantedClass("checks-buzz", Look("checks", 120.0), Sound(120.0, tuple(range(1, 13)), 0.5)),
    PlantedClass("dots-whistle", Look("dots", 180.0), Sound(2200.0, (1.0, 2.0), 2.0, sweep_octaves=0.06, sweep_hz=6.0)),
    PlantedClass(
        "rings-drum",
        Look("rings", 240.0),
        Sound(90.0, (1.0, 1.6, 2.14, 2.65, 3.5, 4.2), 0.5, strokes_per_second=5.0, decay_per_second=18.0),
    ),
    PlantedClass("lattice-organ", Look("lattice", 300.0), Sound(300.0, (1, 3, 5, 7, 9, 11), 0.8)),
    PlantedClass(
        "waves-chirp",
        Look("waves", 30.0),
        Sound(1700.0, (1.0, 2.0), 1.0, sweep_octaves=0.4, sweep_hz=4.0, strokes_per_second=8.0, decay_per_second=8.0),
    ),
    PlantedClass(
        "rays-rattle",
        Look("rays", 210.0),
        Sound(3600.0, (1.0, 1.13, 1.31, 1.52), 0.2, strokes_per_second=11.0, decay_per_second=40.0),
    ),
)


@dataclass(frozen=True)
class PlantedConfig:
    """Which clips are rendered; the defaults are the demonstration's."""

    classes: int = 5
    """How many classes: the first so many of eight."""
    train: int = 480
    """Clips of the training split."""
    val: int = 100
    """Clips of the validation split."""
    test: int = 500
    """Clips of the test split."""
    seconds: float = 2.0
    """The length of each clip."""
    size: int = 64
    """Width and height in pixels."""
    seed: int = 0
    """Decides every random part of the clips."""
    bias: float = 0.0
    """The discrepancy that is expected, from -1 (all evidence in the pictures) to 1 (all in the sound)."""
    concentration: float = 0.5
    """How alike the qualities are: 1 spreads them evenly (without bias), less makes more of them extreme."""
    distractor: float = 0.4
    """How loud and visible another class is where the own one is not: d of equation (1) in planted.py."""
    audio_noise: float = 0.5
    """Noise in the sound: n of equation (1)."""
    visual_noise: float = 0.35
    """Noise in the pictures: n of equation (1)."""

    def __post_init__(self) -> None:
        """Raises RecipeError for values that cannot be rendered."""
        checks = (
            ("classes", 2 <= self.classes <= len(CLASSES), f"2 to {len(CLASSES)}"),
            ("train", self.train >= 0, "0 or more clips"),
            ("val", self.val >= 0, "0 or more clips"),
            ("test", self.test >= 0, "0 or more clips"),
            ("seconds", 1.0 <= self.seconds <= 600.0, "1 to 600 seconds: a shorter clip would not be packed"),
            ("size", 16 <= self.size <= 1024 and self.size % 2 == 0, "an even number of pixels from 16 to 1024"),
            ("seed", self.seed >= 0, "0 or more"),
            ("bias", -1.0 <= self.bias <= 1.0, "-1 to 1"),
            ("concentration", 0.0 < self.concentration <= 1000.0, "above 0, at most 1000"),
            ("distractor", 0.0 <= self.distractor <= 10.0, "0 to 10"),
            ("audio_noise", 0.0 <= self.audio_noise <= 10.0, "0 to 10"),
            ("visual_noise", 0.0 <= self.visual_noise <= 10.0, "0 to 10"),
        )
        for name, fits, expected in checks:
            if not fits:
                raise RecipeError(f"planted clips: {name} is {getattr(self, name)}; expected {expected}")
        if self.train + self.val + self.test == 0:
            raise RecipeError("planted clips: train, val and test are all 0; ask for at least one clip")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order."""
        return tuple(kind.name for kind in CLASSES[: self.classes])


class PlantedSource(Source):
    """Rendered videos whose true modality discrepancy is known.

    They are rendered into the media folder first. Clips are in the order of their numbers: train, then val, then test.
    """

    kind = "planted"
    Config = PlantedConfig
    media_default = "OUT-media"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The first so many of CLASSES."""
        return self.config.class_names

    def default_media(self, out: Path) -> Path:
        """A folder beside the dataset."""
        return out.with_name(f"{out.name}-media")

    def prepare(self, media: Path, *, workers: int) -> None:
        """Render what is missing, where the splits make sense."""
        from avbench.packing.recipes.rendering import plan, render
        from avbench.packing.splits import check_splits, per_class

        names = self.class_names
        counts = Counter((clip.split, names[clip.label]) for clip in plan(self.config))
        check_splits(per_class(counts, names), names, where=str(media))
        render(self.config, media, workers=workers)

    def clips(self, media: Path) -> Found:
        """The rendered videos, with their true qualities."""
        from avbench.packing.recipes.labels import listed

        return listed(media, LABELS_FILE)

    def stored(self) -> dict[str, Any]:
        """As every version has written it: with the name of the list."""
        return {"labels": LABELS_FILE, "planted": asdict(self.config)}
