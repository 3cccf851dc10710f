"""Who may write to a run folder."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from avbench.errors import RunError
from avbench.training import held_folder
from avbench.training.held_folder import HeldFolder

ELSEWHERE = {"host": "another-host", "process": 7, "start": "a"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HeldFolder:
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(held_folder, "_SAME_JOB_SECONDS", 1.0)
    return HeldFolder(tmp_path)


def left_behind(run: HeldFolder, *, seconds_ago: float = 0.0, **holder: Any) -> None:
    run.lock.write_text(json.dumps(holder))
    then = time.time() - seconds_ago
    os.utime(run.lock, (then, then))


def test_a_lock_is_there_while_it_is_held(run: HeldFolder) -> None:
    with run.locked():
        assert json.loads(run.lock.read_text())["process"] == os.getpid()
        run.check_held()
    assert not run.lock.exists()


def test_a_process_of_this_host_that_is_alive_keeps_others_out(run: HeldFolder) -> None:
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    left_behind(run, host=socket.gethostname(), process=holder.pid, start="a")
    with pytest.raises(RunError, match=f"another training holds it .*process {holder.pid}"), run.locked():
        pass
    holder.communicate(b"\n")
    with run.locked():
        pass


def test_another_hosts_lock_is_taken_over_once_it_is_old(run: HeldFolder) -> None:
    left_behind(run, seconds_ago=60, **ELSEWHERE)
    with pytest.raises(RunError, match="wait ten minutes or remove the file"), run.locked():
        pass
    left_behind(run, seconds_ago=700, **ELSEWHERE)
    with run.locked():
        pass


@pytest.mark.parametrize("variables", [{"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0"}, {"TORCHELASTIC_RUN_ID": "12"}])
def test_a_job_that_is_started_again_elsewhere_takes_its_own_lock(
    run: HeldFolder, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    left_behind(run, **ELSEWHERE, job="12")
    with run.locked():
        assert json.loads(run.lock.read_text())["job"] == "12"
    left_behind(run, **ELSEWHERE, job="13")
    with pytest.raises(RunError, match="another training holds it"), run.locked():
        pass


def test_two_jobs_of_one_name_do_not_share_a_folder(run: HeldFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "12")
    left_behind(run, **ELSEWHERE, job="12")
    beat = threading.Timer(0.3, lambda: os.utime(run.lock))
    beat.start()
    with pytest.raises(RunError, match="another training holds it"), run.locked():
        pass
    beat.join()


def test_who_has_lost_the_lock_writes_no_more(run: HeldFolder) -> None:
    with run.locked():
        left_behind(run, **ELSEWHERE)
        with pytest.raises(RunError, match="another training has taken it over"):
            run.check_held()
    assert run.lock.exists()  # it is not ours to remove


def test_what_a_killed_start_left_is_no_run_and_in_nobodys_way(run: HeldFolder) -> None:
    left_behind(run, **ELSEWHERE)
    (run.path / ".config.toml.1234.partial").touch()
    run.check_new(overwrite=False)
    (run.path / "thesis.tex").touch()
    with pytest.raises(RunError, match="exists and is no run folder"):
        run.check_new(overwrite=False)
