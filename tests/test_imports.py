"""What a command waits for before it does anything."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.parametrize("module", ["avbench.doctor", "avbench.training.trainer", "avbench.demo"])
def test_no_command_imports_torchs_compiler_before_it_is_asked_to_compile(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


HEAVY = ("torch", "nvidia.dali", "scipy", "pyarrow", "numpy", "av", "matplotlib")


@pytest.mark.parametrize(
    "command", ["train", "pack", "verify", "evaluate", "subsets", "demo", "bench", "doctor", "methods"]
)
@pytest.mark.parametrize("words", [["--help"], ["--no-such-option", "3"]])
def test_help_and_a_typo_wait_for_nothing_heavy(command: str, words: list[str]) -> None:
    code = (
        "import sys\n"
        "from avbench.cli import main\n"
        "try:\n"
        f"    main({[command, *words]!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]", (done.stderr, done.stdout)
