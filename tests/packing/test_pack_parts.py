"""Several packs make one dataset in one folder, on machines that share nothing but its file system."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from avbench.cli import main
from avbench.dataset import Dataset
from avbench.errors import DatasetError, UsageError
from avbench.packing import locks
from avbench.packing.locks import Locks
from avbench.packing.pack import pack, pack_part
from avbench.packing.part import Part, Unfinished, part_named
from avbench.packing.recipes.recipe import Recipe
from tests.conftest import REPOSITORY
from tests.documents import commands
from tests.marks import by_example
from tests.packing.make_video import make_labelled_folder

RECIPE = Recipe(clips_per_shard=2, short_side=32)
LABELS = {f"v{number:02d}": "xy"[number % 2] for number in range(18)}
PARTS = 3


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = make_labelled_folder(tmp_path_factory.mktemp("media"), LABELS)
    for number in (3, 4, 9):  # so that a shard stays empty, and later ones move up
        (folder / f"v{number:02d}.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def packed(media, tmp_path_factory):
    """By one process in one go."""
    out = tmp_path_factory.mktemp("packed") / "dataset"
    pack(RECIPE, media, out=out, workers=1)
    return out


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def part(number, media, out, *, of=PARTS):
    return pack_part(RECIPE, media, out=out, part=Part(number, of), workers=1)


def test_the_last_part_completes_the_dataset_whatever_their_order(media, tmp_path, packed):
    out = tmp_path / "out"
    shards = len(list(packed.glob("*.tar")))
    left = [part(number, media, out) for number in (2, 0)]
    assert all(isinstance(one, Unfinished) for one in left) and left[0].left > left[1].left > 0
    with pytest.raises(DatasetError):
        Dataset(out)
    assert isinstance(part(1, media, out), Dataset)
    assert contents(out) == contents(packed) and shards >= 8
    assert isinstance(part(1, media, out), Dataset)  # a job that a cluster starts again
    with pytest.raises(DatasetError, match="already holds a packed dataset"):
        pack_part(Recipe(clips_per_shard=3), media, out=out, part=Part(0, 2), workers=1)
    with pytest.raises(DatasetError, match="already holds a packed dataset"):
        pack(RECIPE, media, out=out, workers=1)
    assert contents(out) == contents(packed)


def test_a_pack_of_the_whole_makes_what_parts_have_left_and_more_parts_may_follow(media, tmp_path, packed):
    out = tmp_path / "out"
    part(1, media, out)
    part(3, media, out, of=5)
    part(30, media, out, of=50)  # has no shard
    made = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")}
    assert len(made) >= 3
    pack(RECIPE, media, out=out, workers=2)
    assert contents(out) == contents(packed)


def test_a_part_of_another_plan_is_refused_in_one_line(media, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["pack", "folder", "--media", str(media), "--out", str(out), "--short-side", "32", "--workers", "1"]
    main([*words, "--clips-per-shard", "2", "--part", "0/3"])
    said = capsys.readouterr()
    assert "part 0/3 is made, " in said.out and "completes the dataset" in said.out
    for more, text in (
        (["--clips-per-shard", "3", "--part", "1/3"], "begun with clips_per_shard 2, not 3"),
        (["--part", "3/3"], "--part is 3/3; parts are counted from 0, so the last of 3 is 2/3"),
        (["--part", "0/0"], "there is at least one"),
        (["--part", "-1/3"], "expected K/N"),
        (["--part", "one"], "expected K/N"),
        (["--part", ""], "--part is empty"),
        (["--part", "1/3", "--overwrite"], "exclude each other"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*words, *more])
        assert stop.value.code == 2
        assert text in capsys.readouterr().err.splitlines()[-1]
    main([*words, "--clips-per-shard", "2", "--part", "1/3", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["part"] == "1/3" and told["is_complete"] is False and told["shards_left"] == 3


def test_the_readmes_commands_pack_in_two_parts(media, tmp_path, packed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "VIDEOS").symlink_to(media)
    shown = commands("shards/README.md", "Packing on many machines")
    assert len(shown) == 2
    for words in shown:
        main([*words, "--short-side", "32", "--clips-per-shard", "2"])
    assert contents(tmp_path / "DATASET") == contents(packed)


def test_the_tasks_of_a_slurm_array_make_the_bytes_of_one_process(media, tmp_path, packed):
    script = REPOSITORY / "launch" / "pack.sbatch"
    words = ["folder", "--media", str(media), "--out", str(tmp_path / "out"), "--short-side", "32"]
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}

    def submitted(*array, **more):
        variables = dict(zip(("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX"), array, strict=True)) | more
        command = ["bash", str(script), *words, "--clips-per-shard", "2", "--workers", "1"]
        return subprocess.Popen(command, env={**os.environ, **path, **variables}, stderr=subprocess.PIPE, text=True)

    wrong = submitted("1", "3", SLURM_ARRAY_TASK_ID="1")
    assert "parts are counted from 0 by 1" in wrong.communicate()[1] and wrong.returncode == 2
    ended([submitted("0", "1", SLURM_ARRAY_TASK_ID=str(number)) for number in range(2)])
    assert contents(tmp_path / "out") == contents(packed)


def test_names_of_parts():
    assert part_named("0/1") == Part(0, 1) and str(part_named("15/16")) == "15/16"
    with pytest.raises(UsageError):
        part_named("٣/٤")
    assert sorted(number for k in range(3) for number in Part(k, 3).its(range(10))) == list(range(10))


# Locks.


def left_behind(path, *, process, machine="another start of a machine", began="1"):
    path.write_text(json.dumps({"host": "far", "process": process, "machine": machine, "began": began}))


def test_one_of_many_gets_a_lock_which_is_never_empty(tmp_path):
    path, got, seen = tmp_path / "lock", [], set()

    def try_it():
        with Locks() as mine:
            for _ in range(60):
                if mine.take(path):
                    got.append(1)
                    seen.add(path.read_text() != "")
                    assert len(got) == 1
                    got.pop()
                    mine.release(path)
                with suppress(FileNotFoundError):
                    seen.add(path.read_text() != "")

    with ThreadPoolExecutor(4) as threads:
        for one in [threads.submit(try_it) for _ in range(4)]:
            one.result()
    assert seen == {True} and not list(tmp_path.iterdir())


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_over_at_once(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = locks._began(holder.pid)
    with Locks() as mine:
        left_behind(path, process=holder.pid, machine=locks._machine(), began=began)
        assert not mine.take(path)
        left_behind(path, process=holder.pid, machine=locks._machine(), began="1")  # the number is another's by now
        assert mine.take(path)
        left_behind(path, process=holder.pid, machine=locks._machine(), began=began)
        holder.kill()
        while mine.is_left_behind(path) is False:  # dead, and not yet buried
            time.sleep(0.01)
        holder.communicate()
        assert mine.take(path)
    assert not path.exists()


@pytest.mark.parametrize("text", ["elsewhere", ""])
def test_another_machines_lock_is_taken_over_when_it_has_been_still_for_a_while(tmp_path, monkeypatch, text):
    monkeypatch.setattr(locks, "_STALE_SECONDS", 0.6)
    path = tmp_path / "lock"
    left_behind(path, process=1)
    if not text:
        path.write_text("")  # of a file system without hard links: killed before it could write
    os.utime(path, (1, 1))  # clocks of machines differ
    with Locks() as mine:
        for beat in range(4):
            assert not mine.take(path)
            time.sleep(0.3)
            os.utime(path, (beat, beat))
        assert not mine.take(path)
        time.sleep(0.7)
        assert mine.take(path)


# Real processes.

RUN = """
import sys
from pathlib import Path
from avbench.packing.pack import pack_part
from avbench.packing.part import part_named
from avbench.packing.recipes.recipe import Recipe
if __name__ == "__main__":
    recipe = Recipe(clips_per_shard=2, short_side=32)
    pack_part(recipe, Path(sys.argv[1]), out=Path(sys.argv[2]), part=part_named(sys.argv[3]), workers=1)
"""


def started(number, media, out, folder):
    script = folder / "run_part.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(media), str(out), f"{number}/{PARTS}"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def ended(processes):
    for one in processes:
        _, errors = one.communicate(timeout=200)
        assert one.returncode == 0, errors


def test_three_parts_at_once_make_the_bytes_of_one_process(media, tmp_path, packed):
    out = tmp_path / "out"
    ended([started(number, media, out, tmp_path) for number in range(PARTS)])
    assert contents(out) == contents(packed)


def wait_for_work(process, out, random_moments):
    """Until a random moment of a part's work."""
    shards, seconds = random_moments.randrange(8), random_moments.random() / 3
    while process.poll() is None and len(list(out.glob("shard-*.tar"))) < shards:
        time.sleep(0.005)
    time.sleep(seconds)


@pytest.mark.parametrize("seed", by_example(range(15), examples=(0, 1)))
def test_a_part_that_is_killed_at_a_random_moment_costs_its_own_time_only(media, tmp_path, packed, seed):
    out, moments = tmp_path / "out", random.Random(seed)
    processes = [started(number, media, out, tmp_path) for number in range(PARTS)]
    victim = moments.randrange(PARTS)
    wait_for_work(processes[victim], out, moments)
    processes[victim].send_signal(signal.SIGKILL)
    processes[victim].communicate()
    if not (out / "dataset.json").exists():
        processes[victim] = started(victim, media, out, tmp_path)
    else:
        processes.pop(victim)
    ended(processes)
    if not (out / "dataset.json").exists():  # the one that was killed was the last, and another had looked before it
        ended([started(victim, media, out, tmp_path)])
    shutil.rmtree(out / ".packing", ignore_errors=True)  # killed between the description and what follows
    assert contents(out) == contents(packed)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_parts_on_a_full_disk_end_in_one_line_each_and_go_on_when_there_is_room(media, small_disk, tmp_path, packed):
    out = small_disk / "out"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(850_000))
    processes = [started(number, media, out, tmp_path) for number in range(PARTS)]
    last_lines = [one.communicate(timeout=200)[1].splitlines()[-1] for one in processes]
    assert any(one.returncode for one in processes)
    for one, line in zip(processes, last_lines, strict=True):
        assert one.returncode == 0 or ("DatasetError" in line and "the disk is full" in line), line
    assert not (out / "dataset.json").exists()
    for tar in out.glob("shard-*.tar"):
        assert tar.stat().st_size
    assert not list(out.glob(".packing/*.lock"))
    ballast.unlink()
    ended([started(number, media, out, tmp_path) for number in range(PARTS)])
    assert contents(out) == contents(packed)
