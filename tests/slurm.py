"""A stand-in for Slurm: sbatch as a class, srun and scontrol as small commands on PATH, by what their manuals say.

    cluster = Cluster(tmp_path, hosts=2)
    job = cluster.submit(script, "dataset", "run", options=["--ntasks-per-node=1"])
    job.signal_tasks(signal.SIGUSR1)     # as at the end of --signal's time
    assert job.wait() == 0 and job.is_requeued

It keeps what a job script can notice: the script runs from a copy elsewhere, with the variables of its #SBATCH lines
and of sbatch's options; srun starts a process a task with SLURM_PROCID and its kin, passes SIGUSR1 on, ends the step at
SIGTERM, ends all tasks when one fails under --kill-on-bad-exit, and ends with the highest status of a task.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SRUN = """
import json, os, pathlib, signal, subprocess, sys, time

folder = pathlib.Path(__file__).parent.parent
options = [word for word in sys.argv[1:] if word.startswith("--")][: next(
    place for place, word in enumerate(sys.argv[1:]) if not word.startswith("--"))]
command = sys.argv[1 + len(options):]
with (folder / "srun.jsonl").open("a") as calls:
    calls.write(json.dumps({"options": options, "command": command}) + "\\n")
hosts, each = os.environ["STAND_IN_HOSTS"].split(), int(os.environ["SLURM_NTASKS_PER_NODE"])
tasks = []

def end(number, frame):
    for task in tasks:
        task.send_signal(signal.SIGTERM)

def forward(number, frame):
    for task in tasks:
        task.send_signal(number)

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGUSR1, forward)
for rank in range(len(hosts) * each):
    variables = {
        "SLURM_STEP_ID": "0", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % each),
        "SLURM_NODEID": str(rank // each), "SLURM_NTASKS": str(len(hosts) * each),
    }
    # slurmstepd starts tasks with no signal blocked or ignored, each as a group of its own.
    tasks.append(subprocess.Popen(command, env={**os.environ, **variables}, start_new_session=True))
(folder / "tasks.json").write_text(json.dumps([task.pid for task in tasks]))
killed = False
while any(task.poll() is None for task in tasks):
    if "--kill-on-bad-exit=1" in options and not killed and any(task.poll() for task in tasks):
        killed, deadline = True, time.monotonic() + 30
        end(None, None)
    if killed and time.monotonic() > deadline:
        for task in tasks:
            task.kill()
    time.sleep(0.05)
(folder / "tasks.json").unlink()
sys.exit(max(128 - task.returncode if task.returncode < 0 else task.returncode for task in tasks))
"""

_SCONTROL = """
import os, pathlib, sys

folder = pathlib.Path(__file__).parent.parent
if sys.argv[1:3] == ["show", "hostnames"]:
    assert sys.argv[3] == os.environ["SLURM_JOB_NODELIST"], sys.argv
    print("\\n".join(os.environ["STAND_IN_HOSTS"].split()))
elif sys.argv[1] == "requeue":
    if (folder / "no-requeue").exists():
        sys.exit("slurm_requeue error: Requested operation is presently disabled")
    (folder / "requeued").write_text(sys.argv[2])
else:
    sys.exit(f"scontrol {sys.argv[1:]}: unknown to the stand-in")
"""


class Job:
    """One start of a job script."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process

    @property
    def tasks(self) -> list[int]:
        """Processes of the running step."""
        with suppress(FileNotFoundError):
            return json.loads((self.folder / "tasks.json").read_text() or "[]")
        return []

    def signal_tasks(self, number: signal.Signals) -> None:
        """What Slurm does for --signal=USR1@N and at the start of a grace time."""
        for process in self.tasks:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def signal_script(self, number: signal.Signals) -> None:
        """What Slurm does for --signal=B:USR1@N."""
        self.process.send_signal(number)

    def cancel(self) -> None:
        """Scancel: SIGTERM to the script and to all tasks."""
        self.signal_script(signal.SIGTERM)
        self.signal_tasks(signal.SIGTERM)

    def wait(self) -> int:
        """Status of the script."""
        return self.process.wait(timeout=300)

    @property
    def is_requeued(self) -> bool:
        """Whether the script put its job back into the queue."""
        return (self.folder / "requeued").exists()


@dataclass
class Cluster:
    """Nodes 127.0.0.1, 127.0.0.2, ... of this machine, and a queue of one job."""

    folder: Path
    hosts: int = 1
    starts: int = 0

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir(parents=True)
        for name, code in (("srun", _SRUN), ("scontrol", _SCONTROL)):
            command = self.folder / "bin" / name
            command.write_text(f"#!{sys.executable}\n{code}")
            command.chmod(0o755)

    @property
    def log(self) -> str:
        """What the job printed, over all its starts."""
        return (self.folder / "job.log").read_text()

    @property
    def calls(self) -> list[dict[str, list[str]]]:
        """Options and command of every srun."""
        return [json.loads(line) for line in (self.folder / "srun.jsonl").read_text().splitlines()]

    def submit(self, script: Path, *words: str, options: Sequence[str] = (), path: Path | None = None) -> Job:
        """Start the job, or start it again after a requeue. path: a folder of commands that hide the usual ones."""
        (self.folder / "requeued").unlink(missing_ok=True)
        spooled = self.folder / "slurm_script"
        spooled.write_bytes(script.read_bytes())
        lines = re.findall(r"^#SBATCH (--\S+)", script.read_text(), flags=re.MULTILINE)
        chosen = dict(option.removeprefix("--").partition("=")[::2] for option in (*lines, *options))
        names = [f"127.0.0.{number}" for number in range(1, self.hosts + 1)]
        variables = {
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": f"127.0.0.[1-{self.hosts}]",
            "STAND_IN_HOSTS": " ".join(names),
            "SLURM_JOB_NUM_NODES": str(self.hosts),
            "SLURM_NTASKS": str(self.hosts * int(chosen["ntasks-per-node"])),
            "SLURM_NTASKS_PER_NODE": chosen["ntasks-per-node"],
            "SLURM_CPUS_PER_TASK": chosen["cpus-per-task"],
            "SLURM_RESTART_COUNT": str(self.starts),
            # The batch script is a task of its own.
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
        }
        self.starts += 1
        folders = [self.folder / "bin", *([path] if path else []), Path(sys.executable).parent]
        environment = {**os.environ, **variables, "PATH": ":".join([*map(str, folders), os.environ["PATH"]])}
        with (self.folder / "job.log").open("ab") as log:
            process = subprocess.Popen(["bash", spooled, *words], env=environment, stdout=log, stderr=log)
        return Job(self.folder, process)
