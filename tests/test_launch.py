"""The files under launch/ as users start them: real ranks, two nodes in network namespaces, a stand-in for Slurm."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from avbench.records import read_metrics, read_table
from tests.conftest import REPOSITORY
from tests.marks import by_example
from tests.nodes import two_nodes
from tests.slurm import Cluster
from tests.synthetic import make_dataset

LAUNCH = REPOSITORY / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
FLAGS = (
    *(
        "--methods",
        "audio",
        "--preset",
        "tiny",
        "--width",
        "8",
        "--batch-size",
        "8",
        "--epochs",
        "4",
        "--log-steps",
        "1",
    ),
    *("--learning-rate", "0.01", "--schedule", "constant", "--checkpoint-steps", "4"),
)
INTERRUPTED = 75


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 80, "val": 6, "test": 6})


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two ranks on one node that nothing interrupts."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    start = begin("one_node.sh", dataset, run, *FLAGS, RANKS="2")
    _, log = start.communicate(timeout=300)
    assert start.returncode == 0, log
    assert json.loads((run / "environment.json").read_text())["launches"][0]["world_size"] == 2
    return run


def begin(
    script: str, *words: str | Path, on: tuple[str, ...] = (), folder: Path | None = None, **variables: str
) -> subprocess.Popen[str]:
    """Start a script of launch/ as a user would. on: a command before it. folder: commands that hide the usual ones."""
    folders = [*([str(folder)] if folder else []), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": ":".join(folders), **variables}
    return subprocess.Popen(
        [*on, "bash", str(LAUNCH / script), *map(str, words)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's group, which Ctrl-C reaches whole
    )


def results(run: Path) -> dict[str, pa.Table]:
    paths = [run / "confidence.parquet", *sorted(run.glob("predictions/*.parquet"))]
    return {str(path.relative_to(run)): read_table(path) for path in paths}


def check_equal(run: Path, finished: Path) -> None:
    """The same confidences and predictions, bit for bit, and an orderly end."""
    assert not (run / "interrupted.json").exists()
    got, expected = results(run), results(finished)
    assert got.keys() == expected.keys()
    for name, table in expected.items():
        assert got[name].equals(table), name


def wait_for_batch(run: Path, *, epoch: int, batch: int, is_running: Callable[[], bool]) -> None:
    """Wait until the run has trained so far."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and is_running():
        if (run / "metrics.jsonl").exists():
            steps = read_metrics(run / "metrics.jsonl", kinds=["step"])
            if any((record["epoch"], record["batch"]) >= (epoch, batch) for record in steps):
                return
        time.sleep(0.02)
    raise AssertionError(f"the run never came to batch {batch} of epoch {epoch}")


def commands() -> dict[int, list[str]]:
    """The words of every process's command."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return found


def ranks_of(run: Path) -> list[int]:
    """Processes that train into a run folder, by their commands; launchers and shells are none of them."""
    # python [-u] -m avbench train ...; torchrun's and deepspeed's own commands have the same words further on.
    starts = (["-m", "avbench"], ["-u", "-m", "avbench"])
    return [
        process
        for process, words in sorted(commands().items())
        if str(run) in words and any(words[1 : 1 + len(start)] == start for start in starts)
    ]


@pytest.fixture(autouse=True)
def _nothing_lives_on(tmp_path: Path) -> Iterator[None]:
    """Also after a failure, when ranks, which have sessions of their own, would train on."""
    yield
    for process, words in commands().items():
        if any(str(tmp_path) in word for word in words):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_clean_and_says_how_it_is_used(script: Path) -> None:
    assert not subprocess.run(["bash", "-n", script]).returncode
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", script], capture_output=True, text=True)
        assert not checked.returncode, checked.stdout
    used = subprocess.run(["bash", script, "dataset"], capture_output=True, text=True)
    assert used.returncode == 2
    assert used.stderr.startswith("usage: ") and used.stderr.count("\n") == 1
    assert f"`{script.name}`" in (LAUNCH / "README.md").read_text()


def test_deepspeed_is_not_started_on_one_machine_for_want_of_the_hostfile(tmp_path: Path) -> None:
    start = begin("deepspeed.sh", "dataset", tmp_path / "run", HOSTFILE=str(tmp_path / "missing"))
    _, log = start.communicate(timeout=60)
    assert start.returncode == 2
    assert "missing: no such hostfile" in log


def test_nodes_are_not_told_an_address_that_means_another_machine_to_each(tmp_path: Path) -> None:
    start = begin("nodes.sh", "localhost", "2", "dataset", tmp_path / "run")
    _, log = start.communicate(timeout=60)
    assert start.returncode == 1
    assert (
        log.splitlines()[-1] == "localhost is 127.0.0.1 on this machine; give the address by which the others reach it"
    )


def stub(folder: Path, code: str) -> Path:
    """A folder with a `python` that runs a line of shell in place of avbench; `$start` counts its starts from 1."""
    folder.mkdir()
    command = folder / "python"
    count = f'echo >>"{folder}/starts"; start=$(wc -l <"{folder}/starts")'
    command.write_text(f"#!/bin/bash\n{count}\n{code}\n")
    command.chmod(0o755)
    return folder


def starts_of(folder: Path) -> int:
    return len((folder / "starts").read_text().splitlines())


DIVERGED = "mkdir -p run; touch run/diverged.json"
SAVE = "mkdir -p run; touch run/interrupted.json"


@pytest.mark.parametrize(
    ("code", "status", "starts", "is_requeued"),
    [
        ("exit 0", 0, 1, False),
        (f"{SAVE}; exit 75", 0, 1, True),
        (f"{SAVE}; kill -KILL $$", 0, 1, True),  # ended by srun for the sake of one that had stopped before it
        ("exit 2", 2, 1, False),
        ("exit 3", 3, 1, False),
        (f"{DIVERGED}; kill -KILL $$", 3, 1, False),
        ("exit 1", 1, 3, False),
        ("((start == 1)) && kill -KILL $$; exit 0", 0, 2, False),
    ],
)
def test_a_slurm_job_ends_as_its_ranks_did(
    code: str, status: int, starts: int, is_requeued: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESTARTS", "2")
    cluster, python = Cluster(tmp_path / "slurm"), stub(tmp_path / "python", code)
    # A file of an earlier start says nothing of this one.
    Path("run").mkdir()
    Path("run/interrupted.json").touch()
    job = cluster.submit(LAUNCH / "slurm.sbatch", "data", "run", options=("--ntasks-per-node=1",), path=python)
    assert (job.wait(), starts_of(python), job.is_requeued) == (status, starts, is_requeued), cluster.log


def test_a_slurm_job_that_cannot_be_requeued_says_that_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cluster, python = Cluster(tmp_path / "slurm"), stub(tmp_path / "python", f"{SAVE}; exit 75")
    (tmp_path / "slurm/no-requeue").touch()
    job = cluster.submit(LAUNCH / "slurm.sbatch", "data", "run", options=("--ntasks-per-node=1",), path=python)
    assert job.wait() == INTERRUPTED
    assert "presently disabled" in cluster.log


def test_srun_is_asked_for_what_the_ranks_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = 'echo "$SLURM_PROCID of $SLURM_NTASKS, $MASTER_ADDR:$MASTER_PORT, $OMP_NUM_THREADS thread" >>told'
    both = "until (($(wc -l <told) % 2 == 0)); do sleep 0.05; done"  # or srun ends one before it has told
    cluster, python = Cluster(tmp_path / "slurm", hosts=2), stub(tmp_path / "python", f"{told}; {both}; exit 1")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("RESTARTS", "1")
    words = ("a dataset", "a run", "--methods", "audio,o=ogm-ge:noise=false")
    options = ("--ntasks-per-node=1", "--cpus-per-task=3")
    status = cluster.submit(LAUNCH / "slurm.sbatch", *words, options=options, path=python).wait()
    assert status in (1, 128 + signal.SIGTERM)  # the highest of a task's: of the one that srun ended for the other
    command = ["python", "-m", "avbench", "train", "a dataset", "--out", "a run", "--auto-resume", *words[2:]]
    call = {"options": ["--kill-on-bad-exit=1", "--cpus-per-task=3"], "command": command}
    assert cluster.calls == [call, call]
    lines = Path("told").read_text().splitlines()
    # A second start finds the first one's port still closing.
    (first,), (second,) = ({re.findall(r":(\d+)", line)[0] for line in lines[half : half + 2]} for half in (0, 2))
    assert first != second
    expected = {f"{rank} of 2, 127.0.0.1:{port}, 1 thread" for rank in range(2) for port in (first, second)}
    assert set(lines) == expected


@pytest.mark.slow
def test_a_finished_run_ends_at_once_when_started_again(dataset: Path, finished: Path) -> None:
    before = results(finished)
    start = begin("one_node.sh", dataset, finished, *FLAGS, RANKS="2")
    _, log = start.communicate(timeout=300)
    assert start.returncode == 0, log
    assert all(results(finished)[name].equals(table) for name, table in before.items())
    epochs = read_metrics(finished / "metrics.jsonl", kinds=["epoch"])
    assert [record["epoch"] for record in epochs] == [0, 1, 2, 3]


# A method of one's own that has nothing but NaN for a loss; in a training of two, the other goes on.
NOT_FINITE = """
from avbench.methods.baseline import Baseline


class NotFinite(Baseline):
    name = "not-finite"

    def loss(self, outputs, batch, clock):
        return outputs.logits.sum(dim=1) * float("nan")
"""


@pytest.mark.parametrize(
    "script", by_example(["one_node.sh", "deepspeed.sh", "slurm.sbatch"], examples=["one_node.sh"])
)
def test_a_training_all_of_whose_runs_diverged_is_not_started_again(
    script: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(NOT_FINITE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(REPOSITORY)]))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    run = tmp_path / "run"

    def ended(run: Path, methods: str) -> tuple[int, str]:
        words = [str(dataset), str(run), *FLAGS, "--epochs", "1", "--methods", methods]
        if script == "slurm.sbatch":
            cluster = Cluster(tmp_path / f"slurm-{len(list(tmp_path.glob('slurm-*')))}")
            job = cluster.submit(LAUNCH / script, *words, options=("--ntasks-per-node=2", "--cpus-per-task=1"))
            status = job.wait()
            assert not job.is_requeued
            return status, cluster.log
        start = begin(script, *words, RANKS="2", PORT=str(20000 + os.getpid() % 10000))
        _, log = start.communicate(timeout=300)
        return start.returncode, log

    for _ in range(2):  # an earlier start's end is this one's, too
        status, log = ended(run, "broken:NotFinite")
        assert status == 3, log
        assert "its only run diverged (not-finite-seed0 in epoch 0 by step 1 " in log
        # It trained once, and nobody tried it again.
        assert len(json.loads((run / "environment.json").read_text())["launches"]) == 1
    assert (run / "diverged.json").exists() and not (run / "finished.json").exists()
    status, log = ended(tmp_path / "some", "audio,broken:NotFinite")
    assert status == 0, log
    assert (tmp_path / "some/finished.json").exists() and not (tmp_path / "some/diverged.json").exists()


@pytest.mark.parametrize("how", by_example(["SIGTERM", "Ctrl-C", "SIGUSR1"], examples=["SIGTERM"]))
def test_one_node_saves_when_told_to_stop_and_goes_on_later(
    how: str, dataset: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    start = begin("one_node.sh", dataset, run, *FLAGS, RANKS="2")
    wait_for_batch(run, epoch=1, batch=6, is_running=lambda: start.poll() is None)
    if how == "Ctrl-C":
        os.killpg(start.pid, signal.SIGINT)
    else:
        start.send_signal(signal.Signals[how])
    _, log = start.communicate(timeout=120)
    assert start.returncode == INTERRUPTED, f"{how}: {log}"
    assert (run / "interrupted.json").exists()
    assert not ranks_of(run)
    again = begin("one_node.sh", dataset, run, *FLAGS, RANKS="2")
    _, log = again.communicate(timeout=300)
    assert again.returncode == 0, log
    check_equal(run, finished)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_one_node_goes_on_after_a_rank_was_killed(dataset: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start = begin("one_node.sh", dataset, run, *FLAGS, RANKS="2")
    for epoch in (0, 2):
        wait_for_batch(run, epoch=epoch, batch=6, is_running=lambda: start.poll() is None)
        os.kill(ranks_of(run)[epoch % 2], signal.SIGKILL)
    _, log = start.communicate(timeout=300)
    assert start.returncode == 0, log
    check_equal(run, finished)


@pytest.mark.slow
def test_two_nodes_train_the_network_of_one(dataset: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with two_nodes() as nodes:
        words = (nodes[0].address, "2", dataset, run, *FLAGS)
        starts = [begin("nodes.sh", *words, on=tuple(node.enter), RANKS="1") for node in nodes]
        for start in starts:
            _, log = start.communicate(timeout=300)
            assert start.returncode == 0, log
    check_equal(run, finished)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_nodes_save_when_one_is_told_to_stop_and_go_on_after_a_rank_was_killed(
    dataset: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with two_nodes() as nodes:
        words = (nodes[0].address, "2", dataset, run, *FLAGS)
        starts = [begin("nodes.sh", *words, on=tuple(node.enter), RANKS="1") for node in nodes]
        wait_for_batch(run, epoch=0, batch=6, is_running=lambda: starts[0].poll() is None)
        starts[1].send_signal(signal.SIGTERM)  # not where they meet: the first has to learn of it
        logs = [start.communicate(timeout=120)[1] for start in starts]
        assert [start.returncode for start in starts] == [INTERRUPTED] * 2, logs
        starts = [begin("nodes.sh", *words, on=tuple(node.enter), RANKS="1") for node in nodes]
        wait_for_batch(run, epoch=1, batch=6, is_running=lambda: starts[0].poll() is None)
        inside = subprocess.run(["ip", "netns", "pids", nodes[1].name], capture_output=True, text=True, check=True)
        (rank,) = {int(process) for process in inside.stdout.split()} & set(ranks_of(run))
        os.kill(rank, signal.SIGKILL)
        logs = [start.communicate(timeout=300)[1] for start in starts]
        assert [start.returncode for start in starts] == [0, 0], logs
    check_equal(run, finished)


@pytest.mark.slow
def test_slurm_trains_on_two_nodes_the_network_of_torchrun(dataset: Path, finished: Path, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "slurm", hosts=2)
    options = ("--ntasks-per-node=1", "--cpus-per-task=1")
    job = cluster.submit(LAUNCH / "slurm.sbatch", str(dataset), str(tmp_path / "run"), *FLAGS, options=options)
    assert job.wait() == 0, cluster.log
    assert not job.is_requeued
    check_equal(tmp_path / "run", finished)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_slurm_job_goes_on_through_warnings_and_the_loss_of_a_rank(
    dataset: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    cluster = Cluster(tmp_path / "slurm")
    words = (str(dataset), str(run), *FLAGS)
    options = ("--ntasks-per-node=2", "--cpus-per-task=1")
    for epoch, warning in enumerate(("to the tasks", "to the script", "none, a rank is killed")):
        job = cluster.submit(LAUNCH / "slurm.sbatch", *words, options=options)
        wait_for_batch(run, epoch=epoch, batch=6, is_running=lambda job=job: job.process.poll() is None)
        if warning == "to the tasks":
            job.signal_tasks(signal.SIGUSR1)
        elif warning == "to the script":
            job.signal_script(signal.SIGUSR1)
        else:
            os.kill(job.tasks[1], signal.SIGKILL)
        assert job.wait() == 0, cluster.log
        assert job.is_requeued == (epoch < 2), cluster.log
    assert len(cluster.calls) == 4
    check_equal(run, finished)


@pytest.mark.slow
def test_a_cancelled_slurm_job_saves_and_is_not_requeued(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cluster = Cluster(tmp_path / "slurm")
    options = ("--ntasks-per-node=2", "--cpus-per-task=1")
    job = cluster.submit(LAUNCH / "slurm.sbatch", str(dataset), str(run), *FLAGS, options=options)
    wait_for_batch(run, epoch=0, batch=6, is_running=lambda: job.process.poll() is None)
    job.cancel()
    assert job.wait() == INTERRUPTED, cluster.log
    assert (run / "interrupted.json").exists()
    assert not job.is_requeued


@pytest.mark.slow
def test_the_deepspeed_launcher_trains_saves_when_told_to_stop_and_goes_on(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    variables = {"RANKS": "2", "PORT": str(20000 + os.getpid() % 10000), "ZERO": "2"}
    # Not where a build of an extension that was killed left its lock.
    variables["TORCH_EXTENSIONS_DIR"] = str(tmp_path / "extensions")
    start = begin("deepspeed.sh", dataset, run, *FLAGS, **variables)
    wait_for_batch(run, epoch=0, batch=6, is_running=lambda: start.poll() is None)
    start.send_signal(signal.SIGTERM)
    _, log = start.communicate(timeout=120)
    assert start.returncode == INTERRUPTED, log
    assert not ranks_of(run)
    again = begin("deepspeed.sh", dataset, run, *FLAGS, **variables)
    _, log = again.communicate(timeout=300)
    assert again.returncode == 0, log
    assert json.loads((run / "environment.json").read_text())["launches"][1]["world_size"] == 2
    # The same engine, started by torchrun and never interrupted.
    flags = ("--engine", "deepspeed", "--deepspeed-config", LAUNCH / "zero2.json")
    whole = begin("one_node.sh", dataset, tmp_path / "whole", *FLAGS, *flags, **variables)
    _, log = whole.communicate(timeout=300)
    assert whole.returncode == 0, log
    check_equal(run, tmp_path / "whole")
