"""Streams that break: real pipes whose reader goes, and /dev/full, on which no byte finds room."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.synthetic import make_dataset

FLAGS = ["--preset", "tiny", "--width", "8", "--methods", "audio,visual,baseline", "--epochs", "1", "--log-steps", "1"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 12, "val": 6, "test": 6})


def in_a_shell(command: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """`command` in bash, in which "$@" runs avbench with these words; the status is that of avbench itself."""
    script = f'{command}\nexit "${{PIPESTATUS[0]}}"'
    avbench = [sys.executable, "-m", "avbench", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", script, "bash", *avbench], capture_output=True, text=True, env=environment, cwd=REPOSITORY
    )


def run_python(redirection: str, code: str) -> subprocess.CompletedProcess[str]:
    """A piece of Python under forgiving streams."""
    body = f"from avbench.streams import forgiving_streams\nimport os, sys\nwith forgiving_streams():\n{code}"
    command = ["bash", "-c", f'"$@" {redirection}\nexit "${{PIPESTATUS[0]}}"', "bash", sys.executable, "-c", body]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)


def test_training_and_evaluating_go_on_when_their_reader_goes(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # It goes after the first line, and more are to come, on both streams.
    trained = in_a_shell('"$@" 2>&1 | head -1', "train", dataset, "--out", run, *FLAGS)
    assert (trained.returncode, trained.stdout.count("\n"), trained.stderr) == (0, 1, "")
    assert (run / "finished.json").exists() and list(run.glob("predictions/*"))
    evaluated = in_a_shell('"$@" 2>&1 | true', "evaluate", run, "--resamples", "20")
    assert (evaluated.returncode, evaluated.stderr) == (0, "")
    assert (run / "report/index.html").exists()


def test_training_goes_on_when_the_disk_of_its_log_is_full(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ("--methods", "audio")
    done = in_a_shell('"$@" > /dev/full 2> /dev/full', "train", dataset, "--out", run, *FLAGS, *flags)
    assert done.returncode == 0
    assert (run / "finished.json").exists() and list(run.glob("predictions/*"))


def test_packing_goes_on_when_its_reader_goes(tmp_path: Path) -> None:
    small = [f"--planted.{split}={count}" for split, count in (("train", 4), ("val", 2), ("test", 4))]
    words = ("pack", "planted", "--media", tmp_path / "media", "--out", tmp_path / "packed", *small)
    packed = in_a_shell('"$@" 2>&1 | true', *words)
    assert (packed.returncode, packed.stderr) == (0, "")
    assert (tmp_path / "packed/dataset.json").exists()


def test_what_no_disk_had_room_for_is_said_where_there_is_room() -> None:
    done = run_python("> /dev/full", "  print('a result')")
    assert done.returncode == 0
    assert done.stderr == "avbench: standard output could not be written whole (No space left on device)\n"
    done = run_python("2> /dev/full", "  print('progress', file=sys.stderr); print('a result')")
    assert done.stdout == "a result\navbench: standard error could not be written whole (No space left on device)\n"


def test_what_libraries_write_to_a_closed_pipe_goes_nowhere_too() -> None:
    # The second of the two writes to the descriptor itself would raise.
    code = "  for _ in range(50): print('x' * 5000, flush=True)\n  os.write(1, b'y'); os.write(1, b'y')\n  sys.exit(4)"
    done = run_python("| true", code)
    assert (done.returncode, done.stderr) == (4, "")


def test_a_file_never_gets_the_number_of_a_stream_that_was_closed(tmp_path: Path) -> None:
    code = f"  file = open({str(tmp_path / 'file')!r}, 'w')\n  os.write(2, b'noise'); print('more', file=sys.stderr)"
    done = run_python("2>&-", code)
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "file").read_text() == ""


def test_what_is_printed_comes_as_ever() -> None:
    done = run_python("", "  print('out'); print('err', file=sys.stderr); sys.stdout.writelines(['a', 'b'])")
    assert (done.stdout, done.stderr) == ("out\nab", "err\n")
