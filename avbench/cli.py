"""The commands: parse, call, print. The only place that exits the process.

A user's mistake ends in one line and exit status 2. Every command's module is imported when it is called, so that
`--help` answers at once.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

# Threads that spin while they wait for each other are slower than one where cores are shared. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if os.environ.get("NO_COLOR"):  # https://no-color.org; rich heeds it by itself, tyro has a word of its own
    os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")

import tyro
from rich.console import Console

from avbench import installed_version
from avbench.arguments import comma_list, explain, named
from avbench.errors import (
    DIVERGED_STATUS,
    INTERRUPTED_STATUS,
    AllDiverged,
    AvbenchError,
    Interrupted,
    RankLost,
    UsageError,
    unknown,
)
from avbench.help import examples_text, methods_text
from avbench.streams import forgiving_streams

if TYPE_CHECKING:
    import numpy as np
    import torch

    from avbench.config import TrainArgs, TrainConfig
    from avbench.dataset import Dataset
    from avbench.methods import RunSpec
    from avbench.training.folder import RunFolder

T = TypeVar("T")

# A full or read-only disk, a folder that belongs to somebody else.
_NEARLY_FULL = 1 << 20  # bytes left
_NOT_OURS_TO_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class PackArgs:
    """Cut labelled videos into a dataset of tar shards. Started again after an interruption, it goes on."""

    recipe: Annotated[tyro.conf.Positional[str], named("RECIPE")]
    """A recipe by name (folder, planted) or a TOML file of your own."""
    out: Path
    """The dataset folder to make."""
    media: Annotated[Path | None, named("VIDEOS", default="OUT-media for planted, else required")] = None
    """The folder that holds the videos. Planted clips are rendered into it."""
    workers: Annotated[int, named("INT", default="one a core")] = 0
    """Processes that decode and write at once."""
    overwrite: bool = False
    """Replace a finished dataset."""
    json: bool = False
    """Say the result as one JSON object on stdout; progress goes to stderr as ever."""


@dataclass(frozen=True)
class VerifyArgs:
    """Prove that a packed dataset is whole: sizes, checksums, counts, and that every clip decodes."""

    dataset: Annotated[tyro.conf.Positional[Path], named("DATASET")]
    """A packed dataset."""
    quarantine: bool = False
    """Set bad clips aside, so that training leaves them out."""
    workers: Annotated[int, named("INT", default="one a core")] = 0
    """Processes that decode and write at once."""
    json: bool = False
    """Answer as one JSON object on stdout; the exit status is the same."""


@dataclass(frozen=True)
class EvaluateArgs:
    """Tables, figures and an HTML page from what training left behind, or from predictions of your own."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], named("RUN", default="none")] = ()
    """Run folders of one dataset; the report goes into the first."""
    predictions: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Predictions of your own, Parquet or CSV: key and prediction, or class probabilities. May be given again."""
    confidence: Annotated[Path | None, named("FILE", default="the run folders'")] = None
    """Confidences that cut the subsets, Parquet or CSV: key, label, audio, visual."""
    split: str = "test"
    """The split that is cut into subsets."""
    thresholds: Annotated[tuple[float, ...], comma_list(float, "0,0.2,0.4")] = (0.0, 0.2, 0.4)
    """Discrepancies beyond which a clip is dominated by a modality."""
    confidence_epochs: str = "all"
    """Epochs to average confidence over: all, FIRST:LAST (both included), or best."""
    resamples: int = 1000
    """Bootstrap resamples behind the intervals of class means."""
    out: Annotated[Path | None, named("REPORT", default="RUN/report, or FILE-report beside the predictions")] = None
    """The report folder."""
    memory_gb: float = 2.0
    """Memory to aim at, in GB; class probabilities that do not fit go to TMPDIR for a while. Changes no number."""
    json: bool = False
    """Print every number as JSON instead of tables."""


@dataclass(frozen=True)
class SubsetsArgs:
    """The keys of the clips of every subset, as a file."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], named("RUN")]
    """Run folders of one dataset."""
    export: Path
    """The file to write, .csv or .parquet, or a folder for subsets.csv."""
    split: str = "test"
    """The split that is cut into subsets."""
    thresholds: Annotated[tuple[float, ...], comma_list(float, "0,0.2,0.4")] = (0.0, 0.2, 0.4)
    """Discrepancies beyond which a clip is dominated by a modality."""
    confidence_epochs: str = "all"
    """Epochs to average confidence over: all, FIRST:LAST (both included), or best."""
    overwrite: bool = False
    """Replace a file of subsets that is there; no other."""
    json: bool = False
    """Print the counts as JSON."""


@dataclass(frozen=True)
class DemoArgs:
    """Planted clips, pack, train, evaluate: the whole job in minutes on a CPU."""

    out: Path = Path("demo")
    """A folder for everything; must not exist."""
    overwrite: bool = False
    """Replace an earlier demo."""


@dataclass(frozen=True)
class DoctorArgs:
    """What this machine has, and what will run where."""

    path: Path = Path()
    """The folder whose free disk counts."""
    json: bool = False
    """Answer as one JSON object on stdout."""


@dataclass(frozen=True)
class BenchArgs:
    """Throughput of every stage, as tables; peers beside it where they are installed."""

    dataset: Annotated[tyro.conf.Positional[Path | None], named("DATASET", default="made-up clips")] = None
    """A packed dataset, of ten-second clips at best; made-up clips are rendered and packed first."""
    media: Annotated[Path | None, named("VIDEOS")] = None
    """The videos that it was packed from, for what reads videos."""
    preset: str = "paper"
    """What a clip is turned into."""
    json: Annotated[Path | None, named("FILE")] = None
    """Write everything measured, and the machine, to this file."""
    quick: bool = False
    """Run everything on a few clips: whether it works, not how fast it is."""
    peers: Annotated[tuple[str, ...], comma_list(str, "DALI,SPDL")] = ()
    """Of `bench loader`: which to compare with (default: all that are installed)."""
    clips: int = 0
    """Of `bench loader`: clips an epoch beside peers (default: 480)."""
    rounds: int = 0
    """Of `bench loader`: how often everything is measured in turn (default: 5)."""


@dataclass(frozen=True)
class BenchPlanArgs:
    """Which stage would bind on a bigger machine, how fast it would be, and what to change."""

    gpus: int = 1
    """All of them; 0 plans for training on CPUs."""
    cores_per_gpu: int = 12
    """Cores that each GPU's process has, one of them for training; with --gpus 0 all cores."""
    storage: str = "2GB/s"
    """What storage gives all GPUs together."""
    methods: str = "7"
    """So many of avbench's methods, or names: audio,visual,ogm-ge."""
    codec: Annotated[str, named("CODEC", default="the one that was measured")] = ""
    """The shards' audio codec."""
    step_ms: float = 0.0
    """A clip's training step on one GPU, all methods together, where --from has no GPU's steps."""
    clips: int = 200_000
    """Clips an epoch; VGG-Sound's by default."""
    costs: Annotated[
        Path | None,
        tyro.conf.arg(
            name="from", metavar="FILE", help_behavior_hint="(default: measured here first, on made-up clips)"
        ),
    ] = None
    """Stage costs: the JSON of `avbench bench loader`."""
    preset: str = "paper"
    """What is measured where --from is not given."""
    json: Annotated[Path | None, named("FILE")] = None
    """Write the plan to this file too."""


def _pack(argv: Sequence[str]) -> None:
    from avbench.packing.pack import pack
    from avbench.packing.recipes import load_recipe
    from avbench.packing.summary import as_json, lines

    _check_not_empty(argv, "--out", "--media")
    if any(word in ("-h", "--help") for word in argv):
        _pack_help(argv)
    args, rest = _parse_known(PackArgs, argv, "avbench pack")
    with json_errors(asked=args.json):
        recipe = load_recipe(args.recipe, _overrides(rest))
        media = args.media or _default_media(recipe.kind, args.out)
        dataset = pack(recipe, media, out=args.out, workers=args.workers or _cores(), overwrite=args.overwrite)
    if args.json:
        print_json(as_json(dataset))
        return
    for line in lines(dataset):
        _console().print(line, soft_wrap=True, markup=False)


def _verify(argv: Sequence[str]) -> None:
    from avbench.packing.verify import as_json, verify
    from avbench.quarantine import Quarantine, read_quarantine

    args = _parse(VerifyArgs, argv, "avbench verify")
    with json_errors(asked=args.json):
        problems = verify(args.dataset, workers=args.workers or _cores(), quarantine=args.quarantine)
    is_blocked = any(problem.blocks_training for problem in problems)
    aside = read_quarantine(args.dataset) if args.quarantine and not is_blocked else Quarantine()
    if args.json:
        print_json(as_json(args.dataset, problems, set_aside=len(aside.clips)))
    else:
        for problem in problems:
            _console().print(str(problem), soft_wrap=True, markup=False)
    if not problems:
        done = "whole"
    else:
        count = _number(problems, "problem")
        if is_blocked:
            raise UsageError(
                f"{args.dataset}: {count}, listed above; the index or the description is damaged, which no quarantine "
                f"mends; restore it or pack the dataset again"
            )
        if not args.quarantine:
            raise UsageError(f"{args.dataset}: {count}, listed above; --quarantine sets clips aside that are not whole")
        if not aside.clips and not aside.shards:
            raise UsageError(
                f"{args.dataset}: {count}, none of a clip, so nothing was set aside; pack the dataset again"
            )
        shards = f", of damaged shards: {len(aside.shards)}" if aside.shards else ""
        done = f"{count}; set aside: {_number(aside.clips, 'clip')}{shards}"
    if not args.json:
        _console().print(f"{args.dataset}: {done}", soft_wrap=True, markup=False)


def _number(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _train(argv: Sequence[str]) -> None:
    from avbench.config import TrainArgs, check_resumed, load_config

    saved = _saved_config(argv, load_config)
    default = TrainArgs(saved) if saved else tyro.MISSING_NONPROP
    args = _parse(TrainArgs, argv, "avbench train", default=default, more_help=methods_text)
    if args.auto_resume and (args.resume or args.overwrite):
        raise UsageError(f"--auto-resume and --{'resume' if args.resume else 'overwrite'} exclude each other")
    if args.resume and saved:
        check_resumed(saved, args.run)
    _run_training(args)


def _run_training(args: TrainArgs) -> None:
    from avbench.distributed import on_main, process_group, world_from_environment
    from avbench.engine import pick_precision
    from avbench.loading.features import preset
    from avbench.loading.gpu import check_driver, why_unused
    from avbench.methods import parse_methods
    from avbench.training.closing import all_diverged
    from avbench.training.folder import RunFolder
    from avbench.training.trainer import is_finished, select_clips, train

    config = args.run
    specs = parse_methods(config.methods)
    device = _device()
    if device.type == "cuda":
        check_driver()
    elif world_from_environment().is_main and (why := why_unused()):
        print(f"avbench: {why}", file=sys.stderr)
    # What "auto" means is decided once: a run resumed on another machine computes as it began.
    precision = pick_precision(config.training.precision, device)
    config = replace(config, training=replace(config.training, precision=precision))
    folder = RunFolder(config.out)
    # The watchdog, which knows who hangs, is to speak before the process group, which knows not.
    with process_group(device=device, timeout_seconds=max(1800.0, 2 * config.training.hang_seconds)) as world:
        resume = args.resume
        if args.auto_resume:
            if text := on_main(str(config.out), lambda: all_diverged(folder)):
                raise AllDiverged(text)
            # Rank 0 looks, for all: a moment later its own config.toml is there.
            resume = on_main(str(config.out), lambda: _is_begun(folder, config))
            if resume and on_main(str(config.out), lambda: is_finished(folder, epochs=config.training.epochs)):
                if world.is_main:
                    _console().print(f"{config.out}: finished already", soft_wrap=True, markup=False)
                return
        dataset = _opened(config.dataset, resume=folder if resume else None)
        clip_ids = select_clips(dataset, classes=config.classes, fraction=config.fraction)
        if args.tune:
            config = _tuned(config, dataset, clip_ids, specs, device=device, resume=resume, overwrite=args.overwrite)
        said = train(
            dataset,
            clip_ids=clip_ids,
            specs=specs,
            seeds=config.seeds,
            preset=preset(config.preset),
            config=config.training,
            optimizer=config.optimizer,
            engine=config.engine,
            folder=folder,
            device=device,
            save_config=config.save,
            resume=resume,
            overwrite=args.overwrite,
        )
        if world.is_main:
            print(said, flush=True)


def _opened(path: Path, *, resume: RunFolder | None) -> Dataset:
    """The dataset of a training that starts, its index and description checked by rank 0 for all. A collective.

    resume: the folder of the run that is gone on with. Raises RunError, on every rank, where the run was begun with
    another dataset; RunError or DatasetError where the dataset is missing or not as it was packed.
    """
    from avbench.dataset import Dataset
    from avbench.distributed import current_world, on_main, together
    from avbench.integrity import check_contents, leftovers

    def opened() -> Dataset:
        if resume is not None and not path.exists():
            raise UsageError(
                f"{path}: no such dataset folder; if it was moved, name its new place: "
                f"`avbench train NEW-PLACE --out {resume.path} --resume`"
            )
        return Dataset(path)

    dataset = together(str(path), opened)
    if resume is not None:
        on_main(str(resume.path), lambda: resume.check_dataset(dataset))
    on_main(str(path), lambda: check_contents(dataset))
    for text in on_main(str(path), lambda: leftovers(dataset)):
        if current_world().is_main:
            print(f"avbench: {dataset.path}: {text}", file=sys.stderr)
    return dataset


def _tuned(
    config: TrainConfig,
    dataset: Dataset,
    clip_ids: dict[str, np.ndarray],
    specs: Sequence[RunSpec],
    *,
    device: torch.device,
    resume: bool,
    overwrite: bool,
) -> TrainConfig:
    """The configuration with what was measured, once nothing about the run folder can refuse it. A collective."""
    import torch

    from avbench.batch import MODALITIES
    from avbench.config import load_config
    from avbench.distributed import current_world, on_main
    from avbench.loading.features import preset
    from avbench.training.folder import RunFolder
    from avbench.training.trainer import check_clips
    from avbench.training.tuning import tuned

    folder, training = RunFolder(config.out), config.training
    if resume:
        saved = load_config(folder.config).training
        training = replace(
            training,
            loader_threads=training.loader_threads or saved.loader_threads,
            prefetch=training.prefetch or saved.prefetch,
        )
    on_main(str(config.out), folder.check_resumable if resume else partial(folder.check_new, overwrite=overwrite))
    check_clips(dataset, clip_ids)
    training, text = tuned(
        training,
        dataset,
        clip_ids["train"],
        preset=preset(config.preset),
        modalities=[name for name in MODALITIES if any(name in spec.method.modalities for spec in specs)],
        computed_in=getattr(torch, training.precision),
        device=device,
    )
    if current_world().is_main:
        _console().print(text, soft_wrap=True, markup=False)
    return replace(config, training=training)


def _is_begun(folder: RunFolder, config: TrainConfig) -> bool:
    """Whether there is a run to go on with; UsageError where it is another than the one that is asked for."""
    from avbench.config import check_resumed, load_config

    if not folder.config.exists():
        return False
    check_resumed(load_config(folder.config), config)
    return True


def _evaluate(argv: Sequence[str]) -> None:
    from avbench.analysis.answer import evaluation_as_json
    from avbench.analysis.report import evaluate
    from avbench.analysis.tables import terminal_table

    with json_errors(asked="--json" in argv):
        _check_not_empty(argv, "--out", "--confidence", "--predictions")
        args = _parse(EvaluateArgs, argv, "avbench evaluate")
        evaluation = evaluate(
            args.runs,
            split=args.split,
            thresholds=args.thresholds,
            confidence_epochs=args.confidence_epochs,
            resamples=args.resamples,
            predictions=args.predictions,
            confidence=args.confidence,
            out=args.out,
            memory_gb=args.memory_gb,
        )
    if args.json:
        print_json(evaluation_as_json(evaluation))
        return
    _console().print(terminal_table(evaluation))
    _console().print(evaluation.answer)
    for warning in evaluation.warnings:
        _console().print(warning)
    if evaluation.spearman is not None:
        _console().print(f"rank correlation of estimated and planted discrepancy (Spearman): {evaluation.spearman:.2f}")
    _console().print(f"report: {evaluation.page}", soft_wrap=True)


def _subsets(argv: Sequence[str]) -> None:
    from avbench.analysis.answer import subsets_as_json
    from avbench.analysis.export import counts_text, export_subsets

    with json_errors(asked="--json" in argv):
        _check_not_empty(argv, "--export")
        args = _parse(SubsetsArgs, argv, "avbench subsets")
        file, counts = export_subsets(
            args.runs,
            args.export,
            split=args.split,
            thresholds=args.thresholds,
            confidence_epochs=args.confidence_epochs,
            overwrite=args.overwrite,
        )
    if args.json:
        print_json(subsets_as_json(file, args.split, counts))
        return
    _console().print(counts_text(counts), soft_wrap=True)
    _console().print(f"{file}: written", soft_wrap=True, markup=False)


def _demo(argv: Sequence[str]) -> None:
    from avbench.demo import run_demo

    args = _parse(DemoArgs, argv, "avbench demo")
    run_demo(args.out, command=_dispatch, overwrite=args.overwrite)


def _doctor(argv: Sequence[str]) -> None:
    from avbench.doctor import examine

    args = _parse(DoctorArgs, argv, "avbench doctor")
    sections = examine(args.path)
    if args.json:
        print_json({section.name: dict(section.rows) for section in sections})
        return
    for section in sections:
        _console().print(section.table())


def _bench(argv: Sequence[str]) -> None:
    from avbench.bench.command import PLAN, TARGETS, measure, plan_machines
    from avbench.bench.scripts import LoaderSizes, ScriptStopped

    targets = {**TARGETS, PLAN: "which stage would bind on a bigger machine, and what to change"}
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: avbench bench TARGET ...        (avbench bench TARGET --help says more)\n")
        for name, text in targets.items():
            print(f"  {name:<10}{text}")
        print(f"\n{examples_text('avbench bench')}")
        return
    target, rest = argv[0], argv[1:]
    if target not in targets:
        raise UsageError(unknown("target of bench", target, targets))
    try:
        if target == PLAN:
            plan = _parse(BenchPlanArgs, rest, "avbench bench plan")
            plan_machines(
                gpus=plan.gpus,
                cores=plan.cores_per_gpu,
                storage=plan.storage,
                methods=plan.methods,
                codec=plan.codec,
                step_ms=plan.step_ms,
                clips=plan.clips,
                costs_file=plan.costs,
                preset_name=plan.preset,
                json_file=plan.json,
            )
            return
        args = _parse(BenchArgs, rest, f"avbench bench {target}")
        measure(
            target,
            args.dataset,
            media=args.media,
            preset_name=args.preset,
            json_file=args.json,
            quick=args.quick,
            sizes=LoaderSizes(args.peers, args.clips, args.rounds),
        )
    except ScriptStopped as stopped:
        sys.exit(stopped.status)  # it has said why


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "demo": (_demo, "everything below on planted clips, in minutes, on a CPU"),
    "pack": (_pack, "labelled videos -> a dataset of tar shards"),
    "verify": (_verify, "prove that a dataset is whole"),
    "train": (_train, "every method in one pass; also under torchrun"),
    "evaluate": (_evaluate, "tables, figures and an HTML page of runs, or of predictions of your own"),
    "subsets": (_subsets, "the keys of each subset's clips, as a file"),
    "bench": (_bench, "how fast every stage is here, and what a bigger machine would do"),
    "doctor": (_doctor, "what this machine has, and what will run where"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """The console script: runs a command and exits with 0, or with 2 and one line after a user's mistake."""
    words = sys.argv[1:] if argv is None else argv
    with forgiving_streams():
        _exit_as_it_ends(words)


def _exit_as_it_ends(words: Sequence[str]) -> None:
    try:
        _dispatch(words)
    except AvbenchError as error:
        print(f"avbench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _NOT_OURS_TO_MEND:
            raise
        place = error.filename or _written_to(words, is_full=error.errno == errno.ENOSPC)
        text = os.strerror(error.errno)  # libraries put their own words around it
        print(f"avbench: {place}: {text}; make room or give the right to write, then go on", file=sys.stderr)
        sys.exit(2)
    except Interrupted as interrupted:
        if _is_first_rank():
            print(f"avbench: {interrupted}", file=sys.stderr)
        sys.exit(INTERRUPTED_STATUS)
    except AllDiverged as diverged:
        if _is_first_rank():
            print(f"avbench: {diverged}", file=sys.stderr)
        sys.exit(int(os.environ.get("AVBENCH_DIVERGED_STATUS", DIVERGED_STATUS)))
    except RankLost as lost:
        print(f"avbench: {lost}", file=sys.stderr, flush=True)
        # Threads may be waiting for the rank that is gone, and so would the interpreter.
        os._exit(1)
    except KeyboardInterrupt:
        print("avbench: interrupted", file=sys.stderr)
        sys.exit(130)


def _is_first_rank() -> bool:
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def _dispatch(argv: Sequence[str]) -> None:
    for word in argv:
        # How Python passes bytes that are no UTF-8; they could go into no file that avbench writes.
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            raise UsageError(f"{word!a}: is not UTF-8; rename the file")
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: avbench COMMAND ...        (avbench COMMAND --help says more)\n")
        for name, (_, text) in COMMANDS.items():
            print(f"  {name:<10}{text}")
        print(f"\navbench --version says which one this is.\n\n{examples_text('avbench')}")
        return
    if argv[0] == "--version":
        print(f"avbench {installed_version() or '(not installed, so without a version)'}")
        return
    if argv[0] not in COMMANDS:
        raise UsageError(unknown("command", argv[0], COMMANDS))
    COMMANDS[argv[0]][0](argv[1:])


def _parse(
    kind: type[T],
    argv: Sequence[str],
    program: str,
    *,
    default: Any = tyro.MISSING_NONPROP,
    more_help: Callable[[], str] = str,
) -> T:
    """tyro's result; its boxed complaint becomes one line. more_help: what help says between options and examples."""
    explain(kind)
    with _one_line(program, more_help):
        return tyro.cli(kind, prog=program, args=list(argv), default=default)


def _parse_known(kind: type[T], argv: Sequence[str], program: str) -> tuple[T, list[str]]:
    """The same, and the words that are none of its options."""
    explain(kind)
    with _one_line(program):
        return tyro.cli(kind, prog=program, args=list(argv), return_unknown_args=True)


@contextmanager
def _one_line(program: str, more_help: Callable[[], str] = str) -> Iterator[None]:
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            yield
    except SystemExit as stop:
        if stop.code not in (0, None):
            text = _unboxed(complaint.getvalue())
            raise UsageError(f"{text}; `{program} --help` lists the options") from None
        for text in filter(None, (more_help(), examples_text(program))):
            print(f"\n{text}")
        raise


def _unboxed(box: str) -> str:
    lines = []
    rows = box.splitlines()
    # The title, which the text repeats, is in the frame; without UTF-8 there is none, and it stands above a rule.
    for line in rows[1:] if box.startswith("╭") else rows[2:]:
        text = line.strip("│╰╯ \t")
        if text.startswith(("Argument helptext", "For full helptext", "run ")):
            break
        if text.strip("─-"):
            lines.append(text)
    return " ".join(lines)


def _saved_config(argv: Sequence[str], load: Callable[..., TrainConfig]) -> TrainConfig | None:
    """What the flags override: the run's own configuration when it is resumed, else the file of --config."""
    out, file = (_value_of(argv, flag) for flag in ("--out", "--config"))
    if "--resume" not in argv:
        return load(Path(file)) if file is not None else None
    if file is not None:
        raise UsageError("--resume goes on with the run's own configuration; leave out --config")
    if out is None:
        raise UsageError("--resume wants the run folder: --out RUN")
    from avbench.training.folder import RunFolder

    RunFolder(Path(out)).check_resumable()
    return load(RunFolder(Path(out)).config, out=out)


def _value_of(argv: Sequence[str], flag: str) -> str | None:
    for place, word in enumerate(argv):
        if word == flag and place + 1 < len(argv):
            return argv[place + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _written_to(argv: Sequence[str], *, is_full: bool) -> str:
    """The folder or file that a command writes to, for an error that names none; of several the one that is full."""
    named = [_value_of(argv, flag) for flag in ("--out", "--export", "--json")]
    # Else it is a positional one, which is there already; a value of some option seldom is.
    there = [word for word in argv[1:] if not word.startswith("-") and Path(word).exists()]
    places = [place for place in named if place and not place.startswith("-")] or there or ["."]
    full = [place for place in (*places, tempfile.gettempdir()) if is_full and _free_bytes(Path(place)) < _NEARLY_FULL]
    return (full or places)[0]


def _free_bytes(path: Path) -> int:
    there = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), Path("/"))
    return shutil.disk_usage(there).free


def _check_not_empty(argv: Sequence[str], *flags: str) -> None:
    """An empty word, as a shell makes of an unset variable, would be the working folder."""
    for flag in flags:
        if _value_of(argv, flag) == "":
            raise UsageError(f"{flag} is empty; name a file or folder ('.' for this one)")


def _pack_help(argv: Sequence[str]) -> NoReturn:
    """Print the options of pack; where a recipe is named, its fields with their types and defaults too."""
    from avbench.packing.recipe_help import with_fields
    from avbench.packing.recipes import load_recipe

    # The first word that is neither an option nor behind one, where it would be a value.
    alone = ("-h", "--help", "--overwrite", "--no-overwrite", "--json", "--no-json")
    name = ""
    for before, word in pairwise(["-h", *argv]):
        if not word.startswith("-") and (before in alone or not before.startswith("-")):
            name = word
            break
    more = "Every field of a recipe is an option too: `avbench pack planted --help` lists those of planted, say."
    options: type[Any] = PackArgs
    default: Any = None
    if name:
        more = ""
        options, default = with_fields(PackArgs(tyro.MISSING, tyro.MISSING), load_recipe(name))
    explain(PackArgs)
    with _one_line("avbench pack", lambda: more):
        tyro.cli(
            options,
            prog=f"avbench pack {name}".strip(),
            args=["--help"],
            description=PackArgs.__doc__,
            default=default,
            config=(tyro.conf.AvoidSubcommands,),
        )
    sys.exit(0)


def _overrides(words: Sequence[str]) -> dict[str, object]:
    """`--window-seconds 2` or `--window-seconds=2` as {"window_seconds": 2}: fields of the recipe to change."""
    overrides: dict[str, object] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not (equals or rest):
            raise UsageError(f"{word!r} is no option with a value; `avbench pack --help` lists the options")
        overrides[name.replace("-", "_")] = _toml_value(value if equals else rest.pop(0))
    return overrides


def _toml_value(text: str) -> object:
    """A value as a recipe file would have it: a number, a list, true or false; anything else is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def print_json(value: object) -> None:
    """The answer of a command under --json: the only thing that it writes to stdout. Keys keep their order.

    Escaped to ASCII, so that it can be written whatever the terminal's encoding.
    """
    print(json.dumps(value, indent=2, allow_nan=False))


@contextmanager
def json_errors(*, asked: bool) -> Iterator[None]:
    """Under --json a user's mistake, too, is an object on stdout, {"error": ...}; it still ends as it would without."""
    try:
        yield
    except AvbenchError as error:
        if asked:
            print_json({"error": " ".join(str(error).split())})
        raise


def _default_media(kind: str, out: Path) -> Path:
    if kind == "planted":
        return out.with_name(f"{out.name}-media")
    raise UsageError("--media is missing: the folder that holds the videos")


def _device() -> torch.device:
    import torch

    from avbench.distributed import world_from_environment

    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank = world_from_environment().local_rank
    if local_rank >= torch.cuda.device_count():
        if torch.cuda.device_count() == 1 and "RANK" not in os.environ:
            return torch.device("cuda", 0)  # Slurm bound one GPU to each task
        raise UsageError(
            f"local rank {local_rank} has no GPU of its own ({torch.cuda.device_count()} here); "
            f"start at most one rank a GPU, or hide them for CPU training: CUDA_VISIBLE_DEVICES="
        )
    return torch.device("cuda", local_rank)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _console() -> Console:
    return Console(highlight=False)


if __name__ == "__main__":
    main()
