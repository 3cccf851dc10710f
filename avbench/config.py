"""The configuration of a run: one frozen dataclass, composed of the owners' own, kept as TOML in the run folder."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tomli_w
import tyro

from avbench.arguments import comma_list, named
from avbench.engine import EngineConfig, OptimizerConfig
from avbench.errors import UsageError, unknown
from avbench.loading.features import PRESETS
from avbench.records import write_text
from avbench.training.trainer import TrainerConfig


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what `avbench train` does; `config.toml` holds it and reproduces the run."""

    dataset: Annotated[tyro.conf.Positional[Path], named("DATASET")]
    """A packed dataset."""
    out: Path
    """The run folder to make."""
    methods: Annotated[tuple[str, ...], comma_list(str, "METHOD,NAME=METHOD:OPTION=VALUE,...")] = (
        "audio",
        "visual",
        "baseline",
    )
    """Runs to train, all on the same batches; the methods are listed below."""
    seeds: Annotated[tuple[int, ...], comma_list(int, "0,1,2")] = (0,)
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
        """Write as TOML, complete, atomically; folders as absolute paths, so that it can be used from anywhere."""
        here = dataclasses.replace(self, dataset=self.dataset.resolve(), out=self.out.resolve())
        write_text(path, tomli_w.dumps(_plain(dataclasses.asdict(here))))


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


# What a resumed run may change, and where its files lie; anything else would make it another run.
_CHANGEABLE = {"dataset", "out", "engine.engine", "engine.deepspeed_config"} | {
    f"training.{name}"
    for name in (
        "epochs",
        "patience",
        "log_steps",
        "keep_checkpoints",
        "checkpoint_steps",
        "loader_threads",
        "prefetch",
        "loader_precision",
        "streams",
        "hang_seconds",
        "exchange_megabytes",
        "profile",
    )
}


def load_config(path: Path, **overrides: Any) -> TrainConfig:
    """A configuration from TOML; required fields that it lacks are left to the command line.

    Raises UsageError for a missing file, an unknown field or a value of another kind.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not readable as TOML ({error})") from None
    return _build(TrainConfig, {**values, **overrides}, str(path))


def check_resumed(saved: TrainConfig, wanted: TrainConfig) -> None:
    """Raises UsageError naming what a resumed run would change and may not."""
    before, after = (_flat(_plain(dataclasses.asdict(config))) for config in (saved, wanted))
    for name, value in after.items():
        if name not in _CHANGEABLE and value != before[name]:
            raise UsageError(
                f"--resume cannot change {name.rpartition('.')[2].replace('_', '-')} from {before[name]!r} "
                f"to {value!r}; leave it out, or start another run with another --out"
            )


def _build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    types = get_type_hints(kind)
    for name in values:
        if name not in types:
            raise UsageError(f"{where}: {unknown('field', name, types)}")
    required = {item.name: tyro.MISSING for item in dataclasses.fields(kind) if _is_required(item)}
    given = {name: _convert(value, types[name], f"{where}: {name}") for name, value in values.items()}
    return kind(**{**required, **given})


def _convert(value: Any, kind: Any, where: str) -> Any:
    """A value as TOML has it, as the field has it. Raises UsageError where it is none of the field's kind."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} is {value!r}, expected a table")
        return _build(kind, value, where)
    if get_origin(kind) is tuple:
        item_kind = get_args(kind)[0]
        if not isinstance(value, list):
            raise UsageError(f"{where} is {value!r}, expected a list")
        return tuple(_convert(item, item_kind, where) for item in value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{where}: {unknown('value', str(value), map(str, get_args(kind)))}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    expected = str if kind is Path else kind
    if type(value) is not expected:
        raise UsageError(f"{where} is {value!r}, expected {expected.__name__}")
    return Path(value) if kind is Path else value


def _is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat
