"""A disk that is full, a real one: every command says in one line which place it is, keeps what is whole, and goes on.

Longer tests of the same are beside packing (shards) and training (checkpoints).
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from avbench.cli import main
from avbench.dataset import Dataset, shard_name
from avbench.records import read_metrics, read_table
from avbench.vocabulary import SPLITS
from tests.synthetic import make_dataset

FLAGS = ("--preset", "tiny", "--width", "8", "--batch-size", "8", "--methods", "audio,visual", "--log-steps", "1")
PLANTED = [f"--planted.{name}=4" for name in SPLITS]
PLANTED += ["--planted.classes=2", "--planted.size=32", "--planted.seconds=1.2", "--workers", "1"]
FULL = "No space left on device"


class Disk:
    """A small file system of its own, which `fill` leaves so many bytes of and `empty` all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, *, left: int = 0) -> None:
        self._ballast.unlink(missing_ok=True)
        free = shutil.disk_usage(self.path).free
        self._ballast.write_bytes(bytes(free - left))

    def empty(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only who may mount a file system can fill one")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 20, "val": 6, "test": 6})


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    main(["train", str(dataset), "--out", str(out), "--epochs", "2", *FLAGS])
    return out


def last_line(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The last line of a command that ends with 2; what stands before it is progress."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in error
    return error.strip().splitlines()[-1]


def check_equal(run: Path, whole: Path) -> None:
    for path in (whole / "confidence.parquet", *whole.glob("predictions/*.parquet")):
        assert read_table(run / path.relative_to(whole)).equals(read_table(path)), path.name
    kinds = ("step", "epoch")
    assert read_metrics(run / "metrics.jsonl", kinds=kinds) == read_metrics(whole / "metrics.jsonl", kinds=kinds)


# Room for a page is 4 kB: for nothing at all, for the lock, the configuration, the settings, the description, some
# lines of metrics; then for one best network, and for both but no checkpoint.
@pytest.mark.parametrize(
    ("left", "file"),
    [
        (0, "run"),
        (4 << 10, "config.toml"),
        (8 << 10, "settings.json"),
        (12 << 10, "dataset.json"),
        (28 << 10, "metrics.jsonl"),
        (200 << 10, "checkpoints/best"),
        (1900 << 10, "checkpoints/epoch-0001-batch-000000"),
    ],
)
def test_a_training_names_the_full_place_and_goes_on_to_the_same_end(
    left: int, file: str, disk: Disk, dataset: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = disk.path / "run"
    words = ("train", dataset, "--out", run, "--epochs", "2", *FLAGS, "--auto-resume")
    disk.fill(left=left)
    line = last_line(capsys, *words)
    assert FULL in line and str(run / file if file != "run" else run) in line
    assert not (run / "lock.json").exists() and not list(run.rglob("*partial*"))
    disk.empty()
    main([str(word) for word in words])
    check_equal(run, trained)


@pytest.mark.slow
def test_what_a_later_epoch_has_no_room_for_takes_nothing_from_the_earlier_ones(
    disk: Disk, dataset: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = disk.path / "run"
    main(["train", str(dataset), "--out", str(run), "--epochs", "1", "--schedule", "constant", *FLAGS])
    kept = {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}
    disk.fill(left=30 << 10)
    assert FULL in last_line(capsys, "train", "--out", run, "--resume", "--epochs", "2")
    assert all(path.read_bytes() == content for path, content in kept.items())
    disk.empty()
    main(["train", "--out", str(run), "--resume", "--epochs", "2"])
    whole = disk.path.parent / "whole"
    main(["train", str(dataset), "--out", str(whole), "--epochs", "2", "--schedule", "constant", *FLAGS])
    check_equal(run, whole)


@pytest.mark.slow
def test_an_evaluation_names_the_full_place_and_leaves_the_old_report(
    disk: Disk, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = disk.path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("checkpoints"))
    words = ("evaluate", "--resamples", "20", run)
    main([str(word) for word in words])
    before = {path.name: path.read_bytes() for path in (run / "report").iterdir()}
    disk.fill(left=8 << 10)
    line = last_line(capsys, *words)
    assert line == f"avbench: {run / 'report'}: {FULL}; make room or give the right to write, then go on"
    assert {path.name: path.read_bytes() for path in (run / "report").iterdir()} == before
    assert not list(run.glob(".report*"))
    # The same where the figures' place is not the run's.
    line = last_line(capsys, "evaluate", trained, "--resamples", "20", "--out", disk.path / "elsewhere")
    assert line.startswith(f"avbench: {disk.path / 'elsewhere'}: {FULL}")
    disk.fill()
    assert FULL in last_line(capsys, "subsets", trained, "--export", disk.path / "subsets.csv")
    assert {path.name for path in disk.path.iterdir()} == {"run", "ballast"}
    disk.empty()
    main([str(word) for word in words])
    assert {path.name: path.read_bytes() for path in (run / "report").iterdir()} == before


def test_a_pack_names_the_place_that_is_full_and_goes_on_to_the_same_bytes(
    disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out, media = tmp_path / "whole", disk.path / "out", disk.path / "media"
    main(["pack", "planted", "--out", str(whole), *PLANTED])
    # Of the two folders, that of the videos that are rendered, then that of the dataset.
    disk.fill(left=16 << 10)
    line = last_line(capsys, "pack", "planted", "--media", media, "--out", tmp_path / "out", *PLANTED)
    assert line.startswith(f"avbench: {media}: the disk is full (0.0 MB free); make room and run the same command")
    assert not (tmp_path / "out").exists()
    words = ("pack", "planted", "--media", f"{whole}-media", "--out", out, *PLANTED)
    assert last_line(capsys, *words).startswith(f"avbench: {out}: the disk is full (0.0 MB free)")
    assert not (out / "dataset.json").exists()
    disk.empty()
    main([str(word) for word in words])
    main(["pack", "planted", "--media", str(media), "--out", str(tmp_path / "out"), *PLANTED])
    for made in (out, tmp_path / "out"):
        assert contents(made) == contents(whole)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_quarantine_that_does_not_fit_is_not_half_written(
    disk: Disk, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(dataset, disk.path / "dataset")
    with (copy / shard_name(0)).open("r+b") as shard:
        shard.seek(int(Dataset(copy).audio_offsets[1]) + 100)
        shard.write(b"damaged")
    disk.fill()
    words = ("verify", copy, "--quarantine", "--workers", "1")
    assert last_line(capsys, *words).startswith(f"avbench: {copy / 'quarantine.jsonl'}: {FULL}")
    assert not list(copy.glob("*quarantine*"))
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words), "--json"])
    assert stop.value.code == 2 and FULL in json.loads(capsys.readouterr().out)["error"]
    disk.empty()
    main([str(word) for word in words])
    assert 1 not in Dataset(copy).clip_ids("train")
