"""avbench bench."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avbench.arguments import comma_list, named
from avbench.bench.targets import PLAN, TARGETS
from avbench.cli.parsing import parse
from avbench.errors import UsageError, unknown
from avbench.help import examples_text


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


def run(argv: Sequence[str]) -> None:
    """Run the scripts of a target, or plan machines."""
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
    plan = parse(BenchPlanArgs, rest, "avbench bench plan") if target == PLAN else None
    args = None if plan else parse(BenchArgs, rest, f"avbench bench {target}")
    from avbench.bench.command import measure, plan_machines
    from avbench.bench.scripts import LoaderSizes, ScriptStopped

    try:
        if plan is not None:
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
        if args is not None:
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
