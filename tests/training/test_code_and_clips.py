"""What a launch records of its code and clips."""

import hashlib
import subprocess

import numpy as np

from avbench.training.origin import describe_clips, describe_code


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)


def test_clips_are_the_same_in_any_order_and_others_are_not() -> None:
    said = describe_clips({"train": np.array([2, 1])})
    assert said == {"train": {"clips": 2, "sha256": hashlib.sha256(b"\1" + bytes(7) + b"\2" + bytes(7)).hexdigest()}}
    assert describe_clips({"train": np.array([1, 3])}) != said


def test_a_commit_is_recorded_in_a_checkout_only_and_changes_are_seen(tmp_path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n")
    before = describe_code(package)
    assert before.keys() == {"source_sha256"}
    git(tmp_path, "init", "-q")
    assert describe_code(package) == before  # another project's checkout, in which it merely lies
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    committed = describe_code(package)
    assert committed["uncommitted"] is False and len(committed["commit"]) == 40
    (package / "more.py").write_text("")
    changed = describe_code(package)
    assert changed["uncommitted"] is True and changed["source_sha256"] != committed["source_sha256"]


def test_without_git_there_is_no_commit_and_no_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_code().keys() == {"source_sha256"}
