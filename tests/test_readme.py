"""What the documents show works as it is shown: commands, links, figures, tables."""

import ast
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

from avbench.cli import COMMANDS, main
from avbench.cli.bench import BenchArgs, BenchPlanArgs
from avbench.cli.demo import DemoArgs
from avbench.cli.doctor import DoctorArgs
from avbench.cli.duplicates import DuplicatesArgs
from avbench.cli.evaluate import EvaluateArgs
from avbench.cli.info import InfoArgs
from avbench.cli.methods import MethodsArgs
from avbench.cli.pack import PackArgs, overrides
from avbench.cli.parsing import parse, parse_known
from avbench.cli.subsets import SubsetsArgs
from avbench.cli.verify import VerifyArgs
from avbench.cli.view import ViewArgs
from avbench.config import TrainArgs
from avbench.loading.presets import PRESETS
from avbench.methods import METHODS
from avbench.methods.described import described
from avbench.packing.recipes.rendering import PlantedConfig, render
from avbench.records import read_metrics, read_table
from tests.conftest import REPOSITORY
from tests.documents import DOCUMENTS, commands, first_column, headings, section, spans, text_of
from tests.synthetic import make_dataset
from tests.test_layers import LAYERS

METHODS_README, LOADING_README = "avbench/methods/README.md", "avbench/loading/README.md"
ANALYSIS_README, TRAINING_README = "avbench/analysis/README.md", "avbench/training/README.md"
KIND_OF = {
    "demo": DemoArgs,
    "doctor": DoctorArgs,
    "duplicates": DuplicatesArgs,
    "evaluate": EvaluateArgs,
    "info": InfoArgs,
    "methods": MethodsArgs,
    "subsets": SubsetsArgs,
    "train": TrainArgs,
    "verify": VerifyArgs,
    "view": ViewArgs,
}

# Which test runs the commands of which section. A command that stands in several is run once.
RUN_BY = {
    ("README.md", "Your own videos"): "tests/test_readme.py::test_the_commands_for_own_videos_work_in_their_order",
    (TRAINING_README, "Interrupting and resuming"): (
        "tests/test_readme.py::test_the_commands_for_own_videos_work_in_their_order"
    ),
    (METHODS_README, ""): "tests/test_readme.py::test_the_commands_for_all_methods_work_in_their_order",
    (METHODS_README, "What Gradient-Blending trains on"): (
        "tests/test_readme.py::test_the_commands_that_compare_parts_of_train_work"
    ),
    (METHODS_README, "A method of your own"): "tests/test_readme.py::test_the_method_of_ones_own_trains_as_shown",
    ("shards/README.md", "Clips that come twice"): (
        "tests/curation/test_duplicates.py::test_the_readmes_command_writes_a_csv_file"
    ),
    ("shards/README.md", "Packing on many machines"): (
        "tests/packing/test_pack_parts.py::test_the_readmes_commands_pack_in_two_parts"
    ),
    ("shards/README.md", "Views"): (
        "tests/packing/test_write_out.py::test_the_readmes_commands_make_a_view_and_its_shards"
    ),
    ("shards/README.md", "The lists of known datasets"): (
        "tests/packing/test_published_lists.py::test_the_readmes_command_packs_the_clips_of_a_list"
    ),
    (ANALYSIS_README, "Your own predictions"): (
        "tests/analysis/test_tables.py::test_the_readmes_commands_score_predictions_of_ones_own"
    ),
}


# Commands


def test_the_method_of_ones_own_trains_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = section(METHODS_README, "A method of your own")
    (source,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(source.splitlines()) < 40
    ((*_, methods),) = commands(METHODS_README, "A method of your own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "dropout", raising=False)
    Path("dropout.py").write_text(source, encoding="utf-8")
    make_dataset(tmp_path / "data", clips={"train": 16, "val": 3, "test": 6})
    flags = ["--preset", "tiny", "--width", "8", "--batch-size", "4", "--epochs", "1", "--log-steps", "1"]
    assert "rate=0.2" in methods
    main(["train", "data", "--out", "run", "--methods", methods.replace("rate=0.2", "rate=0.5"), *flags])
    steps = [record for record in read_metrics(Path("run/metrics.jsonl"), kinds=["step"]) if "dropped/audio" in record]
    # At a rate of a half, every step is without one of the two.
    assert [record["dropped/audio"] + record["dropped/visual"] for record in steps] == [1.0] * 4
    table = read_table(Path("run/predictions/modality-dropout-seed0-test.parquet"))
    assert set(table["method"].to_pylist()) == {"modality-dropout"}
    main(["evaluate", "run"])
    assert "modality-dropout" in Path("run/report/accuracy.csv").read_text(encoding="utf-8")


def test_the_commands_for_own_videos_work_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    render(PlantedConfig(classes=2, train=12, val=4, test=6), tmp_path / "VIDEOS", workers=2)
    shown = commands("README.md", "Your own videos") + commands(TRAINING_README, "Interrupting and resuming")
    assert [words[0] for words in shown] == ["pack", "verify", "train", "evaluate", "train"]
    for words in shown:
        # The same commands, only shorter than 100 epochs of ten seconds.
        is_new = words[0] == "train" and "--resume" not in words
        main([*words, *(["--preset", "tiny", "--width", "8", "--epochs", "1"] if is_new else [])])
    assert (tmp_path / "RUN/report/index.html").exists()
    assert json.loads((tmp_path / "DATASET/dataset.json").read_text())["clips"]["train"] == 12


@pytest.mark.slow
def test_the_commands_for_all_methods_work_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "DATASET", clips={"train": 12, "val": 4, "test": 6})
    shown = commands(METHODS_README, "")
    assert [words[0] for words in shown] == ["train", "train", "evaluate"]
    for words in shown:
        # Two of the three seeds: all runs of a pass are in memory at once.
        fewer = ["0,1" if word == "0,1,2" else word for word in words]
        main([*fewer, *(["--preset", "tiny", "--width", "8", "--epochs", "1"] if words[0] == "train" else [])])
    table = (tmp_path / "ALL/report/accuracy.csv").read_text()
    assert all(f"\n{run}," in table for run in ("tmc", "gradient-blending", "greedy", "ogm", "hard", "film"))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_commands_that_compare_parts_of_train_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pack, train = commands(METHODS_README, "What Gradient-Blending trains on")
    few = [f"--planted.{name}" for name in ("classes=2", "train=24", "val=4", "test=6")]
    main([*pack, *(word for option in few for word in option.split("="))])
    main([*train, "--width", "8", "--epochs", "1"])
    names = {path.name for path in (tmp_path / "RUN/predictions").iterdir()}
    assert {f"{run}-seed{seed}-test.parquet" for run in ("all", "part") for seed in (0, 1, 2)} <= names


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_test_runs_every_command_that_stands_on_its_own_line(document: str) -> None:
    run = [words for place in RUN_BY for words in commands(*place)]
    for heading in headings(document):
        for words in commands(document, heading):
            assert words in run, f"{document}: no test runs `avbench {shlex.join(words)}`; run it and name it in RUN_BY"


@pytest.mark.parametrize("place", RUN_BY)
def test_the_test_that_is_said_to_run_a_section_exists(place: tuple[str, str]) -> None:
    assert commands(*place)
    file, _, name = RUN_BY[place].partition("::")
    names = [node.name for node in ast.walk(ast.parse(text_of(file))) if isinstance(node, ast.FunctionDef)]
    assert name in names


def complete(span: str) -> bool:
    """Whether a command is one to be typed, rather than a form of many."""
    return not any(sign in span for sign in ("...", "|", "COMMAND", "--help", "--version")) and " " in span


SHOWN = sorted({span for document in DOCUMENTS for span in spans(document) if complete(span)})


@pytest.mark.parametrize("span", [span for span in SHOWN if span.startswith("avbench ")])
def test_a_shown_command_parses(span: str) -> None:
    command, *rest = shlex.split(span)[1:]
    if not rest or (rest[0].startswith("--") and command != "train"):  # the command or an option of it is only named
        assert command in COMMANDS
    elif command == "bench":
        parse(BenchPlanArgs if rest[0] == "plan" else BenchArgs, rest[1:], "avbench bench")
    elif command == "pack":
        _, fields = parse_known(PackArgs, rest, "avbench pack")
        overrides(fields)
    else:
        # A configuration, or the run that is resumed, names the dataset.
        named = ["DATASET"] if {"--resume", "--config"} & set(rest) and rest[0].startswith("--") else []
        parse(KIND_OF[command], [*named, *rest], f"avbench {command}")


@pytest.mark.parametrize("span", [span for span in SHOWN if span.startswith(("python benchmarks/", "bash ", "make "))])
def test_a_shown_script_and_its_options_exist(span: str) -> None:
    program, *words = shlex.split(span, comments=True)
    if program == "make":
        assert all(re.search(rf"^{word}:", text_of("Makefile"), re.MULTILINE) for word in words)
        return
    source = text_of(words[0])
    if program == "python":
        parts = ast.walk(ast.parse(source))
        known = {
            node.target.id for node in parts if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        named = {word[2:].partition("=")[0].replace("-", "_") for word in words[1:] if word.startswith("--")}
        assert named <= known | {
            name for name in named if f"--{name.replace('_', '-')}" in ast.unparse(ast.parse(source).body[1:])
        }


def test_the_torch_for_older_drivers_is_the_pinned_one() -> None:
    ((*_, torch, audio, vision, _, _), _) = commands(LOADING_README, "GPUs and drivers", "pip")
    pinned = tomllib.loads(text_of("pyproject.toml"))["project"]["dependencies"]
    assert {torch, audio, vision} <= set(pinned)


# Links


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(document: str) -> list[str]:
    text = re.sub(r"^```.*?^```", "", text_of(document), flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith("http")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    for link in links(document):
        path, _, anchor = unquote(link).partition("#")
        target = (REPOSITORY / document).parent / path if path else REPOSITORY / document
        assert target.exists(), f"{document}: {link}"
        if anchor:
            text = re.sub(r"^```.*?^```", "", target.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
            assert anchor in {slug(one) for one in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}, f"{document}: {link}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_of_the_repository_that_is_named_exists(document: str) -> None:
    folders, suffixes = "tests|benchmarks|launch|shards|avbench", "py|toml|sh|json|sbatch|md"
    for word in (word for span in spans(document) for word in span.split()):
        if re.fullmatch(rf"({folders})/[a-z_0-9/]+(\.({suffixes}))?/?", word):
            assert (REPOSITORY / word).exists(), f"{document}: {word}"


def test_a_source_distribution_has_all_that_documents_link_to() -> None:
    included = set(tomllib.loads(text_of("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    for document in DOCUMENTS:
        for link in links(document):
            target = ((REPOSITORY / document).parent / link.partition("#")[0]).resolve().relative_to(REPOSITORY)
            assert target.parts[:1] == () or target.parts[0] in included, f"{document}: {link}"


# Figures


def results() -> dict[tuple[str, str, str], tuple[str, str]]:
    """Of each contender of the loader's benchmark, by section and case: CPU ms a clip, and avbench's share of it."""
    found = {}
    for part in text_of("benchmarks/RESULTS.md").split("\n## ")[1:]:
        for case, contender, milliseconds, share in re.findall(
            r"^\| ([^|]+) \| ([^|]+) \| ([\d.]+) \| \d+% \| \d+ \| ([\d.]*) \|$", part, re.MULTILINE
        ):
            found[part.partition("\n")[0], case, contender] = (milliseconds, share)
    return found


def share(contender: str, case: str = "audio + visual", section: str = "flac") -> str:
    return results()[section, case, contender][1]


def milliseconds(contender: str, section: str) -> str:
    return results()[section, "audio + visual", contender][0]


def quotes() -> list[tuple[str, str, list[str]]]:
    """Document, the sentence that quotes RESULTS.md, and what its numbers have to round to."""
    return [
        (
            LOADING_README,
            r"needs ([\d.]+) \(FLAC\) and ([\d.]+) \(WAV\) of the CPU time of SPDL",
            [share("SPDL"), share("SPDL", section="wav")],
        ),
        (
            LOADING_README,
            r"It needs ([\d.]+) and ([\d.]+) of the CPU time of a plain DALI graph, and ([\d.]+) of what torchcodec",
            [share("DALI"), share("DALI", section="wav"), share("torchcodec")],
        ),
        (LOADING_README, r"Pictures alone need ([\d.]+) of SPDL's", [share("SPDL", "visual")]),
        (LOADING_README, r"Pictures alone need ([\d.]+) of SPDL's", [share("SPDL", "visual", "wav")]),
        (
            "benchmarks/README.md",
            r"([\d.]+) CPU ms a clip \(FLAC\) and ([\d.]+) \(WAV\), where avbench takes ([\d.]+) and ([\d.]+)",
            [milliseconds(one, section) for one in ("DALI", "avbench") for section in ("flac", "wav")],
        ),
    ]


@pytest.mark.parametrize("number", range(len(quotes())))
def test_a_quoted_figure_is_that_of_the_results(number: int) -> None:
    document, pattern, figures = quotes()[number]
    (found,) = re.findall(pattern, " ".join(text_of(document).split()))
    said = [found] if isinstance(found, str) else list(found)
    rounded = [f"{float(value):.{len(text.partition('.')[2])}f}" for text, value in zip(said, figures, strict=True)]
    assert said == rounded


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_figure_beside_a_link_to_the_results_is_checked(document: str) -> None:
    text = text_of(document)
    for part in re.split(r"\n\n|\n(?=\|)", text):
        rest = " ".join(part.split())
        if "RESULTS.md)" in rest:
            for of, pattern, _ in quotes():
                rest = re.sub(pattern, "", rest) if of == document else rest
            assert not re.search(r"\d\.\d", rest), f"{document}: {rest}"


def table_rows(text: str) -> list[str]:
    """The rows of a table of accuracies as the terminal shows it."""
    return re.findall(r"^ {4}(?:T = \S+ clips|[a-z-]+ +\d+\.\d) .*$", text, re.MULTILINE)


def test_the_front_pages_table_is_part_of_the_whole_one() -> None:
    front, whole = table_rows(text_of("README.md")), table_rows(text_of(ANALYSIS_README))
    rows = 1 + len(tomllib.loads(text_of("launch/demo.toml"))["methods"])
    assert len(front) == 2 * rows and len(whole) == 3 * rows
    assert front == whole[:rows] + whole[2 * rows :]


def test_the_front_page_is_short_and_has_its_picture() -> None:
    assert len(text_of("README.md").encode()) < 7_000
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text_of("README.md"))
    content = (REPOSITORY / picture).read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) < 150_000


# Configurations


@pytest.mark.parametrize("name", sorted(path.name for path in (REPOSITORY / "launch").glob("*.toml")))
def test_a_configuration_begins_with_what_it_reproduces_and_what_was_measured(name: str) -> None:
    head = re.match(r"(#.*\n)+", text_of(f"launch/{name}"))
    assert head
    fields = re.findall(r"^# (\w+): ", head[0], re.MULTILINE)
    assert fields == ["Reproduces", "Command", "Hours", "Numbers", "Measured"]
    for line in re.findall(r"avbench (?:demo|evaluate|train)[^(\n]*", head[0].partition("# Command: ")[2]):
        command, *rest = shlex.split(line)[1:]
        parse(KIND_OF[command], rest, f"avbench {command}")


def said_in(name: str) -> dict[str, tuple[str, ...]]:
    """Per method the numbers that a configuration says it reaches."""
    text = re.sub(r"\n#\s*", " ", text_of(f"launch/{name}"))
    names = "|".join(METHODS)
    return {
        method: tuple(rest) for method, *rest in re.findall(rf"({names}) ([\d.]+\d) / ([\d.]+\d) / ([\d.]+\d)", text)
    }


def test_the_demos_configuration_says_the_numbers_of_the_front_page() -> None:
    table = table_rows(text_of("README.md"))
    rows = [row.split() for row in table[1 : len(table) // 2]]
    assert said_in("demo.toml") == {row[0]: (row[1], row[3], row[5]) for row in rows}


def test_the_papers_configuration_says_the_papers_numbers() -> None:
    from avbench.analysis.measures.published import published_rows

    rows = {row.method: (row.overall, row.audio, row.visual) for row in published_rows("vggsound")}
    said = {
        name: tuple(round(float(value) / 100, 4) for value in values) for name, values in said_in("paper.toml").items()
    }
    assert said == {name: tuple(round(value, 4) for value in values) for name, values in rows.items()}


# Tables


def test_every_method_and_its_options_are_in_the_table_of_methods() -> None:
    assert first_column(METHODS_README, "") == set(METHODS)
    rows = [row for row in section(METHODS_README, "").splitlines() if row.startswith("| `")]
    for method in described():
        (row,) = [row for row in rows if f"`{method.name}`" in row.split("|")[1]]
        for option in method.options:
            assert f"`{option.name}`" in row, f"{method.name}:{option.name}"


def test_every_preset_recipe_command_and_benchmark_has_its_row_or_word() -> None:
    assert first_column(LOADING_README, "Presets") == set(PRESETS)
    assert {path.stem for path in (REPOSITORY / "shards").glob("*.toml")} == first_column("shards/README.md", "")
    scripts = {path.name for path in (REPOSITORY / "benchmarks").glob("*.py")} - {"results.py"}
    assert scripts == first_column("benchmarks/README.md", "") - {"gpu_answers/"}
    everything = " ".join(span for document in DOCUMENTS for span in spans(document)) + " "
    for name in COMMANDS:
        assert f"avbench {name} " in everything or f"make {name} " in everything, name


def test_every_csv_file_of_a_report_has_its_row() -> None:
    written = {
        node.value
        for path in (REPOSITORY / "avbench/analysis").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[a-z_]+\.csv", node.value)
    }
    # What `avbench subsets` writes is in a section of its own.
    assert written - {"subsets.csv"} == {
        name for name in first_column(ANALYSIS_README, "The files") if name.endswith(".csv")
    }


def test_the_design_shows_the_layers_that_are_tested() -> None:
    rows = re.findall(r"^\| \d+ \| ([^|]+) \|", section("avbench/README.md", "Layers"), re.MULTILINE)
    assert tuple(tuple(re.findall(r"`([^`]+)`", row)) for row in rows) == LAYERS
