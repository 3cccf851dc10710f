"""Checkpoints: whole, shared out, damaged, and of other runs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avbench.cli import main
from avbench.records import read_table
from avbench.training.tensors import copies, put_tensors, share_of, take_tensors
from tests.synthetic import make_dataset

FLAGS = ["--preset", "tiny", "--width", "8", "--batch-size", "8", "--learning-rate", "0.01", "--schedule", "constant"]


@given(sizes=st.lists(st.integers(0, 50), max_size=30), ranks=st.integers(1, 5))
def test_every_tensor_is_written_by_exactly_one_rank_and_none_writes_much_more_than_its_share(
    sizes: list[int], ranks: int
) -> None:
    tensors = {f"t{number}": torch.zeros(size) for number, size in enumerate(sizes)}
    shares = [share_of(tensors, rank, ranks) for rank in range(ranks)]
    assert sorted(name for share in shares for name in share) == sorted(tensors)
    heaviest = max(sum(tensors[name].numel() for name in share) for share in shares)
    assert heaviest <= sum(sizes) / ranks + max(sizes, default=0)


def test_copies_are_of_now_and_in_the_memory_of_the_last_ones_where_it_fits() -> None:
    weight = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    first = copies({"weight": weight, "grown": torch.zeros(2), "gone": torch.zeros(1)}, kept={})
    assert torch.equal(first["weight"], weight) and first["weight"].data_ptr() != weight.data_ptr()
    memory = first["weight"].data_ptr()
    weight += 1
    second = copies({"weight": weight, "grown": torch.ones(3)}, kept=first)
    assert second["weight"].data_ptr() == memory and torch.equal(second["weight"], weight)
    assert torch.equal(second["grown"], torch.ones(3)) and list(second) == ["weight", "grown"]


def test_tensors_taken_out_of_a_state_are_put_back() -> None:
    weight, step = torch.arange(3.0), torch.tensor(4)
    state = {"model": {"a": weight}, "optimizer": {"state": {0: {"step": step}}, "groups": [{"betas": (0.9, 1.0)}]}}
    tensors: dict[str, torch.Tensor] = {}
    skeleton = take_tensors(state, "shared/run", tensors)
    assert tensors == {"shared/run/model/a": weight, "shared/run/optimizer/state/0/step": step}
    assert skeleton["model"] == {"a": {"the tensor": "shared/run/model/a"}}
    assert put_tensors(skeleton, tensors) == state


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "dataset", clips={"train": 9, "val": 4, "test": 4})


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    main(["train", str(dataset), "--out", str(out), "--methods", "audio", "--epochs", "2", *FLAGS])
    return out


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def another_batch(manifest: Path) -> None:
    """Still JSON, and still sensible, so that only a checksum tells."""
    text = manifest.read_text()
    assert '"batch": 0' in text
    manifest.write_text(text.replace('"batch": 0', '"batch": 1'))


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("tensors/__0_0.distcp", flip_a_byte, "tensors/__0_0.distcp is damaged (checksum)"),
        ("tensors/__0_0.distcp", Path.unlink, "tensors/__0_0.distcp is missing"),
        ("tensors/.metadata", cut, "tensors/.metadata is damaged (checksum)"),
        ("state.pt", flip_a_byte, "state.pt is damaged (checksum)"),
        ("confidence-audio-seed0/audio-seed0.json", Path.unlink, "audio-seed0.json is missing"),
        ("manifest.json", cut, "its manifest is missing or broken"),
        ("manifest.json", another_batch, "its manifest is damaged (checksum)"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_previous_one_and_said(
    name: str,
    damage: Callable[[Path], None],
    complaint: str,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    damage(run / "checkpoints/epoch-0002-batch-000000" / name)
    main(["train", "--out", str(run), "--resume"])
    log = capsys.readouterr().err
    assert complaint in log and "resumed from epoch-0001-batch-000000" in log
    for path in [trained / "confidence.parquet", *trained.glob("predictions/*.parquet")]:
        assert read_table(run / path.relative_to(trained)).equals(read_table(path)), path.name


def test_where_no_checkpoint_is_whole_nothing_is_resumed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for folder in (run / "checkpoints").glob("epoch-*"):
        cut(folder / "state.pt")
    with pytest.raises(SystemExit) as stop:
        main(["train", "--out", str(run), "--resume"])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and "no checkpoint can be used" in line and "state.pt is damaged" in line
