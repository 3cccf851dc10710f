"""What `--help` says beside the options: examples of each command, and the methods that there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points

from avbench.methods import ENTRY_POINTS
from avbench.methods.described import described

# By what the command is called; each line can be typed as it is, with names of one's own.
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "avbench": (
        "avbench demo",
        "avbench pack folder --media VIDEOS --out DATASET",
        "avbench train DATASET --methods audio,visual,baseline,ogm-ge --out RUN",
        "avbench evaluate RUN",
    ),
    "avbench demo": ("avbench demo", "avbench demo --out /tmp/demo --overwrite"),
    "avbench pack": (
        "avbench pack folder --media VIDEOS --out DATASET",
        "avbench pack folder --media VIDEOS --out DATASET --window-seconds 10 --sample-rate-hz 16000",
        "avbench pack vggsound --list vggsound.csv --media VIDEOS --out DATASET",
        "avbench pack my-recipe.toml --media VIDEOS --out DATASET --workers 8",
        "avbench pack planted --out DATASET --planted.classes 4 --planted.train 200",
        "avbench pack --from-view VIEW --out DATASET",
    ),
    "avbench pack --from-view": (
        "avbench pack --from-view VIEW --out DATASET",
        "avbench pack --from-view VIEW --out DATASET --clips-per-shard 256 --workers 8",
    ),
    "avbench info": (
        "avbench info DATASET",
        "avbench info DATASET --export-keys keys.csv",
        "avbench info DATASET --json > info.json",
    ),
    "avbench view": (
        "avbench view KINETICS400 --classes classes.txt --map renamed.csv --out KINETICS-SOUND",
        "avbench view DATASET --keys keys.csv --out VIEW",
        "avbench view DATASET --without-keys takedowns.txt --splits splits.csv --out VIEW",
        "avbench view DATASET OTHER --drop quality:silent --drop 'quality:peak_dbfs<-50' --out VIEW",
        "avbench view VIEW --shards FOLDER --out NEW-VIEW",
    ),
    "avbench verify": (
        "avbench verify DATASET",
        "avbench verify DATASET --quick",
        "avbench verify DATASET --quarantine --workers 4",
        "avbench verify DATASET --quarantine --add RUN/quarantine.jsonl",
        "avbench verify DATASET --repair --media VIDEOS",
        "avbench verify DATASET --reindex",
        "avbench verify DATASET --json > verify.json",
    ),
    "avbench duplicates": (
        "avbench duplicates DATASET",
        "avbench duplicates DATASET --exact",
        "avbench duplicates DATASET OTHER-DATASET --out duplicates.csv --fingerprints FINGERPRINTS",
        "avbench duplicates DATASET --json > duplicates.json",
    ),
    "avbench train": (
        "avbench train DATASET --methods audio,visual,baseline --out RUN",
        "avbench train DATASET --methods audio,visual,ogm-ge:alpha=0.3,late=baseline --seeds 0,1,2 --out RUN",
        "avbench train DATASET --preset tiny --epochs 3 --fraction 0.1 --out TRIAL",
        "avbench train DATASET --out RUN --resume --epochs 150",
        "torchrun --standalone --nproc-per-node=8 -m avbench train DATASET --out RUN --auto-resume",
    ),
    "avbench evaluate": (
        "avbench evaluate RUN",
        "avbench evaluate RUN OTHER-RUN --thresholds 0,0.1,0.3 --out REPORT",
        "avbench evaluate RUN --predictions mine.parquet --predictions theirs.csv",
    ),
    "avbench subsets": (
        "avbench subsets RUN --export subsets.csv",
        "avbench subsets RUN --split train --thresholds 0.2 --export train.parquet",
    ),
    "avbench bench": (
        "avbench bench loader DATASET",
        "avbench bench all --json here.json",
        "avbench bench plan --from here.json --gpus 8 --cores-per-gpu 12",
    ),
    "avbench methods": (
        "avbench methods",
        "avbench methods gradient-blending",
        "avbench methods --json > methods.json",
    ),
    "avbench doctor": ("avbench doctor", "avbench doctor --path /data", "avbench doctor --json > doctor.json"),
}
_OF_BENCH = ("avbench bench {target}", "avbench bench {target} DATASET --preset tiny --json here.json")


def examples_text(program: str) -> str:
    """What stands below a command's options; program: as in "avbench train" or "avbench bench loader"."""
    lines: Iterable[str] = EXAMPLES.get(program, ())
    if not lines and program.startswith("avbench bench "):
        target = program.rpartition(" ")[2]
        plan = [line for line in EXAMPLES["avbench bench"] if f" {target} " in line]
        lines = plan if target == "plan" else [line.format(target=target) for line in _OF_BENCH]
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def methods_text() -> str:
    """Every method by name with its options, a line each, for `avbench train --help`."""
    methods = described()
    lines = [
        "methods, for --methods (METHOD:OPTION=VALUE changes an option, NAME=METHOD trains it under another name; "
        "`avbench methods METHOD` says more):"
    ]
    width = max(len(method.name) for method in methods)
    for method in methods:
        options = ", ".join(f"{option.name}={option.default}" for option in method.options)
        lines.append(f"  {method.name:<{width}}  {method.summary}{f' Options: {options}.' if options else ''}")
    others = sorted(point.name for point in entry_points(group=ENTRY_POINTS))
    if others:
        lines.append(f"  of other packages that are installed: {', '.join(others)}")
    return "\n".join(lines)
