"""What a command waits for before it does anything."""

import subprocess
import sys
from pathlib import Path

import pytest

from avbench.cli import COMMANDS
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("module", ["avbench.doctor", "avbench.training.trainer", "avbench.demo"])
def test_no_command_imports_torchs_compiler_before_it_is_asked_to_compile(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


HEAVY = ("torch", "nvidia.dali", "scipy", "pyarrow", "numpy", "av", "matplotlib")


OF_RECIPES = [
    ["pack", "folder", "--help"],
    ["pack", "planted", "--help"],
    ["pack", "mine.toml", "--help"],
    ["pack", "folder", "--windowseconds", "3", "--media", "x", "--out", "y"],
    ["pack", "planted", "--planted.bais", "3", "--out", "y"],
    ["pack", "mine.toml", "--list.paht", "3", "--media", "x", "--out", "y"],
]


@pytest.mark.parametrize(
    "words",
    [*([name, *more] for name in sorted(COMMANDS) for more in (["--help"], ["--no-such-option", "3"])), *OF_RECIPES],
)
def test_help_and_a_typo_wait_for_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('kind = "list"\n[list]\npath = "{id}.mp4"\n')
    words = [str(tmp_path / word) if word == "mine.toml" else word for word in words]
    code = (
        "import sys\n"
        "from avbench.cli import main\n"
        "try:\n"
        f"    main({words!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]", (done.stderr, done.stdout)
    assert ("usage: avbench" in done.stdout) == ("--help" in words)
    if "--help" not in words:
        assert done.stderr.startswith("avbench: ") and done.stderr.count("\n") == 2, done.stderr
        assert len(words) == 3 or "did you mean" in done.stderr, done.stderr
