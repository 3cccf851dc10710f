import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from avbench.batch import Batch, Clock, Outputs
from avbench.errors import UsageError
from avbench.methods import METHODS
from avbench.methods.base import Method
from avbench.methods.choice import parse_methods
from avbench.vocabulary import MODALITIES


def test_runs_are_named_after_their_method_or_as_told() -> None:
    specs = parse_methods(["audio,visual", "late=baseline"])
    assert [(spec.name, spec.method.name) for spec in specs] == [
        ("audio", "audio"),
        ("visual", "visual"),
        ("late", "baseline"),
    ]


class WithOptions(Method):
    name = "with-options"

    @dataclass(frozen=True)
    class Config:
        alpha: float = 0.1
        noise: bool = True
        window: int = 5

        def __post_init__(self) -> None:
            if self.alpha < 0:
                raise ValueError(f"alpha is {self.alpha}, expected a number >= 0")


@pytest.fixture
def with_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "with-options", WithOptions)


@pytest.mark.usefixtures("with_options")
def test_options_take_the_kind_of_their_field() -> None:
    (spec,) = parse_methods(["o=with-options:noise=false:alpha=3:window=7"])
    assert spec.config == WithOptions.Config(alpha=3.0, noise=False, window=7)


@pytest.mark.usefixtures("with_options")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("baselin", "unknown method 'baselin'; did you mean 'baseline'"),
        ("", "names no method"),
        ("audio,audio", "two runs 'audio'"),
        ("audio:alpha=1", "has no options"),
        ("with-options:alfa=1", "unknown option of method 'with-options': 'alfa'; did you mean 'alpha'"),
        ("with-options:alpha", "has no value"),
        ("with-options:alpha=x", "is 'x', expected float"),
        ("with-options:noise=maybe", "expected true or false"),
        ("with-options:alpha=-1", "alpha is -1.0"),
        ("a/b=audio", "is no name for a run"),
        ("visual=audio", "a run named 'visual' is the visual network"),
        ("audio=baseline", "a run named 'audio' is the audio network"),
        ("with-options:alpha=1:alpha=2", "option 'alpha' of method 'with-options' is given twice"),
        ("no_such_module:Mine", "--methods no_such_module:Mine: No module named 'no_such_module'; the module must lie"),
        ("baselin:fusion", "did you mean 'baseline'"),
        ("sys:Mine", "sys has no 'Mine'"),
        ("json:Mine", "has no 'Mine'"),
        ("json:JSONDecoder", "is no subclass of avbench.methods.base.Method"),
    ],
)
def test_a_wrong_methods_value_says_what_and_the_way_out(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_methods([text])


@pytest.mark.parametrize("name", [*MODALITIES, "baseline"])
def test_the_loss_is_one_cross_entropy_a_clip(name: str) -> None:
    method = METHODS[name](METHODS[name].Config(), classes=3, seed=0)
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    label = torch.tensor([0, 2])
    batch = Batch(None, None, label, label, torch.ones(2, dtype=torch.bool))
    losses = method.loss(Outputs(logits), batch, Clock(0, 0, 1))
    # -log(e^2 / (e^2 + 2)) and log 3, by hand
    torch.testing.assert_close(losses, torch.tensor([0.2395, 1.0986]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_says_its_network_and_reads_what_its_encoders_read(name: str) -> None:
    method = METHODS[name](METHODS[name].Config(), classes=3, seed=0)
    assert method.network
    assert tuple(method.build_model().encoders) == tuple(method.modalities)
    assert method.confidence_of == (name if name in MODALITIES else None)


MINE = """
from dataclasses import dataclass

from avbench.methods.baseline import Baseline


class Mine(Baseline):
    name = "{name}"

    @dataclass(frozen=True)
    class Config({config}):
        strength: float = 1.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine", "yours", "elsewhere"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    return tmp_path


def test_a_method_in_a_file_of_the_current_folder_is_named_by_module_and_class(folder: Path) -> None:
    (folder / "mine.py").write_text(MINE.format(name="mine", config="Baseline.Config"))
    one, other = parse_methods(["mine:Mine:strength=2", "again=mine:Mine"])
    assert one.checksum == other.checksum != ""
    assert (one.name, one.method.name, one.config.strength) == ("mine", "mine", 2.0)
    assert (other.name, other.config.strength) == ("again", 1.0)


def test_a_method_of_ones_own_may_not_take_the_name_of_another(folder: Path) -> None:
    (folder / "yours.py").write_text(MINE.format(name="audio", config="Baseline.Config"))
    with pytest.raises(UsageError, match="class Mine has the name of another method, 'audio'"):
        parse_methods(["yours:Mine"])


UNIMODAL = """
from avbench.methods.unimodal import Audio


class Mine(Audio):
    name = "mine"
"""


def test_a_network_of_ones_own_may_be_the_audio_network(folder: Path) -> None:
    (folder / "mine.py").write_text(UNIMODAL)
    assert [spec.name for spec in parse_methods(["audio=mine:Mine,visual"])] == ["audio", "visual"]
    (folder / "yours.py").write_text(UNIMODAL + "    confidence_of = None\n")
    with pytest.raises(UsageError, match="a run named 'audio' is the audio network"):
        parse_methods(["audio=yours:Mine"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            MINE.format(name="yours", config="Baseline.Config") + "\n    confidence_of = 'audio'\n",
            "feeds the audio confidence, and reads .*'audio', 'visual'.*, not audio alone; set confidence_of = None",
        ),
        (MINE.format(name="yours", config=""), "Config of class Mine must inherit Baseline.Config"),
        (MINE.format(name="yours", config="Baseline.Config").replace("@dataclass(frozen=True)", ""), "is no dataclass"),
        (
            MINE.format(name="yours", config="Baseline.Config").replace("float = 1.0", "tuple = ()"),
            "expected bool, int",
        ),
        ("class Mine(:", "cannot be imported: SyntaxError"),
        ("raise RuntimeError('no GPU')", "cannot be imported: RuntimeError: no GPU"),
        ("import no_such_package", "cannot be imported: No module named 'no_such_package'$"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
    ],
)
def test_a_file_that_is_no_method_is_refused_in_one_line(folder: Path, source: str, message: str) -> None:
    (folder / "yours.py").write_text(source)
    with pytest.raises(UsageError, match=message):
        parse_methods(["yours:Mine"])


def test_a_method_of_an_installed_package_is_found_by_its_entry_point(folder: Path) -> None:
    site = folder / "site"
    (site / "elsewhere-1.0.dist-info").mkdir(parents=True)
    (site / "elsewhere.py").write_text(MINE.format(name="elsewhere", config="Baseline.Config"))
    (site / "elsewhere-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (site / "elsewhere-1.0.dist-info" / "entry_points.txt").write_text(
        "[avbench.methods]\nelsewhere = elsewhere:Mine\nbroken = elsewhere:NotThere\n"
    )
    sys.path.insert(0, str(site))
    (spec,) = parse_methods(["elsewhere:strength=3"])
    assert (spec.name, spec.config.strength) == ("elsewhere", 3.0)
    with pytest.raises(UsageError, match="method 'broken' of the entry point elsewhere:NotThere cannot be imported"):
        parse_methods(["broken"])
    with pytest.raises(UsageError, match="did you mean 'elsewhere'"):
        parse_methods(["elsewher"])
