"""What --help shows, and answers as JSON: for people and for machines."""

import dataclasses
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from avbench.arguments import nested, option_texts
from avbench.cli import COMMANDS, main
from avbench.cli.bench import BenchArgs, BenchPlanArgs
from avbench.cli.demo import DemoArgs
from avbench.cli.doctor import DoctorArgs
from avbench.cli.duplicates import DuplicatesArgs
from avbench.cli.evaluate import EvaluateArgs
from avbench.cli.info import InfoArgs
from avbench.cli.methods import MethodsArgs
from avbench.cli.pack import PackArgs, overrides
from avbench.cli.pack_view import PackViewArgs
from avbench.cli.parsing import parse, parse_known
from avbench.cli.subsets import SubsetsArgs
from avbench.cli.verify import VerifyArgs
from avbench.cli.view import ViewArgs
from avbench.config import TrainArgs
from avbench.dataset import Dataset
from avbench.help import EXAMPLES
from avbench.methods import METHODS
from tests.synthetic import make_dataset
from tests.terminal import read_terminal

KINDS = [PackArgs, InfoArgs, VerifyArgs, EvaluateArgs, SubsetsArgs, DemoArgs, DoctorArgs, MethodsArgs]
KINDS += [BenchArgs, BenchPlanArgs, TrainArgs, PackViewArgs, ViewArgs]


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The help of a command, boxes and line breaks taken out."""
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def flat(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dataset"
    return make_dataset(path, clips={"train": 4, "val": 3, "test": 3}, seconds=1.0, size=(16, 16), clips_per_shard=4)


def options_of(kind: type) -> Iterator[tuple[str, str]]:
    """Each option's name and its text, those of groups too."""
    groups = nested(kind)
    for name, text in option_texts(kind).items():
        if name not in groups:
            yield name, text
    for inner in groups.values():
        yield from options_of(inner)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_option_has_a_line_that_says_what_it_is(kind: type) -> None:
    texts = dict(options_of(kind))
    assert len(texts) >= 1 and all(text.endswith(".") and len(text) > 3 for text in texts.values()), texts


def test_the_lines_of_options_reach_the_help_in_one_piece(capsys: pytest.CaptureFixture[str]) -> None:
    text = flat(shown(capsys, "train"))
    for name, line in options_of(TrainArgs):
        assert f"--{name.replace('_', '-')}" in text or name == "dataset"
        assert line in text, name


def test_the_help_of_train_names_every_method_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "train")
    lines = text[text.index("methods, for --methods") :].splitlines()
    for name, method in METHODS.items():
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert all(f"{option.name}={option.default}" in line for option in dataclasses.fields(method.Config))


def test_the_help_of_train_shows_no_internals(capsys: pytest.CaptureFixture[str]) -> None:
    text = flat(shown(capsys, "train"))
    for internal in (
        "run.training",
        "{None}",
        "after construction",
        "`decay",
        "default: None",
        "default: '')",
        "PATH A packed",
    ):
        assert internal not in text, internal
    for title in ("training options", "optimizer options", "engine options"):
        assert title in text


@pytest.mark.parametrize("command", [*sorted(COMMANDS), "bench loader", "bench plan", "bench all"])
def test_every_help_ends_with_examples_that_can_be_typed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = command.split()
    if words == ["bench"]:
        main(["bench", "--help"])
        text = capsys.readouterr().out
    else:
        text = shown(capsys, *words)
    assert "{None}" not in text
    examples = text[text.index("\nexamples:\n") :].strip().splitlines()[1:]
    assert examples and all(f"avbench {command}" in line for line in examples)


KIND_OF = {"pack": PackArgs, "verify": VerifyArgs, "evaluate": EvaluateArgs, "subsets": SubsetsArgs}
KIND_OF |= {"demo": DemoArgs, "doctor": DoctorArgs, "info": InfoArgs}
KIND_OF |= {"duplicates": DuplicatesArgs, "methods": MethodsArgs, "train": TrainArgs, "view": ViewArgs}


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_parses(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])
    words = words[words.index("avbench") + 1 :]
    command, rest = words[0], words[1:]
    if command == "bench":
        parse(BenchPlanArgs if rest[0] == "plan" else BenchArgs, rest[1:], "avbench bench")
    elif rest[:1] == ["--from-view"]:
        assert parse(PackViewArgs, rest, "avbench pack --from-view").out
    elif command == "pack":
        args, fields = parse_known(PackArgs, rest, "avbench pack")
        assert args.out and overrides(fields) is not None
    else:
        args = parse(KIND_OF[command], rest, f"avbench {command}")
        if command == "train":
            from avbench.methods.choice import parse_methods

            assert parse_methods(args.run.methods)


def test_the_commands_help_names_examples_and_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    assert "avbench --version" in text and all(line in text for line in EXAMPLES["avbench"])


def on_a_terminal(*words: str, **environment: str) -> bytes:
    """What a command writes to a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "avbench", *words],
        stdin=follower, stdout=follower, stderr=follower, env={**os.environ, "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(follower)
    written = read_terminal(leader)
    assert process.wait() == 0
    return written


def test_help_has_no_colour_where_none_is_wanted() -> None:
    plain = on_a_terminal("verify", "--help", NO_COLOR="1")
    assert b"\x1b[" not in plain and b"--quarantine" in plain
    assert b"\x1b[" in on_a_terminal("verify", "--help", NO_COLOR="")


def test_the_module_of_the_command_line_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "avbench.cli", "trane"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and "did you mean 'train'" in done.stderr


def json_of(capsys: pytest.CaptureFixture[str], *words: str, status: int) -> dict:
    """The one object on stdout of a command that ends with this status."""
    capsys.readouterr()
    if status:
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        assert stop.value.code == status
    else:
        main(list(words))
    return json.loads(capsys.readouterr().out)


def test_verify_answers_as_json(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = json_of(capsys, "verify", str(dataset), "--json", "--workers", "1", status=0)
    assert whole == {"dataset": str(dataset), "whole": True, "problems": [], "set_aside": 0}
    copy = shutil.copytree(dataset, tmp_path / "copy")
    with (copy / "shard-000000.tar").open("r+b") as file:
        file.seek(int(Dataset(copy).audio_offsets[2]) + 50)
        file.write(bytes(20))
    found = json_of(capsys, "verify", str(copy), "--json", "--workers", "1", status=2)
    assert not found["whole"] and found["set_aside"] == 0
    assert found["problems"] == [
        {"clip_id": None, "key": None, "shard": "shard-000000.tar", "blocks_training": False,
         "text": "its SHA-256 is not the one it was packed with"},
        {"clip_id": 2, "key": "train-0002", "shard": "shard-000000.tar", "blocks_training": False,
         "text": "the checksum of its flac is not the packed one"},
    ]  # fmt: skip
    aside = json_of(capsys, "verify", str(copy), "--json", "--quarantine", "--workers", "1", status=0)
    assert aside["set_aside"] == 1 and aside["problems"] == found["problems"]
    error = json_of(capsys, "verify", str(tmp_path / "none"), "--json", status=2)
    assert list(error) == ["error"] and "no such dataset folder" in error["error"]


def test_json_stands_alone_on_stdout(dataset: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(dataset, tmp_path / "copy")
    (copy / "shard-000002.tar").unlink()
    command = [sys.executable, "-m", "avbench", "verify", str(copy), "--json", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("avbench: ") and done.stderr.count("\n") == 1
    assert [problem["shard"] for problem in json.loads(done.stdout)["problems"]] == ["shard-000002.tar"]


def test_doctor_answers_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    found = json.loads(capfd.readouterr().out)
    assert set(found) == {"versions", "machine", "gpus", "codecs", "paths", "presets", "exactness"}
    assert found["codecs"]["flac"] == "yes, on the CPU" and re.match(r"\d+\.\d+", found["versions"]["python"])
