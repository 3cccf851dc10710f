"""What a command waits for before it does anything."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.parametrize("module", ["avbench.doctor", "avbench.training.trainer", "avbench.demo"])
def test_no_command_imports_torchs_compiler_before_it_is_asked_to_compile(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
