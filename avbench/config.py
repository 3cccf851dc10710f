"""The configuration of a run: one frozen dataclass, composed of the owners' own, kept as TOML in the run folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import tyro

from avbench.arguments import comma_list, named
from avbench.engine.config import EngineConfig, OptimizerConfig
from avbench.errors import UsageError, unknown
from avbench.loading.presets import PRESETS
from avbench.run_folder import RunFolder
from avbench.settings import build, deciding, flat, moved, plain, read_toml, resumable, setting
from avbench.training.config import TrainerConfig
from avbench.vocabulary import MODALITIES


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what `avbench train` does; `config.toml` holds it and reproduces the run."""

    dataset: Annotated[tyro.conf.Positional[Path], named("DATASET")] = setting(resumable=True, moves_numbers=False)
    """A packed dataset."""
    out: Path = setting(resumable=True, moves_numbers=False)
    """The run folder to make."""
    methods: Annotated[tuple[str, ...], comma_list(str, "METHOD,NAME=METHOD:OPTION=VALUE,...")] = setting(
        (*MODALITIES, "baseline"), moves_numbers=False
    )
    """Runs to train, all on the same batches; the methods are listed below."""
    seeds: Annotated[tuple[int, ...], comma_list(int, "0,1,2")] = setting((0,), moves_numbers=False)
    """Each run is trained once a seed."""
    preset: Annotated[str, tyro.conf.arg(metavar="|".join(PRESETS))] = "paper"
    """How clips become spectrograms and images."""
    classes: Annotated[tuple[str, ...], named("NAME", default="all")] = ()
    """Use clips of these classes only, for a cheap trial: --classes NAME NAME ..."""
    fraction: float = 1.0
    """Use this share of the training clips, for a cheap trial; validation and test stay whole."""
    training: tyro.conf.OmitArgPrefixes[TrainerConfig] = field(default_factory=TrainerConfig)
    optimizer: tyro.conf.OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)
    engine: tyro.conf.OmitArgPrefixes[EngineConfig] = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(unknown("preset", self.preset, PRESETS))
        if (
            not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or not 0 <= min(self.seeds) <= max(self.seeds) < 2**63
        ):
            raise UsageError(f"seeds are {list(self.seeds)}, expected different whole numbers from 0 to 2^63 - 1")
        if not 0.0 < self.fraction <= 1.0:
            raise UsageError(f"fraction is {self.fraction}, expected a share of the training clips in (0, 1]")

    def save(self, path: Path) -> None:
        """Write as TOML, complete, atomically; folders as absolute paths, so that it can be used from anywhere.

        Beside it goes settings.json, the settings that move numbers, for readers that know no settings class.
        """
        from avbench.records import write_json, write_text  # pyarrow, for which help is not to wait

        here = dataclasses.replace(self, dataset=self.dataset.resolve(), out=self.out.resolve())
        write_text(path, tomli_w.dumps(plain(dataclasses.asdict(here))))  # first: it makes the folder a run folder
        write_json(RunFolder(path.parent).settings, deciding(here))


@dataclass(frozen=True)
class TrainArgs:
    """Train every method in one pass over the data; alone, or under torchrun, on every GPU or core."""

    run: Annotated[tyro.conf.OmitArgPrefixes[TrainConfig], tyro.conf.arg(name="")]
    config: Annotated[Path | None, named("FILE.toml")] = None
    """Take what is not given here from this TOML file (any run folder's config.toml)."""
    resume: bool = False
    """Go on with the run in OUT from its last checkpoint."""
    auto_resume: bool = False
    """Go on with the run in OUT if there is one, else start it: for jobs that are requeued or restarted."""
    overwrite: bool = False
    """Replace the run in OUT."""
    tune: bool = False
    """Measure the loader here first, for some seconds, and choose --loader-threads and --prefetch by it where they are
    not given; the choice is kept in OUT's config.toml."""


def load_config(path: Path, **overrides: Any) -> TrainConfig:
    """A configuration from TOML; required fields that it lacks are left to the command line.

    Raises UsageError for a missing file, an unknown field or a value of another kind.
    """
    values = moved(read_toml(path, "configuration file"))
    config: TrainConfig = build(TrainConfig, {**values, **overrides}, str(path), missing=tyro.MISSING)
    return config


def check_resumed(saved: TrainConfig, wanted: TrainConfig) -> None:
    """Raises UsageError naming what a resumed run would change and may not."""
    before, changeable = flat(saved), resumable(wanted)
    for name, value in flat(wanted).items():
        if name not in changeable and value != before[name]:
            raise UsageError(
                f"--resume cannot change {name.rpartition('.')[2].replace('_', '-')} from {before[name]!r} "
                f"to {value!r}; leave it out, or start another run with another --out"
            )
