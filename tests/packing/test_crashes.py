"""A clip that crashes, kills or hangs the process that reads it costs that clip, and nothing else."""

import hashlib
import json
import signal
import subprocess
import time

from avbench.dataset import Dataset
from tests.packing.crashing import command, crashing_avbench, environment, times_read
from tests.packing.make_video import make_labelled_folder

OPTIONS = ("--short-side", "32", "--clips-per-shard", "4", "--clip-seconds-limit", "3")
OPTIONS += ("--val-fraction", "0", "--test-fraction", "0")
GOOD = {f"v{number:02d}": "xy"[number % 2] for number in range(10)}
BAD = {"segv": "crash", "abort": "crash", "exit": "crash", "kill": "killed", "memory": "killed"}


def folder_with(path, *bad, good=GOOD):
    return make_labelled_folder(path, {**good, **{name: "xy"[number % 2] for number, name in enumerate(bad)}})


def pack(folder, media, out, *more):
    return crashing_avbench(folder, "pack", "folder", "--media", str(media), "--out", str(out), *OPTIONS, *more)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def reasons(out):
    rejects = map(json.loads, (out / "rejects.jsonl").read_text().splitlines())
    return {reject["key"]: reject["reason"] for reject in rejects}


def test_clips_that_end_the_process_that_reads_them_are_rejected_and_the_others_packed(tmp_path):
    media = folder_with(tmp_path / "media", *BAD)
    done = pack(tmp_path, media, tmp_path / "out", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert reasons(tmp_path / "out") == BAD
    dataset = Dataset(tmp_path / "out")
    assert len(dataset) == len(GOOD) and sum(dataset.description["rejects"].values()) == len(BAD)
    assert "a packing process was killed or crashed (out of memory?) at segv: SIGSEGV" in done.stderr
    # Once among others, and alone: once, or twice where somebody else may have killed it.
    assert [times_read(tmp_path, f"{name}.mp4") <= 3 for name in BAD] == [True] * len(BAD)
    again = pack(tmp_path, media, tmp_path / "again", "--workers", "1")
    assert again.returncode == 0, again.stderr
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_a_clip_that_hangs_is_given_up_and_the_pack_goes_on(tmp_path):
    media = folder_with(tmp_path / "media", "hang", good={"a": "x", "b": "y", "c": "x"})
    done = pack(tmp_path, media, tmp_path / "out", "--workers", "1")
    assert done.returncode == 0, done.stderr
    (reject,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
    assert (reject["key"], reject["reason"], reject["detail"]) == ("hang", "too long to read", "not read in 3 s")
    assert len(Dataset(tmp_path / "out")) == 3


def test_a_clip_that_spoils_memory_for_the_next_one_costs_no_innocent_clip(tmp_path):
    media = folder_with(tmp_path / "media", "spoil", "spoil2")
    done = pack(tmp_path, media, tmp_path / "out", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "SIGSEGV" in done.stderr
    assert reasons(tmp_path / "out") == {} and len(Dataset(tmp_path / "out")) == len(GOOD) + 2


def wait_for(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_a_pack_that_goes_on_does_not_meet_a_clip_again_that_has_crashed(tmp_path):
    """The pack is killed after the verdict is noted, while the same shard waits for a clip that hangs."""
    media = folder_with(tmp_path / "media", "segv", "hang", good={"a": "x", "b": "y"})
    out = tmp_path / "out"
    seed = next(seed for seed in map(str, range(99)) if place("segv", seed) < place("hang", seed))
    words = ("pack", "folder", "--media", str(media), "--out", str(out), *OPTIONS, "--workers", "1", "--seed", seed)
    patient = ["600" if word == "3" else word for word in words]
    process = subprocess.Popen(command(*patient), env=environment(tmp_path), stderr=subprocess.PIPE)
    wait_for(lambda: times_read(tmp_path, "hang.mp4"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert times_read(tmp_path, "segv.mp4") == 2
    (media / "hang.mp4").unlink()
    done = crashing_avbench(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert times_read(tmp_path, "segv.mp4") == 2
    assert reasons(out) == {"segv": "crash", "hang": "missing file"}


def place(key, seed):
    """Where a clip lies in its shard, by the rule of the plan."""
    return hashlib.sha256(f"{seed}/{key}".encode()).digest()
