"""The command line as users meet it: help, mistakes, what is shipped."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from avbench import shipped
from avbench.cli import COMMANDS, main
from avbench.config import TrainConfig, load_config
from avbench.dataset import Dataset, shard_name
from avbench.errors import UsageError
from avbench.packing.recipes.rendering import PlantedConfig, render
from tests.conftest import REPOSITORY
from tests.documents import DOCUMENTS


def line_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on the standard error that a mistake ends in."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_and_refuses_an_unknown_option(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "loader", "--help"] if command == "bench" else [command, "--help"])
    assert stop.value.code == 0
    assert "usage: avbench" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    words = ["bench", "loader", "folder"] if command == "bench" else [command, "folder", "--out", "y"]
    line = line_of(capsys, *words, "--no-such-option", "1")
    assert "no-such-option" in line.replace("_", "-")
    assert not any(tmp_path.iterdir())


def test_without_a_command_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trane"], "unknown command 'trane'; did you mean 'train'"),
        (["train"], "--out"),
        (["pack", "foldr", "--out", "x", "--media", "y"], "unknown recipe 'foldr'; did you mean 'folder'"),
        (["pack", "folder", "--out", "x"], "--media is missing"),
        (["pack", "folder", "--out", "x", "--media", "missing"], "missing"),
        (["pack", "folder", "--out", "x", "--media", ".", "--window-seconds", "long"], "window_seconds is 'long'"),
        (["pack", "folder", "--out", "x", "--media", ".", "--windw-seconds", "2"], "did you mean 'window_seconds'"),
        (["pack", "folder", "--out", "x", "--media", ".", "--audio-suffix", "mp3"], "mp3"),
        (["pack", "folder", "--out", "x", "--media", ".", "--window-seconds"], "no option with a value"),
        (["verify", "missing"], "missing: no such dataset folder"),
        (["evaluate", "missing"], "missing"),
        (["evaluate", "missing", "--thresholds", "2"], "2"),
        (["evaluate", "missing", "--thresholds", "0,x"], "--thresholds: '0,x', expected 0,0.2,0.4; `avbench evaluate"),
        (["train", "x", "--out", "y", "--seeds", "a"], "--seeds: 'a', expected 0,1,2; `avbench train --help` lists"),
        (["train", "x", "--out", "y", "--epochs", "many"], "'many'; `avbench train --help` lists"),
        (["demo", "--out", "."], "exists already; --overwrite replaces a demo"),
        (["demo", "--out", ".", "--overwrite"], "is no earlier demo"),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert message in line_of(capsys, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]


def test_the_process_exits_with_2_and_shows_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "avbench", "verify", str(tmp_path / "missing")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("avbench: ") and "Traceback" not in done.stderr


def test_verify_says_what_a_quarantine_can_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render(PlantedConfig(classes=2, train=4, val=2, test=2), tmp_path / "videos", workers=1)
    path = tmp_path / "dataset"
    main(["pack", "folder", "--media", str(tmp_path / "videos"), "--out", str(path), "--workers", "1"])
    main(["verify", str(path)])
    assert "whole" in capsys.readouterr().out
    listed = (path / "clips.csv").read_bytes()
    (path / "clips.csv").unlink()
    assert "no clip and no shard is damaged" in line_of(capsys, "verify", str(path))
    (path / "clips.csv").write_bytes(listed)
    dataset = Dataset(path)
    with (path / shard_name(0)).open("rb+") as shard:
        shard.seek(int(dataset.audio_offsets[1]) + 100)
        shard.write(b"damaged")
    assert "--quarantine sets clips aside" in line_of(capsys, "verify", str(path))
    main(["verify", str(path), "--quarantine"])
    assert "set aside: 1 clip" in capsys.readouterr().out
    assert 1 not in Dataset(path).clip_ids("train")
    with (path / shard_name(1)).open("rb+") as shard:
        shard.truncate(1000)
    assert "truncated?" in line_of(capsys, "train", str(path), "--out", str(tmp_path / "run"))
    main(["verify", str(path), "--quarantine"])
    assert "set aside: 3 clips, of damaged shards: 1" in capsys.readouterr().out
    assert not len(Dataset(path).clip_ids("val"))


def test_doctor_says_what_runs_where(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    text = capsys.readouterr().out
    for word in ("torch", "cores", "free disk", "flac", "jpeg", "train", "paper", "tiny"):
        assert word in text
    assert "yes, on the CPU" in text


def test_a_saved_configuration_reads_back_as_it_was(tmp_path: Path) -> None:
    config = TrainConfig(
        dataset=tmp_path / "d", out=tmp_path / "o", methods=("late=baseline",), seeds=(3, 1), fraction=0.5
    )
    config.save(tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown field 'epoch'"),
        ("[training]\nepoch = 3", "did you mean 'epochs'"),
        ("[training]\nepochs = 'many'", "expected a whole number"),
        ("preset = 'tyny'", "did you mean 'tiny'"),
        ("methods = ", "not readable as TOML"),
        ("methods = 'audio'", "expected a list"),
        ("seeds = ['0']", "expected a whole number"),
        ("dataset = 3", "expected a text"),
        ("optimizer = 3", "expected a table"),
        ("[optimizer]\noptimizer = 'lion'", "unknown value 'lion'"),
        ("[training]\nbatch_norm = 'gobal'", "did you mean 'global'"),
    ],
)
def test_a_broken_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(tmp_path / "config.toml")


def test_shipped_configurations_name_only_fields_that_exist() -> None:
    for path in shipped("launch").glob("*.toml"):
        assert load_config(path).methods == tuple(tomllib.loads(path.read_text())["methods"])


@pytest.mark.slow
def test_the_wheel_holds_recipes_launch_files_and_benchmarks(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(REPOSITORY)],
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    (wheel,) = tmp_path.glob("avbench-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("shards/folder.toml", "shards/planted.toml", "launch/demo.toml", "benchmarks/loader.py"):
        assert f"avbench/shipped/{name}" in names
    assert "avbench/analysis/presenting/report.html.jinja" in names
    for document in DOCUMENTS:
        place = document if document.startswith("avbench/") else f"avbench/shipped/{document}"
        assert "/" not in document or place in names
    assert not any(name.startswith("tests/") for name in names)
